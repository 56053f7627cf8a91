"""Model cards: hub_cards/template.md filled from a checkpoint's row of results.csv and its cells.

    nas-zoo card edas_e8_c10_s                       # hub_cards/edas_e8_c10_s/README.md and cells.png
    nas-zoo card --all
    nas-zoo card runs/net --to card --repo owner/net

The card's figures are the row's and nobody else's; what a paper reports stands in a section of its own that says so.
"""

from __future__ import annotations

import argparse
import math
import re
import string
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from nas_zoo.export.cells.draw import draw_genotype
from nas_zoo.export.publish.published import Checkpoint, open_checkpoint
from nas_zoo.genotype import Genotype, genotype_record
from nas_zoo.models import results
from nas_zoo.models.count import CONVENTION
from nas_zoo.models.registry import DATA, MODELS
from nas_zoo.models.results import Result
from nas_zoo.models.table import paper_figures
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import staged, write_text
from nas_zoo.runs.settings import Parser
from nas_zoo.train.recipes import RECIPES

__all__ = ["card_data", "card_text", "main", "write_card"]

PICTURE = "cells.png"
_DARTS_PAPER = "DARTS: Differentiable Architecture Search, 2018 (arXiv:1806.09055)"


def card_data(row: Result) -> ModelCardData:
    """The card's YAML: what the Hub sorts, searches and shows by."""
    # Figures on a changed data set must not stand among those of the set itself.
    own_set = bool(row.dataset_id) and not row.dataset_note
    data_type = row.dataset_id if own_set else re.sub(r"[^a-z0-9]+", "-", row.dataset.lower()).strip("-")
    common: dict[str, Any] = {
        "task_type": "image-classification",
        "task_name": "Image classification",
        "dataset_type": data_type,
        "dataset_name": row.dataset,
        "dataset_split": "test",
    }
    figures = [EvalResult(**common, metric_type="accuracy", metric_name="top-1 (%)", metric_value=row.top1)]
    if row.top5 is not None:
        figures.append(EvalResult(**common, metric_type="accuracy", metric_name="top-5 (%)", metric_value=row.top5))
    return ModelCardData(
        model_name=row.name,
        library_name="timm",
        pipeline_tag="image-classification",
        license=row.license,
        datasets=[row.dataset_id] if row.dataset_id else None,
        metrics=["accuracy"],
        tags=["image-classification", "timm", "nas-zoo", "neural-architecture-search", "darts", "onnx"],
        eval_results=figures,
        ignore_metadata_errors=False,
    )


def card_text(checkpoint: Checkpoint, *, repo: str | None = None, onnx: bool = False) -> str:
    """The card of a checkpoint.

    Args:
        checkpoint: Of the package or of a run.
        repo: ORG/NAME that it is published in; its code then loads from there.
        onnx: A model.onnx lies beside the card.

    Raises:
        ValueError: The template is not there or has a field that is not known here.
    """
    row = checkpoint.row
    words = _words(checkpoint, repo, onnx)
    try:
        body = string.Template(_template()).substitute(words)
    except KeyError as error:
        raise ValueError(f"hub_cards/template.md: the field {error} is not known") from None
    body = re.sub(r"\n{3,}", "\n\n", body)
    return f"---\n{card_data(row).to_yaml()}\n---\n\n{body}"


def write_card(checkpoint: Checkpoint, folder: Path | str, *, repo: str | None = None, onnx: bool = False) -> Path:
    """README.md and the picture of the cells in that folder; returns the card."""
    text = card_text(checkpoint, repo=repo, onnx=onnx)
    with staged(folder) as aside:
        draw_genotype(_genotype(checkpoint), aside / PICTURE)
        write_text(aside / "README.md", text)
    return Path(folder) / "README.md"


def _template() -> str:
    try:
        return resources.files("nas_zoo.hub_cards").joinpath("template.md").read_text("utf-8")
    except (ModuleNotFoundError, OSError) as error:
        raise ValueError(f"hub_cards/template.md is missing from the installation: {error}") from None


def _genotype(checkpoint: Checkpoint) -> Genotype:
    if checkpoint.row.cell:
        return Genotype.from_json(genotype_record(checkpoint.row.cell))
    genotype: Genotype = checkpoint.model().genotype
    return genotype


# -------------------------------------------------------------------------------------------------------------- words


def _words(checkpoint: Checkpoint, repo: str | None, onnx: bool) -> dict[str, str]:
    row = checkpoint.row
    provenance = genotype_record(row.cell).get("provenance", {}) if row.cell else {}
    share = row.top1 / 100
    error = 100 * math.sqrt(share * (1 - share) / row.test_images)
    return {
        "title": repo.split("/")[1] if repo else checkpoint.title,
        "summary": _summary(row, provenance),
        "cells_picture": f"![Normal and reduction cell]({PICTURE})",
        "top1": f"{row.top1:.2f}",
        "dataset": row.dataset,
        "test_images": f"{row.test_images:,}",
        "standard_error": f"{error:.2f}",
        "seeds": str(len(row.seeds)),
        "results_notes": _results_notes(row),
        "paper_section": _paper_section(row, provenance),
        "load_name": f"hf-hub:{repo}" if repo else row.name if checkpoint.folder is None else "local-dir:FOLDER",
        "mode": "L" if row.input_size[0] == 1 else "RGB",
        "onnx_section": _onnx_section() if onnx else "",
        "width": str(row.input_size[2]),
        "height": str(row.input_size[1]),
        "mean": _numbers(row.mean),
        "std": _numbers(row.std),
        "classes": _classes(row),
        "training": _training(row),
        "recipe": _recipe(row),
        "epochs": str(row.epochs),
        "train_images": f"{row.train_images:,}",
        "seed": str(row.seed),
        "seconds": _duration(row.seconds),
        "hardware": _hardware(row),
        "versions": row.versions.replace(" ", ", ").replace("=", " "),
        "commit": f"`{row.commit}`" if row.commit else "unknown",
        "date": row.date,
        "network": _network(row, provenance),
        "params": f"{row.params:,}",
        "macs": f"{row.macs:,}",
        "convention": CONVENTION,
        "init_channels": str(row.init_channels),
        "num_cells": str(row.num_cells),
        "dtype": row.dtype,
        "size": f"{row.size:,} bytes",
        "sha256": row.sha256,
        "limits": _limits(row),
        "license": row.license,
        "citation": _citation(provenance),
    }


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _classes(row: Result) -> str:
    meant = row.label_descriptions
    # the first of a synset's names says enough
    named = [f"{name} ({meant[name].split(',')[0]})" if name in meant else name for name in row.label_names[:20]]
    return ", ".join(named) + (f" and {row.num_classes - 20} more" * (row.num_classes > 20))


def _duration(seconds: float) -> str:
    return f"{seconds:,.0f} s" + (f" ({seconds / 3600:.1f} h)" if seconds >= 3600 else "")


def _summary(row: Result, provenance: dict[str, Any]) -> str:
    found = f", found by {provenance['method']}" if provenance.get("method") else ""
    cells = f"the cells `{row.cell}`{found}" if row.cell else f"cells of our own (`{row.genotype}`)"
    return (
        f"An image classifier of {row.params:,} parameters on the DARTS cell space: {cells}, in a "
        f"network of {row.num_cells} cells and C = {row.init_channels}, trained from scratch on {row.dataset}."
    )


def _results_notes(row: Result) -> str:
    notes = []
    if row.dataset_note:
        notes.append(f"{row.dataset} is {row.dataset_note}.")
    if row.top5 is not None:
        notes.append(f"Top-5: {row.top5:.2f} %.")
    if row.spread is not None:
        listed = ", ".join(f"{value:.2f} (seed {seed})" for seed, value in zip(row.seeds, row.seeds_top1, strict=True))
        mean = sum(row.seeds_top1) / len(row.seeds_top1)
        notes.append(
            f"Over {len(row.seeds)} seeds: {mean:.2f} % on average, standard deviation {row.spread:.2f} points: "
            f"{listed}. The published weights are those of the first seed, not of the best."
        )
    else:
        notes.append("One seed was trained, so nothing is known of the spread between seeds.")
    if row.dtype != "float32":
        notes.append(
            f"The weights are stored as {row.dtype} and used as float32; the figure is theirs. In float32 the same "
            f"training reached {row.run_top1:.2f} %."
        )
    return "\n\n".join(notes)


def _paper_section(row: Result, provenance: dict[str, Any]) -> str:
    data = MODELS.get(row.model, {}).get("data", "c10")
    figures = paper_figures(row.cell, data) if row.cell else {}
    if figures.get("paper_err") is None:
        return ""
    size = f" with {figures['paper_params_m']}M parameters" if figures.get("paper_params_m") else ""
    # in the records: whatever differs from DARTS' network, which else is that of DATA
    network = figures["paper_network"] or f"C = {DATA[data].init_channels}, {DATA[data].num_cells} cells"
    name = {"c10": "CIFAR-10", "c100": "CIFAR-100", "in1k": "ImageNet"}[data]
    return (
        "### What the paper reports\n\n"
        f"Not our figure, and not of these weights: {provenance.get('paper')} reports {figures['paper_err']} % top-1 "
        f"error on {name} for these cells{size} (network: {network})."
    )


def _onnx_section() -> str:
    return (
        "`model.onnx` is the same network as a float32 ONNX file (input `pixel_values`, output `logits`, any batch "
        "size; labels, mean and deviation in its metadata):\n\n"
        "```python\n"
        "from nas_zoo.export.runtime.classifier import OnnxClassifier\n\n"
        'print(OnnxClassifier("model.onnx", provider="cpu").predict(["image.png"])[0])\n'
        "```"
    )


def _recipe(row: Result) -> str:
    changed = ", ".join(f"{name} {value}" for name, value in sorted(row.changed_settings.items()))
    return f"`{row.recipe}` of `nas-zoo train`" + (f", but {changed}" if changed else "")


def _training(row: Result) -> str:
    begun = "from random weights" if "init_weights" not in row.changed_settings else "from a search's own weights"
    decay = row.changed_settings.get("ema_decay", RECIPES.get(row.recipe, {}).get("ema_decay", 0.0))
    kept = "the moving average of those of all steps" if decay else "those of the last step"
    return f"Trained by `nas-zoo train` {begun} for {row.epochs} epochs; the weights are {kept}."


def _hardware(row: Result) -> str:
    count = f"{row.processes} processes, " if row.processes > 1 else ""
    threads = f", {row.threads} thread{'s' * (row.threads > 1)}" if row.device == "cpu" else ""
    return f"{count}{row.device_name} ({row.device}{threads})"


def _network(row: Result, provenance: dict[str, Any]) -> str:
    if not row.cell:
        return f"Cells of our own, digest `{row.genotype}`; they are in `config.json`."
    lines = [f"Cells `{row.cell}`, digest `{row.genotype}`."]
    for what, key in (("Source", "source"), ("Note", "notes")):
        if provenance.get(key):
            lines.append(f"{what}: {str(provenance[key]).rstrip('.')}.")
    if provenance.get("conflicts"):
        lines.append("Sources disagree: " + "; ".join(provenance["conflicts"]) + ".")
    return " ".join(lines)


def _limits(row: Result) -> str:
    size = f"{row.input_size[1]}x{row.input_size[2]}"
    lines = [
        f"- It knows {row.num_classes} classes and images of {size} pixels, and answers everything with one of these.",
        f"- Measured on {row.dataset} alone: nothing is known of other images, of robustness or of fairness.",
        "- Its probabilities have not been calibrated.",
    ]
    if row.dataset_note:
        lines.append(f"- Figures on {row.dataset} are not comparable with figures on the data set it was made from.")
    if row.epochs < 100:
        lines.append(f"- {row.epochs} epochs are far fewer than the papers' 600 on CIFAR or 250 on ImageNet.")
    return "\n".join(lines)


def _citation(provenance: dict[str, Any]) -> str:
    papers = [str(provenance[key]) for key in ("paper",) if provenance.get(key)]
    if not any(paper.startswith("DARTS: Differentiable") for paper in papers):
        papers.append(_DARTS_PAPER)
    return "\n".join(
        f"- {paper}" for paper in [*papers, "nas-zoo, the implementation (CITATION.cff in its repository)"]
    )


# ------------------------------------------------------------------------------------------------------------ program


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="nas-zoo card", description=__doc__)
    parser.add_argument("model", nargs="?", help="MODEL or MODEL.TAG with weights, or the folder of a run")
    parser.add_argument("--all", action="store_true", help="all models with weights")
    parser.add_argument("--to", type=Path, help="folder of the card (default: hub_cards/MODEL)")
    parser.add_argument(
        "--repo", metavar="ORG/NAME", help="where it is published: the card's code then loads from there"
    )
    return parser


@program("nas-zoo card")
def main(argv: list[str] | None = None) -> int:
    """The program: 0 when the cards are written, 2 for a mistake of the user's."""
    given = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
    if given.all == (given.model is not None) or (given.all and (given.to or given.repo)):
        raise ValueError("one MODEL, or --all without --to and --repo, is accepted")
    names = [row.name for row in results.package_results()] if given.all else [given.model]
    for name in names:
        checkpoint = open_checkpoint(name)
        print(write_card(checkpoint, given.to or Path("hub_cards") / checkpoint.title, repo=given.repo))
    if not names:
        print("nas-zoo card: no model comes with weights yet", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
