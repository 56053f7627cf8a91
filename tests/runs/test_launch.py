"""What `accelerate launch` asks for is obeyed, or refused by its name; who decided stands in the log's first line."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nas_zoo.runs.distributed import start_accelerator
from nas_zoo.runs.launch import asked_settings
from nas_zoo.runs.log import RunLog
from nas_zoo.search import run as search
from nas_zoo.search.method import Step, find_method
from nas_zoo.search.methods.edas import draw_edges
from nas_zoo.train import evaluation
from nas_zoo.train import run as train

ROOT = Path(__file__).parents[2]
SMALL = ["--data", "digits", "--init-channels", "4", "--num-cells", "3", "--batch-size", "8", "--train-limit", "64",
         "--epochs", "1"]  # fmt: skip
MAINS: dict[str, Callable[[list[str]], int]] = {
    "search": lambda argv: search.main([*SMALL, "--eval-size", "16", "--gap-batches", "0", *argv]),
    "train": lambda argv: train.main([*SMALL, "--recipe", "quick", "--model", "cell_net_cifar", *argv]),
}


@pytest.fixture(autouse=True)
def _as_nobody_asked(monkeypatch) -> None:
    """accelerate's own state too is that of a process, and reads the environment when it is made first."""
    start_accelerator()
    for name in os.environ:
        if name.startswith("ACCELERATE_"):
            monkeypatch.delenv(name)


def first_line(out: Path) -> dict[str, Any]:
    return RunLog.read(out)[0]["in_force"]


@pytest.mark.parametrize("kind", MAINS)
@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"USE_FSDP": "true"}, "asks for FSDP (ACCELERATE_USE_FSDP)"),
        ({"USE_DEEPSPEED": "true"}, "asks for DeepSpeed (ACCELERATE_USE_DEEPSPEED)"),
        ({"USE_MEGATRON_LM": "true"}, "asks for Megatron-LM (ACCELERATE_USE_MEGATRON_LM)"),
        ({"USE_PARALLELISM_CONFIG": "true"}, "asks for parallelism_config"),
        ({"IN_TPU_POD": "1"}, "asks for TPU"),
        ({"MIXED_PRECISION": "fp16"}, "asks for mixed_precision fp16 (ACCELERATE_MIXED_PRECISION)"),
        ({"MIXED_PRECISION": "fp8"}, "asks for mixed_precision fp8"),
        ({"MIXED_PRECISION": "half"}, "asks for mixed_precision half"),
        ({"GRADIENT_ACCUMULATION_STEPS": "0"}, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS must be a whole number"),
        ({"GRADIENT_ACCUMULATION_STEPS": "two"}, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS must be a whole number"),
        ({"GRADIENT_ACCUMULATION_STEPS": "99"}, "accumulation must be at most"),
        ({"DYNAMO_BACKEND": "EAGER"}, "asks for dynamo_backend eager"),
    ],
)
def test_what_is_not_had_ends_in_one_line_with_its_name(kind, variables, told, tmp_path, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    assert MAINS[kind](["--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_dynamo_is_refused_in_a_search_and_is_compile_in_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    assert MAINS["search"](["--out", str(tmp_path / "run")]) == 2
    assert (
        "dynamo_backend inductor (ACCELERATE_DYNAMO_BACKEND), which is had in training alone" in capsys.readouterr().err
    )
    settings = train.parse(["--out", str(tmp_path / "run")])[0]
    assert settings.compile
    assert not train.parse(["--no-compile", "--out", str(tmp_path / "run")])[0].compile
    monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", "max-autotune")
    with pytest.raises(ValueError, match="dynamo_mode max-autotune"):
        train.parse(["--out", str(tmp_path / "run")])


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAINS)
def test_bf16_and_accumulation_are_obeyed_and_said_to_be_accelerates(kind, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    assert MAINS[kind](["--out", str(out)]) == 0
    force = first_line(out)
    assert force["precision"] == ["bf16", "accelerate (ACCELERATE_MIXED_PRECISION)"]
    assert force["accumulation"] == [2, "accelerate (ACCELERATE_GRADIENT_ACCUMULATION_STEPS)"]
    assert force["processes"] == [1, "default"]
    told = capsys.readouterr().out
    assert told.startswith("in force: precision bf16 (accelerate (ACCELERATE_MIXED_PRECISION)), accumulation 2 (")
    assert told.count("warning: precision bf16 is slower") == 1
    steps = RunLog.read(out)[0]["steps_per_epoch"]
    assert steps == (2 if kind == "search" else 4)
    assert RunLog.read(out)[1]["train"]["n"] == steps * 16

    other = tmp_path / "other"
    assert MAINS[kind](["--precision", "fp32", "--accumulation", "1", "--out", str(other)]) == 0
    assert first_line(other)["precision"] == ["fp32", "flag --precision"]
    assert RunLog.read(other)[0]["steps_per_epoch"] == 2 * steps


def test_an_evaluation_obeys_the_precision_and_is_not_concerned_with_steps(monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    asked = asked_settings(evaluation.EvaluateSettings)
    assert asked == {"accelerate (ACCELERATE_MIXED_PRECISION)": {"precision": "bf16"}}
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert evaluation.main(["no-such-model"]) == 2
    assert "asks for mixed_precision fp16" in capsys.readouterr().err


def test_accelerates_word_stands_above_a_recipe_and_below_our_own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "3")
    file = tmp_path / "c.yaml"
    file.write_text("accumulation: 5\n")
    assert train.parse(["--out", str(tmp_path / "r")])[0].accumulation == 3
    assert train.parse(["--config", str(file), "--out", str(tmp_path / "r")])[0].accumulation == 5
    assert (
        search.parse(["--config", str(file), "--accumulation", "7", "--out", str(tmp_path / "r")])[0].accumulation == 7
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAINS)
def test_a_run_does_not_go_on_under_another_precision_or_accumulation(kind, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    assert MAINS[kind](["--out", str(out), "--epochs", "2", "--time-budget", "0.0001"]) == 0
    argv = {"search": search.main, "train": train.main}[kind]
    for variable, value, told in (
        (
            "MIXED_PRECISION",
            "bf16",
            "precision must stay 'fp32' as in the run that is resumed, got 'bf16' from",
        ),
        ("GRADIENT_ACCUMULATION_STEPS", "2", "accumulation must stay 1 as in the run that is resumed, got 2 from"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(f"ACCELERATE_{variable}", value)
            assert argv(["--resume", "--out", str(out)]) == 2
            error = capsys.readouterr().err
            assert told in error
            assert error.count("\n") == 1
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # our flag holds against it
    assert argv(["--resume", "--precision", "fp32", "--out", str(out)]) == 0
    assert "in force: precision fp32 (flag --precision)" in capsys.readouterr().out


def gradients_by_hand(run: Any, batches: Any) -> dict[str, torch.Tensor]:
    """Of training, averaged over the batches, without accelerate."""
    twin = copy.deepcopy(run.trained)
    for images, labels in batches:
        loss = F.cross_entropy(twin(images)[0], labels, label_smoothing=run.settings.label_smoothing)
        (loss / len(batches)).backward()
    return {name: parameter.grad for name, parameter in twin.named_parameters()}


def test_training_with_accumulation_takes_the_mean_gradient_of_its_batches(tmp_path):
    flags = [*SMALL, "--recipe", "quick", "--model", "cell_net_cifar", "--optimizer", "momentum", "--momentum", "0",
             "--weight-decay", "0", "--grad-clip", "0", "--warmup-epochs", "0", "--accumulation", "2"]  # fmt: skip
    run = train.Training(train.parse([*flags, "--out", str(tmp_path / "r")])[0], start_accelerator())
    batch = next(iter(run.batches(0, 0)))
    assert len(batch) == 2
    expected = gradients_by_hand(run, batch)
    before = {name: parameter.detach().clone() for name, parameter in run.trained.named_parameters()}
    sums = run.step(0, 0, batch)
    rate = run.settings.rate(0, 0, run.steps)
    assert sums[2] == 16
    for name, parameter in run.trained.named_parameters():
        torch.testing.assert_close(parameter, before[name] - rate * expected[name], rtol=1e-5, atol=1e-7)


def test_a_search_with_accumulation_draws_one_edge_and_averages_both_gradients():
    settings: Any = find_method("edas")[0]
    small = {"data": "digits", "num_cells": 3, "init_channels": 4, "batch_size": 8, "train_limit": 64, "epochs": 2,
             "accumulation": 2, "momentum": 0.0, "weight_decay": 0.0, "grad_clip": 0.0}  # fmt: skip
    run = search.Search(settings(**small), start_accelerator())
    assert run.steps == 2
    batch = list(run.batches(0, 0))[1]
    twin, method = copy.deepcopy(run.supernet), copy.deepcopy(run.method)
    at = Step(0, 1, 2, "alpha")
    for _, (images, labels) in batch:
        (F.cross_entropy(twin(images, method.mixing(at)), labels) / 2).backward()
    alphas = {name: alpha.grad for name, alpha in method.named_parameters()}
    (moved,) = [name for name, gradient in alphas.items() if gradient is not None]
    ((kind, edge),) = draw_edges(0, at, 14, "one").items()
    assert moved == f"alpha.{kind}.{edge}"
    twin.zero_grad()

    before = {name: weight.detach().clone() for name, weight in run.supernet.named_parameters()}
    seen: dict[str, torch.Tensor] = {}
    adam = run.alpha_optimizer.step

    def step() -> None:
        seen.update({name: a.grad for name, a in run.method.named_parameters() if a.grad is not None})
        adam()

    run.alpha_optimizer.step = step  # type: ignore[method-assign, assignment]
    sums = run.step(0, 1, batch)
    assert list(seen) == [moved]
    torch.testing.assert_close(seen[moved], alphas[moved], rtol=1e-4, atol=1e-7)
    with torch.no_grad():
        mixing = run.method.mixing(Step(0, 1, 2, "weights"))
    for (images, labels), _ in batch:
        (F.cross_entropy(twin(images, mixing), labels) / 2).backward()
    lr = run.weight_optimizer.param_groups[0]["lr"]
    for name, weight in twin.named_parameters():
        change = 0.0 if weight.grad is None else lr * weight.grad
        torch.testing.assert_close(run.supernet.get_parameter(name), before[name] - change, rtol=1e-5, atol=1e-6)
    assert sums[2] == sums[4] == 16


@pytest.mark.slow
def test_accelerate_launch_with_a_config_file(tmp_path):
    file = tmp_path / "accelerate.yaml"
    file.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: bf16\nnum_machines: 1\n"
        "num_processes: 1\nuse_cpu: true\n"
    )
    out = tmp_path / "run"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file), "-m", "nas_zoo.train"]
    flags = [*SMALL, "--recipe", "quick", "--model", "cell_net_cifar", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] = "2"
    done = subprocess.run([*launch, *flags], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "log.jsonl").read_text().splitlines()[0])["in_force"] == {
        "precision": ["bf16", "accelerate (ACCELERATE_MIXED_PRECISION)"],
        "accumulation": [2, "accelerate (ACCELERATE_GRADIENT_ACCUMULATION_STEPS)"],
        "compile": [False, "default"],
        "device": ["cpu", "accelerate (ACCELERATE_USE_CPU)"],
        "processes": [1, "default"],
    }
