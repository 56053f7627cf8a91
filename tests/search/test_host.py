"""What an iteration of a search asks of the device: at most one reading, no walks over modules, no counters a layer."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from nas_zoo.runs.distributed import start_accelerator
from nas_zoo.search.host import Adam, Reading, constant
from nas_zoo.search.method import METHODS, Step, find_method
from nas_zoo.search.problem import Named
from nas_zoo.search.run import Search
from nas_zoo.search.supernet import drop_counters
from tests.search.test_methods import CASES

SMALL = {"data": "digits", "num_cells": 3, "init_channels": 4, "batch_size": 8, "epochs": 4, "train_limit": 64}
#: Methods of Tensor that make the host wait for the device.
WAITS = ("cpu", "item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "nonzero", "equal")


class Dispatched(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        self.copies += (kwargs or {}).get("device") is not None and func.__name__.startswith("_to_copy")
        self.copies += func.__name__.startswith("lift_fresh")  # a list of Python's
        return func(*args, **(kwargs or {}))


class Asked(TorchFunctionMode):
    """Readings as Python makes them: where the device is a CPU, some of them dispatch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.readings = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.readings += getattr(func, "__name__", "") in WAITS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", CASES)
def test_an_iteration_waits_for_the_device_once_at_most(case, monkeypatch):
    name, own = CASES[case]
    settings: Any = find_method(name)[0]
    partial = 2 if name in ("da2s", "pc_darts") else 1
    run = Search(settings(**SMALL | {"partial_channels": partial} | own), start_accelerator())
    batches = iter(run.batches(0, 0))
    run.step(0, 0, next(batches))
    batch = next(batches)

    def walk(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a walk over all modules")

    for way in ("named_modules", "named_parameters", "named_buffers", "modules", "parameters", "buffers"):
        monkeypatch.setattr(nn.Module, way, walk)
    with Asked() as asked, Dispatched() as dispatched:
        run.step(0, 1, batch)
    assert not [name for name in dispatched.names if name.startswith(("_local_scalar_dense", "equal", "nonzero"))]
    assert dispatched.copies == 0
    # GDAS reads alpha once and draws from it on the host, twice in each of the two steps
    assert asked.readings <= (1 + 4 if name == "gdas" else 1)
    assert "num_batches_tracked" not in "".join(run.state()["supernet"])


def test_every_method_is_among_them():
    assert {name for name, _ in CASES.values()} == set(METHODS)


def test_a_reading_is_made_again_where_a_tensor_was_written_to_and_nowhere_else():
    tensors = [nn.Parameter(torch.zeros(3)) for _ in range(2)]
    readings: list[Any] = []

    def read() -> Any:
        readings.append(torch.stack(list(tensors)).tolist())
        return readings[-1]

    reading = Reading(read)
    assert reading(tensors) == reading(tensors) == [[0.0] * 3] * 2
    assert len(readings) == 1
    tensors[1].grad = torch.ones(3)
    torch.optim.SGD(tensors, 1.0).step()
    assert reading(tensors)[1] == [-1.0] * 3
    with torch.no_grad():
        tensors[0][2] = 5.0
    assert reading(tensors)[0] == [0.0, 0.0, 5.0]
    tensors[0].data = torch.ones(3)
    assert reading(tensors)[0] == [1.0] * 3
    assert len(readings) == 4


@pytest.mark.parametrize("case", ["edas", "random", "gdas", "drnas"])
def test_what_a_method_has_read_does_not_outlive_its_alpha(case):
    def build(seed: int) -> Any:
        settings, method = find_method(case)
        return method(settings(seed=seed))

    def drawn(method: Any) -> list:
        mixing = method.mixing(Step(0, 3, 10, "weights"))
        return [
            (mix.ops, None if mix.weights is None else mix.weights.tolist()) for kind in mixing.values() for mix in kind
        ]

    one, other = build(0), build(1)
    assert drawn(one) != drawn(other)
    twin = copy.deepcopy(one)
    assert drawn(twin) == drawn(one)
    one.load_state_dict(other.state_dict())
    if case == "random":  # its seed is in alpha alone
        assert drawn(one) == drawn(other)
    fresh = build(0)
    fresh.load_state_dict(other.state_dict())
    assert drawn(one) == drawn(fresh)  # which has read nothing before
    assert drawn(one) != drawn(twin)


def test_adam_is_torchs_to_the_last_bit_also_behind_a_resume():
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=generator) for shape in ((8,), (14, 8), (14,))]
    ours, theirs = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    options: Any = {"lr": 0.025, "betas": (0.5, 0.999)}
    own, torchs = Adam(ours, **options), torch.optim.Adam(theirs, **options)
    for step in range(60):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator) if step % 3 or one.ndim == 2 else None
            other.grad = None if one.grad is None else one.grad.clone()
        own.step()
        torchs.step()
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
        if step == 30:
            saved = copy.deepcopy(torchs.state_dict())
            own = Adam(ours, **options)
            own.load_state_dict(saved)


def test_a_constant_is_copied_to_the_device_once():
    assert constant((1, 2), torch.device("cpu")) is constant((1, 2), torch.device("cpu"))
    assert constant((True, False), torch.device("cpu")).dtype == torch.bool


def test_a_state_with_counters_goes_into_a_network_without_them_and_nothing_else_is_passed_over():
    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))

    state = network().state_dict()
    without = network()
    drop_counters(without)
    assert set(state) - set(without.state_dict()) == {"1.num_batches_tracked"}
    without.load_state_dict(state)
    without.load_state_dict(dict(state))  # as a checkpoint that does not tell its version
    assert all(torch.equal(value, state[name]) for name, value in without.state_dict().items())
    with pytest.raises(RuntimeError, match=r"1\.other"):
        without.load_state_dict(state | {"1.other": torch.zeros(1)})
    before = without.state_dict()["1.running_mean"].clone()
    without(torch.ones(2, 1, 3, 3))
    assert not torch.equal(without.state_dict()["1.running_mean"], before)


def test_tensors_by_name_are_those_there_are_and_need_one_walk(monkeypatch):
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    named = Named(network)
    network.double()  # other buffers
    expected: list[dict[str, torch.Tensor]] = [dict(network.named_parameters()), dict(network.named_buffers())]
    monkeypatch.setattr(nn.Module, "named_modules", None)
    for found, wanted in zip((named.parameters, named.buffers), expected, strict=True):
        assert list(found) == list(wanted)
        assert all(found[name] is wanted[name] for name in wanted)
