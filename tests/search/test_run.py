"""The search loop: what it logs, that it can be stopped anywhere, and that several processes do what one does."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from nas_zoo.genotype import Genotype, load_genotype
from nas_zoo.models.network import CellNet
from nas_zoo.runs.checkpoint import load_checkpoint
from nas_zoo.runs.log import RunLog
from nas_zoo.runs.schedule import cosine
from nas_zoo.search.gap import measure
from nas_zoo.search.method import mean_entropy
from nas_zoo.search.methods.edas import EdasSettings
from nas_zoo.search.run import main, parse
from tests.run_two_processes import SEARCHES, iterate
from tests.same_run import assert_same_checkpoint

ROOT = Path(__file__).parents[2]
EXPECTED = ROOT / "tests" / "expected"
SMALL = ["--num-cells", "3", "--init-channels", "4", "--batch-size", "32", "--train-limit", "200", "--epochs", "2"]
#: May differ between a run and the same run in pieces.
TIMES = ("seconds", "peak_memory_gb")


def run_small(out: Path, *more: str) -> int:
    return main([*SMALL, "--out", str(out), *more])


def epochs_of(out: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in RunLog.read(out) if line["kind"] == "epoch"]


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: weights, alpha, both optimizers, counters; and the log but for times."""
    assert_same_checkpoint(one, other, "search")
    assert epochs_of(one) == epochs_of(other)
    assert load_genotype(one) == load_genotype(other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run_small(out) == 0
    return out


def test_a_run_leaves_log_checkpoint_genotype_and_the_derived_network(whole):
    head, *epochs = RunLog.read(whole)
    assert head["kind"] == "run"
    assert head["settings"]["num_cells"] == 3
    assert head["versions"]["torch"]
    assert [line["epoch"] for line in epochs] == [1, 2]
    for line in epochs:
        assert line["held_out"]["derived"].keys() == {"darts", "argmax"}
        assert 0 <= line["held_out"]["supernet"] <= 1
        assert line["train"]["n"] == 96  # three batches of 32 out of a half of 100
        assert len(line["alpha"]["normal"]) == 14
        assert len(line["alpha"]["normal"][0]) == 8
        assert sum(line["histogram"]["normal"].values()) <= 14  # 'none' has won on the others
        assert line["seconds"] > 0 < line["peak_memory_gb"]
    assert load_genotype(whole).to_json() == load_genotype(whole / "genotype.json").to_json()
    record = json.loads((whole / "genotype.json").read_text())
    assert record["provenance"]["method"] == "edas"
    assert Genotype.from_json(epochs[-1]["genotype"]["argmax"]) == load_genotype(whole)
    for rule in ("argmax", "darts"):
        assert Genotype.from_json(epochs[-1]["genotype"][rule]) == load_genotype(whole / f"genotype_{rule}.json")
    assert {path.name for path in whole.glob("derived*")} == {"derived.safetensors", "derived_darts.safetensors"}


def test_the_derived_network_of_a_run_has_the_accuracy_the_log_tells(whole):
    from safetensors.torch import load_file

    from nas_zoo.data.batches import Batches
    from nas_zoo.data.named import open_source, search_split

    line = RunLog.read(whole)[-1]
    network = CellNet(load_genotype(whole), init_channels=4, num_cells=3, in_chans=1, pool_bn=True)
    network.load_state_dict(load_file(whole / "derived.safetensors"))
    network.eval()
    source = open_source("digits", "train")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))[:200].sort().values.numpy()
    source = source.subset(order)
    held_out = search_split(source, 0)[1]
    batches = Batches(source, held_out, 64, image_size=8, device="cpu", augment=None, shuffle=False, seed=0)
    with torch.no_grad():
        correct = sum((network(x).argmax(1) == y).sum().item() for x, y in batches.epoch(0))
    assert line["held_out"]["n"] == 100
    assert correct / 100 == line["held_out"]["derived"]["argmax"]


def test_the_losses_are_the_expected_ones(whole):
    """Pinned: a change that should not change numbers must not."""
    losses = [[line["train"]["loss"], line["alpha_loss"]] for line in RunLog.read(whole)[1:]]
    expected = json.loads((EXPECTED / "search_losses.json").read_text())["edas"]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_a_run_stopped_after_every_single_iteration_is_the_run_that_never_stopped(whole, tmp_path):
    out = tmp_path / "pieces"
    assert run_small(out, "--time-budget", "0.0001") == 0
    pieces = 1
    while load_checkpoint(out / "checkpoint.pt", "search")["epoch"] < 2:
        assert main(["--resume", "--out", str(out), "--time-budget", "0.0001"]) == 0
        pieces += 1
    assert pieces >= 5
    assert main(["--resume", "--out", str(out)]) == 0  # a finished run: writes its last files, trains nothing
    assert_same_run(whole, out)
    assert (out / "derived.safetensors").read_bytes() == (whole / "derived.safetensors").read_bytes()


def start(out: Path, *more: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "search" / "run.py"), *SMALL, "--epochs", "40", "--out", str(out), *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_epochs(process: subprocess.Popen, out: Path, epochs: int) -> None:
    for _ in range(1200):
        if (out / "log.jsonl").exists() and len(RunLog.read(out)) > epochs and (out / "checkpoint.pt").exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("no epoch was logged in two minutes")


@pytest.mark.slow
def test_a_killed_run_continues_as_if_it_had_never_been_killed(tmp_path):
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    process = start(killed)
    wait_for_epochs(process, killed, 2)
    time.sleep(0.05)
    process.kill()
    process.communicate()
    saved = load_checkpoint(killed / "checkpoint.pt", "search")
    assert saved["epoch"] >= 1
    epochs = saved["epoch"] + 2

    # the run that never stopped, in a process with the same number of threads, cut at a later epoch by its budget
    for out, resume in ((killed, ["--resume"]), (straight, [])):
        process = start(out, *resume)
        wait_for_epochs(process, out, epochs)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 143, stderr
        assert "stopped (SIGTERM); continue with" in stdout
    common = min(len(epochs_of(killed)), len(epochs_of(straight)))
    assert common >= epochs
    assert epochs_of(killed)[:common] == epochs_of(straight)[:common]


def test_a_home_in_a_flag_or_a_file_of_settings_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("method: edas\nout: ~/runs/x\n")
    budget = ["--time-budget", "0.0001"]
    assert main([*SMALL, "--config", str(tmp_path / "c.yaml"), *budget]) == 0
    for words in (["--config", str(tmp_path / "c.yaml")], ["--out=~/runs/x"]):
        assert main(["--resume", *words, *budget]) == 0
    assert len(RunLog.read(tmp_path / "runs" / "x" / "events.jsonl")) == 5


@pytest.mark.slow
def test_a_bad_checkpoint_is_refused_and_the_good_one_before_it_named(whole, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    for name in ("checkpoint.pt", "checkpoint.previous.pt", "log.jsonl"):
        (out / name).write_bytes((whole / name).read_bytes())
    good = (out / "checkpoint.pt").read_bytes()
    (out / "checkpoint.pt").write_bytes(good[: len(good) // 2])
    assert main(["--resume", "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert "checkpoint.pt" in message
    assert "checkpoint.previous.pt" in message
    assert (out / "checkpoint.previous.pt").read_bytes() == (whole / "checkpoint.previous.pt").read_bytes()
    # the last good one leads to the same end
    assert main(["--resume", str(out / "checkpoint.previous.pt"), "--out", str(out)]) == 0
    assert_same_run(whole, out)

    torch.save({"a": 1}, out / "foreign.pt")
    assert main(["--resume", str(out / "foreign.pt"), "--out", str(out)]) == 2
    assert "foreign.pt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochz", "3"], "epochz"),
        (["--epochs", "three"], "epochs"),
        (["--method", "ednas"], "method must be one of edas, alpha_max"),
        (["--config", "nonesuch"], "neither a YAML file nor one of da2s_c10"),
        (["--data", "no/such/folder"], "no/such/folder"),
        (["--batch-size", "100000"], "batch_size 100000 is larger than"),
        (["--warmup-epochs", "99"], "warmup_epochs must be from 0 to epochs (25), got 99"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(argv, message, tmp_path, capsys):
    try:
        code: str | int | None = main([*argv, "--out", str(tmp_path / "run")])
    except SystemExit as exit_:  # argparse
        code = exit_.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_folder_with_a_run_is_not_written_over(whole, capsys):
    before = (whole / "log.jsonl").read_bytes()
    assert run_small(whole) == 2
    assert "--resume continues it, another" in capsys.readouterr().err
    assert (whole / "log.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(whole, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "log.jsonl").write_bytes((whole / "log.jsonl").read_bytes()[:3000])  # half a line at the end
    assert main(["--resume", "--out", str(out)]) == 0  # its settings stand in its log
    assert_same_run(whole, out)


@pytest.mark.slow
def test_the_method_of_a_run_that_goes_on_is_its_own(tmp_path, capsys):
    config, out = tmp_path / "small.yaml", tmp_path / "run"
    config.write_text("num_cells: 2\ninit_channels: 4\nbatch_size: 32\ntrain_limit: 128\nepochs: 1\nmethod: random\n")
    assert main(["--config", str(config), "--method", "da2s", "--out", str(out), "--time-budget", "0.0001"]) == 0
    config.write_text(config.read_text().replace("method: random\n", ""))
    assert main(["--config", str(config), "--resume", "--out", str(out)]) == 0
    assert RunLog.read(out)[0]["settings"]["method"] == "da2s"
    assert len(RunLog.read(out)) == 2
    assert main(["--resume", "--out", str(tmp_path / "typo")]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()
    config.write_text("method: [edas]\n")
    assert main(["--config", str(config), "--out", str(tmp_path / "other")]) == 2
    assert "got ['edas']" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_does_not_take_over_the_folder_of_another_run(whole, tmp_path, capsys):
    out = tmp_path / "run"
    assert run_small(out, "--seed", "1") == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert main(["--resume", str(whole / "checkpoint.previous.pt"), "--out", str(out)]) == 2
    assert "log of another run: seed is 1 there, in the checkpoint 0" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


@pytest.mark.slow
def test_weights_that_are_not_finite_do_not_become_the_checkpoint(tmp_path, monkeypatch, capsys):
    out, step, steps = tmp_path / "run", torch.optim.SGD.step, itertools.count(1)

    def spoil(optimizer, *args, **kwargs):
        step(optimizer, *args, **kwargs)
        if next(steps) == 6:  # the last one of the second epoch: no loss after it would tell
            optimizer.param_groups[0]["params"][0].data[0] = float("nan")

    monkeypatch.setattr(torch.optim.SGD, "step", spoil)
    assert run_small(out) == 2
    assert "weights that are not finite in epoch 2" in capsys.readouterr().err
    state = load_checkpoint(out / "checkpoint.pt", "search")
    assert state["epoch"] == 1
    assert all(t.isfinite().all() for t in state["supernet"].values() if t.is_floating_point())
    assert len(epochs_of(out)) == 1


@pytest.mark.slow
def test_the_loss_of_the_architecture_steps_is_that_of_those_there_were(tmp_path):
    """Of an edge in a cell kind that does not exist there is none: two cells here, both reduction cells."""
    assert main([*SMALL, "--num-cells", "2", "--out", str(tmp_path / "edas")]) == 0
    losses = [line["alpha_loss"] for line in epochs_of(tmp_path / "edas")]
    assert all(loss is None or loss > 1.5 for loss in losses)  # about log 10 at the start
    assert main([*SMALL, "--method", "random", "--out", str(tmp_path / "random")]) == 0
    assert [line["alpha_loss"] for line in epochs_of(tmp_path / "random")] == [None, None]


@pytest.mark.slow
def test_data_that_has_moved_is_given_anew(tmp_path):
    from tests.weights import write_images

    images = write_images(tmp_path / "images")
    small = ["--num-cells", "2", "--init-channels", "4", "--batch-size", "8", "--image-size", "8", "--epochs", "1"]
    data, test = tmp_path / "a", tmp_path / "b"
    shutil.copytree(images, data)
    shutil.copytree(images, test)
    out = tmp_path / "run"
    next((data / "train").rglob("*.png")).write_bytes(b"no picture")  # counted once, wherever it lies
    given = ["--data", str(data), "--test-data", str(test), "--skip-unreadable", "1"]
    assert main([*small, *given, "--out", str(out), "--time-budget", "0.0001"]) == 0
    data.rename(tmp_path / "c")
    test.rename(tmp_path / "d")
    moved = ["--data", str(tmp_path / "c"), "--test-data", str(tmp_path / "d")]
    assert main(["--resume", "--out", str(out), *moved]) == 0
    assert "test_data" not in json.loads((out / "genotype.json").read_text())["provenance"]["settings"]
    assert measure(out, ["found"], data=moved[1], test_data=moved[3])["n"] > 0


def test_a_resumed_run_may_not_change_what_is_computed(whole, capsys):
    assert main(["--resume", "--out", str(whole), "--lr", "0.1"]) == 2
    assert "lr must stay 0.025 as in the run that is resumed, got 0.1" in capsys.readouterr().err
    assert main(["--out", str(whole), "--resume", "--operations", "skip_connect,sep_conv_3x3"]) == 2
    assert "operations must stay" in capsys.readouterr().err


def test_the_shipped_configurations_are_read_and_are_what_they_say():
    settings, _ = parse(["--config", "edas_warmup_c10", "--out", "nowhere"])
    assert isinstance(settings, EdasSettings)
    assert (settings.method, settings.warmup_epochs, settings.num_cells, settings.data) == ("edas", 10, 20, "cifar10")
    settings, _ = parse(["--config", "edas_c10", "--seed", "7", "--out", "nowhere"])
    assert (settings.seed, settings.alpha_lr, settings.epochs) == (7, 0.025, 25)
    settings, _ = parse(["--config", "robust_s3", "--out", "nowhere"])
    assert (settings.method, settings.space.operations) == ("darts", ("none", "skip_connect", "sep_conv_3x3"))
    for path in (ROOT / "search" / "configs").glob("*.yaml"):
        parse(["--config", path.stem, "--out", "nowhere"])


def test_learning_rate_falls_from_start_to_end_as_a_cosine():
    assert cosine(0.025, 0.001, 0, 25) == 0.025
    assert cosine(0.025, 0.001, 25, 25) == pytest.approx(0.001)
    assert cosine(1.0, 0.0, 5, 10) == pytest.approx(0.5)


def test_entropy_is_zero_for_settled_edges_and_log_o_for_undecided_ones():
    assert mean_entropy(torch.zeros(14, 8)) == pytest.approx(torch.tensor(8.0).log().item())
    assert mean_entropy(1e4 * torch.eye(8)) == 0.0


@pytest.mark.slow
def test_two_processes_draw_alike_end_alike_and_do_what_one_process_does(tmp_path):
    """Between the two processes no difference; to one process 1e-10 in float64, after two to six iterations.

    Float32 begins with a difference of 2e-6 (sums in another order), which max pooling may then make larger: in
    the flat background of digits many pixels are all but equal, and the largest of them alone gets the gradient.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    script = ROOT / "tests" / "run_two_processes.py"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(for_alpha == for_weights and len(for_alpha) == 1 for for_alpha, for_weights in first["edas"]["drawn"])
    for search in SEARCHES:
        alone, one, other = iterate(search), first[search], second[search]
        assert one["drawn"] == other["drawn"] == alone["drawn"]
        for part in ("alpha", "supernet"):
            for name, value in one[part].items():
                assert torch.equal(value, other[part][name]), (search, name)
                torch.testing.assert_close(
                    value, alone[part][name], rtol=0, atol=1e-10, msg=partial("{}: {}".format, (search, name))
                )
    # and the whole loop, log and checkpoint, ran in both
    assert len(RunLog.read(tmp_path / "run")) == 2
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt", "search")["epoch"] == 1
    # in pieces it is the same run, with the same figures in its log
    assert_same_run(tmp_path / "run", tmp_path / "pieces")


def test_processes_that_do_not_know_of_each_other_are_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_small(tmp_path / "run") == 2
    assert "ACCELERATE_USE_CPU=true" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--method", "alpha_max"],
        ["--warmup-epochs", "1", "--invert", "every", "--draw", "per_kind"],
        ["--precision", "bf16"],
        ["--no-channels-last", "--derive", "argmax"],
        ["--image-size", "11", "--cutout", "4", "--flip"],
    ],
    ids=lambda flags: " ".join(flags),
)
def test_every_setting_runs(flags, tmp_path):
    assert run_small(tmp_path / "run", *flags, "--epochs", "1") == 0
    (line,) = epochs_of(tmp_path / "run")
    assert 0 < line["train"]["loss"] < 10


@pytest.mark.slow
def test_a_folder_and_a_tar_of_images_can_be_searched_on(tmp_path):
    import tarfile

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for i in range(60):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / label / f"{i}.png")
    with tarfile.open(tmp_path / "pets.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "pets", "pets")
    for data in ("pets", "pets.tar.gz"):
        out = tmp_path / f"run-{data}"
        assert run_small(out, "--data", str(tmp_path / data), "--epochs", "1") == 0
        assert RunLog.read(out)[0]["data"]["classes"] == ["cat", "dog"]
    assert epochs_of(tmp_path / "run-pets") == epochs_of(tmp_path / "run-pets.tar.gz")
    # a fifth of a set without test split is left for one, unless the test images lie elsewhere
    assert RunLog.read(tmp_path / "run-pets")[0]["data"]["images"] == 96
    flags = ["--data", str(tmp_path / "pets"), "--test-data", str(tmp_path / "pets.tar.gz"), "--epochs", "1"]
    assert run_small(tmp_path / "all", *flags) == 0
    assert RunLog.read(tmp_path / "all")[0]["data"]["images"] == 120


@pytest.mark.slow
def test_two_processes_that_accelerate_was_asked_for_on_a_cpu_and_does_not_start_are_told(tmp_path):
    launch = [str(Path(sys.executable).with_name("accelerate")), "launch", "--cpu", "--num_processes", "2"]
    done = subprocess.run(
        [*launch, str(ROOT / "search" / "run.py"), *SMALL, "--out", str(tmp_path / "run")],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    assert "torchrun --standalone --nproc-per-node 2 and the rest of the command" in done.stderr
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.slow
def test_accelerate_launches_the_script_and_a_loss_that_is_not_finite_keeps_the_checkpoint(tmp_path):
    out = tmp_path / "run"
    launch = [str(Path(sys.executable).with_name("accelerate")), "launch", "--cpu", str(ROOT / "search" / "run.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, *SMALL, "--epochs", "1", "--out", str(out)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "search finished" in done.stdout
    assert load_checkpoint(out / "checkpoint.pt", "search")["epoch"] == 1
    diverges = [sys.executable, str(ROOT / "search" / "run.py"), *SMALL, "--grad-clip", "0", "--lr", "1e30"]
    done = subprocess.run(
        [*diverges, "--out", str(tmp_path / "nan")], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "the loss is not finite in epoch 1" in done.stderr
    assert "Traceback" not in done.stderr
