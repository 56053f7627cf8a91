"""export/variants.py, quantize.py and check.py: float16, int8 and files with their preprocessing, really run."""

import copy
import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import numpy_helper
from PIL import Image

from nas_zoo.data.named import open_source
from nas_zoo.export.graph.check import (
    TOLERANCES,
    AccuracyLost,
    CheckError,
    Disagrees,
    FixedBatch,
    NotFinite,
    NotOnnx,
    OtherModel,
    Tolerance,
    ValuesDiffer,
    WrongNames,
    check_onnx,
    summary,
)
from nas_zoo.export.graph.onnx_file import export_onnx, weights_sha256
from nas_zoo.export.graph.quantize import int8_variant
from nas_zoo.export.graph.real_images import RealImages, real_images
from nas_zoo.export.graph.variants import (
    float16_variant,
    metadata_of,
    set_metadata,
    to_bytes,
    with_preprocessing,
)
from nas_zoo.export.runtime.classifier import OnnxClassifier
from nas_zoo.models.load import read_state_dict
from nas_zoo.train.evaluation import evaluate_model
from tests.export.test_runtime import photograph
from tests.weights import write_images

LABELS = ["ant", "bee", "cow", "dog", "elk"]
SIDE = 16
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    model: Any = timm.create_model(
        "cell_net_cifar", genotype="darts_v2", init_channels=4, num_cells=3, num_classes=5
    ).eval()
    # So that photographs differ in their classes, as they do after a training: logits of deviation 3 around 0.
    pictures = np.stack([np.asarray(photograph(seed).resize((SIDE, SIDE))) for seed in range(64)])
    x = torch.from_numpy(((pictures / 255 - MEAN) / STD).astype(np.float32)).permute(0, 3, 1, 2)
    torch.nn.init.normal_(model.classifier.weight)
    with torch.no_grad():
        logits = model(x)
        model.classifier.weight *= (3 / logits.std(0))[:, None]
        model.classifier.bias -= model(x).mean(0)
    return model


@pytest.fixture(scope="module")
def exported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("variants") / "model.onnx"
    return export_onnx(model, path, labels=LABELS, input_size=SIDE, mean=MEAN, std=STD,
                       crop_pct=0.875)  # fmt: skip


@pytest.fixture(scope="module")
def base(exported: Path) -> onnx.ModelProto:
    return onnx.load(exported)


@pytest.fixture(scope="module")
def images(model: Any, exported: Path) -> RealImages:
    """Photographs of one size, labelled with what the model makes of them, except for every fourth."""
    classifier = OnnxClassifier(exported)
    pictures = [photograph(seed) for seed in range(40)]
    labels = np.array([p.indices[0] for p in classifier.predict(pictures, top_k=1)], np.int64)
    assert len(set(labels)) > 2
    labels[::4] = (labels[::4] + 1) % 5
    return RealImages("photographs", pictures, labels)


@pytest.fixture(scope="module")
def pixels(exported: Path) -> np.ndarray:
    classifier = OnnxClassifier(exported)
    return np.stack([classifier.preprocess(photograph(seed)) for seed in range(100, 140)])


def saved(tmp_path: Path, proto: onnx.ModelProto, name: str = "x.onnx") -> Path:
    onnx.checker.check_model(proto, full_check=True)
    (tmp_path / name).write_bytes(to_bytes(proto))
    return tmp_path / name


# float16 -------------------------------------------------------------------------------------------------------------


def test_a_float16_file_takes_and_gives_float32_and_has_half_the_weights(
    base: onnx.ModelProto, model: Any, images: RealImages, tmp_path: Path
) -> None:
    half = float16_variant(base)
    kinds = Counter(tensor.data_type for tensor in half.graph.initializer)
    assert kinds[onnx.TensorProto.FLOAT] == 0
    assert kinds[onnx.TensorProto.FLOAT16] > 20
    for value in (*half.graph.input, *half.graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert metadata_of(half) == metadata_of(base) | {"dtype": "float16"}
    path = saved(tmp_path, half)
    figures = check_onnx(path, model, images)
    assert figures["kind"] == "float16"
    assert 1e-6 < figures["largest_difference"] < 2e-2 * figures["largest_logit"]
    assert OnnxClassifier(path).dtype == "float16"
    assert check_onnx(path, model, atol=0.02)["accepted"]["difference"] >= 0.02


def test_weights_beyond_float16_are_refused(base: onnx.ModelProto) -> None:
    twin = onnx.ModelProto()
    twin.CopyFrom(base)
    bias = next(tensor for tensor in twin.graph.initializer if tensor.name == "classifier.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(5, 70_000, np.float32), bias.name))
    with pytest.raises(ValueError, match=r"'classifier\.bias' go beyond 65504"):
        float16_variant(twin)


def test_a_file_with_float16_input_and_output_runs_too(base: onnx.ModelProto, tmp_path: Path) -> None:
    """As others export them; ours keep float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    whole = convert_float_to_float16(base, keep_io_types=False)
    path = saved(tmp_path, whole)
    classifier = OnnxClassifier(path)
    x = np.random.default_rng(0).standard_normal((3, 3, SIDE, SIDE)).astype(np.float32)
    logits = classifier.logits(x)
    assert logits.dtype == np.float32
    assert classifier.run(x).dtype == torch.float16
    saved(tmp_path, base, "base.onnx")
    np.testing.assert_allclose(logits, OnnxClassifier(tmp_path / "base.onnx").logits(x), atol=0.3)


# int8 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_an_int8_file_has_a_scale_a_channel_and_keeps_the_classes(
    base: onnx.ModelProto, model: Any, images: RealImages, pixels: np.ndarray, target: str, tmp_path: Path
) -> None:
    made = int8_variant(base, pixels, target=target)
    weights = {tensor.name: tensor for tensor in made.graph.initializer}
    constants = {name: numpy_helper.to_array(tensor) for name, tensor in weights.items()}
    kernels = [array for array in constants.values() if array.dtype == np.int8 and array.ndim == 4]
    convolutions = [node for node in base.graph.node if node.op_type == "Conv"]
    assert len(kernels) == len(convolutions)
    per_channel = [
        node for node in made.graph.node
        if node.op_type == "DequantizeLinear" and constants.get(node.input[0], np.zeros(0)).ndim == 4
    ]  # fmt: skip
    for node in per_channel:
        assert constants[node.input[1]].shape == (constants[node.input[0]].shape[0],)
        assert not constants[node.input[2]].any()  # symmetric
    activations = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    zeros = {constants[node.input[2]].dtype for node in activations}
    assert zeros == {np.dtype(np.int8 if target == "tensorrt" else np.uint8)}
    if target == "tensorrt":
        assert not any(constants[node.input[2]].any() for node in activations)
        assert not any(array.dtype == np.int32 for array in constants.values())
    texts = metadata_of(made)
    assert (texts["dtype"], texts["int8_target"]) == ("int8", target)
    calibration = json.loads(texts["calibration"])
    assert (calibration["images"], calibration["method"]) == (32, "minmax")  # 40: two batches of 16
    assert {key: texts[key] for key in metadata_of(base) if key != "dtype"} == {
        key: value for key, value in metadata_of(base).items() if key != "dtype"
    }
    assert [(entry.domain, entry.version) for entry in made.opset_import] == [("", 20)]
    assert made.ir_version == base.ir_version
    # Logits this network was not trained to keep apart: a wide tolerance, and chance would be a fifth.
    figures = check_onnx(saved(tmp_path, made), model, images, tolerance=Tolerance(float("inf"), 0.85, 0.1))
    assert figures["top1_agreement"] >= 0.85
    assert figures["largest_difference"] > 1e-3  # it is another arithmetic
    assert figures["calibration"] == calibration


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_other_ranges_give_other_files(base: onnx.ModelProto, pixels: np.ndarray, method: str) -> None:
    made = int8_variant(base, pixels, method=method)
    assert json.loads(metadata_of(made)["calibration"])["method"] == method
    assert to_bytes(made) != to_bytes(int8_variant(base, pixels))


def test_seven_bits_and_nodes_that_stay_float(base: onnx.ModelProto, pixels: np.ndarray) -> None:
    made = int8_variant(base, pixels, reduce_range=True)
    kernels = [numpy_helper.to_array(tensor) for tensor in made.graph.initializer]
    assert max(np.abs(k).max() for k in kernels if k.dtype == np.int8 and k.ndim == 4) <= 64
    first = next(node.name for node in base.graph.node if node.op_type == "Conv")
    kept = int8_variant(base, pixels, keep_float=[first])
    node = next(node for node in kept.graph.node if node.name == first)
    assert numpy_helper.to_array(next(t for t in kept.graph.initializer if t.name == node.input[1])).dtype == np.float32


def test_nothing_is_printed_while_quantising(
    base: onnx.ModelProto, pixels: np.ndarray, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    int8_variant(base, pixels[:4], method="entropy")
    float16_variant(base)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "gpu"}, "target must be one of cpu, tensorrt, got 'gpu'"),
        ({"method": "mean"}, "method must be one of .*, got 'mean'"),
        ({"keep_float": ["nothing"]}, "keep_float 'nothing'"),
        ({"pixel_values": np.zeros((4, 3, 9, 9), np.float32)}, r"float32 \(N, 3, 16, 16\)"),
        ({"pixel_values": np.zeros((4, 3, SIDE, SIDE), np.uint8)}, "uint8"),
        ({"pixel_values": np.zeros((0, 3, SIDE, SIDE), np.float32)}, "no images"),
    ],
)
def test_what_cannot_be_quantised_is_told(
    base: onnx.ModelProto, pixels: np.ndarray, arguments: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        int8_variant(base, **({"pixel_values": pixels} | arguments))


# preprocessing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_a_file_with_preprocessing_gives_the_probabilities_of_pytorch(
    base: onnx.ModelProto, model: Any, exported: Path, layout: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, with_preprocessing(base, layout))
    classifier, outside = OnnxClassifier(path, batch_size=4), OnnxClassifier(exported, batch_size=4)
    assert classifier.takes_images
    assert not outside.takes_images
    for height, width in ((SIDE, SIDE), (18, 18), (30, 41), (41, 30), (200, 133), (9, 7)):
        pictures = [photograph(seed, height, width) for seed in range(3)]
        x = np.stack([classifier.prepare(picture) for picture in pictures])
        assert x.shape == ((3, height, width, 3) if layout == "NHWC" else (3, 3, height, width))
        scaled = torch.from_numpy(np.stack([outside.preprocess(picture) for picture in pictures]))
        with torch.no_grad():
            expected = model(scaled).softmax(1).numpy()
        got = classifier.probabilities(x)
        np.testing.assert_allclose(got, expected, atol=1e-4 if (height, width) == (18, 18) else 0.03)
        np.testing.assert_allclose(got.sum(1), 1, atol=1e-5)


def test_a_file_with_preprocessing_that_crops_agrees_without_images_too(
    base: onnx.ModelProto, model: Any, tmp_path: Path
) -> None:
    figures = check_onnx(saved(tmp_path, with_preprocessing(base)), model)
    assert (figures["images"], figures["n"]) == ("noise", 16)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_graph_resizes_as_pillow_does(base: onnx.ModelProto, interpolation: str) -> None:
    """Of the graph the part before the model, whose pixels are compared with those of OnnxClassifier.preprocess."""
    import onnxruntime

    twin = onnx.ModelProto()
    twin.CopyFrom(base)
    set_metadata(twin, metadata_of(base) | {"interpolation": interpolation})
    made = with_preprocessing(twin)
    del made.graph.output[:]
    made.graph.output.append(onnx.helper.make_tensor_value_info("pre_cropped", onnx.TensorProto.UINT8, None))
    session = onnxruntime.InferenceSession(to_bytes(made))
    from nas_zoo.export.runtime.classifier import _decode

    resampling = Image.Resampling[interpolation.upper()]
    for height, width in ((SIDE, SIDE), (17, 16), (30, 41), (300, 17), (240, 320), (9, 5), (1, 50)):
        picture = photograph(height, height, width)
        (got,) = session.run(["pre_cropped"], {"images": np.asarray(picture)[None]})
        expected = _decode(picture, "", (3, SIDE, SIDE), 0.875, resampling)
        difference = np.abs(got[0].transpose(1, 2, 0).astype(int) - expected.astype(int))
        assert difference.max() <= 1, (height, width)
        assert difference.mean() < 0.1


def test_images_of_several_sizes_are_predicted_in_their_order(
    base: onnx.ModelProto, exported: Path, tmp_path: Path
) -> None:
    path = saved(tmp_path, with_preprocessing(base))
    pictures = [photograph(seed, *((30, 41) if seed % 3 else (52, 33))) for seed in range(23)]
    inside = OnnxClassifier(path, batch_size=4).predict(pictures, top_k=5)
    outside = OnnxClassifier(exported).predict(pictures, top_k=5)
    for a, b in zip(inside, outside, strict=True):
        known = dict(zip(b.labels, b.probabilities, strict=True))
        assert a.probabilities == sorted(a.probabilities, reverse=True)
        for label, probability in zip(a.labels, a.probabilities, strict=True):
            assert probability == pytest.approx(known[label], abs=0.03)
    (tmp_path / "photos").mkdir()
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / "photos" / f"{i:02}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    results = OnnxClassifier(path).predict_folder(tmp_path / "photos")
    assert [prediction.labels for _, prediction in results] == [prediction.labels for prediction in inside]
    assert [place.name for place, _ in results.errors] == ["broken.png"]


def test_a_file_with_preprocessing_refuses_what_it_does_not_take(base: onnx.ModelProto, tmp_path: Path) -> None:
    classifier = OnnxClassifier(saved(tmp_path, with_preprocessing(base)))
    with pytest.raises(ValueError, match=r"must be uint8 images \(N, height, width, 3\), got float32 .*; scaled ones"):
        classifier.probabilities(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match=r"\(1, 8, 8, 4\)"):
        classifier.probabilities(np.zeros((1, 8, 8, 4), np.uint8))
    with pytest.raises(ValueError, match=r"gives probabilities, no logits: probabilities\(\)"):
        classifier.logits(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="layout must be NHWC or NCHW, got 'HWC'"):
        with_preprocessing(base, "HWC")
    for change, message in (({"interpolation": "lanczos"}, "lanczos"), ({"mean": None}, "has no mean")):
        twin = onnx.ModelProto()
        twin.CopyFrom(base)
        texts: dict[str, Any] = metadata_of(base) | change
        set_metadata(twin, {key: value for key, value in texts.items() if value is not None})
        with pytest.raises(ValueError, match=message):
            with_preprocessing(twin)


def test_every_form_is_the_same_bytes_each_time(base: onnx.ModelProto, pixels: np.ndarray) -> None:
    before = to_bytes(base)
    for make in (
        float16_variant,
        with_preprocessing,
        lambda proto: int8_variant(proto, pixels),
        lambda proto: with_preprocessing(int8_variant(proto, pixels)),
    ):
        first = to_bytes(make(base))
        assert first == to_bytes(make(base))
        assert to_bytes(base) == before  # what it was made from is left as it was
        for trace in (b"/tmp", b".py", str(Path.home()).encode()):
            assert trace not in first


# check ---------------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_check_are_those_that_can_be_computed_by_hand(
    exported: Path, model: Any, images: RealImages
) -> None:
    figures = check_onnx(exported, model, images, batches=(1, 5))
    assert json.loads(json.dumps(figures)) == figures
    assert (figures["file"], figures["kind"], figures["n"]) == ("model.onnx", "float32", 40)
    assert (figures["batches"], len(figures["max_abs_diff"])) == ([1, 5], 2)
    assert 0 < figures["largest_difference"] < 1e-4 * figures["largest_logit"]
    assert figures["top1_agreement"] == 1.0
    assert figures["top1"] == {"pytorch": 0.75, "onnx": 0.75}  # every fourth label is wrong
    assert figures["bytes"] == exported.stat().st_size
    assert figures["input"] == ["pixel_values", "batch_size", 3, SIDE, SIDE]
    assert "right 75.00% (PyTorch 75.00%); 40 images of photographs" in summary(figures)
    noise = check_onnx(exported, model)
    assert (noise["images"], noise["top1"], noise["top1_agreement"]) == ("noise", None, None)  # nothing was judged


def test_each_way_of_being_wrong_has_its_error(
    base: onnx.ModelProto, exported: Path, model: Any, images: RealImages, tmp_path: Path
) -> None:
    def altered(name: str, change: Any) -> Path:
        twin = onnx.ModelProto()
        twin.CopyFrom(base)
        tensor = next(t for t in twin.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
        del twin.graph.value_info[:]
        return saved(tmp_path, twin)

    other = altered("classifier.bias", lambda bias: bias + np.array([0.5, 0, 0, 0, 0], np.float32))
    seen: list[Any] = []
    with pytest.raises(ValuesDiffer, match=r"x\.onnx: logits differ by up to 5\.00e-01, more than"):
        check_onnx(other, model, images, failed=lambda figures, error: seen.append((figures, error)))
    assert seen[0][0]["largest_difference"] == pytest.approx(0.5, rel=1e-2)
    loose = Tolerance(float("inf"), 1.0, 1.0)
    swapped = altered("classifier.bias", lambda bias: bias[::-1].copy() * 20)
    with pytest.raises(Disagrees, match=r"same class for \d+\.\d\d% of 40 images \(photographs\), less than 100\.00%"):
        check_onnx(swapped, model, images, tolerance=loose)
    with pytest.raises(
        AccuracyLost, match=r"right of 40 images \(photographs\), PyTorch 75\.00%; that is more than 0\.00%"
    ):
        check_onnx(swapped, model, images, tolerance=Tolerance(float("inf"), 0.0, 0.0))
    with pytest.raises(NotFinite, match="values are not finite"):
        check_onnx(altered("classifier.bias", lambda bias: bias * np.float32("nan")), model, images)
    reshape = next(node for node in base.graph.node if node.op_type == "Reshape").input[1]
    with pytest.raises(FixedBatch, match="must give a row for each image"):
        check_onnx(altered(reshape, lambda shape: np.array([1, *shape[1:]])), model, images)
    renamed = onnx.ModelProto()
    renamed.CopyFrom(with_preprocessing(base))
    set_metadata(renamed, {key: value for key, value in metadata_of(renamed).items() if key != "preprocessing"})
    with pytest.raises(WrongNames, match="input 'images'; it must have one, called 'pixel_values'"):
        check_onnx(saved(tmp_path, renamed), model, images)
    (tmp_path / "broken.onnx").write_bytes(exported.read_bytes()[:3000])
    with pytest.raises(NotOnnx):
        check_onnx(tmp_path / "broken.onnx", model, images)
    with pytest.raises(ValueError, match="no images"):
        check_onnx(exported, model, RealImages("nothing", [], None))
    assert issubclass(Disagrees, CheckError)
    assert issubclass(AccuracyLost, CheckError)
    assert {kind.split()[0] for kind in TOLERANCES} == {"float32", "float16", "int8"}


def test_an_int8_file_of_another_network_is_refused(
    base: onnx.ModelProto, model: Any, pixels: np.ndarray, images: RealImages, tmp_path: Path
) -> None:
    """The attack: on noise any int8 file passed for the model, since nothing bounds its values there."""
    quantized = int8_variant(base, pixels)
    path = saved(tmp_path, quantized)
    other = copy.deepcopy(model)
    torch.nn.init.normal_(other.classifier.weight)
    assert check_onnx(path, model)["top1_agreement"] is None
    with pytest.raises(OtherModel, match=r"its weights \(SHA-256\) is"):
        check_onnx(path, other)
    texts = metadata_of(quantized)
    set_metadata(quantized, {key: value for key, value in texts.items() if key != "weights_sha256"})
    silent, forged = saved(tmp_path, quantized), tmp_path / "forged.onnx"
    set_metadata(quantized, texts | {"weights_sha256": weights_sha256(other)})
    forged.write_bytes(to_bytes(quantized))
    inside = tmp_path / "inside.onnx"
    inside.write_bytes(to_bytes(with_preprocessing(quantized)))
    for file in (silent, forged, inside):
        for given in (None, images):
            with pytest.raises(OtherModel, match="holds the weights of another model"):
                check_onnx(file, other, given)
    figures = check_onnx(silent, model)
    assert figures["weights_difference"] < 0.05 * figures["largest_logit"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_where_a_file_is_meant_is_told_and_not_waited_for(model: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a pipe or a device, not a file; the name of an ONNX file is needed"):
        check_onnx(tmp_path / "pipe", model)
    with pytest.raises(ValueError, match="a folder, a pipe or a device, not a file"):
        read_state_dict(tmp_path / "pipe")


# real images ---------------------------------------------------------------------------------------------------------


def test_a_folder_has_labels_where_its_folders_are_the_classes(tmp_path: Path) -> None:
    for i, place in enumerate(("val/bee", "val/ant", "val/bee", "val/elk")):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        photograph(i).save(tmp_path / place / f"{i}.png")
    found = real_images(str(tmp_path), classes=LABELS)
    assert [Path(str(image)).name for image in found.images] == ["1.png", "0.png", "2.png", "3.png"]
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 1, 4]
    assert len(real_images(str(tmp_path), classes=LABELS, limit=2)) == 2


def test_of_a_split_folder_calibration_gets_no_test_images(tmp_path):
    images = write_images(tmp_path / "images", per_class=2)
    for split, folder in (("train", "train"), ("test", "test"), (None, "test")):
        found = real_images(str(images), split=split)
        assert {Path(str(image)).relative_to(images).parts[0] for image in found.images} == {folder}
        assert len(found) == 20
    assert len(real_images(str(images / "train"), split="test")) == 20  # not split: all of them
    assert real_images(str(tmp_path), classes=["cat", "dog"]).labels is None
    assert real_images(str(tmp_path)).labels is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in this folder"):
        real_images(str(tmp_path / "empty"))


def test_of_a_tar_the_test_images_are_a_part_or_all(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / "tree" / LABELS[i % 2]).mkdir(parents=True, exist_ok=True)
        photograph(i).resize((16, 16)).save(tmp_path / "tree" / LABELS[i % 2] / f"{i}.png")
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        tar.add(tmp_path / "tree", "tree")
    part, whole = (real_images(str(tmp_path / "some.tar"), split=split) for split in ("test", None))
    assert (len(part), len(whole)) == (4, 20)
    assert whole.name == "some.tar (test)"  # it stands in published files, which name no folders
    assert whole.labels is not None
    assert np.bincount(whole.labels).tolist() == [10, 10]


def test_of_a_tar_every_form_sees_what_the_model_is_evaluated_on(
    base: onnx.ModelProto, exported: Path, model: Any, tmp_path: Path
) -> None:
    """In their own size: images cut to the file's size would be cut again by one with its preprocessing inside."""
    for i in range(60):
        (tmp_path / "tree" / LABELS[i % 5]).mkdir(parents=True, exist_ok=True)
        photograph(i, 30 + i % 2, 41).save(tmp_path / "tree" / LABELS[i % 5] / f"{i}.png")
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        tar.add(tmp_path / "tree", "tree")
    found = real_images(str(tmp_path / "some.tar"), split=None, classes=LABELS, limit=30)
    source = open_source(
        tmp_path / "some.tar", "test", test_data=tmp_path / "some.tar", image_size=SIDE, crop_pct=0.875
    )
    rows = np.linspace(0, 59, 30).round().astype(int)
    outside = OnnxClassifier(exported)
    for i, picture in zip(rows, found.images, strict=True):
        wanted = ((source.image(i) / 255 - MEAN) / STD).transpose(2, 0, 1)
        np.testing.assert_allclose(outside.preprocess(picture), wanted, atol=1e-6)
    inside = OnnxClassifier(saved(tmp_path, with_preprocessing(base)))
    for a, b in zip(outside.predict(found.images), inside.predict(found.images), strict=True):
        assert a.indices == b.indices
        # The part of a pixel by which Pillow and ONNX Runtime round otherwise.
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=0.05)
    figures = check_onnx(exported, model, found)
    evaluated = evaluate_model(model, source.subset(rows), mean=tuple(MEAN), std=tuple(STD))
    assert figures["top1"]["pytorch"] == pytest.approx(evaluated["top1"])


def test_a_corrupt_picture_of_a_tar_is_named(exported: Path, tmp_path: Path) -> None:
    for i in range(10):
        (tmp_path / "tree" / LABELS[i % 2]).mkdir(parents=True, exist_ok=True)
        photograph(i).save(tmp_path / "tree" / LABELS[i % 2] / f"{i}.jpg")
    whole = (tmp_path / "tree" / "bee" / "3.jpg").read_bytes()
    (tmp_path / "tree" / "bee" / "3.jpg").write_bytes(whole[:-100])
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        tar.add(tmp_path / "tree", "tree")
    found = real_images(str(tmp_path / "some.tar"), split=None)
    with pytest.raises(ValueError, match=r"tree/bee/3\.jpg.*truncated"):
        OnnxClassifier(exported).predict(found.images)
    assert len(found.images[:3]) == 3


def test_a_data_set_by_name_must_have_the_classes_of_the_model() -> None:
    found = real_images("digits", in_chans=1, num_classes=10, limit=12)
    assert (len(found), found.name) == (12, "digits (test)")
    assert found.labels is not None
    assert len(set(found.labels.tolist())) > 3
    with pytest.raises(ValueError, match=r"digits: its classes \(0, 1, 2 \.\.\.\) are not those of the model \(ant"):
        real_images("digits", in_chans=1, classes=LABELS)
    with pytest.raises(ValueError, match="10 classes, the model has 5"):
        real_images("digits", in_chans=1, num_classes=5)
