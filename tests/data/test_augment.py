"""What is done to photographs: colour jitter, RandAugment, mixup and cutmix, as timm has them and from their place."""

import itertools
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data.auto_augment import rand_augment_transform
from timm.data.mixup import Mixup
from torchvision.transforms import ColorJitter

from nas_zoo.data.augment import _JITTER, Augment, PictureChange, drawn_from, hard_labels, mixed, random_draws
from nas_zoo.data.batches import Batches, usual_workers
from nas_zoo.runs.checkpoint import load_checkpoint
from nas_zoo.train import run as train_run
from tests.data.test_batches import assert_same, random_source, training
from tests.data.test_programs import TRAIN, photographs

EVERYTHING = Augment(crop_padding=2, cutout=4, color_jitter=0.4, hue_jitter=0.2, rand_augment="rand-m9-mstd0.5",
                     mixup=0.2, cutmix=1.0)  # fmt: skip
MEAN = (0.5, 0.4, 0.3)


def pixels(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (20, 30, channels), dtype=np.uint8)


def generators() -> tuple[Any, ...]:
    return random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


def test_colour_jitter_is_torchvisions_with_numbers_of_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = PictureChange(Augment(color_jitter=0.4, hue_jitter=0.2), 20, MEAN)
    seen = set()
    for index in range(20):
        draws = random_draws(5, 2, np.array([index]), 8, _JITTER)[0]
        factors = [1 + 0.4 * (2 * u - 1) for u in draws[4:7]]
        order = torch.from_numpy(np.argsort(draws[:4]))
        drawn = (order, *factors, 0.2 * (2 * draws[7] - 1))
        monkeypatch.setattr(ColorJitter, "get_params", staticmethod(lambda *_, drawn=drawn: drawn))
        expected = np.array(ColorJitter(0.4, 0.4, 0.4, 0.2)(Image.fromarray(pixels())))
        found = ours(pixels(), 5, 2, index)
        assert (found == expected).all()
        assert (found != pixels()).any()
        seen.add(tuple(order.tolist()))
    assert len(seen) > 10  # of 24 orders


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_is_timms_and_a_function_of_its_place(channels: int) -> None:
    ours = PictureChange(Augment(rand_augment="rand-m9-mstd0.5-inc1"), 20, MEAN[:channels])
    fill = (128, 102, 76) if channels == 3 else 128
    timms = rand_augment_transform("rand-m9-mstd0.5-inc1", {"translate_const": 9, "img_mean": fill})
    before = generators()
    first = [ours(pixels(channels), 5, 2, index) for index in range(40)]
    assert generators() == before
    for index in reversed(range(40)):
        assert (ours(pixels(channels), 5, 2, index) == first[index]).all()
        with drawn_from(5, 2, index, 4):
            expected = timms(Image.fromarray(pixels(channels).squeeze()))
        assert (np.array(expected).reshape(first[index].shape) == first[index]).all()
    changed = [(one != pixels(channels)).any() for one in first]
    assert 0.5 < np.mean(changed) < 1  # two of its operations, each with probability a half
    assert any((ours(pixels(channels), 5, 3, i) != first[i]).any() for i in range(40))
    assert any((ours(pixels(channels), 6, 2, i) != first[i]).any() for i in range(40))


def test_colour_jitter_of_grey_images_changes_brightness_and_contrast() -> None:
    found = PictureChange(Augment(color_jitter=0.4, hue_jitter=0.2), 20, MEAN[:1])(pixels(1), 0, 0, 0)
    assert found.shape == pixels(1).shape
    assert (found != pixels(1)).any()


def test_mixup_and_cutmix_are_timms_and_a_function_of_their_place() -> None:
    x, y = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    before = generators()
    kinds = set()
    for step in range(30):
        images, shares = mixed(Augment(mixup=0.8, cutmix=1.0), x.clone(), y, 4, seed=1, epoch=2, step=step)
        with drawn_from(1, 2, step, 5):
            expected = Mixup(0.8, 1.0, label_smoothing=0.0, num_classes=4)(x.clone(), y)
        assert torch.equal(images, expected[0])
        assert torch.equal(shares, expected[1])
        share = shares[0, 0].item()  # of class 0, mixed with class 1
        torch.testing.assert_close(shares.sum(1), torch.ones(6))
        cut = bool(((images == x) | (images == x.flip(0))).all())
        kinds.add(cut)
        if cut:
            torch.testing.assert_close((images[0, 0] == x[0, 0]).float().mean().item(), share)
        else:
            torch.testing.assert_close(images, share * x + (1 - share) * x.flip(0))
        assert hard_labels(shares)[0] == (0 if share > 0.5 else 1)
    assert kinds == {True, False}
    assert generators() == before
    assert torch.equal(hard_labels(y), y)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_an_epoch_with_everything_on_can_be_taken_up_anywhere(workers: int) -> None:
    source, before = random_source(), generators()
    batches = training(source, augment=EVERYTHING, workers=workers)
    assert batches.form == "stream"
    expected = list(training(source, augment=EVERYTHING).epoch(3))
    assert_same(batches.epoch(3), expected)
    assert_same(batches.epoch(3, start=2), expected[2:])
    images, shares = expected[0]
    assert images.dtype == shares.dtype == torch.float32
    assert shares.shape == (8, 5)
    assert not torch.equal(images, next(iter(batches.epoch(4)))[0])
    assert generators()[:2] == before[:2]


def test_mixing_alone_needs_no_streaming() -> None:
    batches = training(random_source(), augment=Augment(mixup=0.2))
    assert batches.form == "device"
    assert_same(itertools.islice(batches.epoch(0), 1, None), batches.epoch(0, start=1))


def test_batches_that_cannot_be_mixed_in_pairs_are_told() -> None:
    for batch_size, world, multiple in ((7, 1, 2), (6, 2, 4)):
        with pytest.raises(ValueError, match=f"batch_size must be a multiple of {multiple}.*got {batch_size}"):
            training(random_source(), batch_size=batch_size, world=world, augment=Augment(cutmix=1.0))


# ---- loading processes ----


def processes(batches: Batches) -> list[int]:
    loader: Any = batches._loader
    return [] if loader is None else [worker.pid for worker in loader._iterator._workers]


def test_loading_processes_are_kept_from_epoch_to_epoch() -> None:
    source = random_source()
    batches = training(source, augment=EVERYTHING, workers=1)
    expected = training(source, augment=EVERYTHING)
    assert_same(batches.epoch(0), expected.epoch(0))
    first = processes(batches)
    assert len(first) == 1
    abandoned = batches.epoch(1)
    next(abandoned)
    del abandoned
    assert_same(batches.epoch(2), expected.epoch(2))
    assert processes(batches) == first
    side_by_side = zip(batches.epoch(3), batches.epoch(4), strict=True)
    both = list(zip(*side_by_side, strict=True))
    assert_same(both[0], expected.epoch(3))
    assert_same(both[1], expected.epoch(4))
    evaluation = Batches(source, None, 8, device_limit_gb=0, workers=1)
    assert_same(evaluation.epoch(0), Batches(source, None, 8).epoch(0))
    assert processes(evaluation) == []


def test_loading_processes_are_chosen_from_the_cores_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.setattr(Path, "read_text", lambda _: "max 100000\n")
    assert usual_workers() == 12
    assert Batches(random_source(), None, 8, workers=None).workers == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    assert usual_workers() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "100")
    assert usual_workers() == 1
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    monkeypatch.setattr(Path, "read_text", lambda _: "350000 100000\n")  # a container's 3.5 cores
    assert usual_workers() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(224)), raising=False)
    monkeypatch.setattr(Path, "read_text", lambda _: "max 100000\n")
    assert usual_workers() == 16


# ---- a run ----


@pytest.mark.slow
def test_a_run_with_everything_on_that_is_stopped_and_resumed_is_the_run_that_never_stopped(tmp_path: Path) -> None:
    place = photographs(tmp_path / "d", side=24, train=16, val=2)
    flags = [*TRAIN, "--data", str(place), "--epochs", "2", "--color-jitter", "0.4", "--hue-jitter", "0.2",
             "--rand-augment", "rand-m9-mstd0.5", "--mixup", "0.2", "--cutmix", "1"]  # fmt: skip
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert train_run.main([*flags, "--out", str(whole)]) == 0
    assert train_run.main([*flags, "--out", str(pieces), "--time-budget", "0.0001"]) == 0
    places = []
    while not (pieces / "result.json").exists():
        state = load_checkpoint(pieces / "checkpoint.pt", "train")
        places.append((state["epoch"], state["step"]))
        budget = ["--time-budget", "0.0001"] if len(places) < 6 else []
        assert train_run.main(["--resume", "--out", str(pieces), *budget]) == 0
    assert len({step for _, step in places}) > 1  # in the middle of an epoch too
    first, second = (load_file(out / "model.safetensors") for out in (whole, pieces))
    assert all(torch.equal(first[name], second[name]) for name in first)
    figures = [[line["train"] for line in map(json.loads, (out / "log.jsonl").read_text().splitlines())
                if line["kind"] == "epoch"] for out in (whole, pieces)]  # fmt: skip
    assert figures[0] == figures[1]
