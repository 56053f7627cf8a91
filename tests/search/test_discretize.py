"""Derivation rules, edge configurations and the gap on cases worked out by hand."""

from typing import cast

import pytest
import torch
from torch import nn

from nas_zoo.genotype import KINDS, Edge, Genotype, load_genotype
from nas_zoo.search.discretize import (
    CONFIGURATIONS,
    EdgeGroup,
    candidates,
    choices,
    configurations,
    derive_argmax,
    derive_configuration,
    derive_darts,
    derived_network,
    discretized,
    gap_table,
    measure_gap,
    one_hot_mixing,
    read_configuration,
    reestimated_statistics,
)
from nas_zoo.search.methods.pc_darts import edge_softmax
from nas_zoo.search.supernet import EdgeMixing, Mixing, SearchSpace, Supernet
from tests.present import present

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


# Edge configurations


def test_configurations_are_those_of_the_papers_table():
    space = SearchSpace()
    assert read_configuration("3/14", space) == (EdgeGroup((2, 3), 1), EdgeGroup((4,), 1), EdgeGroup((5,), 1))
    for name in CONFIGURATIONS:
        groups = read_configuration(name, space)
        assert sum(group.keep for group in groups) == int(name.split("/")[0])
    assert read_configuration(" 2+3:1, 4:1,5:1 ", space) == read_configuration("3/14", space)


def test_choices_leave_out_edges_from_nodes_without_input():
    # one edge for nodes 2 and 3: 2<-0, 2<-1, 3<-0, 3<-1 (3<-2 would leave node 2 empty)
    groups = read_configuration("2+3:1", SPACE)
    assert choices(groups, SPACE) == ((0,), (1,), (2,), (3,))
    assert candidates(groups, SPACE) == [[0, 1, 2, 3]]
    assert candidates(read_configuration("2+3:2", SPACE), SPACE) == [[0, 1, 2, 3, 4]]


def test_a_configuration_keeps_the_strongest_edges_of_each_group_in_turn():
    rows = [[0.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 9.0]]
    two_of_each = derive_configuration(scores(rows), SPACE, read_configuration("2:2,3:2", SPACE))
    assert two_of_each == derive_darts(scores(rows), SPACE)
    one = derive_configuration(scores(rows), SPACE, read_configuration("2+3:1", SPACE))
    assert one.normal == (((), (Edge("skip_connect", 0),)), (3,))
    strength = {kind: torch.tensor([5.0, 1.0, 0.0, 0.0, 0.0]) for kind in KINDS}
    by_strength = derive_configuration(scores(rows), SPACE, read_configuration("2+3:1", SPACE), strength)
    assert by_strength.normal == (((Edge("skip_connect", 0),), ()), (2,))


# The gap


def weighted(values, space=SPACE):
    """A mixing of all operations with these edge weights."""
    everything = tuple(range(space.num_operations))
    share = torch.full((space.num_operations,), 1 / space.num_operations)
    return dict.fromkeys(KINDS, tuple(EdgeMixing(everything, b * share, b) for b in torch.tensor(values)))


def test_edge_weights_are_shared_out_anew_over_the_kept_inputs_and_keep_their_sum():
    cell = ([[("skip_connect", 0), ("skip_connect", 1)], [("max_pool_3x3", 1), ("skip_connect", 2)]], [2, 3])
    genotype = Genotype(normal=cell, reduce=cell)
    mixing = discretized(weighted([0.25, 0.75, 0.2, 0.3, 0.5]), genotype, SPACE)["normal"]
    assert [mix.ops for mix in mixing] == [(1,), (1,), (), (2,), (1,)]
    factors = [present(mix.edge).item() for mix in mixing if mix.ops]
    assert factors == pytest.approx([0.25, 0.75, 0.375, 0.625])
    assert [present(mix.weights).tolist() for mix in mixing if mix.ops] == [
        [present(mix.edge).item()] for mix in mixing if mix.ops
    ]
    # weights that sum to the number of inputs (the authors' DA2S code) go on doing so
    tripled = discretized(weighted([1.0, 1.0, 0.6, 0.9, 1.5]), genotype, SPACE)["reduce"]
    assert [present(mix.edge).item() for mix in tripled if mix.ops] == pytest.approx([1.0, 1.0, 1.125, 1.875])


def test_without_edge_weights_the_discretized_supernet_is_the_one_hot_one():
    genotype = load_genotype("darts_v2")
    space = SearchSpace()
    mixing: dict[str, Mixing] = dict.fromkeys(KINDS, (EdgeMixing(tuple(range(7)), torch.full((7,), 1 / 7)),) * 14)
    assert discretized(mixing, genotype, space) == one_hot_mixing(genotype, space)


@pytest.mark.parametrize(("edges", "exact"), [("4/14", True), ("3/14", True), ("8/14", False)])
def test_with_one_input_a_node_the_discretized_supernet_is_the_derived_network_and_with_two_a_scaled_one(edges, exact):
    torch.manual_seed(0)
    space = SearchSpace()
    supernet = Supernet(space, 4, 3).eval()
    generator = torch.Generator().manual_seed(1)
    logits = {kind: torch.randn(14, 7, generator=generator) for kind in KINDS}
    genotype = derive_configuration(logits, space, read_configuration(edges, space))
    b = edge_softmax(torch.randn(14, generator=generator), space)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        in_supernet = supernet(x, discretized(weighted(b.tolist(), space), genotype, space))
        derived = derived_network(supernet, genotype).eval()(x)
    assert torch.allclose(in_supernet, derived, rtol=0, atol=1e-5) == exact


class OneFeature(nn.Module):
    """Images of one pixel; logits are (weight of the mixing's first edge) * normalised pixel, and 0."""

    def __init__(self) -> None:
        super().__init__()
        self.space = SPACE
        self.bn = nn.BatchNorm2d(1, affine=False)
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, images, mixing):
        first = mixing["normal"][0]
        sign = -1.0 if first.weights is None else first.weights.sum()
        x = self.bn(images).flatten(1) * sign
        return torch.cat([x, torch.zeros_like(x)], dim=1)


def test_the_gap_on_a_case_worked_out_by_hand():
    """Pixels 1..8, those above 5 in class 0. Running statistics (mean 0) call all of them positive: 3 of 8 right.

    Re-estimated on training pixels 1..10 the mean is 5.5: all right. Discretization, here, turns the sign: with running
    statistics all are class 1 (5 of 8 right), re-estimated none is right.
    """
    net = OneFeature().train()
    pixels = torch.arange(1.0, 9.0).view(8, 1, 1, 1)
    labels = (pixels.flatten() < 5.5).long()
    held_out = [(pixels[:4], labels[:4]), (pixels[4:], labels[4:])]
    training = [(torch.arange(a, a + 5.0).view(5, 1, 1, 1), torch.zeros(5)) for a in (1.0, 6.0)]
    everything = EdgeMixing((0, 1, 2), torch.full((3,), 1 / 3))
    mixing: dict[str, Mixing] = dict.fromkeys(KINDS, (everything,) * 5)
    cell = ([[("skip_connect", 0)], [("skip_connect", 1)]], [2, 3])
    genotype = Genotype(normal=cell, reduce=cell)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gap = measure_gap(
        net,
        lambda: held_out,
        lambda: training,
        lambda index: mixing,
        {"found": genotype, "darts": genotype, "argmax": None},
        torch.no_grad,
        reestimate=("found",),
    )
    assert gap["before"] == {"running": 3 / 8, "reestimated": 1.0}
    row = {"edges": {"normal": 2, "reduce": 2}, "edge_weights": "none", "running": 5 / 8}
    # equal cells are measured once, so the second row has the figure as well
    assert gap["after"] == [
        {"cells": "found", **row, "reestimated": 0.0},
        {"cells": "darts", **row, "reestimated": 0.0},
    ]
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert net.training
    assert net.bn.momentum == 0.1
    table = gap_table(gap, 8).splitlines()
    assert table[0].endswith("8 images")
    assert "37.50 ->  62.50 (+25.00)" in table[2]
    assert "100.00 ->   0.00 (-100.00)" in table[2]
    without = measure_gap(net, lambda: held_out, None, lambda index: mixing, {"found": genotype}, torch.no_grad)
    assert without["before"] == {"running": 3 / 8, "reestimated": None}
    assert gap_table(without, 8).splitlines()[2].endswith("-")


def test_reestimated_statistics_are_plain_averages_of_what_ran_and_are_put_back_even_after_an_error():
    net = OneFeature().eval()
    other = nn.BatchNorm2d(1)  # an operation that does not run
    net.other = other
    present(other.running_mean).fill_(7.0)
    no_labels = cast(torch.Tensor, None)  # nothing looks at them
    training = [(torch.full((4, 1, 1, 1), value) + torch.tensor([-1.0, 1, -1, 1]).view(4, 1, 1, 1), no_labels)
                for value in (2.0, 4.0, 9.0)]  # fmt: skip
    mixing: dict[str, Mixing] = dict.fromkeys(KINDS, (EdgeMixing((0,)),) * 5)

    def use():
        with reestimated_statistics(net, training, lambda index: mixing, torch.no_grad):
            assert present(net.bn.running_mean).item() == pytest.approx(5.0)
            assert present(net.bn.running_var).item() == pytest.approx(4 / 3)  # of each batch, with N - 1
            assert present(other.running_mean).item() == 7.0
            assert not net.training
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert present(net.bn.running_mean).item() == 0.0
    assert present(net.bn.num_batches_tracked).item() == 0
    assert present(other.running_mean).item() == 7.0


def test_configurations_follow_the_number_of_nodes():
    assert configurations(SearchSpace()) == CONFIGURATIONS
    assert CONFIGURATIONS["6/14"] == "2:1,3:1,4:2,5:2"
    assert configurations(SearchSpace(num_nodes=1)) == {"2/2": "2:2", "1/2": "2:1"}
    five = configurations(SearchSpace(num_nodes=5))
    assert list(five) == ["10/20", "9/20", "8/20", "7/20", "6/20", "5/20", "4/20"]
    assert five["4/20"] == "2+3:1,4:1,5:1,6:1"
    for nodes in range(1, 7):
        space = SearchSpace(num_nodes=nodes)
        for name, general in configurations(space).items():
            groups = read_configuration(name, space)
            assert groups == read_configuration(general, space)
            assert sum(group.keep for group in groups) == int(name.partition("/")[0])
        assert sum(group.keep for group in read_configuration(None, space)) == 2 * nodes
    with pytest.raises(ValueError, match="at most 200,000 choices of edges"):
        read_configuration("2+3+4+5+6+7:12", SearchSpace(num_nodes=6))
