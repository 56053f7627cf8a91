"""The pass over an exported graph that makes crops in front of 1x1 convolutions strided convolutions again."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from nas_zoo.export.graph.onnx_file import export_onnx
from nas_zoo.models.operations import FactorizedReduce
from tests.present import present


class Halving(nn.Module):
    num_classes, in_chans = 6, 3

    def __init__(self) -> None:
        super().__init__()
        self.halve = FactorizedReduce(3, 6)
        present(self.halve.bn.running_mean).normal_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.halve(x).mean((2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (8, 5), (5, 8), (1, 1), (2, 3)])
def test_an_exported_reduction_strides_its_convolutions_at_odd_and_even_sizes(tmp_path, size):
    torch.manual_seed(0)
    model = Halving().eval()
    path = export_onnx(model, tmp_path / "m.onnx", input_size=(3, *size), mean=[0.0] * 3, std=[1.0] * 3)
    graph = onnx.load(path).graph
    onnx.checker.check_model(onnx.load(path), full_check=True)
    strides = [list(a.ints) for n in graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "strides"]
    assert strides == [[2, 2], [2, 2]]
    assert [n.op_type for n in graph.node].count("Slice") == 1
    x = torch.randn(2, 3, *size)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"pixel_values": x.numpy()})[0]
    np.testing.assert_allclose(found, model(x).detach().numpy(), rtol=1e-5, atol=1e-6)


class Other(nn.Module):
    """Slices that are not a factorized reduction's."""

    num_classes, in_chans = 4, 3

    def __init__(self, kernel: int, rows: slice, columns: slice) -> None:
        super().__init__()
        self.conv, self.rows, self.columns = nn.Conv2d(3, 4, kernel), rows, columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x[:, :, self.rows, self.columns]).mean((2, 3))


@pytest.mark.parametrize(
    ("kernel", "rows", "columns"),
    [
        (3, slice(0, None, 2), slice(0, None, 2)),
        (1, slice(0, None, 2), slice(1, None, 2)),
        (1, slice(0, None, 3), slice(0, None, 3)),
        (1, slice(0, 6, 2), slice(0, 6, 2)),
        (1, slice(0, None, 2), slice(0, None)),
    ],
)
def test_other_crops_are_left_as_they_are(tmp_path, kernel, rows, columns):
    torch.manual_seed(0)
    model = Other(kernel, rows, columns).eval()
    path = export_onnx(model, tmp_path / "m.onnx", input_size=9, mean=[0.0] * 3, std=[1.0] * 3)
    x = torch.randn(2, 3, 9, 9)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"pixel_values": x.numpy()})[0]
    np.testing.assert_allclose(found, model(x).detach().numpy(), rtol=1e-5, atol=1e-6)
    convs = [n for n in onnx.load(path).graph.node if n.op_type == "Conv"]
    assert [list(a.ints) for a in convs[0].attribute if a.name == "strides"] == [[1, 1]]
