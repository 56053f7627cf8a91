"""Model cards: their figures are the row's, their YAML is the Hub's, their code runs."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image
from safetensors.torch import load_file, save_file

from nas_zoo.cli import main as nas_zoo
from nas_zoo.export.publish.card import card_data, card_text, main, write_card
from nas_zoo.export.publish.published import Checkpoint, open_checkpoint
from nas_zoo.export.publish.space import write_space
from nas_zoo.genotype import load_genotype
from nas_zoo.models.catalog import DATA, MODELS
from nas_zoo.models.results import Result, package_results
from nas_zoo.release.adopt import Dataset
from nas_zoo.train.run import main as train
from tests.weights import ROOT, train_tiny, write_images

CARDS = ROOT / "hub_cards"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return train_tiny(write_images(folder / "images"), folder / "run")


def with_row(run: Path, **changes: Any) -> Checkpoint:
    checkpoint = open_checkpoint(str(run))
    return dataclasses.replace(checkpoint, row=dataclasses.replace(checkpoint.row, **changes))


def row_of(checkpoint: Checkpoint) -> Result:
    assert isinstance(checkpoint.row, Result)
    return checkpoint.row


def about(dataset: Dataset) -> dict[str, str]:
    return {"dataset": dataset.title, "dataset_note": dataset.note, "dataset_id": dataset.hub_id}


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without head and rule."""
    part = text.split(f"## {heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()][2:]


def check_figures(text: str, row: Result) -> None:
    """Every figure of the card against the row, read out of the card's own tables and YAML."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        card = ModelCard(text)
    assert isinstance(card.data, ModelCardData)
    results = card.data.eval_results
    assert results is not None
    assert [result.metric_value for result in results] == [v for v in (row.top1, row.top5) if v is not None]
    assert {result.dataset_name for result in results} == {row.dataset}
    ((top1, data, images, error, seeds),) = rows_of(text, "Results")
    assert (top1, data, images, seeds) == (
        f"{row.top1:.2f} %", row.dataset, f"{row.test_images:,}", str(len(row.seeds)))  # fmt: skip
    n = row.test_images + 4  # Agresti and Coull: of 120 right ones among 120 the error is not nothing
    p = (row.top1 / 100 * row.test_images + 2) / n
    assert float(error.split()[0]) == pytest.approx(100 * (p * (1 - p) / n) ** 0.5, abs=0.005)
    training, network = (dict(rows_of(text, heading)) for heading in ("Training", "Network"))
    assert training["epochs"] == str(row.epochs)
    assert training["training images"] == f"{row.train_images:,}"
    assert training["seed of these weights"] == str(row.seed)
    assert training["time"].split(" s")[0] == f"{row.seconds:,.0f}"
    assert training["ended on"] == row.date
    assert row.device_name in training["hardware"]
    assert set(training["versions"].split(", ")) == {word.replace("=", " ") for word in row.versions.split()}
    assert network["parameters"] == f"{row.params:,}"
    assert network["multiply-adds"].split(" ")[0] == f"{row.macs:,}"
    assert row.sha256 in network["weights"]
    for value in row.seeds_top1 if row.spread is not None else ():
        assert f"{value:.2f} (seed" in text
    assert row.spread is None or f"standard deviation {row.spread:.2f} points" in text


@pytest.mark.parametrize("name", [row.name for row in package_results()])
def test_the_committed_card_is_that_of_the_published_row(name, tmp_path):
    checkpoint = open_checkpoint(name)
    text = (CARDS / checkpoint.title / "README.md").read_text(encoding="utf-8")
    check_figures(text, row_of(checkpoint))
    assert text == card_text(checkpoint), f"write it anew: nas-zoo card {name}"
    assert (CARDS / checkpoint.title / "cells.png").is_file()


def test_there_is_no_card_without_a_row():
    folders = {path.name for path in CARDS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {open_checkpoint(row.name).title for row in package_results()}


def test_a_cards_figures_are_the_rows(run):
    checkpoint = open_checkpoint(str(run))
    check_figures(card_text(checkpoint), row_of(checkpoint))
    several = with_row(
        run, seeds=(0, 3, 5), seeds_top1=(80.0, 81.25, 79.5), spread=0.9014, top5=99.17, dtype="float16", top1=79.1667
    )
    text = card_text(several)
    check_figures(text, row_of(several))
    assert "80.25 % on average" in text
    assert "those of the first seed, not of the best" in text
    assert "stored as float16 and used as float32; the figure is theirs. In float32" in text
    assert "nothing is known of the spread" in card_text(checkpoint)


def test_wordnet_ids_are_told_in_words(run):
    names = ("n01440764", "n03888257", "n99999999", *"cdefghi")
    checkpoint = with_row(run, label_names=names)
    assert "Classes: n01440764 (tench), n03888257 (parachute), n99999999, c, d" in card_text(checkpoint)
    told = {"n01440764": "tench, Tinca tinca", "n03888257": "parachute, chute"}
    assert row_of(checkpoint).cfg()["label_descriptions"] == told
    assert row_of(open_checkpoint(str(run))).cfg()["label_descriptions"] is None  # cats and dogs mean what they say


def test_a_wrong_figure_in_a_card_is_noticed(run):
    checkpoint = open_checkpoint(str(run))
    text, row = card_text(checkpoint), row_of(checkpoint)
    for figure in (f"value: {row.top1}", f"| {row.epochs} |", f"{row.params:,}"):
        changed = text.replace(figure, figure.replace(figure[-1], "7") if figure[-1].isdigit() else "| 7 |")
        assert changed != text
        with pytest.raises(AssertionError):
            check_figures(changed, row)


def test_the_papers_figures_stand_apart_and_are_called_the_papers(run):
    text = card_text(open_checkpoint(str(run)))
    assert "2.76" not in text.split("### What the paper reports")[0]
    paper = text.split("### What the paper reports")[1].split("## Use")[0]
    assert "Not our figure, and not of these weights" in paper
    assert "2.76 % top-1 error on CIFAR-10" in paper
    assert "2.76" not in ModelCard(text).data.to_yaml()


def test_figures_on_a_changed_data_set_do_not_stand_among_those_of_the_set(run):
    jpeg = Dataset("CIFAR-10 (JPEG)", "CIFAR-10 as JPEG", "uoft-cs/cifar10")
    (figure,) = card_data(with_row(run, **about(jpeg))).eval_results or []
    assert (figure.dataset_type, figure.dataset_name) == ("cifar-10-jpeg", "CIFAR-10 (JPEG)")
    data = card_data(with_row(run, **about(Dataset("CIFAR-10", "", "uoft-cs/cifar10"))))
    assert data.eval_results is not None
    assert data.eval_results[0].dataset_type == "uoft-cs/cifar10"
    assert data.datasets == ["uoft-cs/cifar10"]
    text = card_text(with_row(run, dataset="CIFAR-10 (JPEG)", dataset_note="CIFAR-10 as JPEG"))
    assert "CIFAR-10 (JPEG) is CIFAR-10 as JPEG." in text
    assert "not comparable" in text


@pytest.mark.parametrize("data", DATA)
def test_a_model_of_every_data_set_of_ours_has_a_card(run, data):
    name = next(name for name, model in MODELS.items() if model["data"] == data)
    assert f"{name}.run" in card_text(dataclasses.replace(with_row(run, model=name), folder=None))


def test_a_set_without_latin_letters_in_its_name_has_a_type_too(run):
    (result, *_) = card_data(with_row(run, dataset="\u0444\u043e\u0442\u043e")).eval_results or []
    assert (result.dataset_type, result.dataset_name) == ("other", "\u0444\u043e\u0442\u043e")


def test_the_yaml_says_what_the_hub_sorts_by(run):
    data = ModelCard(card_text(open_checkpoint(str(run)))).data
    assert isinstance(data, ModelCardData)
    assert (data.library_name, data.pipeline_tag, data.license) == ("timm", "image-classification", "apache-2.0")
    assert {"nas-zoo", "neural-architecture-search", "timm"} <= set(data.tags or [])
    assert "transformers" not in (data.tags or [])
    assert data.metrics == ["accuracy"]
    assert data.model_name == "run"


@pytest.mark.slow
def test_the_cards_code_runs_as_it_stands(run, tmp_path):
    text = write_card(open_checkpoint(str(run)), tmp_path).read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert code.startswith("import nas_zoo")
    Image.new("RGB", (40, 30), (20, 220, 20)).save(tmp_path / "image.png")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code.replace("local-dir:FOLDER", f"local-dir:{run}")],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    label, probability = done.stdout.split()
    assert label in open_checkpoint(str(run)).row.label_names
    assert 0.1 <= float(probability) <= 1


def test_the_onnx_code_is_there_where_the_file_is(run):
    checkpoint = open_checkpoint(str(run))
    assert "OnnxClassifier" not in card_text(checkpoint)
    text = card_text(checkpoint, repo="zoo/blobs", onnx=True)
    assert 'OnnxClassifier("model.onnx"' in text
    assert 'timm.create_model("hf-hub:zoo/blobs", pretrained=True)' in text


def test_the_command_writes_card_and_picture_and_tells_mistakes(run, tmp_path, capsys):
    assert main([str(run), "--to", str(tmp_path / "card")]) == 0
    assert capsys.readouterr().out.strip().endswith("README.md")
    with Image.open(tmp_path / "card" / "cells.png") as picture:
        assert picture.width > 300
    for name, key in (("search", "method"), ("begun", "recipe")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text(json.dumps({"kind": "run", "settings": {key: "any"}}) + "\n")
    for words, told in (
        (["edas_in1k"], "without weights"),
        (["edas_c99"], "did you mean"),
        (["--all", "--to", "x"], "--all"),
        (["edas_e8_c10_s", "--name", "mine"], "has its own name"),
        ([str(run), "--name", "a b"], "--name must be"),
        ([], "give one MODEL"),
        ([str(tmp_path)], "not a training run"),
        ([str(tmp_path / "search")], "it is of a search; nas-zoo train --genotype"),
        ([str(tmp_path / "begun")], "it has not ended: nas-zoo train --resume --out"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1


@pytest.mark.slow
def test_a_network_of_ones_own_cells_bears_its_own_name_and_cites_their_search(tmp_path, monkeypatch, capsys):
    """Not that of the model whose size it has, nor DARTS as who found them."""
    record = json.loads(load_genotype("darts_v2")._replace(normal=load_genotype("pc_darts_c10").normal).to_json())
    search = tmp_path / "photos"
    search.mkdir()
    (search / "genotype.json").write_text(json.dumps(record | {"provenance": {"method": "edas", "by": "nas-zoo"}}))
    words = ["--recipe", "quick", "--model", "edas_c10", "--genotype", search, "--init-channels", "4", "--num-cells",
             "3", "--data", write_images(tmp_path / "images"), "--epochs", "1", "--batch-size", "20", "--warmup-epochs",
             "1", "--eval-every", "0", "--workers", "0", "--out", tmp_path / "my cats"]  # fmt: skip
    assert train([str(word) for word in words]) == 0
    run = str(tmp_path / "my cats")
    assert json.loads((tmp_path / "my cats" / "config.json").read_text())["architecture"] == "cell_net_cifar"
    text = card_text(open_checkpoint(run))
    assert "\n# my_cats\n" in text
    assert "model_name" not in text
    assert "- name: my_cats\n" in text
    assert "edas_c10" not in text
    assert "cells found by EDAS" in text
    assert "- EDAS: Efficient and Differentiable Architecture Search, 2019 (arXiv:1912.01237)\n- DARTS:" in text
    assert "for 1 epoch;" in text
    assert "1 epoch is far fewer" in text
    assert "1 epochs" not in text
    assert "\n# insects\n" in card_text(open_checkpoint(run, called="insects"))
    for repo in ("a b/c", "../../x", "alone"):
        with pytest.raises(ValueError, match="repo"):
            write_space(open_checkpoint(run, called="insects"), tmp_path / "space", repo=repo)
    files = {path.name for path in write_space(open_checkpoint(run, called="insects"), tmp_path / "space")}
    assert "index.html" in files
    for name in ("index.html", "README.md"):
        page = (tmp_path / "space" / name).read_text()
        assert "insects" in page
        assert "edas_c10" not in page
    assert nas_zoo(["export", run, "--to-triton", str(tmp_path / "triton"), "--no-check"]) == 0
    assert [path.name for path in (tmp_path / "triton").iterdir()] == ["my_cats"]


@pytest.mark.slow
def test_a_card_of_weights_that_nobody_measured_has_no_figure_and_says_so(run, tmp_path):
    """Neither of other weights, when they are asked for, nor of an older run, which does not say what it measured."""
    from nas_zoo.export.publish.hub import stage

    other, older = tmp_path / "other", tmp_path / "older"
    shutil.copytree(run, other)
    shutil.copytree(run, older)
    weights = load_file(other / "model.safetensors")
    save_file(weights | {"classifier.bias": torch.zeros(10)}, other / "model.safetensors", {"format": "pt"})
    result = json.loads((older / "result.json").read_text())
    del result["weights_sha256"]
    (older / "result.json").write_text(json.dumps(result))
    top1 = f"{100 * result['top1']:.2f}"
    assert f"| {top1} % |" in card_text(open_checkpoint(str(run)))
    for checkpoint in (open_checkpoint(str(other), figures=False), open_checkpoint(str(older))):
        stage(checkpoint, tmp_path / f"staged_{checkpoint.name}", repo="owner/name", onnx=False)
        write_space(checkpoint, tmp_path / f"space_{checkpoint.name}")
        card = (tmp_path / f"staged_{checkpoint.name}" / "README.md").read_text()
        assert "No accuracy was measured on exactly these weights, so none is given." in card
        assert "Measured" not in card
        data = ModelCard(card).data
        assert isinstance(data, ModelCardData)
        assert data.eval_results is None
        for folder in ("staged", "space"):
            for path in (tmp_path / f"{folder}_{checkpoint.name}").glob("*"):
                if path.suffix in (".md", ".json", ".jsonl", ".html"):
                    text = path.read_text()
                    assert f"{top1} %" not in text, path
                    assert "top-1 on its" not in text, path
                    assert '"top1"' not in text, path


def test_names_from_outside_stay_text_in_a_card(run):
    evil = ("<script>alert(1)</script>", "[free](http://example.org)", "a|b", "\x1b[31m", *"efghij")
    text = card_text(with_row(run, label_names=evil, dataset="<b>cats</b> | dogs", device_name="*fast*"))
    body = text.split("---\n", 2)[2]
    assert "\\<script>" in body
    assert "\\[free\\]" in body
    assert "\x1b" not in body
    assert re.search(r"(?<!\\)<(?!br)", body) is None
    (row,) = [line for line in body.splitlines() if line.startswith("| 1") or ("cats" in line and line.startswith("|"))]
    assert len(re.findall(r"(?<!\\)\|", row)) == 6
    assert "\\*fast\\*" in body


def test_no_field_of_the_template_is_left_open(run):
    text = card_text(open_checkpoint(str(run)))
    assert "{{" not in text
    assert "{%" not in text
    assert "None" not in text.replace("[None]", "")
    assert "\n\n\n" not in text
