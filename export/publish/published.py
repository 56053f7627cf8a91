"""A trained model with the facts of its training: a published checkpoint by name, or the folder of a run."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from nas_zoo.genotype import genotype_record
from nas_zoo.models import results
from nas_zoo.models.load import load_model, name_of_run
from nas_zoo.models.public import find_public
from nas_zoo.models.registry import find_result
from nas_zoo.models.results import Result
from nas_zoo.release.adopt import read_run, reference_tensors, result_of_run
from nas_zoo.runs.facts import published_log

__all__ = ["Checkpoint", "add_choices", "open_checkpoint"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # what the Hub, Triton and a folder take


@dataclass(frozen=True)
class Checkpoint:
    """What a card, a repository and a demo are made from."""

    row: Result
    weights: Path  # a .safetensors file, its hash checked
    log: str  # of the training, without folders of the machine it ran on
    folder: Path | None  # of the run; None for a published checkpoint
    title: str  # a name for people and folders
    provenance: Mapping[str, Any]  # of its cells, as their record has it: method, paper, source ...
    measured: bool  # whether the row's figures are of exactly these weights; where not, they are shown nowhere
    began_with: str | None = None  # trained weights, MODEL.TAG, that a run did not make itself

    @property
    def name(self) -> str:
        """As its files call it: MODEL.TAG of a published checkpoint, the name of a run."""
        return self.row.name if self.folder is None else self.title

    def model(self) -> Any:
        """The model with these weights, evaluating, float32."""
        if self.folder is not None:
            return load_model(str(self.folder))
        return timm.create_model(self.row.name, pretrained=True).eval()

    def reference(self) -> dict[str, Any]:
        """Images and logits, as published; of a run made here."""
        if self.folder is not None:
            return reference_tensors(self.model(), self.row.input_size)
        images, logits = results.read_reference(results.reference_path(self.row))
        return {"pixel_values": images, "logits": logits}


def open_checkpoint(
    name: str, *, license: str | None = None, called: str | None = None, figures: bool = True
) -> Checkpoint:
    """The checkpoint that a user names: MODEL or MODEL.TAG of the package, or the folder of a run that has ended.

    Args:
        name: See above.
        license: Of the weights of a run; None: that of the weights it began with, else apache-2.0. A published
            checkpoint has its own.
        called: What a run's network is called: the folder's name if None. A published checkpoint has its own.
        figures: False for one without any measured figure; then its weights need not be those that were measured.

    Raises:
        ValueError: There is none of that name, it has no weights, its figures were measured on others, or it began with
            weights of others whose licence does not let anybody publish what comes of them, and no `license` is given.
    """
    folder = Path(name)
    if called is not None and not _NAME.fullmatch(called):
        raise ValueError(f"--name must be letters, digits, '.', '_' and '-', got {called!r}")
    if folder.is_dir():
        run = read_run(folder)
        began_with = run.result.get("began_with")
        row = result_of_run(folder, license=license, figures=figures)
        title = called or name_of_run(folder)
        provenance = _provenance(row.cell) if row.cell else _of_search(run.log[0].get("cells") or {})
        measured = figures and run.measured is True  # of an older run nobody knows
        told = published_log(run.log) if measured else ""  # it tells of the weights that were measured
        return Checkpoint(row, folder / row.weights, told, folder, title, provenance, measured, began_with)
    if others := find_public(name):
        raise ValueError(
            f"{name} are weights that {others.authors} publishes ({others.source}; {others.license}): they are had "
            "from there, and only weights of this package and of your own runs are published from here"
        )
    found = find_result(name)
    if found is None:
        load_model(name)  # says what is wrong with the name
        raise ValueError(f"model {name!r} must be a published checkpoint or the folder of a run")
    if called is not None:
        raise ValueError(f"--name {called}: {name} has its own name; only the network of a run is given one")
    path = results.PACKAGE / "weights" / f"{found.name}.log.jsonl"
    log = path.read_text("utf-8") if figures and path.is_file() else ""
    # the model's name, with the tag where that is not the model's default
    title = found.model if find_result(found.model) == found else found.name
    return Checkpoint(found, results.fetch_weights(found), log, None, title, _provenance(found.cell), figures)


def add_choices(parser: argparse.ArgumentParser) -> None:
    """The flags --name, --license and --without-figures, as ``open_checkpoint`` has them."""
    parser.add_argument(
        "--without-figures",
        action="store_true",
        help="say nothing that was measured; for weights that are not those of result.json",
    )
    parser.add_argument("--name", help="what a run's network is called (default: the name of the run's folder)")
    parser.add_argument("--license", help="of a run's weights (default: of those it began with, else apache-2.0)")


def _provenance(cell: str) -> dict[str, Any]:
    found: dict[str, Any] = genotype_record(cell).get("provenance", {})
    return found


def _of_search(cells: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of a user's own cells: a search names its method, and cells of that method here its paper."""
    known = {"edas": "edas_c10", "da2s": "da2s_c10", "da2s_released": "da2s_c10", "darts": "darts_v2",
             "pc_darts": "pc_darts_c10"}  # fmt: skip
    method = str(cells.get("method", ""))
    own = {key: str(cells[key]) for key in ("method", "paper", "source") if cells.get(key)}
    if method not in known:
        return own
    paper = _provenance(known[method])
    return own | {"method": paper["method"], "paper": paper["paper"], "source": "a search of our own with nas-zoo"}
