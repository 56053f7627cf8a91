"""A thousand wrong files for each reader: read, or refused with a ValueError of one line, and nothing else."""

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nas_zoo.export.runtime.classifier import OnnxClassifier
from nas_zoo.runs.settings import settings_from
from nas_zoo.search.methods.da2s import Da2sSettings
from nas_zoo.train.recipes import TrainSettings

INPUTS = 1000
#: What stands where something else was meant.
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 3, 10**500, -(10**20), 0.5, 1e300, float("nan"), float("inf"), "", "a", "no", "1e-3",
    "\x1b[31m", "\u202e", [], [[]], [1, "a"], [None], {}, {"a": 1}, {"normal": []}, "x" * 5000, [0] * 50,
]  # fmt: skip


def refused(read: Callable[[], Any]) -> bool:
    try:
        read()
    except ValueError as error:
        told = str(error)
    else:
        return False
    assert told
    assert "\n" not in told
    return True


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, cut out, doubled or put in."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(content) + 1)
        to = min(len(content), at + rng.choice((1, 1, 4, 40)))
        kind = rng.randrange(4)
        if kind == 0:
            content[at:to] = bytes(rng.randrange(256) for _ in range(to - at))
        elif kind == 1:
            del content[at:to]
        elif kind == 2:
            content[at:at] = content[at:to]
        else:
            content[at:at] = rng.choice(
                (b"[", b"{", b"&a ", b"*a", b"!!bool ", b"\n", b"\t", b'"', b"\x00", b": ", b"- ")
            )
    return bytes(content)


def changed(rng: random.Random, value: Any) -> Any:
    """The JSON value with something else somewhere in it."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        twin: Any = dict(value) if isinstance(value, dict) else list(value)
        if rng.random() < 0.1:
            del twin[key]
        else:
            twin[key] = changed(rng, value[key])
        return twin
    return rng.choice(ODD)


def test_settings_files(tmp_path: Path) -> None:
    rng = random.Random("yaml")
    good = b"epochs: 3\nlr: 1e-3\nalpha_betas: [0.5, 0.9]\n# words\ndata: 'no'\ntime_budget: .inf\nflip:\nseed: 1\n"
    path, ended = tmp_path / "settings.yaml", []
    for number in range(INPUTS):
        if number % 2:
            path.write_bytes(damaged(rng, good))
        else:
            names = rng.sample(["epochs", "lr", "alpha_betas", "data", "edges", "lambda_1", "seed", "out", "flip"], 3)
            path.write_text("".join(f"{name}: {json.dumps(rng.choice(ODD))}\n" for name in names))
        settings_class = rng.choice((Da2sSettings, TrainSettings))
        ended.append(refused(partial(settings_from, settings_class, {}, path)))
    assert 0.5 < sum(ended) / INPUTS < 1


def onnx_file() -> onnx.ModelProto:
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.zeros((4, 3), np.float32), "w")],
    )  # fmt: skip
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


METADATA: dict[str, Any] = {
    "mean": [0.5], "std": [0.25], "input_size": [1, 2, 2], "crop_pct": 0.9, "interpolation": "bilinear",
    "labels": ["a", "b", "c"], "label_descriptions": {"a": "ant"}, "dtype": "float32",
}  # fmt: skip


def test_onnx_files(tmp_path: Path) -> None:
    rng = random.Random("onnx")
    picture = np.zeros((3, 3), np.uint8)
    path, ended = tmp_path / "model.onnx", []
    for number in range(INPUTS):
        proto = onnx_file()
        told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in METADATA.items()}
        if number % 4:
            key = rng.choice(list(METADATA))
            value = changed(rng, METADATA[key])
            told[key] = value if isinstance(value, str) and rng.random() < 0.5 else json.dumps(value)
            if rng.random() < 0.1:
                told[key] = rng.choice(("", "[", "[" * 5000, "1" + "0" * 5000, "{'a'}", "nan"))
        helper.set_model_props(proto, told)
        content = proto.SerializeToString()
        path.write_bytes(content if number % 4 else damaged(rng, content))
        ended.append(refused(lambda: OnnxClassifier(path, threads=1).predict([picture])))
    assert 0.3 < sum(ended) / INPUTS < 1
