"""The search loop, for every method: bilevel optimisation on two halves of the training images.

    python search/run.py --data digits --num-cells 5 --init-channels 8 --epochs 10 --out runs/digits
    accelerate launch search/run.py --method edas --data cifar10 --out runs/edas
    nas-zoo search --config edas_c10 --out runs/edas --time-budget 3000
    nas-zoo search --resume --out runs/edas

One iteration is one architecture step on a batch of the alpha half (the method's ``loss``) and one weight step on a
batch of the weights half. The run's folder holds ``log.jsonl`` (settings and machine, then a line an epoch),
``checkpoint.pt`` (written after each epoch, on SIGTERM or Ctrl-C, when the time budget runs out, and every ten
minutes), ``genotype.json`` (the cells so far) and at the end ``derived.safetensors``: the derived network with the
search's own weights (and ``derived_argmax.safetensors``: that of the other rule, which is what EDAS trains).
A finished run prints what the discretization cost (``search.discretize``); `nas-zoo gap` tells it for other numbers of
edges. With partial channels there are no derived weights: those of the supernet belong to a part of the channels.

Every random choice is a function of seed, epoch and iteration, so ``--resume`` continues the run as if it had never
stopped, and several processes draw, shuffle and augment as one process with the same global batch does.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from nas_zoo.data.augment import Augment, default_augment
from nas_zoo.data.batches import Batches
from nas_zoo.data.named import limited, open_source, search_split
from nas_zoo.data.sources import ImageSource
from nas_zoo.genotype import KINDS, Genotype
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
from nas_zoo.runs.files import write_json, write_weights
from nas_zoo.runs.log import RunLog, run_to_resume
from nas_zoo.runs.schedule import cosine
from nas_zoo.runs.settings import (
    Parser,
    add_flags,
    describe,
    given_flags,
    read_config,
    resumed_settings,
    settings_from,
    to_dict,
)
from nas_zoo.runs.stop import StopRequest
from nas_zoo.search.discretize import DERIVATIONS, derived_network, gap_table, measure_gap
from nas_zoo.search.method import METHODS, SearchSettings, Step, find_method
from nas_zoo.search.problem import Iteration
from nas_zoo.search.supernet import Supernet

CHECKPOINT_KIND = "search"
CONFIGS = Path(__file__).parent / "configs"
CHECKPOINT_SECONDS = 600.0
COLLAPSE_WARNING = "warning: half of the normal cell or more is skip connections (collapse)"
#: What a resumed run may change: where things lie and how long it may take, never what is computed.
CHANGEABLE = ("data", "test_data", "data_root", "out", "time_budget", "workers")


def logits_of(method: nn.Module, name: str = "alpha") -> dict[str, torch.Tensor]:
    """The logits of each cell kind, whether the method keeps one tensor or one for each edge.

    "alpha": of operations, (E, O). "beta": of edges, (E,); {} for a method that has none.
    """
    logits: Any = getattr(method, name, None)
    if logits is None:
        return {}
    return {
        kind: torch.stack(list(logits[kind])).detach().cpu()
        if isinstance(logits[kind], nn.ParameterList)
        else logits[kind].detach().cpu()
        for kind in KINDS
    }


def mean_entropy(logits_EO: torch.Tensor) -> float:
    """Mean over the edges of the entropy of softmax(alpha), in nats: 0 when each edge has settled, log O at first."""
    log_p = torch.log_softmax(logits_EO.double(), dim=-1)
    return float(-(log_p.exp() * log_p).sum(-1).mean())


def collapsed(genotype: Genotype) -> bool:
    """True where half of the normal cell's edges or more are skip connections: the known failure of DARTS."""
    counts = genotype.histogram()["normal"]
    return 2 * counts.get("skip_connect", 0) >= sum(counts.values())


class Search:
    """Everything a run holds between two iterations; ``state`` is all of it that a checkpoint needs."""

    def __init__(self, settings: SearchSettings, accelerator: Accelerator) -> None:
        self.settings, self.accelerator = settings, accelerator
        self.autocast = autocast_for(accelerator.device, settings.precision)
        device, world = accelerator.device, accelerator.num_processes
        if settings.batch_size % world:
            raise ValueError(f"batch_size={settings.batch_size} is not divisible by the {world} processes")
        source = open_source(settings.data, "train", root=settings.data_root, test_data=settings.test_data)
        self.source = source = limited(source, settings.train_limit, settings.seed)
        size = settings.image_size or source.image_size
        for_weights, for_alpha = search_split(source, settings.seed)
        augment = default_augment(source, size)
        changes: dict[str, Any] = {"crop_padding": round(settings.crop_padding * size / 32), "cutout": settings.cutout}
        if settings.flip is not None:
            changes["flip"] = settings.flip
        augment = dataclasses.replace(augment, **changes)

        def batches(indices: Any, augment: Augment | None) -> Batches:
            return Batches(
                source,
                indices,
                settings.batch_size if augment else 4 * settings.batch_size,
                image_size=size,
                device=device,
                augment=augment,
                shuffle=augment is not None,
                drop_last=augment is not None,
                seed=settings.seed,
                rank=accelerator.process_index,
                world=world,
                workers=settings.workers,
                memory_format=torch.channels_last if settings.channels_last else torch.contiguous_format,
            )

        self.weight_batches = batches(for_weights, augment)
        self.alpha_batches = batches(for_alpha, augment)
        self.eval_batches = batches(for_alpha[: settings.eval_size] if settings.eval_size else for_alpha, None)
        self.final_eval_batches = batches(for_alpha, None)
        self.steps = min(self.weight_batches.steps_per_epoch, self.alpha_batches.steps_per_epoch)

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
        if settings.sync_bn:
            supernet = convert_global_batch_norm(supernet)
        if settings.channels_last:
            supernet = supernet.to(memory_format=torch.channels_last)
        self.supernet = supernet.to(device)
        self.method: Any = method.to(device)
        self.weights = list(self.supernet.parameters())
        self.alphas = list(self.method.parameters())
        self.weight_optimizer = torch.optim.SGD(
            self.weights, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        # Decay of the architecture parameters is each method's own affair, in its loss.
        self.alpha_optimizer = torch.optim.Adam(self.alphas, settings.alpha_lr, betas=settings.alpha_betas)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        # loss, correct, images of the weight steps; loss, images of the architecture steps; of this process
        self.sums = torch.zeros(5, dtype=torch.float64)

    def state(self, log_lines: int, sums: torch.Tensor) -> dict[str, Any]:
        """`sums`: those of all processes. Without sync_bn the running statistics are those of the first process."""
        return {
            "settings": to_dict(self.settings),
            "data": self.source.fingerprint,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "log_lines": log_lines,
            "sums": sums,
            "supernet": self.supernet.state_dict(),
            "method": self.method.state_dict(),
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "alpha_optimizer": self.alpha_optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        if state["data"] != self.source.fingerprint:
            raise ValueError(
                f"data={self.settings.data!r} holds other images or labels than the data the checkpoint was made with"
            )
        self.supernet.load_state_dict(state["supernet"])
        self.method.load_state_dict(state["method"])
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])
        self.alpha_optimizer.load_state_dict(state["alpha_optimizer"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        saved = state["sums"]
        if len(saved) == 4:  # of before the last one was counted
            saved = torch.cat([saved, saved[2:3]])
        self.sums = saved.clone() if self.accelerator.is_main_process else torch.zeros_like(saved)

    def at(self, phase: Any, step: int | None = None) -> Step:
        index = self.epoch * self.steps + self.step if step is None else step
        return Step(self.epoch, index, self.settings.epochs, phase)

    def iterate(
        self, for_weights: tuple[torch.Tensor, torch.Tensor], held_out: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        """One iteration: architecture step, then weight step."""
        autocast = self.autocast

        alpha_value, alpha_images = torch.zeros((), device=self.accelerator.device), 0
        problem = Iteration(self.supernet, held_out, for_weights, self.weight_optimizer, autocast)
        alpha_loss = self.method.loss(problem, self.at("alpha"))
        if alpha_loss is not None and alpha_loss.requires_grad:
            # Asking for alpha's gradients alone spares the backward pass those of the weights, and what lies before
            # the first relaxed edge.
            gradients = torch.autograd.grad(alpha_loss, self.alphas, allow_unused=True)
            for alpha, gradient in zip(self.alphas, gradients, strict=True):
                alpha.grad = gradient
            average_gradients(self.alphas)
            self.alpha_optimizer.step()
            self.alpha_optimizer.zero_grad(set_to_none=True)
            alpha_value, alpha_images = alpha_loss.detach(), len(held_out[1])
        # The backward pass has freed only what it went through; the rest of the graph dies with its last reference.
        del alpha_loss

        with torch.no_grad():
            mixing = self.method.mixing(self.at("weights"))
        images, labels = for_weights
        with autocast():
            logits = self.supernet(images, mixing)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        average_gradients(self.weights)
        if self.settings.grad_clip:
            nn.utils.clip_grad_norm_(self.weights, self.settings.grad_clip)
        self.weight_optimizer.step()
        self.weight_optimizer.zero_grad(set_to_none=True)

        correct = (logits.detach().argmax(1) == labels).sum()
        self._pending.append(torch.stack([loss.detach() * len(labels), correct.float(), alpha_value * alpha_images]))
        self._images += len(labels)
        self._alpha_images += alpha_images

    _pending: list[torch.Tensor]
    _images: int
    _alpha_images: int

    def begin_counting(self) -> None:
        self._pending, self._images, self._alpha_images = [], 0, 0

    def settle(self) -> None:
        """Adds the figures of the last iterations, which so far lie on the device, to the sums of the epoch.

        Raises:
            FloatingPointError: Where the loss or a weight is not finite: the checkpoint before is kept.
        """
        if not self._pending:
            return
        for loss, correct, alpha_loss in torch.stack(self._pending).double().cpu():
            self.sums[0] += loss
            self.sums[1] += correct
            self.sums[3] += alpha_loss
        self.sums[2] += self._images
        self.sums[4] += self._alpha_images
        self.begin_counting()
        if not torch.isfinite(self.sums).all():
            raise FloatingPointError(
                f"the loss is not finite in epoch {self.epoch + 1} (lr={self.settings.lr}, "
                f"alpha_lr={self.settings.alpha_lr}, precision={self.settings.precision}); the last checkpoint is kept"
            )
        check_finite([*self.weights, *self.alphas, *self.supernet.buffers()], f"in epoch {self.epoch + 1}")

    def all_sums(self) -> torch.Tensor:
        """``sums`` of all processes together."""
        return total_over_processes(self.sums, self.accelerator.device)

    def genotypes(self, rules: Iterable[str | None]) -> dict[str, Genotype | None]:
        """The cells by each rule, None being the method's own, under the name "found"; None where there is no such."""
        found: dict[str, Genotype | None] = {}
        for rule in rules:
            try:
                found[rule or "found"] = self.method.genotype(rule)
            except ValueError:  # 'none' on every edge of a cell: no network to measure
                found[rule or "found"] = None
        return found

    def gap(
        self, genotypes: Mapping[str, Genotype | None], batches: Batches, reestimate: Iterable[str] | None = None
    ) -> dict[str, Any]:
        """``discretize.measure_gap`` of this run, statistics re-estimated over the epoch's first training batches."""
        average_buffers(self.supernet)
        count = min(self.settings.gap_batches, self.weight_batches.steps_per_epoch)
        return measure_gap(
            self.supernet,
            lambda: batches.epoch(0),
            (lambda: islice(self.weight_batches.epoch(self.epoch), count)) if count else None,
            lambda index: self.method.mixing(self.at("eval", index)),
            genotypes,
            self.autocast,
            reestimate,
        )

    def epoch_line(self) -> dict[str, Any]:
        """What the log says of the epoch that has just been trained."""
        settings = self.settings
        genotypes = self.genotypes((None, *DERIVATIONS))
        last = self.epoch + 1 == settings.epochs
        batches = self.final_eval_batches if last else self.eval_batches
        gap = self.gap(genotypes, batches, None if last else ("found",))
        # beside edge weights shared out, which is how methods are compared, a row with plain sums may stand second
        derived: dict[str, float] = {}
        for row in gap["after"]:
            derived.setdefault(row["cells"], row["running"])
        sums = self.all_sums()
        logits, edge_logits = logits_of(self.method), logits_of(self.method, "beta")
        found = genotypes["found"]
        return {
            "kind": "epoch",
            "epoch": self.epoch + 1,
            "lr": cosine(settings.lr, settings.lr_min, self.epoch, settings.epochs),
            "train": {"n": int(sums[2]), "loss": float(sums[0] / sums[2]), "accuracy": float(sums[1] / sums[2])},
            "alpha_loss": float(sums[3] / sums[4]) if sums[4] else None,  # of the steps that moved alpha
            "held_out": {
                "n": batches.num_samples,
                "supernet": gap["before"]["running"],
                "found": derived.get("found"),
                "derived": {rule: derived.get(rule) for rule in DERIVATIONS},
            },
            "gap": gap,
            "entropy": {kind: mean_entropy(logits[kind]) for kind in KINDS},
            "alpha": {kind: logits[kind].tolist() for kind in KINDS},
            **({"beta": {kind: edge_logits[kind].tolist() for kind in KINDS}} if edge_logits else {}),
            "operations": list(self.method.space.operations),
            "genotype": {rule: json.loads(g.to_json()) if (g := genotypes[rule]) else None for rule in DERIVATIONS},
            "found": json.loads(found.to_json()) if found else None,
            "histogram": found.histogram() if found else None,
            "collapsed": collapsed(found) if found else None,
        }


def save_derived(run: Search, out: Path) -> None:
    """The derived networks with the search's own weights: by the method's rule, and by the others where they differ."""
    own = run.method.genotype()
    found = {"derived": own}
    for rule in DERIVATIONS:
        try:
            genotype = run.method.genotype(rule)
        except ValueError:  # 'none' on every edge of a cell
            continue
        if genotype != own:
            found[f"derived_{rule}"] = genotype
    for name, genotype in found.items():
        network = derived_network(run.supernet, genotype)
        write_weights(out / f"{name}.safetensors", network.state_dict(), {"genotype": genotype.to_json()})


def provenance(
    settings: SearchSettings, line: Mapping[str, Any], source: ImageSource, facts: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "method": settings.method,
        "data": source.name,
        "epochs": line["epoch"],
        "settings": {k: v for k, v in to_dict(settings).items() if k not in ("data", *CHANGEABLE)},
        "held_out_accuracy": line["held_out"],
        "by": "nas-zoo",
        "facts": dict(facts),
    }


def write_genotype(path: Path, genotype: Genotype, provenance: Mapping[str, Any]) -> None:
    write_json(path, json.loads(genotype.to_json()) | {"provenance": dict(provenance)})


def report_epoch(line: Mapping[str, Any], epochs: int) -> str:
    held, derived = line["held_out"], line["held_out"]["derived"]

    def percent(value: float | None) -> str:
        return "   -  " if value is None else f"{100 * value:5.2f}%"

    train, entropy = line["train"], line["entropy"]
    return (
        f"epoch {line['epoch']:3d}/{epochs}  loss {train['loss']:.3f}  train {percent(train['accuracy'])}  "
        f"held-out: supernet {percent(held['supernet'])}, found {percent(held['found'])}, derived darts "
        f"{percent(derived['darts'])}, argmax {percent(derived['argmax'])}  "
        f"entropy {entropy['normal']:.2f}/{entropy['reduce']:.2f}  "
        f"{line['seconds']:.0f} s  {line['peak_memory_gb']:.2f} GB"
    )


def search(settings: SearchSettings, resume: dict[str, Any] | None = None, started: float | None = None) -> str | None:
    """Runs a search to its end, or to its time budget; returns why it stopped early (None: it did not).

    Args:
        settings: Of the method.
        resume: Contents of a checkpoint to continue from.
        started: time.monotonic() at which the time budget began.
    """
    accelerator = start_accelerator()
    main = accelerator.is_main_process
    out = settings.out
    run = Search(settings, accelerator)
    if resume is not None:
        run.load(resume)
    log, facts = RunLog(out, writes=main), run_facts(accelerator.device)
    if resume is None:
        data = {"name": run.source.name, "images": len(run.source), "classes": list(run.source.classes)}
        log.start(
            to_dict(settings),
            facts,
            overwrite=not (out / "checkpoint.pt").exists(),  # killed before the first one: it begins again
            seed=settings.seed,
            data=data,
            steps_per_epoch=run.steps,
        )
    else:
        log.take_up(resume["log_lines"], resume["settings"], changeable=CHANGEABLE)
        log.event("resumed", epoch=run.epoch + 1, iteration=run.step, commit=facts["commit"])
        if main:  # the run's own, of when it began
            facts = {key: value for key, value in RunLog.read(out)[0].items() if key in facts}
    if main:
        resumed = f"resumed at epoch {run.epoch + 1}, iteration {run.step} of {run.steps}"
        print(describe(settings) if resume is None else resumed, flush=True)
    checkpoint = out / "checkpoint.pt"

    def save() -> None:
        run.settle()
        sums = run.all_sums()
        if main:
            save_checkpoint(checkpoint, run.state(log.num_lines, sums), CHECKPOINT_KIND)
        accelerator.wait_for_everyone()

    with StopRequest(settings.time_budget, started=started) as stop:
        while run.epoch < settings.epochs:
            lr = cosine(settings.lr, settings.lr_min, run.epoch, settings.epochs)
            for group in run.weight_optimizer.param_groups:
                group["lr"] = lr
            if run.step == 0:
                run.sums.zero_()
            run.begin_counting()
            mark = last_save = time.monotonic()
            bar = tqdm(
                total=run.steps, initial=run.step, desc=f"epoch {run.epoch + 1}/{settings.epochs}", unit="it",
                disable=not (main and sys.stderr.isatty()), leave=False,
            )  # fmt: skip
            for for_weights, held_out in zip(
                run.weight_batches.epoch(run.epoch, run.step),
                run.alpha_batches.epoch(run.epoch, run.step),
                strict=False,
            ):
                run.iterate(for_weights, held_out)
                run.step += 1
                bar.update()
                if run.step % 50 == 0:
                    run.settle()
                    bar.set_postfix(loss=f"{run.sums[0] / run.sums[2]:.3f}")
                # asked of the others now and then: with one process a clock is free
                asked = run.step % 50 == 0 or accelerator.num_processes == 1
                due = asked and longest_since(last_save, accelerator.device) > CHECKPOINT_SECONDS
                reason = stop.agree(accelerator.device)
                if run.step < run.steps and (due or reason is not None):
                    run.seconds += time.monotonic() - mark
                    save()
                    mark = last_save = time.monotonic()
                    if reason is not None:
                        bar.close()
                        log.event("stopped", reason=reason, epoch=run.epoch + 1, iteration=run.step)
                        return reason
                if run.step == run.steps:
                    break
            bar.close()
            run.settle()
            line = run.epoch_line()
            run.seconds += time.monotonic() - mark
            line |= {"seconds": round(run.seconds, 3), "peak_memory_gb": round(peak_memory_gb(accelerator.device), 3)}
            log.append(line)
            if main:
                print(report_epoch(line, settings.epochs), flush=True)
                if line["collapsed"]:
                    print(COLLAPSE_WARNING, file=sys.stderr)
                if line["histogram"] is not None:
                    write_genotype(
                        out / "genotype.json", run.method.genotype(), provenance(settings, line, run.source, facts)
                    )
            run.epoch, run.step = run.epoch + 1, 0
            save()
            reason = stop.agree(accelerator.device)
            if reason is not None and run.epoch < settings.epochs:
                log.event("stopped", reason=reason, epoch=run.epoch + 1, iteration=0)
                return reason
    if main:
        if settings.partial_channels == 1:  # else the supernet has weights for a part of the channels only
            save_derived(run, out)
        last = [line for line in RunLog.read(out) if line["kind"] == "epoch"][-1]
        if "gap" in last:  # runs of before it was measured can be resumed
            print(gap_table(last["gap"], last["held_out"]["n"]))
        print(f"search finished in {run.seconds:.0f} s: {out / 'genotype.json'}")
    accelerator.end_training()
    return None


def config_path(name: str) -> Path:
    """A YAML file, or the name of one of the configurations that come with the project."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    if name not in shipped_configs():
        raise ValueError(f"config {name!r}: neither a YAML file nor one of {', '.join(shipped_configs())}")
    return CONFIGS / f"{name}.yaml"


def shipped_configs() -> list[str]:
    return sorted(file.stem for file in CONFIGS.glob("*.yaml"))


def make_parser(settings_class: type[SearchSettings]) -> argparse.ArgumentParser:
    parser = Parser(
        prog="nas-zoo search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shipped = ", ".join(shipped_configs())
    parser.add_argument("--config", help=f"YAML file of settings, or a shipped one: {shipped}")
    parser.add_argument("--resume", nargs="?", const="", metavar="CHECKPOINT",
                        help="continue the run in --out, or from this checkpoint")  # fmt: skip
    add_flags(parser, settings_class)
    parser.epilog = (
        f"These are the flags of --method {settings_class.method}. Methods: {', '.join(METHODS)};\n"
        "each has some flags of its own and its paper's defaults: nas-zoo search --method da2s --help"
    )
    return parser


def parse(argv: list[str]) -> tuple[SearchSettings, dict[str, Any] | None]:
    """Settings and, with --resume, the checkpoint's contents. Every mistake is a ValueError."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method")
    first.add_argument("--config")
    first.add_argument("--resume", nargs="?", const="")
    first.add_argument("--out", type=Path)
    known = first.parse_known_args(argv)[0]
    config = None if known.config is None else config_path(known.config)
    in_file = {} if config is None else read_config(config)
    method = known.method or in_file.get("method")
    if {"-h", "--help"} & set(argv):
        make_parser(find_method(method or "edas")[0]).parse_args(argv)
    out = known.out or Path(str(in_file.get("out") or SearchSettings.out))
    saved, state = run_to_resume(out, known.resume, CHECKPOINT_KIND)
    settings_class = find_method(method or ("edas" if saved is None else saved["method"]))[0]
    flags = given_flags(make_parser(settings_class).parse_args(argv))
    if saved is None:
        return settings_from(settings_class, flags, config), None
    return resumed_settings(settings_class, saved, flags, config, changeable=CHANGEABLE), state


def main(argv: list[str] | None = None) -> int:
    """The program: 0 when it ended or its time budget ran out, 2 for a mistake of the user's, 128 + n for signal n."""
    started = time.monotonic()
    try:
        settings, state = parse(sys.argv[1:] if argv is None else argv)
        reason = search(settings, state, started)
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"nas-zoo search: {error}", file=sys.stderr)
        return 2
    if reason is not None:
        print(f"stopped ({reason}); continue with: nas-zoo search --resume --out {settings.out}")
    return {"SIGTERM": 143, "SIGINT": 130}.get(reason or "", 0)


if __name__ == "__main__":
    sys.exit(main())
