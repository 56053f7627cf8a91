"""The pieces of a network against the network itself, and the arithmetic of the table; no clock."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, cast

import onnx
import pytest
import torch
from torch import nn

from nas_zoo.export.graph.onnx_file import export_onnx
from nas_zoo.export.runtime.latency import random_cells
from nas_zoo.genotype import Genotype, load_genotype
from nas_zoo.models.latency import (
    CALL,
    Conditions,
    Fit,
    LatencyTable,
    Piece,
    Shape,
    all_pieces,
    edge_pieces,
    pieces,
)
from nas_zoo.models.network import Cell, CellNet, StemBlock
from nas_zoo.models.operations import SEARCH_OPERATIONS

HERE = Conditions("a processor", "onnxruntime 1", "cpu", 1, 1)
SMALL = Shape("cifar", 4, 5, 10, (3, 16, 16))
SHAPES = [SMALL, Shape("imagenet", 8, 6, 7, (3, 75, 90))]


def known(shape, value=lambda piece: 1.0, operations=SEARCH_OPERATIONS):
    """A table whose times are a function of the piece."""
    table = LatencyTable(HERE, {piece: value(piece) for piece in all_pieces(operations, shape)})
    table.ms[CALL] = 0.0
    table.fits[shape] = Fit(1.0, 0.0)
    return table


def seen(genotype, shape):
    """(operation or layer, input channels, height, width) of all with weights that the network runs."""
    model = CellNet(
        genotype, shape.layout, shape.init_channels, shape.num_cells, shape.num_classes, shape.input_size[0]
    )
    found: list[tuple[str, int, int, int]] = []

    def watch(module, name):
        module.register_forward_hook(lambda _, args, __: found.append((name, *args[0].shape[1:])))

    for module in model.modules():
        if isinstance(module, StemBlock):
            watch(module, "stem")
        if isinstance(module, Cell):
            for layer in (module.preprocess0, module.preprocess1):
                if not isinstance(layer, nn.Identity):
                    watch(layer, type(layer).__name__)
            for node in cast(Any, module.nodes):
                for op in node.ops:
                    if next(op.parameters(), None) is not None:
                        watch(op, "operation")
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape.input_size))
    return sorted(found)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["darts_v2", "edas_c10", "da2s_e4_c10", "nasnet_a", "amoebanet_a"])
def test_the_pieces_are_what_the_network_runs(name, shape):
    names = {"pointwise": "PointwiseNorm", "factorized_reduce": "FactorizedReduce", "stem": "stem"}
    left = {"relu", "sum", "concat", "classifier", "max_pool_3x3", "avg_pool_3x3"}
    genotype = load_genotype(name)
    told = [
        (names.get(part.piece.operation, "operation"), part.piece.in_channels, part.piece.height, part.piece.width)
        for part in pieces(genotype, shape)
        if part.piece.operation not in left
    ]
    assert sorted(told) == seen(genotype, shape)


@pytest.mark.slow
def test_the_pieces_are_those_of_the_exported_file(tmp_path):
    """Equal pools of one state, and what equals them by way of an identity or of an equal sum, are run once there."""
    normal = [
        [("avg_pool_3x3", 0), ("skip_connect", 1)],
        [("avg_pool_3x3", 0), ("skip_connect", 1)],  # node 2 again
        [("skip_connect", 1)],  # input 1 again
        [("avg_pool_3x3", 3), ("avg_pool_3x3", 2), ("max_pool_3x3", 4)],
        [("max_pool_3x3", 1), ("sep_conv_3x3", 4), ("dil_conv_3x3", 1), ("avg_pool_3x3", 0)],
    ]
    reduce = [
        [("max_pool_3x3", 0), ("max_pool_3x3", 0)],
        [("max_pool_3x3", 0), ("avg_pool_3x3", 1)],
        [("skip_connect", 1), ("sep_conv_3x3", 3)],
        [("skip_connect", 1), ("skip_connect", 2)],
        [("skip_connect", 2), ("max_pool_3x3", 2)],
    ]
    genotype = Genotype((normal, [2, 3, 4, 5, 6]), (reduce, [3, 4, 5, 6]))
    shape = Shape("cifar", 4, 4, 3, (3, 16, 16))
    path = export_onnx(
        CellNet(genotype, "cifar", 4, 4, 3), tmp_path / "net.onnx", input_size=shape.input_size, mean=[0] * 3,
        std=[1] * 3,
    )  # fmt: skip
    in_file = Counter(node.op_type for node in onnx.load(path).graph.node)
    told = Counter[str]()
    for _, piece in pieces(genotype, shape):
        told += Counter(
            {
                "stem": {"Conv": 1, "Relu": 1},
                "pointwise": {"Conv": 1},
                "factorized_reduce": {"Conv": 2, "Concat": 1},
                "skip_connect": {"Conv": 2, "Concat": 1},
                "sep_conv_3x3": {"Conv": 4, "Relu": 1},
                "dil_conv_3x3": {"Conv": 2},
                "max_pool_3x3": {"MaxPool": 1},
                "avg_pool_3x3": {"AveragePool": 1},
                "relu": {"Relu": 1},
                "sum": {"Add": piece.inputs - 1},
                "concat": {"Concat": 1},
                "classifier": {"Gemm": 1},
            }[piece.operation]
        )
    assert {name: in_file[name] for name in told} == told


def test_an_operation_from_outside_reads_the_state_itself():
    genotype = Genotype(([[("mine.py:op", 0), ("mine.py:op", 1)]], [2]), ([[("max_pool_3x3", 0)]], [2]))
    assert [part.piece.operation for part in pieces(genotype, SMALL)].count("relu") == 4  # behind the cells, no others


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_table_of_a_shape_knows_every_piece_of_its_networks(shape):
    wanted = set(all_pieces(SEARCH_OPERATIONS, shape))
    for name in ("darts_v2", "edas_c10", "da2s_c10"):
        assert {part.piece for part in pieces(load_genotype(name), shape)} <= wanted


def test_the_parts_of_an_estimate_add_up_to_it():
    table = known(SMALL, lambda piece: 0.001 * piece.in_channels * piece.height)
    table.ms[CALL] = 0.004
    table.fits[SMALL] = Fit(0.5, 0.02)
    estimate = table.estimate(load_genotype("darts_v2"), SMALL)
    assert sum(estimate.by(0).values()) + estimate.call == pytest.approx(estimate.ms)
    assert sum(estimate.by(1).values()) + estimate.call == pytest.approx(estimate.ms)
    assert list(estimate.by(0)) == ["stem", *(f"cell {i}" for i in range(5)), "classifier"]


def test_what_a_call_costs_is_taken_from_each_piece():
    plain, with_call = known(SMALL), known(SMALL, lambda piece: 1.5)
    with_call.ms[CALL] = 0.5
    genotype = load_genotype("edas_c10")
    assert with_call.estimate(genotype, SMALL).ms == pytest.approx(plain.estimate(genotype, SMALL).ms)


def test_an_edge_costs_its_operation_in_every_cell_of_the_kind():
    # cells 1 and 3 of five are reduction cells
    assert len(edge_pieces("sep_conv_3x3", 0, "normal", SMALL)) == 3
    assert [piece.stride for piece in edge_pieces("sep_conv_3x3", 0, "reduce", SMALL)] == [2, 2]
    assert [piece.stride for piece in edge_pieces("sep_conv_3x3", 2, "reduce", SMALL)] == [1, 1]
    assert edge_pieces("skip_connect", 0, "normal", SMALL) == [] != edge_pieces("skip_connect", 0, "reduce", SMALL)
    assert edge_pieces("none", 0, "reduce", SMALL) == []


def test_a_fit_finds_scale_and_offset():
    fit = Fit.of([(total, 0.6 * total + 0.1) for total in (1.0, 1.2, 2.0)])
    assert (fit.scale, fit.offset) == pytest.approx((0.6, 0.1))
    assert Fit.of([(1.0, 2.0), (1.0, 2.0)])(1.0) == pytest.approx(2.0)  # networks alike
    assert Fit.of([(1.0, 2.0), (2.0, 1.0)]).scale > 0  # noise alone
    with pytest.raises(ValueError, match="two networks at least"):
        Fit.of([(1.0, 2.0)])


def test_a_table_is_the_same_after_writing_and_reading(tmp_path):
    table = known(SMALL, lambda piece: 0.25 * piece.height)
    table.fits[SMALL] = Fit(0.5, -0.02, ((1.0, 0.5), (2.0, 0.9)))
    path = tmp_path / "table.json"
    path.write_text(table.to_json(), "utf-8")
    assert LatencyTable.read(path) == table


@pytest.mark.parametrize(
    "text", ["sep_conv_3x3", "relu 1>1 0x4", "relu 1>1 4x4 /1", "relu 1>1 4x4 ?2", "relu a>1 4x4", ""]
)
def test_a_text_that_names_no_piece_is_refused(text):
    with pytest.raises(ValueError, match="names no piece"):
        Piece.read(text)


def record():
    return json.loads(known(SMALL).to_json())


def changed(**changes):
    return json.dumps(record() | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        changed(version=3),
        changed(conditions={"device": "x"}),
        changed(conditions=None),
        changed(ms={"relu 1>1 1x1": "fast"}),
        changed(ms={"relu 1>1 1x1": -1}),
        changed(ms={"relu 1>1 1x1": float("nan")}),
        changed(ms=[1]),
        changed(fits=[{"shape": {}}]),
        changed(fits=3),
        "\ufeff",
    ],
    ids=range(14),
)
def test_what_is_no_table_is_told(tmp_path, text):
    path = tmp_path / "table.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match="none that `nas-zoo latency` wrote"):
        LatencyTable.read(path)
    with pytest.raises(ValueError, match="No such file"):
        LatencyTable.read(tmp_path / "other.json")


def test_of_a_table_of_the_version_before_the_times_are_read_and_not_the_fits(tmp_path):
    """Its fits were made on other sums."""
    path = tmp_path / "table.json"
    path.write_text(changed(version=1), "utf-8")
    assert LatencyTable.read(path) == LatencyTable(HERE, known(SMALL).ms)


def test_what_was_not_measured_is_named():
    table = known(SMALL)
    with pytest.raises(ValueError, match="no fit for networks of imagenet"):
        table.estimate(load_genotype("darts_v2"), SHAPES[1])
    del table.ms[Piece("sep_conv_3x3", 4, 4, 16, 16)]
    with pytest.raises(ValueError, match=r"no time of 'sep_conv_3x3 4>4 16x16'"):
        table.estimate(load_genotype("darts_v2"), SMALL)


MEASURED = Path(__file__).parents[2] / "benchmarks" / "measured" / "latency.json"


def test_networks_held_out_of_the_fit_are_told_within_twelve_percent_and_five_on_average():
    """On the timings that benchmarks/latency.py took, ten networks of each of two shapes."""
    table = LatencyTable.read(MEASURED.with_name("latency_table.json"))
    by_shape: dict[str, list[float]] = {}
    rows = json.loads(MEASURED.read_text("utf-8"))["networks"]
    shapes = {str(shape): shape for shape in table.fits}
    for row in rows:
        estimate = table.estimate(Genotype.from_json(row["genotype"]), shapes[row["shape"]]).ms
        by_shape.setdefault(row["shape"], []).append(abs(estimate / row["measured_ms"] - 1))
    assert len(by_shape) == 2
    for errors in by_shape.values():
        assert len(errors) == 10
        assert sum(errors) / len(errors) <= 0.05
        assert max(errors) <= 0.12


def test_the_committed_fits_are_those_of_the_committed_times():
    table = LatencyTable.read(MEASURED.with_name("latency_table.json"))
    for shape, fit in table.fits.items():
        sums = [table.total(part.piece for part in pieces(random_cells(seed), shape)) for seed in range(12)]
        again = Fit.of([(total, ms) for total, (_, ms) in zip(sums, fit.networks, strict=True)])
        assert (fit.scale, fit.offset) == pytest.approx((again.scale, again.offset))
        assert [total for total, _ in fit.networks] == pytest.approx(sums)
