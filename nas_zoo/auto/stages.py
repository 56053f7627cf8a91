"""The stages from pictures to a served model. Each leaves a line in the log of the folder, and is not done again.

What a stage has chosen from a clock (epochs that fit, a width that keeps the latency) stands in the log before it is
used, so that a program that was killed goes on with the same choice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas_zoo.auto.clock import Clock
from nas_zoo.auto.look import Look, look
from nas_zoo.auto.measuring import Scores, network, score, search_epoch_s, training_epoch_s, training_rate
from nas_zoo.auto.plan import (
    ENOUGH_EPOCHS,
    LADDER,
    LEAST_EPOCHS,
    SEARCH_SHARE,
    SPARE,
    Plan,
    Rung,
    TooTight,
    batch_for,
    default_size,
    divide_time,
    epochs_in,
    layout_for,
    search_size_for,
    sizes_below,
    smaller,
    widest,
)
from nas_zoo.auto.settings import AutoSettings
from nas_zoo.data.division import Division
from nas_zoo.data.fingerprint import FileIndex, fingerprint
from nas_zoo.data.named import NAMES, open_parts
from nas_zoo.data.sources import ImageSource, Skips
from nas_zoo.export.graph.check import CheckError
from nas_zoo.export.graph.deliver import Forms, deliver
from nas_zoo.export.graph.real_images import source_images
from nas_zoo.export.publish.card import write_card
from nas_zoo.export.publish.page import page_words, write_page
from nas_zoo.export.publish.published import open_checkpoint
from nas_zoo.export.runtime.latency import (
    Timer,
    conditions_here,
    measure_file,
    measure_network,
    measure_table,
    random_cells,
    table_path,
)
from nas_zoo.genotype import Genotype, load_genotype
from nas_zoo.models.count import count
from nas_zoo.models.latency import Conditions, LatencyTable, Shape, all_pieces
from nas_zoo.models.load import load_model, name_of_run
from nas_zoo.models.results import Result, file_sha256
from nas_zoo.runs.files import staged, write_json, write_text
from nas_zoo.runs.log import RunLog, unkept
from nas_zoo.search import SearchResult, find_method, search
from nas_zoo.text import plain
from nas_zoo.train import RECIPES, TrainResult, TrainSettings, train

__all__ = ["STAGES", "Auto", "Scores", "score"]

#: Name and words of each stage, in their order.
STAGES = {
    "look": "looking at the pictures",
    "plan": "choosing a size for both budgets",
    "table": "measuring the pieces of its networks",
    "search": "searching for cells",
    "derive": "measuring the network that was found",
    "train": "training it",
    "export": "writing, checking and timing the ONNX files",
    "test": "the test pictures, once",
    "publish": "card and page",
}
_MARGIN = 0.97  # of the latency budget, for what is measured before training: a later measurement differs a little
_INT8_LOSS = 0.01  # of accuracy and balanced accuracy that int8 may lose on the val part
_MOST_LISTED = 200  # pictures that cannot be read
_TABLE = "latency.json"
_DIVISION = "division.json"
MODEL, INT8 = "model.onnx", "model_int8.onnx"


class _Enough(Exception):
    """The search has used its time, or a training would use too much of it."""


class Auto:
    """One run of the program in its folder."""

    def __init__(self, settings: AutoSettings, log: RunLog, clock: Clock) -> None:
        self.settings, self.out, self.log, self.clock = settings, settings.out, log, clock
        self._lines = {
            (line["kind"], line["name"]): line for line in RunLog.read(self.out) if line["kind"] in ("stage", "choice")
        }
        self._same_data = False
        self._divided: tuple[int, dict[str, ImageSource]] | None = None
        self.timer = Timer()
        self.conditions = conditions_here("cpu", settings.threads, 1)

    # ------------------------------------------------------------------------------------------------- what is known

    def run(self) -> dict[str, Any]:
        """Does what is left to do; returns the summary."""
        for number, (name, words) in enumerate(STAGES.items(), 1):
            if ("stage", name) in self._lines:
                continue
            if number > 1:
                self.check_data()
            allotted = self._allotted(name)
            with self.clock.stage(name, number, len(STAGES), words):
                result = getattr(self, name)()
            self.clock.save()  # before the log, or a kill between them would lose the seconds
            self._append("stage", name, seconds=self.clock.stages[name], allotted=allotted, result=result)
        return self.summary()

    def check_data(self) -> None:
        """ValueError where the pictures are not those that were looked at; once a start, before it goes on."""
        if not self._same_data:
            index = FileIndex(self.out / "data_index.jsonl")
            now = tuple(fingerprint(source, index) for source in self.parts(stream=True).values())
            if now != self.look_found.fingerprints:
                raise ValueError(f"data={self.settings.data!r} holds other pictures than those that were looked at")
            self._same_data = True

    def result(self, stage: str) -> dict[str, Any]:
        """What a stage that has ended has come to."""
        found: dict[str, Any] = self._lines["stage", stage]["result"]
        return found

    def _append(self, kind: str, name: str, **more: Any) -> None:
        line = {"kind": kind, "name": name, **more}
        self.log.append(line)
        self._lines[kind, name] = json.loads(json.dumps(line))

    def chosen(self, name: str, choose: Callable[[], dict[str, Any]], *, again: bool = False) -> dict[str, Any]:
        """A choice, made once (or `again`) and in the log before it is used."""
        if again or ("choice", name) not in self._lines:
            self._append("choice", name, chosen=choose())
        found: dict[str, Any] = self._lines["choice", name]["chosen"]
        return found

    def _allotted(self, stage: str) -> float | None:
        if ("stage", "plan") not in self._lines:
            return None
        return self.plan_made.seconds.__dict__.get(stage)

    @property
    def look_found(self) -> Look:
        return Look.from_dict(self.result("look"))

    @property
    def plan_made(self) -> Plan:
        return Plan.from_dict(self.result("plan"))

    @property
    def shape(self) -> Shape:
        """Of the network that is trained."""
        derived = self.result("derive")
        sizes = {key: derived[key] for key in ("init_channels", "num_cells")}
        return dataclasses.replace(self.plan_made.shape, **sizes)

    @property
    def genotype(self) -> Genotype:
        return load_genotype(self.out / "genotype.json")

    @property
    def file(self) -> Path:
        """The delivered file."""
        return self.out / str(self.result("export")["file"])

    def parts(
        self, *, image_size: int | None = None, stream: bool | None = None, skips: Skips | None = None
    ) -> dict[str, ImageSource]:
        """The data set's own parts; one that a class has nothing in is refused by what looks at the pictures."""
        settings = self.settings
        assert settings.data is not None  # the program saw to that
        return open_parts(
            settings.data, root=settings.data_root, test_data=settings.test_data, image_size=image_size, stream=stream,
            image_column=settings.image_column, label_column=settings.label_column, few=True,
            skips=skips or Skips(settings.skip_unreadable, offered=True),
        )  # fmt: skip

    def divided(self, image_size: int) -> dict[str, ImageSource]:
        """The parts as they are trained and measured on, decoded once for all that is measured."""
        if self._divided is None or self._divided[0] != image_size:
            division = Division.read(self.out / _DIVISION)
            self._divided = image_size, division.of(self.parts(image_size=image_size))
        return self._divided[1]

    def data_settings(self) -> dict[str, Any]:
        """Settings of the data that searches and trainings share."""
        settings = self.settings
        names = (
            "data",
            "test_data",
            "data_root",
            "image_column",
            "label_column",
            "skip_unreadable",
            "workers",
            "seed",
            "flip",
        )
        return {name: getattr(settings, name) for name in names} | {"division": self.out / _DIVISION}

    # ------------------------------------------------------------------------------------------------------- stages

    def look(self) -> dict[str, Any]:
        """look.json and division.json."""
        settings, seen = self.settings, itertools.count(1)
        skips = Skips(settings.skip_unreadable, offered=True)

        def step(number: int) -> None:
            self.clock.note(f"{min(total, 64 * next(seen)):,} of {total:,} pictures")

        with skips.together():
            sources = self.parts(stream=True, skips=skips)
            total = sum(map(len, sources.values()))
            index = FileIndex(self.out / "data_index.jsonl")
            marks = tuple(fingerprint(source, index) for source in sources.values())
            own_test = settings.data in NAMES or settings.test_data is not None or bool(sources["test"].part)
            try:
                found, division = look(sources, settings.seed, own_test=own_test, fingerprints=marks, step=step)
            except ValueError:
                for fault in sorted(skips.known)[:_MOST_LISTED]:  # the error has some of them
                    self.clock.say(f"      {plain(fault)}")
                raise
        write_json(self.out / _DIVISION, dataclasses.asdict(division))
        record = found.to_dict()
        write_json(self.out / "look.json", record)
        self._same_data = True
        for sentence in found.sentences():
            self.clock.say(f"      {sentence}")
        return {key: value for key, value in record.items() if key in Look.__dataclass_fields__}

    def plan(self) -> dict[str, Any]:
        """The size of the network; ValueError where a budget is too tight for any."""
        settings, found = self.settings, self.look_found
        budget = settings.max_latency
        assert budget is not None
        wanted = settings.image_size or default_size(found.shorter)
        sizes = [wanted] if settings.image_size else sizes_below(wanted)
        images, measured, took = found.n["train"], dict[str, float](), list[float]()

        def shape_of(rung: Rung, size: int) -> Shape:
            return Shape(layout_for(size), *rung, len(found.classes), (found.channels, size, size))

        def ms(rung: Rung, size: int) -> float:
            key = f"{rung}, {size} pixels"
            if key not in measured:
                begun = time.monotonic()
                measured[key] = measure_network(random_cells(0), shape_of(rung, size), self.conditions, self.timer)
                took.append(time.monotonic() - begun)
                if self.clock.left < (least := 30 + 4 * float(np.median(took))):  # to search, train, export and check
                    raise self._too_short(least)
                self.clock.note(f"{key}: {measured[key]:.3f} ms")
            return measured[key]

        def rate(rung: Rung, size: int) -> float:
            return rates.setdefault((rung, size), training_rate(shape_of(rung, size)))

        rates: dict[tuple[Rung, int], float] = {}
        fixed = settings.init_channels, settings.num_cells
        ladder = [
            rung
            for rung in (LADDER if None in fixed else [Rung(*fixed)])  # type: ignore[arg-type]
            if fixed[0] in (None, rung.init_channels) and fixed[1] in (None, rung.num_cells)
        ]
        if not ladder:
            raise ValueError(
                "init_channels and num_cells: give both, or one that stands in the ladder of sizes: "
                + ", ".join(map(str, LADDER))
            )
        # about what training gets; the exact division follows when all is measured
        seconds = 0.5 * self.clock.left
        chosen: tuple[Rung, int] | None = None
        bound_by = ""
        for size in sizes:
            if ms(ladder[0], size) > budget:
                continue
            enough = widest(ladder, lambda rung, size=size: rate(rung, size) * seconds / images >= ENOUGH_EPOCHS)  # type: ignore[misc]
            if enough < 0 and size != sizes[-1]:
                continue
            affordable = ladder[: max(0, enough) + 1]
            at = widest(affordable, lambda rung, size=size: ms(rung, size) <= SPARE * budget)  # type: ignore[misc]
            chosen = affordable[max(0, at)], size
            bound_by = "latency" if at < len(affordable) - 1 else "time" if len(affordable) < len(ladder) else ""
            break
        if chosen is None:
            least = min(measured, key=measured.__getitem__)
            raise TooTight(
                f"max_latency must be at least {measured[least]:.3f} ms here ({self.conditions}): that is what the "
                f"smallest network takes ({least}), got {budget:g}"
            )
        rung, size = chosen
        network_s = float(np.median(took))
        shape = shape_of(rung, size)
        lacking = len(self._table().missing(all_pieces((*self._operations(), "none"), shape)))
        networks = 0 if shape in self._table().fits else max(4, min(12, int(0.08 * self.clock.left / network_s)))
        divided, least_s = divide_time(
            self.clock.left, pieces=lacking, piece_s=network_s / 8, network_s=network_s, networks=networks,
            images=images, images_per_second=rate(rung, size),
        )  # fmt: skip
        if self.clock.left < least_s:
            parts = (
                f": {least_s - divided.table - divided.finish:.0f} s to search and train at the least, "
                f"{divided.table:.0f} s to measure latencies, {divided.finish:.0f} s to export and check"
            )
            raise self._too_short(least_s, parts)
        made = Plan(
            layout=shape.layout, init_channels=rung.init_channels, num_cells=rung.num_cells, image_size=size,
            channels=found.channels, num_classes=len(found.classes), search_size=search_size_for(size),
            max_latency_ms=budget, reference_ms=ms(rung, size), measured=measured,
            images_per_second=rate(rung, size), networks=max(2, networks), seconds=divided, bound_by=bound_by,
        )  # fmt: skip
        self.clock.say(
            f"      {rung} at {size} pixels, {shape.layout} layout: {made.reference_ms:.3f} ms with reference cells, "
            f"{budget:g} ms allowed; search {divided.search:.0f} s, training {divided.train:.0f} s"
        )
        return made.to_dict()

    def _too_short(self, least_s: float, parts: str = "") -> ValueError:
        """The time budget leaves less than the least that is still needed."""
        needed = math.ceil((self.clock.spent + least_s) / 10) * 10
        return ValueError(
            f"time_budget must be at least {needed} seconds for these pictures here, got {self.clock.budget:g}{parts}"
        )

    def table(self) -> dict[str, Any]:
        """latency.json: what the latency term of the search and the estimate need."""
        made, places = self.plan_made, self._tables()
        table = self._table()
        wanted = all_pieces((*self._operations(), "none"), made.shape)

        def keep(changed: LatencyTable) -> None:
            for path in list(places):
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_text(path, changed.to_json())
                except OSError as error:
                    if path.parent == self.out:
                        raise
                    places.remove(path)  # it saves time only, and later runs measure again
                    self.clock.say(f"      the latencies are not kept for other runs: {error}")
            left = len(changed.missing(wanted))
            self.clock.note(f"{len(wanted) - left} of {len(wanted)} pieces" if left >= 10 else "whole networks")

        measure_table(
            table, made.shape, operations=self._operations(), networks=made.networks, timer=self.timer, keep=keep
        )
        fit = table.fit(made.shape)
        errors = [abs(fit(sum_) / latency - 1) for sum_, latency in fit.networks]
        return {
            "conditions": str(table.conditions), "networks": len(errors), "mean_error": float(np.mean(errors)),
            "largest_error": max(errors), "busy": self.timer.word(),
        }  # fmt: skip

    def search(self) -> dict[str, Any]:
        """The folder search/, of which genotype.json is a copy."""
        made, folder = self.plan_made, self.out / "search"
        # less than was planned where the stages before it have taken more
        allotted = self.chosen("seconds of the search", lambda: {
            "seconds": min(made.seconds.search, SEARCH_SHARE * (self.clock.left - made.seconds.finish))
        })["seconds"]  # fmt: skip
        settings_class: Any = find_method(self.settings.method)[0]

        def settings_with(**chosen: Any) -> Any:
            # eight edges a cell, as the reference cells that the size was planned with; how many argmax keeps only the
            # end of the search tells (11 to 13 of 14), and trained anew its cells were no better (docs/results.md)
            own = {"derive": "darts"} if "derive" in settings_class.__dataclass_fields__ else {}
            return settings_class(
                **self.data_settings(), **own, **chosen, image_size=made.search_size, eval_size=1000, gap_batches=4,
                max_latency=made.max_latency_ms, latency_table=self.out / _TABLE, target_layout=made.layout,
                target_channels=made.init_channels, target_cells=made.num_cells, target_size=made.image_size,
            )  # fmt: skip

        def choose() -> dict[str, Any]:
            half = self.look_found.n["train"] // 2
            batch = batch_for(half, 64)
            small = {"init_channels": min(8, made.init_channels), "num_cells": min(5, made.num_cells)}
            small |= {"batch_size": batch}
            with tempfile.TemporaryDirectory() as aside:
                epoch_s = search_epoch_s(settings_with(**small, epochs=10, out=Path(aside)))
            left = allotted - self.clock.stages["search"]
            most, limit = min(settings_class().epochs, self.settings.max_epochs), None
            # a larger supernet, up to its size, is nearer to the network, where its epochs are not too few
            for channels, cells in ((16, 8), (8, 8)):
                longer = epoch_s * (channels / 8) ** 2 * cells / 5
                fits = channels <= made.init_channels and cells <= made.num_cells
                if fits and left / longer >= min(15, most):
                    small |= {"init_channels": channels, "num_cells": cells}
                    epoch_s = longer
                    break
            if left < 3 * epoch_s:
                limit = max(8 * batch, int(2 * half * max(left, 1) / (3 * epoch_s)))
                return small | {"epochs": min(3, most), "train_limit": min(limit, 2 * half)}
            return small | {"epochs": epochs_in(left, epoch_s, most)}

        settings = settings_with(**self.chosen("search", choose), out=folder)
        self.clock.note(f"{settings.epochs} epochs of C={settings.init_channels} x {settings.num_cells} cells")

        def seen(line: Mapping[str, Any]) -> None:
            latency = line.get("latency") or {}
            self.clock.note(
                f"epoch {line['epoch']} of {settings.epochs}, cells of {latency.get('found_ms') or math.nan:.3f} ms"
            )
            if self.clock.stages["search"] > 1.2 * allotted and line["epoch"] < settings.epochs:
                raise _Enough

        with contextlib.suppress(_Enough):
            search(settings, resume="auto", callbacks=[seen])
        found = SearchResult.read(folder)
        if found.genotype is None:
            raise ValueError(
                f"the search in {folder} has found no cells: 'none' has won everywhere; try another --seed"
            )
        shutil.copyfile(folder / "genotype.json", self.out / "genotype.json")
        table = LatencyTable.read(self.out / _TABLE)
        return {
            "epochs": len(found.history), "of": settings.epochs, "method": settings.method,
            "genotype": found.genotype.digest,
            "predicted_latency_ms": table.estimate(found.genotype, made.shape).ms,
        }  # fmt: skip

    def derive(self) -> dict[str, Any]:
        """The size at which the network found keeps the latency, as measured with untrained weights.

        That of the plan, else a smaller one; the smallest where none keeps it, of which the end tells.
        """
        made, genotype, tried = self.plan_made, self.genotype, dict[str, float]()
        planned = Rung(made.init_channels, made.num_cells)
        for rung in (planned, *smaller(planned)):
            shape = dataclasses.replace(made.shape, **rung._asdict())
            tried[str(rung)] = ms = measure_network(genotype, shape, self.conditions, self.timer)
            self.clock.note(f"{rung}: {ms:.3f} ms")
            if ms <= _MARGIN * made.max_latency_ms:
                break
        same = rung == planned
        predicted = LatencyTable.read(self.out / _TABLE).estimate(genotype, shape).ms if same else None
        words = "" if same else f"; {planned}, as planned, takes {tried[str(planned)]:.3f}"
        self.clock.say(f"      {rung}: {ms:.3f} ms as measured{words}")
        return {**rung._asdict(), "measured_ms": tried, "predicted_latency_ms": predicted}

    def train(self) -> dict[str, Any]:
        """The folder train/."""
        folder, made, shape = self.out / "train", self.plan_made, self.shape
        recipe = self.settings.recipe
        photographs = made.layout == "imagenet"

        def settings_with(**chosen: Any) -> TrainSettings:
            return TrainSettings.from_recipe(
                recipe, **self.data_settings(), **chosen, model=f"cell_net_{shape.layout}",
                genotype=str(self.out / "genotype.json"), init_channels=shape.init_channels,
                num_cells=shape.num_cells, image_size=made.image_size, crop_pct=1.0,  # as all else here sees them
            )  # fmt: skip

        def choose() -> dict[str, Any]:
            most: int = RECIPES[recipe]["batch_size"]
            batch = batch_for(self.look_found.n["train"], min(most, 64) if photographs else most)
            rate = {"batch_size": batch, "lr": RECIPES[recipe]["lr"] * batch / most}
            begun = time.monotonic()
            with tempfile.TemporaryDirectory() as aside:
                epoch_s, val_s = training_epoch_s(settings_with(**rate, out=Path(aside), epochs=50))
            # the pictures are opened again, and a tenth is for what a clock cannot foresee
            left = 0.9 * (self.clock.left - made.seconds.finish - (time.monotonic() - begun))
            return rate | schedule(fitting(left, epoch_s + 0.5 * val_s), val_s / epoch_s)

        def fitting(seconds: float, epoch_s: float) -> int:
            """Epochs, and not so few that the time spent before them is lost."""
            most = self.settings.max_epochs
            return max(min(LEAST_EPOCHS, most), epochs_in(seconds, epoch_s, most))

        def schedule(epochs: int, val_part: float = 0.1) -> dict[str, Any]:
            return {
                "epochs": epochs, "warmup_epochs": min(epochs - 1, max(1, epochs // 5)),
                "eval_every": min(epochs, max(1, epochs // 20, round(2 * val_part))),
            }  # fmt: skip

        chosen = self.chosen("train", choose)

        def seen(line: Mapping[str, Any]) -> None:
            each, epochs = line["seconds"] / line["epoch"], chosen["epochs"]
            rest = (epochs - line["epoch"]) * each
            left = self.clock.left - made.seconds.finish
            self.clock.expected = rest + made.seconds.finish
            # another program has taken the processor, or leaves it: while little is lost it begins again
            fits = fitting(0.9 * left, each)
            slow = rest > 1.15 * max(left, LEAST_EPOCHS * each) and line["epoch"] <= max(1, epochs // 8)
            idle = fits > 1.7 * epochs and line["epoch"] == 1 and epochs <= self.settings.max_epochs // 2
            if (slow and fits < epochs) or idle:
                self.chosen("train", lambda: chosen | schedule(fits), again=True)
                raise _Enough
            watched = next(iter((line.get("val") or {}).values()), None)
            right = f", {100 * watched['top1']:.1f} % of the pictures that watch" if watched else ""
            self.clock.note(f"epoch {line['epoch']} of {epochs}{right}")

        former = self.out / ".train.old"
        while not (folder / "result.json").is_file():
            chosen = self.chosen("train", choose)
            logged = RunLog.read(folder)[:1] if (folder / "log.jsonl").is_file() else []
            if logged and (logged[0]["settings"]["epochs"] != chosen["epochs"] or unkept(folder)):  # it begins again
                shutil.rmtree(former, ignore_errors=True)
                folder.rename(former)  # gone at once or not at all, whenever this is killed
            self.clock.note(f"{chosen['epochs']} epochs")
            with contextlib.suppress(_Enough):
                train(settings_with(**chosen, out=folder), resume="auto", callbacks=[seen])
        shutil.rmtree(former, ignore_errors=True)
        result = TrainResult.read(folder)
        assert result.figures is not None
        with staged(self.out) as aside:
            for name in ("config.json", "model.safetensors"):
                shutil.copyfile(folder / name, aside / name)
        return {"epochs": chosen["epochs"], "parameters": result.figures["parameters"], "pytorch_top1": result.top1}

    def export(self) -> dict[str, Any]:
        """model.onnx and its images form, and those of int8 where they are faster and as good."""
        shape, size = self.shape, self.plan_made.image_size
        parts = self.divided(size)
        val = parts["val"]
        model = load_model(str(self.out / "train"))
        # among few pictures one that is a near thing would decide; the classes of more of them say as much
        real = source_images(val if len(val) >= 100 else parts["train"], limit=256)
        self.clock.note("float32")
        deliver(model, self.out, Forms(layout="NHWC"), images=real)
        input_size = shape.input_size
        ms = {MODEL: self._ms(MODEL, input_size)}
        for _ in range(2):
            if ms[MODEL] > self.plan_made.max_latency_ms:  # something else may have been at work
                ms[MODEL] = min(ms[MODEL], self._ms(MODEL, input_size))
        scores = {MODEL: score(self.out / MODEL, val)[0]}
        said, chosen = None, MODEL
        self.clock.note("int8")
        with tempfile.TemporaryDirectory() as aside:
            try:
                forms = Forms(int8=True, layout="NHWC")
                calibration = source_images(parts["train"], limit=256)
                deliver(model, aside, forms, images=real, calibration=calibration, base=self.out / MODEL)
            except CheckError as error:
                said = f"int8 is left out: {error}"
            else:
                ms[INT8] = self._ms(Path(aside) / INT8, input_size)
                ms[MODEL] = min(ms[MODEL], self._ms(MODEL, input_size))  # in turns
                scores[INT8] = score(Path(aside) / INT8, val)[0]
                keeps = all(
                    getattr(scores[INT8], key) >= getattr(scores[MODEL], key) - _INT8_LOSS
                    for key in ("top1", "balanced_accuracy")
                )
                said = (
                    f"int8 takes {ms[INT8]:.3f} ms where float32 takes {ms[MODEL]:.3f}, and gets "
                    f"{100 * scores[INT8].top1:.2f} % of the val part right where that gets "
                    f"{100 * scores[MODEL].top1:.2f}"
                )
                if ms[INT8] < 0.95 * ms[MODEL] and keeps:
                    chosen = INT8
                    with staged(self.out) as place:
                        for file in Path(aside).glob("model_int8*"):
                            shutil.copyfile(file, place / file.name)
                said += "; it is delivered" if chosen == INT8 else "; float32 is delivered"
        self.clock.say(f"      {said}")
        return {
            "file": chosen, "images_file": chosen.replace(".onnx", "_images.onnx"), "measured_ms": ms,
            "val": {name: dataclasses.asdict(one) for name, one in scores.items()}, "int8": said,
            "busy": self.timer.word(), "sha256": file_sha256(self.out / chosen),
            "conditions": dataclasses.asdict(self.conditions),
        }  # fmt: skip

    def test(self) -> dict[str, Any]:
        """predictions.json: what the delivered file says of each test picture; CheckError where PyTorch differs."""
        source = self.divided(self.plan_made.image_size)["test"]
        scores, predicted, probability = score(self.file, source)
        float32 = scores if self.file.name == MODEL else score(self.out / MODEL, source)[0]
        pytorch = self.result("train")["pytorch_top1"]
        if abs(float32.top1 - pytorch) > 0.01:
            raise CheckError(
                f"{MODEL}: gets {100 * float32.top1:.2f} % of the test pictures right, PyTorch {100 * pytorch:.2f} %"
            )
        names = source.files.names if source.files is not None else [str(i) for i in range(len(source))]
        rows = zip(names, source.labels, predicted, probability, strict=True)
        write_json(self.out / "predictions.json", {
            "classes": source.classes,
            "test": [[name, int(label), int(found), round(float(p), 4)] for name, label, found, p in rows],
        })  # fmt: skip
        return dataclasses.asdict(scores) | {"pytorch_top1": pytorch, "float32": dataclasses.asdict(float32)}

    def publish(self) -> dict[str, Any]:
        """README.md with cells.png, and page/."""
        checkpoint = open_checkpoint(str(self.out / "train"), called=name_of_run(self.out))
        write_card(checkpoint, self.out)
        page, row = self.out / "page", checkpoint.row
        if not (page / "index.html").exists():
            assert isinstance(row, Result)  # of a run of one's own
            delivered = dataclasses.replace(row, top1=round(100 * self.result("test")["top1"], 2))
            words = page_words(dataclasses.replace(checkpoint, row=delivered))
            if self.file.name == INT8:
                words += " It runs with eight-bit numbers, as it is delivered."
            write_page(checkpoint, page, file=self.out / self.result("export")["images_file"], words=words)
        return {"card": "README.md", "page": "page"}

    # ------------------------------------------------------------------------------------------------------- summary

    def summary(self) -> dict[str, Any]:
        """summary.json: the figures of the delivered file and what they were measured on."""
        settings, shape, tested, exported = self.settings, self.shape, self.result("test"), self.result("export")
        counts = count(network(self.genotype, shape), shape.input_size)
        budget = self.plan_made.max_latency_ms
        measured = exported["measured_ms"][exported["file"]]
        if not self.file.is_file() or exported.get("sha256") not in (None, file_sha256(self.file)):
            raise ValueError(
                f"{str(self.file)!r} is not, or not as it was, when it was timed and tested; put it back, or begin "
                "anew with another --out"
            )
        seconds = {name: self._lines["stage", name]["seconds"] for name in STAGES}
        # those of the measurement: a run that goes on may do so elsewhere, or with another runtime
        timed = Conditions(**exported["conditions"]) if "conditions" in exported else self.conditions
        found = {
            "file": exported["file"], "images_file": exported["images_file"],
            "max_latency_ms": budget,
            "predicted_latency_ms": self.result("derive")["predicted_latency_ms"],
            "measured_latency_ms": measured,
            "within_budget": measured <= budget,
            "top1": tested["top1"], "balanced_accuracy": tested["balanced_accuracy"], "n": tested["n"],
            "pytorch_top1": tested["pytorch_top1"],
            "classes": len(self.look_found.classes),
            "parameters": counts.params, "macs": counts.macs,
            "layout": shape.layout, "init_channels": shape.init_channels, "num_cells": shape.num_cells,
            "image_size": shape.input_size[1], "genotype": self.genotype.digest, "method": settings.method,
            "search_epochs": self.result("search")["epochs"], "train_epochs": self.result("train")["epochs"],
            "threads": timed.threads, "runtime": timed.runtime, "device": timed.device, "bound_by": self._bound_by(),
            "seed": settings.seed,
            "seconds": round(sum(seconds.values()), 1), "time_budget": settings.time_budget,
            "seconds_by_stage": seconds,
            "measured_on": {
                "latency": f"{exported['file']}, {timed}",
                "accuracy": f"{tested['n']} test pictures of {self.look_found.data}, which decided nothing",
                "busy": exported["busy"],
            },
        }  # fmt: skip
        write_json(self.out / "summary.json", found)
        return found

    def _bound_by(self) -> str:
        """What the size was held back by, where the network has the size of the plan."""
        made, derived = self.plan_made, self.result("derive")
        same = (derived["init_channels"], derived["num_cells"]) == (made.init_channels, made.num_cells)
        return made.bound_by if same else "latency"

    def _table(self) -> LatencyTable:
        for path in self._tables():
            if path.is_file() and (table := LatencyTable.read(path)).conditions == self.conditions:
                return table
        return LatencyTable(self.conditions)

    def _tables(self) -> list[Path]:
        """Where measured times are kept: for all runs of this user, and for this one."""
        return [table_path(self.conditions), self.out / _TABLE]

    def _operations(self) -> Sequence[str]:
        operations: Sequence[str] = find_method(self.settings.method)[0]().operations
        return tuple(name for name in operations if name != "none")

    def _ms(self, file: str | Path, input_size: Sequence[int]) -> float:
        return measure_file(self.out / file, input_size, self.conditions, self.timer)
