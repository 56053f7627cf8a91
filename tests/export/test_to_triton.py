"""export/to_triton.py: the model repository, read with Triton's own definition of config.pbtxt."""

import importlib.metadata
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper

from nas_zoo.export.graph.variants import set_metadata, with_preprocessing
from nas_zoo.export.runtime.triton import config_text, write_repository

LABELS = ["ant", 'a "quoted" bee', "Käfer"]


@pytest.fixture(scope="module")
def definition() -> Any:
    """model_config_pb2 of tritonclient, loaded by itself: its package wants grpc, which none of this needs."""
    place = importlib.metadata.distribution("tritonclient").locate_file("tritonclient/grpc/model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", str(place))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def graph(dtype: str = "float32", batch: int | str = "batch_size", **texts: str) -> onnx.ModelProto:
    """A network of one convolution: pixel_values (N, 3, 8, 8) -> logits (N, 3)."""
    shape = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [batch, 3, 8, 8])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])
    nodes = [
        helper.make_node("Conv", ["pixel_values", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["logits"]),
    ]
    weight = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32)
    made = helper.make_graph(nodes, "g", [shape], [output], [numpy_helper.from_array(weight, "w")])
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    known = {"dtype": dtype, "labels": json.dumps(LABELS), "input_size": "[3, 8, 8]", "mean": "[0.5, 0.5, 0.5]",
             "std": "[0.2, 0.2, 0.2]", "crop_pct": "0.875", "interpolation": "bilinear"}  # fmt: skip
    set_metadata(proto, known | texts)
    return proto


def written(tmp_path: Path, proto: onnx.ModelProto) -> Path:
    path = tmp_path / "some.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_the_servers_own_definition_reads_the_configuration(definition: Any, tmp_path: Path) -> None:
    folder = write_repository(
        written(tmp_path, graph("float16")), tmp_path / "repo", "edas.c10-small_1",
        max_batch_size=32, max_delay_us=250, instances=2, instance_kind="KIND_GPU",
    )  # fmt: skip
    config = text_format.Parse((folder / "config.pbtxt").read_text("utf-8"), definition.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("edas.c10-small_1", "onnxruntime", 32)
    (source,), (result,) = config.input, config.output
    assert (source.name, source.data_type, list(source.dims)) == ("pixel_values", definition.TYPE_FP32, [3, 8, 8])
    assert (result.name, result.data_type, list(result.dims)) == ("logits", definition.TYPE_FP32, [3])
    assert (folder / result.label_filename).read_text("utf-8").splitlines() == LABELS
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, definition.ModelInstanceGroup.KIND_GPU)
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == {"precision_mode": "FP16", "max_workspace_size_bytes": "1073741824"}
    assert [warm.batch_size for warm in config.model_warmup] == [1, 32]
    warm = config.model_warmup[0].inputs["pixel_values"]
    assert (list(warm.dims), warm.data_type, warm.zero_data) == ([3, 8, 8], definition.TYPE_FP32, True)


def test_what_the_configuration_says_is_what_the_file_takes(definition: Any, tmp_path: Path) -> None:
    folder = write_repository(written(tmp_path, with_preprocessing(graph())), tmp_path / "repo", "pictures")
    config = text_format.Parse((folder / "config.pbtxt").read_text("utf-8"), definition.ModelConfig())
    session = onnxruntime.InferenceSession(folder / "1" / config.default_model_filename)
    (source,), (result,) = session.get_inputs(), session.get_outputs()
    assert (config.input[0].name, config.output[0].name) == (source.name, result.name) == ("images", "probabilities")
    assert config.input[0].data_type == definition.TYPE_UINT8
    assert source.type == "tensor(uint8)"
    assert list(config.input[0].dims) == [side if isinstance(side, int) else -1 for side in source.shape[1:]]
    assert list(config.input[0].dims) == [-1, -1, 3]
    # Of images of any size TensorRT would make an engine each.
    assert not config.optimization.HasField("execution_accelerators")
    # What the server would warm up with can be run.
    for warm in config.model_warmup:
        zeros = np.zeros((warm.batch_size, *warm.inputs["images"].dims), np.uint8)
        assert session.run(None, {"images": zeros})[0].shape == (warm.batch_size, 3)


@pytest.mark.parametrize(
    ("dtype", "texts", "precision"),
    [
        ("float32", {}, "FP32"),
        ("float16", {}, "FP16"),
        ("int8", {"int8_target": "tensorrt"}, "INT8"),
        ("int8", {"int8_target": "cpu"}, None),
    ],
)
def test_tensorrt_gets_the_precision_of_the_file_and_no_file_it_cannot_read(
    definition: Any, dtype: str, texts: dict, precision: str | None
) -> None:
    config = text_format.Parse(config_text(graph(dtype, **texts), "m"), definition.ModelConfig())
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert [accelerator.parameters["precision_mode"] for accelerator in accelerators] == [precision] * bool(precision)
    config = text_format.Parse(config_text(graph(dtype, **texts), "m", tensorrt=False), definition.ModelConfig())
    assert not config.optimization.execution_accelerators.gpu_execution_accelerator
    if precision is None:
        with pytest.raises(ValueError, match="--int8-target tensorrt"):
            config_text(graph(dtype, **texts), "m", tensorrt=True)


def test_a_folder_for_engines_and_float16_are_named_in_the_configuration(definition: Any, tmp_path: Path) -> None:
    folder = write_repository(
        written(tmp_path, graph()), tmp_path / "repo", "m", max_batch_size=32, tensorrt_cache='/var/"engines"',
        tensorrt_fp16=True, cudnn_search="heuristic",
    )  # fmt: skip
    config = text_format.Parse((folder / "config.pbtxt").read_text("utf-8"), definition.ModelConfig())
    tensorrt, cuda = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (tensorrt.name, cuda.name) == ("tensorrt", "cuda")
    assert dict(tensorrt.parameters) == {
        "precision_mode": "FP16",
        "max_workspace_size_bytes": "1073741824",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": '/var/"engines"',
        # one engine for all batches
        "trt_profile_min_shapes": "pixel_values:1x3x8x8",
        "trt_profile_opt_shapes": "pixel_values:32x3x8x8",
        "trt_profile_max_shapes": "pixel_values:32x3x8x8",
    }
    assert dict(cuda.parameters) == {"cudnn_conv_algo_search": "HEURISTIC"}


def test_options_of_tensorrt_are_refused_where_it_does_not_compile_the_file() -> None:
    images = with_preprocessing(graph())
    for arguments in ({"tensorrt_cache": "/engines"}, {"tensorrt_fp16": True}):
        name = next(iter(arguments))
        for proto, more in ((images, {}), (graph("int8", int8_target="cpu"), {}), (graph(), {"tensorrt": False})):
            with pytest.raises(ValueError, match=f"^{name} is for files that TensorRT compiles"):
                config_text(proto, "m", **arguments, **more)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cudnn_search must be one of exhaustive, heuristic, default, got 'fast'"):
        config_text(graph(), "m", cudnn_search="fast")
    # what has no engine has CUDA's convolutions to choose
    assert "HEURISTIC" in config_text(images, "m", cudnn_search="heuristic")


def test_nothing_in_a_repository_is_replaced_unasked(tmp_path: Path) -> None:
    path, repository = written(tmp_path, graph()), tmp_path / "repo"
    folder = write_repository(path, repository, "m")
    assert sorted(str(file.relative_to(repository)) for file in repository.rglob("*") if file.is_file()) == [
        "m/1/model.onnx", "m/config.pbtxt", "m/labels.txt"]  # fmt: skip
    assert not list(repository.glob(".*"))
    assert (folder / "1" / "model.onnx").read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="version 1 is in the repository already; --overwrite"):
        write_repository(path, repository, "m")
    write_repository(path, repository, "m", version=2)
    with pytest.raises(ValueError, match=r"config\.pbtxt in the repository says something else"):
        write_repository(path, repository, "m", version=3, max_batch_size=8)
    assert not (folder / "3").exists()
    write_repository(path, repository, "m", version=2, max_batch_size=8, overwrite=True)
    assert "max_batch_size: 8" in (folder / "config.pbtxt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "../up"}, "model_name must be made of letters.*, got '../up'"),
        ({"name": ""}, "model_name must be .* got ''"),
        ({"version": 0}, "version must be a whole number of at least 1, got 0"),
        ({"max_batch_size": 0}, "max_batch_size must be a whole number of at least 1, got 0"),
        ({"max_delay_us": -1}, "max_delay_us must be a whole number of at least 0, got -1"),
        ({"instances": True}, "instances must be .* got True"),
        ({"instance_kind": "GPU"}, "KIND_GPU"),
    ],
)
def test_what_the_server_does_not_take_is_told(tmp_path: Path, arguments: dict, message: str) -> None:
    path = written(tmp_path, graph())
    with pytest.raises(ValueError, match=message):
        write_repository(path, tmp_path / "repo", **({"name": "m"} | arguments))
    assert not (tmp_path / "repo").exists()


def test_a_file_that_cannot_be_served_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fixed batch"):
        config_text(graph(batch=2), "m")
    with pytest.raises(ValueError, match="has a line break"):
        write_repository(written(tmp_path, graph(labels='["a\\nb", "c", "d"]')), tmp_path / "repo", "m")
    for texts, told in (
        ({"labels": "5"}, "labels must be a list of texts, got 5"),
        ({"labels": '["a", 1, "c"]'}, r"labels must be a list of texts, got \['a', 1, 'c'\]"),
        ({"labels": "[" * 5000}, r"some\.onnx: the metadata's labels is no JSON"),
    ):
        with pytest.raises(ValueError, match=told):
            write_repository(written(tmp_path, graph(**texts)), tmp_path / "repo", "m")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="to_triton must be a folder, got"):
        write_repository(written(tmp_path, graph()), tmp_path / "file", "m")
