"""One table over every search method: what the loop may rely on, whatever the method."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nas_zoo.genotype import KINDS, load_genotype
from nas_zoo.runs.checkpoint import load_checkpoint
from nas_zoo.search.method import METHODS, SearchSettings, Step, find_method
from nas_zoo.search.problem import Iteration
from nas_zoo.search.ranking import ranking_changes
from nas_zoo.search.run import main
from nas_zoo.search.supernet import EdgeMixing, Supernet
from tests.search.test_run import assert_same_run, epochs_of

#: Method, settings that make it act from the first epoch on.
CASES: dict[str, tuple[str, dict]] = {
    "edas": ("edas", {}),
    "alpha_max": ("alpha_max", {}),
    "darts first order": ("darts", {}),
    "darts second order": ("darts", {"order": 2}),
    "pc_darts": ("pc_darts", {"freeze_epochs": 0}),
    "da2s": ("da2s", {"lambda_c": "const", "delay_epochs": 0}),
    "da2s 4/14": ("da2s", {"edges": "4/14"}),
    "da2s 3/14": ("da2s", {"edges": "3/14"}),
    "da2s_released": ("da2s_released", {"freeze_epochs": 0}),
    "gdas": ("gdas", {}),
    "drnas": ("drnas", {"freeze_epochs": 0}),
    "fairdarts": ("fairdarts", {}),
    "edas_settled": ("edas_settled", {"lambda_c": "const", "lambda_1": "const"}),
    "random": ("random", {"edges": "5/14"}),
}
TINY: dict[str, Any] = {"init_channels": 4, "num_cells": 3, "batch_size": 32}
LEARNS = [name for name in CASES if name != "random"]
#: They relax one edge and clamp the others.
CLAMPS = ("edas", "alpha_max", "edas_settled")
#: Their mixing is drawn anew for each step.
DRAWS = (*CLAMPS, "gdas", "drnas")


def build(case: str, **changes):
    name, own = CASES[case]
    settings_class, method_class = find_method(name)
    return method_class(settings_class(**{**TINY, **own, **changes}))


def step(phase: str, index: int = 0, epoch: int = 0) -> Step:
    return Step(epoch=epoch, index=index, num_epochs=50, phase=phase)  # type: ignore[arg-type]


def supernet_of(method) -> Supernet:
    torch.manual_seed(0)
    return Supernet(method.space, 4, 3, partial_channels=method.settings.partial_channels)


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.randint(10, (4,), generator=generator)


def problem_of(method) -> tuple[Iteration, Supernet, torch.optim.Optimizer]:
    supernet = supernet_of(method)
    optimizer = torch.optim.SGD(supernet.parameters(), 0.1, momentum=0.9)
    return Iteration(supernet, batch(0), batch(1), optimizer, torch.enable_grad), supernet, optimizer


def edge_mixings(mixing):
    return [(kind, e, mix) for kind in KINDS for e, mix in enumerate(mixing[kind])]


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def test_every_method_is_in_the_table():
    assert {name for name, _ in CASES.values()} == set(METHODS)


@pytest.mark.parametrize("phase", ["alpha", "weights", "eval"])
@pytest.mark.parametrize("case", CASES)
def test_mixing_is_finite_and_not_negative_and_names_operations_of_the_space(case, phase):
    method = build(case)
    for epoch in (0, 49):
        mixing = method.mixing(step(phase, epoch=epoch))
        assert mixing.keys() == set(KINDS)
        for kind in KINDS:
            assert len(mixing[kind]) == method.space.num_edges
        for _, _, mix in edge_mixings(mixing):
            assert isinstance(mix, EdgeMixing)
            assert all(0 <= op < method.space.num_operations for op in mix.ops)
            for weights in (mix.weights, mix.edge):
                if weights is not None:
                    assert torch.isfinite(weights).all()
                    assert (weights >= 0).all()
            if mix.weights is not None:
                assert mix.weights.shape == (len(mix.ops),)
                total = 1.0 if mix.edge is None else mix.edge.item()
                if CASES[case][0] != "fairdarts":  # whose operations have a weight each, with no sum
                    assert mix.weights.sum().item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_an_evaluation_in_the_last_epoch_is_mixed_as_a_weight_step(case):
    """But for methods that draw: there it is drawn anew for each batch."""
    method = build(case)
    if CASES[case][0] in CLAMPS:
        clamped = [mix.ops for _, _, mix in edge_mixings(method.mixing(step("eval"))) if mix.weights is None]
        assert len(clamped) == 27
    if CASES[case][0] in DRAWS:
        return
    at_eval, in_training = (edge_mixings(method.mixing(step(phase, epoch=49))) for phase in ("eval", "weights"))
    for (_, _, one), (_, _, other) in zip(at_eval, in_training, strict=True):
        assert one.ops == other.ops
        if one.weights is not None:
            assert torch.equal(one.weights, other.weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", LEARNS)
def test_alpha_and_beta_get_gradients_from_their_own_cell_kind_only(case, kind):
    """The authors' DA2S code mixes reduction cells with the normal cells' beta: here it cannot happen."""
    method = build(case)
    reached = set()
    for index in range(60):  # methods that draw an edge reach a kind in some steps only
        mixing = method.mixing(step("alpha", index))[kind]
        parts = [part for mix in mixing for part in (mix.weights, mix.edge) if part is not None and part.requires_grad]
        if not parts:
            continue
        total = sum((part * torch.rand(part.shape)).sum() for part in parts)
        names, parameters = zip(*method.named_parameters(), strict=True)
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        reached |= {name for name, g in zip(names, gradients, strict=True) if g is not None and g.abs().sum() > 0}
        if CASES[case][0] not in CLAMPS:
            break
    assert reached
    assert all(f".{kind}" in name for name in reached), reached
    letters = {name.split(".")[0] for name in reached}
    assert letters == {name.split(".")[0] for name, _ in method.named_parameters()}


@pytest.mark.parametrize("case", [name for name in LEARNS if CASES[name][0] not in (*CLAMPS, "gdas")])
def test_through_the_supernet_too_a_cell_kind_moves_its_own_parameters_only(case):
    """The output of the first cell, a normal one, depends on the normal parameters and not on the others."""
    method = build(case)
    supernet = supernet_of(method)
    outputs = []
    supernet.cells[0].register_forward_hook(lambda module, args, out: outputs.append(out))
    supernet(batch()[0], method.mixing(step("alpha")))
    names, parameters = zip(*method.named_parameters(), strict=True)
    gradients = torch.autograd.grad(outputs[0].square().sum(), parameters, allow_unused=True)
    for name, gradient in zip(names, gradients, strict=True):
        moved = gradient is not None and bool(gradient.abs().sum() > 0)
        assert moved == (".normal" in name), name


@pytest.mark.parametrize("case", CASES)
def test_a_weight_step_leaves_alpha_and_beta_untouched_and_an_architecture_step_the_weights(case):
    """As the loop does them, gradients by autograd.grad in the one and backward in the other."""
    method = build(case)
    problem, supernet, weight_optimizer = problem_of(method)
    alpha_optimizer = torch.optim.Adam(method.parameters(), 0.1)
    moved = {"alpha": False, "weights": False}
    for index in range(3):
        weights, alphas = snapshot(supernet), snapshot(method)
        loss = method.loss(problem, step("alpha", index))
        if loss is not None:
            assert torch.isfinite(loss)
            parameters = list(method.parameters())
            for p, g in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
                p.grad = g
            alpha_optimizer.step()
            alpha_optimizer.zero_grad(set_to_none=True)
            moved["alpha"] |= any(not torch.equal(p, alphas[name]) for name, p in method.named_parameters())
        for name, p in supernet.named_parameters():
            assert torch.equal(p, weights[name]), name
            assert p.grad is None, name
        alphas = snapshot(method)
        with torch.no_grad():
            mixing = method.mixing(step("weights", index))
        images, labels = batch(index)
        F.cross_entropy(supernet(images, mixing), labels).backward()
        weight_optimizer.step()
        weight_optimizer.zero_grad(set_to_none=True)
        moved["weights"] |= any(not torch.equal(p, weights[name]) for name, p in supernet.named_parameters())
        for name, p in method.named_parameters():
            assert torch.equal(p, alphas[name]), name
            assert p.grad is None, name
    assert moved == {"alpha": case != "random", "weights": True}


@pytest.mark.parametrize("case", CASES)
def test_state_survives_saving_and_loading_and_the_seed_decides_the_start(case, tmp_path):
    method, same, other = build(case, seed=1), build(case, seed=1), build(case, seed=2)
    for name, value in method.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
    assert any(not torch.equal(value, other.state_dict()[name]) for name, value in method.state_dict().items())
    torch.save(method.state_dict(), tmp_path / "method.pt")
    other.load_state_dict(torch.load(tmp_path / "method.pt", weights_only=True))
    for rule in (None, "darts", "argmax", "3/14"):
        assert other.genotype(rule) == method.genotype(rule)
    one, two = (edge_mixings(m.mixing(step("weights", epoch=49))) for m in (method, other))
    if CASES[case][0] not in DRAWS:  # by their seed
        assert all(a.ops == b.ops for (_, _, a), (_, _, b) in zip(one, two, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_genotypes_are_valid_and_have_the_right_number_of_edges(case):
    method = build(case)
    edges = {"8/14": 8, "6/14": 6, "5/14": 5, "4/14": 4, "3/14": 3, "darts": 8}
    own = [] if case in CLAMPS else [(None, edges[CASES[case][1].get("edges", "8/14")])]
    for rule, number in [*edges.items(), *own]:  # argmax, EDAS' own, keeps what it keeps
        genotype = method.genotype(rule)
        assert {kind: sum(map(len, genotype.cell(kind).nodes)) for kind in KINDS} == dict.fromkeys(KINDS, number)
        assert genotype.operations <= set(method.space.operations) - {"none"}
    with pytest.raises(ValueError, match="15/14"):
        method.genotype("15/14")


@pytest.mark.parametrize("case", CASES)
def test_five_nodes_and_other_operations_make_another_space(case):
    name, own = CASES[case]
    settings_class, method_class = find_method(name)
    own = {key: value for key, value in own.items() if key != "edges"}
    space: dict = {"nodes": 5, "operations": ("skip_connect", "sep_conv_3x3", "avg_pool_3x3")}
    method: Any = method_class(settings_class(**TINY, **own, **space))
    assert method.space.operations == space["operations"]
    supernet = supernet_of(method)
    logits = supernet(batch()[0], method.mixing(step("weights")))
    assert torch.isfinite(logits).all()
    for rule, number in ((None, None), ("10/20", 10), ("5/20", 5), ("4/20", 4), ("darts", 10)):
        genotype = method.genotype(rule)
        for kind in KINDS:
            assert len(genotype.cell(kind).nodes) == 5
            assert number is None or sum(map(len, genotype.cell(kind).nodes)) == number
        assert genotype.operations <= set(space["operations"])
    with pytest.raises(ValueError, match="edges must be one of 10/20, 9/20"):
        method.genotype("8/14")


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ((), "operations must be different ones, and another than 'none' among them, got ''"),
        (("none",), "another than 'none' among them, got 'none'"),
        (("skip_connect", "skip_connect"), "must be different ones"),
        (("skip_connect", "sep_conv"), "operations must be some of none, max_pool_3x3, .*, got 'sep_conv'"),
    ],
)
def test_operations_that_make_no_space_are_told(operations, message):
    with pytest.raises(ValueError, match=message):
        find_method("edas")[0](operations=operations)


@pytest.mark.parametrize("case", CASES)
def test_settings_survive_a_checkpoint(case):
    from nas_zoo.runs.settings import settings_from, to_dict

    settings = build(case).settings
    assert isinstance(settings, SearchSettings)
    assert settings_from(type(settings), json.loads(json.dumps(to_dict(settings)))) == settings
    assert settings.method in METHODS


#: Two iterations an epoch.
RUN = ["--num-cells", "3", "--init-channels", "4", "--batch-size", "8", "--train-limit", "34", "--epochs", "2",
       "--gap-batches", "1"]  # fmt: skip


def flags_of(case: str) -> list[str]:
    name, own = CASES[case]
    return [
        "--method",
        name,
        *(word for key, value in own.items() for word in (f"--{key.replace('_', '-')}", str(value))),
    ]


#: EDAS does so in test_run.py, DARTS of the first order is run in test_gap.py.
RUNS = ["darts second order", "pc_darts", "da2s 3/14", "da2s_released", "gdas", "drnas", "fairdarts", "edas_settled",
        "random"]  # fmt: skip


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case == "random" else pytest.mark.slow) for case in RUNS]
)
def test_two_epochs_run_and_a_run_in_pieces_is_the_same(case, tmp_path, capsys):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert main([*RUN, *flags_of(case), "--out", str(whole)]) == 0
    assert "supernet -> after discretization, 17 images" in capsys.readouterr().out
    lines = epochs_of(whole)
    assert len(lines) == 2
    method = build(case)
    for line in lines:
        assert math.isfinite(line["train"]["loss"])
        assert len(line["alpha"]["normal"]) == 14
        assert ("beta" in line) == hasattr(method, "beta")
        found = [row for row in line["gap"]["after"] if row["cells"] == "found"]
        weighted = CASES[case][0] in ("pc_darts", "da2s", "da2s_released")
        assert [row["edge_weights"] for row in found] == (["shared out", "plain"] if weighted else ["none"])
        for figures in (line["gap"]["before"], *found):
            assert 0 <= figures["running"] <= 1
            assert 0 <= figures["reestimated"] <= 1
        assert found[0]["running"] == line["held_out"]["found"]
        assert sum(line["histogram"]["normal"].values()) == found[0]["edges"]["normal"]
    assert lines[0]["ranking"] is None
    again = ranking_changes(lines[0]["alpha"], lines[1]["alpha"])
    assert lines[1]["ranking"]["changed"] == again["changed"]
    assert lines[1]["ranking"]["kendall_tau"] == pytest.approx(again["kendall_tau"])
    if case == "random":  # it is one network all along
        assert all(found[0][way] == line["gap"]["before"][way] for way in ("running", "reestimated"))
    state = load_checkpoint(whole / "checkpoint.pt", "search")["method"]
    for kind in KINDS:
        assert "beta" not in line or line["beta"][kind] == state[f"beta.{kind}"].tolist()
    assert load_genotype(whole).to_json() == json.dumps(json.loads(json.dumps(lines[-1]["found"])))
    assert (whole / "derived.safetensors").exists() == (method.settings.partial_channels == 1)

    if case in ("da2s_released", "random"):  # their state is that of others
        return
    assert main([*RUN, *flags_of(case), "--out", str(pieces), "--time-budget", "0.0001"]) == 0
    assert load_checkpoint(pieces / "checkpoint.pt", "search")["step"] == 1
    assert main(["--resume", "--out", str(pieces)]) == 0
    assert_same_run(whole, pieces)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--method", "da2s", "--edges", "2:5,3:1,4:1,5:1"], "edges must keep no more edges than there are"),
        (["--method", "da2s", "--lambda-1", "cubic"], "lambda-1"),
        (["--method", "darts", "--order", "3"], "order"),
        (
            ["--method", "pc_darts", "--partial-channels", "5"],
            "divisor of init_channels (16), got 5",
        ),
        (["--method", "random", "--edges", "1/14"], "edges must be one of 8/14"),
        (
            ["--method", "pc_darts", "--epochs", "5", "--freeze-epochs", "5"],
            "from 0 to below epochs (5), got 5",
        ),
    ],
)
def test_wrong_settings_are_one_line_before_anything_runs(argv, message, tmp_path, capsys):
    try:
        code: str | int | None = main([*argv, "--out", str(tmp_path / "run")])
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not Path(tmp_path / "run").exists()
