"""A trained model with what is known of it: a published checkpoint by name, ours or others', or the folder of a run."""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from nas_zoo.genotype import genotype_record
from nas_zoo.models import results
from nas_zoo.models.catalog import MODELS
from nas_zoo.models.count import count
from nas_zoo.models.load import class_names, load_model, name_of_run
from nas_zoo.models.public import PublicWeights, find_public
from nas_zoo.models.registry import find_result
from nas_zoo.models.results import Result
from nas_zoo.release.adopt import Dataset, read_run, reference_tensors, result_of_run
from nas_zoo.runs.facts import published, published_log
from nas_zoo.runs.files import write_weights

__all__ = ["DATASETS", "Checkpoint", "Described", "add_choices", "open_checkpoint", "open_chosen"]

#: What the models of other people's weights were trained on.
DATASETS = {
    "c10": Dataset("CIFAR-10", "", "uoft-cs/cifar10"),
    "c100": Dataset("CIFAR-100", "", "uoft-cs/cifar100"),
    "in1k": Dataset("ImageNet-1k", "", "ILSVRC/imagenet-1k"),
    "fmnist": Dataset("Fashion-MNIST", "", "zalando-datasets/fashion_mnist"),
    "emnist": Dataset("EMNIST (balanced)"),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # what the Hub, Triton and a folder take


@dataclass(frozen=True)
class Described:
    """Of weights that others trained, what ``Result`` says of ours: nothing of a training, no figure."""

    model: str
    tag: str
    cell: str
    genotype: str
    init_channels: int
    num_cells: int
    dataset: str
    dataset_note: str
    dataset_id: str
    num_classes: int
    label_names: tuple[str, ...]  # empty: nobody says them
    label_descriptions: Mapping[str, str]
    input_size: tuple[int, int, int]  # (C, H, W)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    params: int
    macs: int
    dtype: str
    size: int  # of the converted file in bytes
    sha256: str  # of the converted file
    license: str

    @property
    def name(self) -> str:
        """Model and tag as timm writes them."""
        return f"{self.model}.{self.tag}"


@dataclass(frozen=True)
class Checkpoint:
    """What a card, a repository and a demo are made from."""

    row: Result | Described
    weights: Path | None  # a .safetensors file, its hash checked; None: those of others, converted when they are asked
    log: str  # of the training, without folders of the machine it ran on
    folder: Path | None  # of the run; None for a published checkpoint
    title: str  # a name for people and folders
    provenance: Mapping[str, Any]  # of its cells, as their record has it: method, paper, source ...
    measured: bool  # whether the row's figures are of exactly these weights; where not, they are shown nowhere
    began_with: str | None = None  # trained weights, MODEL.TAG, that a run did not make itself
    theirs: PublicWeights | None = None  # these weights themselves are of others

    @property
    def name(self) -> str:
        """As its files call it: MODEL.TAG of a published checkpoint, the name of a run."""
        return self.row.name if self.folder is None else self.title

    def model(self) -> Any:
        """The model with these weights, evaluating, float32."""
        if self.folder is not None:
            return load_model(str(self.folder))
        return timm.create_model(self.row.name, pretrained=True).eval()

    def write_weights(self, path: Path) -> None:
        """The .safetensors file."""
        if self.weights is None:
            write_weights(path, self.model().state_dict(), {"model": self.name})
        else:
            shutil.copyfile(self.weights, path)

    def reference(self) -> dict[str, Any]:
        """Images and logits, as published; of a run or of weights of others made here."""
        if not isinstance(self.row, Result) or self.folder is not None:
            return reference_tensors(self.model(), self.row.input_size)
        images, logits = results.read_reference(results.reference_path(self.row))
        return {"pixel_values": images, "logits": logits}


def open_checkpoint(
    name: str, *, license: str | None = None, called: str | None = None, figures: bool = True
) -> Checkpoint:
    """The checkpoint that a user names: MODEL or MODEL.TAG of the package or of others, or the folder of an ended run.

    Args:
        name: See above. Weights of others are fetched from them.
        license: Of the weights of a run; None: that of the weights it began with, else apache-2.0. Of weights of others
            what the user answers for; None: their authors'. A checkpoint of the package has its own.
        called: What a run's network is called: the folder's name if None. A published checkpoint has its own.
        figures: False for one without any measured figure; then its weights need not be those that were measured.

    Raises:
        ValueError: There is none of that name, it has no weights, its figures were measured on others, or it is, or
            began with, weights of others whose licence does not let anybody publish them, and no `license` is given.
    """
    folder = Path(name)
    if called is not None and not _NAME.fullmatch(called):
        raise ValueError(f"--name must be letters, digits, '.', '_' and '-', got {called!r}")
    if folder.is_dir():
        run = read_run(folder)
        began_with = published(run.result).get("began_with")
        row = result_of_run(folder, license=license, figures=figures)
        title = called or name_of_run(folder)
        provenance = _provenance(row.cell) if row.cell else _of_search(run.log[0].get("cells") or {})
        measured = figures and run.measured is True  # of an older run nobody knows
        told = published_log(run.log) if measured else ""  # it tells of the weights that were measured
        return Checkpoint(row, folder / row.weights, told, folder, title, provenance, measured, began_with)
    found, theirs = find_result(name), find_public(name)
    if found is None and theirs is None:
        load_model(name)  # says what is wrong with the name
        raise ValueError(f"model {name!r} must be a published checkpoint or the folder of a run")
    if called is not None:
        raise ValueError(f"--name {called}: {name} has its own name; only the network of a run is given one")
    if theirs is not None:
        allowed = license or theirs.license_to_publish("these are")
        about = _described(theirs, allowed)
        return Checkpoint(about, None, "", None, name, _provenance(about.cell), measured=False, theirs=theirs)
    assert found is not None
    if license is not None:
        raise ValueError(f"--license {license}: {name} has its own, {found.license}")
    path = results.PACKAGE / "weights" / f"{found.name}.log.jsonl"
    log = path.read_text("utf-8") if figures and path.is_file() else ""
    # the model's name, with the tag where that is not the model's default
    title = found.model if find_result(found.model) == found else found.name
    return Checkpoint(found, results.fetch_weights(found), log, None, title, _provenance(found.cell), figures)


def _described(theirs: PublicWeights, license: str) -> Described:
    """The facts of weights of others, fetched and converted to say them."""
    model: Any = timm.create_model(theirs.name, pretrained=True).eval()
    own = MODELS[theirs.model]
    data, labels = DATASETS[own["data"]], class_names(model.pretrained_cfg) or ()
    with tempfile.TemporaryDirectory() as aside:
        file = Path(aside) / results.HUB_FILE
        write_weights(file, model.state_dict(), {"model": theirs.name})
        size, sha256 = file.stat().st_size, results.file_sha256(file)
    counts = count(model.to("meta"), tuple(model.pretrained_cfg["input_size"]))
    return Described(
        model=theirs.model, tag=theirs.tag, cell=own["cell"], genotype=model.genotype.digest,
        init_channels=model.init_channels, num_cells=model.num_cells,
        dataset=data.title, dataset_note=data.note, dataset_id=data.hub_id,
        num_classes=model.num_classes, label_names=labels, label_descriptions=results.words_of_classes(labels),
        input_size=counts.input_size, mean=theirs.mean, std=theirs.std, params=counts.params, macs=counts.macs,
        dtype="float32", size=size, sha256=sha256, license=license,
    )  # fmt: skip


def open_chosen(given: argparse.Namespace, model: str | None = None) -> Checkpoint:
    """``open_checkpoint`` of `model`, if not of ``given.model``, by the flags of ``add_choices``."""
    figures = not given.without_figures
    return open_checkpoint(model or given.model, license=given.license, called=given.name, figures=figures)


def add_choices(parser: argparse.ArgumentParser) -> None:
    """The flags --name, --license and --without-figures, as ``open_checkpoint`` has them."""
    parser.add_argument(
        "--without-figures",
        action="store_true",
        help="say nothing that was measured; for weights that are not those of result.json",
    )
    parser.add_argument("--name", help="what a run's network is called (default: the name of the run's folder)")
    parser.add_argument("--license", help="of a run's weights (default: of those it began with, else "
                        "apache-2.0), or of others' that their authors do not put under an open one")  # fmt: skip


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
