"""The search loop, for every method: bilevel optimisation on two halves of the training images.

    python search/run.py --data digits --num-cells 5 --init-channels 8 --epochs 10 --out runs/digits
    accelerate launch search/run.py --method edas --data cifar10 --out runs/edas
    nas-zoo search --config edas_c10 --out runs/edas --time-budget 3000
    nas-zoo search --resume --out runs/edas

One iteration is one architecture step on a batch of the alpha half (the method's ``loss``) and one weight step on a
batch of the weights half. The run's folder holds ``log.jsonl`` (settings and machine, then a line an epoch),
``checkpoint.pt`` (written after each epoch, on SIGTERM or Ctrl-C, when the time budget runs out, and every ten
minutes), ``genotype.json`` (the cells so far, by the method's own rule; ``genotype_argmax.json`` and
``genotype_darts.json`` by either) and at the end ``derived.safetensors``: the derived network with the search's own
weights (and ``derived_darts.safetensors`` or ``derived_argmax.safetensors``, of the other rule where it differs).
A finished run prints what the discretization cost (``search.discretize``); `nas-zoo gap` tells it for other numbers of
edges. With partial channels there are no derived weights: those of the supernet belong to a part of the channels.

Every random choice is a function of seed, epoch and iteration, so ``--resume`` continues the run as if it had never
stopped, and several processes draw, shuffle and augment as one process with the same global batch does.
"""

import json
import sys
import time
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from nas_zoo.data.augment import default_augment
from nas_zoo.data.batches import Batches, in_groups, in_parts, whole_steps
from nas_zoo.data.fingerprint import data_state, fingerprints, take_up_data
from nas_zoo.data.named import open_for_run, search_split
from nas_zoo.genotype import KINDS, Genotype
from nas_zoo.runs.checkpoint import load_optimizer
from nas_zoo.runs.distributed import (
    add_gradients,
    autocast_for,
    average_gradients,
    convert_global_batch_norm,
    start_accelerator,
)
from nas_zoo.runs.ending import end_run, program, stopped
from nas_zoo.runs.lock import only_run_in
from nas_zoo.runs.log import RunLog
from nas_zoo.runs.loop import Callback, Loop, figures
from nas_zoo.runs.outside import check_marks
from nas_zoo.runs.schedule import cosine
from nas_zoo.runs.stop import Reason
from nas_zoo.runs.trackers import tracked
from nas_zoo.search import arguments
from nas_zoo.search.discretize import DERIVATIONS, gap_table, measure_gap
from nas_zoo.search.found import collapsed, genotypes_by, save_derived, write_cells
from nas_zoo.search.host import Adam
from nas_zoo.search.latency import latency_limit, latency_words
from nas_zoo.search.method import SearchSettings, Step, code_of, entropies, find_method, logits_of
from nas_zoo.search.picture import changed_cells
from nas_zoo.search.problem import Iteration, Named
from nas_zoo.search.ranking import ranking_changes
from nas_zoo.search.supernet import Supernet, drop_counters

Batch = tuple[Tensor, Tensor]
__all__ = ["Search", "main", "parse", "search"]
parse = partial(arguments.parse, description=__doc__)


class Search:
    """A search as ``runs.loop.Program`` wants it: supernet, method, batches, and what is done with them."""

    counted = ("loss", "correct", "images", "alpha_loss", "alpha_images")

    def __init__(self, settings: SearchSettings, accelerator: Accelerator) -> None:
        self.settings, self.accelerator = settings, accelerator
        self.autocast = autocast_for(accelerator.device, settings.precision)
        self.source = source = open_for_run(settings, ("train",))["train"]
        (self.data,) = fingerprints([source], settings.out, accelerator)
        size = settings.image_size or source.image_size
        for_weights, for_alpha = search_split(source, settings.seed)
        augment = default_augment(source, size, settings.cutout, crop_padding=settings.crop_padding, flip=settings.flip)

        memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
        batches = partial(
            Batches, source, image_size=size, device=accelerator.device, seed=settings.seed, workers=settings.workers,
            rank=accelerator.process_index, world=accelerator.num_processes, memory_format=memory_format,
        )  # fmt: skip
        training = partial(batches, batch_size=settings.batch_size, augment=augment, shuffle=True, drop_last=True)
        evaluation = partial(batches, batch_size=4 * settings.batch_size)
        self.weight_batches, self.alpha_batches = training(for_weights), training(for_alpha)
        self.eval_batches = evaluation(for_alpha[: settings.eval_size] if settings.eval_size else for_alpha)
        self.final_eval_batches = evaluation(for_alpha)
        self.steps = whole_steps(settings, self.weight_batches, self.alpha_batches)

        torch.manual_seed(settings.seed)
        method: Any = find_method(settings.method)[1](settings)
        supernet = Supernet(
            method.space,
            settings.init_channels,
            settings.num_cells,
            num_classes=len(source.classes),
            in_chans=source.in_chans,
            partial_channels=settings.partial_channels,
        )
        supernet = supernet.to(memory_format=memory_format).to(accelerator.device)
        self.supernet = convert_global_batch_norm(supernet) if settings.sync_bn else supernet
        drop_counters(self.supernet)
        self.named = Named(self.supernet)
        self.method: Any = method.to(accelerator.device)
        self.weights = list(self.supernet.parameters())
        self.alphas = list(self.method.parameters())
        self.weight_optimizer = torch.optim.SGD(
            self.weights, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        self.limit, self.code = latency_limit(settings, method, source, size), code_of(settings)  # of its start
        # Decay of the architecture parameters is each method's own affair, in its loss.
        self.alpha_optimizer = Adam(self.alphas, settings.alpha_lr, betas=settings.alpha_betas)
        self.last_logits: dict[str, Tensor] | None = None  # alpha after the epoch before

    def batches(self, epoch: int, start: int) -> Iterable[Any]:
        """A batch of the weights half and one of the alpha half for each iteration from `start` on, or several."""
        count, first = self.settings.accumulation, start * self.settings.accumulation
        pairs = zip(self.weight_batches.epoch(epoch, first), self.alpha_batches.epoch(epoch, first), strict=False)
        return in_groups(pairs, count)

    def step(self, epoch: int, step: int, batch: Any, votes: Tensor | None = None) -> Tensor:
        """One iteration: an architecture step on the batch of the alpha half, a weight step on that of the other.

        With accumulation `batch` is several such pairs, whose gradients are averaged in either step.
        """
        settings, at = self.settings, (epoch, epoch * self.steps + step, self.settings.epochs)
        for group in self.weight_optimizer.param_groups:
            group["lr"] = cosine(settings.lr, settings.lr_min, epoch, settings.epochs)
        batches, share = in_parts(batch, settings.accumulation), 1.0 / settings.accumulation

        alpha_loss: Any = 0.0
        alpha_images = 0
        for for_weights, held_out in batches:
            problem = Iteration(
                self.supernet, held_out, for_weights, self.weight_optimizer, self.autocast, self.named, self.limit
            )
            loss = self.method.loss(problem, Step(*at, "alpha"))
            if loss is not None and loss.requires_grad:
                # Asking for alpha's gradients alone spares the backward pass those of the weights, and what lies before
                # the first relaxed edge.
                gradients = torch.autograd.grad(loss * share, self.alphas, allow_unused=True)
                add_gradients(self.alphas, gradients)
                n = len(held_out[1])
                alpha_loss, alpha_images = alpha_loss + loss.detach() * n, alpha_images + n
            # The backward pass has freed only what it went through; the rest of the graph dies with its last reference.
            del loss
        if alpha_images:
            average_gradients(self.alphas)
            self.alpha_optimizer.step()
            self.alpha_optimizer.zero_grad(set_to_none=True)

        with torch.no_grad():
            mixing = self.method.mixing(Step(*at, "weights"))
        total: Any = 0.0
        correct: Any = 0
        for (images, labels), _ in batches:
            with self.autocast():
                logits = self.supernet(images, mixing)
            loss = F.cross_entropy(logits.float(), labels)
            (loss * share).backward()
            total, correct = total + loss.detach() * len(labels), correct + (logits.detach().argmax(1) == labels).sum()
        average_gradients(self.weights, votes)
        if settings.grad_clip:
            nn.utils.clip_grad_norm_(self.weights, settings.grad_clip)
        self.weight_optimizer.step()
        self.weight_optimizer.zero_grad(set_to_none=True)
        return figures(total, correct, sum(len(labels) for (_, labels), _ in batches), alpha_loss, alpha_images)

    def end_epoch(self, epoch: int, sums: Mapping[str, float]) -> dict[str, Any]:
        """Accuracies of the supernet and of the cells it stands for, alpha, and the cells, in genotype.json too."""
        settings = self.settings
        genotypes = genotypes_by(self.method, (None, *DERIVATIONS))
        last = epoch + 1 == settings.epochs
        batches = self.final_eval_batches if last else self.eval_batches
        gap = self.gap(epoch, genotypes, batches, None if last else ("found",))
        # beside edge weights shared out, which is how methods are compared, a row with plain sums may stand behind
        derived = {row["cells"]: row["running"] for row in reversed(gap["after"])}
        logits, edge_logits = logits_of(self.method), logits_of(self.method, "beta")
        found, images = genotypes["found"], sums["images"]
        line = {
            "epoch": epoch + 1,
            "lr": cosine(settings.lr, settings.lr_min, epoch, settings.epochs),
            "train": {"n": int(images), "loss": sums["loss"] / images, "accuracy": sums["correct"] / images},
            # of the steps that moved alpha
            "alpha_loss": sums["alpha_loss"] / sums["alpha_images"] if sums["alpha_images"] else None,
            "held_out": {
                "n": batches.num_samples,
                "supernet": gap["before"]["running"],
                "found": derived.get("found"),
                "derived": {rule: derived.get(rule) for rule in DERIVATIONS},
            },
            "gap": gap,
            "entropy": entropies(self.method, logits),
            **({"latency": self.limit.figures(epoch, found)} if self.limit else {}),
            "ranking": ranking_changes(self.last_logits, logits) if self.last_logits else None,
            "alpha": {kind: logits[kind].tolist() for kind in KINDS},
            **({"beta": {kind: edge_logits[kind].tolist() for kind in KINDS}} if edge_logits else {}),
            "operations": list(self.method.space.operations),
            "genotype": {rule: json.loads(g.to_json()) if (g := genotypes[rule]) else None for rule in DERIVATIONS},
            "found": json.loads(found.to_json()) if found else None,
            "histogram": found.histogram() if found else None,
            "collapsed": collapsed(found) if found else None,
            **({"unreadable": len(self.source.skips.found)} if self.source.skips.found else {}),
        }
        if self.accelerator.is_main_process:
            write_cells(genotypes, settings, line, self.source)
        self.last_logits = logits  # last, since an epoch's end that fails is done again
        return line

    def report(self, line: Mapping[str, Any]) -> str:
        """The figures of an epoch's line in one line of text."""
        held, train, entropy, ranking = line["held_out"], line["train"], line["entropy"], line["ranking"]
        changed = "" if ranking is None else f"{ranking['changed']} edges changed  "

        def percent(value: float | None) -> str:
            return "   -  " if value is None else f"{100 * value:5.2f}%"

        return (
            f"epoch {line['epoch']:3d}/{self.settings.epochs}  loss {train['loss']:.3f}  "
            f"train {percent(train['accuracy'])}  held-out: supernet {percent(held['supernet'])}, "
            f"found {percent(held['found'])}, derived darts {percent(held['derived']['darts'])}, "
            f"argmax {percent(held['derived']['argmax'])}  entropy {entropy['normal']:.2f}/{entropy['reduce']:.2f}  "
            f"{changed}{latency_words(line)}{line['seconds']:.0f} s  {line['peak_memory_gb']:.2f} GB"
        )

    @property
    def own_statistics(self) -> tuple[nn.Module, ...]:
        """The supernet, unless the statistics are those of all processes."""
        return () if self.settings.sync_bn else (self.supernet,)

    def state(self) -> dict[str, Any]:
        """Without sync_bn the running statistics are those of the first process; see ``own_statistics``."""
        return {
            **data_state(self.source, self.data),
            "code": self.code,
            "last_logits": self.last_logits,
            "supernet": self.supernet.state_dict(),
            "method": self.method.state_dict(),
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "alpha_optimizer": self.alpha_optimizer.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes up what ``state`` gave; ValueError where the data are others."""
        take_up_data(state, [self.source], [self.data])
        check_marks(state.get("code", {}), self.code)  # runs begun before there was any hold none
        self.supernet.load_state_dict(state["supernet"])
        self.method.load_state_dict(state["method"])
        self.last_logits = state.get("last_logits")  # runs begun before the ranking was logged hold none
        if self.last_logits is not None:
            ranking_changes(self.last_logits, logits_of(self.method))  # a later step shall not meet others' shapes
        load_optimizer(self.weight_optimizer, state["weight_optimizer"])
        load_optimizer(self.alpha_optimizer, state["alpha_optimizer"])

    def gap(
        self,
        epoch: int,
        genotypes: Mapping[str, Genotype | None],
        batches: Batches,
        reestimate: Iterable[str] | None = None,
    ) -> dict[str, Any]:
        """``discretize.measure_gap`` of this run, statistics re-estimated over the epoch's first training batches."""
        count = min(self.settings.gap_batches, self.weight_batches.steps_per_epoch)
        return measure_gap(
            self.supernet,
            lambda: batches.once("measuring the cut"),
            (lambda: islice(self.weight_batches.epoch(epoch), count)) if count else None,
            lambda index: self.method.mixing(Step(epoch, index, self.settings.epochs, "eval")),
            genotypes,
            self.autocast,
            reestimate,
        )


def search(
    settings: SearchSettings,
    resume: Mapping[str, Any] | None = None,
    started: float | None = None,
    callbacks: Iterable[Callback] = (),
) -> Reason | None:
    """Runs a search to its end, or to its time budget; returns why it stopped early (None: it did not).

    Args:
        settings: Of the method.
        resume: Contents of a checkpoint to continue from.
        started: time.monotonic() at which the time budget began.
        callbacks: Called with the line of an epoch at its end.
    """
    accelerator = start_accelerator()
    run = Search(settings, accelerator)
    data = {"name": run.source.name, "images": len(run.source), "classes": list(run.source.classes)}
    trackers = tracked(settings, accelerator, resume, changed_cells())
    with only_run_in(settings.out, accelerator), trackers as track:
        seen = (*track, *callbacks)
        loop = Loop(run, settings, accelerator, arguments.CHECKPOINT_KIND, resume, seen, data=data, code=run.code)
        if resume is None and accelerator.is_main_process:
            place = f"{run.source.name} {run.source.part}".strip()
            use = f"images: {len(run.source)} of {place}, half of them for the weights and half for alpha; "
            print(f"{use}a val or test part is not looked at", flush=True)
        if (reason := loop.run(started)) is not None:
            return reason
        if accelerator.is_main_process:
            if settings.partial_channels == 1:  # else the supernet has weights for a part of the channels only
                save_derived(run.supernet, run.method, run.source.classes, settings.out)
            last = RunLog.read(settings.out)[-1]
            print(gap_table(last["gap"], last["held_out"]["n"]))
            found = settings.out / "genotype.json" if last["found"] else "no cells, since 'none' has won everywhere"
            print(f"search finished in {loop.seconds:.0f} s: {found}")
    end_run(accelerator)
    return None


@program("nas-zoo search")
def main(argv: list[str] | None = None) -> int:
    """The program: 0 when it ended or its time budget ran out, 2 for a mistake of the user's, 128 + n for signal n."""
    started = time.monotonic()
    settings, state = parse(sys.argv[1:] if argv is None else argv)
    reason = search(settings, state, started)
    return stopped(reason, arguments.resume_command(settings) if reason else "")


if __name__ == "__main__":
    sys.exit(main())
