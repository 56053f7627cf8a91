"""Batches of images as a pure function of (seed, epoch, sample): stopped, resumed or split, the same pixels."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from nas_zoo.data.augment import (
    RESIZED_CROP,
    Augment,
    PictureChange,
    cut_out,
    epoch_order,
    mixed,
    pad_crop_flip,
    random_draws,
    resized_crop_box,
)
from nas_zoo.data.sources import DEVICE_LIMIT_GB, ImageSource, UnreadableImage, checked_indices
from nas_zoo.runs.distributed import is_first, merged_over_processes, world_size
from nas_zoo.runs.progress import progressing

__all__ = ["Batches", "in_groups", "in_parts", "usual_workers", "whole_steps"]

T = TypeVar("T")
_AGREE_EVERY = 16  # batches between two counts of the unreadable images over all processes


_MOST_WORKERS = 16  # on machines of many cores: each has its own part of the memory


def usual_workers() -> int:
    """So many processes decode by default: one a core that this process may use, its share where several train here."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    with contextlib.suppress(OSError, ValueError):  # a container's limit: microseconds of so many, or "max"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, int(quota) / int(period))
    return int(max(1, min(_MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))))


Sample = tuple[int, int]  # epoch and index, so that a worker needs to be told nothing from epoch to epoch


class _Decoding(Dataset[Tensor | str]):
    """What the loading workers run: (epoch, index) -> uint8 (H, W, C), cropped and changed as both and the seed say."""

    def __init__(
        self, source: ImageSource, image_size: int, augment: Augment | None, seed: int, mean: tuple[float, ...]
    ) -> None:
        self.source, self.image_size, self.augment, self.seed = source, image_size, augment, seed
        self.change = None if augment is None else PictureChange(augment, image_size, mean)

    def __getitem__(self, sample: Sample) -> Tensor | str:
        """The pixels, or what is wrong with them: an error of a worker would end the epoch, with 25 lines."""
        (epoch, index), augment, part = sample, self.augment, None
        if augment is not None and augment.random_resized_crop:
            draws = random_draws(self.seed, epoch, np.array([index]), 40, RESIZED_CROP)[0]
            part = partial(resized_crop_box, draws, augment.crop_area)
        try:
            pixels = self.source.image(index, self.image_size, part)
        except UnreadableImage as error:
            return str(error)
        return torch.from_numpy(pixels if self.change is None else self.change(pixels, self.seed, epoch, index))


class _Order:
    """The samples of each batch that a loader is to give next; one loader gives one epoch after the other."""

    def __init__(self) -> None:
        self.batches: list[list[Sample]] = []

    def __iter__(self) -> Iterator[list[Sample]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _collated(samples: list[Tensor | str]) -> tuple[Tensor | None, dict[int, str]]:
    """The pixels of those that could be read (None: of none), and by row what is wrong with the others."""
    pixels = [sample for sample in samples if isinstance(sample, Tensor)]
    faults = {row: sample for row, sample in enumerate(samples) if isinstance(sample, str)}
    batch = torch.stack(pixels) if pixels else None
    if batch is not None and get_worker_info() is not None:
        batch.share_memory_()  # where there is no room for it, an error tells; on its way out the worker would hang
    return batch, faults


def _loaded(loader: Iterable[T]) -> Iterator[T]:
    """What the loader gives; ValueError where its processes have too little shared memory, as containers have."""
    try:
        yield from loader
    except RuntimeError as error:
        if "shared memory" not in str(error):  # torch: "unable to allocate shared memory(shm)", "out of shared memory"
            raise
        raise ValueError(
            "the processes that load the images have too little shared memory; give --workers 0, or the container more "
            "of it (docker run --shm-size 2g)"
        ) from None


class Batches:
    """Scaled batches (images float32 (n, C, H, W), labels int64 (n,)) on `device`, epoch by epoch.

    `batch_size` is that of all processes together; rank r of `world` takes rows r, r + world ... of each batch. A small
    set is held as one uint8 tensor on the device and augmented there; one above `device_limit_gb`, and any set with
    random resized crops, colour jitter or RandAugment, is decoded by `workers` processes (0: in this one) and augmented
    on the device by the same code. `form` says which: "device" or "stream". Both give the same pixels. With `shuffle`
    the processes are kept from epoch to epoch.

    augment None: no augmentation; one that mixes gives float32 shares (n, classes) instead of labels, and its pairs are
    those of this rank's rows, so that they differ with `world` (the share and its place do not). drop_last: leave out
    the last, smaller batch; without it (evaluation) every sample comes exactly once over all ranks, so a rank can have
    fewer rows in the last batch, or one batch less. Images that turn out to be unreadable are left out as far as the
    source's `skips` allow; with drop_last others take their rows. workers None: see ``usual_workers``.
    mean, std: those of the source if None. image_size: that of the source if None. num_samples: before drop_last.
    """

    def __init__(
        self,
        source: ImageSource,
        indices: np.ndarray | None,
        batch_size: int,
        *,
        image_size: int | None = None,
        device: torch.device | str = "cpu",
        augment: Augment | None = None,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        workers: int | None = 0,
        memory_format: torch.memory_format = torch.contiguous_format,
        device_limit_gb: float = DEVICE_LIMIT_GB,
    ) -> None:
        self.source = source
        self.indices = checked_indices(np.arange(len(source)) if indices is None else indices, len(source), source.name)
        self.batch_size, self.rank, self.world = batch_size, rank, world
        self.image_size = image_size or source.image_size
        self.device = torch.device(device)
        self.augment, self.shuffle, self.seed, self.drop_last = augment, shuffle, seed, drop_last
        self.workers, self.memory_format = usual_workers() if workers is None else workers, memory_format
        self._count()
        scale = {"dtype": torch.float32, "device": self.device}
        self.mean, self.std = tuple(mean or source.mean), tuple(std or source.std)
        if len(self.mean) != source.in_chans or len(self.std) != source.in_chans or min(self.std) <= 0:
            raise ValueError(
                f"mean {self.mean} and std {self.std} must have {source.in_chans} values each, std above 0, "
                f"for the {source.in_chans} channel(s) of {source.name}"
            )
        self._mean = torch.tensor(self.mean, **scale).view(1, -1, 1, 1)  # type: ignore[arg-type]
        self._std = torch.tensor(self.std, **scale).view(1, -1, 1, 1)  # type: ignore[arg-type]
        needed_gb = self.num_samples * self.image_size**2 * source.in_chans / 1e9
        changed = augment is not None and augment.changes_pictures
        self.form = "stream" if changed or needed_gb > device_limit_gb else "device"
        self._loader: DataLoader[Any] | None = None  # kept from epoch to epoch
        self._held: Tensor | None = None
        self._row = np.arange(len(source))  # of each sample in the held tensor
        if self.form == "device":
            size = (self.image_size, self.image_size)
            if self.device.type == "cpu" and source.images is not None and source.images.shape[1:3] == size:
                self._held = torch.from_numpy(source.images)  # shared with the source, no copy
            else:
                pixels, rows = source.subset(self.indices).readable(self.image_size)
                self.indices = self.indices[rows]
                self._held = torch.from_numpy(pixels).to(self.device)
                self._row[self.indices] = np.arange(len(rows))
                self._count()

    def _count(self) -> None:
        self.num_samples = len(self.indices)
        self._check()
        rest = 0 if self.drop_last else self.batch_size - 1
        self.steps_per_epoch = (self.num_samples + rest) // self.batch_size

    def _check(self) -> None:
        if self.world < 1:
            raise ValueError(f"world must be 1 process or more, got {self.world}")
        if self.batch_size < 1 or self.batch_size % self.world:
            raise ValueError(
                f"batch_size {self.batch_size} (of all processes together) must be a positive multiple of the "
                f"{self.world} process(es)"
            )
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank must be from 0 to {self.world - 1}, got {self.rank}")
        if self.workers < 0:
            raise ValueError(f"workers must be 0 or more, got {self.workers}")
        mixes = self.augment is not None and self.augment.mixes
        if mixes and (not self.drop_last or self.batch_size % (2 * self.world)):
            raise ValueError(
                f"with mixup or cutmix batch_size must be a multiple of {2 * self.world}, since the images of each of "
                f"the {self.world} process(es) are mixed in pairs, got {self.batch_size}"
            )
        if self.drop_last and self.num_samples < self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is larger than the {self.num_samples} images of {self.source.name}, "
                "so an epoch would have no batch; lower batch_size"
            )
        if self.shuffle and not self.drop_last and self.num_samples % self.batch_size % self.world:
            raise ValueError(
                f"the last batch of {self.num_samples % self.batch_size} images does not divide by {self.world} "
                "processes, so their gradients would not have equal weight; use drop_last"
            )

    def __len__(self) -> int:
        return self.steps_per_epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's batches of one epoch, from batch number `start` on."""
        if not 0 <= start <= self.steps_per_epoch:
            raise ValueError(f"start must be from 0 to the {self.steps_per_epoch} batches of an epoch, got {start}")
        order = epoch_order(self.seed, epoch, self.indices) if self.shuffle else self.indices
        batches = [
            order[step * self.batch_size : (step + 1) * self.batch_size][self.rank :: self.world]
            for step in range(start, self.steps_per_epoch)
        ]
        numbered = [(step, samples) for step, samples in enumerate(batches, start) if len(samples)]
        return self._from_device(epoch, numbered) if self.form == "device" else self._from_stream(epoch, numbered)

    def once(self, words: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch 0, under a bar that says in those words what is done with them."""
        return progressing(self.epoch(0), words, self.steps_per_epoch)

    def _from_device(self, epoch: int, batches: list[tuple[int, np.ndarray]]) -> Iterator[tuple[Tensor, Tensor]]:
        assert self._held is not None
        for step, samples in batches:
            plan = self._plan(epoch, samples)
            yield self._finish(self._held.index_select(0, plan[:, 0]), plan, epoch, step)

    def _from_stream(self, epoch: int, batches: list[tuple[int, np.ndarray]]) -> Iterator[tuple[Tensor, Tensor]]:
        order = [[(epoch, index) for index in samples.tolist()] for _, samples in batches]
        for number, ((step, samples), (images, faults)) in enumerate(
            zip(batches, self._decoded(order), strict=True), 1
        ):
            for fault in faults.values():
                self._skip(fault)
            # In training all processes have as many batches, and come by here with the same one.
            if self.drop_last and (number % _AGREE_EVERY == 0 or number == len(batches)):
                self._agree()
            if faults:
                samples = np.delete(samples, list(faults))
                if images is None and self.drop_last:
                    samples, images = self._one_readable(order)
                if images is None:
                    continue
                if self.drop_last:  # a training batch keeps its size: it has some of its other images twice
                    rows = np.resize(np.arange(len(samples)), self.batch_size // self.world)
                    samples, images = samples[rows], images[rows]
            images = images.to(self.device, non_blocking=True)
            yield self._finish(images, self._plan(epoch, samples), epoch, step)
        if not self.drop_last:
            self._agree()

    def _skip(self, fault: str) -> None:
        """Counts an unreadable image: at once, or where the processes agree, since the others wait for this one."""
        skips = self.source.skips
        if min(self.world, world_size()) == 1:
            skips.add(fault, begun=True)
        elif fault not in skips.found:
            skips.noted.add(fault)

    def _agree(self) -> None:
        if min(self.world, world_size()) > 1:
            skips = self.source.skips
            skips.agree(merged_over_processes(skips.noted, self.device), tell=is_first())

    def _one_readable(self, order: list[list[Sample]]) -> tuple[np.ndarray, Tensor]:
        """For a batch that has none: the first of this process's images that can be read."""
        decoding = self._decoding()
        fault: Tensor | str = ""
        for sample in chain.from_iterable(order):
            fault = decoding[sample]
            if isinstance(fault, Tensor):
                return np.array([sample[1]]), fault[None]
        raise UnreadableImage(f"no image can be read: {fault}")

    def _decoded(self, order: list[list[Sample]]) -> Iterator[tuple[Any, dict[int, str]]]:
        """`_collated` of each batch, from the loader that is kept unless another epoch has it."""
        loader, self._loader = self._loader or self._new_loader(), None
        loader.batch_sampler.batches = order  # type: ignore[union-attr]  # an _Order
        try:
            yield from _loaded(loader)
        except GeneratorExit:  # the rest of the epoch is not wanted; after an error the processes may have ended
            self._loader = loader if self.shuffle else None
            raise
        self._loader = loader if self.shuffle else None

    def _new_loader(self) -> DataLoader[Any]:
        return DataLoader(
            self._decoding(),
            batch_sampler=_Order(),
            num_workers=self.workers,
            persistent_workers=self.shuffle and self.workers > 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own, or the loader would draw from the global one on every start
            collate_fn=_collated,
        )

    def _decoding(self) -> _Decoding:
        return _Decoding(self.source, self.image_size, self.augment, self.seed, self.mean)

    def _plan(self, epoch: int, samples: np.ndarray) -> Tensor:
        """(n, 7) int64 on the device: row, label, top, left, mirrored, cutout y, cutout x. One transfer a batch."""
        columns = np.zeros((len(samples), 7), dtype=np.int64)
        columns[:, 0], columns[:, 1] = self._row[samples], self.source.labels[samples]
        if self.augment is not None:
            draws = random_draws(self.seed, epoch, samples, 5)
            padding, size = self.augment.crop_padding, self.image_size
            columns[:, 2:] = draws * np.array([2 * padding + 1, 2 * padding + 1, 2, size, size])
            if not self.augment.flip:
                columns[:, 4] = 0
        plan = torch.from_numpy(columns)
        # from memory that stays where it is the copy takes its turn on the device, and the host goes on
        plan = plan.pin_memory() if self.device.type == "cuda" else plan
        return plan.to(self.device, non_blocking=True)

    def _finish(self, pixels: Tensor, plan: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """uint8 (n, H, W, C) -> the batch: augmented, scaled, in the memory format asked for, mixed."""
        augment = self.augment
        if augment is not None and (augment.flip or augment.crop_padding):
            padding = 0 if augment.random_resized_crop else augment.crop_padding
            top, left = (plan[:, 2], plan[:, 3]) if padding else (torch.zeros_like(plan[:, 2]),) * 2
            pixels = pad_crop_flip(pixels, padding, top, left, plan[:, 4])
        images = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=self.memory_format)
        images.div_(255).sub_(self._mean).div_(self._std)  # operation by operation what torchvision's transforms do
        if augment is not None and augment.cutout:
            cut_out(images, augment.cutout, plan[:, 5], plan[:, 6])
        labels = plan[:, 1].contiguous()
        if augment is None or not augment.mixes:
            return images, labels
        return mixed(augment, images, labels, self.source.num_classes, self.seed, epoch, step)


def in_groups(batches: Iterable[Any], count: int) -> Iterator[Any]:
    """The batches as they are for 1; else tuples of so many of them, a rest being left out."""
    batches = iter(batches)
    return batches if count == 1 else zip(*[batches] * count, strict=False)


def in_parts(group: Any, count: int) -> Sequence[Any]:
    """The batches of one that ``in_groups`` gave."""
    return (group,) if count == 1 else group


def whole_steps(settings: Any, *batches: Batches) -> int:
    """Steps of an epoch of ``settings.accumulation`` batches each; ValueError where there is none."""
    found, count = min(one.steps_per_epoch for one in batches), settings.accumulation
    if found < count:
        raise ValueError(f"accumulation must be at most {found}, the batches of an epoch, got {count}")
    return found // count
