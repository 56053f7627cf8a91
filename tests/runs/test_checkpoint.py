import errno
import math
import os
import pickle
import random
import subprocess
import sys
import textwrap
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nas_zoo.runs import checkpoint
from nas_zoo.runs.checkpoint import check_finite, check_place, load_checkpoint, previous_path, save_checkpoint

STATE: dict[str, Any] = {
    "step": 7,
    "weights": OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.ones(2, dtype=torch.bfloat16)),
    "nested": [1.5, None, True, "text", (1, 2), {"deep": torch.tensor(3)}],
}


def run_program(text: str, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(text), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "new" / "last.pt"
    save_checkpoint(path, STATE, "search")
    state = load_checkpoint(path, "search")
    assert state["step"] == 7
    assert state["nested"] == STATE["nested"]
    assert type(state["nested"][4]) is tuple
    for name, value in STATE["weights"].items():
        assert torch.equal(state["weights"][name], value)
        assert state["weights"][name].dtype == value.dtype
    assert os.listdir(tmp_path / "new") == ["last.pt"]


def test_optimizers_and_random_states_survive(tmp_path):
    net = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    scheduler.step()
    state: dict[str, Any] = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.default_rng(0).bit_generator.state,
        "nan": math.nan,
    }
    save_checkpoint(tmp_path / "last.pt", state, "train")
    loaded = load_checkpoint(tmp_path / "last.pt", "train")
    optimizer.load_state_dict(loaded["optimizer"])
    scheduler.load_state_dict(loaded["scheduler"])
    random.setstate(loaded["python"])
    assert loaded["numpy"] == state["numpy"]
    assert torch.equal(loaded["torch"], state["torch"])


def test_the_file_is_an_ordinary_torch_file(tmp_path):
    save_checkpoint(tmp_path / "last.pt", STATE, "search")
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (content["format"], content["version"], content["kind"]) == ("nas-zoo/checkpoint", 1, "search")


def test_the_one_before_is_kept(tmp_path):
    path = tmp_path / "last.pt"
    for step in range(4):
        save_checkpoint(path, {"step": step}, "search")
        assert load_checkpoint(path, "search") == {"step": step}
        if step:
            assert load_checkpoint(previous_path(path), "search") == {"step": step - 1}
    assert sorted(os.listdir(tmp_path)) == ["last.previous.pt", "last.pt"]


def test_the_one_before_is_kept_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")  # as on exFAT

    monkeypatch.setattr(os, "link", no_links)
    for step in range(3):
        save_checkpoint(tmp_path / "last.pt", {"step": step}, "search")
    assert load_checkpoint(tmp_path / "last.pt", "search") == {"step": 2}
    assert load_checkpoint(tmp_path / "last.previous.pt", "search") == {"step": 1}
    assert sorted(os.listdir(tmp_path)) == ["last.previous.pt", "last.pt"]


def test_a_file_cut_short_does_not_replace_the_good_one_before(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 0}, "search")
    save_checkpoint(path, {"step": 1}, "search")
    os.truncate(path, 100)
    save_checkpoint(path, {"step": 2}, "search")
    assert load_checkpoint(previous_path(path), "search") == {"step": 0}
    assert load_checkpoint(path, "search") == {"step": 2}


def damaged(folder: Path) -> dict[str, bytes]:
    save_checkpoint(folder / "good.pt", STATE, "search")
    good = (folder / "good.pt").read_bytes()
    torch.save({"a": 1}, folder / "other.pt")
    names = {f"cut to {size}": good[:size] for size in (1, 4, 100, len(good) // 2, len(good) - 65, len(good) - 1)}
    return names | {
        "empty": b"",
        "random bytes": random.Random(0).randbytes(5000),
        "longer": good + b"\0",
        "text": b"epoch,loss\n1,2\n",
        "another torch file": (folder / "other.pt").read_bytes(),
        "a pickle": pickle.dumps({"a": 1}),
    }


def test_damaged_files_are_told_in_one_line_and_the_good_one_before_is_named(tmp_path):
    path = tmp_path / "last.pt"
    for name, data in damaged(tmp_path).items():
        path.write_bytes(data)
        previous_path(path).unlink(missing_ok=True)
        with pytest.raises(ValueError, match=r"^checkpoint .*last\.pt: (is|its) ") as told:
            load_checkpoint(path, "search")
        assert "\n" not in str(told.value), name
        assert "the one before it" not in str(told.value), name
        save_checkpoint(previous_path(path), {"step": 1}, "search")
        with pytest.raises(ValueError, match=r"; the one before it is good: .*last\.previous\.pt$"):
            load_checkpoint(path, "search")


def test_every_flipped_byte_is_found(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1}, "search")
    good = path.read_bytes()
    for offset in range(len(good)):
        data = bytearray(good)
        data[offset] ^= 0x10
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"^checkpoint "):
            load_checkpoint(path, "search")


def test_another_kind_another_version_and_a_missing_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    with pytest.raises(ValueError, match=r"last\.pt: there is no such file$"):
        load_checkpoint(path, "search")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        load_checkpoint(tmp_path, "search")
    save_checkpoint(path, STATE, "search")
    with pytest.raises(ValueError, match=r"is of kind 'search', needed is 'train'$"):
        load_checkpoint(path, "train")
    monkeypatch.setattr(checkpoint, "_VERSION", 2)
    with pytest.raises(ValueError, match=r"has version 1, this nas-zoo reads 2$"):
        load_checkpoint(path, "search")


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    sprung, path = tmp_path / "sprung", tmp_path / "last.pt"
    for form in ("pickle", "torch"):
        if form == "pickle":
            path.write_bytes(pickle.dumps(Trap(sprung)))
        else:
            torch.save(Trap(sprung), path)
        with pytest.raises(ValueError, match="checkpoint"):
            load_checkpoint(path, "search")
    # a file with the right checksum too, as somebody who means harm would write it
    monkeypatch.setattr(checkpoint, "_check_loadable", lambda *_: None)
    save_checkpoint(path, {"trap": Trap(sprung)}, "search")
    with pytest.raises(ValueError, match="holds something else than tensors and plain values, not loaded"):
        load_checkpoint(path, "search")
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"lr": np.float64(1)}, r"state\['lr'\] is a numpy\.float64, which"),
        ({"a": [0, {"b": np.zeros(2)}]}, r"state\['a'\]\[1\]\['b'\] is a numpy\.ndarray"),
        ({"out": Path("x")}, r"state\['out'\] is a pathlib\."),
        ({"net": nn.Linear(1, 1)}, r"state\['net'\] is a torch\.nn\.modules\.linear\.Linear"),
        ({"loss": {np.int64(1): 2}}, r"state\['loss'\] has the key .* of type numpy\.int64"),
    ],
)
def test_what_could_not_be_loaded_again_is_refused_when_saving(tmp_path, state, told):
    with pytest.raises(ValueError, match=told):
        save_checkpoint(tmp_path / "last.pt", state, "search")
    assert os.listdir(tmp_path) == []


SAVE_LOOP = """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    from nas_zoo.runs.checkpoint import load_checkpoint, previous_path, save_checkpoint

    path, rng, last = Path(sys.argv[1]), random.Random(0), 0
    torch.set_num_threads(1)
    save_checkpoint(path, {"step": 0, "weights": torch.zeros(300_000)}, "search")
    for kill in range(10):
        child = os.fork()
        if child == 0:
            step = last
            while True:
                step += 1
                save_checkpoint(path, {"step": step, "weights": torch.full((300_000,), float(step))}, "search")
        time.sleep(rng.uniform(0.01, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        state = load_checkpoint(path, "search")
        assert torch.equal(state["weights"], torch.full((300_000,), float(state["step"]))), "torn"
        assert state["step"] >= last, "went back"
        if state["step"] > 1:
            before = load_checkpoint(previous_path(path), "search")["step"]
            assert state["step"] - 1 <= before <= state["step"], (before, state["step"])
        last = state["step"]
    print(last, *sorted(os.listdir(path.parent)))
"""


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_a_good_file(tmp_path):
    done = run_program(SAVE_LOOP, tmp_path / "last.pt")
    assert done.returncode == 0, done.stderr
    last, *files = done.stdout.split()
    assert int(last) >= 5
    # nothing piles up
    assert set(files) <= {"last.pt", "last.previous.pt", ".last.pt.partial", ".last.pt.link"}


KILL_AT_EACH_CALL = """
    import os, signal, sys
    from pathlib import Path
    from nas_zoo.runs.checkpoint import load_checkpoint, previous_path, save_checkpoint

    path = Path(sys.argv[1])
    left = 0

    def deadly(call):
        def wrapper(*args, **kwargs):
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return wrapper

    save_checkpoint(path, {"step": 0}, "search")
    save_checkpoint(path, {"step": 1}, "search")
    expected, moments = 1, 0
    while True:
        moments += 1
        child = os.fork()
        if child == 0:
            left = moments
            for name in ("open", "write", "fsync", "link", "replace", "unlink", "close"):
                setattr(os, name, deadly(getattr(os, name)))
            save_checkpoint(path, {"step": expected + 1}, "search")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        step = load_checkpoint(path, "search")["step"]
        assert step in (expected, expected + 1), (step, expected)
        assert load_checkpoint(previous_path(path), "search")["step"] in (step - 1, step)
        expected = step
        if os.WIFEXITED(status):
            break
    assert step == expected
    print(moments, *sorted(os.listdir(path.parent)))
"""


@pytest.mark.slow
def test_a_kill_before_each_call_to_the_system_leaves_a_good_file(tmp_path):
    done = run_program(KILL_AT_EACH_CALL, tmp_path / "last.pt")
    assert done.returncode == 0, done.stderr
    moments, *files = done.stdout.split()
    assert int(moments) > 8
    assert files == ["last.previous.pt", "last.pt"]  # and what the killed ones left is gone


FULL_DISK = """
    import os, resource, sys
    from pathlib import Path
    import torch
    from nas_zoo.runs.checkpoint import load_checkpoint, save_checkpoint

    path = Path(sys.argv[1])
    save_checkpoint(path, {"step": 1}, "search")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        save_checkpoint(path, {"step": 2, "weights": torch.zeros(100_000)}, "search")
    except OSError as error:
        print(error)
    assert load_checkpoint(path, "search") == {"step": 1}
    print(*sorted(os.listdir(path.parent)))
    save_checkpoint(path, {"step": 3}, "search")
    assert load_checkpoint(path, "search") == {"step": 3}
"""


@pytest.mark.slow
def test_a_full_disk_is_told_in_one_line_and_the_old_file_stays(tmp_path):
    done = run_program(FULL_DISK, tmp_path / "last.pt")
    assert done.returncode == 0, done.stderr
    told, files = done.stdout.splitlines()
    assert told == (
        f"[Errno {errno.EFBIG}] checkpoint {tmp_path / 'last.pt'} (0.4 MB) not written: File too large; "
        "the checkpoint that was there stays"
    )
    assert files == "last.pt"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_no_space_left_on_the_device(tmp_path):
    (tmp_path / ".last.pt.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"not written: No space left on device$") as told:
        save_checkpoint(tmp_path / "last.pt", {"step": 1}, "search")
    assert told.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"checkpoint .*last\.pt .*not written: "):
        save_checkpoint(tmp_path / "file" / "last.pt", {"step": 1}, "search")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_noticed(bad):
    tensors = [torch.ones(3), torch.ones(2, 2, dtype=torch.bfloat16), torch.zeros(0), torch.tensor(7)]
    check_finite(tensors, "in epoch 3")
    tensors[0][1] = bad
    with pytest.raises(FloatingPointError, match="not finite in epoch 3; the last checkpoint is kept"):
        check_finite(tensors, "in epoch 3")


def test_weights_on_several_devices_are_looked_at_apart(monkeypatch):
    """A search on an accelerator has its optimizer's counts on the CPU, and norms of two devices cannot be stacked."""
    norms = torch._foreach_norm

    def on_one_device(tensors):
        (device,) = {tensor.device for tensor in tensors}
        return norms(tensors) if device.type == "cpu" else [torch.zeros(()) for _ in tensors]

    monkeypatch.setattr(torch, "_foreach_norm", on_one_device)
    state = {"weights": torch.ones(2, device="meta"), "step": torch.zeros(()), "alpha": [torch.ones(3, device="meta")]}
    check_finite(state, "in epoch 3")
    with pytest.raises(FloatingPointError):
        check_finite(state | {"step": torch.tensor(float("nan"))}, "in epoch 3")


def test_a_run_goes_on_whose_epoch_could_not_be_ended():
    """Its last iteration was done and saved, and a look at held-out images failed."""
    place = {"epoch": 1, "step": 5, "seconds": 1.0, "log_lines": 2, "sums": torch.zeros(3, dtype=torch.float64)}
    check_place(place, epochs=4, steps=5, num_sums=3)
    with pytest.raises(ValueError, match="step must be a whole number from 0 to 5, got 6"):
        check_place(place | {"step": 6}, epochs=4, steps=5, num_sums=3)
