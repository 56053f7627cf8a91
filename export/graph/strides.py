"""Every second pixel, then a 1x1 convolution: one strided convolution again, in the graph of an exported file.

The model takes its pixels out first (``nas_zoo.models.operations.FactorizedReduce`` says why). A runtime that only
infers need not: its strided convolution never makes the copies.
"""

import onnx_ir as ir

__all__ = ["merge_strides"]

_LAST = 2**31 - 1  # behind the last row, whatever the size


def merge_strides(model: ir.Model) -> int:
    """Rewrites x[:, :, a::2, a::2] -> Conv 1x1 in place, a = 0 or 1; returns how many were rewritten.

    For a = 0 the convolution reads x itself with a stride of 2. For a = 1 it reads x without its first row and column,
    and keeps the row of zeros that an odd side has behind its last one (the exporter has put it into its ``pads``).
    """
    graph, count = model.graph, 0
    crop: ir.Value | None = None
    for node in list(graph):
        taken = _taken_out(node.inputs[0]) if _is_pointwise(node) else None
        if taken is None:
            continue
        x, first = taken
        if first:
            if crop is None:
                crop = _initializer(graph, "nas_zoo_first_pixel", [1, 1])
                last = _initializer(graph, "nas_zoo_last_pixel", [_LAST, _LAST])
                axes = _initializer(graph, "nas_zoo_rows_and_columns", [2, 3])
            cut = ir.node("Slice", [x, crop, last, axes])
            cut.outputs[0].name = f"{node.outputs[0].name}_without_first"
            graph.insert_before(node, cut)
            x = cut.outputs[0]
        node.replace_input_with(0, x)
        node.attributes["strides"] = ir.AttrInt64s("strides", [2, 2])
        count += 1
    if count:
        ir.passes.common.RemoveUnusedNodesPass()(model)
    return count


def _initializer(graph: ir.Graph, name: str, values: list[int]) -> ir.Value:
    tensor = ir.tensor(values, dtype=ir.DataType.INT64, name=name)
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([2]))
    graph.register_initializer(value)
    return value


def _ints(node: ir.Node, name: str, default: list[int]) -> list[int]:
    attribute = node.attributes.get(name)
    return default if attribute is None else list(attribute.as_ints())


def _is_pointwise(node: ir.Node) -> bool:
    weight = node.inputs[1] if node.op_type == "Conv" else None
    shape = None if weight is None or weight.shape is None else weight.shape.numpy()
    return shape is not None and shape[2:] == (1, 1) and _ints(node, "strides", [1, 1]) == [1, 1]


def _constant(value: ir.Value | None) -> int | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None or tensor.size != 1 else int(tensor.numpy().item())


def _taken_out(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """(x, a) where the value is x[:, :, a::2, a::2], made by two slices."""
    starts: dict[int, int] = {}
    while value is not None and len(starts) < 2:
        node = value.producer()
        if node is None or node.op_type != "Slice" or len(node.inputs) != 5:
            return None
        start, end, axis, step = map(_constant, node.inputs[1:])
        if start not in (0, 1) or end is None or end < _LAST or axis not in (2, 3) or axis in starts or step != 2:
            return None
        starts[axis] = start
        value = node.inputs[0]
    return (value, starts[2]) if value is not None and starts[2] == starts[3] else None
