import errno
import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nas_zoo.runs import checkpoint
from nas_zoo.runs.checkpoint import (
    RunLog,
    StopRequest,
    check_finite,
    load_checkpoint,
    peak_memory_gb,
    previous_path,
    published,
    published_log,
    run_facts,
    run_to_resume,
    save_checkpoint,
)

STATE: dict[str, Any] = {
    "step": 7,
    "weights": OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.ones(2, dtype=torch.bfloat16)),
    "nested": [1.5, None, True, "text", (1, 2), {"deep": torch.tensor(3)}],
}


def run_program(text: str, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(text), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


# ----------------------------------------------------------------------------------------------------- checkpoints


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "new" / "last.pt"
    save_checkpoint(path, STATE, "search")
    state = load_checkpoint(path, "search")
    assert state["step"] == 7
    assert state["nested"] == STATE["nested"]
    assert type(state["nested"][4]) is tuple
    for name, value in STATE["weights"].items():
        assert torch.equal(state["weights"][name], value)
        assert state["weights"][name].dtype == value.dtype
    assert os.listdir(tmp_path / "new") == ["last.pt"]


def test_optimizers_and_random_states_survive(tmp_path):
    net = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    scheduler.step()
    state: dict[str, Any] = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.default_rng(0).bit_generator.state,
        "nan": math.nan,
    }
    save_checkpoint(tmp_path / "last.pt", state, "train")
    loaded = load_checkpoint(tmp_path / "last.pt", "train")
    optimizer.load_state_dict(loaded["optimizer"])
    scheduler.load_state_dict(loaded["scheduler"])
    random.setstate(loaded["python"])
    assert loaded["numpy"] == state["numpy"]
    assert torch.equal(loaded["torch"], state["torch"])


def test_the_file_is_an_ordinary_torch_file(tmp_path):
    save_checkpoint(tmp_path / "last.pt", STATE, "search")
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (content["format"], content["version"], content["kind"]) == ("nas-zoo/checkpoint", 1, "search")


def test_the_one_before_is_kept(tmp_path):
    path = tmp_path / "last.pt"
    for step in range(4):
        save_checkpoint(path, {"step": step}, "search")
        assert load_checkpoint(path, "search") == {"step": step}
        if step:
            assert load_checkpoint(previous_path(path), "search") == {"step": step - 1}
    assert sorted(os.listdir(tmp_path)) == ["last.previous.pt", "last.pt"]


def test_the_one_before_is_kept_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")  # as on exFAT

    monkeypatch.setattr(os, "link", no_links)
    for step in range(3):
        save_checkpoint(tmp_path / "last.pt", {"step": step}, "search")
    assert load_checkpoint(tmp_path / "last.pt", "search") == {"step": 2}
    assert load_checkpoint(tmp_path / "last.previous.pt", "search") == {"step": 1}
    assert sorted(os.listdir(tmp_path)) == ["last.previous.pt", "last.pt"]


def test_a_file_cut_short_does_not_replace_the_good_one_before(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 0}, "search")
    save_checkpoint(path, {"step": 1}, "search")
    os.truncate(path, 100)
    save_checkpoint(path, {"step": 2}, "search")
    assert load_checkpoint(previous_path(path), "search") == {"step": 0}
    assert load_checkpoint(path, "search") == {"step": 2}


def damaged(folder: Path) -> dict[str, bytes]:
    save_checkpoint(folder / "good.pt", STATE, "search")
    good = (folder / "good.pt").read_bytes()
    torch.save({"a": 1}, folder / "other.pt")
    names = {f"cut to {size}": good[:size] for size in (1, 4, 100, len(good) // 2, len(good) - 65, len(good) - 1)}
    return names | {
        "empty": b"",
        "random bytes": random.Random(0).randbytes(5000),
        "longer": good + b"\0",
        "text": b"epoch,loss\n1,2\n",
        "another torch file": (folder / "other.pt").read_bytes(),
        "a pickle": pickle.dumps({"a": 1}),
    }


def test_damaged_files_are_told_in_one_line_and_the_good_one_before_is_named(tmp_path):
    path = tmp_path / "last.pt"
    for name, data in damaged(tmp_path).items():
        path.write_bytes(data)
        previous_path(path).unlink(missing_ok=True)
        with pytest.raises(ValueError, match=r"^checkpoint .*last\.pt: (is|its) ") as told:
            load_checkpoint(path, "search")
        assert "\n" not in str(told.value), name
        assert "the one before it" not in str(told.value), name
        save_checkpoint(previous_path(path), {"step": 1}, "search")
        with pytest.raises(ValueError, match=r"; the one before it is good: .*last\.previous\.pt$"):
            load_checkpoint(path, "search")


def test_every_flipped_byte_is_found(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1}, "search")
    good = path.read_bytes()
    for offset in range(len(good)):
        data = bytearray(good)
        data[offset] ^= 0x10
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"^checkpoint "):
            load_checkpoint(path, "search")


def test_another_kind_another_version_and_a_missing_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    with pytest.raises(ValueError, match=r"last\.pt: there is no such file$"):
        load_checkpoint(path, "search")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        load_checkpoint(tmp_path, "search")
    save_checkpoint(path, STATE, "search")
    with pytest.raises(ValueError, match=r"is of kind 'search', needed is 'train'$"):
        load_checkpoint(path, "train")
    monkeypatch.setattr(checkpoint, "_VERSION", 2)
    with pytest.raises(ValueError, match=r"has version 1, this nas-zoo reads 2$"):
        load_checkpoint(path, "search")


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    sprung, path = tmp_path / "sprung", tmp_path / "last.pt"
    for form in ("pickle", "torch"):
        if form == "pickle":
            path.write_bytes(pickle.dumps(Trap(sprung)))
        else:
            torch.save(Trap(sprung), path)
        with pytest.raises(ValueError, match="checkpoint"):
            load_checkpoint(path, "search")
    # a file with the right checksum too, as somebody who means harm would write it
    monkeypatch.setattr(checkpoint, "_check_loadable", lambda *_: None)
    save_checkpoint(path, {"trap": Trap(sprung)}, "search")
    with pytest.raises(ValueError, match="holds something else than tensors and plain values, not loaded"):
        load_checkpoint(path, "search")
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"lr": np.float64(1)}, r"state\['lr'\] is a numpy\.float64, which"),
        ({"a": [0, {"b": np.zeros(2)}]}, r"state\['a'\]\[1\]\['b'\] is a numpy\.ndarray"),
        ({"out": Path("x")}, r"state\['out'\] is a pathlib\."),
        ({"net": nn.Linear(1, 1)}, r"state\['net'\] is a torch\.nn\.modules\.linear\.Linear"),
        ({"loss": {np.int64(1): 2}}, r"state\['loss'\] has the key .* of type numpy\.int64"),
    ],
)
def test_what_could_not_be_loaded_again_is_refused_when_saving(tmp_path, state, told):
    with pytest.raises(ValueError, match=told):
        save_checkpoint(tmp_path / "last.pt", state, "search")
    assert os.listdir(tmp_path) == []


SAVE_LOOP = """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    from nas_zoo.runs.checkpoint import load_checkpoint, previous_path, save_checkpoint

    path, rng, last = Path(sys.argv[1]), random.Random(0), 0
    torch.set_num_threads(1)
    save_checkpoint(path, {"step": 0, "weights": torch.zeros(300_000)}, "search")
    for kill in range(10):
        child = os.fork()
        if child == 0:
            step = last
            while True:
                step += 1
                save_checkpoint(path, {"step": step, "weights": torch.full((300_000,), float(step))}, "search")
        time.sleep(rng.uniform(0.01, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        state = load_checkpoint(path, "search")
        assert torch.equal(state["weights"], torch.full((300_000,), float(state["step"]))), "torn"
        assert state["step"] >= last, "went back"
        if state["step"] > 1:
            before = load_checkpoint(previous_path(path), "search")["step"]
            assert state["step"] - 1 <= before <= state["step"], (before, state["step"])
        last = state["step"]
    print(last, *sorted(os.listdir(path.parent)))
"""


def test_ten_kills_at_random_moments_leave_a_good_file(tmp_path):
    done = run_program(SAVE_LOOP, tmp_path / "last.pt")
    assert done.returncode == 0, done.stderr
    last, *files = done.stdout.split()
    assert int(last) >= 5
    # nothing piles up
    assert set(files) <= {"last.pt", "last.previous.pt", ".last.pt.partial", ".last.pt.link"}


KILL_AT_EACH_CALL = """
    import os, signal, sys
    from pathlib import Path
    from nas_zoo.runs.checkpoint import load_checkpoint, previous_path, save_checkpoint

    path = Path(sys.argv[1])
    left = 0

    def deadly(call):
        def wrapper(*args, **kwargs):
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return wrapper

    save_checkpoint(path, {"step": 0}, "search")
    save_checkpoint(path, {"step": 1}, "search")
    expected, moments = 1, 0
    while True:
        moments += 1
        child = os.fork()
        if child == 0:
            left = moments
            for name in ("open", "write", "fsync", "link", "replace", "unlink", "close"):
                setattr(os, name, deadly(getattr(os, name)))
            save_checkpoint(path, {"step": expected + 1}, "search")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        step = load_checkpoint(path, "search")["step"]
        assert step in (expected, expected + 1), (step, expected)
        assert load_checkpoint(previous_path(path), "search")["step"] in (step - 1, step)
        expected = step
        if os.WIFEXITED(status):
            break
    assert step == expected
    print(moments, *sorted(os.listdir(path.parent)))
"""


def test_a_kill_before_each_call_to_the_system_leaves_a_good_file(tmp_path):
    done = run_program(KILL_AT_EACH_CALL, tmp_path / "last.pt")
    assert done.returncode == 0, done.stderr
    moments, *files = done.stdout.split()
    assert int(moments) > 8
    assert files == ["last.previous.pt", "last.pt"]  # and what the killed ones left is gone


FULL_DISK = """
    import os, resource, sys
    from pathlib import Path
    import torch
    from nas_zoo.runs.checkpoint import load_checkpoint, save_checkpoint

    path = Path(sys.argv[1])
    save_checkpoint(path, {"step": 1}, "search")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        save_checkpoint(path, {"step": 2, "weights": torch.zeros(100_000)}, "search")
    except OSError as error:
        print(error)
    assert load_checkpoint(path, "search") == {"step": 1}
    print(*sorted(os.listdir(path.parent)))
    save_checkpoint(path, {"step": 3}, "search")
    assert load_checkpoint(path, "search") == {"step": 3}
"""


def test_a_full_disk_is_told_in_one_line_and_the_old_file_stays(tmp_path):
    done = run_program(FULL_DISK, tmp_path / "last.pt")
    assert done.returncode == 0, done.stderr
    told, files = done.stdout.splitlines()
    assert told == (
        f"[Errno {errno.EFBIG}] checkpoint {tmp_path / 'last.pt'} (0.4 MB) not written: File too large; "
        "the checkpoint that was there stays"
    )
    assert files == "last.pt"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_no_space_left_on_the_device(tmp_path):
    (tmp_path / ".last.pt.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"not written: No space left on device$") as told:
        save_checkpoint(tmp_path / "last.pt", {"step": 1}, "search")
    assert told.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"checkpoint .*last\.pt .*not written: "):
        save_checkpoint(tmp_path / "file" / "last.pt", {"step": 1}, "search")


# --------------------------------------------------------------------------------------------------- stop requests


def test_a_signal_asks_and_the_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    for number in (signal.SIGTERM, signal.SIGINT):
        with StopRequest() as stop:
            assert stop.reason() is None
            assert stop.agree(1, "cpu") is None
            os.kill(os.getpid(), number)
            assert stop.reason() == stop.should_stop() == stop.agree(1, "cpu") == signal.Signals(number).name
            os.kill(os.getpid(), number)  # at once, as torchrun doubles a Ctrl-C
            assert stop.reason() == signal.Signals(number).name
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_the_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError), StopRequest():
        raise KeyError
    assert signal.getsignal(signal.SIGINT) is before


def test_a_time_budget_counts_from_the_start_of_the_program():
    with StopRequest(1000) as stop:
        assert stop.reason() is None
    with StopRequest(1000, started=time.monotonic() - 1001) as stop:
        assert stop.reason() == "time budget"
    with StopRequest(0) as stop:
        assert stop.reason() == "time budget"
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason() == "SIGTERM"
    for budget in (-1, math.nan):
        with pytest.raises(ValueError, match=r"time budget .* s: has to be 0 or more"):
            StopRequest(budget)


def test_outside_the_main_thread_signals_stay_as_they_are():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter() -> None:
        with StopRequest(0) as stop:
            seen.append((stop.reason(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [("time budget", before)]


SIGNALS = """
    import os, signal, sys, time
    from nas_zoo.runs.checkpoint import StopRequest

    with StopRequest() as stop:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            print("the worker goes on", flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        print("the worker ended by", -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        print(stop.reason(), flush=True)
        time.sleep(0.6)
        os.kill(os.getpid(), signal.SIGINT)
        print("not reached", flush=True)
"""


def test_a_second_ctrl_c_kills_at_once_and_a_forked_worker_ends_with_its_parent_only():
    done = run_program(SIGNALS)
    assert done.stdout.splitlines() == ["the worker goes on", "the worker ended by 15", "SIGINT"], done.stderr
    assert done.returncode == -signal.SIGINT
    assert "\nSIGINT: stopping after this step; Ctrl-C again stops at once\n" in done.stderr


# ------------------------------------------------------------------------------------------------------------- log


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
    with pytest.raises(ValueError, match=r"record\['a'\] is a object, which a log line cannot hold"):
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
    with pytest.raises(ValueError, match="has 5 lines, the checkpoint was made after 9"):
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
    with pytest.raises(ValueError, match=r"has 0 lines.*where its log\.jsonl lies"):
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
    (tmp_path / "log.jsonl").write_bytes(b'{"half')  # killed while it began
    (tmp_path / "checkpoint.pt").unlink()
    assert run_to_resume(tmp_path, "", "search") == (None, None)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_noticed(bad):
    tensors = [torch.ones(3), torch.ones(2, 2, dtype=torch.bfloat16), torch.zeros(0), torch.tensor(7)]
    check_finite(tensors, "in epoch 3")
    tensors[0][1] = bad
    with pytest.raises(FloatingPointError, match="not finite in epoch 3; the last checkpoint is kept"):
        check_finite(tensors, "in epoch 3")


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
    from nas_zoo.runs.checkpoint import RunLog

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


def test_a_full_disk_leaves_no_half_line(tmp_path):
    done = run_program(FULL_DISK_LOG, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"log {tmp_path / 'log.jsonl'}: line not written: File too large", "2"]


# ----------------------------------------------------------------------------------------------------------- facts


def test_run_facts_are_json_and_tell_nothing_of_the_machine(monkeypatch):
    words = ["/home/me/search/run.py", "--data", "/home/me/flowers/", "--out=/home/me/run", "--url", "https://a/b", "x"]
    monkeypatch.setattr(sys, "argv", words)
    facts = run_facts("cpu")
    text = json.dumps(facts, allow_nan=False)
    assert facts["command"] == "run.py --data flowers --out=run --url https://a/b x"
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"python", "timm", "accelerate", "nas-zoo"} <= facts["versions"].keys()
    assert facts["device"] == "cpu"
    assert facts["processes"] == 1
    for private in (os.uname().nodename, str(Path.home()), "/home/me", str(Path(checkpoint.__file__).parent)):
        assert private not in text


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_commit_is_that_of_the_package_and_says_dirty(tmp_path, monkeypatch):
    package = tmp_path / "nas_zoo"
    package.mkdir()
    file = package / "checkpoint.py"
    file.write_text("1")
    monkeypatch.setattr(checkpoint, "__file__", str(file))
    assert run_facts("cpu")["commit"] is None
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "somebody else's")
    assert run_facts("cpu")["commit"] is None  # an install inside another checkout
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "ours")
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert run_facts("cpu")["commit"] == head
    monkeypatch.delenv("GIT_DIR")
    (tmp_path / "new").touch()
    assert run_facts("cpu")["commit"] == head
    file.write_text("2")
    assert run_facts("cpu")["commit"] == f"{head}-dirty"
    monkeypatch.setenv("PATH", "")
    assert run_facts("cpu")["commit"] is None


def test_peak_memory_of_this_process():
    assert 0.05 < peak_memory_gb("cpu") < 100


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_peak_memory_and_name_of_a_gpu(tmp_path):
    kept = torch.zeros(250_000_000, device="cuda")
    assert peak_memory_gb("cuda") >= 1.0
    assert run_facts()["device_name"] == torch.cuda.get_device_name()
    save_checkpoint(tmp_path / "last.pt", {"kept": kept[:10].clone()}, "search")
    assert load_checkpoint(tmp_path / "last.pt", "search")["kept"].device.type == "cpu"


def test_of_what_is_published_no_folder_is_left():
    provenance = {
        "method": "edas", "n": 3,
        "data": "/home/me/images.tar.xz", "test_data": "../there/test.tar", "out": "runs/one/",
        "command": "run.py --data /home/me/images.tar.xz --out=runs/one/ --model hf-hub:zoo/net --note a/b",
    }  # fmt: skip
    assert published({"name": "a/b", "nodes": [["max_pool_3x3", 0]], "provenance": provenance}) == {
        "name": "a/b",  # no path: the name of the cells
        "nodes": [["max_pool_3x3", 0]],
        "provenance": {
            "method": "edas", "data": "images.tar.xz", "test_data": "test.tar", "out": "one", "n": 3,
            "command": "run.py --data images.tar.xz --out=one --model hf-hub:zoo/net --note b",
        },
    }  # fmt: skip
    lines = [{"kind": "run", "data": {"name": "/home/me/digits", "images": 9}}, {"kind": "epoch", "loss": 1.5}]
    assert published_log(lines) == (
        '{"kind": "run", "data": {"name": "digits", "images": 9}}\n{"kind": "epoch", "loss": 1.5}\n'
    )
