"""Derivation rules on cases worked out by hand."""

import pytest
import torch

from nas_zoo.genotype import KINDS, Edge
from nas_zoo.search.discretize import derive_argmax, derive_darts
from nas_zoo.search.supernet import SearchSpace

SPACE = SearchSpace(operations=("none", "skip_connect", "max_pool_3x3"), num_nodes=2)


def scores(normal, reduce=None):
    return {"normal": torch.tensor(normal), "reduce": torch.tensor(normal if reduce is None else reduce)}


def test_darts_keeps_the_two_strongest_edges_of_a_node_by_their_best_operation_but_none():
    # edges in order: 2<-0, 2<-1, 3<-0, 3<-1, 3<-2
    genotype = derive_darts(
        scores(
            [
                [9.0, 0.0, 1.0],  # 'none' is strongest and is not chosen: max_pool
                [0.0, 2.0, 1.0],
                [5.0, 4.0, 0.0],  # softmax with 'none' in it: 0.27 for the skip
                [0.0, 1.0, 0.0],  # 0.58
                [0.0, 0.0, 3.0],  # 0.91
            ]
        ),
        SPACE,
    )
    assert genotype.normal.nodes == (
        (Edge("max_pool_3x3", 0), Edge("skip_connect", 1)),
        (Edge("skip_connect", 1), Edge("max_pool_3x3", 2)),
    )
    assert genotype.normal.concat == (2, 3)


def test_argmax_keeps_every_edge_but_those_where_none_wins():
    rows = [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    genotype = derive_argmax(scores(rows), SPACE)
    assert genotype.normal.nodes == (
        (Edge("skip_connect", 0),),
        (Edge("max_pool_3x3", 0), Edge("skip_connect", 2)),
    )


def test_a_node_without_input_feeds_nothing_and_is_not_concatenated():
    rows = [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    genotype = derive_argmax(scores(rows), SPACE)
    assert genotype.normal.nodes == ((), (Edge("max_pool_3x3", 0),))
    assert genotype.normal.concat == (3,)


def test_none_everywhere_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="concat"):
        derive_argmax(scores([[1.0, 0.0, 0.0]] * 5), SPACE)


def test_the_kinds_are_derived_from_their_own_scores():
    normal = torch.zeros(5, 3)
    normal[:, 1] = 1.0
    reduce = torch.zeros(5, 3)
    reduce[:, 2] = 1.0
    for rule in (derive_darts, derive_argmax):
        genotype = rule({"normal": normal, "reduce": reduce}, SPACE)
        assert genotype.histogram()["normal"].keys() == {"skip_connect"}
        assert genotype.histogram()["reduce"].keys() == {"max_pool_3x3"}
    assert KINDS == ("normal", "reduce")
