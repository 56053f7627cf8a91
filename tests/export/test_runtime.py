"""export/runtime.py, on a small exported network and on files made by hand; what needs a GPU is marked gpu."""

import io
import json
import logging
import mmap
import os
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from nas_zoo.cli import main as nas_zoo_main
from nas_zoo.data import pictures
from nas_zoo.export.graph.onnx_file import export_onnx
from nas_zoo.export.graph.variants import with_preprocessing
from nas_zoo.export.runtime import classifier as runtime
from nas_zoo.export.runtime.classifier import OnnxClassifier, Prediction, ProviderError, provider_problems
from nas_zoo.export.runtime.providers import GpuOptions

LABELS = ["ant", "bee", "cow", "dog", "elk"]
SIDE = 12
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    model: Any = timm.create_model(
        "cell_net_cifar", genotype="darts_v2", init_channels=4, num_cells=3, num_classes=5
    ).eval()
    # so that images differ in their classes, as they do after a training
    torch.nn.init.normal_(model.classifier.weight, std=9.0)
    with torch.no_grad():
        model.classifier.bias -= model(torch.randn(64, 3, SIDE, SIDE)).mean(0)
    return model


@pytest.fixture(scope="module")
def exported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runtime") / "small.onnx"
    return export_onnx(
        model, path, labels=LABELS, input_size=SIDE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), crop_pct=0.75
    )


@pytest.fixture(scope="module")
def classifier(exported: Path) -> OnnxClassifier:
    return OnnxClassifier(exported, threads=1, batch_size=4)


def photograph(seed: int = 0, height: int = 30, width: int = 41) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def foreign(path: Path, batch: int | str = "n", channels: int = 1, side: int | str = 4, **metadata: str) -> Path:
    """A classifier written by hand: mean over the image, then one weight a class. 3 classes."""
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, channels, side, side])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    weight = np.arange(3 * channels, dtype=np.float32).reshape(channels, 3)
    graph = helper.make_graph(nodes, "g", [shape], [output], [numpy_helper.from_array(weight, "w")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())
    return path


# Logits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_logits_are_those_of_the_model_whatever_the_number_of_images(
    classifier: OnnxClassifier, model: Any, count: int
) -> None:
    x = torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(count))
    logits = classifier.logits(x)
    assert logits.shape == (count, 5)
    assert logits.dtype == np.float32
    if count:
        with torch.no_grad():
            np.testing.assert_allclose(logits, model(x).numpy(), atol=2e-5)
    np.testing.assert_array_equal(classifier.logits(x.numpy()), logits)


def test_logits_take_any_layout_and_float_type(classifier: OnnxClassifier) -> None:
    x = np.random.default_rng(0).standard_normal((3, SIDE, SIDE, 3)).astype(np.float32)
    expected = classifier.logits(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(classifier.logits(x.transpose(0, 3, 1, 2)), expected)
    np.testing.assert_array_equal(classifier.logits(torch.from_numpy(x).permute(0, 3, 1, 2)), expected)
    np.testing.assert_array_equal(classifier.logits(x.transpose(0, 3, 1, 2).astype(np.float64)), expected)
    frozen = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    frozen.flags.writeable = False
    np.testing.assert_array_equal(classifier.logits(frozen), expected)
    with_gradient = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    np.testing.assert_array_equal(classifier.logits(with_gradient), expected)


def test_binding_by_address_gives_what_a_plain_run_gives(classifier: OnnxClassifier, exported: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((4, 3, SIDE, SIDE)).astype(np.float32)
    np.testing.assert_array_equal(classifier.logits(x), session.run(None, {"pixel_values": x})[0])


def test_logits_from_many_threads_are_those_of_one(classifier: OnnxClassifier) -> None:
    batches = [np.random.default_rng(i).standard_normal((6, 3, SIDE, SIDE)).astype(np.float32) for i in range(24)]
    one_by_one = [classifier.logits(x) for x in batches]
    with ThreadPoolExecutor(8) as pool:
        for got, expected in zip(pool.map(classifier.logits, batches), one_by_one, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_run_gives_a_tensor_of_its_own_for_anything_that_speaks_dlpack(classifier: OnnxClassifier) -> None:
    x = torch.randn(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    first = classifier.run(x)
    assert (first.dtype, first.device.type, tuple(first.shape)) == (torch.float32, "cpu", (6, 5))
    kept = first.clone()
    classifier.run(torch.zeros_like(x))
    assert torch.equal(first, kept)  # a later call writes elsewhere

    class Foreign:
        """An array of another library: DLPack is all that is known of it."""

        def __dlpack__(self, **how: Any) -> Any:
            return x.__dlpack__(**how)

        def __dlpack_device__(self) -> Any:
            return x.__dlpack_device__()

    assert torch.equal(classifier.run(Foreign()), first)
    np.testing.assert_array_equal(classifier.logits(Foreign()), first.numpy())
    with pytest.raises(ValueError, match="images must be an array, a tensor or something with __dlpack__, got list"):
        classifier.run([1, 2])


def test_what_is_read_where_it_lies_is_not_copied(classifier: OnnxClassifier) -> None:
    x = torch.randn(4, 3, SIDE, SIDE)
    assert classifier._to_device(x).data_ptr() == x.data_ptr()
    array = x.numpy()
    assert classifier._to_device(array).data_ptr() == array.ctypes.data
    assert classifier._to_device(x.double()).dtype == torch.float32


def test_probabilities_are_the_softmax_of_the_logits(classifier: OnnxClassifier) -> None:
    x = torch.randn(5, 3, SIDE, SIDE)
    probabilities = classifier.probabilities(x)
    assert probabilities.dtype == np.float32
    expected = torch.from_numpy(classifier.logits(x)).double().softmax(1).numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-7)


def test_predictions_from_many_threads_are_those_of_one(classifier: OnnxClassifier) -> None:
    pictures = [[photograph(seed + 10 * i) for seed in range(5)] for i in range(12)]
    one_by_one = [classifier.predict(part) for part in pictures]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(classifier.predict, pictures)) == one_by_one


def test_threads_and_batch_size_change_the_work_and_not_the_result(exported: Path) -> None:
    x = torch.randn(9, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    expected = OnnxClassifier(exported, threads=1, batch_size=64).logits(x)
    for threads, batch_size in ((2, 64), (1, 1), (2, 4)):
        found = OnnxClassifier(exported, threads=threads, batch_size=batch_size)
        assert found._session.get_session_options().intra_op_num_threads == threads
        np.testing.assert_allclose(found.logits(x), expected, atol=1e-4)


@pytest.mark.parametrize(
    "x",
    [np.zeros((2, 3, SIDE, SIDE), np.uint8), np.zeros((2, 3, 9, 9), np.float32), np.zeros((3, SIDE, SIDE), np.float32)],
)
def test_logits_refuse_what_is_not_scaled_or_of_another_size(classifier: OnnxClassifier, x: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be scaled float images \(N, 3, 12, 12\), got .*; predict\(\) takes"):
        classifier.logits(x)


# Images --------------------------------------------------------------------------------------------------------------


def test_an_image_of_the_size_is_scaled_and_nothing_else(exported: Path) -> None:
    classifier = OnnxClassifier(exported)
    array = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    expected = (array.astype(np.float64) / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.25]
    got = classifier.preprocess(array)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    np.testing.assert_allclose(got, expected.transpose(2, 0, 1), atol=1e-6)


def test_files_bytes_pictures_and_arrays_are_one(classifier: OnnxClassifier, tmp_path: Path) -> None:
    picture = photograph()
    picture.save(tmp_path / "a.png")
    expected = classifier.preprocess(picture)
    assert expected.shape == (3, SIDE, SIDE)
    data = (tmp_path / "a.png").read_bytes()
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), data, np.asarray(picture)):
        np.testing.assert_array_equal(classifier.preprocess(image), expected)


@pytest.mark.parametrize("size", [(41, 30), (30, 41), (16, 16), (12, 12), (13, 12), (5, 9), (300, 17)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.75, 0.875])
def test_pixels_are_those_that_the_data_sets_of_the_training_have(size: tuple[int, int], crop_pct: float) -> None:
    picture = photograph(3, size[1], size[0])
    width, height = picture.size  # resized whole, then cropped, as it was from the first weights on
    shorter = int(SIDE / crop_pct)
    scale = shorter / min(width, height)
    resized = picture
    if min(width, height) != shorter:
        sides = (max(shorter, round(width * scale)), max(shorter, round(height * scale)))
        resized = picture.resize(sides, Image.Resampling.BILINEAR)
    left, top = (resized.width - SIDE) // 2, (resized.height - SIDE) // 2
    expected = np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    for image in (picture, stream.getvalue()):
        np.testing.assert_array_equal(pictures.decode(image, SIDE, 3, crop_pct=crop_pct), expected)


def test_a_picture_fits_an_input_that_is_not_square() -> None:
    fitted = pictures.fit(photograph(), (10, 24), crop_pct=0.9, resampling=Image.Resampling.BICUBIC)
    assert fitted.size == (24, 10)


def test_unusual_modes_become_rgb(classifier: OnnxClassifier, tmp_path: Path) -> None:
    picture = photograph()
    grey = picture.convert("L")
    cases: dict[str, tuple[Image.Image, dict]] = {
        "grey.png": (grey, {}),
        "cmyk.jpg": (picture.convert("CMYK"), {"quality": 95}),
        "alpha.png": (picture.convert("RGBA"), {}),
        "palette.png": (picture.quantize(32), {"transparency": 3}),
        "deep.png": (Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), {}),
        "one_bit.png": (grey.convert("1"), {}),
        "deep.tif": (Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), {}),
        "moving.gif": (picture, {"save_all": True, "append_images": [photograph(9), photograph(8)]}),
        "moving.png": (picture, {"save_all": True, "append_images": [photograph(9), photograph(8)]}),
        "moving.webp": (picture, {"save_all": True, "append_images": [photograph(9)], "lossless": True}),
    }
    plain = classifier.preprocess(picture)
    for name, (image, arguments) in cases.items():
        image.save(tmp_path / name, **arguments)
        got = classifier.preprocess(tmp_path / name)
        assert got.shape == plain.shape
        exact = ("grey.png", "deep.png", "deep.tif", "alpha.png", "moving.png", "moving.webp")
        expected = classifier.preprocess(grey) if name.startswith(("grey", "deep")) else plain
        if name != "one_bit.png":
            # a palette and JPEG lose something, in units of the deviation
            assert np.abs(got - expected).mean() < (0.001 if name in exact else 0.25), name


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels and which holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bad_files(folder: Path) -> dict[str, str]:
    """Files that cannot be read, and a word of what is wrong with each."""
    buffer = io.BytesIO()
    photograph(0, 200, 200).save(buffer, "JPEG")
    whole = buffer.getvalue()
    contents = {
        "bomb.png": (png_of(60_000, 60_000), "bomb"),
        "empty.jpg": (b"", "empty"),
        "no_image.png": (b"<html>not found</html>", "no picture"),
        "truncated.jpg": (whole[: len(whole) // 2], "truncated"),
        "short.png": (png_of(40, 40), ""),
        "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    return {name: word for name, (_, word) in contents.items()}


def test_unreadable_images_are_value_errors_that_name_the_file(classifier: OnnxClassifier, tmp_path: Path) -> None:
    for name, word in bad_files(tmp_path).items():
        with pytest.raises(ValueError, match=rf"cannot read the image '.*{name}': .*{word}"):
            classifier.preprocess(tmp_path / name)
    with pytest.raises(ValueError, match=r"missing\.png.*No such file"):
        classifier.preprocess(tmp_path / "missing.png")
    with pytest.raises(ValueError, match="it is no regular file"):
        classifier.preprocess(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="it is no regular file"):
        classifier.preprocess(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="image 1: 5 bytes"):
        classifier.predict([photograph(), b"12345"])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "scaled images go to logits"),
        (np.zeros((3, 8, 8), np.uint8), r"uint8 \(H, W, 3\).*got uint8 \(3, 8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), r"uint8 \(0, 8, 3\)"),
        (Image.fromarray(np.zeros((4, 4), np.float32)), "floating-point"),
        (7, "an image is a path.*, not int"),
    ],
)
def test_what_is_no_image_is_refused(classifier: OnnxClassifier, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier.preprocess(image)


# Predictions ---------------------------------------------------------------------------------------------------------


def test_predictions_are_the_softmax_in_order(classifier: OnnxClassifier, model: Any) -> None:
    images = [photograph(seed) for seed in range(7)]
    predictions = classifier.predict(images, top_k=3)
    x = torch.from_numpy(np.stack([classifier.preprocess(image) for image in images]))
    with torch.no_grad():
        values, indices = model(x).softmax(1).topk(3)
    assert len({prediction.indices[0] for prediction in predictions}) > 1
    for prediction, value, index in zip(predictions, values, indices, strict=True):
        assert prediction.indices == index.tolist()
        assert prediction.labels == [LABELS[i] for i in index]
        assert prediction.probabilities == pytest.approx(value.tolist(), abs=1e-4)


def test_top_k_is_at_most_the_number_of_classes(classifier: OnnxClassifier) -> None:
    (prediction,) = classifier.predict([photograph()], top_k=99)
    assert sorted(prediction.labels) == LABELS
    assert sum(prediction.probabilities) == pytest.approx(1.0)
    assert classifier.predict([]) == []
    wrong: list[Any] = [0, 1.5, True]
    for top_k in wrong:
        with pytest.raises(ValueError, match="top_k"):
            classifier.predict([photograph()], top_k=top_k)
    with pytest.raises(ValueError, match=r"predict\(\[image\]\)"):
        classifier.predict("cat.png")


def test_equal_logits_come_in_the_order_of_the_classes(tmp_path: Path) -> None:
    classifier = OnnxClassifier(foreign(tmp_path / "f.onnx"), mean=[0.0], std=[1.0])
    assert classifier.predict([np.zeros((4, 4), np.uint8)]) == [Prediction(["0", "1", "2"], [1 / 3] * 3, [0, 1, 2])]


def test_a_folder_is_predicted_in_order_and_past_unreadable_files(
    classifier: OnnxClassifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = bad_files(tmp_path)
    (tmp_path / "sub").mkdir()
    good = [f"{i}.png" for i in range(6)] + ["sub/z.png"]
    for i, name in enumerate(good):
        photograph(i).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    results = classifier.predict_folder(tmp_path, top_k=2)
    found = list(results)
    assert [path for path, _ in found] == sorted(tmp_path / name for name in good)
    assert [prediction for _, prediction in found] == classifier.predict([path for path, _ in found], top_k=2)
    assert [path.name for path, _ in results.errors] == sorted(bad)
    assert all(path.name in reason for path, reason in results.errors)
    assert results.total == len(good) + len(bad)
    (left_out,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "1 other file left out: 1 .txt" in left_out


def test_one_unreadable_image_does_not_stop_the_others_and_is_named_once(
    exported: Path, tmp_path: Path, capsys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bad = bad_files(tmp_path)
    (tmp_path / "sub").mkdir()
    for i, name in enumerate(("a.png", "z.png", "sub/b.png")):
        photograph(i).save(tmp_path / name)
    (tmp_path / "sub" / "torn.jpg").write_bytes((tmp_path / "truncated.jpg").read_bytes())
    given = [tmp_path / "a.png", *(tmp_path / name for name in bad), tmp_path / "none.png", tmp_path / "sub"]
    words = ["predict", str(exported), *map(str, given), str(tmp_path / "z.png"), "--provider", "cpu", "--threads", "1"]
    assert nas_zoo_main(words) == 2
    shown = capsys.readouterr()
    assert [Path(line.split()[0]).name for line in shown.out.splitlines()] == ["a.png", "b.png", "z.png"]
    assert len(shown.err.splitlines()) == len(bad) + 2
    for name in (*bad, "none.png", "torn.jpg"):
        assert (shown.err + caplog.text).count(f"/{name}") == 1
    assert nas_zoo_main(["predict", str(exported), str(tmp_path / "a.png"), "--provider", "cpu"]) == 0


def test_a_folder_without_images_and_one_that_is_none_are_told(classifier: OnnxClassifier, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no images in it; images end in \.bmp"):
        classifier.predict_folder(tmp_path)
    with pytest.raises(ValueError, match="cannot list the folder"):
        classifier.predict_folder(tmp_path / "missing")


# Files ---------------------------------------------------------------------------------------------------------------


def test_the_file_says_how_to_feed_it(classifier: OnnxClassifier) -> None:
    assert classifier.labels == tuple(LABELS)
    assert classifier.mean == (0.4, 0.5, 0.6)
    assert classifier.std == (0.2, 0.3, 0.25)
    assert classifier.input_size == (3, SIDE, SIDE)
    assert (classifier.crop_pct, classifier.interpolation) == (0.75, "bilinear")
    assert json.loads(classifier.metadata["genotype"])["schema"] == "nas-zoo/genotype"


def test_a_foreign_file_says_what_is_missing_and_takes_it_as_arguments(tmp_path: Path) -> None:
    path = foreign(tmp_path / "f.onnx", side="side")
    bare = OnnxClassifier(path)
    np.testing.assert_allclose(bare.logits(np.ones((2, 1, 5, 5), np.float32)), [[0, 1, 2]] * 2)
    with pytest.raises(
        ValueError, match=r"f.onnx has no mean, std, input_size .* give OnnxClassifier mean=, std=, input_"
    ):
        bare.predict([np.zeros((4, 4), np.uint8)])
    told = OnnxClassifier(path, labels=["a", "b", "c"], mean=[0.0], std=[1.0], input_size=(1, 6, 6), batch_size=2)
    prediction = told.predict([photograph()] * 3, top_k=1)[2]
    assert prediction.labels == ["c"]


def test_wordnet_ids_are_told_in_words_by_the_file_and_the_program(tmp_path: Path, capsys: Any) -> None:
    names = ["n01440764", "cat", "n03425413"]
    meant = {"n01440764": "tench, Tinca tinca", "n03425413": "gas pump, gasoline pump"}
    how: dict[str, Any] = {
        "mean": "[0.0]",
        "std": "[1.0]",
        "labels": json.dumps(names),
        "label_descriptions": json.dumps(meant),
    }
    path = foreign(tmp_path / "f.onnx", **how)
    assert OnnxClassifier(path).label_descriptions == meant
    assert OnnxClassifier(foreign(tmp_path / "bare.onnx")).label_descriptions == {}
    photograph().convert("L").save(tmp_path / "a.png")
    assert nas_zoo_main(["predict", str(path), str(tmp_path / "a.png"), "--provider=cpu"]) == 0
    told = capsys.readouterr().out
    assert "n03425413 (gas pump) " in told
    assert "  cat " in told
    assert nas_zoo_main(["predict", str(path), str(tmp_path / "a.png"), "--provider=cpu", "--json"]) == 0
    first, second, _ = json.loads(capsys.readouterr().out)["top"]
    assert (first["label"], first["description"]) == ("n03425413", "gas pump, gasoline pump")
    assert "description" not in second


def test_a_file_for_single_images_runs_them_one_by_one(tmp_path: Path) -> None:
    classifier = OnnxClassifier(foreign(tmp_path / "f.onnx", batch=1))
    assert classifier.batch_size == 1
    assert classifier.logits(np.ones((3, 1, 4, 4), np.float32)).shape == (3, 3)
    with pytest.raises(ValueError, match="batches of 2 only"):
        OnnxClassifier(foreign(tmp_path / "f.onnx", batch=2))


def test_a_file_that_claims_another_number_of_rows_than_images_is_refused(tmp_path: Path) -> None:
    proto = onnx.load(foreign(tmp_path / "f.onnx"))
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1_000_000_000
    onnx.save(proto, tmp_path / "f.onnx")
    with pytest.raises(ValueError, match=r"must give a row for each image, got input .* and output \[1000000000, 3\]"):
        OnnxClassifier(tmp_path / "f.onnx")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"mean": "[0.5"}, "the metadata's mean is no JSON; give mean= (Expecting ',' delimiter"),
        ({"mean": "[0.5, 0.5]"}, "mean must be a list of 1 finite numbers, one a channel, got [0.5, 0.5]"),
        ({"mean": '["a"]'}, "mean must be a list of 1 finite numbers, one a channel, got ['a']"),
        ({"mean": "[true]"}, "mean must be a list of 1 finite numbers, one a channel, got [True]"),
        ({"mean": "5"}, "mean must be a list of 1 finite numbers, one a channel, got 5"),
        ({"mean": f"[1{500 * '0'}]"}, f"mean must be a list of 1 finite numbers, one a channel, got [1{78 * '0'}..."),
        ({"mean": f"[1{5000 * '0'}]"}, "the metadata's mean is no JSON; give mean= (Exceeds the limit"),
        ({"mean": f"{2000 * '['}{2000 * ']'}"}, "the metadata's mean is no JSON; give mean= (maximum recursion depth"),
        ({"std": "[0]"}, "std must be at least 1e-06 in each channel, got (0.0,)"),
        ({"std": "[]"}, "std must be a list of 1 finite numbers, one a channel, got []"),
        ({"std": "[NaN]"}, "std must be a list of 1 finite numbers, one a channel, got [nan]"),
        ({"std": "[1e999]"}, "std must be a list of 1 finite numbers, one a channel, got [inf]"),
        ({"input_size": "[3, 4, 4]"}, "input_size must be what the graph takes, (1, 4, 4), got (3, 4, 4)"),
        ({"input_size": "4"}, "input_size must be (C, H, W), whole numbers from 1 to 10000, got 4"),
        ({"input_size": "[1, 4, true]"}, "input_size must be (C, H, W), whole numbers from 1 to 10000, got [1, 4, Tr"),
        ({"input_size": "[1, 4, 10001]"}, "input_size must be (C, H, W), whole numbers from 1 to 10000, got [1, 4, 1"),
        ({"labels": '["a"]'}, "1 labels for 3 classes"),
        ({"labels": '"abc"'}, "labels must be a list of names, got 'abc'"),
        ({"labels": "5"}, "labels must be a list of names, got 5"),
        ({"labels": '{"a": 1, "b": 2, "c": 3}'}, "labels must be a list of names, got {'a': 1"),
        ({"labels": '["a", "b", 3]'}, "labels must be a list of names, got ['a', 'b', 3]"),
        ({"label_descriptions": '["a"]'}, "label_descriptions must be an object whose values are texts, got ['a']"),
        ({"label_descriptions": '{"a": 1}'}, "label_descriptions must be an object whose values are texts, got {'a'"),
        ({"label_descriptions": "0"}, "label_descriptions must be an object whose values are texts, got 0"),
        ({"crop_pct": "2"}, "crop_pct must be a number from 0.01 to 1, got 2"),
        ({"crop_pct": "1e-300"}, "crop_pct must be a number from 0.01 to 1, got 1e-300"),
        ({"crop_pct": "true"}, "crop_pct must be a number from 0.01 to 1, got True"),
        ({"interpolation": "magic"}, "interpolation must be one of nearest, bilinear, bicubic, lanczos, got 'magic'"),
    ],
)
def test_wrong_metadata_are_told(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^f\.onnx: ") as caught:
        OnnxClassifier(foreign(tmp_path / "f.onnx", **metadata))
    told = str(caught.value)
    assert message in told
    assert told.isprintable()
    assert len(told) < 300


def test_a_file_that_says_it_has_its_preprocessing_inside_and_has_not_gives_logits(tmp_path: Path) -> None:
    how: dict[str, Any] = {"mean": "[0.0]", "std": "[1.0]", "preprocessing": "NHWC"}
    (found,) = OnnxClassifier(foreign(tmp_path / "f.onnx", **how)).predict([np.full((4, 4), 255, np.uint8)])
    assert sum(found.probabilities) == pytest.approx(1)  # they were the logits 0, 1 and 2


def test_what_is_called_probabilities_and_is_none_is_told(tmp_path: Path) -> None:
    path = foreign(tmp_path / "f.onnx", mean="[0.0]", std="[1.0]")
    proto = onnx.load(path)
    proto.graph.node[-1].output[0] = proto.graph.output[0].name = "probabilities"
    onnx.save(proto, path)
    with pytest.raises(ValueError, match=r"f\.onnx: what it gives as probabilities is not from 0 to 1"):
        OnnxClassifier(path).predict([np.full((4, 4), 255, np.uint8)])


def test_a_file_with_its_preprocessing_inside_gets_pictures_of_the_size_that_it_takes(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 6, 4, 3]),
              helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])]  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2], keepdims=0),
        helper.make_node("Softmax", ["m"], ["probabilities"]),
    ]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    (tmp_path / "x.onnx").write_bytes(proto.SerializeToString())
    classifier = OnnxClassifier(tmp_path / "x.onnx")
    assert classifier.prepare(photograph()).shape == (6, 4, 3)
    assert len(classifier.predict([photograph()])[0].labels) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are text")
def test_a_file_whose_name_is_no_text_is_read(tmp_path: Path) -> None:
    path = foreign(tmp_path / os.fsdecode(b"\xff.onnx"))
    assert OnnxClassifier(path).logits(np.ones((2, 1, 4, 4), np.float32)).shape == (2, 3)


def test_what_no_picture_fits_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        photograph(number).save(tmp_path / f"{number}.png")
    bare = foreign(tmp_path / "f.onnx")
    four = foreign(tmp_path / "g.onnx", channels=4, mean="[0, 0, 0, 0]", std="[1, 1, 1, 1]")
    for path, told in ((bare, "f.onnx has no mean, std in its metadata"), (four, "g.onnx takes images of 4 channels")):
        for images in ([tmp_path], sorted(tmp_path.glob("*.png"))):
            assert nas_zoo_main(["predict", str(path), *map(str, images), "--provider=cpu"]) == 2
            out, error = capsys.readouterr()
            assert (out, error.count("\n")) == ("", 1)
            assert told in error
    assert nas_zoo_main(["predict", str(bare), ""]) == 2
    assert "the name of a file or folder is empty" in capsys.readouterr().err


def test_predict_says_that_weights_are_random(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = foreign(tmp_path / "f.onnx", mean="[0.0]", std="[1.0]", random_weights="all")
    photograph().save(tmp_path / "a.png")
    assert nas_zoo_main(["predict", str(path), str(tmp_path / "a.png"), "--provider=cpu"]) == 0
    assert capsys.readouterr().err == "nas-zoo predict: f.onnx: RANDOM WEIGHTS: all\n"


def test_a_file_of_a_later_version_is_told_without_places_in_the_source(tmp_path: Path) -> None:
    for changed in ("ir_version", "opset"):
        proto = onnx.load(foreign(tmp_path / "f.onnx"))
        if changed == "opset":
            proto.opset_import[0].version = 99
        else:
            proto.ir_version = 99
        (tmp_path / "f.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(ValueError, match="does not load it") as caught:
            OnnxClassifier(tmp_path / "f.onnx")
        assert "/onnxruntime_src" not in str(caught.value)
        assert "99" in str(caught.value)


def test_what_is_no_onnx_file_is_one_value_error(exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / "x.onnx"
    for data in (b"", b"hello", exported.read_bytes()[:5000]):
        path.write_bytes(data)
        with pytest.raises(
            ValueError, match=rf"x\.onnx': ONNX Runtime .* does not load it \({len(data)} bytes\)"
        ) as info:
            OnnxClassifier(path)
        assert "\n" not in str(info.value)
    for missing in (tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(ValueError, match="is no file; an ONNX file is needed"):
            OnnxClassifier(missing)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_takes_no_images_is_refused(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "x.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=r"must take images \(N, C, H, W\) in float32"):
        OnnxClassifier(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    "arguments",
    [{"provider": "gpu"}, {"threads": 0}, {"batch_size": 0}, {"device_id": -1}, {"cuda_graphs": True},
     {"cudnn_search": "fast"}, {"cudnn_search": "heuristic"}, {"tensorrt_cache": "engines"}, {"tensorrt_fp16": True},
     {"tensorrt_fp16": True, "provider": "cuda"}, {"tensorrt_cache": __file__, "provider": "tensorrt"},
     {"threads": 100_000}],
)  # fmt: skip
def test_wrong_arguments_are_named(exported: Path, arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(arguments))} (must be|works with)"):
        OnnxClassifier(exported, **arguments)


def test_gpu_options_become_the_words_of_onnx_runtime(exported: Path, tmp_path: Path) -> None:
    chosen = GpuOptions(cuda_graphs=True, cudnn_search="heuristic")
    assert chosen.of_cuda(1, False) == {
        "device_id": 1, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC", "enable_cuda_graph": 1}  # fmt: skip
    assert GpuOptions().of_cuda(0, True) == {"device_id": 0, "use_tf32": 1, "cudnn_conv_algo_search": "EXHAUSTIVE"}
    engines = GpuOptions(tensorrt_cache=tmp_path / "some" / "engines", tensorrt_fp16=True)
    classifier = OnnxClassifier(exported, batch_size=8)
    assert engines.of_tensorrt(0, "float32", classifier._least_and_largest_input()) == {
        "device_id": 0,
        "trt_fp16_enable": 1,
        "trt_profile_min_shapes": f"pixel_values:1x3x{SIDE}x{SIDE}",
        "trt_profile_opt_shapes": f"pixel_values:8x3x{SIDE}x{SIDE}",
        "trt_profile_max_shapes": f"pixel_values:8x3x{SIDE}x{SIDE}",
        **{f"trt_{kind}_cache_enable": 1 for kind in ("engine", "timing")},
        **{f"trt_{kind}_cache_path": str(tmp_path / "some" / "engines") for kind in ("engine", "timing")},
    }
    assert (tmp_path / "some" / "engines").is_dir()
    # the types of a file's weights have to be allowed
    plain = GpuOptions()
    assert plain.of_tensorrt(0, "float32", None) == {"device_id": 0}
    assert plain.of_tensorrt(0, "float16", None) == {"device_id": 0, "trt_fp16_enable": 1}
    assert plain.of_tensorrt(0, "int8", None) == {"device_id": 0, "trt_int8_enable": 1}


def test_the_options_are_in_onnx_runtimes_libraries() -> None:
    """It overlooks no unknown one, but tells only where there is a GPU."""
    folder = Path(runtime._import_onnxruntime().__file__).parent / "capi"
    given = {
        "cuda": GpuOptions(cuda_graphs=True).of_cuda(0, True),
        "tensorrt": GpuOptions(tensorrt_cache=folder, tensorrt_fp16=True).of_tensorrt(0, "int8", ("a", "b")),
    }
    for name, options in given.items():
        library = folder / f"libonnxruntime_providers_{name}.so"
        if not library.exists():
            pytest.skip("onnxruntime without CUDA")
        with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as words:
            assert [option for option in options if words.find(option.encode() + b"\0") < 0] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_cuda_graphs_are_refused_with_all_that_is_missing(exported: Path) -> None:
    with pytest.raises(ProviderError, match=r"no NVIDIA driver .*; cuda_graphs needs a torch that sees the GPU"):
        OnnxClassifier(exported, provider="cuda", cuda_graphs=True)


def test_cuda_graphs_need_shapes_that_stay(exported: Path, tmp_path: Path) -> None:
    proto = with_preprocessing(onnx.load(exported))
    (tmp_path / "images.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=r"cuda_graphs needs shapes that are fixed .*file without preprocessing goes"):
        OnnxClassifier(tmp_path / "images.onnx", provider="cuda", cuda_graphs=True)


# Providers -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_does_not_work_is_an_error_and_not_the_cpu(
    exported: Path, provider: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProviderError, match=f"provider='{provider}' does not work here: .*(driver|CPUs only)"):
        OnnxClassifier(exported, provider=provider)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_auto_takes_the_cpu_and_says_so(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nas_zoo"):
        classifier = OnnxClassifier(exported, provider="auto")
    assert classifier.provider == "cpu"
    assert "no CUDA: there is no NVIDIA driver" in caplog.text
    assert "small.onnx runs on cpu (CPUExecutionProvider)" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_what_onnxruntime_says_of_a_missing_library_is_in_the_error(
    exported: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The way past the look at the driver: ONNX Runtime itself gives another provider than the one asked for."""
    classifier = OnnxClassifier(exported)
    if runtime.PROVIDERS["cuda"] not in __import__("onnxruntime").get_available_providers():
        pytest.skip("onnxruntime without CUDA")
    session, chatter = classifier._open("cuda")
    assert session is None or session.get_providers()[0] == "CPUExecutionProvider"
    assert chatter
    text = runtime._refusal("cuda", "CPUExecutionProvider", chatter)
    assert "would have used CPUExecutionProvider" in text
    assert "\x1b" not in text
    assert "\n" not in text
    assert capfd.readouterr() == ("", "")


def test_missing_libraries_are_listed_with_the_cure() -> None:
    line = (
        "FAIL : Failed to load library a/b.so with error: libcudnn.so.9: cannot open shared object file: No such file"
    )
    text = runtime._refusal("cuda", "CPUExecutionProvider", line)
    assert "missing libraries: libcudnn.so.9;" in text
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in text
    assert "tensorrt" in runtime._refusal(
        "tensorrt", "CPUExecutionProvider", line.replace("cudnn.so.9", "nvinfer.so.10")
    )


def test_installed_packages_are_read_from_their_metadata(tmp_path: Path) -> None:
    def install(name: str) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-1.31.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n")

    where = [str(tmp_path)]
    assert runtime._installed_packages(where) == set()
    install("onnxruntime")
    install("onnxruntime-extensions")
    assert runtime._installed_packages(where) == {"onnxruntime"}
    (problem,) = runtime._package_problems(runtime._installed_packages(where))
    assert "for CPUs only: pip uninstall" in problem
    install("onnxruntime-gpu")
    (problem,) = runtime._package_problems(runtime._installed_packages(where))
    assert "onnxruntime and onnxruntime-gpu are both installed and overwrite each other" in problem
    assert runtime._package_problems({"onnxruntime-gpu"}) == []


def test_both_packages_installed_is_what_the_error_says(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.31.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ProviderError, match="onnxruntime and onnxruntime-gpu are both installed"):
        OnnxClassifier(exported, provider="cuda")
    assert OnnxClassifier(exported).provider == "cpu"
    assert provider_problems("cpu") == []


def test_stderr_is_captured_below_python_and_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    with runtime._captured_stderr() as lines:
        os.write(2, b"from C\n")
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'from a child')"], check=True)
    assert lines == ["from C", "from a child"]
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "later\n"


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("provider", ["cuda", "auto"])
def test_cuda_gives_the_logits_of_the_cpu(exported: Path, classifier: OnnxClassifier, provider: str) -> None:
    on_gpu = OnnxClassifier(exported, provider=provider, batch_size=4)
    assert on_gpu.provider == "cuda"
    x = torch.randn(9, 3, SIDE, SIDE)
    expected = classifier.logits(x)
    # TF32 may be on by default: three digits
    np.testing.assert_allclose(on_gpu.logits(x), expected, atol=2e-2)
    np.testing.assert_array_equal(on_gpu.logits(x.cuda()), on_gpu.logits(x))
    (prediction,) = on_gpu.predict([photograph()], top_k=1)
    assert prediction.labels == classifier.predict([photograph()], top_k=1)[0].labels


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("search", ["heuristic", "default"])
def test_any_search_of_cudnns_gives_the_logits_of_the_cpu(
    exported: Path, classifier: OnnxClassifier, search: Any
) -> None:
    on_gpu = OnnxClassifier(exported, provider="cuda", batch_size=4, tf32=False, cudnn_search=search)
    x = torch.randn(4, 3, SIDE, SIDE)
    np.testing.assert_allclose(on_gpu.logits(x), classifier.logits(x), atol=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_tensorrt_keeps_its_engines(exported: Path, classifier: OnnxClassifier, tmp_path: Path) -> None:
    try:
        first = OnnxClassifier(exported, provider="tensorrt", batch_size=4, tensorrt_cache=tmp_path)
    except ProviderError as error:
        pytest.skip(str(error))
    x = torch.randn(4, 3, SIDE, SIDE)
    np.testing.assert_allclose(first.logits(x), classifier.logits(x), atol=2e-2)
    engines = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.engine")}
    assert engines
    again = OnnxClassifier(exported, provider="tensorrt", batch_size=4, tensorrt_cache=tmp_path)
    np.testing.assert_array_equal(again.logits(x), first.logits(x))
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.engine")} == engines


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_tensors_stay_on_the_gpu(exported: Path, classifier: OnnxClassifier, cuda_graphs: bool) -> None:
    on_gpu = OnnxClassifier(exported, provider="cuda", batch_size=4, cuda_graphs=cuda_graphs, tf32=False)
    for count in (4, 1, 9, 4):
        x = torch.randn(count, 3, SIDE, SIDE)
        resident = x.cuda()
        assert on_gpu._to_device(resident[:4]).data_ptr() == resident.data_ptr()
        result = on_gpu.run(resident)
        assert result.device.type == "cuda"
        np.testing.assert_allclose(result.cpu().numpy(), classifier.logits(x), atol=1e-3)
    batches = [torch.randn(3, 3, SIDE, SIDE).cuda() for _ in range(16)]
    one_by_one = [on_gpu.logits(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        for got, expected in zip(pool.map(on_gpu.logits, batches), one_by_one, strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-5)
