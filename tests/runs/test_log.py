import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from nas_zoo.runs.checkpoint import save_checkpoint
from nas_zoo.runs.log import RunLog, run_to_resume


def run_program(text: str, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(text), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_a_log_starts_with_the_run_and_has_a_line_an_epoch(tmp_path):
    log = RunLog(tmp_path / "run")
    log.start({"epochs": 2, "out": Path("a")}, {"device": "cpu"}, seed=3)
    log.append({"epoch": 0, "loss": math.nan, "best": -math.inf, "top1": np.float32(0.5), "lr": torch.tensor(0.25)})
    log.append({"epoch": 1, "shape": (1, 2), "kind": "derived"})
    assert log.num_lines == 3
    run, first, second = RunLog.read(tmp_path / "run")
    assert run == {"kind": "run", "device": "cpu", "settings": {"epochs": 2, "out": "a"}, "seed": 3}
    assert first == {"kind": "epoch", "epoch": 0, "loss": None, "best": None, "top1": 0.5, "lr": 0.25}
    assert second == {"kind": "derived", "epoch": 1, "shape": [1, 2]}
    with pytest.raises(ValueError, match=r"record\['a'\] is a object, which JSON cannot hold"):
        log.append({"a": object()})
    assert log.num_lines == 3


def test_a_log_is_not_written_over_unless_asked(tmp_path):
    log = RunLog(tmp_path)
    log.start({}, {})
    with pytest.raises(ValueError, match="holds the log of a run already"):
        log.start({}, {})
    log.append({"epoch": 0})
    log.start({"new": True}, {}, overwrite=True)
    assert RunLog.read(log.path) == [{"kind": "run", "settings": {"new": True}}]


def test_names_that_are_no_utf_8_are_read_as_they_were_written(tmp_path):
    log = RunLog(tmp_path)
    log.start({}, {})
    log.append({"file": "caf\u00e9/\udcff.png"})
    assert log.path.read_text("utf-8").count("café") == 1
    assert RunLog.read(tmp_path)[1]["file"] == "café/\udcff.png"


def test_a_half_written_line_does_not_count_and_is_written_over(tmp_path):
    log = RunLog(tmp_path)
    log.start({}, {})
    log.append({"epoch": 0})
    with open(log.path, "ab") as file:
        file.write(b'{"kind": "epoch", "epo')
    assert log.num_lines == 2
    assert len(RunLog.read(log.path)) == 2
    log.append({"epoch": 1})
    assert [record.get("epoch") for record in RunLog.read(log.path)] == [None, 0, 1]


def test_a_resumed_log_equals_the_one_that_never_stopped(tmp_path):
    whole, stopped = RunLog(tmp_path / "whole"), RunLog(tmp_path / "stopped")
    for log in (whole, stopped):
        log.start({"epochs": 4}, {"device": "cpu"})
        for epoch in range(4 if log is whole else 3):
            log.append({"epoch": epoch})
    with open(stopped.path, "ab") as file:
        file.write(b'{"half')
    stopped.event("resumed", line=3)
    stopped.take_up(3, {"epochs": 4})  # the checkpoint was made after epoch 1
    assert stopped.num_lines == 3
    for epoch in (2, 3):
        stopped.append({"epoch": epoch})
    assert stopped.path.read_bytes() == whole.path.read_bytes()
    (event,) = RunLog.read(stopped.events_path)
    assert (event["kind"], event["line"]) == ("resumed", 3)
    assert event["time"].endswith("+00:00")
    with pytest.raises(ValueError, match="has 5 whole lines, but the checkpoint was made after 9"):
        stopped.take_up(9, {"epochs": 4})


def test_the_log_of_another_run_is_not_cut(tmp_path):
    log = RunLog(tmp_path)
    log.start({"epochs": 4, "out": "here"}, {"device": "cpu"})
    log.append({"epoch": 0})
    before = log.path.read_bytes()
    with pytest.raises(ValueError, match="log of another run: epochs is 4 there, in the checkpoint 5"):
        log.take_up(1, {"epochs": 5, "out": "here"}, changeable=("out",))
    assert log.path.read_bytes() == before
    log.take_up(1, {"epochs": 4, "out": "there", "of a later version": 1}, changeable=("out",))
    assert log.num_lines == 1
    with pytest.raises(ValueError, match=r"has 0 whole lines.*only with its own log\.jsonl"):
        RunLog(tmp_path / "elsewhere").take_up(1, {})


def test_what_there_is_to_resume(tmp_path):
    assert run_to_resume(tmp_path, None, "search") == (None, None)
    with pytest.raises(ValueError, match="nothing to resume"):
        run_to_resume(tmp_path, "", "search")
    RunLog(tmp_path).start({"epochs": 4}, {})
    assert run_to_resume(tmp_path, "", "search") == ({"epochs": 4}, None)
    with pytest.raises(ValueError, match="holds a run"):
        run_to_resume(tmp_path, None, "search")
    save_checkpoint(tmp_path / "checkpoint.pt", {"settings": {"epochs": 5}}, "search")
    assert run_to_resume(tmp_path, "", "search") == ({"epochs": 5}, {"settings": {"epochs": 5}})
    (tmp_path / "checkpoint.pt").unlink()
    # killed while it began, emptied, or of something else: never the default experiment instead
    for torn in (b"", b'{"half', b'{"kind": "run"}\n', b'{"settings": [1]}\n', b'{"settings": {"epochs": 4}}'):
        (tmp_path / "log.jsonl").write_bytes(torn)
        with pytest.raises(ValueError, match=r"log\.jsonl does not tell the settings that its run began with"):
            run_to_resume(tmp_path, "", "search")
    # a checkpoint whose log is gone: a new run would put its own in the place
    save_checkpoint(tmp_path / "checkpoint.pt", {"settings": {"epochs": 5}}, "search")
    (tmp_path / "log.jsonl").unlink()
    with pytest.raises(ValueError, match="holds a run"):
        run_to_resume(tmp_path, None, "search")


def test_a_log_of_several_epochs_without_its_checkpoint_is_not_begun_again(tmp_path):
    log = RunLog(tmp_path)
    log.start({"epochs": 4}, {})
    log.append({"epoch": 1})  # killed before the first checkpoint was written
    assert run_to_resume(tmp_path, "", "search") == ({"epochs": 4}, None)
    log.append({"epoch": 2})
    before = log.path.read_bytes()
    for resume in ("", "auto"):
        with pytest.raises(ValueError, match=r"log\.jsonl tells of 2 epochs, but checkpoint\.pt is missing"):
            run_to_resume(tmp_path, resume, "search")
    assert log.path.read_bytes() == before
    save_checkpoint(tmp_path / "checkpoint.previous.pt", {"settings": {"epochs": 4}}, "search")
    assert run_to_resume(tmp_path, str(tmp_path / "checkpoint.previous.pt"), "search")[1]


def test_a_bad_line_in_the_middle_is_told(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"kind": "run"}\nnonsense\n{}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2: is no JSON"):
        RunLog.read(path)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="line 1: is no JSON object"):
        RunLog.read(path)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        RunLog.read(tmp_path / "none.jsonl")


def test_only_the_main_process_writes(tmp_path):
    log = RunLog(tmp_path / "run", writes=False)
    log.start({}, {})
    log.append({"epoch": 0})
    log.event("stopped")
    log.take_up(7, {})
    assert not (tmp_path / "run").exists()


FULL_DISK_LOG = """
    import resource, sys
    from nas_zoo.runs.log import RunLog

    log = RunLog(sys.argv[1])
    log.start({}, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    try:
        log.append({"long": "x" * 200})
    except OSError as error:
        print(error.strerror)
    log.append({"epoch": 0})
    print(len(log.read(log.path)))
"""


@pytest.mark.slow
def test_a_full_disk_leaves_no_half_line(tmp_path):
    done = run_program(FULL_DISK_LOG, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"log {tmp_path / 'log.jsonl'}: line not written: File too large", "2"]
