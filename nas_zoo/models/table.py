"""Tables of what the package holds: models with their counts beside their papers' figures, and cells.

`top1` and its neighbours are ours, of the weights that come with a model (``nas_zoo.models.results``), and empty
without any.
`pretrained` says whether the model's name alone has weights; where it has not and there is a `tag`, they are of other
classes than the model's and are had as NAME.TAG.
Columns that begin with `reported_` hold what the authors of trained weights report of them (``nas_zoo.models.public``).
Columns that begin with `paper_` hold what a cell's paper reports; nothing in them was measured here. They belong to the
paper's own training and way of counting, which for multiply-adds often is not ours (see
`nas_zoo.models.count.CONVENTION`), and renderings of NASNet, AmoebaNet, PNASNet and ENAS stand in a network that is
not their papers'.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from nas_zoo.genotype import Genotype, genotype_record, list_found, list_records
from nas_zoo.models.catalog import DATA, MODELS, settings_of
from nas_zoo.models.count import work_out
from nas_zoo.models.public import NO_LICENSE, public_weights
from nas_zoo.models.registry import find_result
from nas_zoo.models.results import package_results

__all__ = [
    "cell_rows",
    "figures_beside",
    "has_papers_size",
    "in_csv",
    "license_in_short",
    "model_rows",
    "paper_figures",
    "papers_size",
    "pretrained_rows",
]

Row = dict[str, Any]


def paper_figures(cell: str, data: str) -> Row:
    """What the paper of a cell reports for that data ("c10", "c100" or "in1k"); None where it says nothing.

    Keys: paper_err and paper_top5_err in percent, paper_params_m and paper_madds_m in millions, paper_network in words
    where the figures are of another network than DARTS' around these cells.
    """
    return _reported(genotype_record(cell), data)


def _reported(record: Row, data: str) -> Row:
    reported = record.get("provenance", {}).get("reported", {})
    keys = {"paper_err": f"{data}_err", "paper_params_m": f"{data}_params_m"}
    if data == "in1k":
        keys = {
            "paper_err": "in_top1_err",
            "paper_top5_err": "in_top5_err",
            "paper_params_m": "in_params_m",
            "paper_madds_m": "in_madds_m",
        }
    if reported.get(keys["paper_err"]) is not None:
        of_data = f"{'in' if data == 'in1k' else data}_network"
        keys["paper_network"] = of_data if of_data in reported else "network"
    empty = dict.fromkeys(("paper_err", "paper_top5_err", "paper_params_m", "paper_madds_m", "paper_network"))
    return empty | {ours: reported.get(theirs) for ours, theirs in keys.items()}


def has_papers_size(name: str) -> bool:
    """Whether a model is of the size that its cells' figures are of: edas_c10_s and xnas_l_c10 are not."""
    return _size(name) == papers_size(name)


def _size(name: str) -> tuple[int, int]:
    """Channels and cells."""
    settings = settings_of(name)
    return settings["init_channels"], settings["num_cells"]


def papers_size(name: str) -> tuple[int, int]:
    """Channels and cells of the network that the figures of a model's cells are of.

    That of the data's layout, or the model's own where it is the only one of these cells and data.
    """
    model, data = MODELS[name], DATA[MODELS[name]["data"]]
    same = [other for other in MODELS.values() if (other["cell"], other["data"]) == (model["cell"], model["data"])]
    return _size(name) if len(same) == 1 else (data.init_channels, data.num_cells)


def figures_beside(name: str, init_channels: int, num_cells: int) -> Row:
    """``paper_figures`` beside a network of a model's cells and that size; paper_network says where it is another."""
    figures = paper_figures(MODELS[name]["cell"], MODELS[name]["data"])
    channels, cells = papers_size(name)
    if figures["paper_err"] is not None and (init_channels, num_cells) != (channels, cells):
        size = f"C={channels}, {cells} cells"
        figures["paper_network"] = ", ".join(filter(None, (size, figures["paper_network"])))
    return figures


def model_rows(names: Sequence[str]) -> list[Row]:
    """A row for each of these models, at its own size: settings, our counts, the paper's figures, where it is from."""
    rows = []
    for name in names:
        model, default = MODELS[name], find_result(name)
        data = DATA[model["data"]]
        shape = default or data
        channels, cells = _size(name)
        record = genotype_record(model["cell"])
        genotype = Genotype.from_json(record)
        counts = work_out(genotype, data.layout, channels, cells, shape.num_classes, shape.input_size)
        provenance = record.get("provenance", {})
        own_cells = model["cell"] in list_found()
        ours = default or next((row for row in package_results() if row.model == name), None)
        rows.append(
            {
                "name": name,
                "cell": model["cell"],
                "layout": data.layout,
                "init_channels": channels,
                "num_cells": cells,
                "num_classes": shape.num_classes,
                "input_size": "x".join(map(str, shape.input_size)),
                "params": counts.params,
                "macs": counts.macs,
                "activations": counts.activations,
                **figures_beside(name, channels, cells),
                "pretrained": default is not None,
                "tag": ours.tag if ours else None,
                "top1": ours.top1 if ours else None,
                "top1_dataset": ours.dataset if ours else None,
                "top1_images": ours.test_images if ours else None,
                "method": provenance.get("method"),
                "paper": None if own_cells else provenance.get("paper"),
                "found_here": _search_of(provenance) if own_cells else None,
                "source": provenance.get("source"),
            }
        )
    return rows


def _search_of(provenance: Mapping[str, Any]) -> str:
    """The search that found cells of this package: "search/results/edas_c8_c10"."""
    return str(provenance["source"]).removeprefix("nas-zoo: ").partition(" ")[0]


def pretrained_rows() -> list[Row]:
    """A row for each file of trained weights that is known: ours first, then those of others; errors are in percent.

    `reported_err` and its neighbours are the authors', of the epoch in `reported_of`; `err` is ours, of `dataset`, and
    the two never stand in one column. `not_by_name` says why a file is not had by its name.
    """
    rows: list[Row] = [
        {
            "name": row.name, "err": round(100 - row.top1, 4), "dataset": row.dataset, "license": row.license,
            "source": "nas-zoo",
        }
        for row in package_results()
    ]  # fmt: skip
    for other in sorted(public_weights(), key=lambda row: (bool(row.not_by_name), row.model, row.tag)):
        hashes = {"git blob": other.git_blob, "SHA-256": other.sha256, "MD5": other.md5}
        rows.append(
            {
                "name": other.name or None,
                **{key: getattr(other, key) for key in ("reported_err", "reported_top5_err")},
                **{key: getattr(other, key) or None for key in ("reported_of", "reported_source")},
                "license": other.license,
                "source": other.source,
                "path": other.path,
                "link": other.link,
                "checked_by": "; ".join(f"{kind} {value}" for kind, value in hashes.items() if value) or None,
                "keys": other.keys or None,
                "cautions": other.cautions or None,
                "not_by_name": other.not_by_name or None,
            }
        )
    columns = dict.fromkeys(key for row in rows for key in row)
    return [columns | row for row in rows]


def license_in_short(license: str) -> str:
    """A licence in a dozen characters: its SPDX identifier, or "none stated", "no commerce", "unclear"."""
    if license == NO_LICENSE:
        return "none stated"
    first = license.split()[0].rstrip(":")
    return {"non-commercial": "no commerce"}.get(first, first)


def cell_rows(tier: int | None = None) -> list[Row]:
    """A row for each cell of that tier, or of all: those that cannot be built too, with the reason.

    Cells found here are of no tier and stand under no paper, but under their search ("found_here").
    """
    rows = []
    found = list_found()
    for name in list_records():
        record = genotype_record(name)
        provenance = record.get("provenance", {})
        own_tier = None if name in found else provenance.get("tier", 1)
        if tier not in (None, own_tier):
            continue
        built = "cannot_build" not in record
        genotype = Genotype.from_json(record) if built else None
        rows.append(
            {
                "name": name,
                "tier": own_tier,
                "builds": built,
                "edges": genotype.num_edges if genotype else None,
                "digest": genotype.digest if genotype else None,
                "paper_c10_err": _reported(record, "c10")["paper_err"],
                "paper_c100_err": _reported(record, "c100")["paper_err"],
                "paper_in1k_err": _reported(record, "in1k")["paper_err"],
                "method": provenance.get("method"),
                "paper": None if name in found else provenance.get("paper", provenance.get("data")),
                "found_here": _search_of(provenance) if name in found else None,
                "source": provenance.get("source"),
                "cannot_build": record.get("cannot_build"),
                "conflicts": "; ".join(provenance.get("conflicts", [])) or None,
            }
        )
    return rows


def in_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV with a line of column names; None is an empty field."""
    file = io.StringIO()
    if rows:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return file.getvalue()
