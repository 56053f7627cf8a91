"""Trains one network: the paper's recipes for derived cells, or any other timm model.

    python -m nas_zoo.train --recipe quick --model cell_net_cifar --init-channels 8 --num-cells 5 --data digits
    accelerate launch -m nas_zoo.train --model edas_c10 --data cifar10 --out runs/edas_c10
    accelerate launch -m nas_zoo.train --recipe imagenet --model edas_in1k --data imagenet/ --workers 16
    python -m nas_zoo.train --recipe quick --init-weights runs/search/derived.safetensors --data digits
    nas-zoo train --model p_darts_in1k.darmo --pretrained --recipe finetune --data photos --image-size 224
    python -m nas_zoo.train --resume --out runs/edas_c10
    ACCELERATE_USE_CPU=true torchrun --standalone --nproc-per-node 2 -m nas_zoo.train --recipe quick --data digits

A recipe is a set of settings with a source (RECIPES); a YAML file (--config) wins over it, a flag over both. The run's
folder holds ``log.jsonl`` (settings and machine, then a line an epoch), ``checkpoint.pt`` (after each epoch, on SIGTERM
or Ctrl-C, when the time budget runs out, and every ten minutes) and at the end ``model.safetensors`` with
``config.json``, which ``timm.create_model('local-dir:FOLDER', pretrained=True)`` opens, and ``result.json``.

The test split gives the final figure and decides nothing. Which weights the result is of is fixed before training: the
moving average where ``ema_decay`` is above 0, else the last. To choose between settings use ``--val-fraction``.

Every random choice is a function of seed, epoch and iteration, so ``--resume`` continues the run as if it had never
stopped, and several processes order and augment as one process with the same global batch does. Only the masks of drop
path (and of a model's own dropout) and the pairs of mixup differ with their number, since each has its own rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3, freeze
from torch import Tensor, nn

from nas_zoo.data.augment import epoch_order, hard_labels, random_draws
from nas_zoo.data.batches import Batches, in_groups, in_parts, whole_steps
from nas_zoo.data.fingerprint import data_state, fingerprints, take_up_data
from nas_zoo.data.named import SPLITS, open_for_run
from nas_zoo.genotype import Genotype
from nas_zoo.models.depthwise import strided_pointwise
from nas_zoo.models.network import CellNet
from nas_zoo.models.operations import load_operation
from nas_zoo.models.results import file_sha256
from nas_zoo.runs.checkpoint import load_optimizer
from nas_zoo.runs.distributed import autocast_for, average_gradients, convert_global_batch_norm, start_accelerator
from nas_zoo.runs.ending import end_run, program, stopped
from nas_zoo.runs.facts import begun_with
from nas_zoo.runs.files import write_json
from nas_zoo.runs.launch import asked_settings
from nas_zoo.runs.lock import only_run_in
from nas_zoo.runs.log import run_to_resume
from nas_zoo.runs.loop import Callback, Loop, figures
from nas_zoo.runs.outside import check_marks, marks_of
from nas_zoo.runs.settings import Parser, add_flags, add_resume_flag, given_flags, resumed_settings, to_dict
from nas_zoo.runs.stop import Reason
from nas_zoo.runs.trackers import tracked
from nas_zoo.text import plain
from nas_zoo.train.auxiliary import Trained, make_auxiliary, take_tensor_drop_paths
from nas_zoo.train.evaluation import evaluate
from nas_zoo.train.model import (
    architecture_of,
    began_with,
    chosen_args,
    load_first,
    make_model,
    origin_of_cells,
    require_optimizer,
    save_model,
    scaled_as_trained,
)
from nas_zoo.train.recipes import TrainSettings, folder_of, settings_of

__all__ = ["Training", "main", "parse", "train"]

CHECKPOINT_KIND = "train"
_MASKS = 16  # the stream of random numbers that seeds rank 0's masks; those below are the batches' own


def _full(logits: Tensor) -> Tensor:
    """float32 where autocast gave less; float64 stays."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Training:
    """A training as ``runs.loop.Program`` wants it: network, optimizer, batches, and what is done with them."""

    counted = ("loss", "correct", "images")

    def __init__(
        self, settings: TrainSettings, accelerator: Accelerator, begun: Mapping[str, Any] | None = None
    ) -> None:
        """`begun`: the checkpoint to be resumed, so that it needs neither genotype nor first weights again."""
        require_optimizer(settings)
        self.settings, self.accelerator = settings, accelerator
        self.autocast = autocast_for(accelerator.device, settings.precision)
        device, world = accelerator.device, accelerator.num_processes

        parts = open_for_run(settings, SPLITS, image_size=settings.image_size, crop_pct=settings.crop_pct)
        self.source = scaled_as_trained(settings, parts["train"], begun)
        self.test_source, val_source = parts["test"], parts.get("val")
        if val_source is not None and settings.val_fraction:
            raise ValueError(
                f"val_fraction must be 0 for {settings.data!r}, whose part {val_source.part} watches the run, "
                f"got {settings.val_fraction}"
            )
        self.sources = [self.source, self.test_source, *([] if val_source is None else [val_source])]
        self.data = fingerprints(self.sources, settings.out, accelerator)
        if self.source.classes != self.test_source.classes:
            raise ValueError(f"data={settings.data!r}: training and test images have different classes")
        self.image_size = size = settings.image_size or self.source.image_size
        count = len(self.source)
        num_val = round(settings.val_fraction * count)
        if settings.val_fraction and not 0 < num_val < count:
            raise ValueError(f"val_fraction={settings.val_fraction}: leaves {num_val} of {count} images to validate on")
        # epoch -3: neither the order of an epoch of training nor one of the splits in nas_zoo.data
        order = epoch_order(settings.seed, -3, np.arange(count))
        self.num_classes, in_chans = len(self.source.classes), self.source.in_chans

        augment = settings.augment(self.source, size)

        self.model_args = chosen_args(settings, self.num_classes, in_chans, begun)
        self.began_with = began_with(settings, begun)
        torch.manual_seed(settings.seed)
        own = begun is None and settings.pretrained
        self.model: Any = make_model(settings, self.num_classes, in_chans, self.model_args, pretrained=own, size=size)
        cells = getattr(self.model, "genotype", None)
        self.code = marks_of(dict.fromkeys(cells.operations, "operation")) if isinstance(cells, Genotype) else {}
        #: What became of the classifier of first weights, in words.
        self.classifier = load_first(self.model, settings, self.source.classes) if begun is None else None
        channels_last = settings.channels_last and not (device.type == "cpu" and strided_pointwise(self.model))
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        batches = partial(
            Batches, image_size=size, mean=self.source.mean, std=self.source.std, device=device, seed=settings.seed,
            workers=settings.workers, rank=accelerator.process_index, world=world, memory_format=memory_format,
        )  # fmt: skip
        at_once = -(-max(settings.batch_size, 256) // world) * world  # images in evaluation, which has no bearing
        self.train_batches = batches(
            self.source, np.sort(order[num_val:]), settings.batch_size, augment=augment, shuffle=True, drop_last=True
        )
        self.val_batches = None if val_source is None else batches(val_source, None, at_once)
        if num_val:
            self.val_batches = batches(self.source, np.sort(order[:num_val]), at_once)
        self.test_batches = batches(self.test_source, None, at_once)
        self.steps = whole_steps(settings, self.train_batches)

        if settings.frozen_stem:
            if not isinstance(self.model, CellNet):
                raise ValueError(f"frozen_stem goes with our cell networks, {settings.model} is none")
            freeze(self.model, "stem", include_bn_running_stats=False)
        auxiliary = make_auxiliary(self.model, settings, in_chans, size, self.num_classes)
        if settings.compile and settings.drop_path and isinstance(self.model, CellNet):
            take_tensor_drop_paths(self.model)
        trained = Trained(self.model, auxiliary, settings.decay_all).to(memory_format=memory_format).to(device).train()
        self.trained = convert_global_batch_norm(trained) if settings.sync_bn else trained
        self.model = self.trained.model
        self.num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.parameters = [parameter for parameter in self.trained.parameters() if parameter.requires_grad]
        self.network: Any = torch.compile(self.trained) if settings.compile else self.trained
        optimizer = create_optimizer_v2(
            self.model if settings.layer_decay < 1.0 else self.trained,  # layers are counted by names of the model
            opt=settings.optimizer,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            filter_bias_and_bn=not settings.decay_all,
            layer_decay=settings.layer_decay if settings.layer_decay < 1.0 else None,
        )
        self.optimizer: Any = accelerator.prepare(optimizer)
        # Its decay begins at 0 and rises as 1 - (1 + step)^(-2/3). It reaches over a twentieth of the run at most: a
        # short one would else end with an average of its beginnings.
        longest = 1.0 - 1.0 / max(2.0, 0.05 * settings.epochs * self.steps)
        decay = min(settings.ema_decay, longest)
        self.ema = ModelEmaV3(self.model, decay, use_warmup=True) if settings.ema_decay else None

    def batches(self, epoch: int, start: int) -> Iterable[Any]:
        """This process's rows of the training batches from iteration `start` on, as many at once as are accumulated."""
        if isinstance(self.model, CellNet):  # other models of timm have their own drop path, which does not change
            self.model.set_drop_path(self.settings.drop_path_rate(epoch))
        count = self.settings.accumulation
        return in_groups(self.train_batches.epoch(epoch, start * count), count)

    def step(self, epoch: int, step: int, batch: Any, votes: Tensor | None = None) -> Tensor:
        """One iteration: forward with the auxiliary head, backward, clipped step, moving average."""
        settings, accelerator = self.settings, self.accelerator
        accelerator.gradient_accumulation_steps = settings.accumulation  # accelerate keeps one number for all programs
        rate = settings.rate(epoch, step, self.steps)
        for group in self.optimizer.param_groups:
            # layer-wise scales are timm's own; without them it is 1
            group["lr"] = rate * group.get("lr_scale", 1.0)
        # The masks of an iteration are its own, so that a resumed run needs no generator's state.
        stream = _MASKS + accelerator.process_index
        torch.manual_seed(int(random_draws(settings.seed, epoch, np.array([step]), 1, stream)[0, 0] * 2**53))

        sums: Any = 0.0
        for images, labels in in_parts(batch, settings.accumulation):
            with accelerator.accumulate():
                with self.autocast():
                    logits, auxiliary_logits = self.network(images)
                logits = _full(logits)
                loss = total = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
                if auxiliary_logits is not None:
                    further = _full(auxiliary_logits)
                    auxiliary = F.cross_entropy(further, labels, label_smoothing=settings.label_smoothing)
                    total = loss + settings.aux_weight * auxiliary
                accelerator.backward(total)
                if accelerator.sync_gradients:
                    # What ``prepare`` would wrap the network in adds an operation a parameter; this is one all-reduce.
                    average_gradients(self.parameters, votes)
                    if settings.grad_clip:
                        nn.utils.clip_grad_norm_(self.parameters, settings.grad_clip)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
            n, correct = len(labels), (logits.detach().argmax(1) == hard_labels(labels)).sum()
            sums = sums + figures(loss.detach() * n, correct, n)
        if self.ema is not None:
            self.ema.update(self.model, step=epoch * self.steps + step + 1)
        return sums

    def end_epoch(self, epoch: int, sums: Mapping[str, float]) -> dict[str, Any]:
        """Loss and accuracy of the epoch, and where it is asked for those of the held-out part and the test split."""
        settings, images = self.settings, sums["images"]
        line: dict[str, Any] = {
            "epoch": epoch + 1,
            "lr": settings.rate(epoch, self.steps - 1, self.steps),
            "drop_path": settings.drop_path_rate(epoch) if isinstance(self.model, CellNet) else None,
            "train": {"n": int(images), "loss": sums["loss"] / images, "top1": sums["correct"] / images},
        }
        if self.source.skips.found:
            line["unreadable"] = len(self.source.skips.found)
        if settings.eval_every and (epoch + 1) % settings.eval_every == 0:
            if self.val_batches is not None:
                line["val"] = self.evaluated(self.val_batches, self.autocast)
            if settings.test_curve:
                line["test"] = self.evaluated(self.test_batches, self.autocast)
        return line

    def report(self, line: Mapping[str, Any]) -> str:
        """The figures of an epoch's line in one line of text."""
        text = (
            f"epoch {line['epoch']:3d}/{self.settings.epochs}  lr {line['lr']:.4f}  loss {line['train']['loss']:.3f}  "
            f"train {_percent(line['train']['top1'])}"
        )
        for split in ("val", "test"):
            if split in line:
                figures_of = [f"{_percent(found['top1'])} ({name})" for name, found in line[split].items()]
                text += f"  {split} {', '.join(figures_of)}"
        return f"{text}  {line['seconds']:.0f} s  {line['peak_memory_gb']:.2f} GB"

    @property
    def own_statistics(self) -> tuple[nn.Module, ...]:
        """Network and moving average, unless the statistics are those of all processes."""
        if self.settings.sync_bn:
            return ()
        return (self.trained,) if self.ema is None else (self.trained, self.ema.module)

    def state(self) -> dict[str, Any]:
        """Without sync_bn the running statistics are those of the first process; see ``own_statistics``."""
        return {
            "model_args": self.model_args,
            "scaling": {"mean": list(self.source.mean), "std": list(self.source.std)},
            "began_with": self.began_with,
            "code": self.code,
            **data_state(self.source, self.data),
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes up what ``state`` gave; ValueError where the data are others."""
        take_up_data(state, self.sources, self.data)
        check_marks(state.get("code", {}), self.code)
        self.trained.load_state_dict(state["trained"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])

    @property
    def weights(self) -> dict[str, nn.Module]:
        """Those that are evaluated, the result's first: the moving average where there is one, and the last."""
        return ({} if self.ema is None else {"ema": self.ema.module}) | {"last": self.model}

    def evaluated(self, batches: Batches, autocast: Any = None) -> dict[str, dict[str, Any]]:
        """``evaluate`` of each of the weights."""
        return {name: evaluate(net, batches.once("evaluating"), autocast) for name, net in self.weights.items()}

    def result(self) -> dict[str, Any]:
        """The final figures on the test split: those of the weights that were named beforehand, and of the others."""
        found = self.evaluated(self.test_batches)  # in float32 whatever they were trained in: so they are saved
        genotype = getattr(self.model, "genotype", None)
        first, *others = found
        return {
            "model": architecture_of(self.model, self.settings),
            "genotype": genotype.digest if isinstance(genotype, Genotype) else None,
            "parameters": self.num_parameters,
            "data": self.source.name,
            "test_data": self.test_source.name,
            "split": "test",
            "weights": first,
            **found[first],
            "others": {name: found[name] for name in others},
            "recipe": self.settings.recipe,
            **({} if self.began_with is None else {"began_with": self.began_with}),
            "epochs": self.settings.epochs,
            "seed": self.settings.seed,
        }


def _percent(value: float) -> str:
    return f"{100 * value:5.2f}%"


def train(
    settings: TrainSettings,
    resume: Mapping[str, Any] | None = None,
    started: float | None = None,
    callbacks: Iterable[Callback] = (),
) -> Reason | None:
    """Trains to the end, or to the time budget; returns why it stopped early (None: it did not).

    Args:
        settings: Complete ones; recipes are applied by ``parse``.
        resume: Contents of a checkpoint to continue from.
        started: time.monotonic() at which the time budget began.
        callbacks: Called with the line of an epoch at its end.
    """
    accelerator = start_accelerator()
    run = Training(settings, accelerator, resume)
    source, test = run.source, run.test_source
    num_val = 0 if run.val_batches is None else run.val_batches.num_samples
    data = {"name": source.name, "train": run.train_batches.num_samples, "test": len(test), "val": num_val,
            "classes": list(source.classes)}  # fmt: skip
    facts = {"result_weights": next(iter(run.weights)), "cells": origin_of_cells(settings), "code": run.code}
    with only_run_in(settings.out, accelerator), tracked(settings, accelerator, resume) as track:
        loop = Loop(run, settings, accelerator, CHECKPOINT_KIND, resume, (*track, *callbacks), data=data,
                    parameters=run.num_parameters, classifier=run.classifier, **facts)  # fmt: skip
        if resume is None and accelerator.is_main_process:
            watch = "none" if run.val_batches is None else f"{num_val} {run.val_batches.source.part}".strip()
            use = f"images: {data['train']} {source.part} to train on, {watch} to watch the run, "
            use += f"{len(test)} {test.part} for the final figure; {run.num_parameters:,} parameters"
            print("; ".join(filter(None, (use.replace("  ", " "), run.classifier))), flush=True)
        if (reason := loop.run(started)) is not None:
            return reason
        result = run.result()
        loop.log.append({"kind": "result", **result})
        if accelerator.is_main_process:
            prepared = dataclasses.replace(test, mean=source.mean, std=source.std)
            model = next(iter(run.weights.values()))
            save_model(model, settings.out, prepared, image_size=run.image_size, crop_pct=settings.crop_pct)
            # what it was made with when it began; a resumed run's later commits are in events.jsonl
            more = begun_with(settings.out) | {"seconds": round(loop.seconds, 3), "settings": to_dict(settings)}
            # the figures are of this file and of no other
            more |= {"weights_sha256": file_sha256(settings.out / "model.safetensors")}
            write_json(settings.out / "result.json", result | more)
            others = ", ".join(f"{name} weights {_percent(found['top1'])}" for name, found in result["others"].items())
            print(
                f"test ({result['n']} images of {plain(test.name)}, {result['weights']} weights): top-1 "
                f"{_percent(result['top1'])}, loss {result['loss']:.3f}{f' ({others})' if others else ''}; "
                f"trained in {loop.seconds:.0f} s: {plain(settings.out)}"
            )
    end_run(accelerator)
    return None


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="nas-zoo train", description=__doc__)
    parser.add_argument("--config", type=Path, help="YAML file of settings")
    add_resume_flag(parser)
    parser.add_argument("--operations", default="", metavar="FILE.py:NAME", help="operations from files that the cells "
                                                                                 "have, with commas")  # fmt: skip
    add_flags(parser, TrainSettings)
    return parser


def parse(argv: list[str]) -> tuple[TrainSettings, dict[str, Any] | None]:
    """Settings and, with --resume, the checkpoint's contents. Every mistake in a value is a ValueError.

    A run that was killed before its first checkpoint is resumed at its beginning, with the settings in its log.
    """
    namespace = make_parser().parse_args(argv)
    for name in filter(None, namespace.operations.split(",")):
        load_operation(name)
    flags, config = given_flags(namespace), namespace.config
    saved, state = run_to_resume(folder_of(flags, config), namespace.resume, CHECKPOINT_KIND)
    if saved is None:
        return settings_of(flags, config), None
    return resumed_settings(TrainSettings, saved, flags, config, under=asked_settings(TrainSettings)), state


@program("nas-zoo train")
def main(argv: list[str] | None = None) -> int:
    """The program: 0 when it ended or its time budget ran out, 2 for a mistake of the user's, 128 + n for signal n."""
    started = time.monotonic()
    words = sys.argv[1:] if argv is None else argv
    settings, state = parse(words)
    reason = train(settings, state, started)
    named = ["--operations", given] if (given := make_parser().parse_args(words).operations) else []
    return stopped(reason, shlex.join(["nas-zoo", "train", "--resume", "--out", str(settings.out), *named]))
