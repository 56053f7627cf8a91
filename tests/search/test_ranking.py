"""Changes of the operations' order, by hand and on the logs of Figure 5's experiment."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from nas_zoo.runs.log import RunLog
from nas_zoo.search.ranking import kendall_tau, ranking_changes

RESULTS = Path(__file__).parents[2] / "search" / "results"


def test_kendalls_tau_by_hand():
    before = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert kendall_tau(before, before) == 1
    assert kendall_tau(before, -before) == -1
    # one of three pairs turned on one of two edges
    assert kendall_tau(before, np.array([[2.0, 3.0, 1.0], [9.0, 8.0, 7.0]])) == pytest.approx((1 / 3 + 1) / 2)


def test_one_operation_has_one_order():
    assert kendall_tau([[0.0], [1.0]], [[1.0], [0.0]]) == 1.0


def test_an_edge_counts_where_another_operation_has_become_the_strongest():
    before = {kind: np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]) for kind in ("normal", "reduce")}
    after = {"normal": np.array([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]]), "reduce": -before["reduce"]}
    changes = ranking_changes(before, after)
    assert changes["changed"] == 2
    assert changes["kendall_tau"] == {"normal": pytest.approx(2 / 3), "reduce": -1.0}


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("comparison_cpu/edas", [7, 6, 1, 1, 0]),
        ("comparison_cpu/alpha_max", [8, 6, 5, 6, 2]),
        ("comparison_cpu/edas_warmup", [13, 10, 4, 1, 1]),
        ("edas_c8_c10", [2, 1, 0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_the_strongest_operations_of_our_searches_change_as_often_as_counted_before(run, expected):
    """Against section 5.3 of EDAS: alpha-max changes most of the three, where the paper says it never does."""
    lines = [line for line in RunLog.read(RESULTS / run) if line["kind"] == "epoch"]
    alphas = [{kind: np.array(alpha) for kind, alpha in line["alpha"].items()} for line in lines]
    assert [ranking_changes(a, b)["changed"] for a, b in itertools.pairwise(alphas)] == expected
