"""The supernet against the derived network, and what it runs."""

from typing import Any

import pytest
import torch
from torch import nn

from nas_zoo.genotype import KINDS, Kind, load_genotype
from nas_zoo.models.network import CellNet
from nas_zoo.models.operations import SEARCH_OPERATIONS
from nas_zoo.search.discretize import derive_argmax, derived_network, one_hot_mixing
from nas_zoo.search.supernet import EdgeMixing, SearchSpace, Supernet
from tests.plain_darts import PlainSearchNetwork, copy_weights
from tests.present import present

WITH_NONE = SearchSpace(operations=("none", *SEARCH_OPERATIONS))


def warmed_up(supernet: Supernet, size: int = 16) -> Supernet:
    """Running statistics as after some training, so that evaluation mode is no special case."""
    torch.manual_seed(1)
    everything = EdgeMixing(tuple(range(supernet.space.num_operations)))
    mixing = dict.fromkeys(KINDS, (everything,) * supernet.space.num_edges)
    with torch.no_grad():
        for _ in range(3):
            supernet(torch.randn(4, 3, size, size), mixing)
    return supernet


def random_scores(seed: int, space: SearchSpace) -> dict[Kind, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {kind: torch.randn(space.num_edges, space.num_operations, generator=generator) for kind in KINDS}


def test_edges_are_numbered_node_by_node():
    assert SearchSpace().edges[:6] == ((2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 0))
    assert SearchSpace().num_edges == 14


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layout", ["cifar", "imagenet"])
def test_a_one_hot_supernet_and_the_derived_network_give_the_same_logits(layout, training):
    size = 16 if layout == "cifar" else 65
    supernet = warmed_up(Supernet(SearchSpace(), init_channels=4, num_cells=5, layout=layout), size)
    # normal and reduction cell differ, so a crossing of the two kinds would show
    genotype = load_genotype("darts_v2")._replace(reduce=load_genotype("pc_darts_c10").reduce)
    network = derived_network(supernet, genotype).train(training)
    supernet.train(training)
    x = torch.randn(4, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(supernet(x, one_hot_mixing(genotype, supernet.space)), network(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_a_clamped_supernet_with_dropped_edges_is_the_network_of_its_argmax(seed):
    supernet = warmed_up(Supernet(WITH_NONE, init_channels=4, num_cells=6)).eval()
    scores = random_scores(seed, WITH_NONE)
    for kind in KINDS:
        scores[kind][:, WITH_NONE.none_index] += 1.5  # most edges are dropped, some nodes are left without input
    genotype = derive_argmax(scores, WITH_NONE)
    clamped = {kind: tuple(EdgeMixing((int(row.argmax()),)) for row in scores[kind]) for kind in KINDS}
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = supernet(x, clamped)
        torch.testing.assert_close(supernet(x, one_hot_mixing(genotype, WITH_NONE)), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(derived_network(supernet, genotype).eval()(x), expected, rtol=0, atol=1e-5)


def test_the_derived_network_with_search_weights_is_an_ordinary_model_of_the_zoo():
    supernet = Supernet(SearchSpace(), init_channels=4, num_cells=3)
    network = derived_network(supernet, load_genotype("darts_v2"))
    assert isinstance(network, CellNet)
    fresh = CellNet("darts_v2", init_channels=4, num_cells=3, pool_bn=True)
    assert network.state_dict().keys() == fresh.state_dict().keys()


def test_only_active_operations_run():
    supernet = Supernet(SearchSpace(), init_channels=4, num_cells=3)
    genotype = load_genotype("darts_v2")
    mixing = one_hot_mixing(genotype, supernet.space)
    supernet(torch.randn(2, 3, 8, 8), mixing).sum().backward()
    cells: Any = supernet.cells
    norms = {op: list(op.modules())[-1] for cell in cells for edge in cell.edges for op in edge}
    ran = {
        op
        for op, norm in norms.items()
        if isinstance(norm, nn.BatchNorm2d) and int(present(norm.num_batches_tracked)) == 1
    }
    kinds = [spec.kind for spec in supernet.plan.cells]
    expected = {
        cells[i].edges[e][op]
        for i, kind in enumerate(kinds)
        for e, mix in enumerate(mixing[kind])
        for op in mix.ops
        if not isinstance(cells[i].edges[e][op], nn.Identity)
    }
    assert ran == expected
    # ... and what did not run has no gradient, so neither decay nor momentum moves it
    inactive = [p for cell in cells for edge in cell.edges for op in edge if op not in ran for p in op.parameters()]
    assert inactive
    assert all(p.grad is None for p in inactive)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mixing_of_a_kind_reaches_the_cells_of_that_kind_only(kind):
    """The authors' DA2S code crosses the two; here a gradient by way of the other kind's cells would show."""
    supernet = Supernet(SearchSpace(), init_channels=4, num_cells=3).double()
    weights = {k: torch.full((14, 7), 1 / 7, dtype=torch.double, requires_grad=True) for k in KINDS}
    mixing = {k: tuple(EdgeMixing(tuple(range(7)), weights[k][e]) for e in range(14)) for k in KINDS}
    outputs = {}
    for spec, cell in zip(supernet.plan.cells, supernet.cells, strict=True):
        cell.register_forward_hook(lambda *args, index=spec.index: outputs.update({index: args[-1]}))
    supernet(torch.randn(2, 3, 8, 8, dtype=torch.double), mixing)
    first = next(spec.index for spec in supernet.plan.cells if spec.kind == kind)
    grads = torch.autograd.grad(outputs[first].square().sum(), list(weights.values()), allow_unused=True)
    for k, grad in zip(KINDS, grads, strict=True):
        before = any(spec.kind == k for spec in supernet.plan.cells[: first + 1])
        assert (grad is not None and bool(grad.abs().sum() > 0)) == before


def test_a_weighted_edge_is_the_weighted_sum_of_its_operations():
    supernet = warmed_up(Supernet(SearchSpace(num_nodes=1), init_channels=4, num_cells=1)).eval()
    x, drop = torch.randn(2, 3, 8, 8), EdgeMixing(())
    features = []
    supernet.classifier.register_forward_hook(lambda module, args, out: features.append(args[0]))
    weights = torch.rand(7)
    mixings = [EdgeMixing((op,)) for op in range(7)] + [EdgeMixing(tuple(range(7)), weights)]
    with torch.no_grad():
        for mix in mixings:
            supernet(x, dict.fromkeys(KINDS, (mix, drop)))
    single = torch.stack(features[:7])
    torch.testing.assert_close((weights[:, None, None] * single).sum(0), features[7], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", [SearchSpace(), WITH_NONE], ids=["seven operations", "with none"])
def test_a_fully_relaxed_supernet_is_the_plain_layer_by_layer_one(space):
    """Logits and the gradients of the mixing weights, in float64, against tests/plain_darts.py."""
    torch.manual_seed(0)
    supernet = Supernet(space, init_channels=4, num_cells=5, num_classes=6).double()
    plain = PlainSearchNetwork(space.operations, 4, 5, 6).double()
    copy_weights(supernet, plain)
    x = torch.randn(2, 3, 8, 8, dtype=torch.double)
    shape = (space.num_edges, space.num_operations)
    weights = {kind: torch.rand(shape, dtype=torch.double, requires_grad=True) for kind in KINDS}
    everything = tuple(range(space.num_operations))
    mixing = {kind: tuple(EdgeMixing(everything, row) for row in weights[kind]) for kind in KINDS}
    ours, theirs = supernet(x, mixing), plain(x, weights["normal"], weights["reduce"])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    grads = [torch.autograd.grad(out.square().sum(), list(weights.values())) for out in (ours, theirs)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=1e-6)


def test_a_genotype_that_the_space_does_not_have_is_refused():
    genotype = load_genotype("darts_v2")
    with pytest.raises(ValueError, match="no operation"):
        one_hot_mixing(genotype, SearchSpace(operations=("skip_connect",)))
    with pytest.raises(ValueError, match="must have 5 nodes, got 4"):
        one_hot_mixing(genotype, SearchSpace(num_nodes=5))
