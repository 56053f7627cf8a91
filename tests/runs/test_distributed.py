"""Two real processes (gloo) against one process that sees both their batches."""

import copy
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from nas_zoo.runs.distributed import (
    GlobalBatchNorm,
    GlobalBatchNormAct,
    average_buffers,
    average_gradients,
    convert_global_batch_norm,
    gather_statistics,
    max_over_processes,
    sum_over_processes,
    take_statistics,
    world_size,
)
from nas_zoo.runs.stop import StopRequest

WORLD = 2
STEPS = 3


def make_net(affine: bool = True, track: bool = True, momentum: float | None = 0.1) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8, affine=affine, track_running_stats=track, momentum=momentum),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, stride=2),
        BatchNormAct2d(6, affine=affine, track_running_stats=track, momentum=momentum),  # type: ignore[arg-type]
        nn.Flatten(),
        nn.LazyLinear(5),
    )
    net(torch.zeros(2, 3, 7, 7))
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            if affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.uniform_(layer.bias, -0.5, 0.5)
    return net


def joint_batch(step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 3, 7, 7, generator=generator) * 2 + torch.arange(8).view(8, 1, 1, 1)  # the halves differ
    return x.to(dtype), torch.randint(0, 5, (8,), generator=generator)


def run_net(net: nn.Module, rows: slice, *, channels_last: bool = False) -> dict[str, Tensor]:
    """A few steps of SGD on these rows of the joint batches; everything that has to be the same afterwards."""
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    result: dict[str, Tensor] = {}
    for step in range(STEPS):
        x, labels = joint_batch(step)
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        x = x[rows].requires_grad_()
        logits = net(x)
        net.zero_grad()
        nn.functional.cross_entropy(logits, labels[rows]).backward()
        average_gradients(net.parameters())
        assert x.grad is not None
        # d(mean over the local rows) is world times d(mean over all rows)
        result |= {f"logits {step}": logits.detach(), f"grad of x {step}": x.grad / world_size()}
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None
            result[f"grad of {name} {step}"] = parameter.grad.clone()
        with torch.no_grad():
            for parameter in net.parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=0.05)
    net.eval()
    with torch.no_grad():
        result["logits in eval"] = net(joint_batch(99)[0])
    return result | {f"state {name}": value.clone() for name, value in net.state_dict().items()}


CASES: dict[str, dict[str, Any]] = {
    "affine": {},
    "not affine": {"affine": False},
    "no running statistics": {"track": False},
    "cumulative": {"momentum": None},
    "channels_last": {},
}


def run_case(name: str, rows: slice) -> dict[str, Tensor]:
    net = convert_global_batch_norm(make_net(**CASES[name]))
    result = run_net(net, rows, channels_last=name == "channels_last")
    if name == "no running statistics":  # in evaluation such a layer sees its own batch only
        del result["logits in eval"]
    return result


def normalize(norm: nn.Module, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = norm(x)
    (y * weights).sum().backward()
    assert x.grad is not None
    return {"y": y.detach(), "grad": x.grad}


def far_from_zero(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(8, 4, 5, 5, generator=generator) * 0.1 + 1000
    return x.to(dtype), torch.randn(x.shape, generator=generator).to(dtype)


def work(number: int, folder: str) -> None:
    """What each of the two processes does; its results go to <folder>/<rank>.pt."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=WORLD)
    rows = slice(4 * number, 4 * number + 4)
    result: dict[str, object] = {name: run_case(name, rows) for name in CASES}

    x, weights = far_from_zero(torch.float32)
    norm = GlobalBatchNorm(4).train()
    result["far"] = normalize(norm, x[rows], weights[rows]) | {"var": norm.running_var}

    uneven = slice(0, 8) if number == 0 else slice(8, 8)  # process 1 has no row at all
    result["uneven"] = normalize(GlobalBatchNorm(3), joint_batch(0)[0][uneven], torch.tensor(1.5))

    x16 = joint_batch(0, torch.bfloat16)[0][rows]
    result["bfloat16"] = normalize(GlobalBatchNorm(3), x16, x16)

    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    keys, parameters = list(net.state_dict()), [id(parameter) for parameter in net.parameters()]
    converted = convert_global_batch_norm(convert_global_batch_norm(net))
    result["converted"] = {
        "types": [type(converted[1]).__name__, type(converted[4]).__name__],
        "same keys": list(converted.state_dict()) == keys,
        "same parameters": [id(parameter) for parameter in converted.parameters()] == parameters,
        "optimizer still holds them": optimizer.param_groups[0]["params"][0] is converted[0].weight,
        "alone": type(convert_global_batch_norm(nn.BatchNorm2d(3))).__name__,
    }
    for layer in (nn.BatchNorm1d(3), nn.SyncBatchNorm(3)):
        try:
            convert_global_batch_norm(nn.Sequential(layer))
        except ValueError as error:
            result[f"refused {type(layer).__name__}"] = str(error)

    # gradients: one missing everywhere, two dtypes, two memory layouts
    a, b, c, d = (nn.Parameter(torch.zeros(2, 3, 2, 2)) for _ in range(4))
    a.grad = torch.full_like(a, float(number))
    c.grad = (torch.arange(24.0).view(2, 3, 2, 2) * (number + 1)).contiguous(
        memory_format=torch.channels_last if number else torch.contiguous_format
    )
    d.data = d.data.double()
    d.grad = torch.full_like(d, 10.0 * number)
    e, f = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.zeros(5, 3, 2, 2))  # one without axes, one of c's row
    e.grad, f.grad = torch.tensor(4.0 * number), torch.full_like(f, 2.0 * number)
    votes = torch.tensor([float(number), 0.0])
    average_gradients([a, b, c, d, e, f], votes)
    result["gradients"] = [a.grad, b.grad, c.grad, d.grad, e.grad, f.grad]
    only_votes = torch.tensor([4.0 * number])
    average_gradients([b], only_votes)
    result["votes"] = [votes, only_votes]

    buffers = nn.BatchNorm2d(2)
    buffers.load_state_dict(
        buffers.state_dict() | {"running_mean": torch.full((2,), float(number)), "num_batches_tracked": torch.tensor(7)}
    )
    gathered = gather_statistics([buffers])
    with torch.no_grad():
        buffers.running_mean.zero_()  # type: ignore[union-attr]
    take_statistics([buffers], gathered)
    result["own"] = [gathered, buffers.running_mean.clone()]  # type: ignore[union-attr]
    take_statistics([buffers], [*gathered, torch.full((4,), 8.0)])  # of three processes
    result["of three"] = buffers.running_mean.clone()  # type: ignore[union-attr]
    take_statistics([buffers], gathered)
    average_buffers(buffers)
    result["buffers"] = [buffers.running_mean, buffers.num_batches_tracked]

    mine = torch.tensor([1.0, 10.0 * number])
    result["sum"], result["max"], result["mine"] = sum_over_processes(mine), max_over_processes(mine), mine
    result["world"] = world_size()

    reasons = []
    with StopRequest() as stop:
        reasons.append(stop.agree())
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        reasons.append(stop.agree())
    with StopRequest(0.0 if number == 0 else None) as stop:
        reasons.append(stop.agree())
    result["reasons"] = reasons
    torch.save(result, Path(folder) / f"{number}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(work, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{number}.pt") for number in range(WORLD)]


def assert_halves_equal(name: str, halves: list[Tensor], joint: Tensor) -> None:
    by_row = name.startswith(("logits", "grad of x")) and name != "logits in eval"
    for half in [torch.cat(halves)] if by_row else halves:
        torch.testing.assert_close(half, joint, rtol=1e-5, atol=1e-5, msg=lambda told: f"{name}: {told}")


@pytest.mark.parametrize("case", list(CASES))
def test_two_processes_equal_one_with_the_joint_batch(results, case):
    joint = run_case(case, slice(0, 8))
    halves = [result[case] for result in results]
    assert all(half.keys() == joint.keys() for half in halves)
    for name, value in joint.items():
        assert_halves_equal(name, [half[name] for half in halves], value)


def test_parameters_and_statistics_stay_bit_equal_between_processes(results):
    for case in CASES:
        for name, value in results[0][case].items():
            if name.startswith(("state", "grad of")) and not name.startswith("grad of x"):
                assert torch.equal(value, results[1][case][name]), name


def test_variance_does_not_cancel_far_from_zero(results):
    # E[x^2] - E[x]^2 in float32 loses all of a variance of 0.01 at a mean of 1000 (1e6 has steps of 0.06)
    x, weights = far_from_zero(torch.float64)
    norm = nn.BatchNorm2d(4).double()
    joint = normalize(norm, x, weights)
    y = torch.cat([result["far"]["y"] for result in results])
    one = normalize(nn.BatchNorm2d(4), x.float(), weights.float())["y"]
    error_of_one_process = (one - joint["y"]).abs().max()
    assert (y - joint["y"]).abs().max() <= 2 * error_of_one_process
    for result in results:
        torch.testing.assert_close(result["far"]["var"].double(), norm.running_var, rtol=1e-5, atol=0)


def test_a_process_without_rows_takes_part(results):
    joint = normalize(nn.BatchNorm2d(3), joint_batch(0)[0], torch.tensor(1.5))
    torch.testing.assert_close(results[0]["uneven"]["y"], joint["y"], rtol=1e-5, atol=1e-5)
    assert results[1]["uneven"]["y"].shape == (0, 3, 7, 7)
    assert results[1]["uneven"]["grad"].shape == (0, 3, 7, 7)


def test_bfloat16_in_gives_bfloat16_out(results):
    x = joint_batch(0, torch.bfloat16)[0]
    joint = normalize(nn.BatchNorm2d(3), x, x)
    for name in ("y", "grad"):
        halves = torch.cat([result["bfloat16"][name] for result in results])
        assert halves.dtype == torch.bfloat16
        torch.testing.assert_close(halves, joint[name], rtol=2e-2, atol=4e-2)


def test_conversion_keeps_parameters_and_keys(results):
    for result in results:
        assert result["converted"] == {
            "types": ["GlobalBatchNorm", "GlobalBatchNormAct"],
            "same keys": True,
            "same parameters": True,
            "optimizer still holds them": True,
            "alone": "GlobalBatchNorm",
        }


def test_other_batch_normalisation_is_refused_by_name(results):
    for name in ("BatchNorm1d", "SyncBatchNorm"):
        assert results[0][f"refused {name}"].startswith(f"layer 0 is a {name}: only nn.BatchNorm2d")


def test_gradients_become_their_mean(results):
    for result in results:
        a, b, c, d, e, f = result["gradients"]
        assert e == 2.0
        assert torch.equal(f, torch.full((5, 3, 2, 2), 1.0))
        votes, only_votes = result["votes"]
        assert (votes.tolist(), only_votes.tolist()) == ([0.5, 0.0], [2.0])
        assert torch.equal(a, torch.full((2, 3, 2, 2), 0.5))
        assert b is None
        assert torch.equal(c, torch.arange(24.0).view(2, 3, 2, 2) * 1.5)
        assert torch.equal(d, torch.full((2, 3, 2, 2), 5.0, dtype=torch.float64))


def test_buffers_become_their_mean_and_counters_stay(results):
    for result in results:
        mean, count = result["buffers"]
        assert mean.tolist() == [0.5, 0.5]
        assert int(count) == 7


def test_each_process_takes_up_its_own_statistics_and_other_numbers_of_them_the_mean(results):
    for number, result in enumerate(results):
        gathered, own = result["own"]
        assert [vector.tolist() for vector in gathered] == [[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
        assert own.tolist() == [number, number]
        assert result["of three"].tolist() == [3.0, 3.0]


def test_saved_mean_and_deviation_give_a_cpu_the_same_bits():
    # CUDA's kernel asserts that they are there, a CPU's looks at running mean and variance only
    x, grad = joint_batch(0)[0], joint_batch(1)[0]
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    unit, invstd = torch.ones(3), (var + 1e-5).rsqrt()
    kernel = torch.ops.aten.native_batch_norm_backward
    without = kernel(grad, x, unit, mean, var, None, None, False, 1e-5, [True, True, True])
    given = kernel(grad, x, unit, mean, var, mean, invstd, False, 1e-5, [True, True, True])
    assert all(torch.equal(one, other) for one, other in zip(without, given, strict=True))


def test_sums_and_maxima(results):
    for number, result in enumerate(results):
        assert result["sum"].tolist() == [2.0, 10.0]
        assert result["max"].tolist() == [1.0, 10.0]
        assert result["mine"].tolist() == [1.0, 10.0 * number]
        assert result["world"] == 2


def test_all_processes_stop_when_one_is_asked_to(results):
    for result in results:
        assert result["reasons"] == [None, "SIGTERM", "time budget"]


def test_one_process_is_left_as_it_is():
    net = make_net()
    twin = copy.deepcopy(net)
    assert convert_global_batch_norm(net) is net
    assert type(net[1]) is nn.BatchNorm2d
    assert world_size() == 1
    x, _ = joint_batch(0)
    net(x).sum().backward()
    before = [parameter.grad for parameter in net.parameters()]
    average_gradients(net.parameters())
    average_buffers(net)
    assert all(parameter.grad is grad for parameter, grad in zip(net.parameters(), before, strict=True))
    values = torch.ones(2)
    assert sum_over_processes(values) is values
    # the layers themselves are nn.BatchNorm2d too when alone
    for index, kind in ((1, GlobalBatchNorm), (4, GlobalBatchNormAct)):
        twin[index].__class__ = kind
    fresh = make_net()
    assert torch.equal(twin(x), fresh(x))
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in twin.state_dict().items())
    with pytest.raises(ValueError, match="expected 4D input"):
        GlobalBatchNorm(3)(torch.zeros(2, 3))
