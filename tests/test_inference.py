"""The form for inference: the same logits on every operation, layout and size, and what it refuses."""

import copy
import pickle
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

import nas_zoo
from nas_zoo.genotype import OPERATIONS, Cell, Genotype
from nas_zoo.inference import InferenceNet, _Depthwise, optimize_for_inference
from nas_zoo.network import CellNet
from tests.test_network import GENOTYPES, images, make


def one_operation(name: str) -> Genotype:
    """Cells in which nodes read inputs and another node by one operation, twice from the same state too."""
    nodes = [[(name, 0), (name, 1)], [(name, 1), (name, 2), (name, 1)]]
    return Genotype(Cell(nodes, [3, 2]), Cell(nodes, [2, 3]))


def assert_close(result: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert result.shape == expected.shape
    expected = expected.detach()
    assert expected.abs().max() > 0
    assert float((result - expected).abs().max() / expected.abs().max()) <= tolerance


@pytest.mark.parametrize("layout", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "none"])
def test_every_operation_gives_the_same_logits_at_even_and_odd_sizes(name, layout):
    for pool_bn in (False, True):
        model = make(one_operation(name), layout, pool_bn=pool_bn).eval()
        fast = optimize_for_inference(model)
        for size in (64, 33, (45, 38)):
            assert_close(fast(images(size)), model(images(size)))


@pytest.mark.parametrize("layout", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", GENOTYPES)
def test_every_genotype_gives_the_same_logits(name, layout):
    for num_cells in (1, 2, 5):
        model = make(GENOTYPES[name], layout, num_cells=num_cells).eval()
        fast = optimize_for_inference(model)
        assert_close(fast(images(33)), model(images(33)))
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())


@pytest.mark.parametrize("name", ["darts_v2_c10", "nasnet_a_c10", "pc_darts_in1k", "amoebanet_a_in1k"])
def test_registered_models_give_the_same_logits(name):
    torch.manual_seed(0)
    model = timm.create_model(name, init_channels=8).eval()
    x = images(33)
    with torch.no_grad():
        assert_close(optimize_for_inference(model)(x), model(x))


@pytest.mark.parametrize("in_chans", [1, 4])
def test_images_may_have_any_number_of_channels(in_chans):
    model = make(in_chans=in_chans).eval()
    assert_close(optimize_for_inference(model)(images(chans=in_chans)), model(images(chans=in_chans)))


def test_a_batch_in_parts_is_the_batch():
    model = make().eval()
    x = images(n=7)
    for images_at_once in (None, 0, 1, 3, 7, 50):
        assert_close(optimize_for_inference(model, images_at_once=images_at_once)(x), model(x))
    seen = []
    fast = optimize_for_inference(model, images_at_once=3)
    fast.classifier.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    fast(x)
    assert seen == [3, 3, 1]


def test_a_large_batch_of_large_images_is_cut_on_a_cpu():
    model = make(init_channels=16).eval()
    parts = []
    fast = optimize_for_inference(model)
    fast.classifier.register_forward_hook(lambda module, inputs, output: parts.append(len(output)))
    fast(images(64, n=6))
    assert parts == [3, 3]  # 64 channels of 64 x 64 pixels in float32 are a megabyte


def test_depthwise_convolutions_of_one_size_run_as_one():
    fast = optimize_for_inference(make("darts_v2").eval())
    groups = [module for module in fast.cells[0].modules() if isinstance(module, _Depthwise)]
    # darts_v2's normal cell: five separable 3x3 convolutions of the inputs, one dilated of node 2
    assert [len(group.sources) for group in groups] == [5, 1]


def test_the_feature_levels_are_the_same():
    for layout in ("cifar", "imagenet"):
        model = make(layout=layout).eval()
        fast = optimize_for_inference(model)
        x = images(65)
        assert fast.feature_info == model.feature_info
        for indices in (None, 2, [0, -1]):
            expected = model.forward_intermediates(x, indices, intermediates_only=True)
            levels = fast.forward_intermediates(x, indices, intermediates_only=True)
            for level, wanted in zip(levels, expected, strict=True):
                assert_close(level, wanted)
        for level in range(len(fast.feature_info)):
            final, _ = fast.forward_intermediates(x, [level], stop_early=True)
            assert_close(final, model.forward_intermediates(x, [level], stop_early=True)[0])


def test_head_and_pooling_are_those_of_the_model():
    for kwargs in ({"num_classes": 0}, {"global_pool": "avgmax"}, {"global_pool": "max", "drop_rate": 0.5}):
        model = make(**kwargs).eval()
        fast = optimize_for_inference(model)
        assert_close(fast(images()), model(images()))
        features = fast.forward_features(images())
        assert_close(fast.forward_head(features, pre_logits=True), model.forward_head(features, pre_logits=True))


def test_a_pruned_network_can_be_optimized():
    model = make().eval()
    model.prune_intermediate_layers([1])
    assert_close(optimize_for_inference(model).forward_features(images()), model.forward_features(images()))


def test_maps_stay_in_channels_last():
    fast = optimize_for_inference(make().eval())
    for x in (images(), images().to(memory_format=torch.channels_last)):
        assert fast.forward_features(x).is_contiguous(memory_format=torch.channels_last)
        for level in fast.forward_intermediates(x, intermediates_only=True):
            assert level.is_contiguous(memory_format=torch.channels_last)


def test_the_model_itself_is_left_as_it_is():
    model = make().eval()
    before = copy.deepcopy(model.state_dict())
    expected = model(images())
    fast = optimize_for_inference(model)
    fast(images())
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(images()), expected)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_it_infers_without_gradients():
    fast = optimize_for_inference(make().eval())
    x = images().requires_grad_()
    assert not fast(x).requires_grad
    assert not fast.forward_features(x).requires_grad
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_training_mode_is_refused_in_words():
    with pytest.raises(ValueError, match=r"model is in training mode.*call model.eval\(\) first"):
        optimize_for_inference(make().train())
    fast = optimize_for_inference(make().eval())
    assert fast.eval() is fast
    assert not any(module.training for module in fast.modules())
    with pytest.raises(ValueError, match=r"for inference only.*train the original model"):
        fast.train()
    assert not fast.training


def test_other_models_are_refused_in_words():
    model = make().eval()
    for other, words in (
        (nn.Linear(1, 1), "Linear is no network of nas-zoo; a CellNet is accepted"),
        (torch.compile(model, backend="eager"), "compile what comes out"),
        (optimize_for_inference(model), "InferenceNet is no network of nas-zoo"),
    ):
        with pytest.raises(ValueError, match=words):
            optimize_for_inference(other)
    with pytest.raises(ValueError, match="images_at_once=-1"):
        optimize_for_inference(model, images_at_once=-1)


def test_dtypes_are_kept():
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.bfloat16, 0.1)):
        model = make().eval().to(dtype)
        logits = optimize_for_inference(model)(images(dtype=dtype))
        assert logits.dtype == dtype
        assert_close(logits, model(images(dtype=dtype)), tolerance)
    moved = optimize_for_inference(make().eval()).double()
    assert_close(moved(images(dtype=torch.float64)), make().eval().double()(images(dtype=torch.float64)), 1e-6)


def test_it_can_be_copied_and_pickled():
    fast = optimize_for_inference(make().eval())
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(twin(images()), fast(images()))


def test_it_is_reached_from_the_package_by_name():
    assert nas_zoo.optimize_for_inference is optimize_for_inference
    assert "optimize_for_inference" in dir(nas_zoo)
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        nas_zoo.optimise  # noqa: B018


def test_it_is_captured_as_one_graph():
    for layout in ("cifar", "imagenet"):
        model = make(GENOTYPES["five_nodes"], layout, num_cells=3).eval()
        fast = optimize_for_inference(model)
        compiled = torch.compile(fast, fullgraph=True, backend="eager")  # the graph without the minutes of compilation
        assert_close(compiled(images(33)), model(images(33)))


@pytest.mark.slow
@pytest.mark.timeout(300)
# Inductor calls what torch itself has deprecated (its own affair).
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_it_compiles():
    model = make(GENOTYPES["uneven_edges"], init_channels=2, num_cells=1).eval()
    compiled = torch.compile(optimize_for_inference(model), fullgraph=True)
    assert_close(compiled(images()), model(images()))


def test_fewer_modules_run_than_in_the_model():
    model = make("darts_v2").eval()
    fast = optimize_for_inference(model)
    counts = []
    for network in (model, fast):
        with torch.profiler.profile() as profile, torch.inference_mode():
            network(images())
        counts.append(sum(event.count for event in profile.key_averages() if event.key == "aten::conv2d"))
    assert all(fewer < more / 3 for more, fewer in pairwise(counts))
    assert isinstance(model, CellNet)
    assert isinstance(fast, InferenceNet)
