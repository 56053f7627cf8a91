"""export/graph/onnx_file.py, to_onnx.py and check.py, on a small network that is exported once."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import nn

import nas_zoo
from nas_zoo.export.graph.check import (
    CheckError,
    FixedBatch,
    NotFinite,
    NotOnnx,
    NotSelfContained,
    OtherModel,
    ValuesDiffer,
    WrongNames,
    WrongShape,
    check_onnx,
    summary,
)
from nas_zoo.export.graph.check import main as check_main
from nas_zoo.export.graph.onnx_file import export_onnx, weights_sha256
from nas_zoo.export.graph.real_images import RealImages
from nas_zoo.export.graph.to_onnx import main as export_main
from nas_zoo.export.graph.variants import metadata_of, set_metadata
from nas_zoo.genotype import Genotype

ROOT = Path(__file__).parents[2]
ARGS: dict[str, Any] = {"genotype": "pc_darts_c10", "init_channels": 4, "num_cells": 3, "num_classes": 6}
SIDE = 17  # odd, so that the factorized reduction pads


def lively(model: nn.Module) -> nn.Module:
    """The model with statistics as after a training, so that a BatchNorm lost in the graph would be seen."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.7, 1.3),
                (module.bias.data, -0.3, 0.3),
            ):
                tensor.uniform_(low, high, generator=generator)
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return lively(timm.create_model("cell_net_cifar", drop_rate=0.3, drop_path_rate=0.2, **ARGS))


@pytest.fixture(scope="module")
def exported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # left in training mode, in channels_last and with a gradient, all of which the export must leave alone
    model.train().to(memory_format=torch.channels_last)
    folder = tmp_path_factory.mktemp("export")
    return export_onnx(model, folder / "small.onnx", labels=list("abcdef"), input_size=SIDE)


def altered(exported: Path, tmp_path: Path, change) -> Path:
    """A copy of the file with a change made to its graph."""
    proto = onnx.load(exported)
    change(proto)
    path = tmp_path / "altered.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def weight_of(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in proto.graph.initializer if tensor.name == name)


# The file ------------------------------------------------------------------------------------------------------------


def test_the_file_computes_what_the_model_computes_at_three_batch_sizes(exported: Path, model: Any) -> None:
    figures = check_onnx(exported, model, atol=2e-6)
    assert figures["batches"] == [1, 3, 8]
    assert len(figures["max_abs_diff"]) == 3
    assert 0 <= figures["largest_difference"] < 2e-6
    assert figures["input"] == ["pixel_values", "batch_size", 3, SIDE, SIDE]
    assert figures["output"] == ["logits", "batch_size", 6]
    assert (figures["opset"], figures["ir_version"], figures["bytes"]) == (20, 10, exported.stat().st_size)
    assert (figures["images"], figures["top1_agreement"], figures["top1"]) == ("noise", None, None)
    assert "classes not compared; 16 images of noise" in summary(figures)


def test_the_logits_depend_on_the_image_so_that_the_comparison_means_something(model: Any) -> None:
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        logits = twin(torch.randn(8, 3, SIDE, SIDE))
    assert logits.std(0).min() > 1e-3


def test_check_takes_images_of_any_number(exported: Path, model: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 40, 30, 3), np.uint8)
    figures = check_onnx(exported, model, RealImages("five", list(pixels), None), batches=(2, 7))
    assert (figures["batches"], figures["n"], figures["top1_agreement"], figures["top1"]) == ([2, 7], 5, 1.0, None)
    for sizes in ((), (0, 1)):
        with pytest.raises(ValueError, match="batches must be sizes of at least 1"):
            check_onnx(exported, model, batches=sizes)
    with pytest.raises(ValueError, match="atol must be at least 0, got nan"):
        check_onnx(exported, model, atol=float("nan"))


def test_the_model_is_left_as_it_was(exported: Path, model: Any) -> None:
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    weight = model.stem[0].conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


@pytest.mark.slow
def test_a_second_export_in_another_process_has_the_same_bytes(exported: Path, model: Any, tmp_path: Path) -> None:
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\nf\n")
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in ARGS.items()]
    command = [
        sys.executable, str(ROOT / "export" / "graph" / "to_onnx.py"), "cell_net_cifar", "--weights=model.safetensors",
        "--labels=labels.txt", f"--input-size={SIDE}", "--output=again.onnx", *flags,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "differs by" in done.stdout
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()


def test_nothing_is_printed_while_exporting(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    export_onnx(tiny, tmp_path / "tiny.onnx", input_size=(3, 2, 2), mean=[0.5] * 3, std=[0.5] * 3)
    assert capfd.readouterr() == ("", "")
    assert check_onnx(tmp_path / "tiny.onnx", tiny)["largest_difference"] < 1e-6


def test_the_file_stands_alone_and_tells_nothing_of_this_machine(exported: Path) -> None:
    assert [path.name for path in exported.parent.iterdir()] == ["small.onnx"]
    data = exported.read_bytes()
    for trace in (ROOT, Path.home(), exported.parent, Path(torch.__file__).parent, Path(sys.prefix)):
        assert str(trace).encode() not in data
    for word in (b".py", b"stack_trace", b"Traceback", b"site-packages"):
        assert word not in data
    proto = onnx.load(exported)
    assert not any(node.doc_string or node.metadata_props for node in proto.graph.node)


def test_the_graph_is_lean(exported: Path) -> None:
    kinds = {node.op_type for node in onnx.load(exported).graph.node}
    # each BatchNorm folded, also behind the concatenation of a factorized reduction; no dropout; no shape arithmetic
    assert kinds <= {
        "Add", "AveragePool", "Concat", "Conv", "Gemm", "MaxPool", "ReduceMean", "Relu", "Reshape", "Slice"
    }  # fmt: skip


def test_metadata_say_what_the_file_is_and_how_to_feed_it(exported: Path, model: Any) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert Genotype.from_json(metadata["genotype"]) == model.genotype
    assert json.loads(metadata["labels"]) == list("abcdef")
    assert json.loads(metadata["input_size"]) == [3, SIDE, SIDE]
    assert json.loads(metadata["mean"]) == list(model.pretrained_cfg["mean"])
    assert json.loads(metadata["std"]) == list(model.pretrained_cfg["std"])
    assert json.loads(metadata["crop_pct"]) == 1.0
    assert metadata["interpolation"] == "bilinear"
    assert metadata["model"] == "cell_net_cifar"
    assert (metadata["layout"], metadata["init_channels"], metadata["num_cells"]) == ("cifar", "4", "3")
    assert metadata["weights_sha256"] == weights_sha256(model)
    assert metadata["license"] == "apache-2.0"
    assert metadata["nas_zoo_version"] == nas_zoo.__version__


@pytest.mark.slow
def test_metadata_tell_what_wordnet_ids_mean(model: Any, tmp_path: Path) -> None:
    twin = copy.deepcopy(model)
    names = ("n01440764", *"bcdef")
    twin.pretrained_cfg = twin.pretrained_cfg | {
        "label_names": names, "label_descriptions": {"n01440764": "tench, Tinca tinca", "other": "of no class"}
    }  # fmt: skip
    path = export_onnx(twin, tmp_path / "m.onnx", input_size=SIDE)
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(metadata["labels"]) == list(names)
    assert json.loads(metadata["label_descriptions"]) == {"n01440764": "tench, Tinca tinca"}


def test_weights_sha256_tells_weights_apart_and_not_their_layout(model: Any) -> None:
    twin = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    assert weights_sha256(twin) == weights_sha256(model)
    with torch.no_grad():
        twin.classifier.bias[0] += 1e-6
    assert weights_sha256(twin) != weights_sha256(model)
    assert re.fullmatch("[0-9a-f]{64}", weights_sha256(twin.to(torch.bfloat16)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kwargs", "size", "opset"),
    [
        ("cell_net_imagenet", {"genotype": "darts_v1", "init_channels": 4, "num_cells": 4, "num_classes": 5}, 75, 18),
        ("cell_net_cifar", ARGS | {"pool_bn": True, "genotype": "edas_c10"}, 8, 23),
    ],
)
def test_other_layouts_sizes_and_opsets(name: str, kwargs: dict, size: int, opset: int, tmp_path: Path) -> None:
    model = lively(timm.create_model(name, **kwargs))
    figures = check_onnx(export_onnx(model, tmp_path / "x.onnx", input_size=size, opset=opset), model, atol=1e-5)
    assert (figures["opset"], figures["ir_version"]) == (opset, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"opset": 17}, "opset must be 18 to 23, got 17"),
        ({"labels": ["a"]}, "labels: 1 names for 6 classes"),
        ({"labels": "abcdef"}, "a list of names"),
        ({"mean": [0.5]}, r"mean must be 3 finite number\(s\), one for each channel, got \[0.5\]"),
        ({"std": [0.5, 0.0, 0.5]}, "std must be greater than 0"),
        ({"std": [0.5, float("nan"), 0.5]}, "finite"),
        ({"input_size": (1, 8, 8)}, r"takes images of 3 channel"),
        ({"input_size": (8, 8)}, r"\(C, H, W\)"),
        ({"crop_pct": 0.0}, "crop_pct must be greater than 0 and at most 1, got 0.0"),
        ({"interpolation": "random"}, "interpolation must be one of .* got 'random'"),
        ({"extra_metadata": {"mean": "1"}}, "extra_metadata"),
    ],
)
def test_what_does_not_fit_the_model_is_told_before_the_export(
    model: Any, tmp_path: Path, arguments: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export_onnx(model, tmp_path / "x.onnx", **arguments)
    assert not list(tmp_path.iterdir())


def test_an_export_needs_a_place_a_classifier_and_known_colours(model: Any, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "x.onnx"):
        with pytest.raises(ValueError, match="existing folder"):
            export_onnx(model, path)
    grey = timm.create_model("cell_net_cifar", in_chans=1, **ARGS)
    with pytest.raises(ValueError, match=r"mean: the model's cfg has 3 values, its images have 1 channel.*give mean="):
        export_onnx(grey, tmp_path / "x.onnx")
    headless = timm.create_model("cell_net_cifar", **ARGS | {"num_classes": 0})
    with pytest.raises(ValueError, match="no classifier"):
        export_onnx(headless, tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="no pretrained_cfg"):
        export_onnx(nn.Flatten(), tmp_path / "x.onnx")


# Every named error, on a file that really is wrong ------------------------------------------------------------------


def test_other_names_are_wrong_names(exported: Path, model: Any, tmp_path: Path) -> None:
    def rename(proto: onnx.ModelProto) -> None:
        proto.graph.output[0].name = "scores"
        for node in proto.graph.node:
            node.output[:] = ["scores" if name == "logits" else name for name in node.output]

    with pytest.raises(WrongNames, match=r"altered.onnx: output 'scores'; it must have one, called 'logits'"):
        check_onnx(altered(exported, tmp_path, rename), model)


def test_a_fixed_batch_is_found_in_the_declaration(exported: Path, model: Any, tmp_path: Path) -> None:
    def fix(proto: onnx.ModelProto) -> None:
        del proto.graph.value_info[:]
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 2

    with pytest.raises(FixedBatch, match="for a batch of 2"):
        check_onnx(altered(exported, tmp_path, fix), model)


def test_a_fixed_batch_is_found_inside_the_graph(exported: Path, model: Any, tmp_path: Path) -> None:
    def fix(proto: onnx.ModelProto) -> None:
        reshape = next(node for node in proto.graph.node if node.op_type == "Reshape")
        shape = weight_of(proto, reshape.input[1])
        values = numpy_helper.to_array(shape).copy()
        values[0] = 1
        shape.CopyFrom(numpy_helper.from_array(values, shape.name))
        del proto.graph.value_info[:]

    with pytest.raises(FixedBatch, match="must give a row for each image"):
        check_onnx(altered(exported, tmp_path, fix), model)


def test_another_number_of_classes_is_a_wrong_shape(exported: Path, tmp_path: Path) -> None:
    other = timm.create_model("cell_net_cifar", **ARGS | {"num_classes": 7})
    with pytest.raises(WrongShape, match="6 logits an image, the model gives 7"):
        check_onnx(exported, other)
    grey = timm.create_model("cell_net_cifar", in_chans=1, **ARGS)
    with pytest.raises(WrongShape, match=r"3 channel\(s\), the model takes 1"):
        check_onnx(exported, grey)


def test_nan_among_the_logits_is_not_finite(exported: Path, model: Any, tmp_path: Path) -> None:
    def spoil(proto: onnx.ModelProto) -> None:
        bias = weight_of(proto, "classifier.bias")
        bias.CopyFrom(numpy_helper.from_array(np.array([0, np.nan, 0, 0, 0, 0], np.float32), bias.name))

    with pytest.raises(NotFinite, match="1 of 6 values"):
        check_onnx(altered(exported, tmp_path, spoil), model)
    broken = copy.deepcopy(model)
    nn.init.constant_(broken.classifier.weight, float("inf"))

    def forget(proto: onnx.ModelProto) -> None:
        set_metadata(proto, {key: value for key, value in metadata_of(proto).items() if key != "weights_sha256"})

    with pytest.raises(NotFinite, match="PyTorch model's own"):
        check_onnx(altered(exported, tmp_path, forget), broken)


def test_a_changed_weight_is_found_by_its_values(exported: Path, model: Any, tmp_path: Path) -> None:
    def nudge(proto: onnx.ModelProto) -> None:
        bias = weight_of(proto, "classifier.bias")
        values = numpy_helper.to_array(bias) + np.array([0, 0, 0.01, 0, 0, 0], np.float32)
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))

    with pytest.raises(ValuesDiffer, match=r"differ by up to 1.00e-02, more than 1.00e-04"):
        check_onnx(altered(exported, tmp_path, nudge), model)
    figures = check_onnx(altered(exported, tmp_path, nudge), model, atol=0.1)
    assert figures["largest_difference"] == pytest.approx(0.01, rel=1e-3)


def test_weights_in_a_second_file_are_not_self_contained(exported: Path, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "two.onnx"
    onnx.save(onnx.load(exported), path, save_as_external_data=True, location="two.onnx.data", size_threshold=0)
    assert (tmp_path / "two.onnx.data").stat().st_size > 1000
    with pytest.raises(NotSelfContained, match=r"tensor\(s\) lie in two.onnx.data"):
        check_onnx(path, model)


def test_what_is_no_onnx_file_is_told_so(exported: Path, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    data = exported.read_bytes()
    for broken in (b"", b"hello world", data[: len(data) // 2]):
        path.write_bytes(broken)
        with pytest.raises(NotOnnx, match=r"x\.onnx: not an ONNX file"):
            check_onnx(path, model)
    for missing in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ValueError, match="the name of an ONNX file is needed") as mistake:
            check_onnx(missing, model)
        assert not isinstance(mistake.value, NotOnnx)  # which is about a file that is there


def test_an_invalid_graph_and_a_too_new_one_are_refused(exported: Path, model: Any, tmp_path: Path) -> None:
    def unplug(proto: onnx.ModelProto) -> None:
        proto.graph.node[3].input[0] = "nowhere"

    def future(proto: onnx.ModelProto) -> None:
        proto.opset_import[0].version = 28

    with pytest.raises(NotOnnx, match=r"onnx.checker refuses it: [\s\S]*nowhere"):
        check_onnx(altered(exported, tmp_path, unplug), model)
    with pytest.raises(NotOnnx, match="opset 28, IR 10"):
        check_onnx(altered(exported, tmp_path, future), model)


@pytest.mark.parametrize("key", ["labels", "genotype", "calibration", "input_size"])
@pytest.mark.parametrize("value", ["[" * 100_000, "{", "5"])
def test_metadata_of_another_kind_are_told_with_the_file(
    exported: Path, model: Any, tmp_path: Path, key: str, value: str
) -> None:
    def change(proto: onnx.ModelProto) -> None:
        set_metadata(proto, metadata_of(proto) | {key: value})

    path = altered(exported, tmp_path, change)
    if (key, value) == ("calibration", "5"):  # which is repeated in the figures, whatever it is
        assert check_onnx(path, model)["calibration"] == 5
        return
    with pytest.raises(NotOnnx, match=rf"^{path.name}: ") as caught:
        check_onnx(path, model)
    assert str(caught.value).count(path.name) == 1


def test_a_file_is_told_by_its_name_as_text(exported: Path, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "\x1b[31mnet.onnx"
    path.write_bytes(exported.read_bytes())
    assert summary(check_onnx(path, model)).startswith("\\x1b[31mnet.onnx: ")


def test_every_check_error_is_a_value_error() -> None:
    kinds = (FixedBatch, NotFinite, NotOnnx, NotSelfContained, OtherModel, ValuesDiffer, WrongNames, WrongShape)
    assert all(issubclass(kind, CheckError) and issubclass(kind, ValueError) for kind in kinds)


@pytest.mark.slow
def test_an_export_that_fails_its_check_or_has_no_place_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, model: Any) -> None:
        assert path.is_file()  # it is looked at
        raise ValuesDiffer("another network")

    monkeypatch.setattr("nas_zoo.export.graph.to_onnx.check_onnx", refuse)
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_text("an older one")
    assert export_main(["darts_v2_c10_s", "--output", "net.onnx"]) == 1
    assert "another network" in capsys.readouterr().err
    for place in (".", "none/net.onnx"):
        assert export_main(["darts_v2_c10_s", "--output", place]) == 2
        assert "in an existing folder" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"net.onnx": "an older one"}


# Programs ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_check_onnx_as_a_program(exported: Path, model: Any, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save({"model": model.state_dict()}, weights)
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in ARGS.items()]
    command = [sys.executable, str(ROOT / "export" / "graph" / "check.py"), str(exported), "cell_net_cifar", *flags]
    done = subprocess.run([*command, f"--weights={weights}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"differs by \d\.\de-0\d at most \(of 1\.0e-04 allowed, batches 1, 3, 8\)", done.stdout)


def test_the_check_program_tells_wrong_files_from_wrong_arguments(
    exported: Path, model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["cell_net_cifar", *(f"--{key.replace('_', '-')}={value}" for key, value in ARGS.items())]
    assert check_main([str(exported), *flags]) == 2
    assert "comes without weights: train it" in capsys.readouterr().err
    weights = tmp_path / "weights.safetensors"
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state | {"classifier.bias": state["classifier.bias"] + 1}, weights)
    assert check_main([str(exported), *flags, f"--weights={weights}"]) == 1
    assert "OtherModel: small.onnx: was made from another model: its weights (SHA-256) is" in capsys.readouterr().err
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported.read_bytes()[:1000])  # nothing is found out about it
    assert check_main([str(broken), *flags, f"--weights={weights}"]) == 2
    assert re.fullmatch(
        "nas-zoo check: broken.onnx: not an ONNX file, or a truncated one .*\n", capsys.readouterr().err
    )
    weights.write_bytes(b"broken")
    assert check_main([str(exported), *flags, f"--weights={weights}"]) == 2
    assert "not readable" in capsys.readouterr().err
    save_file({"classifier.bias": state["classifier.bias"]}, weights)
    assert check_main([str(exported), *flags, f"--weights={weights}"]) == 2
    assert "do not fit 'cell_net_cifar'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"genotype": "darts_v2"}, "cells is pc_darts_c10, the model's is darts_v2$"),
        ({"init_channels": 8}, "init_channels is 4, the model's is 8"),
        ({"num_cells": 4}, "num_cells is 3, the model's is 4"),
        ({}, r"weights \(SHA-256\) is"),
    ],
)
def test_a_file_that_says_it_is_of_another_model_is_refused(exported: Path, changed: dict, told: str) -> None:
    other = timm.create_model("cell_net_cifar", **ARGS | changed).eval()
    with pytest.raises(OtherModel, match=rf"small\.onnx: was made from another model: its {told}"):
        check_onnx(exported, other)


@pytest.mark.slow
def test_what_was_not_trained_is_exported_by_its_name_alone(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The attack: a classifier of five random classes went out as a checked file."""
    run, out = tmp_path / "run", tmp_path / "x.onnx"
    twin = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    timm.models.save_for_hf(twin, str(run), safe_serialization=True, model_args=ARGS)
    words = [str(run), f"--output={out}", "--input-size=8", "--no-check"]
    for flags, part, sizes in (
        (["--num-classes=5"], "classifier", "classes"),
        (["--in-chans=1", "--mean=0.5", "--std=0.5"], "stem", "channels of an image"),
    ):
        assert export_main([*words, *flags]) == 2
        err = capsys.readouterr().err
        assert f"trained for another number of {sizes}, so its {part} would be left untrained; --random-weights" in err
        assert not out.exists()
        assert check_main([str(out), str(run), *flags[:1]]) == 2
        assert part in capsys.readouterr().err
    assert export_main([*words, "--num-classes=5", "--random-weights"]) == 0
    assert metadata_of(onnx.load(out))["random_weights"] == "classifier"
    network = [f"--{key.replace('_', '-')}={value}" for key, value in ARGS.items()]
    assert export_main(["cell_net_cifar", f"--output={out}", "--input-size=8", *network, "--random-weights"]) == 0
    assert "RANDOM WEIGHTS: all" in capsys.readouterr().out
    assert metadata_of(onnx.load(out))["random_weights"] == "all"


def test_a_run_folder_can_be_exported(model: Any, tmp_path: Path) -> None:
    from nas_zoo.models.load import load_model

    twin = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    timm.models.save_for_hf(twin, str(tmp_path / "run"), safe_serialization=True)
    loaded = load_model(f"local-dir:{tmp_path / 'run'}")
    assert weights_sha256(loaded) == weights_sha256(model)
