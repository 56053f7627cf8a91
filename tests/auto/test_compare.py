"""auto/compare.py: rivals are trained like the network that was found, and done once; what cannot be had is told."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from nas_zoo.auto.clock import Clock
from nas_zoo.auto.compare import _settings, compare, rivals
from nas_zoo.auto.look import look
from nas_zoo.auto.plan import Plan, Seconds
from nas_zoo.auto.settings import AutoSettings
from nas_zoo.auto.stages import Auto
from nas_zoo.data.division import Division, image_names
from nas_zoo.data.fingerprint import FileIndex, fingerprint
from nas_zoo.data.named import open_parts
from nas_zoo.export.graph.deliver import deliver
from nas_zoo.genotype import load_genotype
from nas_zoo.models.load import load_model
from nas_zoo.runs.facts import run_facts
from nas_zoo.runs.files import write_json, write_text
from nas_zoo.runs.log import RunLog
from nas_zoo.runs.settings import to_dict
from nas_zoo.train import TrainSettings, train
from tests.auto.pictures import write_folder

ROOT = Path(__file__).resolve().parents[2]


def test_rivals_have_the_same_size_and_another_seed_has_other_random_cells():
    first, second = (rivals(AutoSettings(compare=True, seed=seed)) for seed in (0, 1))
    assert [rival.kind for rival in first] == ["random", "catalogue", "timm"]
    assert first[0].genotype != second[0].genotype
    assert first[1].genotype == load_genotype("darts_v2")
    assert rivals(AutoSettings(compare=True, pretrained=True))[-1].kind == "pretrained"
    assert len({rival.folder for rival in rivals(AutoSettings(compare=True, pretrained=True))}) == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"compare": True, "against": "mobilnetv3_small_100"}, "did you mean mobilenetv3_small_100"),
        ({"compare": True, "against_cells": "no_such_cells"}, "no_such_cells"),
        ({"compare": True, "against": "test_vit", "image_size": 64}, "test_vit needs --image-size 160"),
        ({"compare": True, "against": "test_vit"}, "test_vit needs --image-size 160"),
        ({"pretrained": True}, "pretrained goes with compare"),
        ({"compare": True, "compare_budget": 0.0}, "compare_budget"),
    ],
)
def test_what_cannot_be_compared_with_is_refused_before_anything_starts(settings, said):
    with pytest.raises(ValueError, match=said):
        AutoSettings(**settings)


def finished(out: Path, **settings: Any) -> Auto:
    """A run of the program up to its comparison, with two epochs of training and no search."""
    data = write_folder(out / "photos", {"a": 40, "b": 40})
    names = image_names(open_parts(str(data), ("train",))["train"])
    held = Division((*names[:4], *names[-4:]), data=str(data))
    run = out / "run"
    given = AutoSettings(data=str(data), max_latency=5.0, time_budget=60.0, out=run, compare=True, **settings)
    log = RunLog(run)
    log.start(to_dict(given), run_facts("cpu"), program="auto", stages=[])
    write_json(run / "division.json", dataclasses.asdict(held))
    write_text(run / "genotype.json", load_genotype("darts_v1").to_json())
    write_text(run / "latency.json", (ROOT / "benchmarks/measured/latency_table.json").read_text())
    plan = Plan("cifar", 4, 3, 12, 3, 2, 12, 5.0, 0.1, seconds=Seconds(1, 1, 1, 1))
    chosen = {"batch_size": 16, "lr": 0.02, "epochs": 2, "warmup_epochs": 1, "eval_every": 0}
    log.append({"kind": "stage", "name": "plan", "result": plan.to_dict()})
    log.append({"kind": "stage", "name": "derive", "result": {"init_channels": 4, "num_cells": 3}})
    log.append({"kind": "choice", "name": "train", "chosen": chosen})
    clock = Clock(run, 60.0)
    parts, index = Auto(given, log, clock).parts(stream=True), FileIndex(run / "data_index.jsonl")
    marks = tuple(fingerprint(source, index) for source in parts.values())
    seen = look(parts, 0, own_test=False, fingerprints=marks)[0]
    log.append({"kind": "stage", "name": "look", "result": seen.to_dict()})
    auto = Auto(given, log, clock)
    train(TrainSettings.from_recipe(
        given.recipe, **auto.data_settings(), **chosen, model="cell_net_cifar", genotype=str(run / "genotype.json"),
        init_channels=4, num_cells=3, image_size=12, out=run / "train",
    ))  # fmt: skip
    deliver(load_model(str(run / "train")), run)
    return auto


@pytest.mark.slow
def test_all_are_trained_alike_timed_in_turns_and_not_done_again(tmp_path):
    auto = finished(tmp_path, against="mobilenetv3_small_050")
    run = auto.out
    record = compare(auto, Clock(run / "compare", 600.0))
    rows = record["rows"]
    assert [row["kind"] for row in rows] == ["found", "random", "catalogue", "timm"]
    assert record["left_out"] == []
    assert {row["n"] for row in rows} == {16}
    assert all(row["measured_latency_ms"] > 0 and 0 <= row["top1"] <= 1 for row in rows)
    assert [row["epochs"] for row in rows[:3]] == [2, 2, 2]
    assert all(row["epochs"] == row["epochs_wanted"] for row in rows)
    own = json.loads((run / "train" / "log.jsonl").read_text().splitlines()[0])["settings"]
    for row in rows[1:]:
        settings = json.loads((run / row["file"]).with_name("train").joinpath("log.jsonl").read_text().splitlines()[0])
        theirs = settings["settings"]
        assert {key for key in own if own[key] != theirs[key]} <= {
            "model", "genotype", "init_channels", "num_cells", "out", "epochs", "warmup_epochs", "aux_weight"
        }  # fmt: skip
    cells = [
        json.loads((run / row["file"]).with_name("train").joinpath("config.json").read_text()) for row in rows[1:3]
    ]
    assert {(c["model_args"]["init_channels"], c["model_args"]["num_cells"]) for c in cells} == {(4, 3)}
    assert json.loads((run / "compare.json").read_text()) == json.loads(json.dumps(record))

    # killed before the end: only what is missing is done
    (run / "compare.json").unlink()
    timm = run / "compare" / "timm_mobilenetv3_small_050"
    (timm / "model.onnx").unlink()
    before = {path: path.stat().st_mtime_ns for path in (run / "compare").rglob("*.onnx")}
    trained = (timm / "train" / "result.json").stat().st_mtime_ns
    again = compare(Auto(auto.settings, auto.log, auto.clock), Clock(run / "compare", 600.0))
    assert [row["top1"] for row in again["rows"]] == [row["top1"] for row in rows]
    assert (timm / "model.onnx").exists()
    assert (timm / "train" / "result.json").stat().st_mtime_ns == trained
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())

    # of a recipe that crops they see all of a picture, as the found network does
    chosen = {key: value for key, value in auto.chosen("train", dict).items() if key != "eval_every"}
    cropping = Auto(dataclasses.replace(auto.settings, recipe="imagenet"), auto.log, auto.clock)
    for rival in rivals(auto.settings):
        assert _settings(cropping, rival, chosen, tmp_path / "x").crop_pct == 1.0

    # and they are not trained on other pictures, and set beside what was found
    (run / "compare.json").unlink()
    next(Path(str(auto.settings.data)).glob("a/*")).unlink()
    with pytest.raises(ValueError, match="holds other pictures than those that were looked at"):
        compare(Auto(auto.settings, auto.log, auto.clock), Clock(run / "compare", 600.0))


@pytest.mark.slow
def test_weights_that_cannot_be_had_and_time_that_is_used_up_are_told(tmp_path):
    auto = finished(tmp_path, against="mobilenetv3_small_050", pretrained=True)
    record = compare(auto, Clock(auto.out / "compare", 0.001))
    assert [row["kind"] for row in record["rows"]] == ["found"]
    assert len(record["left_out"]) == 4
    assert "random cells (same width and depth), an epoch takes" in record["left_out"][0]
    assert "published weights, fine-tuned), it could not be fine-tuned" in record["left_out"][3]
    again = Auto(auto.settings, auto.log, auto.clock)  # with more time, as the page advises, they are trained
    assert compare(again, Clock(auto.out / "compare", 0.001)) == record
    more = compare(again, Clock(auto.out / "compare", 600.0))
    assert [row["kind"] for row in more["rows"]] == ["found", "random", "catalogue", "timm"]
    assert all(row["epochs"] == row["epochs_wanted"] for row in more["rows"])
