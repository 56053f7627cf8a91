"""Published checkpoints: the table, adopting a run, loading by name without a network."""

import csv
import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from nas_zoo.export.publish.card import main as card_main
from nas_zoo.export.publish.hub import main as publish_main
from nas_zoo.export.publish.space import main as space_main
from nas_zoo.genotype import Genotype, genotype_record
from nas_zoo.models import registry, results
from nas_zoo.models.catalog import MODELS
from nas_zoo.models.results import Result, in_table, package_results, read_results
from nas_zoo.release import adopt as adopt_module
from nas_zoo.release.adopt import main as adopt_main
from nas_zoo.release.adopt import read_run, reference_images, result_of_run
from nas_zoo.runs.facts import published_log
from nas_zoo.runs.log import RunLog
from nas_zoo.train.recipes import TrainSettings
from nas_zoo.train.run import main as train
from tests.present import present
from tests.weights import copy_package, python, shell, train_tiny, write_images


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Images, and two runs on them that differ by their seed."""
    folder = tmp_path_factory.mktemp("runs")
    images = write_images(folder / "images")
    return images, train_tiny(images, folder / "seed0"), train_tiny(images, folder / "seed1", seed=1)


@pytest.fixture(scope="module")
def published(runs, tmp_path_factory):
    """A copy of the package into which the command line has published the first run."""
    package = copy_package(tmp_path_factory.mktemp("package"))
    _, first, second = runs
    done = shell(package, "adopt", first, "--model", "tiny_c10", "--tag", "blobs_e4", "--also", second, "--dtype",
                 "float16", "--dataset", "Colours", "--dataset-note", "made by a test")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "float16 reaches" in done.stdout
    return package


def the_row(package: Path) -> Result:
    (row,) = read_results(package / "nas_zoo" / "models" / "results.csv")
    return row


@pytest.mark.slow
def test_no_figure_and_no_tag_of_published_weights_goes_on_to_another_network(runs, tmp_path):
    """Neither into config.json of a network trained on other images, nor into that of an untrained one."""
    published = next(row for row in package_results() if row.model == "edas_e8_c10_s")
    fresh = timm.create_model("edas_e8_c10_s", num_classes=3)
    tuned = timm.create_model("edas_e8_c10_s", pretrained=True, num_classes=3)
    for name, model in (("fresh", fresh), ("tuned", tuned)):
        save_for_hf(model, str(tmp_path / name), safe_serialization=True)
    words = ["--recipe", "quick", "--model", "edas_e8_c10_s", "--data", runs[0], "--epochs", "1", "--batch-size", "20",
             "--eval-every", "0", "--workers", "0", "--out", tmp_path / "trained"]  # fmt: skip
    assert train([str(word) for word in words]) == 0
    for name in ("fresh", "tuned", "trained"):
        text = (tmp_path / name / "config.json").read_text()
        assert json.loads(text)["architecture"] == "edas_e8_c10_s"
        for lie in (published.tag, f"{published.top1:.2f}", published.dataset, "description", '"tag"'):
            assert lie not in text, (name, lie)
    cfg = present(timm.get_pretrained_cfg(published.name))
    assert (cfg.tag, cfg.description) == (published.tag, None)
    ours: Any = timm.create_model(published.name, pretrained=True)
    assert ours.pretrained_cfg["tag"] == published.tag


# --------------------------------------------------------------------------------------------------- the real table


def test_the_packages_table_is_what_its_weights_and_models_are():
    rows = package_results()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        record = genotype_record(row.cell)
        assert row.model in MODELS
        assert Genotype.from_json(record).digest == row.genotype
        assert row.cell == MODELS[row.model]["cell"]
        cfg = timm.get_pretrained_cfg(row.name)
        assert cfg is not None
        assert (cfg.mean, cfg.std, cfg.num_classes) == (row.mean, row.std, row.num_classes)
        assert abs(row.top1 - row.run_top1) <= 0.1
        if row.weights:
            path = results.fetch_weights(row)
            assert path.stat().st_size == row.size
            assert {t.dtype for t in load_file(path).values() if t.is_floating_point()} == {getattr(torch, row.dtype)}
        log = RunLog.read(results.PACKAGE / "weights" / f"{row.name}.log.jsonl")
        assert log[-1]["kind"] == "result"
        assert round(100 * log[-1]["top1"], 4) == row.run_top1
        assert log[0]["settings"]["epochs"] == row.epochs


def test_the_readmes_table_of_weights_is_that_of_the_package():
    lines = (results.PACKAGE.parents[1] / "README.md").read_text("utf-8").splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("| model | parameters | multiply-adds | top-1 |"))
    shown = lines[begin + 2 : lines.index("", begin)]
    rows = package_results()
    assert len(shown) == len(rows)
    for row in rows:
        start = f"| `{row.model}` (tag `{row.tag}`) | {row.params:,} | {row.macs / 1e6:.1f}M | {row.top1:.2f} % |"
        assert any(line.startswith(f"{start} {row.test_images:,} of {row.dataset} |") for line in shown), row.name


def test_no_file_of_the_package_lies_about_in_weights_and_all_are_40_mb_at_most():
    folder = results.PACKAGE / "weights"
    files = list(folder.iterdir()) if folder.is_dir() else []
    assert sum(file.stat().st_size for file in files) <= results.MAX_BYTES == 40_000_000
    expected = {name for row in package_results() for name in (row.weights, results.reference_path(row).name,
                                                               f"{row.name}.log.jsonl") if name}  # fmt: skip
    assert {file.name for file in files} == expected


@pytest.mark.parametrize("name", [row.name for row in package_results()])
def test_a_published_model_gives_its_reference_logits(name):
    row = registry.find_result(name)
    assert row is not None
    if not row.weights:
        pytest.skip(f"{name} lies on the Hub")
    images, logits = results.read_reference(results.reference_path(row))
    with torch.no_grad():
        got = timm.create_model(name, pretrained=True).eval()(images)
    torch.testing.assert_close(got, logits, rtol=0, atol=1e-4 * max(1.0, float(logits.abs().max())))
    assert logits.std() > 0.1  # references that are all alike would agree with anything


# ------------------------------------------------------------------------------------------------------- publishing


def test_the_row_is_that_of_the_run(published, runs):
    row = the_row(published)
    result = json.loads((runs[1] / "result.json").read_text())
    other = json.loads((runs[2] / "result.json").read_text())
    assert (row.name, row.cell, row.dataset, row.dataset_note) == (
        "tiny_c10.blobs_e4", "darts_v2", "Colours", "made by a test")  # fmt: skip
    assert row.run_top1 == round(100 * result["top1"], 4)
    assert row.seeds == (0, 1)
    assert row.seeds_top1 == (row.run_top1, round(100 * other["top1"], 4))
    middle = sum(row.seeds_top1) / 2
    assert row.spread == pytest.approx(sum((x - middle) ** 2 for x in row.seeds_top1) ** 0.5, abs=1e-4)
    assert (row.epochs, row.test_images, row.train_images, row.params) == (4, 120, 120, result["parameters"])
    assert row.changed_settings == {"batch_size": 20, "lr": 0.05, "warmup_epochs": 1}
    assert row.seconds == result["seconds"]
    assert f"torch={torch.__version__.split('+')[0]}" in row.versions
    assert row.dtype == "float16"
    weights = published / "nas_zoo" / "models" / "weights" / row.weights
    assert (row.size, row.sha256) == (weights.stat().st_size, results.file_sha256(weights))
    (tensors, whole) = (load_file(path) for path in (weights, runs[1] / "model.safetensors"))
    assert tensors.keys() == whole.keys()
    assert all(t.dtype == (torch.float16 if t.is_floating_point() else torch.int64) for t in tensors.values())


def test_nothing_that_is_published_names_a_folder_of_this_machine(published, runs):
    folder = published / "nas_zoo" / "models"
    for path in [folder / "results.csv", *(folder / "weights").iterdir()]:
        data = path.read_bytes()
        for place in (published, runs[0], Path.home()):
            assert str(place).encode() not in data
    log = (folder / "weights" / "tiny_c10.blobs_e4.log.jsonl").read_text().splitlines()
    assert json.loads(log[0])["settings"]["data"] == "images"


OFFLINE = """
import socket
def refuse(*args, **kwargs): raise AssertionError("asked the network")
socket.create_connection = socket.getaddrinfo = socket.socket.connect = refuse
import sys, torch, timm, nas_zoo
from pathlib import Path
from safetensors.torch import load_file
from nas_zoo.models import registry, results
from nas_zoo.models.load import load_model
assert Path(nas_zoo.__file__).parent == Path.cwd() / "nas_zoo", nas_zoo.__file__
run = sys.argv[1]
x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
stored = {k: v.float() if v.is_floating_point() else v for k, v in load_file(run + "/model.safetensors").items()}
rounded = {k: v.half().float() if v.is_floating_point() else v for k, v in stored.items()}

model = timm.create_model("tiny_c10", pretrained=True).eval()
assert all(p.dtype == torch.float32 for p in model.parameters())
assert all(torch.equal(value, rounded[key]) for key, value in model.state_dict().items())
logits = model(x)
assert torch.equal(timm.create_model("tiny_c10.blobs_e4", pretrained=True).eval()(x), logits)
assert torch.equal(load_model("tiny_c10")(x), logits)
assert model.pretrained_cfg["label_names"][3] == "cat" and model.pretrained_cfg["tag"] == "blobs_e4"
assert not torch.equal(timm.create_model("tiny_c10").eval()(x), logits)
assert timm.list_models("tiny_c10*", pretrained=True) == ["tiny_c10.blobs_e4"]
# Other classes: everything but the classifier.
five = timm.create_model("tiny_c10", pretrained=True, num_classes=5).eval()
assert five(x).shape == (3, 5)
assert torch.equal(five.forward_features(x), model.forward_features(x))
none = timm.create_model("tiny_c10", pretrained=True, num_classes=0).eval()
assert torch.equal(none(x), model.forward_head(model.forward_features(x), pre_logits=True))
# Grey images: the stem's weights summed, as timm does.
grey = timm.create_model("tiny_c10", pretrained=True, in_chans=1).eval()
torch.testing.assert_close(grey(x[:, :1]), model(x[:, :1].expand(-1, 3, -1, -1)), rtol=1e-5, atol=1e-5)
half = timm.create_model("tiny_c10", pretrained=True, dtype=torch.float16)
assert half.classifier.weight.dtype == torch.float16
levels = timm.create_model("tiny_c10", pretrained=True, features_only=True).eval()(x)
assert torch.equal(levels[-1], model.forward_features(x))
# Weights of one's own win over the published ones.
own = timm.create_model("tiny_c10", pretrained=True, pretrained_cfg_overlay={"file": run + "/model.safetensors"})
assert torch.equal(own.classifier.weight, stored["classifier.weight"])

def told(*args, **kwargs):
    try:
        timm.create_model(*args, pretrained=True, **kwargs)
    except ValueError as error:
        assert "\\n" not in str(error)
        return str(error)
    raise AssertionError("was made")
text = told("edas_in1k")
assert "edas_in1k has no trained weights" in text and "nas-zoo train --model edas_in1k" in text and "tiny_c10" in text
text = told("tiny_c10", init_channels=8)
assert "init_channels=8" in text and "with 4" in text
assert "genotype" in told("tiny_c10", genotype="edas_c10")
path = results.fetch_weights(registry.find_result("tiny_c10"))
data = bytearray(path.read_bytes()); data[-1] ^= 1
path.chmod(0o644); path.write_bytes(data)
assert "SHA-256" in told("tiny_c10")
path.unlink()
assert "missing from the package" in told("tiny_c10")
print("all of it")
"""


@pytest.mark.slow
def test_a_published_model_loads_by_name_without_a_network(published, runs, tmp_path):
    """With other classes, channels and types; damaged or missing weights and a model without any are told in a line."""
    package = tmp_path / "own"
    shutil.copytree(published, package)
    done = python(package, "-c", OFFLINE, runs[1], HF_HOME=str(tmp_path / "hub"))
    assert done.stdout.strip() == "all of it", done.stderr


DOCTOR = """
import sys
from safetensors.torch import load_file, save_file
from nas_zoo.models import registry, results
from nas_zoo.doctor import examine
def found():
    (one,) = [finding for finding in examine(models=True) if finding.what == "weights of tiny_c10.blobs_e4"]
    return one.state, one.detail
state, detail = found()
assert state == "ok" and "logits agree" in detail, detail
path = results.reference_path(registry.find_result("tiny_c10"))
tensors = load_file(path)
tensors["logits"][1, 2] += 0.01
save_file(tensors, path)
state, detail = found()
assert state == "wrong" and "1.0e-02" in detail, detail
print("all of it")
"""


def test_relative_paths_are_left_out_of_the_published_log_too(runs, tmp_path):
    """Of a data set that was named from another folder, as in --data ../../somewhere/images.tar."""
    folder = tmp_path / "run"
    shutil.copytree(runs[1], folder)
    lines = (folder / "log.jsonl").read_text().splitlines()
    head = json.loads(lines[0])
    head["command"] = "train.py --data ../../home/me/images.tar --out=there/run/ --model hf-hub:zoo/net"
    head["settings"] |= {"data": "../../home/me/images.tar", "init_weights": "there/derived.safetensors"}
    (folder / "log.jsonl").write_text("\n".join([json.dumps(head), *lines[1:]]) + "\n")
    text = published_log(read_run(folder).log)
    assert "home" not in text
    assert "there" not in text
    assert json.loads(text.splitlines()[0])["command"] == (
        "train.py --data images.tar --out=run --model hf-hub:zoo/net"
    )
    assert json.loads(text.splitlines()[0])["settings"]["init_weights"] == "derived.safetensors"


@pytest.mark.slow
def test_doctor_compares_with_the_reference_tensors(published, tmp_path):
    shutil.copytree(published, tmp_path / "own")
    done = python(tmp_path / "own", "-c", DOCTOR)
    assert done.stdout.strip() == "all of it", done.stderr


def test_list_and_info_say_that_there_are_weights(published):
    rows = {row["name"]: row for row in csv.DictReader(shell(published, "list", "--csv").stdout.splitlines())}
    assert rows["tiny_c10"]["pretrained"] == "True"
    assert rows["tiny_c10"]["top1"] == str(the_row(published).top1)
    assert rows["edas_in1k"]["pretrained"] == "False"
    assert rows["edas_in1k"]["top1"] == ""


BY_TAG = """
import timm, torch, nas_zoo
from nas_zoo.models import registry
from nas_zoo.export.publish.published import open_checkpoint
from nas_zoo.models.load import load_model
assert timm.list_models("tiny_c100*", pretrained=True) == ["tiny_c100.blobs_e4"]
assert timm.create_model("tiny_c100").num_classes == 100 and timm.get_pretrained_cfg("tiny_c100").tag is None
assert registry.find_result("tiny_c100") is None and registry.find_result("tiny_c10").tag == "blobs_e4"
model = timm.create_model("tiny_c100.blobs_e4", pretrained=True).eval()
assert model.num_classes == 10 and model.pretrained_cfg["label_names"][3] == "cat"
assert model.pretrained_cfg["input_size"] == (3, 16, 16) and model.pretrained_cfg["pool_size"] == (4, 4)
x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
assert torch.equal(model(x), timm.create_model("tiny_c10", pretrained=True).eval()(x))
more = timm.create_model("tiny_c100.blobs_e4", pretrained=True, num_classes=100).eval()  # to be trained further
assert torch.equal(more.forward_features(x), model.forward_features(x))
for make in (lambda name: timm.create_model(name, pretrained=True), load_model, open_checkpoint):
    try:
        make("tiny_c100")
        raise AssertionError("was made")
    except ValueError as error:
        assert "it has" in str(error) and "tiny_c100.blobs_e4" in str(error), error
for name in ("tiny_c100.blobs_e4", "tiny_c10"):
    assert open_checkpoint(name).title == name
print("all of it")
"""


@pytest.mark.slow
def test_weights_of_other_classes_are_had_by_their_tag_alone(published, runs, tmp_path):
    """So that a model's name keeps its classes: edas_in1k stays a network of 1,000 whatever was trained with it."""
    package = tmp_path / "own"
    shutil.copytree(published, package)
    models = json.loads((package / "nas_zoo" / "models" / "models.json").read_text())
    models["tiny_c100"] = models["tiny_c10"] | {"data": "c100"}
    (package / "nas_zoo" / "models" / "models.json").write_text(json.dumps(models))
    done = shell(package, "adopt", runs[1], "--model", "tiny_c100", "--tag", "blobs_e4", "--dtype", "float16",
                 "--dataset", "Colours")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "timm.create_model('tiny_c100.blobs_e4', pretrained=True)" in done.stdout
    done = python(package, "-c", BY_TAG)
    assert done.stdout.strip() == "all of it", done.stderr
    (row,) = [
        row for row in csv.DictReader(shell(package, "list", "--csv").stdout.splitlines()) if row["name"] == "tiny_c100"
    ]
    assert (row["pretrained"], row["num_classes"], row["tag"]) == ("False", "100", "blobs_e4")
    assert "(Colours: tiny_c100.blobs_e4)" in shell(package, "list", COLUMNS="1000").stdout
    assert "no (Colours: tiny_c100.blobs_e4)" in shell(package, "info", "tiny_c100").stdout
    told = json.loads(shell(package, "info", "tiny_c100.blobs_e4", "--json").stdout)
    assert (told["pretrained"], told["num_classes"]) == (True, 10)


# ---------------------------------------------------------------------------------------------------------- mistakes


def spoiled(run: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of the run as if it had ended with other weights."""
    folder.mkdir()
    for path in run.iterdir():
        if path.suffix in (".json", ".jsonl"):
            shutil.copy2(path, folder)
    with safe_open(run / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    tensors = load_file(run / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata)
    result = json.loads((folder / "result.json").read_text())
    result["weights_sha256"] = results.file_sha256(folder / "model.safetensors")
    (folder / "result.json").write_text(json.dumps(result))
    return folder


FLOAT16 = """
import sys
from nas_zoo.models import results
from nas_zoo.release.adopt import adopt
images, large, coarse, sound = sys.argv[1:]
table = results.PACKAGE / "results.csv"
more = {"model": "tiny_c10", "tag": "x", "data": images}
for run, told in (large, "float16 has not"), (coarse, "points, more than 0.1"):
    try:
        adopt(run, dtype="float16", **more)
        raise AssertionError("was published")
    except ValueError as error:
        assert str(error).startswith("dtype='float16'") and told in str(error), error
    assert results.read_results(table) == () and not (results.PACKAGE / "weights").exists()
row, words = adopt(coarse, **more)
assert words.startswith("kept as float32"), words
assert (row.dtype, row.top1) == ("float32", row.run_top1), row
try:
    adopt(sound, **more)
    raise AssertionError("was published")
except ValueError as error:
    assert "in the table already" in str(error), error
row, words = adopt(sound, **more, replace=True)
assert words.startswith("float16 reaches") and row.dtype == "float16", words
assert results.read_results(table) == (row,)
print("all of it")
"""


@pytest.mark.slow
def test_float16_is_refused_where_it_costs_accuracy(runs, tmp_path):
    """Two changes that leave every decision as it is in float32: logits beyond float16's range, and a common large
    part in the classifier's rows, beside which float16 does not keep what tells the classes apart."""

    def too_large(tensors):
        tensors["classifier.weight"] *= 1e8
        tensors["classifier.bias"] *= 1e8

    def too_coarse(tensors):
        tensors["classifier.weight"] += 1024.0

    package = copy_package(tmp_path / "package")
    large, coarse = (spoiled(runs[1], tmp_path / change.__name__, change) for change in (too_large, too_coarse))
    done = python(package, "-c", FLOAT16, runs[0], large, coarse, runs[1])
    assert done.stdout.strip() == "all of it", done.stderr


def test_a_run_that_does_not_fit_is_refused_and_nothing_is_written(runs, tmp_path, capsys):
    _, run, _ = runs
    for words, told in (
        (["--model", "edas_c10_s"], "has cells"),
        (["--model", "darts_v2_c10_s"], "do not fit"),
        (["--model", "no_such"], "not registered"),
        ([], "do not fit"),  # cell_net_cifar itself is 20 cells wide
    ):
        assert adopt_main([str(run), "--tag", "x", *words]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert adopt_main([str(tmp_path / "none"), "--tag", "x"]) == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "checkpoint.pt").touch()
    assert adopt_main([str(tmp_path / "begun"), "--tag", "x"]) == 2
    assert "--resume" in capsys.readouterr().err
    with pytest.raises(ValueError, match="tag must be lower-case words joined by _, got 'Two Words'"):
        result_of_run(run, tag="Two Words")
    assert not (results.PACKAGE / "weights" / "cell_net_cifar.x.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_figure_does_not_stand_beside_weights_that_it_was_not_measured_on(runs, tmp_path, capsys, value):
    """The attack: a zeroed or NaN classifier in a run's folder was published with the accuracy of the one before."""
    folder = tmp_path / "run"
    shutil.copytree(runs[1], folder)
    weights = load_file(folder / "model.safetensors")
    assert json.loads((folder / "result.json").read_text())["weights_sha256"] == results.file_sha256(
        folder / "model.safetensors"
    )
    save_file(weights | {"classifier.weight": torch.full_like(weights["classifier.weight"], value)},
              folder / "model.safetensors", {"format": "pt"})  # fmt: skip
    told = "its figures were not measured on this model.safetensors, whose SHA-256 is "
    for main, words in (
        (card_main, [str(folder), "--to", str(tmp_path / "out")]),
        (space_main, [str(folder), "--to", str(tmp_path / "out")]),
        (publish_main, [str(folder), "--repo", "owner/name", "--dry-run", "--to", str(tmp_path / "out")]),
        (adopt_main, [str(folder), "--tag", "x"]),
    ):
        assert main(words) == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=told):  # nor as one of several seeds
        result_of_run(runs[2], also=[folder])


def test_wherever_publishing_fails_the_package_is_as_it_was(runs, tmp_path, monkeypatch):
    run, row = read_run(runs[1]), result_of_run(runs[1], tag="blobs_e4")
    package, stored = tmp_path / "package", load_file(runs[1] / "model.safetensors")
    reference = {"pixel_values": torch.zeros(1, 3, 32, 32), "logits": torch.zeros(1, 10)}
    package.mkdir()
    results.write_results([], package / "results.csv")
    adopt_module._write(package, row, run, stored, reference, row.name)  # an earlier one, which is replaced
    before = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
    assert len(before) == 4
    other = {name: tensor + 1 for name, tensor in stored.items()}
    for moves_to_the_hub in (False, True):
        hub: dict[str, Any] = (
            {"hub_id": "owner/name", "hub_revision": "0" * 40, "weights": ""} if moves_to_the_hub else {}
        )
        changed = dataclasses.replace(row, loss=row.loss + 1, **hub)
        for call in ("replace", "fsync", "unlink"):
            real, moment, calls, failed = getattr(os, call), 0, [0], 0
            while calls[0] >= moment:
                moment, calls = moment + 1, [0]

                def fails(*args, moment=moment, calls=calls, real=real, **kw):
                    calls[0] += 1
                    if calls[0] == moment:
                        raise OSError(errno.ENOSPC, "No space left on device")
                    return real(*args, **kw)

                with monkeypatch.context() as patch:
                    patch.setattr(os, call, fails)
                    try:
                        adopt_module._write(package, changed, run, other, reference, row.name)
                    except OSError:
                        after = {path: path.read_bytes() for path in package.rglob("*") if path.is_file()}
                        assert after == before
                        assert len(list(package.rglob("*"))) == 5
                        failed += 1
                        continue
                assert results.read_results(package / "results.csv")[0].loss == changed.loss
                adopt_module._write(package, row, run, stored, reference, row.name)
                assert {path: path.read_bytes() for path in package.rglob("*") if path.is_file()} == before
            assert failed >= (7 if call != "unlink" else moves_to_the_hub)


def test_weights_take_the_place_of_older_ones_and_a_row_that_came_meanwhile_stays(runs, tmp_path):
    run, package, stored = read_run(runs[1]), tmp_path / "package", load_file(runs[1] / "model.safetensors")
    reference = {"pixel_values": torch.zeros(1, 3, 32, 32), "logits": torch.zeros(1, 10)}
    package.mkdir()
    results.write_results([], package / "results.csv")
    rows = {tag: result_of_run(runs[1], model="tiny_c10", tag=tag) for tag in "abc"}
    for tag in "ab":  # the table that the second had read before it measured lacked the first
        adopt_module._write(package, rows[tag], run, stored, reference, "")
    assert [row.tag for row in results.read_results(package / "results.csv")] == ["a", "b"]
    adopt_module._write(package, rows["c"], run, stored, reference, "tiny_c10.a")
    assert [row.tag for row in results.read_results(package / "results.csv")] == ["c", "b"]
    files = {path.name for path in (package / "weights").iterdir()}
    kinds = ("safetensors", "reference.safetensors", "log.jsonl")
    assert files == {f"tiny_c10.{tag}.{kind}" for tag in "bc" for kind in kinds}
    for tag, old, told in (("b", "", "in the table already"), ("b", "tiny_c10.c", "in the table already"),
                           ("a", "tiny_c10.d", "there are no weights tiny_c10.d; tiny_c10 has c, b")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            adopt_module._write(package, rows[tag], run, stored, reference, old)
    assert {path.name for path in (package / "weights").iterdir()} == files


def test_runs_that_began_with_weights_or_saw_other_images_are_told_apart(runs, tmp_path, capsys):
    folder, seed1 = tmp_path / "run", tmp_path / "seed1"
    shutil.copytree(runs[1], folder)
    result = json.loads((folder / "result.json").read_text())
    settings = result["settings"] | {"init_weights": "other/model.safetensors"}
    (folder / "result.json").write_text(json.dumps(result | {"settings": settings}))
    assert adopt_main([str(folder), "--tag", "x"]) == 2
    assert "only runs from scratch come into the package" in capsys.readouterr().err
    shutil.copytree(runs[2], seed1)
    config = json.loads((seed1 / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.1, 0.1]
    (seed1 / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"mean=\[0.1, 0.1, 0.1\], the published run has"):
        result_of_run(runs[1], also=[seed1])


@pytest.mark.slow
def test_other_images_than_the_runs_are_noticed(runs, tmp_path):
    package = copy_package(tmp_path / "package")
    others = write_images(tmp_path / "images")
    for path in (others / "test" / "cat").iterdir():  # cats that look like dogs
        path.write_bytes((others / "test" / "dog" / path.name).read_bytes())
    done = shell(package, "adopt", runs[1], "--model", "tiny_c10", "--tag", "x", "--data", others)
    assert done.returncode == 2
    assert "other images?" in done.stderr
    assert read_results(package / "nas_zoo" / "models" / "results.csv") == ()


def copy_run(run, to, **settings):
    """A run's folder but for its checkpoints, with other settings in its result."""
    to.mkdir()
    for path in run.iterdir():
        if path.suffix in (".json", ".jsonl", ".safetensors"):
            (to / path.name).write_bytes(path.read_bytes())
    result = json.loads((to / "result.json").read_text())
    result["settings"] |= settings
    (to / "result.json").write_text(json.dumps(result))
    return to


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("top1", 0.9999, "top1 in result.json is 0.9999, and .* where log.jsonl says how the run ended"),
        ("loss", 0.001, "loss in result.json is 0.001, and"),
        ("n", 10_000, "n in result.json is 10000, and"),
        ("top1", "0.99", "top1 in result.json must be a number from 0 to 1, got '0.99'"),
        ("top1", 99.0, "top1 in result.json must be a number from 0 to 1, got 99.0"),
        ("top1", float("nan"), "must be a number from 0 to 1, got nan"),
        ("n", 0, "n in result.json must be a number from 1 to"),
        ("n", True, "n in result.json must be a number from 1 to"),
        ("loss", None, "loss in result.json must be a number"),
    ],
)
def test_figures_that_were_edited_are_no_figures(runs, tmp_path, key, value, words):
    """The attack: result.json with another figure beside the right weights and their right hash."""
    _, first, _ = runs
    edited = copy_run(first, tmp_path / "edited")
    result = json.loads((edited / "result.json").read_text())
    (edited / "result.json").write_text(json.dumps(result | {key: value}))
    with pytest.raises(ValueError, match=words):
        read_run(edited)


def test_classes_that_were_renamed_or_swapped_in_a_run_are_noticed(runs, tmp_path):
    """The attack: two labels change places, and every figure is still the right one."""
    _, first, _ = runs
    edited = copy_run(first, tmp_path / "edited")
    config = json.loads((edited / "config.json").read_text())
    names = config["label_names"]
    for changed in ([names[1], names[0], *names[2:]], [*names[:-1], "cat"], names[:-1]):
        (edited / "config.json").write_text(json.dumps(config | {"label_names": changed}))
        with pytest.raises(ValueError, match=r"config.json names a class .* that log.jsonl calls"):
            read_run(edited)


def test_seeds_have_to_be_of_the_same_settings(runs, tmp_path):
    _, first, _ = runs
    with pytest.raises(ValueError, match="the runs must have different seeds"):
        result_of_run(first, also=[first])
    with pytest.raises(ValueError, match=r"lr=0\.2.*0\.05.*seed alone"):
        result_of_run(first, also=[copy_run(first, tmp_path / "other", seed=5, lr=0.2)])


def test_where_a_run_is_told_and_its_data_lie_makes_it_no_other(runs, tmp_path):
    _, first, _ = runs
    moved = {"log_with": ["tensorboard"], "image_column": "photo", "skip_unreadable": 3, "data": "elsewhere"}
    row = result_of_run(first, also=[copy_run(first, tmp_path / "other", seed=5, **moved)])
    assert row.seeds == (0, 5)
    alone = result_of_run(copy_run(first, tmp_path / "alone", **moved))
    assert alone.changed_settings == row.changed_settings
    with pytest.raises(ValueError, match=r"division='part.json'.*seed alone"):
        result_of_run(first, also=[copy_run(first, tmp_path / "divided", seed=5, division="part.json")])


def test_an_older_run_is_compared_by_what_it_did(runs, tmp_path):
    """A setting that came later stood at its default, and one that small images do not use makes no difference."""
    _, first, _ = runs
    older = copy_run(first, tmp_path / "older", seed=5)
    result = json.loads((older / "result.json").read_text())
    assert result["settings"].pop("crop_area_min") != TrainSettings.crop_area_min  # recipe quick's, of 16 pixels here
    assert result["settings"].pop("crop_pct") == TrainSettings.crop_pct
    (older / "result.json").write_text(json.dumps(result))
    assert result_of_run(first, also=[older]).seeds == (0, 5)
    for run in (first, older):  # photographs
        config = json.loads((run / "config.json").read_text())
        config["pretrained_cfg"]["input_size"] = [3, 96, 96]
        (copy_run(run, tmp_path / f"{run.name}_96") / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"crop_area_min=0\.08.*0\.35"):
        result_of_run(tmp_path / f"{first.name}_96", also=[tmp_path / "older_96"])


# --------------------------------------------------------------------------------------------------------- the table


def test_a_replaced_row_keeps_its_place(runs):
    first, second = (result_of_run(runs[1], model="tiny_c10", tag=tag) for tag in ("a", "b"))
    again = dataclasses.replace(first, date="2030-01-01")
    assert results.with_row([first, second], again) == [again, second]
    assert results.with_row([first], second) == [first, second]


def test_the_row_tells_with_what_a_run_was_begun(runs, tmp_path):
    """Not with what it was ended: a resumed run's last process may be of another version."""
    folder = tmp_path / "run"
    shutil.copytree(runs[1], folder)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"commit": "later", "threads": 99}))
    row = result_of_run(folder, model="tiny_c10", tag="a")
    assert (row.commit, row.threads) == (result["commit"] or "", result["threads"])


def test_rows_survive_the_table(runs, tmp_path):
    row = result_of_run(runs[1], also=[runs[2]])
    odd = dataclasses.replace(row, tag="odd", dataset='a "quoted", title', label_names=("a b", "c,d", *"efghijkl"))
    results.write_results([odd, row], tmp_path / "results.csv")
    assert read_results(tmp_path / "results.csv") == (odd, row)


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("top1", "101", "top1 must be a percentage, got 101.0"),
        ("top1", "97,2", "top1 cannot be read from '97,2'"),
        ("sha256", "abc", "64 hex digits"),
        ("hub_id", "org/name", "weights must be given, or hub_id, and not both"),
        ("dtype", "int8", "dtype must be one of float32, float16, got 'int8'"),
        ("seeds", "1 0", "seeds must be a list that begins with the published seed 0, got (1, 0)"),
        ("settings", "lr=1", "JSON object"),
        ("date", "21.11.2026", "date must be a date like 2026-11-21, got"),
        ("tag", "e600.c10", "lower-case words"),
        ("label_names", '["cat"]', "label_names must be 10 names, got ('cat',)"),
        ("label_names", "5", "label_names cannot be read from '5'"),
        ("label_names", "[" * 5000, "label_names cannot be read from '["),
        ("epochs", "9" * 5000, "epochs cannot be read from '999"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(column, value, told, runs, tmp_path):
    text = in_table([result_of_run(runs[1])])
    head, row = list(csv.reader(text.splitlines()))
    row[head.index(column)] = value
    with open(tmp_path / "results.csv", "w") as file:
        csv.writer(file).writerows([head, row])
    with pytest.raises(ValueError, match="line 2") as error:
        read_results(tmp_path / "results.csv")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_other_columns_and_a_row_twice_are_refused(runs, tmp_path):
    row = result_of_run(runs[1])
    path = tmp_path / "results.csv"
    path.write_text(in_table([row, row]))
    with pytest.raises(ValueError, match=r"line 3: cell_net_cifar\.run stands in the table already"):
        read_results(path)
    path.write_text(in_table([row]).replace("top1", "accuracy", 1))
    with pytest.raises(ValueError, match=r"missing: top1.*unknown: accuracy"):
        read_results(path)


def test_reference_images_are_the_same_each_time():
    assert torch.equal(reference_images((3, 8, 8)), reference_images((3, 8, 8)))
    assert reference_images((1, 8, 8)).shape == (4, 1, 8, 8)
