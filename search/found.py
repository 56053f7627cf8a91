"""The cells a search has found, as its folder holds them."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_zoo.data.sources import ImageSource
from nas_zoo.genotype import Genotype, list_genotypes
from nas_zoo.models.catalog import MODELS
from nas_zoo.runs.facts import begun_with
from nas_zoo.runs.files import write_json, write_weights
from nas_zoo.runs.settings import CHANGEABLE, to_dict
from nas_zoo.search.discretize import DERIVATIONS, derived_network
from nas_zoo.search.method import Method, SearchSettings
from nas_zoo.search.supernet import Supernet

__all__ = ["collapsed", "genotypes_by", "need_folder", "save_derived", "write_cells"]


def need_folder(folder: Path) -> None:
    """ValueError where there is no such folder; says so where it is the name of cells or of a model."""
    if not folder.is_dir():
        name = str(folder)
        what = "of a model" if name in MODELS else "of cells" if name in list_genotypes() else ""
        told = f", but {name!r} is the name {what}; `nas-zoo info {name}` shows them" * bool(what)
        raise ValueError(f"{name}: there is no such folder{told}; the folder of a search is needed")


def genotypes_by(method: Method, rules: Iterable[str | None]) -> dict[str, Genotype | None]:
    """The cells by each rule, None being the method's own, under the name "found"; None where there is no such."""
    found: dict[str, Genotype | None] = {}
    for rule in rules:
        try:
            found[rule or "found"] = method.genotype(rule)
        except ValueError:  # 'none' on every edge of a cell: no network to measure
            found[rule or "found"] = None
    return found


def collapsed(genotype: Genotype) -> bool:
    """True where half of the normal cell's edges or more are skip connections: the known failure of DARTS."""
    counts = genotype.histogram()["normal"]
    return 2 * counts.get("skip_connect", 0) >= sum(counts.values())


def write_cells(
    genotypes: Mapping[str, Genotype | None], settings: SearchSettings, line: Mapping[str, Any], source: ImageSource
) -> None:
    """genotype.json of the cells "found" and genotype_<rule>.json of the others, with where they come from.

    `line`: of the epoch's log; a collapse is told. The file of a rule
    that gives no cells, an earlier epoch's, is removed.
    """
    provenance = {
        "method": settings.method,
        "data": source.name,
        "epochs": line["epoch"],
        "settings": {k: v for k, v in to_dict(settings).items() if k not in ("data", *CHANGEABLE)},
        "held_out_accuracy": line["held_out"],
        "by": "nas-zoo",
        "facts": begun_with(settings.out),
    }
    if line["collapsed"]:
        print("warning: half of the normal cell or more is skip connections (collapse)", file=sys.stderr)
    for rule, cells in genotypes.items():
        path = settings.out / ("genotype.json" if rule == "found" else f"genotype_{rule}.json")
        if cells is None:
            path.unlink(missing_ok=True)
        else:
            write_json(path, json.loads(cells.to_json()) | {"provenance": provenance})


def save_derived(supernet: Supernet, method: Method, classes: Sequence[str], out: Path) -> None:
    """The derived networks with the search's own weights: by the method's rule, and by the others where they differ."""
    own, *others = genotypes_by(method, (None, *DERIVATIONS)).items()
    found = {"derived": own[1]} | {f"derived_{rule}": cells for rule, cells in others if cells != own[1]}
    told = {"classes": json.dumps(classes)}
    for name, genotype in found.items():
        if genotype is None:
            continue
        network = derived_network(supernet, genotype)
        write_weights(out / f"{name}.safetensors", network.state_dict(), told | {"genotype": genotype.to_json()})
