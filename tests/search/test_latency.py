"""The latency term of a search: its value by hand, its gradient by differences, and what it does to the cells."""

import json
from typing import Any, cast

import pytest
import torch

from nas_zoo.genotype import KINDS
from nas_zoo.models.latency import CALL, Conditions, Fit, LatencyTable, Shape, all_pieces
from nas_zoo.runs.distributed import start_accelerator
from nas_zoo.runs.log import RunLog
from nas_zoo.search.gap import measure
from nas_zoo.search.latency import LatencyLimit
from nas_zoo.search.method import Step, find_method
from nas_zoo.search.run import Search, main, parse
from nas_zoo.search.supernet import EdgeMixing

SHAPE = Shape("cifar", 8, 5, 10, (1, 8, 8))
TARGET = ["--target-channels", "8", "--target-cells", "5"]
#: Wide apart, so that a term can be seen at work: pooling is dear here.
COSTS = {"max_pool_3x3": 9.0, "avg_pool_3x3": 7.0, "skip_connect": 1.0, "sep_conv_5x5": 4.0, "dil_conv_5x5": 2.0}


@pytest.fixture
def table(tmp_path):
    operations = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
                  "dil_conv_5x5", "none")  # fmt: skip
    times = {piece: 0.01 * COSTS.get(piece.operation, 0.5) for piece in all_pieces(operations, SHAPE)}
    made = LatencyTable(Conditions("a processor", "onnxruntime 1", "cpu", 1, 1), times | {CALL: 0.0})
    made.fits[SHAPE] = Fit(0.8, 0.05)
    path = tmp_path / "table.json"
    path.write_text(made.to_json(), "utf-8")
    return path


def limited(name: str, table, budget: float = 0.5, **settings) -> Any:
    settings_class, make = cast(Any, find_method(name))
    chosen = settings_class(
        max_latency=budget, latency_table=table, target_channels=8, target_cells=5, num_cells=4, **settings
    )
    torch.manual_seed(3)
    method = make(chosen)
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter))
    return method.double(), LatencyLimit(chosen, method, 10, 1, 8)


METHODS = ("edas", "alpha_max", "da2s", "da2s_released", "darts", "pc_darts", "random")
STEP = Step(1, 7, 5, "alpha")


def one_operation_an_edge(method):
    found = method.genotype()
    space = method.space
    mixing = {}
    for kind in KINDS:
        operation = {
            (node + 2, edge.source): space.operations.index(edge.operation)
            for node, edges in enumerate(found.cell(kind).nodes)
            for edge in edges
        }
        mixing[kind] = tuple(EdgeMixing((operation[edge],) if edge in operation else ()) for edge in space.edges)
    return found, mixing


@pytest.mark.parametrize("name", METHODS)
def test_at_one_operation_an_edge_the_expected_latency_is_the_estimate(name, table):
    method, limit = limited(name, table)
    found, mixing = one_operation_an_edge(method)
    assert float(limit.expected(mixing)) == pytest.approx(limit.estimate(found))


def test_equal_pools_of_one_state_are_expected_once(table):
    method, limit = limited("darts", table)
    pool = method.space.operations.index("max_pool_3x3")
    with torch.no_grad():
        for alpha in method.parameters():
            alpha.zero_()[:, pool] = 5.0
    found, mixing = one_operation_an_edge(method)
    assert found.normal.nodes[2] == (("max_pool_3x3", 0), ("max_pool_3x3", 1)) == found.normal.nodes[3]
    by_name = limit._expected.table.estimate(found, SHAPE).by(1)
    assert by_name["max_pool_3x3"] == pytest.approx(0.8 * 0.09 * 2 * 5)  # two a cell, not eight
    assert float(limit.expected(mixing)) == pytest.approx(limit.estimate(found))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "random"])
def test_the_gradient_is_that_of_differences(name, table):
    method, limit = limited(name, table, budget=0.01)
    alphas = [parameter for parameter in method.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(limit(method.mixing(STEP)), alphas, allow_unused=True)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
    rng = torch.Generator().manual_seed(0)
    for alpha, gradient in zip(alphas, gradients, strict=True):
        if gradient is None:  # da2s_released takes beta for a constant in this step
            continue
        direction = torch.randn(alpha.shape, generator=rng, dtype=alpha.dtype)
        step, sides = 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                alpha += sign * step * direction
                sides.append(float(limit(method.mixing(STEP))))
                alpha -= sign * step * direction
        assert float((gradient * direction).sum()) == pytest.approx(
            (sides[0] - sides[1]) / (2 * step), rel=1e-5, abs=1e-8
        )


def test_a_sampled_node_whose_edges_have_all_drawn_none_costs_nothing(table):
    """It was 0 / 0, and a search with GDAS ended as one whose loss is not finite."""
    method, limit = limited("gdas", table, budget=0.01)
    none = EdgeMixing((method.space.none_index,), torch.ones(1, dtype=torch.float64, requires_grad=True))
    nothing = limit.expected(dict.fromkeys(KINDS, (none,) * len(method.space.edges)))
    assert float(nothing.detach()) == pytest.approx(0.8 * limit._expected.fixed(method.genotype()) + 0.05)
    assert all(torch.isfinite(limit(method.mixing(Step(1, draw, 5, "alpha")))) for draw in range(40))


def test_within_the_budget_there_is_no_term(table):
    method, limit = limited("darts", table, budget=1e6)
    assert float(limit(method.mixing(STEP)).detach()) == 0


def test_a_node_counts_for_as_many_edges_as_its_rule_keeps(table):
    """At equal weights the edges of a node cost their mean, times two for DARTS."""
    method, limit = limited("darts", table)
    with torch.no_grad():
        for alpha in method.parameters():
            alpha.zero_()
    found = method.genotype()
    assert [len(node) for node in found.normal.nodes] == [2, 2, 2, 2]
    expected, ms, space = 0.0, limit._expected.ms, method.space
    real = [op for op in range(space.num_operations) if op != space.none_index]
    for kind in KINDS:
        for node in range(2, 6):
            edges = [e for e, (to, _) in enumerate(space.edges) if to == node]
            expected += 2 * sum(ms[kind][e][op] for e in edges for op in real) / (len(edges) * len(real))
    total = limit._expected.fixed(found) + expected
    assert float(limit.expected(method.mixing(STEP)).detach()) == pytest.approx(0.8 * total + 0.05)


RUN = ["--data", "digits", "--train-limit", "160", "--num-cells", "2", "--init-channels", "4", "--epochs", "2",
       "--batch-size", "16", "--eval-size", "32", "--gap-batches", "0", "--seed", "1"]  # fmt: skip


@pytest.mark.slow
def test_a_tight_budget_gives_faster_cells(table, tmp_path, capsys):
    found = {}
    for out, flags in (("free", []), ("tight", ["--max-latency", "0.3", "--latency-weight", "30"])):
        words = ["--latency-table", str(table), *TARGET, *flags] if flags else []
        arguments = [*RUN, "--method", "edas", "--alpha-lr", "0.3", "--out", str(tmp_path / out), *words]
        assert main(arguments) == 0
        genotype = json.loads((tmp_path / out / "genotype.json").read_text())
        found[out] = LatencyTable.read(table).estimate(genotype_of(genotype), SHAPE).ms
    assert found["tight"] < 0.9 * found["free"]
    lines = [line["latency"] for line in RunLog.read(tmp_path / "tight") if line["kind"] == "epoch"]
    assert [set(line) for line in lines] == 2 * [{"max_ms", "expected_ms", "found_ms"}]
    assert lines[-1]["found_ms"] == pytest.approx(found["tight"])
    assert "limit 0.3)" in capsys.readouterr().out


def genotype_of(record):
    from nas_zoo.genotype import Genotype

    return Genotype.from_json({key: value for key, value in record.items() if key != "provenance"})


def test_a_table_without_the_network_says_how_to_measure_it(table, tmp_path, capsys):
    words = [*RUN, "--max-latency", "1", "--latency-table", str(table), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "nas-zoo latency darts_v2 --layout cifar --init-channels 36 --num-cells 20 --num-classes 10" in told
    assert main([*RUN, "--max-latency", "1", "--out", str(tmp_path / "run")]) == 2
    assert "max_latency needs latency_table" in capsys.readouterr().err


def test_a_table_that_is_not_there_is_told_as_one(tmp_path, capsys):
    assert main([*RUN, "--max-latency", "1", "--latency-table", "nowhere.json", "--out", str(tmp_path / "run")]) == 2
    assert "latency table" in capsys.readouterr().err


def test_a_run_goes_on_with_the_same_table_only_wherever_it_lies(table, tmp_path, capsys):
    words = [*RUN, "--max-latency", "0.3", "--latency-table", str(table), *TARGET, "--out", str(tmp_path / "run")]
    assert main(words) == 0
    moved = ["--latency-table", str(table.rename(tmp_path / "moved.json"))]
    settings, state = parse(["--resume", "--out", str(tmp_path / "run"), *moved])
    running = Search(settings, start_accelerator())
    text = (tmp_path / "moved.json").read_text()
    (tmp_path / "moved.json").unlink()
    assert state is not None
    assert running.state()["code"] == state["code"]  # of its start, whatever becomes of the file meanwhile
    (tmp_path / "moved.json").write_text(text)
    assert main(["--resume", "--out", str(tmp_path / "run"), *moved]) == 0
    table = tmp_path / "moved.json"
    table.write_text(table.read_text().replace('"offset": 0.05', '"offset": 0.06'))
    assert main(["--resume", "--out", str(tmp_path / "run"), *moved]) == 2
    assert "the latency table has changed since the run began" in capsys.readouterr().err
    table.unlink()  # what is lost by cutting does not depend on it
    assert measure(tmp_path / "run", ["found"])["n"] > 0


def test_of_random_cells_it_is_told_that_nothing_keeps_the_limit(table, tmp_path, capsys):
    words = [*RUN, "--max-latency", "0.3", "--latency-table", str(table), *TARGET]
    for method in ("random", "darts"):
        assert main(["--method", method, *words, "--out", str(tmp_path / method)]) == 0
        told = "warning: random cells are drawn, not searched: nothing keeps max_latency" in capsys.readouterr().err
        assert told is (method == "random")
