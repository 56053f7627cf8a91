"""The network: equal to a plain layer-by-layer one, and every part of what timm asks of a model."""

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

import nas_zoo  # noqa: F401  (registers the models)
from nas_zoo.genotype import Cell, Genotype, load_genotype
from nas_zoo.models.network import Cell as BuiltCell
from nas_zoo.models.network import CellNet, Node, SkippedCell
from tests.plain_darts import matching_modules, plain_copy

SCRIPT_IS_DEPRECATED = "ignore:`torch.jit.*` is deprecated:FutureWarning"  # timm still promises scriptable models

DARTS = load_genotype("darts_v2")
SKIPS = Cell([[("skip_connect", 0), ("skip_connect", 1)]], [2])

# One genotype for everything that a cell may be.
GENOTYPES: dict[str, Genotype] = {
    "darts_v2": DARTS,
    "pc_darts_c10": load_genotype("pc_darts_c10"),
    "five_nodes": Genotype(  # as NASNet: five nodes, of which the concat takes some, in an order of its own
        Cell(
            [
                [("sep_conv_3x3", 1), ("skip_connect", 1)],
                [("sep_conv_5x5", 0), ("sep_conv_3x3", 0)],
                [("avg_pool_3x3", 1), ("skip_connect", 0)],
                [("avg_pool_3x3", 2), ("max_pool_3x3", 3)],
                [("dil_conv_5x5", 4), ("skip_connect", 2)],
            ],
            [6, 3, 5],
        ),
        Cell(
            [
                [("sep_conv_7x7", 0), ("sep_conv_5x5", 1)],
                [("max_pool_3x3", 1), ("sep_conv_7x7", 0)],
                [("avg_pool_3x3", 1), ("conv_7x1_1x7", 0)],
                [("skip_connect", 3), ("avg_pool_3x3", 2)],
                [("sep_conv_3x3", 2), ("max_pool_3x3", 1)],
            ],
            [4, 5, 6],
        ),
    ),
    "input_0_only": Genotype(
        Cell([[("sep_conv_3x3", 0)], [("skip_connect", 0), ("dil_conv_3x3", 2)]], [2, 3]),
        Cell([[("max_pool_3x3", 0)], [("skip_connect", 0), ("dil_conv_3x3", 2)]], [2, 3]),
    ),
    "normal_reads_input_0_only": Genotype(Cell([[("sep_conv_3x3", 0)], [("skip_connect", 0)]], [3, 2]), DARTS.reduce),
    "reduce_reads_input_0_only": Genotype(DARTS.normal, Cell([[("skip_connect", 0)], [("sep_conv_3x3", 2)]], [3])),
    "input_1_only": Genotype(
        Cell([[("sep_conv_3x3", 1)], [("skip_connect", 2)]], [2, 3]), Cell([[("skip_connect", 1)]], [2])
    ),
    "dead_node": Genotype(  # node 3 reaches nothing, and it is the only one that reads input 0
        Cell([[("sep_conv_3x3", 1)], [("sep_conv_5x5", 0), ("skip_connect", 2)], [("dil_conv_3x3", 2)]], [4, 2]),
        Cell([[("max_pool_3x3", 0)], [("sep_conv_5x5", 1)], [("skip_connect", 2)]], [4]),
    ),
    "uneven_edges": Genotype(
        Cell([[("skip_connect", 0)], [("sep_conv_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2)]], [2, 3]),
        Cell([[("avg_pool_3x3", n) for n in (0, 1)], [("dil_conv_5x5", n) for n in (0, 1, 2)]], [3]),
    ),
    "same_input_twice": Genotype(
        Cell([[("skip_connect", 1), ("skip_connect", 1)], [("sep_conv_3x3", 0), ("max_pool_3x3", 0)]], [2, 3]),
        Cell([[("sep_conv_3x3", 0), ("sep_conv_3x3", 0)], [("skip_connect", 2), ("skip_connect", 2)]], [2, 3]),
    ),
    "node_without_inputs": Genotype(
        Cell([[("sep_conv_3x3", 0)], [], [("skip_connect", 1), ("dil_conv_3x3", 2)]], [4]),
        Cell([[], [("skip_connect", 0), ("max_pool_3x3", 1)]], [3]),
    ),
    "identities_only": Genotype(SKIPS, SKIPS),
}

# Layouts with the smallest image at which a network of five cells still has four pixels to normalize over.
SIZES = {"cifar": 8, "imagenet": 64}


def make(genotype: Any = "darts_v2", layout: str = "cifar", **kwargs: Any) -> CellNet:
    """A small network whose BatchNorms are not the identities they start as."""
    torch.manual_seed(0)
    model = CellNet(genotype, layout, **({"init_channels": 4, "num_cells": 5, "num_classes": 6} | kwargs))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight.device.type != "meta":
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model


def create(name: str = "cell_net_cifar", **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **({"init_channels": 4, "num_cells": 5} | kwargs))


def forward(model: CellNet, x: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The output of the last layer, the feature levels."""
    final, levels = model.forward_intermediates(x, **kwargs)
    assert isinstance(final, torch.Tensor)
    assert isinstance(levels, list)
    return final, levels


def images(size: int | tuple[int, int] = 8, n: int = 2, chans: int = 3, dtype: torch.dtype = torch.float32):
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, chans, height, width, generator=generator, dtype=torch.float64).to(dtype)


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradient of every parameter; fails where one has none."""
    model.zero_grad()
    loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


# The arithmetic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", SIZES)
@pytest.mark.parametrize("name", GENOTYPES)
def test_logits_and_gradients_equal_those_of_the_plain_network(name, layout):
    model = make(GENOTYPES[name], layout).double()
    plain = plain_copy(model)
    x = images(SIZES[layout], dtype=torch.float64)
    for training in (False, True):
        logits, expected = model.train(training)(x), plain.train(training)(x)
        assert logits.shape == (2, 6)
        torch.testing.assert_close(logits, expected, rtol=1e-8, atol=1e-8)
    gradients(model, logits.pow(2).sum())
    expected.pow(2).sum().backward()
    compared = 0
    for ours, theirs in matching_modules(model, plain):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-7, atol=1e-7)
            compared += 1
        for statistic, other_statistic in zip(ours.buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(statistic, other_statistic)
    assert compared == len(list(model.parameters()))


@pytest.mark.parametrize("pool_bn", [False, True])
@pytest.mark.parametrize(
    ("layout", "size"), [("cifar", 9), ("cifar", (7, 10)), ("imagenet", 65), ("imagenet", (49, 82))]
)
def test_odd_sizes_equal_the_plain_network_on_maps_padded_to_even_ones(layout, size, pool_bn):
    model = make("darts_v2", layout, pool_bn=pool_bn).double().eval()
    x = images(size, dtype=torch.float64)
    torch.testing.assert_close(model(x), plain_copy(model)(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("num_cells", [1, 2, 3, 4, 6, 7, 8])
@pytest.mark.parametrize("name", ["darts_v2", "input_0_only", "normal_reads_input_0_only", "input_1_only"])
def test_networks_of_any_depth_equal_the_plain_network(name, num_cells):
    for layout, size in SIZES.items():
        model = make(GENOTYPES[name], layout, init_channels=2, num_cells=num_cells).double().eval()
        x = images(size // 2, dtype=torch.float64)
        torch.testing.assert_close(model(x), plain_copy(model)(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("layout", SIZES)
@pytest.mark.parametrize("in_chans", [1, 4])
def test_images_may_have_any_number_of_channels(in_chans, layout):
    model = make(layout=layout, in_chans=in_chans).double().eval()
    x = images(SIZES[layout], chans=in_chans, dtype=torch.float64)
    torch.testing.assert_close(model(x), plain_copy(model)(x), rtol=1e-8, atol=1e-8)


def test_the_network_that_darts_published_has_its_number_of_parameters():
    model = CellNet("darts_v2", init_channels=36, num_cells=20, num_classes=10, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_349_342
    model = CellNet("darts_v2", "imagenet", init_channels=48, num_cells=14, num_classes=1000, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_718_752


def test_a_node_that_reaches_nothing_is_not_built():
    model = make(GENOTYPES["dead_node"])
    normal, reduce = model.cells[4], model.cells[3]
    assert isinstance(normal, BuiltCell)
    assert isinstance(reduce, BuiltCell)
    assert len(normal.nodes) == len(reduce.nodes) == 2
    assert isinstance(normal.preprocess0, nn.Identity)  # only the dead node read input 0
    assert isinstance(reduce.preprocess1, nn.Identity)


def test_cells_without_a_reader_are_not_built():
    model = make(GENOTYPES["input_0_only"], "imagenet")
    assert [isinstance(cell, SkippedCell) for cell in model.cells] == [False, True, False, True, False]
    assert isinstance(model.stem[2], nn.Identity)  # its only readers are cell 0 by input 1, and cell 1


def test_errors_name_the_value_and_what_would_do():
    for arguments, message in (
        ({"layout": "imagnet"}, "layout must be one of cifar, imagenet, got 'imagnet'"),
        ({"num_cells": 0}, "num_cells must be .* got 0"),
        ({"init_channels": 1}, "init_channels must be .* got 1"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be at least 0 and less than 1, got 1.0"),
        ({"drop_path_rate": -0.1}, "drop_path_rate must be .* got -0.1"),
        ({"genotype": "darts_v3"}, "darts_v3"),
        ({"genotype": 3}, "genotype must be a Genotype"),
    ):
        with pytest.raises(ValueError, match=message):
            CellNet(**arguments)
        with pytest.raises(ValueError, match=message):
            timm.create_model("cell_net_cifar", **arguments)
    with pytest.raises(TypeError, match="auxiliary"):
        timm.create_model("cell_net_cifar", auxiliary=True)


# Drop path ------------------------------------------------------------------------------------------------------------


def test_drop_path_drops_whole_samples_at_its_rate_and_keeps_the_mean():
    torch.manual_seed(0)
    rate, n = 0.3, 4000
    node = Node([("max_pool_3x3", 0), ("skip_connect", 1)], 1, 2, rate, False).train()
    states = [torch.ones(n, 2, 3, 3), torch.full((n, 2, 3, 3), 10.0)]
    out = node(states, states) - 10.0  # an identity is never dropped
    first = out[:, 0, 0, 0]
    assert out.eq(first[:, None, None, None]).all()  # a sample is kept or dropped as a whole
    kept = first.ne(0)
    torch.testing.assert_close(first[kept], torch.full_like(first[kept], 1 / (1 - rate)), rtol=1e-5, atol=1e-5)
    assert abs(float(kept.float().mean()) - (1 - rate)) < 4 * (rate * (1 - rate) / n) ** 0.5  # four sigma


def test_drop_path_draws_for_each_edge_and_is_reproducible():
    model = make(drop_path_rate=0.5).train()
    x = images()
    outputs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        outputs.append(model(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])
    assert sum(isinstance(module, DropPath) for module in model.modules()) == sum(
        not isinstance(op, nn.Identity) for node in model.modules() if isinstance(node, Node) for op in node.ops
    )


def test_drop_path_is_off_in_eval_and_leaves_no_trace_in_the_state_dict():
    model, without = make(drop_path_rate=0.5).eval(), make().eval()
    assert model.state_dict().keys() == without.state_dict().keys()
    assert torch.equal(model(images()), without(images()))


def test_set_drop_path_changes_every_edge():
    model = make(drop_path_rate=0.5).train()
    model.set_drop_path(0.0)
    assert torch.equal(model(images()), model(images()))
    model.set_drop_path(0.1)
    assert {module.drop_prob for module in model.modules() if isinstance(module, DropPath)} == {0.1}
    with pytest.raises(ValueError, match=r"at least 0 and less than 1, got 1\.5"):
        model.set_drop_path(1.5)
    make().set_drop_path(0.0)
    with pytest.raises(ValueError, match=r"made with drop_path_rate=0, got 0\.2"):
        make().set_drop_path(0.2)


# Features, head, pruning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cell_net_cifar", "cell_net_imagenet"])
@pytest.mark.parametrize("size", [33, (37, 45), 225])
def test_odd_sizes_give_maps_of_the_size_divided_and_rounded_up(name, size):
    height, width = (size, size) if isinstance(size, int) else size
    model = create(name, init_channels=2, num_cells=3).eval()
    x = images(size, n=1)
    with torch.no_grad():
        assert model(x).shape == (1, model.num_classes)
        levels = model.forward_intermediates(x, intermediates_only=True)
    for level, info in zip(levels, model.feature_info, strict=True):
        size_of_level = [height, width]
        for _ in range(info["reduction"].bit_length() - 1):
            size_of_level = [-(-length // 2) for length in size_of_level]
        assert list(level.shape) == [1, info["num_chs"], *size_of_level]


@pytest.mark.parametrize("layout", SIZES)
def test_every_size_from_32_on_works(layout):
    model = make(layout=layout, init_channels=2, num_cells=3).eval()
    with torch.no_grad():
        for size in range(32, 66):
            assert model(images((size, 97 - size), n=1)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("cell_net_cifar", [(16, 1), (32, 2), (64, 4)]),
        ("cell_net_imagenet", [(2, 2), (4, 4), (16, 8), (32, 16), (64, 32)]),
    ],
)
def test_features_only_gives_the_pyramid(name, levels):
    x = images(64)
    full = create(name).eval()
    every = full.forward_intermediates(x, intermediates_only=True)
    for out_indices in (None, (0,), (0, 2), (-1,), (1, -1)):
        features = create(name, features_only=True, out_indices=out_indices).eval()
        features.model.load_state_dict(full.state_dict(), strict=False)
        chosen = [(level, every[i]) for i, level in enumerate(levels)]
        if out_indices is not None:
            chosen = [chosen[i] for i in out_indices]
        assert features.feature_info.channels() == [channels for (channels, _), _ in chosen]
        assert features.feature_info.reduction() == [reduction for (_, reduction), _ in chosen]
        outputs = features(x)
        for output, ((channels, reduction), expected) in zip(outputs, chosen, strict=True):
            assert output.shape == (2, channels, 64 // reduction, 64 // reduction)
            torch.testing.assert_close(output, expected)
        gradients(features, torch.stack([output.pow(2).sum() for output in outputs]).sum())


def test_output_stride_is_refused():
    with pytest.raises(TypeError, match="output_stride"):
        create(features_only=True, output_stride=8)


def test_intermediates_are_the_outputs_of_the_modules_that_feature_info_names():
    for layout, size in SIZES.items():
        model = make(layout=layout).eval()
        x = images(size)
        seen: dict[str, torch.Tensor] = {}
        modules = dict(model.named_modules())
        for info in model.feature_info:
            modules[info["module"]].register_forward_hook(
                lambda module, args, output, seen=seen, name=info["module"]: seen.update({name: output})
            )
        final, levels = forward(model, x)
        assert len(levels) == len(model.feature_info)
        for level, info in zip(levels, model.feature_info, strict=True):
            assert level is seen[info["module"]]
            assert level.shape[1] == info["num_chs"]
            assert -(-size // info["reduction"]) == level.shape[2]
        torch.testing.assert_close(final, model.forward_features(x))
        torch.testing.assert_close(model.forward_head(final), model(x))
        for level in levels[:-1]:  # only the last cell's output is not activated
            assert level.ge(0).all()
        assert final.lt(0).any()


def test_intermediates_stop_early_and_come_in_the_order_of_the_network():
    model = make().eval()
    x = images()
    _, every = forward(model, x)
    for indices, expected in ((1, [2]), (2, [1, 2]), ([0], [0]), ([0, 2], [0, 2]), ([-2], [1])):
        taken = model.forward_intermediates(x, indices=indices, intermediates_only=True)
        assert len(taken) == len(expected)
        for level, i in zip(taken, expected, strict=True):
            torch.testing.assert_close(level, every[i])
    final, taken = forward(model, x, indices=[1], stop_early=True)
    assert final is taken[0]
    final, _ = forward(model, x, indices=[1])
    torch.testing.assert_close(final, every[2])
    with pytest.raises(AssertionError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NHWC")


@pytest.mark.parametrize("layout", SIZES)
@pytest.mark.parametrize(
    ("name", "num_cells"),
    # With nine of those cells, pruning takes away the last reader of a cell and of the stem's last block.
    [*((name, 5) for name in GENOTYPES), ("normal_reads_input_0_only", 9)],
)
def test_a_pruned_network_has_the_same_features_and_no_idle_parameter(name, num_cells, layout):
    model = make(GENOTYPES[name], layout, num_cells=num_cells).eval()
    x = images(SIZES[layout])
    _, every = forward(model, x)
    last = len(every) - 1
    for indices in ([0], [last - 2], [last - 1], [0, last - 1], [last]):
        pruned = copy.deepcopy(model)
        taken_indices = pruned.prune_intermediate_layers(indices)
        assert taken_indices == indices
        final, taken = forward(pruned, x, indices=taken_indices)
        for level, i in zip(taken, indices, strict=True):
            torch.testing.assert_close(level, every[i])
        assert pruned.num_classes == 0
        assert pruned.num_features == pruned.head_hidden_size == every[indices[-1]].shape[1]
        torch.testing.assert_close(pruned(x), every[indices[-1]])  # head and pooling are gone
        torch.testing.assert_close(final, every[indices[-1]])
        _, taken = forward(pruned.train(), x, indices=taken_indices)
        gradients(pruned, torch.stack([level.pow(2).sum() for level in taken]).sum())
        pruned.reset_classifier(3, "avg")
        assert pruned(x).shape == (2, 3)


def test_pruning_keeps_the_head_where_it_can_and_is_told_to():
    model = make()
    assert model.prune_intermediate_layers([0, 2], prune_head=False) == [0, 2]
    assert model(images()).shape == (2, 6)
    assert model.prune_intermediate_layers(1) == [2]
    assert model(images()).shape == (2, 64, 2, 2)


@pytest.mark.parametrize("name", ["cell_net_cifar", "cell_net_imagenet"])
def test_num_classes_0_gives_pooled_features(name):
    model, headless = create(name).eval(), create(name, num_classes=0).eval()
    x = images(64)
    assert headless.num_classes == 0
    assert headless(x).shape == (2, 64)
    torch.testing.assert_close(headless(x), model.forward_head(model.forward_features(x), pre_logits=True))
    unpooled = create(name, num_classes=0, global_pool="").eval()
    torch.testing.assert_close(unpooled(x), model.forward_features(x))


def test_reset_classifier_keeps_pooling_device_dtype_and_mode():
    model = make(global_pool="max").to(torch.float64).eval()
    model.reset_classifier(4)
    assert model.num_classes == 4
    assert model.global_pool.pool_type == "max"
    assert model.get_classifier() is model.classifier
    assert model.classifier.weight.dtype == torch.float64
    assert not any(module.training for module in model.modules())
    x = images(dtype=torch.float64)
    assert model(x).shape == (2, 4)
    torch.testing.assert_close(
        model.forward_head(model.forward_features(x), pre_logits=True), model.forward_features(x).amax((2, 3))
    )
    model.reset_classifier(4, "catavgmax")
    assert model.head_hidden_size == 2 * model.num_features
    assert model(x).shape == (2, 4)
    model.reset_classifier(0)
    assert model(x).shape == (2, 2 * model.num_features)


def test_reset_classifier_leaves_what_is_frozen_frozen():
    model = make().requires_grad_(False)
    model.reset_classifier(3)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_dropout_acts_before_the_classifier_in_training_only():
    model = make(drop_rate=0.5).eval()
    x = torch.ones(2, 64, 1, 1)
    assert model.forward_head(x, pre_logits=True).eq(1).all()
    torch.manual_seed(0)
    assert set(model.train().forward_head(x, pre_logits=True).unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("name", ["darts_v2", "input_0_only", "normal_reads_input_0_only"])
def test_the_auxiliary_head_gets_an_activated_output_of_the_second_reduction(name):
    for num_cells in (1, 2, 3, 5, 6, 8, 10):
        model = make(GENOTYPES[name], num_cells=num_cells, init_channels=2)
        x = images(16)
        features, tap = model.forward_auxiliary(x)
        assert not isinstance(model.cells[model.auxiliary_cell], SkippedCell)
        assert tap.ge(0).all()
        assert tap.shape[2] == 16 // (2 if num_cells == 1 else 4)
        features.sum().backward(retain_graph=True)
        tap.sum().backward()
        if name == "darts_v2":
            assert model.auxiliary_cell == 2 * num_cells // 3
        model.eval()
        features, _ = model.forward_auxiliary(x)
        torch.testing.assert_close(features, model.forward_features(x))


# Ways to run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["darts_v2", "input_0_only"])
def test_checkpointing_changes_neither_outputs_nor_gradients(name):
    model = make(GENOTYPES[name], "imagenet", drop_path_rate=0.3).double().train()
    x = images(64, dtype=torch.float64)
    results = []
    for enable in (False, True, False):
        model.set_grad_checkpointing(enable)
        torch.manual_seed(4)  # the same paths are dropped, also when the cells run for the second time
        logits = model(x)
        results.append((logits, gradients(model, logits.pow(2).sum())))
    for logits, grads in results[1:]:
        torch.testing.assert_close(logits, results[0][0])
        torch.testing.assert_close(grads, results[0][1])


def bytes_kept_for_backward(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes of activations that autograd keeps from a forward pass until its backward pass, each counted once."""
    kept: dict[int, torch.UntypedStorage] = {}
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), x)}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(x).sum()
    total = sum(storage.nbytes() for storage in kept.values())
    loss.backward()
    return total


@pytest.mark.parametrize(("layout", "part"), [("cifar", 1 / 6), ("imagenet", 1 / 4)])  # the stem is not checkpointed
def test_checkpointing_keeps_a_small_part_of_the_activations(layout, part):
    model = make(layout=layout, num_cells=8).train()
    x = images(64)
    without = bytes_kept_for_backward(model, x)
    model.set_grad_checkpointing()
    with_checkpoints = bytes_kept_for_backward(model, x)
    # What is left: the outputs of stem and cells, of which each is kept once though two cells read it.
    assert 0 < with_checkpoints < without * part
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_channels_last_stays_channels_last_and_gives_the_same():
    for layout, size in SIZES.items():
        model = make(layout=layout).eval()
        x = images(size)
        expected = model(x)
        last = model.to(memory_format=torch.channels_last)
        features = last.forward_features(x.to(memory_format=torch.channels_last))
        assert features.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(last.forward_head(features), expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_comes_close_and_stays_bfloat16():
    for layout, size in SIZES.items():
        model = make(layout=layout).eval()
        expected = model(images(size))
        logits = model.to(torch.bfloat16)(images(size, dtype=torch.bfloat16))
        assert logits.dtype == torch.bfloat16
        assert (logits.float() - expected).abs().max() < 0.1 * expected.abs().max()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert make(layout=layout).train()(images(size)).dtype == torch.bfloat16


@pytest.mark.filterwarnings(SCRIPT_IS_DEPRECATED)
@pytest.mark.parametrize("name", GENOTYPES)
def test_the_network_can_be_scripted(name):
    model = make(GENOTYPES[name], "imagenet", num_cells=3, init_channels=2).eval()
    scripted = torch.jit.script(model)
    x = images(64)
    torch.testing.assert_close(scripted(x), model(x))


@pytest.mark.filterwarnings(SCRIPT_IS_DEPRECATED)
def test_the_feature_pyramid_can_be_scripted():
    features = create(features_only=True, out_indices=(0, 2)).eval()
    torch.testing.assert_close(torch.jit.script(features)(images()), features(images()))


@pytest.mark.parametrize("name", ["darts_v2", "five_nodes", "normal_reads_input_0_only"])
def test_the_network_can_be_traced_with_fx(name):
    model = make(GENOTYPES[name]).train()
    traced = torch.fx.symbolic_trace(copy.deepcopy(model))
    logits, expected = traced(images()), model(images())
    torch.testing.assert_close(logits, expected)
    gradients(traced, logits.sum())


@pytest.mark.slow
@pytest.mark.timeout(300)
# Inductor calls what torch itself has deprecated (its own affair).
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_network_compiles_as_one_graph():
    model = make(GENOTYPES["uneven_edges"], init_channels=2, num_cells=1).eval()
    with torch.no_grad():
        logits = torch.compile(model, fullgraph=True)(images())
        torch.testing.assert_close(logits, model(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_network_is_captured_as_one_graph_in_training_too():
    model = make(GENOTYPES["five_nodes"], drop_path_rate=0.2).train()
    compiled = torch.compile(model, fullgraph=True, backend="eager")  # the graph without the minutes of compilation
    torch.manual_seed(0)
    logits = compiled(images())
    torch.manual_seed(0)
    torch.testing.assert_close(logits, model(images()))
    gradients(model, logits.sum())


# Saving and training --------------------------------------------------------------------------------------------------


def genotype_itself(folder) -> Any:
    return GENOTYPES["five_nodes"]


def genotype_by_name(folder) -> Any:
    return "pc_darts_c10"


def genotype_by_path(folder) -> Any:
    path = folder / "found.json"
    path.write_text(GENOTYPES["five_nodes"].to_json())
    return str(path)


def genotype_by_default(folder) -> Any:
    return None


@pytest.mark.parametrize("given", [genotype_itself, genotype_by_name, genotype_by_path, genotype_by_default])
def test_a_saved_model_comes_back_without_what_it_was_made_from(given: Callable, tmp_path):
    genotype = given(tmp_path)
    model = create(genotype=genotype, num_classes=7, in_chans=1, pool_bn=True).eval()
    save_for_hf(model, str(tmp_path / "saved"), safe_serialization=True)
    text = (tmp_path / "saved" / "config.json").read_text()
    saved = json.loads(text)["model_args"]
    assert saved["genotype"] == json.loads(json.dumps(model.genotype))  # nested lists, whatever was given
    assert str(tmp_path) not in text
    assert saved["init_channels"] == 4
    for path in tmp_path.glob("*.json"):
        path.unlink()
    loaded = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    assert loaded.genotype == model.genotype
    assert torch.equal(loaded(images(chans=1)), model(images(chans=1)))
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True, num_classes=3, in_chans=3)
    assert again(images()).shape == (2, 3)
    features = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True, features_only=True)
    assert len(features(images(chans=1))) == 3


def test_a_saved_model_has_the_classes_of_its_config(tmp_path):
    model = create().eval()
    model.reset_classifier(7)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model_args"]["num_classes"]  # as older versions of timm write it
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert loaded.num_classes == 7
    assert torch.equal(loaded(images()), model(images()))
    assert create(pretrained_cfg_overlay={"num_classes": 33}).num_classes == 33


def test_models_can_be_copied_and_pickled():
    model = create(genotype=GENOTYPES["five_nodes"]).eval()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin.genotype) is Genotype
        assert twin.genotype == model.genotype
        assert twin._model_args == model._model_args
        assert torch.equal(twin(images()), model(images()))


def test_genotypes_may_be_given_in_every_form():
    keys = create().state_dict().keys()
    for form in (DARTS, DARTS.to_json(), DARTS.to_darts(), json.loads(DARTS.to_json()), json.loads(json.dumps(DARTS))):
        model = create(genotype=form)
        assert model.genotype == DARTS
        assert model.state_dict().keys() == keys


def test_layer_decay_follows_the_depth_and_weight_decay_leaves_out_vectors():
    model = create()
    groups = param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.5)
    names = {parameter: name for name, parameter in model.named_parameters()}
    scales = {names[p]: group["lr_scale"] for group in groups for p in group["params"]}
    assert scales.keys() == set(names.values())
    # stem, five cells, classifier: seven depths, each learns at twice the rate of the one below
    assert scales["classifier.weight"] == 1.0
    assert scales["stem.0.conv.weight"] == 0.5**6
    for index in range(5):
        assert {scale for name, scale in scales.items() if name.startswith(f"cells.{index}.")} == {0.5 ** (5 - index)}
    assert {p.ndim for group in groups if group["weight_decay"] == 0 for p in group["params"]} == {1}
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, layer_decay=0.5)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


def test_a_network_learns_four_images_by_heart():
    model = make(num_classes=4, num_cells=3).train()
    x, labels = images(n=4), torch.arange(4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1
    assert model(x).argmax(1).equal(labels)
