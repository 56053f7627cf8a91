"""export/deliver.py and `nas-zoo export --to`: a folder of checked files, as bytes and as a program."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from PIL import Image

from nas_zoo.data.pictures import fit
from nas_zoo.export.graph.check import CheckError, Disagrees, OtherModel
from nas_zoo.export.graph.check import main as check_main
from nas_zoo.export.graph.deliver import Forms, deliver
from nas_zoo.export.graph.onnx_file import weights_sha256
from nas_zoo.export.graph.real_images import RealImages
from nas_zoo.export.graph.to_onnx import main
from nas_zoo.export.runtime.classifier import OnnxClassifier

ARGS: dict[str, Any] = {"genotype": "darts_v2", "init_channels": 4, "num_cells": 3, "num_classes": 3}
LABELS = ["ant", "bee", "cow"]
SIDE = 8
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
ALL = ["model.onnx", "model_images.onnx", "model_fp16.onnx", "model_fp16_images.onnx", "model_int8.onnx",
       "model_int8_images.onnx"]  # fmt: skip
HOW: dict[str, Any] = {"labels": LABELS, "mean": MEAN, "std": STD, "input_size": SIDE}


def photograph(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(small).resize((20, 14), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    model: Any = timm.create_model("cell_net_cifar", **ARGS).eval()
    pictures = np.stack([np.asarray(photograph(seed).resize((SIDE, SIDE))) for seed in range(64)])
    x = torch.from_numpy(((pictures / 255 - 0.5) / 0.25).astype(np.float32)).permute(0, 3, 1, 2)
    torch.nn.init.normal_(model.classifier.weight)
    with torch.no_grad():
        model.classifier.weight *= (3 / model(x).std(0))[:, None]
        model.classifier.bias -= model(x).mean(0)
    return model


@pytest.fixture(scope="module")
def run(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as training leaves it."""
    folder = tmp_path_factory.mktemp("run")
    timm.models.save_for_hf(model, str(folder), safe_serialization=True, model_args=ARGS)
    return folder


@pytest.fixture(scope="module")
def photos(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in folders of what the model sees in them."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(30):
        x = np.asarray(fit(photograph(seed), SIDE), np.float32)
        with torch.no_grad():
            label = int(model(torch.from_numpy((x / 255 - 0.5) / 0.25).permute(2, 0, 1)[None]).argmax())
        (folder / LABELS[label]).mkdir(exist_ok=True)
        photograph(seed).save(folder / LABELS[label] / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def delivered(run: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All forms, written by the program."""
    folder = tmp_path_factory.mktemp("delivered") / "out"
    (folder.parent / "labels.txt").write_text("\n".join(LABELS))
    words = [f"local-dir:{run}", "--to", str(folder), "--dtype=float16", "--int8", f"--calibration={photos}",
             f"--images={photos}", "--with-preprocessing", f"--labels={folder.parent / 'labels.txt'}",
             f"--input-size={SIDE}", "--mean", *map(str, MEAN), "--std", *map(str, STD), "--agreement=0.7"]  # fmt: skip
    assert main(words) == 0
    return folder


def test_the_folder_holds_every_form_and_what_its_check_found(delivered: Path, model: Any) -> None:
    expected = {*ALL, *(name.replace(".onnx", ".check.json") for name in ALL)}
    assert {path.name for path in delivered.iterdir()} == expected
    for name in ALL:
        figures = json.loads((delivered / name.replace(".onnx", ".check.json")).read_text())
        assert figures["file"] == name
        assert figures["bytes"] == (delivered / name).stat().st_size
        assert figures["weights_sha256"] == weights_sha256(model)
        assert figures["batches"] == [1, 3, 8]
        assert figures["n"] == 30
        assert figures["top1"]["pytorch"] == 1.0  # the folders are named after what the model sees
        assert figures["top1_agreement"] >= 0.7
        metadata = OnnxClassifier(delivered / name).metadata
        assert json.loads(metadata["labels"]) == LABELS
        assert json.loads(metadata["mean"]) == list(MEAN)
        assert metadata["weights_sha256"] == weights_sha256(model)
        assert metadata["license"] == "apache-2.0"
        assert "genotype" in metadata
        proto = onnx.load(delivered / name)
        assert (proto.opset_import[0].version, len(proto.opset_import), proto.ir_version) == (20, 1, 10)
    kinds = [json.loads((delivered / n.replace(".onnx", ".check.json")).read_text())["kind"] for n in ALL]
    assert kinds == ["float32", "float32 preprocessing", "float16", "float16 preprocessing", "int8",
                     "int8 preprocessing"]  # fmt: skip


def test_all_forms_predict_alike_through_one_class(delivered: Path, photos: Path) -> None:
    pictures = [photograph(seed) for seed in range(100, 120)]
    expected = OnnxClassifier(delivered / "model.onnx").predict(pictures, top_k=1)
    for name in ALL[1:]:
        found = OnnxClassifier(delivered / name, batch_size=7).predict(pictures, top_k=1)
        agreeing = sum(a.labels == b.labels for a, b in zip(found, expected, strict=True))
        assert agreeing >= (14 if "int8" in name else 19)


def test_predict_takes_every_form(delivered: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nas_zoo.cli import main as nas_zoo_main

    for name in ALL:
        words = ["predict", str(delivered / name), str(photos), "--provider=cpu", "--batch-size=4", "--json"]
        assert nas_zoo_main(words) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(lines) == 30
        right = sum(line["top"][0]["label"] == Path(line["image"]).parent.name for line in lines)
        assert right >= (21 if "int8" in name else 29)
    with pytest.raises(SystemExit, match="2"):
        nas_zoo_main(["predict", str(delivered / ALL[0]), str(photos), "--batch-size=0"])
    assert "--batch-size must be a whole number of at least 1, got 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_second_delivery_is_the_same_bytes(delivered: Path, model: Any, photos: Path, tmp_path: Path) -> None:
    from nas_zoo.export.graph.real_images import real_images

    forms = Forms(float16=True, int8=True, layout="NHWC")
    calibration = real_images(str(photos), split="train")
    paths = deliver(model, tmp_path / "again", forms, calibration=calibration, agreement=0.7, check=False, **HOW)
    assert [path.name for path in paths] == ALL
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == sorted(ALL)  # unchecked: no figures
    for path in paths:
        assert path.read_bytes() == (delivered / path.name).read_bytes(), path.name


def test_where_one_form_fails_its_check_nothing_is_written(
    delivered: Path, model: Any, photos: Path, tmp_path: Path
) -> None:
    from nas_zoo.export.graph.real_images import real_images

    base = delivered / "model.onnx"
    (tmp_path / "model_int8.onnx").write_bytes(b"an earlier file")
    noise = RealImages("noise", list(np.random.default_rng(0).integers(0, 256, (16, SIDE, SIDE, 3), np.uint8)), None)
    constant = RealImages("black", [np.zeros((SIDE, SIDE, 3), np.uint8)], None)  # ranges that fit no photograph
    images = real_images(str(photos), classes=LABELS)
    with pytest.raises(Disagrees, match=r"model_int8\.onnx: same class for .* of 30 images"):
        deliver(model, tmp_path, Forms(int8=True), images=images, calibration=constant, agreement=1.0, base=base)
    assert [path.name for path in tmp_path.iterdir()] == ["model_int8.onnx"]
    assert (tmp_path / "model_int8.onnx").read_bytes() == b"an earlier file"
    other = timm.create_model("cell_net_cifar", **ARGS)
    with pytest.raises(OtherModel):
        deliver(other, tmp_path / "other", images=noise, base=base)
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="int8: needs real images"):
        deliver(model, tmp_path, Forms(int8=True))
    with pytest.raises(ValueError, match="is a file"):
        deliver(model, delivered / "model.onnx")
    assert issubclass(Disagrees, CheckError)


@pytest.mark.slow
def test_a_calibration_on_few_pictures_is_told_with_what_it_does(delivered: Path, model: Any, tmp_path: Path) -> None:
    said: list[str] = []
    for count in (1, 100):
        images = RealImages("photos", [photograph(seed).resize((SIDE, SIDE)) for seed in range(count)], None)
        deliver(
            model, tmp_path, Forms(int8=True), calibration=images, check=False, base=delivered / "model.onnx",
            say=said.append,
        )  # fmt: skip
    one, many = (words for words in said if words.startswith("calibrating"))
    assert one.startswith("calibrating on 1 image: fewer than 100, so the ranges of the activations are those of few")
    assert many == "calibrating on 100 images"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dtype=float16"], "--dtype can be given with --to FOLDER"),
        (["--to=out", "--output=x.onnx"], "--output can be given with neither --to nor --to-triton only"),
        (["--to=out", "--agreement=0.5"], "--agreement can be given with --images, --data or --calibration only"),
        (["--agreement=0.5"], "--agreement can be given with --to FOLDER"),
        (["--to=out", "--model-name=x", "--overwrite"], "--model-name, --overwrite can be given with --to-triton"),
        (["--to=out", "--tensorrt-fp16"], "--tensorrt-fp16 can be given with --to-triton REPOSITORY only"),
        (["--to=out", "--reduce-range"], "--reduce-range can be given with --int8 only"),
        (["--to=out", "--layout=NCHW"], "--layout can be given with --with-preprocessing only"),
        (["--to=out", "--check-images=5"], "--check-images can be given with --images or --data only"),
        (["--to=out", "--images=.", "--no-check"], "--images can be given with a check (without --no-check) only"),
        (["--to=out", "--int8"], "--int8: needs --calibration"),
        (["--to=out", "--calibration=digits"], "--calibration can be given with --int8 only"),
        (["--to=out", "--images=nowhere"], "images 'nowhere': no such folder, tar or zip"),
        (["--to=out", "--images=.", "--data=digits"], "--images and --data: give one of them"),
        (["--to=out", "--data=digits"], "digits has"),
        (["--to=out", "--dtype=float64"], "float64"),
    ],
)
def test_a_mistake_is_told_before_anything_is_exported(
    run: Path, words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    try:
        code = main([str(run), *words])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err.replace("10 classes, the model", "digits has")
    assert not list(tmp_path.iterdir())


def test_files_that_take_pictures_are_not_made_for_channels_that_no_picture_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["cell_net_cifar", "--num-cells=2", "--init-channels=4", "--in-chans=4", "--random-weights",
             *("--mean", *"5555", "--std", *"5555")]  # fmt: skip
    assert main([*words, f"--to={tmp_path / 'out'}", "--with-preprocessing"]) == 2
    assert "'cell_net_cifar' takes images of 4 channels, and pictures have 1 or 3" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_pipe_is_not_replaced_and_labels_are_text(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("latin").write_bytes(b"\xe9\nb\nc\n")
    Path("marked").write_text("\ufeffant\nbee\ncow\n", "utf-8")  # as an editor of Windows writes it
    assert main([str(run), "--output=pipe"]) == 2
    assert "output 'pipe' must be the name of a file" in capsys.readouterr().err
    assert Path("pipe").is_fifo()
    assert main([str(run), "--labels=latin"]) == 2
    assert "labels 'latin' must be UTF-8 text, a name on each line; at byte 0" in capsys.readouterr().err
    assert main([str(run), "--labels=marked", f"--input-size={SIDE}", "--no-check"]) == 0
    assert OnnxClassifier("model.onnx").labels == tuple(LABELS)


@pytest.mark.slow
def test_the_program_says_which_check_failed_and_ends_with_1(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    black = tmp_path / "black"
    black.mkdir()
    Image.new("RGB", (SIDE, SIDE)).save(black / "black.png")
    words = [str(run), f"--to={tmp_path / 'out'}", "--int8", f"--calibration={black}", f"--images={photos}",
             f"--input-size={SIDE}", "--agreement=1", f"--labels={tmp_path / 'labels.txt'}"]  # fmt: skip
    assert main(words) == 1
    assert "nas-zoo export: Disagrees: model_int8.onnx: same class for" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_check_program_takes_every_form_and_real_images(
    run: Path, delivered: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model.onnx", "model_fp16_images.onnx"):
        target = tmp_path / f"{name}.json"
        assert check_main([str(delivered / name), str(run), f"--images={photos}", f"--json={target}"]) == 0
        assert f"{name}: 0." in capsys.readouterr().out
        assert json.loads(target.read_text())["n"] == 30
    assert check_main([str(delivered / "model_fp16.onnx"), str(run)]) == 0
    assert "16 images of noise" in capsys.readouterr().out
    assert check_main([str(delivered / "model.onnx"), str(run), f"--images={photos}", "--data=digits"]) == 2
    assert check_main([str(delivered / "model.onnx"), str(run), f"--images={photos}", "--atol=1e-12"]) == 1
    assert "nas-zoo check: ValuesDiffer: model.onnx: logits differ" in capsys.readouterr().err


@pytest.mark.slow
def test_a_repository_for_triton_holds_the_last_form(
    run: Path, delivered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = delivered.parent / "labels.txt"
    words = [str(run), "--to-triton=repository", "--dtype=float16", "--with-preprocessing", "--model-name=insects",
             f"--input-size={SIDE}", f"--labels={labels}", "--mean=0.5,0.5,0.5", "--std=0.25,0.25,0.25"]  # fmt: skip
    assert main(words) == 0
    folder = tmp_path / "repository" / "insects"
    assert (folder / "1" / "model.onnx").read_bytes() == (delivered / "model_fp16_images.onnx").read_bytes()
    assert (folder / "labels.txt").read_text().split() == LABELS
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]
    assert main(words) == 2  # it is there already, which is told before the export
