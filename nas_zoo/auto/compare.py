"""The network that was found beside those that are had without a search: trained alike, timed in turns.

`nas-zoo auto --compare` trains with its own time budget, each for as long as the network that was found and with its
recipe: random cells and cells of the catalogue at the same width and depth, a network of timm from scratch and, with
--pretrained, the same one with its published weights. OUT/compare.json has a row each, OUT/compare/NAME what there is
of it; what has been done is not done again. Nothing is chosen by the test pictures, which give the last figures alone.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas_zoo.auto.clock import Clock
from nas_zoo.auto.measuring import score, training_epoch_s
from nas_zoo.auto.settings import AutoSettings
from nas_zoo.auto.stages import INT8, MODEL, Auto
from nas_zoo.data.sources import ImageSource
from nas_zoo.export.graph.deliver import deliver
from nas_zoo.export.graph.real_images import source_images
from nas_zoo.export.runtime.latency import measure_in_turns, random_cells
from nas_zoo.genotype import Genotype, load_genotype
from nas_zoo.models.latency import LatencyTable
from nas_zoo.models.load import load_model
from nas_zoo.runs.files import write_json, write_text
from nas_zoo.runs.log import unkept
from nas_zoo.train import RECIPES, TrainResult, TrainSettings, train

__all__ = ["Rival", "compare", "rivals"]


@dataclass(frozen=True)
class Rival:
    """A network that is compared with."""

    kind: str  # "random", "catalogue", "timm", "pretrained"
    name: str
    what: str  # beside the name
    genotype: Genotype | None = None  # None: the network of timm by that name

    @property
    def folder(self) -> str:
        """Below OUT/compare."""
        return f"{self.kind}_{self.name}".replace("/", "_").replace(" ", "_")


def rivals(settings: AutoSettings) -> list[Rival]:
    """Those of the settings; ValueError where the catalogue has no such cells."""
    same, cells = "same width and depth", settings.against_cells
    found = [
        Rival("random", "random cells", same, random_cells(2 * (1000 + settings.seed))),
        Rival("catalogue", cells, f"cells of the catalogue, {same}", load_genotype(cells)),
        Rival("timm", settings.against, "timm, from scratch"),
    ]  # fmt: skip
    if settings.pretrained:
        found.append(Rival("pretrained", settings.against, "timm, published weights, fine-tuned"))
    return found


def compare(auto: Auto, clock: Clock) -> dict[str, Any]:
    """compare.json, when every rival has been trained, exported, timed and tested.

    `clock`: its own, of OUT/compare; an infinite budget becomes what trains all of them as long as what was found.
    """
    (auto.out / "compare").mkdir(exist_ok=True)
    wanted = rivals(auto.settings)
    kept = auto.out / "compare.json"
    if kept.exists():
        known: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        less = known["left_out"] or any(row["epochs"] < row["epochs_wanted"] for row in known["rows"])
        more = math.isfinite(clock.budget) and clock.budget > known["budget"]
        if known["of"] == [rival.folder for rival in wanted] and not (less and more):
            return known
    if not math.isfinite(clock.budget):
        clock.budget = 60 + 1.3 * len(wanted) * _own(auto)["seconds"]
    left_out: list[str] = []
    auto.check_data()
    with clock.running():
        parts = auto.divided(auto.plan_made.image_size)
        done: list[Rival] = []
        for number, rival in enumerate(wanted, 1):
            with clock.stage(rival.folder, number, len(wanted) + 1, f"comparing with {rival.name} ({rival.what})"):
                try:
                    said = _made(auto, rival, clock, len(wanted) - number + 1, parts["val"])
                except (ValueError, OSError) as error:
                    if rival.kind != "pretrained":  # all else is had without a network
                        raise
                    said = f"it could not be fine-tuned: {str(error).splitlines()[0]}"
            if said is None:
                done.append(rival)
            else:
                left_out.append(f"{rival.name} ({rival.what}), {said}")
        with clock.stage("measure", len(wanted) + 1, len(wanted) + 1, "timing all in turns, and the test pictures"):
            rows = _rows(auto, done, parts["test"])
    record = {
        "of": [rival.folder for rival in wanted], "rows": rows, "left_out": left_out, "budget": clock.budget,
        "seconds": round(sum(clock.stages.values()), 1), "conditions": str(auto.conditions),
    }  # fmt: skip
    write_json(kept, record)
    return record


def _own(auto: Auto) -> dict[str, Any]:
    """result.json of the network that was found."""
    figures = TrainResult.read(auto.out / "train").figures
    assert figures is not None  # it was trained
    return figures


def _settings(auto: Auto, rival: Rival, chosen: Mapping[str, Any], out: Path) -> TrainSettings:
    """As of the network that was found, but for the network; of trained weights with the recipe for these."""
    shape, recipe = auto.shape, "finetune" if rival.kind == "pretrained" else auto.settings.recipe
    network: dict[str, Any] = {"model": rival.name, "aux_weight": 0.0}
    if rival.genotype is not None:
        cells = out.with_name(f"{out.name}_cells.json")
        write_text(cells, rival.genotype.to_json())
        network = {"model": f"cell_net_{shape.layout}", "genotype": str(cells), "init_channels": shape.init_channels,
                   "num_cells": shape.num_cells}  # fmt: skip
    if rival.kind == "pretrained":
        most = RECIPES[recipe]["batch_size"]
        batch = min(most, chosen["batch_size"])
        network |= {"pretrained": True}
        chosen = {**chosen, "batch_size": batch, "lr": RECIPES[recipe]["lr"] * batch / most}
    return TrainSettings.from_recipe(
        recipe, **auto.data_settings(), **network, **chosen, eval_every=0, image_size=auto.plan_made.image_size,
        crop_pct=1.0, out=out,  # as all else here sees them
    )  # fmt: skip


def _made(auto: Auto, rival: Rival, clock: Clock, left: int, val: ImageSource) -> str | None:
    """Trains and exports a rival, of which `left` are to come; None, or why it is left out."""
    folder = auto.out / "compare" / rival.folder
    folder.mkdir(exist_ok=True)
    own = _own(auto)

    def choose() -> dict[str, Any]:
        given = auto.chosen("train", dict)
        like = {"batch_size": given["batch_size"], "lr": given["lr"]}
        ratio = 1.0  # cells at the same width and depth: as many epochs
        if rival.genotype is None:  # as much time, whatever else the machine did when the other was trained
            with tempfile.TemporaryDirectory() as aside:
                mine, theirs = (
                    training_epoch_s(_settings(auto, one, like | {"epochs": 50}, Path(aside) / one.kind))[0]
                    for one in (Rival("found", "found", "", auto.genotype), rival)
                )
            ratio = theirs / mine
        epoch_s, seconds = ratio * own["seconds"] / own["epochs"], 0.9 * clock.left / left
        wanted = min(auto.settings.max_epochs, max(1, round(own["epochs"] / ratio)))
        epochs, known = min(wanted, int(seconds / epoch_s)), {"wanted": wanted, "budget": clock.budget}
        if epochs < 1:
            return known | {"epochs": 0, "epoch_s": epoch_s, "seconds": max(0.0, seconds)}
        return known | like | {"epochs": epochs, "warmup_epochs": min(epochs - 1, max(1, epochs // 5))}

    chosen = dict(auto.chosen(f"compare {rival.folder}", choose))
    if chosen["epochs"] < chosen.get("wanted", 1) and chosen.get("budget", 0.0) < clock.budget:  # it has more time now
        shutil.rmtree(folder)
        folder.mkdir()
        chosen = dict(auto.chosen(f"compare {rival.folder}", choose, again=True))
    if not chosen["epochs"]:
        return f"an epoch takes {chosen['epoch_s']:.0f} s, and {chosen['seconds']:.0f} s were left for it"
    for name in ("wanted", "budget"):
        chosen.pop(name, None)
    clock.note(f"{chosen['epochs']} epochs")
    run = folder / "train"
    if not (run / "result.json").is_file():
        if unkept(run):
            shutil.rmtree(run, ignore_errors=True)
        train(
            _settings(auto, rival, chosen, run), resume="auto",
            callbacks=[lambda line: clock.note(f"epoch {line['epoch']} of {chosen['epochs']}")],
        )  # fmt: skip
    if not (folder / MODEL).exists():
        deliver(load_model(str(run)), folder, images=source_images(val, limit=64))
    return None


def _rows(auto: Auto, done: list[Rival], test: ImageSource) -> list[dict[str, Any]]:
    """What was found first, then the rivals."""
    table, size = LatencyTable.read(auto.out / "latency.json"), auto.shape.input_size

    def predicted(genotype: Genotype | None) -> float | None:
        try:
            return None if genotype is None else table.estimate(genotype, auto.shape).ms
        except ValueError:  # cells with operations of others, or a width that was not planned
            return None

    rows: list[dict[str, Any]] = [
        {"kind": "found", "name": "found", "what": "float32", "file": MODEL, "run": auto.out / "train",
         "predicted_latency_ms": predicted(auto.genotype)}
    ]  # fmt: skip
    if (auto.out / INT8).exists():
        rows.append({**rows[0], "kind": "found_int8", "name": "found, int8", "what": "delivered", "file": INT8,
                     "predicted_latency_ms": None})  # fmt: skip
    for rival in done:
        rows.append({"kind": rival.kind, "name": rival.name, "what": rival.what,
                     "file": f"compare/{rival.folder}/{MODEL}", "run": auto.out / "compare" / rival.folder / "train",
                     "epochs_wanted": auto.chosen(f"compare {rival.folder}", dict)["wanted"],
                     "predicted_latency_ms": predicted(rival.genotype)})  # fmt: skip
    times = measure_in_turns([(auto.out / row["file"], size) for row in rows], auto.conditions)
    for row, ms in zip(rows, times, strict=True):
        result = TrainResult.read(row.pop("run")).figures
        assert result is not None
        row |= asdict(score(auto.out / row["file"], test)[0]) | {
            "measured_latency_ms": ms, "parameters": result["parameters"], "epochs": result["epochs"],
            "train_seconds": result["seconds"], "epochs_wanted": row.get("epochs_wanted") or result["epochs"],
        }  # fmt: skip
    return rows
