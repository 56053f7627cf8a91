"""Trains one network: the paper's recipes for derived cells, or any other timm model.

    python -m nas_zoo.train --recipe quick --model cell_net_cifar --init-channels 8 --num-cells 5 --data digits
    accelerate launch -m nas_zoo.train --model edas_c10 --data cifar10 --out runs/edas_c10
    accelerate launch -m nas_zoo.train --recipe imagenet --model edas_in1k --data imagenet/ --workers 16
    python -m nas_zoo.train --recipe quick --init-weights runs/search/derived.safetensors --data digits
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
path (and of a model's own dropout) differ with the number of processes, each drawing those of its own rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from timm.layers import DropPath
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm import tqdm

from nas_zoo.data.augment import Augment, default_augment, epoch_order, random_draws
from nas_zoo.data.batches import Batches
from nas_zoo.data.named import limited, open_source
from nas_zoo.data.sources import ImageSource
from nas_zoo.genotype import Genotype
from nas_zoo.models.depthwise import strided_pointwise
from nas_zoo.models.network import CellNet
from nas_zoo.runs.checkpoint import check_finite, save_checkpoint
from nas_zoo.runs.distributed import (
    autocast_for,
    average_buffers,
    average_gradients,
    convert_global_batch_norm,
    longest_since,
    start_accelerator,
    total_over_processes,
)
from nas_zoo.runs.facts import peak_memory_gb, run_facts
from nas_zoo.runs.files import write_json
from nas_zoo.runs.log import RunLog, run_to_resume
from nas_zoo.runs.settings import (
    Parser,
    add_flags,
    describe,
    given_flags,
    resumed_settings,
    to_dict,
)
from nas_zoo.runs.stop import StopRequest
from nas_zoo.train.auxiliary import AuxiliaryHead, TensorDropPath, Trained
from nas_zoo.train.evaluation import evaluate
from nas_zoo.train.model import chosen_args, make_model, read_weights, save_model
from nas_zoo.train.recipes import TrainSettings, settings_of

__all__ = ["Training", "main", "parse", "train"]

CHECKPOINT_KIND = "train"
CHECKPOINT_SECONDS = 600.0
#: What a resumed run may change: where things lie and how long it may take, never what is computed.
CHANGEABLE = ("data", "test_data", "data_root", "out", "time_budget", "workers")
_MASKS = 16  # the stream of random numbers that seeds rank 0's masks; those below are the batches' own

# ------------------------------------------------------------------------------------------------------------- loop


def _full(logits: Tensor) -> Tensor:
    """float32 where autocast gave less; float64 stays."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Training:
    """Everything a run holds between two iterations; ``state`` is all of it that a checkpoint needs."""

    def __init__(
        self, settings: TrainSettings, accelerator: Accelerator, model_args: Mapping[str, Any] | None = None
    ) -> None:
        """`model_args`: of the checkpoint to be resumed, so that it needs neither genotype nor first weights again."""
        self.settings, self.accelerator = settings, accelerator
        self.autocast = autocast_for(accelerator.device, settings.precision)
        device, world = accelerator.device, accelerator.num_processes
        if settings.batch_size % world:
            raise ValueError(f"batch_size={settings.batch_size} is not divisible by the {world} processes")

        opened: dict[str, Any] = {
            "root": settings.data_root,
            "test_data": settings.test_data,
            "image_size": settings.image_size,
            "crop_pct": settings.crop_pct,
        }
        self.source = limited(open_source(settings.data, "train", **opened), settings.train_limit, settings.seed)
        self.test_source = open_source(settings.data, "test", **opened)
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

        augment = dataclasses.replace(
            default_augment(self.source, size, cutout=round(settings.cutout * size / 32)),
            crop_padding=round(settings.crop_padding * size / 32),
            crop_area=(settings.crop_area_min, 1.0),
        )
        if settings.flip is not None:
            augment = dataclasses.replace(augment, flip=settings.flip)

        memory_format = torch.contiguous_format

        def batches(source: ImageSource, indices: np.ndarray | None, augment: Augment | None) -> Batches:
            return Batches(
                source,
                indices,
                settings.batch_size if augment else -(-max(settings.batch_size, 256) // world) * world,
                image_size=size,
                device=device,
                augment=augment,
                shuffle=augment is not None,
                drop_last=augment is not None,
                seed=settings.seed,
                rank=accelerator.process_index,
                world=world,
                mean=self.source.mean,
                std=self.source.std,
                workers=settings.workers,
                memory_format=memory_format,
            )

        begins = model_args is None
        if model_args is None:
            model_args = chosen_args(settings, self.num_classes, in_chans)
        self.model_args = dict(model_args)
        torch.manual_seed(settings.seed)
        self.model: Any = make_model(settings, self.num_classes, in_chans, self.model_args)
        if begins and settings.init_weights is not None:
            self.model.load_state_dict(read_weights(settings.init_weights)[0])
        if settings.channels_last and not (device.type == "cpu" and strided_pointwise(self.model)):
            memory_format = torch.channels_last
        self.train_batches = batches(self.source, np.sort(order[num_val:]), augment)
        self.val_batches = batches(self.source, np.sort(order[:num_val]), None) if num_val else None
        self.test_batches = batches(self.test_source, None, None)
        self.steps = self.train_batches.steps_per_epoch

        auxiliary = None
        if settings.aux_weight:
            if not isinstance(self.model, CellNet):
                raise ValueError(
                    f"aux_weight={settings.aux_weight}: {settings.model} is not a cell network and has no place for an "
                    "auxiliary head; 0 is accepted (recipe quick has it)"
                )
            auxiliary = AuxiliaryHead(*self._tap_shape(in_chans), self.num_classes)
        if settings.compile and settings.drop_path and isinstance(self.model, CellNet):
            for module in list(self.model.modules()):
                for name, child in module.named_children():
                    if isinstance(child, DropPath):
                        setattr(module, name, TensorDropPath())
        trained = Trained(self.model, auxiliary)
        if settings.sync_bn:
            trained = convert_global_batch_norm(trained)
        self.trained = trained.to(memory_format=memory_format).to(device).train()
        self.model = self.trained.model
        self.parameters = list(self.trained.parameters())
        self.network: Any = torch.compile(self.trained) if settings.compile else self.trained
        self.optimizer = create_optimizer_v2(
            self.trained,
            opt=settings.optimizer,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            filter_bias_and_bn=not settings.decay_all,
        )
        # Its decay begins at 0 and rises as 1 - (1 + step)^(-2/3). It reaches over a twentieth of the run at most: a
        # short one would else end with an average of its beginnings.
        longest = 1.0 - 1.0 / max(2.0, 0.05 * settings.epochs * self.steps)
        decay = min(settings.ema_decay, longest)
        self.ema = ModelEmaV3(self.model, decay, use_warmup=True) if settings.ema_decay else None
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.sums = torch.zeros(3, dtype=torch.float64)  # loss, correct, images; of this process
        self.begin_counting()

    def _tap_shape(self, in_chans: int) -> tuple[int, int]:
        with torch.no_grad():
            tap = self.model.eval().forward_auxiliary(torch.zeros(1, in_chans, self.image_size, self.image_size))[1]
        return tap.shape[1], tap.shape[2]

    @property
    def num_parameters(self) -> int:
        """Of the model, without the auxiliary head."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def state(self, log_lines: int, sums: Tensor) -> dict[str, Any]:
        """`sums`: those of all processes. Without sync_bn the running statistics are those of the first process."""
        return {
            "settings": to_dict(self.settings),
            "model_args": self.model_args,
            "data": [self.source.fingerprint, self.test_source.fingerprint],
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "log_lines": log_lines,
            "sums": sums,
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        if state["data"] != [self.source.fingerprint, self.test_source.fingerprint]:
            raise ValueError(
                f"data={self.settings.data!r} holds other images or labels than the data the checkpoint was made with"
            )
        self.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.sums = state["sums"].clone() if self.accelerator.is_main_process else torch.zeros_like(state["sums"])

    def iterate(self, images: Tensor, labels: Tensor) -> None:
        """One step on this process's rows of a batch."""
        settings = self.settings
        rate = settings.rate(self.epoch, self.step, self.steps)
        for group in self.optimizer.param_groups:
            # layer-wise scales are timm's own; without them it is 1
            group["lr"] = rate * group.get("lr_scale", 1.0)
        # The masks of an iteration are its own, so that a resumed run needs no generator's state.
        stream = _MASKS + self.accelerator.process_index
        torch.manual_seed(int(random_draws(settings.seed, self.epoch, np.array([self.step]), 1, stream)[0, 0] * 2**53))

        with self.autocast():
            logits, auxiliary_logits = self.network(images)
        logits = _full(logits)
        loss = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
        total = loss
        if auxiliary_logits is not None:
            auxiliary = F.cross_entropy(_full(auxiliary_logits), labels, label_smoothing=settings.label_smoothing)
            total = loss + settings.aux_weight * auxiliary
        total.backward()
        average_gradients(self.parameters)
        if settings.grad_clip:
            nn.utils.clip_grad_norm_(self.parameters, settings.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.epoch * self.steps + self.step)

        correct = (logits.detach().argmax(1) == labels).sum()
        self._pending.append(torch.stack([loss.detach() * len(labels), correct.float()]))
        self._images += len(labels)

    _pending: list[Tensor]
    _images: int

    def begin_counting(self) -> None:
        self._pending, self._images = [], 0

    def settle(self) -> None:
        """Adds the figures of the last iterations, which so far lie on the device, to the sums of the epoch.

        Raises:
            FloatingPointError: Where the loss or a weight is not finite: the checkpoint before is kept.
        """
        if not self._pending:
            return
        for loss, correct in torch.stack(self._pending).double().cpu():
            self.sums[0] += loss
            self.sums[1] += correct
        self.sums[2] += self._images
        self.begin_counting()
        if not torch.isfinite(self.sums).all():
            settings = self.settings
            raise FloatingPointError(
                f"the loss is not finite in epoch {self.epoch + 1} (lr={settings.lr}, optimizer={settings.optimizer}, "
                f"precision={settings.precision}); the last checkpoint is kept"
            )
        check_finite([*self.trained.parameters(), *self.trained.buffers()], f"in epoch {self.epoch + 1}")

    def all_sums(self) -> Tensor:
        """``sums`` of all processes together."""
        return total_over_processes(self.sums, self.accelerator.device)

    def averaged(self) -> dict[str, nn.Module]:
        """The weights that are evaluated, the result's first: the moving average where there is one, and the last."""
        if not self.settings.sync_bn:
            average_buffers(self.trained)
            if self.ema is not None:
                average_buffers(self.ema.module)
        weights: dict[str, nn.Module] = {} if self.ema is None else {"ema": self.ema.module}
        return weights | {"last": self.model}

    def epoch_line(self) -> dict[str, Any]:
        """What the log says of the epoch that has just been trained."""
        settings, autocast = self.settings, self.autocast
        sums = self.all_sums()
        line: dict[str, Any] = {
            "kind": "epoch",
            "epoch": self.epoch + 1,
            "lr": settings.rate(self.epoch, self.steps - 1, self.steps),
            # other models of timm have their own, which does not change
            "drop_path": settings.drop_path_rate(self.epoch) if isinstance(self.model, CellNet) else None,
            "train": {"n": int(sums[2]), "loss": float(sums[0] / sums[2]), "top1": float(sums[1] / sums[2])},
        }
        weights = self.averaged()
        if settings.eval_every and (self.epoch + 1) % settings.eval_every == 0:
            if self.val_batches is not None:
                line["val"] = {
                    name: evaluate(model, self.val_batches.epoch(0), autocast) for name, model in weights.items()
                }
            if settings.test_curve:
                line["test"] = {
                    name: evaluate(model, self.test_batches.epoch(0), autocast) for name, model in weights.items()
                }
        return line

    def result(self) -> dict[str, Any]:
        """The final figures on the test split: those of the weights that were named beforehand, and of the others."""
        figures = {
            name: evaluate(model, self.test_batches.epoch(0), self.autocast) for name, model in self.averaged().items()
        }
        genotype = getattr(self.model, "genotype", None)
        first, *others = figures
        return {
            "model": self.settings.model,
            "genotype": genotype.digest if isinstance(genotype, Genotype) else None,
            "parameters": self.num_parameters,
            "data": self.source.name,
            "test_data": self.test_source.name,
            "split": "test",
            "weights": first,
            **figures[first],
            "others": {name: figures[name] for name in others},
            "recipe": self.settings.recipe,
            "epochs": self.settings.epochs,
            "seed": self.settings.seed,
        }


def _percent(value: float) -> str:
    return f"{100 * value:5.2f}%"


def report_epoch(line: Mapping[str, Any], epochs: int) -> str:
    parts = [
        f"epoch {line['epoch']:3d}/{epochs}  lr {line['lr']:.4f}  loss {line['train']['loss']:.3f}  "
        f"train {_percent(line['train']['top1'])}"
    ]
    for split in ("val", "test"):
        if split in line:
            parts += [split + " " + ", ".join(f"{_percent(f['top1'])} ({name})" for name, f in line[split].items())]
    parts += [f"{line['seconds']:.0f} s  {line['peak_memory_gb']:.2f} GB"]
    return "  ".join(parts)


def train(settings: TrainSettings, resume: dict[str, Any] | None = None, started: float | None = None) -> str | None:
    """Trains to the end, or to the time budget; returns why it stopped early (None: it did not).

    Args:
        settings: Complete ones; recipes are applied by ``parse``.
        resume: Contents of a checkpoint to continue from.
        started: time.monotonic() at which the time budget began.
    """
    accelerator = start_accelerator()
    main = accelerator.is_main_process
    out, checkpoint = settings.out, settings.out / "checkpoint.pt"
    if accelerator.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # one image size all along
    run = Training(settings, accelerator, None if resume is None else resume["model_args"])
    if resume is not None:
        run.load(resume)
    log, facts = RunLog(out, writes=main), run_facts(accelerator.device)
    if resume is None:
        data = {"name": run.source.name, "train": run.train_batches.num_samples, "test": len(run.test_source),
                "val": 0 if run.val_batches is None else run.val_batches.num_samples,
                "classes": list(run.source.classes)}  # fmt: skip
        log.start(
            to_dict(settings),
            facts,
            overwrite=not checkpoint.exists(),  # killed before the first one: it begins again
            seed=settings.seed,
            data=data,
            steps_per_epoch=run.steps,
            parameters=run.num_parameters,
            result_weights="last" if run.ema is None else "ema",
        )
    else:
        log.take_up(resume["log_lines"], resume["settings"], changeable=CHANGEABLE)
        log.event("resumed", epoch=run.epoch + 1, iteration=run.step, commit=facts["commit"])
    if main:
        if resume is None:
            print(describe(settings))
            print(
                f"{run.num_parameters:,} parameters; {run.train_batches.num_samples} images to train on, "
                f"{len(run.test_source)} to test the {'last' if run.ema is None else 'averaged'} weights on",
                flush=True,
            )
        else:
            print(f"resumed at epoch {run.epoch + 1}, iteration {run.step} of {run.steps}", flush=True)

    def save() -> None:
        run.settle()
        sums = run.all_sums()
        if main:
            save_checkpoint(checkpoint, run.state(log.num_lines, sums), CHECKPOINT_KIND)
        accelerator.wait_for_everyone()

    with StopRequest(settings.time_budget, started=started) as stop:
        while run.epoch < settings.epochs:
            if isinstance(run.model, CellNet):
                run.model.set_drop_path(settings.drop_path_rate(run.epoch))
            if run.step == 0:
                run.sums.zero_()
            run.begin_counting()
            mark = last_save = time.monotonic()
            bar = tqdm(
                total=run.steps, initial=run.step, desc=f"epoch {run.epoch + 1}/{settings.epochs}", unit="it",
                disable=not (main and sys.stderr.isatty()), leave=False,
            )  # fmt: skip
            for images, labels in run.train_batches.epoch(run.epoch, run.step):
                run.iterate(images, labels)
                bar.update()
                due = False
                if run.step % 50 == 0:
                    run.settle()
                    bar.set_postfix(loss=f"{run.sums[0] / run.sums[2]:.3f}")
                    due = longest_since(last_save, accelerator.device) > CHECKPOINT_SECONDS
                reason = stop.agree(accelerator.device)
                if run.step < run.steps and (due or reason is not None):
                    run.seconds += time.monotonic() - mark
                    save()
                    mark = last_save = time.monotonic()
                    if reason is not None:
                        bar.close()
                        log.event("stopped", reason=reason, epoch=run.epoch + 1, iteration=run.step)
                        return reason
            bar.close()
            run.settle()
            line = run.epoch_line()
            run.seconds += time.monotonic() - mark
            line |= {"seconds": round(run.seconds, 3), "peak_memory_gb": round(peak_memory_gb(accelerator.device), 3)}
            log.append(line)
            if main:
                print(report_epoch(line, settings.epochs), flush=True)
            run.epoch, run.step = run.epoch + 1, 0
            save()
            reason = stop.agree(accelerator.device)
            if reason is not None and run.epoch < settings.epochs:
                log.event("stopped", reason=reason, epoch=run.epoch + 1, iteration=0)
                return reason
    result = run.result()
    log.append({"kind": "result", **result})
    if main:
        source = dataclasses.replace(run.test_source, mean=run.source.mean, std=run.source.std)
        model = next(iter(run.averaged().values()))
        save_model(model, out, source, image_size=run.image_size, crop_pct=settings.crop_pct)
        # what it was made with when it began; a resumed run's later commits are in events.jsonl
        begun = {key: value for key, value in RunLog.read(out)[0].items() if key in facts}
        result_file = result | begun | {"seconds": round(run.seconds, 3), "settings": to_dict(settings)}
        write_json(out / "result.json", result_file)
        others = ", ".join(f"{name} weights {_percent(figures['top1'])}" for name, figures in result["others"].items())
        print(
            f"test ({result['n']} images of {run.test_source.name}, {result['weights']} weights): top-1 "
            f"{_percent(result['top1'])}, loss {result['loss']:.3f}{f' ({others})' if others else ''}; "
            f"trained in {run.seconds:.0f} s: {out}"
        )
    accelerator.end_training()
    return None


# ---------------------------------------------------------------------------------------------------------- program


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="nas-zoo train", description=__doc__)
    parser.add_argument("--config", type=Path, help="YAML file of settings")
    parser.add_argument("--resume", nargs="?", const="", metavar="CHECKPOINT",
                        help="continue the run in --out, or from this checkpoint")  # fmt: skip
    add_flags(parser, TrainSettings)
    return parser


def parse(argv: list[str]) -> tuple[TrainSettings, dict[str, Any] | None]:
    """Settings and, with --resume, the checkpoint's contents. Every mistake in a value is a ValueError.

    A run that was killed before its first checkpoint is resumed at its beginning, with the settings in its log.
    """
    namespace = make_parser().parse_args(argv)
    flags, config = given_flags(namespace), namespace.config
    settings = settings_of(flags, config)
    saved, state = run_to_resume(settings.out, namespace.resume, CHECKPOINT_KIND)
    if saved is not None:
        settings = resumed_settings(TrainSettings, saved, flags, config, changeable=CHANGEABLE)
    return settings, state


def main(argv: list[str] | None = None) -> int:
    """The program: 0 when it ended or its time budget ran out, 2 for a mistake of the user's, 128 + n for signal n."""
    started = time.monotonic()
    try:
        settings, state = parse(sys.argv[1:] if argv is None else argv)
        reason = train(settings, state, started)
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"nas-zoo train: {error}", file=sys.stderr)
        return 2
    if reason is not None:
        print(f"stopped ({reason}); continue with: nas-zoo train --resume --out {settings.out}")
    return {"SIGTERM": 143, "SIGINT": 130}.get(reason or "", 0)


if __name__ == "__main__":
    sys.exit(main())
