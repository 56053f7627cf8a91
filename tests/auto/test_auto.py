"""The whole way on digits: killed in several stages and gone on with, its result, and what it refuses."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm

import nas_zoo
from nas_zoo.auto.run import main, parse
from nas_zoo.auto.settings import AutoSettings
from nas_zoo.auto.stages import STAGES, Scores, score
from nas_zoo.data.division import Division
from nas_zoo.data.named import open_parts, open_source
from nas_zoo.export.runtime.classifier import OnnxClassifier
from nas_zoo.export.runtime.latency import conditions_here, table_path
from nas_zoo.genotype import load_genotype
from nas_zoo.models.latency import Fit, LatencyTable, Shape, all_pieces
from nas_zoo.models.operations import SEARCH_OPERATIONS
from nas_zoo.runs.files import write_text
from nas_zoo.runs.log import RunLog
from nas_zoo.runs.settings import settings_from
from nas_zoo.search import EdasSettings, search
from tests.auto.pictures import write_folder

SHAPE = Shape("cifar", 4, 3, 10, (1, 8, 8))
DIGITS = ["digits", "--max-latency", "50", "--init-channels", "4", "--num-cells", "3", "--max-epochs", "3"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache whose latency table has times for the networks of these tests, as if they had been measured."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_ZOO_CACHE", str(folder))
        conditions = conditions_here("cpu", 1, 1)
        pieces = all_pieces((*SEARCH_OPERATIONS, "none"), SHAPE)
        ms = {piece: 1e-3 + 1e-6 * piece.in_channels * piece.height * piece.width for piece in pieces}
        table = LatencyTable(conditions, ms, {SHAPE: Fit(1.0, 0.01, ((0.1, 0.1), (0.2, 0.2)))})
        path = table_path(conditions)
        path.parent.mkdir(parents=True)
        write_text(path, table.to_json())
        yield folder


def stages_in(out: Path) -> list[str]:
    log = out / "log.jsonl"
    return [line["name"] for line in RunLog.read(log) if line["kind"] == "stage"] if log.exists() else []


def epochs_in(folder: Path) -> int:
    log = folder / "log.jsonl"
    return sum(line["kind"] == "epoch" for line in RunLog.read(log)) if log.exists() else 0


#: When the program is stopped, one after the other, and by what.
STOPS: list[tuple[Callable[[Path], bool], signal.Signals]] = [
    (lambda out: epochs_in(out / "search") >= 1, signal.SIGKILL),
    (lambda out: epochs_in(out / "train") >= 1, signal.SIGTERM),
    (lambda out: (out / "train" / "result.json").exists(), signal.SIGKILL),
    (lambda out: "test" in stages_in(out), signal.SIGKILL),
]


@pytest.fixture(scope="module")
def finished(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped four times, in as many stages, moved each time, and then came to its end."""
    folder = tmp_path_factory.mktemp("auto")
    out, told = folder / "digits", folder / "told.txt"
    command = [sys.executable, "-m", "nas_zoo.cli", "auto"]
    words = [*DIGITS, "--time-budget", "3000", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(Path(nas_zoo.__file__).parents[1]), "NAS_ZOO_CACHE": str(cache)}
    for number, (due, how) in enumerate(STOPS):
        with open(told, "ab") as console:
            process = subprocess.Popen([*command, *words], stdout=console, stderr=console, env=environment)
        while not due(out):
            assert process.poll() is None, told.read_text()
            time.sleep(0.05)
        if number == 0:
            assert main(["--resume", "--out", str(out)]) == 2  # one run a folder
        process.send_signal(how)
        assert process.wait() == (143 if how == signal.SIGTERM else -how)
        if how == signal.SIGTERM:
            assert f"stopped; continue with: nas-zoo auto --resume --out {out}" in told.read_text()
        out = out.rename(folder / f"digits{number}")
        words = ["--resume", "--out", str(out)]
    done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "see it: python -m http.server" in done.stdout
    return out


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_that_is_stopped_in_four_stages_comes_to_its_end_with_each_stage_done_once(finished):
    assert stages_in(finished) == list(STAGES)
    summary = json.loads((finished / "summary.json").read_text())
    assert set(summary) >= {
        "max_latency_ms", "predicted_latency_ms", "measured_latency_ms", "top1", "balanced_accuracy", "n",
        "parameters", "macs", "threads", "runtime", "seconds", "seconds_by_stage", "file", "measured_on",
    }  # fmt: skip
    assert (summary["max_latency_ms"], summary["threads"], summary["n"]) == (50, 1, 359)
    assert (summary["init_channels"], summary["num_cells"]) == (4, 3)
    assert summary["within_budget"]
    assert set(summary["seconds_by_stage"]) == set(STAGES)
    assert sum(summary["seconds_by_stage"].values()) == pytest.approx(summary["seconds"], abs=1)
    made = ("model.onnx", "model_images.onnx", "config.json", "model.safetensors", "genotype.json", "look.json",
            "division.json", "latency.json", "predictions.json", "README.md", "cells.png", "page/index.html",
            "page/model_images.onnx", "model.check.json", "model_images.check.json")  # fmt: skip
    assert [name for name in made if not (finished / name).is_file()] == []
    assert not list(finished.rglob("*.partial"))
    page = finished / "page" / "model_images.onnx"
    assert page.read_bytes() == (finished / "model_images.onnx").read_bytes()


@pytest.mark.slow
def test_its_figures_are_those_of_the_files_that_lie_there(finished):
    summary = json.loads((finished / "summary.json").read_text())
    test = open_source("digits", "test")
    scores, predicted, _ = score(finished / summary["file"], test)
    assert dataclasses.asdict(scores) == {key: summary[key] for key in ("top1", "balanced_accuracy", "n")}
    written = json.loads((finished / "predictions.json").read_text())
    assert [row[2] for row in written["test"]] == predicted.tolist()
    model: Any = timm.create_model(f"local-dir:{finished}", pretrained=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == summary["parameters"]
    assert model.genotype == load_genotype(finished / "genotype.json")
    assert model.genotype.digest == summary["genotype"]
    table = LatencyTable.read(finished / "latency.json")
    assert table.estimate(model.genotype, SHAPE).ms == summary["predicted_latency_ms"]
    images = OnnxClassifier(finished / summary["images_file"])
    found = images.predict([test.image(i) for i in range(20)], top_k=1)
    assert np.mean([one.indices[0] == predicted[i] for i, one in enumerate(found)]) >= 0.95


@pytest.mark.slow
def test_the_search_is_the_one_that_was_never_killed(finished, tmp_path):
    lines = RunLog.read(finished / "search")
    moved = {"division": finished / "division.json", "latency_table": finished / "latency.json"}
    settings = settings_from(EdasSettings, lines[0]["settings"] | {"out": tmp_path / "again"} | moved)
    again = search(settings)
    for line in lines[1:]:
        row = again.history[line["epoch"] - 1]
        assert (row["train_loss"], row["supernet"]) == (line["train"]["loss"], line["held_out"]["supernet"])
    assert again.genotype == load_genotype(finished / "genotype.json")


@pytest.mark.slow
def test_what_is_held_out_neither_searches_nor_trains(finished):
    division = Division.read(finished / "division.json")
    parts = open_parts("digits")
    assert len(division.of(parts)["train"]) == len(parts["train"]) - len(division.val)
    for program, key in (("search", "images"), ("train", "train")):
        head = RunLog.read(finished / program)[0]
        assert Path(head["settings"]["division"]).name == "division.json"  # where it lay, before the run was moved
        assert head["data"][key] in (1294, 1295)
    assert RunLog.read(finished / "train")[0]["data"]["val"] == 143


@pytest.mark.slow
def test_a_finished_run_says_its_result_again_and_a_missed_budget_ends_with_1(finished, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.onnx")}
    assert main(["--resume", "--out", str(copy)]) == 0
    assert "% of 359 test pictures right" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.onnx")} == before
    # what a later start was given holds for the next, as for the command that is told when it is stopped
    assert main(["--resume", "--out", str(copy), "--time-budget", "5000"]) == 0
    capsys.readouterr()
    settings, again = parse(["--resume", "--out", str(copy)])
    assert (settings.time_budget, settings.compare, again) == (5000, False, True)
    # as where the machine is slower when the file is finished than when the size was chosen
    lines = RunLog.read(copy)
    for line in lines:
        if line.get("name") == "plan":
            line["result"]["max_latency_ms"] = 1e-3
    (copy / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["--resume", "--out", str(copy)]) == 1
    told = capsys.readouterr().err
    assert "BudgetMissed" in told
    assert "% more than the 0.001 ms allowed" in told
    assert not json.loads((copy / "summary.json").read_text())["within_budget"]


@pytest.mark.slow
def test_the_page_runs_the_file_that_is_delivered_and_tells_its_figure(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / "page")
    for file in copy.glob("model*.onnx"):  # as where eight bits are faster
        int8 = file.with_name(file.name.replace("model", "model_int8"))
        int8.write_bytes(file.read_bytes())
        if file.name == "model_images.onnx":
            file.write_bytes(b"not this one")
    lines = RunLog.read(copy)[:-1]  # without that of the page
    for line in lines:
        if line.get("name") == "export":
            line["result"] |= {"file": "model_int8.onnx", "images_file": "model_int8_images.onnx"}  # the same bytes
            line["result"]["measured_ms"]["model_int8.onnx"] = 1.0
        if line.get("name") == "test":
            line["result"]["top1"] = 0.1234
    (copy / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["--resume", "--out", str(copy)]) == 0
    delivered, shown = (copy / "model_int8_images.onnx").read_bytes(), copy / "page" / "model_images.onnx"
    assert shown.read_bytes() == delivered
    text = (copy / "page" / "index.html").read_text()
    assert "12.34 % top-1" in text
    assert "eight-bit numbers" in text


@pytest.mark.slow
def test_a_delivered_file_that_has_changed_is_not_given_the_figures_of_the_one_that_was_tested(
    finished, tmp_path, capsys
):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "clock.json").write_text("{")  # the log has the seconds too
    assert main(["--resume", "--out", str(copy)]) == 0
    first, again = (json.loads((place / "summary.json").read_text()) for place in (finished, copy))
    assert again["seconds"] == first["seconds"] > 1
    for spoil in (lambda file: file.write_bytes(file.read_bytes()[:-1]), lambda file: file.unlink()):
        spoil(copy / "model.onnx")
        assert main(["--resume", "--out", str(copy)]) == 2
        assert "model.onnx' is not, or not as it was, when it was timed and tested" in capsys.readouterr().err


@pytest.mark.slow
def test_other_settings_and_other_pictures_are_refused_when_a_run_goes_on(finished, tmp_path, capsys):
    assert main(["--resume", "--out", str(finished), "--max-latency", "1"]) == 2
    assert "max_latency must stay 50" in capsys.readouterr().err
    assert main([*DIGITS, "--time-budget", "70", "--out", str(finished)]) == 2
    assert "--resume goes on with a run" in capsys.readouterr().err
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    lines = RunLog.read(copy)
    (copy / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    place = write_folder(tmp_path / "photos", {"a": 20, "b": 20})
    assert main([str(place), "--resume", "--out", str(copy)]) == 2
    assert "holds other pictures than those that were looked at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["digits", "--time-budget", "60"], "max_latency is needed"),
        (["digits", "--max-latency", "5"], "time_budget is needed"),
        (["--max-latency", "5", "--time-budget", "60"], "data is needed"),
        (
            ["digits", "--max-latency", "0", "--time-budget", "60"],
            "max_latency must be more than 0 ms and finite, got 0",
        ),
        (["digits", "--max-latency", "-1", "--time-budget", "60"], "max_latency must be more than 0 ms and finite"),
        (["digits", "--max-latency", "inf", "--time-budget", "60"], "max_latency must be more than 0 ms and finite"),
        (["digits", "--max-latency", "5", "--time-budget", "0"], "time_budget must be more than 0 seconds and finite"),
        (["digits", "--data", "digits", "--max-latency", "5", "--time-budget", "60"], "data is given twice"),
        (["digits", "--max-latency", "5", "--time-budget", "60", "--recipe", "fast"], "recipe must be one of"),
        (["digits", "--max-latency", "5", "--time-budget", "60", "--threads", "100000"], "threads must be at most"),
        (["digits", "--max-latency", "5", "--time-budget", "60", "--method", "edsa"], "did you mean edas?"),
        (["digits", "--max-latency", "5", "--time-budget", "60", "--image-size", "4"], "image_size must be at least 8"),
        (["", "--max-latency", "5", "--time-budget", "60"], "data is needed, such as photos"),
        (
            ["digits", "--max-latency", "5", "--time-budget", "60", "--compare", "--against-cells", "none"],
            "`nas-zoo list --cells` shows them (against_cells = none from flag --against-cells)\n",
        ),
        (["--resume"], "there is nothing to resume in"),
        (["nowhere", "--max-latency", "5", "--time-budget", "60"], "data 'nowhere' does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, told, tmp_path, capsys):
    assert main([*words, "--out", str(tmp_path / "runs" / "out")]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # nothing is left of a run that has never begun


def test_not_a_number_is_refused_by_the_flag(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["digits", "--max-latency", "nan", "--time-budget", "60", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2


def test_a_folder_with_other_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    assert main([*DIGITS, "--time-budget", "60", "--out", str(tmp_path)]) == 2
    assert "holds something already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_of_one_class_and_one_without_pictures_are_refused(tmp_path, capsys):
    words = ["--max-latency", "5", "--time-budget", "60", "--out", str(tmp_path / "out")]
    one = write_folder(tmp_path / "one", {"cat": 12})
    assert main([str(one), *words]) == 2
    assert "has only one class, 'cat'" in capsys.readouterr().err
    (tmp_path / "none" / "cat").mkdir(parents=True)
    assert main([str(tmp_path / "none"), *words]) == 2  # in the same folder, in which nothing long was begun
    assert "no images in" in capsys.readouterr().err


def test_all_pictures_that_cannot_be_read_are_told_at_once_and_nothing_stays(tmp_path, capsys):
    place, out = write_folder(tmp_path / "photos", {"cat": 40, "dog": 5}), tmp_path / "out"
    out.mkdir()  # it was there, and stays
    for number in range(30):
        (place / "cat" / f"{number:03d}.png").write_bytes(b"no picture")
    words = ["--max-latency", "5", "--time-budget", "60", "--out", str(out)]
    assert main([str(place), *words]) == 2
    said = capsys.readouterr()
    assert "30 images cannot be read" in said.err
    assert "'dog' has 5" in said.err
    assert said.err.count("\n") == 1
    assert said.out.count("corrupt image") == 30
    assert list(out.iterdir()) == []
    assert main([str(place), *words[:-1], str(place / "out")]) == 2
    assert f"lies in data='{place}'" in capsys.readouterr().err
    assert sorted(path.name for path in place.iterdir()) == ["cat", "dog"]


@pytest.mark.slow
def test_budgets_that_nothing_keeps_are_refused_before_anything_long_starts(cache, tmp_path, capsys):
    out = tmp_path / "out"
    tight = ["digits", "--max-latency", "1e-6", "--time-budget", "600", "--init-channels", "4", "--num-cells", "3"]
    assert main([*tight, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "max_latency must be at least 0.0" in error
    assert "that is what the smallest network takes (C=4 x 3 cells, 8 pixels), got 1e-06" in error
    assert main(["--resume", "--out", str(out), "--max-latency", "50", "--time-budget", "6"]) == 2
    error = capsys.readouterr().err
    assert "time_budget must be at least" in error
    assert "seconds for these pictures here, got 6" in error
    assert stages_in(out) == ["look"]
    assert not (out / "search").exists()


def test_balanced_accuracy_is_the_mean_over_the_classes():
    labels = np.array([0] * 8 + [1] * 2)
    scores = Scores.of(np.zeros(10, np.int64), labels)
    assert (scores.top1, scores.balanced_accuracy, scores.n) == (0.8, 0.5, 10)


def test_the_settings_name_what_is_needed():
    assert AutoSettings(data="digits").threads == 1
    with pytest.raises(ValueError, match="num_cells must be at least 3"):
        AutoSettings(data="digits", num_cells=2)
