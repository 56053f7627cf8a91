"""Model cards: hub_cards/template.md filled from a checkpoint's row of results.csv and its cells.

    nas-zoo card edas_e8_c10_s                       # hub_cards/edas_e8_c10_s/README.md and cells.png
    nas-zoo card --all
    nas-zoo card runs/net --to card --repo owner/net

The card's figures are the row's and nobody else's; what a paper reports, or the authors of weights that are not ours,
stands in a section of its own that says so.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from nas_zoo.export.cells.draw import draw_genotype
from nas_zoo.export.publish.published import DATASETS, Checkpoint, Described, add_choices, open_chosen
from nas_zoo.genotype import Genotype, genotype_record
from nas_zoo.models import results
from nas_zoo.models.catalog import MODELS
from nas_zoo.models.count import CONVENTION
from nas_zoo.models.public import find_public
from nas_zoo.models.results import Result
from nas_zoo.models.table import paper_figures, papers_size
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import staged, write_text
from nas_zoo.runs.outside import is_outside
from nas_zoo.runs.settings import Parser
from nas_zoo.text import fill
from nas_zoo.train.recipes import RECIPES

__all__ = ["card_data", "card_text", "main", "write_card"]

PICTURE = "cells.png"
_DARTS_PAPER = "DARTS: Differentiable Architecture Search, 2018 (arXiv:1806.09055)"


def card_data(checkpoint: Checkpoint) -> ModelCardData:
    """The card's YAML: what the Hub sorts, searches and shows by."""
    row = checkpoint.row
    # Figures on a changed data set must not stand among those of the set itself.
    own_set = bool(row.dataset_id) and not row.dataset_note
    data_type = row.dataset_id if own_set else re.sub(r"[^a-z0-9]+", "-", row.dataset.lower()).strip("-") or "other"
    common: dict[str, Any] = {
        "task_type": "image-classification",
        "task_name": "Image classification",
        "dataset_type": data_type,
        "dataset_name": row.dataset,
        "dataset_split": "test",
    }
    found = {"top-1 (%)": row.top1, "top-5 (%)": row.top5} if isinstance(row, Result) and checkpoint.measured else {}
    figures = [
        EvalResult(**common, metric_type="accuracy", metric_name=name, metric_value=value)
        for name, value in found.items()
        if value is not None
    ]
    return ModelCardData(
        model_name=checkpoint.name,
        library_name="timm",
        pipeline_tag="image-classification",
        license=row.license,
        datasets=[row.dataset_id] if row.dataset_id else None,
        metrics=["accuracy"] if figures else None,
        tags=["image-classification", "timm", "nas-zoo", "neural-architecture-search", "darts", "onnx"],
        eval_results=figures or None,
        ignore_metadata_errors=False,
    )


def card_text(checkpoint: Checkpoint, *, repo: str | None = None, onnx: bool = False) -> str:
    """The card of a checkpoint.

    Args:
        checkpoint: Of the package or of a run.
        repo: ORG/NAME that it is published in; its code then loads from there.
        onnx: A model.onnx lies beside the card.

    Raises:
        ValueError: The template is missing from the installation.
    """
    row, provenance = checkpoint.row, checkpoint.provenance
    here = row.name if checkpoint.folder is None else "local-dir:FOLDER"
    text = fill(
        "nas_zoo.hub_cards", "template.md", row=row, measured=checkpoint.measured, onnx=onnx, theirs=checkpoint.theirs,
        provenance=dict.fromkeys(("method", "paper", "source", "notes", "conflicts")) | dict(provenance),
        title=repo.split("/")[1] if repo else checkpoint.title,
        picture=PICTURE,
        paper=_paper(row),
        load_name=f"hf-hub:{repo}" if repo else here,
        mean=_numbers(row.mean),
        std=_numbers(row.std),
        classes=_classes(row),
        **(_training(row) if isinstance(row, Result) else {}),
        convention=CONVENTION,
        outside=sorted(name for name in _genotype(checkpoint).operations if is_outside(name)),
        papers=_papers(provenance),
        began_with=checkpoint.began_with,
        others=find_public(checkpoint.began_with) if checkpoint.began_with else None,
    )  # fmt: skip
    return f"---\n{card_data(checkpoint).to_yaml()}\n---\n\n{text}"


def _training(row: Result) -> dict[str, Any]:
    """What the card says of our own training beside the row."""
    changed = row.changed_settings
    return {
        "standard_error": 100 * results.standard_error(row.top1 / 100, row.test_images),
        "changed": changed,
        "averaged": bool(changed.get("ema_decay", RECIPES.get(row.recipe, {}).get("ema_decay", 0.0))),
    }


def write_card(checkpoint: Checkpoint, folder: Path | str, *, repo: str | None = None, onnx: bool = False) -> Path:
    """README.md and the picture of the cells in that folder; returns the card."""
    text = card_text(checkpoint, repo=repo, onnx=onnx)
    with staged(folder) as aside:
        draw_genotype(_genotype(checkpoint), aside / PICTURE)
        write_text(aside / "README.md", text)
    return Path(folder) / "README.md"


def _genotype(checkpoint: Checkpoint) -> Genotype:
    if checkpoint.row.cell:
        return Genotype.from_json(genotype_record(checkpoint.row.cell))
    genotype: Genotype = checkpoint.model().genotype
    return genotype


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _classes(row: Result | Described) -> list[str]:
    """The first twenty, WordNet ids in words: the first of a synset's names says enough."""
    meant = row.label_descriptions
    return [f"{name} ({meant[name].split(',')[0]})" if name in meant else name for name in row.label_names[:20]]


def _paper(row: Result | Described) -> dict[str, Any]:
    """What the cells' paper reports, with the data and the network in words; "paper_err" is None where it is silent."""
    data = MODELS.get(row.model, {}).get("data", "c10")
    figures = paper_figures(row.cell, data) if row.cell else {"paper_err": None}
    # in the records: whatever differs from DARTS' network, which else is of this size
    channels, cells = papers_size(row.model if row.model in MODELS else "cell_net_cifar")
    network = figures.get("paper_network") or f"C = {channels}, {cells} cells"
    name = "ImageNet" if data == "in1k" else DATASETS[data].title
    return figures | {"paper_network": network, "data": name}


def _papers(provenance: Mapping[str, Any]) -> list[str]:
    """The cells' own paper, and DARTS', whose space they are from."""
    own = [str(provenance["paper"])] if provenance.get("paper") else []
    return own if own and own[0].startswith("DARTS: Differentiable") else [*own, _DARTS_PAPER]


# ------------------------------------------------------------------------------------------------------------ program


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="nas-zoo card", description=__doc__)
    parser.add_argument("model", nargs="?", help="MODEL or MODEL.TAG with weights, or the folder of a run")
    parser.add_argument("--all", action="store_true", help="all models with weights")
    parser.add_argument("--to", type=Path, help="folder of the card (default: hub_cards/MODEL)")
    add_choices(parser)
    parser.add_argument(
        "--repo", metavar="ORG/NAME", help="where it is published: the card's code then loads from there"
    )
    return parser


@program("nas-zoo card")
def main(argv: list[str] | None = None) -> int:
    """The program: 0 when the cards are written, 2 for a mistake of the user's."""
    given = make_parser().parse_args(argv)
    if given.all == (given.model is not None) or (given.all and (given.to or given.repo or given.name)):
        raise ValueError("give one MODEL, or --all without --to, --repo and --name")
    names = [row.name for row in results.package_results()] if given.all else [given.model]
    for name in names:
        checkpoint = open_chosen(given, name)
        print(write_card(checkpoint, given.to or Path("hub_cards") / checkpoint.title, repo=given.repo))
    if not names:
        print("nas-zoo card: no model comes with weights yet", file=sys.stderr)
    return 0
