"""Training: that it learns, does what the papers' code does, can be stopped anywhere, and saves what timm opens."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from nas_zoo.data.batches import Batches
from nas_zoo.data.named import open_source
from nas_zoo.genotype import load_genotype
from nas_zoo.models.network import CellNet
from nas_zoo.runs import outside
from nas_zoo.runs.checkpoint import load_checkpoint, save_checkpoint
from nas_zoo.runs.distributed import start_accelerator
from nas_zoo.runs.files import write_weights
from nas_zoo.runs.log import RunLog
from nas_zoo.runs.settings import describe
from nas_zoo.search.discretize import derived_network
from nas_zoo.search.supernet import SearchSpace, Supernet
from nas_zoo.train import evaluation
from nas_zoo.train.auxiliary import AuxiliaryHead, TensorDropPath
from nas_zoo.train.evaluation import evaluate, evaluate_model
from nas_zoo.train.model import architecture_of, chosen_args, make_model, read_weights, save_model
from nas_zoo.train.recipes import RECIPES, TrainSettings
from nas_zoo.train.run import Training, main, make_parser, parse
from tests.same_run import assert_same_checkpoint
from tests.train_two_processes import iterate_in_float64

ROOT = Path(__file__).parents[2]
EXPECTED = ROOT / "tests" / "expected" / "train_losses.json"
TINY = ["--model", "cell_net_cifar", "--init-channels", "4", "--num-cells", "3", "--train-limit", "200"]
#: Everything that has a state or draws: auxiliary head, drop path, moving average, cutout, crops; 5 steps an epoch.
SMALL = [*TINY, "--val-fraction", "0.2", "--batch-size", "32", "--epochs", "3", "--ema-decay", "0.9"]
#: Without drop path, whose masks each process draws for its own rows.
ALIKE = [*SMALL, "--sync-bn", "--drop-path", "0", "--epochs", "2"]
#: May differ between a run and the same run in pieces.
TIMES = ("seconds", "peak_memory_gb")


def run_small(out: Path, *more: str) -> int:
    return main([*SMALL, "--out", str(out), *more])


def tiny_settings(*flags: str) -> TrainSettings:
    return parse([*TINY, "--out", "does-not-exist", *flags])[0]


def tiny_training(*flags: str) -> Any:
    return Training(tiny_settings(*flags), start_accelerator())


def lines_of(out: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in RunLog.read(out)[1:]]


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: weights, auxiliary head, moving average, optimizer, counters, the result; the log but for times."""
    assert_same_checkpoint(one, other, "train")
    assert lines_of(one) == lines_of(other)
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run_small(out) == 0
    return out


# ---- what a run leaves ----


def test_a_run_logs_its_settings_then_its_epochs_then_its_result(whole):
    head, *epochs, result = RunLog.read(whole)
    assert head["settings"]["ema_decay"] == 0.9
    assert head["result_weights"] == "ema"
    assert head["data"] == {"name": "digits", "train": 160, "val": 40, "test": 359, "classes": list("0123456789")}
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    for line in epochs:
        assert line["train"]["n"] == 160
        assert line["val"]["ema"]["n"] == line["val"]["last"]["n"] == 40
        assert "test" not in line
    assert result["kind"] == "result"
    assert result["split"] == "test"
    assert result["weights"] == "ema"
    assert list(result["others"]) == ["last"]
    record = json.loads((whole / "result.json").read_text())
    assert {name: record[name] for name in result if name != "kind"} == {k: v for k, v in result.items() if k != "kind"}
    assert record["n"] == 359
    assert record["versions"]["torch"]
    assert record["parameters"] == sum(p.numel() for p in tiny_training().model.parameters())


def test_the_losses_are_the_expected_ones(whole):
    """Pinned: a change that should not change numbers must not."""
    losses = [line["train"]["loss"] for line in lines_of(whole)[:-1]]
    expected = json.loads(EXPECTED.read_text())["cifar"]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=2e-3, atol=2e-3)


def test_timm_opens_the_folder_and_gets_the_same_logits(whole):
    model: Any = timm.create_model(f"local-dir:{whole}", pretrained=True).eval().to(memory_format=torch.channels_last)
    run = tiny_training(*SMALL[len(TINY) :])
    run.load(load_checkpoint(whole / "checkpoint.pt", "train"))
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(images), run.ema.module.eval()(images))
    source = open_source("digits", "train")
    cfg = model.pretrained_cfg
    assert tuple(cfg["label_names"]) == source.classes
    assert tuple(cfg["input_size"]) == (1, 8, 8)
    assert tuple(cfg["mean"]) == pytest.approx(source.mean)
    assert tuple(cfg["std"]) == pytest.approx(source.std)
    figures = evaluate_model(model, open_source("digits", "test"))
    result = lines_of(whole)[-1]
    assert figures["top1"] == result["top1"]
    assert figures["loss"] == pytest.approx(result["loss"], rel=1e-5)


def test_the_auxiliary_head_learns_and_is_in_no_saved_file(whole):
    names = load_file(whole / "model.safetensors").keys()
    assert not any("auxiliary" in name for name in names)
    assert names == CellNet(init_channels=4, num_cells=3, in_chans=1).state_dict().keys()
    run = tiny_training("--epochs", "1", "--batch-size", "50")
    before = run.trained.auxiliary.conv1.weight.detach().clone()
    run.step(0, 0, next(iter(run.batches(0, 0))))
    assert not torch.equal(before, run.trained.auxiliary.conv1.weight)
    for name, parameter in run.trained.named_parameters():
        assert "momentum_buffer" in run.optimizer.state[parameter], name


def test_evaluation_of_a_folder_tells_the_result(whole, capsys):
    assert evaluation.main([str(whole), "--data", "digits"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["top1"] == lines_of(whole)[-1]["top1"]
    assert figures["n"] == 359
    assert evaluation.main([str(whole / "nothing"), "--data", "digits"]) == 2
    assert evaluation.main([str(whole.parent), "--data", "digits"]) == 2
    assert "config.json" in capsys.readouterr().err


# ---- what a step does ----


def test_the_cifar_recipe_is_a_plain_darts_loop():
    """The same by hand with torch alone: SGD with decay on everything, clipping, auxiliary loss, cosine by epoch."""
    flags = ["--epochs", "2", "--batch-size", "50", "--drop-path", "0", "--cutout", "0", "--crop-padding", "0"]
    run, plain = tiny_training(*flags), tiny_training(*flags)
    model, head = plain.model, plain.trained.auxiliary
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.025, momentum=0.9, weight_decay=3e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)
    for epoch in range(2):
        for images, labels in plain.train_batches.epoch(epoch):
            optimizer.zero_grad()
            features, tap = model.forward_auxiliary(images)
            logits = model.classifier(features.mean((2, 3)))
            loss = F.cross_entropy(logits, labels) + 0.4 * F.cross_entropy(head(tap), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
        schedule.step()
        for step, batch in enumerate(run.batches(epoch, 0)):
            run.step(epoch, step, batch)
    for mine, theirs in zip(run.trained.parameters(), plain.trained.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_handful_of_images_is_learned_by_heart(tmp_path):
    out = tmp_path / "run"
    flags = ["--recipe", "quick", "--train-limit", "20", "--batch-size", "20", "--epochs", "40", "--crop-padding", "0"]
    assert main([*TINY, *flags, "--label-smoothing", "0", "--out", str(out)]) == 0
    last = lines_of(out)[-2]
    assert last["train"]["top1"] == 1.0
    assert last["train"]["loss"] < 0.1


def test_label_smoothing_is_timms():
    from timm.loss import LabelSmoothingCrossEntropy

    logits, labels = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    torch.testing.assert_close(
        F.cross_entropy(logits, labels, label_smoothing=0.1), LabelSmoothingCrossEntropy(0.1)(logits, labels)
    )


@pytest.mark.parametrize(("size", "pooling"), [(8, nn.AvgPool2d), (7, nn.AvgPool2d), (2, nn.AdaptiveAvgPool2d)])
def test_the_auxiliary_head_pools_to_two_by_two(size, pooling):
    head = AuxiliaryHead(12, size, 10)
    assert isinstance(head.pool, pooling)
    assert head.pool(torch.zeros(1, 12, size, size)).shape == (1, 12, 2, 2)
    assert head(torch.zeros(3, 12, size, size)).shape == (3, 10)


def test_drop_path_rises_linearly_and_reaches_the_network():
    settings = tiny_settings("--epochs", "10", "--drop-path", "0.2")
    assert [settings.drop_path_rate(epoch) for epoch in (0, 5, 9)] == pytest.approx([0.0, 0.1, 0.18])
    run = tiny_training("--epochs", "10", "--batch-size", "50", "--drop-path", "0.2")
    run.model.set_drop_path(0.1)
    assert any(getattr(module, "drop_prob", None) == 0.1 for module in run.model.modules())


@pytest.mark.slow
def test_drop_path_with_its_rate_in_a_tensor_is_timms():
    """What --compile puts in: rows kept are scaled by 1 / (1 - rate), the others are 0; nothing in evaluation."""
    run = tiny_training("--compile", "--epochs", "10", "--batch-size", "50")
    run.model.set_drop_path(0.2)
    drops = [module for module in run.model.modules() if isinstance(module, TensorDropPath)]
    assert len(drops) == 16  # sixteen of the edges are no identities
    assert drops[0].drop_prob == pytest.approx(0.2)
    torch.manual_seed(0)
    x = torch.ones(2000, 2, 1, 1)
    kept = drops[0](x)
    assert sorted(set(kept.flatten().tolist())) == pytest.approx([0.0, 1.25])
    assert torch.equal(kept[:, 0], kept[:, 1])
    assert (kept > 0).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert torch.equal(drops[0].eval()(x), x)
    assert run.model.state_dict().keys() == tiny_training("--batch-size", "50").model.state_dict().keys()


def test_weights_of_equal_value_give_files_of_equal_bytes(tmp_path):
    weights = {"b": torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), "a": torch.zeros(3)}
    for name in "xy":
        write_weights(tmp_path / name, weights, {"genotype": "{}", "more": "text"})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert all(torch.equal(value, weights[name]) for name, value in load_file(tmp_path / "x").items())
    assert read_weights(tmp_path / "x")[1] == {"format": "pt", "genotype": "{}", "more": "text"}


def test_the_learning_rate_at_its_first_and_last_steps():
    cifar = TrainSettings(epochs=600)
    assert cifar.rate(0, 400, 520) == 0.025
    assert cifar.rate(300, 0, 520) == pytest.approx(0.0125)
    imagenet = tiny_settings("--recipe", "imagenet")
    assert imagenet.rate(0, 0, 1251) == pytest.approx(0.1)
    assert imagenet.rate(4, 0, 1251) == pytest.approx(0.5 * 246 / 250)
    assert imagenet.rate(249, 0, 1251) == pytest.approx(0.002)
    quick = tiny_settings("--recipe", "quick", "--epochs", "10")
    assert quick.rate(0, 0, 20) == pytest.approx(0.1 / 40)
    assert quick.rate(9, 19, 20) < 1e-4
    assert max(quick.rate(epoch, step, 20) for epoch in range(10) for step in range(20)) > 0.09
    budget = tiny_settings("--recipe", "budget")  # up along a line for 8 of 40 epochs, down along one to the end
    assert budget.rate(0, 0, 10) == pytest.approx(0.15 / 80)
    assert budget.rate(3, 9, 10) == pytest.approx(0.15 / 2)
    assert budget.rate(7, 9, 10) == budget.rate(8, 0, 10) == pytest.approx(0.15)
    assert budget.rate(24, 0, 10) == pytest.approx(0.15 / 2)
    assert budget.rate(39, 9, 10) == pytest.approx(0.15 / 320)
    with pytest.raises(ValueError, match="warmup_epochs must be at most 5, got 8"):  # which would end on its way up
        tiny_settings("--recipe", "budget", "--epochs", "6")


def test_weight_decay_is_on_everything_or_as_timm_has_it():
    (group,) = tiny_training("--batch-size", "50").optimizer.param_groups
    assert group["weight_decay"] == 3e-4
    groups = tiny_training("--batch-size", "50", "--no-decay-all").optimizer.param_groups
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 3e-4]
    assert all(p.ndim == 1 for group in groups if not group["weight_decay"] for p in group["params"])
    vit = ["--recipe", "quick", "--model", "test_vit", "--train-limit", "64", "--image-size", "160"]
    for more, decayed in ((["--no-decay-all"], False), (["--decay-all"], True)):
        run = Training(parse([*vit, *more])[0], start_accelerator())
        (group,) = [g for g in run.optimizer.param_groups if any(p is run.model.pos_embed for p in g["params"])]
        assert bool(group["weight_decay"]) is decayed


@pytest.mark.parametrize("name", ["adamw", "lamb", "nadam", "adamp", "laprop"])
def test_a_run_with_an_optimizer_that_counts_in_its_own_way_goes_on(tmp_path, name):
    assert (
        run_small(tmp_path / "run", "--optimizer", name, "--lr", "1e-3", "--epochs", "1", "--time-budget", "1e-4") == 0
    )
    assert main(["--resume", "--out", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("name", ["muon", "adafactorbv", "adahessian", "bnbadam8bit"])
def test_an_optimizer_with_which_no_run_could_go_on_is_refused_before_it_begins(tmp_path, name, capsys):
    assert run_small(tmp_path / "run", "--optimizer", name) == 2
    error = capsys.readouterr().err
    assert f"whose state a checkpoint can give back, got {name!r}: " in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_second_program_in_the_process_does_not_change_the_accumulation():
    """An evaluation in a callback makes an accelerator, and accelerate keeps one number for all of them."""
    run = tiny_training("--batch-size", "40", "--accumulation", "2")
    (batch, *_) = run.batches(0, 0)
    start_accelerator()
    run.step(0, 0, batch)
    assert run.accelerator.gradient_accumulation_steps == 2


def test_a_network_of_other_cells_does_not_bear_the_name(tmp_path):
    for asked, cells, name in (
        ("darts_v2_c10_s.jpeg_e4", "pc_darts_c10", "cell_net_cifar"), ("edas_c10", "pc_darts_c10", "cell_net_cifar"),
        ("darts_v2_c10_s.jpeg_e4", "darts_v2", "darts_v2_c10_s"),
    ):  # fmt: skip
        settings = TrainSettings(model=asked, genotype=cells, init_channels=4, num_cells=3)
        model = make_model(settings, 10, 3, chosen_args(settings, 10, 3))
        assert architecture_of(model, settings) == name


# ---- evaluation ----


def test_evaluation_counts_every_image_once_and_leaves_the_mode():
    source = open_source("digits", "test").subset(range(50))
    torch.manual_seed(0)
    model = CellNet(init_channels=4, num_cells=3, in_chans=1).train()
    figures = [evaluate(model, Batches(source, None, size).epoch(0)) for size in (7, 50)]
    assert model.training
    assert figures[0]["n"] == 50
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)
    assert "top5" not in figures[0]
    images, labels = next(iter(Batches(source, None, 50).epoch(0)))
    with torch.no_grad():
        logits = model.eval()(images)
    assert figures[1]["top1"] == (logits.argmax(1) == labels).double().mean().item()
    assert figures[1]["loss"] == pytest.approx(F.cross_entropy(logits, labels).item())
    many = CellNet(init_channels=4, num_cells=3, in_chans=1, num_classes=20)
    assert evaluate(many, Batches(source, None, 50).epoch(0))["top5"] >= 0
    with pytest.raises(ValueError, match="10 classes, the model 20"):
        evaluate_model(many, source)


# ---- stopping ----


@pytest.mark.slow
def test_a_run_stopped_after_every_single_iteration_is_the_run_that_never_stopped(whole, tmp_path):
    out = tmp_path / "pieces"
    assert run_small(out, "--time-budget", "0.0001") == 0
    pieces = 1
    while not (out / "result.json").exists():
        assert main(["--resume", "--out", str(out), "--time-budget", "0.0001"]) == 0
        pieces += 1
    assert pieces == 15
    assert_same_run(whole, out)


@pytest.mark.slow
def test_a_run_that_is_terminated_and_then_killed_is_the_run_that_never_stopped(whole, tmp_path):
    out = tmp_path / "killed"
    environment = dict(os.environ, OMP_NUM_THREADS=str(torch.get_num_threads()))
    program = [sys.executable, "-m", "nas_zoo.train", "--out", str(out)]

    def start(*flags: str) -> subprocess.Popen:
        return subprocess.Popen([*program, *flags], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)

    def wait_for_line(number: int) -> None:
        deadline = time.monotonic() + 100
        while RunLog(out).num_lines < number or not (out / "checkpoint.pt").exists():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    process = start(*SMALL)
    wait_for_line(2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 143
    process = start("--resume")
    wait_for_line(3)
    process.kill()
    assert process.wait(100) == -signal.SIGKILL
    assert not (out / "result.json").exists()
    assert main(["--resume", "--out", str(out)]) == 0
    assert_same_run(whole, out)


def test_a_run_killed_before_its_first_checkpoint_begins_again_with_its_own_settings(whole, tmp_path):
    out = tmp_path / "early"
    out.mkdir()
    (out / "log.jsonl").write_text((whole / "log.jsonl").read_text().splitlines()[0] + "\n")
    assert main(["--resume", "--out", str(out)]) == 0
    assert_same_run(whole, out)


def test_a_checkpoint_that_is_cut_short_or_foreign_is_refused_and_kept(whole, tmp_path, capsys):
    data = (whole / "checkpoint.pt").read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(data[: len(data) // 2])
    assert main(["--resume", str(cut), "--out", str(tmp_path / "a")]) == 2
    assert "cut short" in capsys.readouterr().err
    foreign = tmp_path / "foreign.pt"
    save_checkpoint(foreign, {"epoch": 1}, "search")
    assert main(["--resume", str(foreign), "--out", str(tmp_path / "a")]) == 2
    error = capsys.readouterr().err
    assert "'search'" in error
    assert "'train'" in error
    assert cut.stat().st_size == len(data) // 2
    assert not (tmp_path / "a").exists()


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(tmp_path, capsys):
    out = tmp_path / "run"
    assert run_small(out, "--time-budget", "0.0001") == 0
    path = out / "checkpoint.pt"
    state = load_checkpoint(path, "train")
    state["trained"]["model.classifier.bias"][0] = float("nan")
    save_checkpoint(path, state, "train")
    before = path.read_bytes()
    assert main(["--resume", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "not finite in epoch 1" in error
    assert error.count("\n") == 1
    assert path.read_bytes() == before
    assert not (out / "model.safetensors").exists()


# ---- several processes ----


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    """In float64 within 1e-9 after ten steps; in float32 losses within 5e-3, where rounding turns a ReLU on or off."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    environment = dict(os.environ, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    both = tmp_path / "two"
    done = subprocess.run(
        [*launch, "tests.train_two_processes", str(both), *ALIKE],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    exact = iterate_in_float64(ALIKE, 10)
    other = torch.load(both / "float64.pt", weights_only=True)
    assert exact.keys() == other.keys()
    for name, value in exact.items():
        torch.testing.assert_close(value, other[name], rtol=1e-9, atol=1e-9)

    alone = tmp_path / "one"
    assert main([*ALIKE, "--out", str(alone)]) == 0
    assert RunLog.read(both)[0]["processes"] == 2
    for one, two in zip(lines_of(alone)[:-1], lines_of(both)[:-1], strict=True):
        assert one["train"]["n"] == two["train"]["n"] == 160
        assert one["train"]["loss"] == pytest.approx(two["train"]["loss"], abs=5e-3)
        assert one["val"]["ema"]["n"] == two["val"]["ema"]["n"]
    result, result2 = lines_of(alone)[-1], lines_of(both)[-1]
    assert result["n"] == result2["n"] == 359
    assert result["loss"] == pytest.approx(result2["loss"], abs=5e-3)


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_small(tmp_path / "run") == 2
    assert "ACCELERATE_USE_CPU" in capsys.readouterr().err


# ---- first weights ----


@pytest.fixture
def derived(tmp_path) -> tuple[Path, CellNet]:
    """What a search leaves: a derived network with the supernet's weights."""
    torch.manual_seed(3)
    genotype = load_genotype("darts_v2")
    supernet = Supernet(SearchSpace(), 4, 3, num_classes=10, in_chans=1)
    network = derived_network(supernet, genotype)
    path = tmp_path / "derived.safetensors"
    save_file(dict(network.state_dict()), path, {"format": "pt", "genotype": genotype.to_json()})
    return path, network


def test_a_search_s_own_weights_are_where_training_starts(derived, tmp_path):
    path, network = derived
    settings = parse(["--init-weights", str(path), "--batch-size", "50", "--out", str(tmp_path / "run")])[0]
    run = Training(settings, start_accelerator())
    assert run.model.pool_bn
    assert (run.model.init_channels, run.model.num_cells) == (4, 3)  # read off the file
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(run.model.eval()(images), network.eval()(images), atol=1e-6)
    again = Training(settings, start_accelerator(), run.state())
    again.load(run.state())
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), again.model.parameters(), strict=True))


def test_a_run_from_first_weights_can_be_resumed_without_them_and_opened(derived, tmp_path):
    path, _ = derived
    out = tmp_path / "run"
    flags = ["--recipe", "quick", "--epochs", "1", "--train-limit", "128", "--init-weights", str(path)]
    assert main([*flags, "--out", str(out), "--time-budget", "0.0001"]) == 0
    path.unlink()
    assert main(["--resume", "--out", str(out)]) == 0
    assert "began_with" not in json.loads((out / "result.json").read_text())
    model = timm.create_model(f"local-dir:{out}", pretrained=True)
    assert model.pool_bn
    assert model.genotype == load_genotype("darts_v2")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--init-channels", "6"], "of another shape (stem.0.conv.weight (12, 1, 3, 3) for (18, 1, 3, 3)"),
        (["--num-cells", "4"], "missing (cells."),
        (["--genotype", "darts_v1"], "of other cells than genotype='darts_v1'"),
        (["--init-weights", "nothing.safetensors"], "no readable .safetensors file"),
    ],
)
def test_first_weights_that_do_not_fit_are_told_in_one_line(derived, tmp_path, capsys, flags, told):
    out = tmp_path / "run"
    assert main(["--init-weights", str(derived[0]), "--out", str(out), *flags]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not out.exists()


# ---- settings ----


def test_the_recipes_have_the_papers_numbers():
    cifar = tiny_settings("--recipe", "cifar")
    assert (cifar.epochs, cifar.batch_size, cifar.lr, cifar.min_lr) == (600, 96, 0.025, 0.0)
    assert (cifar.momentum, cifar.weight_decay, cifar.decay_all, cifar.grad_clip) == (0.9, 3e-4, True, 5.0)
    assert (cifar.cutout, cifar.aux_weight, cifar.drop_path) == (16, 0.4, 0.2)
    assert (cifar.schedule, cifar.schedule_per, cifar.label_smoothing) == ("cosine", "epoch", 0.0)
    edas = tiny_settings("--recipe", "edas")
    assert (edas.epochs, edas.batch_size, edas.lr, edas.min_lr) == (600, 64, 0.025, 0.001)
    assert {name for name in RECIPES["edas"] if RECIPES["edas"][name] != RECIPES["cifar"][name]} == {
        "batch_size",
        "min_lr",
    }
    imagenet = tiny_settings("--recipe", "imagenet")
    assert (imagenet.epochs, imagenet.batch_size, imagenet.lr, imagenet.weight_decay) == (250, 1024, 0.5, 3e-5)
    assert (imagenet.schedule, imagenet.warmup_epochs) == ("linear", 5)
    assert (imagenet.label_smoothing, imagenet.aux_weight) == (0.1, 0.4)
    half_hour = tiny_settings("--recipe", "half_hour")
    assert (half_hour.precision, half_hour.batch_size, half_hour.schedule) == ("bf16", 512, "one_cycle")
    assert (half_hour.label_smoothing, half_hour.ema_decay, half_hour.aux_weight) == (0.1, 0.999, 0.4)
    budget = tiny_settings("--recipe", "budget")
    assert (budget.epochs, budget.batch_size, budget.lr, budget.optimizer) == (40, 128, 0.15, "sgd")
    assert (budget.label_smoothing, budget.ema_decay, budget.cutout) == (0.1, 0.999, 0)
    nothing_given = parse(["--out", "does-not-exist"])[0]
    assert nothing_given == TrainSettings(out=Path("does-not-exist"))  # the class's own defaults are recipe cifar


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_all_of_training_and_nothing_else(name):
    fields = set(TrainSettings.__dataclass_fields__)
    assert set(RECIPES[name]) <= fields
    assert set(RECIPES["cifar"]) <= set(RECIPES[name])


def test_flags_win_over_the_file_the_file_over_the_recipe(tmp_path):
    config = tmp_path / "own.yaml"
    config.write_text("recipe: quick\nlr: 0.3\nepochs: 7\n")
    settings = tiny_settings("--config", str(config), "--epochs", "9")
    assert (settings.recipe, settings.lr, settings.epochs, settings.ema_decay) == ("quick", 0.3, 9, 0.999)
    table = {line.split()[0]: line for line in describe(settings).splitlines()}
    assert table["lr"].endswith(f"config {config}, line 2")
    assert table["epochs"].endswith("flag --epochs")
    assert table["ema_decay"].endswith("recipe quick")
    assert table["seed"].endswith("default")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--recipe", "slow"], "recipe"),
        (["--lr", "0"], "lr must be a finite number greater than 0, got 0.0"),
        (["--crop-area-min", "0"], "crop_area_min must be greater than 0 and at most 1, got 0.0"),
        (["--optimizer", "sdg"], "got 'sdg'"),
        (["--model", "no_such_net"], "model='no_such_net'"),
        (["--model", "resnet18", "--aux-weight", "0"], "resnet18"),
        (["--batch-size", "300"], "batch_size 300"),
        (["--genotype", "dart_v2"], "dart_v2"),
        (["--data", "no-such-folder"], "no-such-folder"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_leaves_no_folder(tmp_path, capsys, flags, told):
    out = tmp_path / "run"
    try:
        code = main([*TINY, "--out", str(out), *flags])
    except SystemExit as ended:  # argparse's own
        code = ended.code  # type: ignore[assignment]
    assert code == 2
    assert told in capsys.readouterr().err
    assert not out.exists()


def test_an_unknown_setting_is_an_error(tmp_path, capsys):
    config = tmp_path / "own.yaml"
    config.write_text("learning_rate: 0.3\n")
    assert main([*TINY, "--config", str(config), "--out", str(tmp_path / "run")]) == 2
    assert "there is no setting 'learning_rate'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse(["--epoch", "3"])
    assert "--epochs" in capsys.readouterr().err


def test_a_folder_with_a_run_is_not_written_over_and_not_resumed_otherwise(whole, capsys):
    before = (whole / "log.jsonl").read_bytes()
    assert run_small(whole) == 2
    assert "--resume continues it" in capsys.readouterr().err
    assert main(["--resume", "--out", str(whole), "--lr", "0.7"]) == 2
    assert "lr must stay 0.025 as in the run that is resumed, got 0.7" in capsys.readouterr().err
    assert (whole / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize(("recipe", "least"), [("quick", 0.35), ("imagenet", 0.08)])
def test_of_photographs_random_crops_show_at_least_what_is_asked_for(recipe, least):
    flags = ["--recipe", recipe, "--aux-weight", "0", "--batch-size", "32", "--train-limit", "64"]
    assert tiny_training(*flags, "--image-size", "96").train_batches.augment.crop_area == (least, 1.0)
    asked = tiny_training(*flags, "--image-size", "96", "--crop-area-min", "0.5").train_batches.augment
    assert asked.random_resized_crop
    assert asked.crop_area == (0.5, 1.0)
    assert not tiny_training(*flags, "--image-size", "32").train_batches.augment.random_resized_crop


def test_other_timm_models_can_be_trained_without_the_auxiliary_head(tmp_path):
    flags = ["--model", "test_resnet", "--aux-weight", "0", "--drop-path", "0", "--epochs", "1", "--train-limit", "64"]
    out = tmp_path / "run"
    assert main([*flags, "--image-size", "32", "--batch-size", "32", "--out", str(out)]) == 0
    assert timm.create_model(f"local-dir:{out}", pretrained=True).num_classes == 10


def test_images_are_scaled_as_first_weights_have_seen_them(tmp_path):
    """Whichever way they are named; a resumed run does not need them."""
    flags = ["--recipe", "quick", "--data", "digits", "--train-limit", "64", "--batch-size", "32"]
    first = Training(parse([*flags, "--model", "cell_net_cifar", "--init-channels", "4", "--num-cells", "3"])[0],
                     start_accelerator())  # fmt: skip
    seen = dataclasses.replace(first.source, mean=(0.25,), std=(0.5,))
    save_model(first.model, tmp_path / "net", seen)
    weights = ["--init-weights", str(tmp_path / "net")]
    settings = parse([*flags, *weights, "--model", "cell_net_cifar", "--init-channels", "4", "--num-cells", "3"])[0]
    run = Training(settings, start_accelerator())
    assert (run.source.mean, run.source.std) == ((0.25,), (0.5,))
    assert run.began_with == f"local-dir:{tmp_path / 'net'}"
    shutil.rmtree(tmp_path / "net")
    again = Training(settings, start_accelerator(), run.state())
    assert (again.source.mean, again.source.std) == ((0.25,), (0.5,))
    assert again.began_with == run.began_with


def test_a_home_in_a_file_of_settings_is_where_the_run_is_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("out: ~/runs/x\n")
    flags = [*TINY, "--batch-size", "32", "--epochs", "1", "--time-budget", "1e-4"]
    assert main([*flags, "--config", str(tmp_path / "c.yaml")]) == 0
    assert (tmp_path / "runs" / "x" / "checkpoint.pt").exists()
    assert main([*flags, "--config", str(tmp_path / "c.yaml")]) == 2
    assert "holds a run already" in capsys.readouterr().err
    for words in (["--config", str(tmp_path / "c.yaml")], ["--out=~/runs/x"]):
        assert main(["--resume", *words, "--time-budget", "1e-4"]) == 0


def test_a_resumed_run_notices_that_its_operation_has_changed(tmp_path, monkeypatch, capsys):
    code = "from torch import nn\n\ndef pool(channels, stride, affine):\n    return nn.{}(3, stride, 1)\n"
    (tmp_path / "changing_ops.py").write_text(code.format("AvgPool2d"))
    own = ["--operations", f"{tmp_path}/changing_ops.py:pool"]
    cells = load_genotype("darts_v2").to_json().replace("skip_connect", "changing_ops.py:pool")
    (tmp_path / "cells.json").write_text(cells)
    out = tmp_path / "run"
    words = [
        *TINY,
        "--genotype",
        str(tmp_path / "cells.json"),
        "--batch-size",
        "32",
        "--epochs",
        "1",
        "--out",
        str(out),
    ]
    assert main([*own, *words, "--epochs", "1", "--time-budget", "1e-4"]) == 0
    assert RunLog.read(out)[0]["code"].keys() == {"changing_ops.py:pool"}
    (tmp_path / "changing_ops.py").write_text(code.format("MaxPool2d"))
    monkeypatch.setattr(outside, "_loaded", {})
    assert main([*own, "--resume", "--out", str(out)]) == 2
    assert "changing_ops.py:pool has changed since the run began" in capsys.readouterr().err
    (tmp_path / "changing_ops.py").write_text(code.format("AvgPool2d"))
    monkeypatch.setattr(outside, "_loaded", {})
    assert main([*own, "--resume", "--out", str(out)]) == 0


def test_help_shows_examples_and_every_setting():
    text = make_parser().format_help()
    assert "accelerate launch -m nas_zoo.train" in text
    assert all(f"--{name.replace('_', '-')}" in text for name in TrainSettings.__dataclass_fields__)


def test_the_command_that_goes_on_names_the_files_of_operations(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nas_zoo.train.run.train", lambda *_: "time budget")
    (tmp_path / "my_ops.py").write_text(
        "from torch import nn\n\ndef pool(channels, stride, affine):\n    return nn.AvgPool2d(3, stride, 1)\n"
    )
    for words in ([], ["--operations", f"{tmp_path}/my_ops.py:pool"]):
        assert main(["--out", str(tmp_path / "run"), *words]) == 0
        command = " ".join(["nas-zoo train --resume --out", str(tmp_path / "run"), *words])
        assert capsys.readouterr().out == f"stopped (time budget); continue with: {command}\n"


def test_a_foreign_model_that_would_corrupt_memory_in_channels_last_is_trained_without(tmp_path, monkeypatch):
    from torch import nn

    from nas_zoo.train import run as train

    def make(settings, num_classes, in_chans, model_args, pretrained, size):
        pool_and_classify = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
        return nn.Sequential(nn.Conv2d(in_chans, 4, 1, 2), *pool_and_classify)

    monkeypatch.setattr(train, "make_model", make)
    settings = train.settings_of({"recipe": "quick", "data": "digits", "out": tmp_path, "train_limit": 64})
    training = train.Training(settings, train.start_accelerator())
    assert settings.channels_last
    assert training.train_batches.memory_format is torch.contiguous_format
