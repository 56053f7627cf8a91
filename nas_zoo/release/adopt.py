"""Publishes a finished training run into the package: its weights, its row of results.csv, reference tensors, its log.

    nas-zoo adopt runs/edas_c10_s --tag jpeg_e60 --data cifar10-jpeg-train.tar.xz --test-data cifar10-jpeg-test.tar.xz
    nas-zoo adopt runs/seed0 --tag jpeg_e60 --also runs/seed1 runs/seed2
    nas-zoo adopt runs/longer --tag jpeg_e60 --instead-of jpeg_e4
    nas-zoo adopt runs/edas_c10 --tag e600 --hub owner/edas_c10@0123456789abcdef0123456789abcdef01234567

Nothing is typed by hand: figures, settings and versions come from the run's result.json and log.jsonl, the accuracy of
the published file is measured here on the run's test images, and a run whose own accuracy does not come out again on
them is refused. Weights are stored as float16 where that costs no more than a tenth of a point (--dtype).

Weights of other classes than the model's (Imagenette's ten for an ImageNet network) are had by MODEL.TAG alone. Of
those of the model's own classes the first are had by MODEL; --instead-of gives that place to others.

Of several seeds (--also) the first run is the published one, whichever it is; the others give mean and spread.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_zoo.data.augment import PHOTOGRAPH_PIXELS
from nas_zoo.data.named import open_source
from nas_zoo.genotype import Genotype, genotype_record, list_found, list_genotypes, name_of_cells
from nas_zoo.models import results
from nas_zoo.models.catalog import MODELS
from nas_zoo.models.count import count
from nas_zoo.models.load import load_model, read_state_dict
from nas_zoo.models.network import CellNet
from nas_zoo.models.public import find_public
from nas_zoo.models.results import DTYPES, Result
from nas_zoo.runs.ending import program
from nas_zoo.runs.facts import published, published_log
from nas_zoo.runs.files import staged, write_text, write_weights
from nas_zoo.runs.log import RunLog
from nas_zoo.runs.settings import CHANGEABLE, Parser, to_dict
from nas_zoo.train.evaluation import evaluate_model
from nas_zoo.train.model import describe_mismatch
from nas_zoo.train.recipes import TrainSettings, settings_of

__all__ = [
    "Dataset", "adopt", "compare_with_reference", "main", "read_run", "reference_images", "reference_tensors",
    "result_of_run", "with_dtype",
]  # fmt: skip

#: float16 may cost so many percentage points, and no more.
TOLERANCE = 0.1
#: What the accuracy of a run may differ by when it is measured again: other kernels decide a few images otherwise.
SAME = 0.1
#: Settings that say where things lie and how fast it goes, or stand in columns of their own.
_ELSEWHERE = {
    *CHANGEABLE, "recipe", "model", "genotype", "init_channels", "num_cells", "seed", "epochs", "eval_every",
    "test_curve", "channels_last", "compile", "crop_pct",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What a card says of a data set."""

    title: str
    note: str = ""  # how it differs from what the title says
    hub_id: str = ""
    test: str = ""  # pattern of the name of its test images' file, where it has one of its own


#: By the last part of what `--data` was given; patterns as fnmatch has them.
DATASETS = {
    "cifar10": Dataset("CIFAR-10", "", "uoft-cs/cifar10"),
    "cifar100": Dataset("CIFAR-100", "", "uoft-cs/cifar100"),
    "cifar10-jpeg-train*": Dataset(
        "CIFAR-10 (JPEG)",
        "CIFAR-10 re-encoded as JPEG (quality 75, 4:2:0), training and test images: figures on it are not figures on "
        "CIFAR-10 and compare with each other only",
        "uoft-cs/cifar10",
        "cifar10-jpeg-test*",
    ),
    "digits": Dataset(
        "digits (scikit-learn)", "1,797 grey images of 8x8 pixels, a fifth of them held out as test split"
    ),
    "imagenette224-train*": Dataset(
        "Imagenette",
        "10 classes of ImageNet; trained on the first 600 images of each, tested on all validation images",
        "frgfm/imagenette",
        "imagenette224-val*",
    ),
}


def _dataset(name: str, test_data: str | None) -> Dataset:
    word = Path(name).name or Path(name).resolve().name
    for pattern, known in DATASETS.items():  # a folder called digits is somebody's own
        if name == pattern:
            return known
        if known.test and fnmatch.fnmatch(word, pattern) and fnmatch.fnmatch(Path(test_data or "").name, known.test):
            return known
    return Dataset(word)


# ----------------------------------------------------------------------------------------------------------- the run


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run of `nas-zoo train`: what its folder holds."""

    folder: Path
    result: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.result["settings"])

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def measured(self) -> bool | None:
        """Whether the figures of result.json are those of these weights, by their hash; None for an older run."""
        known = self.result.get("weights_sha256")
        return None if known is None else known == results.file_sha256(self.weights)

    def comparable(self) -> dict[str, Any]:
        """What runs that differ by their seed alone have in common."""
        free = {*CHANGEABLE, "seed", "test_curve"} - {"division"}  # other images are trained on
        if self.config["pretrained_cfg"]["input_size"][1] < PHOTOGRAPH_PIXELS:
            free.add("crop_area_min")  # small images have padded crops
        # A setting that an older run has no word of had then what is now the default of its class.
        settings = to_dict(TrainSettings()) | self.settings
        return {key: value for key, value in settings.items() if key not in free} | {
            "genotype": self.result["genotype"],
            "classes": list(self.config["label_names"]),
            **{key: self.config["pretrained_cfg"][key] for key in ("mean", "std")},  # of other images they are others
            "images": self.log[0]["data"]["train"],
            "test images": self.result["n"],
        }


def read_run(folder: Path | str) -> Run:
    """The run in a folder; ValueError in one line where it has not ended or is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"run {str(folder)!r}: no such folder")
    for name in ("result.json", "config.json", "model.safetensors", "log.jsonl"):
        if not (folder / name).is_file():
            begun = RunLog.read(folder)[:1] if (folder / "log.jsonl").is_file() else []
            settings = begun[0].get("settings") or {} if begun else {}
            place = shlex.quote(str(folder))
            hint = "not a training run?"
            if "method" in settings:
                hint = f"it is of a search; nas-zoo train --genotype {place} trains what it found"
            elif "recipe" in settings or (folder / "checkpoint.pt").exists():
                hint = f"it has not ended: nas-zoo train --resume --out {place}"
            raise ValueError(f"run {str(folder)!r}: has no {name} ({hint})")
    try:
        result, config = (json.loads((folder / name).read_text("utf-8")) for name in ("result.json", "config.json"))
    except ValueError as error:
        raise ValueError(f"run {str(folder)!r}: result.json or config.json is no JSON: {error}") from None
    run = Run(folder, result, RunLog.read(folder), config)
    try:
        _ = run.comparable(), result["top1"], config["pretrained_cfg"]["mean"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"run {str(folder)!r}: result.json or log.jsonl of another program ({error} is missing)"
        ) from None
    _check_figures(run)
    return run


def _check_figures(run: Run) -> None:
    """ValueError unless result.json holds figures that can be, and those that the log says the run ended with."""
    logged: dict[str, Any] = next((line for line in reversed(run.log) if line.get("kind") == "result"), {})
    for key, least, most in (("top1", 0, 1), ("top5", 0, 1), ("loss", 0, math.inf), ("n", 1, math.inf)):
        value: Any = run.result.get(key)
        if value is None and key == "top5":  # of few classes there is none
            continue
        where = f"run {str(run.folder)!r}: {key} in result.json"
        number = isinstance(value, int if key == "n" else int | float) and not isinstance(value, bool)
        if not number or not least <= value <= most or not math.isfinite(value):
            raise ValueError(f"{where} must be a number from {least} to {most}, got {value!r}")
        if key in logged and logged[key] != value:
            raise ValueError(f"{where} is {value!r}, and {logged[key]!r} where log.jsonl says how the run ended")
    names, trained = run.config.get("label_names"), run.log[0]["data"].get("classes")
    if names is not None and trained is not None and list(names) != list(trained):
        one, other = next((pair for pair in zip(names, trained, strict=False) if pair[0] != pair[1]), (names, trained))
        raise ValueError(f"run {str(run.folder)!r}: config.json names a class {one!r} that log.jsonl calls {other!r}")


def _changed_settings(run: Run) -> dict[str, Any]:
    plain = to_dict(settings_of({"recipe": run.settings["recipe"]}))
    changed = {key: value for key, value in run.settings.items() if key not in _ELSEWHERE and value != plain.get(key)}
    return published(changed)


def _cell_name(model: str, genotype: Genotype) -> str:
    """The name of these cells: that of the model, else of any that we have, else none."""
    own = MODELS.get(model, {}).get("cell")
    for name in [*([own] if own else []), *list_found(), *list_genotypes(1)]:
        if Genotype.from_json(genotype_record(name)).digest == genotype.digest:
            return name
    return ""


def result_of_run(
    folder: Path | str,
    *,
    tag: str = "run",
    model: str | None = None,
    also: Sequence[Path | str] = (),
    dataset: Dataset | None = None,
    license: str | None = None,
    figures: bool = True,
) -> Result:
    """The row of a run as it lies in its folder: its figures, and its model.safetensors as the weights.

    Args:
        folder: Of a run that has ended.
        tag: Of the weights.
        model: Registered name; that of the run if None.
        also: Runs with the same settings and other seeds.
        dataset: What to call the images; by the name of the data if None.
        license: Of the weights; None: of those that the run began with, else apache-2.0.
        figures: False where the row's figures are not going to be shown, so that they need not be of these weights.

    Raises:
        ValueError: The run has not ended, its figures were measured on other weights than lie there, it is of a model
            without cells, the other runs differ by more than the seed, or it began with weights of others who do not
            say that what comes of them may be published.
    """
    run = read_run(folder)
    runs = [run, *map(read_run, also)]
    if figures and (other := next((one for one in runs if one.measured is False), None)):
        raise ValueError(
            f"run {str(other.folder)!r}: its figures were not measured on this model.safetensors, whose SHA-256 is "
            f"{results.file_sha256(other.weights)[:16]}...; result.json says "
            f"{str(other.result['weights_sha256'])[:16]}..."
        )
    network: Any = load_model(str(folder))
    if not isinstance(network, CellNet):
        raise ValueError(f"run {str(folder)!r}: {run.config['architecture']} is not a cell network; only those are")
    for other in runs[1:]:
        for key, value in run.comparable().items():
            if other.comparable().get(key) != value:
                raise ValueError(
                    f"run {str(other.folder)!r}: {key}={other.comparable().get(key)!r}, the published run has "
                    f"{value!r}; the runs must differ by their seed alone"
                )
    seeds = tuple(int(one.settings["seed"]) for one in runs)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {', '.join(map(str, seeds))}: the runs must have different seeds")
    result, settings, cfg = run.result, run.settings, run.config["pretrained_cfg"]
    about = dataset or _dataset(settings["data"], settings.get("test_data"))
    top1s = tuple(round(100 * one.result["top1"], 4) for one in runs)
    counts = count(network.to("meta"), tuple(cfg["input_size"]))
    begun = run.log[0]  # with what the run was made when it began; the result file of an older one has its end
    return Result(
        model=model or run.config["architecture"],
        tag=tag,
        cell=_cell_name(model or run.config["architecture"], network.genotype),
        genotype=network.genotype.digest,
        init_channels=network.init_channels,
        num_cells=network.num_cells,
        dataset=about.title,
        dataset_note=about.note,
        dataset_id=about.hub_id,
        train_images=int(run.log[0]["data"]["train"]),
        test_images=int(result["n"]),
        num_classes=network.num_classes,
        label_names=tuple(run.config["label_names"]),
        input_size=tuple(cfg["input_size"]),
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        interpolation=cfg["interpolation"],
        crop_pct=float(cfg["crop_pct"]),
        top1=top1s[0],
        top5=round(100 * result["top5"], 4) if "top5" in result else None,
        loss=round(result["loss"], 6),
        run_top1=top1s[0],
        seed=seeds[0],
        seeds=seeds,
        seeds_top1=top1s,
        spread=round(statistics.stdev(top1s), 4) if len(top1s) > 1 else None,
        recipe=settings["recipe"],
        settings=json.dumps(_changed_settings(run), sort_keys=True),
        epochs=int(settings["epochs"]),
        seconds=float(result["seconds"]),
        device=begun["device"],
        device_name=begun["device_name"],
        threads=int(begun["threads"]),
        processes=int(begun["processes"]),
        versions=" ".join(f"{name}={version}" for name, version in begun["versions"].items()),
        commit=begun.get("commit") or "",
        date=datetime.fromtimestamp((run.folder / "result.json").stat().st_mtime, UTC).date().isoformat(),
        params=counts.params,
        macs=counts.macs,
        dtype="float32",
        weights=run.weights.name,
        size=run.weights.stat().st_size,
        sha256=results.file_sha256(run.weights),
        hub_id="",
        hub_revision="",
        license=license or _license_of(run),
    )


def _license_of(run: Run) -> str:
    """The licence of a run's weights where the user gives none; ValueError where it is for others to give."""
    began_with = run.result.get("began_with") or ""
    if began_with.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        raise ValueError(
            f"run {str(run.folder)!r} began with {began_with}, whose licence is not known here; --license says under "
            "which its weights may be published"
        )
    others = find_public(began_with)
    return "apache-2.0" if others is None else others.license_to_publish(f"run {str(run.folder)!r} began with")


# ----------------------------------------------------------------------------------------------------------- weights


def with_dtype(tensors: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """The state dict with its floating-point tensors in another type; ValueError where one does not fit into it."""
    kind = getattr(torch, dtype)
    made = {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    for name, tensor in made.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name}: holds numbers that {dtype} has not (largest {tensors[name].abs().max():.3g})")
    return made


def reference_images(input_size: Sequence[int], count: int = 4) -> Tensor:
    """Images (count, C, H, W) float32 to compare logits on: smooth colours under noise, the same each time."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = input_size
    coarse = torch.randn(count, channels, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return smooth + 0.3 * torch.randn(count, channels, height, width, generator=generator)


@torch.no_grad()
def reference_tensors(model: nn.Module, input_size: Sequence[int]) -> dict[str, Tensor]:
    """``pixel_values`` and the ``logits`` that the model makes of them."""
    images = reference_images(input_size)
    return {"pixel_values": images, "logits": model.eval()(images)}


def adopt(
    folder: Path | str,
    *,
    tag: str,
    model: str | None = None,
    dtype: str = "auto",
    also: Sequence[Path | str] = (),
    data: str | None = None,
    test_data: str | None = None,
    data_root: Path | str | None = None,
    dataset: Dataset | None = None,
    hub: str | None = None,
    replace: bool = False,
    instead_of: str | None = None,
    package: Path | None = None,
    license: str | None = None,
) -> tuple[Result, str]:
    """Publishes a run into the package; returns its row and, in a sentence, what the stored type costs.

    Args:
        folder, tag, model, also, dataset, license: See result_of_run.
        dtype: "float16" (refused where it costs accuracy), "float32", or "auto" for float16 where it does not.
        data, test_data, data_root: Where the run's images lie; as the run had them if None.
        hub: ORG/NAME@COMMIT where the weights are published already; then they are not put into the package.
        replace: The row of that model and tag, if there is one.
        instead_of: Tag of weights of the model that go, and whose place in the table the new ones take.
        package: Folder with results.csv and weights/; the installed one if None.

    Raises:
        ValueError: For anything that does not fit; nothing is written then.
    """
    place = package or results.PACKAGE
    if instead_of is not None and (replace or instead_of == tag):
        raise ValueError(
            "instead_of names another tag than the new weights', and replace is for the same: give one of them"
        )
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"dtype must be auto, {' or '.join(DTYPES)}, got {dtype!r}")
    row = result_of_run(folder, tag=tag, model=model, also=also, dataset=dataset, license=license)
    run = read_run(folder)
    began_with = run.result.get("began_with") or run.settings.get("init_weights")
    if began_with and not _of_a_search(run):
        raise ValueError(f"run {str(folder)!r} began with {began_with}: only runs from scratch come into the package")
    old = f"{row.model}.{instead_of}" if instead_of else row.name if replace else ""
    _check_place(results.read_results(place / "results.csv"), row, old)
    tensors = read_state_dict(run.weights)
    _check_fits(row, tensors)

    half = dtype if dtype != "auto" else "float16"
    stored: dict[str, Tensor]
    if hub is not None:
        row, stored = _published_there(row, tensors, hub)
        if dtype not in ("auto", row.dtype):
            raise ValueError(f"dtype={dtype}: the weights on the Hub are {row.dtype}")
        half = row.dtype
    settings = run.settings
    size = row.input_size
    source = open_source(
        data or settings["data"],
        "test",
        root=data_root or settings["data_root"],
        test_data=test_data or (settings["test_data"] if data is None else None),
        image_column=settings.get("image_column"),
        label_column=settings.get("label_column"),
        image_size=size[1],
        in_chans=size[0],
        crop_pct=row.crop_pct,
    )
    if len(source) != row.test_images:
        raise ValueError(f"{source.name}: has {len(source)} test images, the run was measured on {row.test_images}")
    network = load_model(str(folder))
    again = evaluate_model(network, source)
    allowed = 0.5 if settings.get("precision") == "bf16" else SAME  # a run before 0.2.0 was measured in bfloat16
    if abs(100 * again["top1"] - row.run_top1) > max(allowed, 200 / len(source)):
        raise ValueError(
            f"{source.name}: the run's weights reach {100 * again['top1']:.2f} % there, its result.json says "
            f"{row.run_top1:.2f} %; other images?"
        )

    def measured(kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        made = with_dtype(tensors, kind)
        network.load_state_dict(made)
        return made, again if kind == "float32" else evaluate_model(network, source)

    try:
        stored, figures = measured(half)
        lost = 100 * (again["top1"] - figures["top1"])
        words = (
            f"{half} reaches {100 * figures['top1']:.2f} %, float32 {100 * again['top1']:.2f} % ({len(source)} images)"
        )
        if lost > TOLERANCE:
            raise ValueError(f"{words}: costs {lost:.2f} points, more than {TOLERANCE}; --dtype float32 costs nothing")
    except ValueError as error:
        if dtype != "auto" or hub is not None:
            raise ValueError(f"dtype={half!r}: {error}") from None
        words = f"kept as float32: {error}"
        half = "float32"
        stored, figures = measured(half)
    row = dataclasses.replace(
        row,
        dtype=half,
        top1=round(100 * figures["top1"], 4),
        top5=round(100 * figures["top5"], 4) if "top5" in figures else None,
        loss=round(figures["loss"], 6),
    )
    _write(place, row, run, stored, reference_tensors(network, size), old)
    return next(r for r in results.read_results(place / "results.csv") if r.name == row.name), words


def _check_place(rows: Sequence[Result], row: Result, old: str) -> None:
    """ValueError where a row cannot come into the table in the place of the one named `old` ("": as a new one)."""
    names = [other.name for other in rows]
    if row.name in names and row.name != old:
        raise ValueError(f"{row.name} is in the table already; give another --tag, or --replace")
    if old and old != row.name and old not in names:
        tags = ", ".join(other.tag for other in rows if other.model == row.model)
        raise ValueError(f"instead_of: there are no weights {old}; {row.model} has {tags or 'none'}")


def _of_a_search(run: Run) -> bool:
    """Whether a run's first weights were those of a derived network, which a search leaves beside its cells."""
    first = Path(run.settings.get("init_weights") or "")  # a search's folder, or a file in it
    return (not first.suffix or first.name.startswith("derived")) and "began_with" not in run.result


def _check_fits(row: Result, tensors: Mapping[str, Tensor]) -> None:
    """The run's network has to be the registered model, as it is made without any arguments but the classes."""
    if row.model not in MODELS:
        raise ValueError(f"model={row.model!r}: is not registered (`nas-zoo list`); --model NAME is needed")
    registered: Any = timm.create_model(row.model, num_classes=row.num_classes, device="meta")
    if registered.genotype.digest != row.genotype:
        raise ValueError(
            f"model={row.model!r}: has cells {name_of_cells(registered.genotype.digest)}, "
            f"the run {name_of_cells(row.genotype)}"
        )
    wrong = describe_mismatch(registered, tensors)
    if wrong:
        raise ValueError(f"model={row.model!r}: the run's weights do not fit it: {wrong}")
    own = timm.get_pretrained_cfg(row.model)
    assert own is not None
    names = own.label_names if own.num_classes == row.num_classes else None  # of others: had by its tag alone
    if names and tuple(names) != row.label_names:
        raise ValueError(
            f"model={row.model!r}: is for classes {', '.join(names)}, the run for {', '.join(row.label_names)}"
        )


def _published_there(row: Result, tensors: Mapping[str, Tensor], hub: str) -> tuple[Result, dict[str, Tensor]]:
    """The row with the Hub as the place of the weights, once what lies there has been compared with the run's."""
    name, _, commit = hub.partition("@")
    row = dataclasses.replace(row, weights="", hub_id=name, hub_revision=commit)
    try:
        path = results.fetch_weights(row)
    except ValueError as error:
        if "SHA-256" not in str(error):
            raise
        # float16 there: other bytes than the run's file, which the comparison below makes good
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(name, results.HUB_FILE, revision=commit))
    there = read_state_dict(path)
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in there.values() if tensor.is_floating_point()}
    if len(kinds) != 1 or not kinds <= set(DTYPES):
        raise ValueError(
            f"hub={hub!r}: its weights must be {' or '.join(DTYPES)}, they are {' and '.join(sorted(kinds))}"
        )
    kind = kinds.pop()
    own = with_dtype(tensors, kind)
    if own.keys() != there.keys() or not all(torch.equal(own[key], there[key]) for key in own):
        raise ValueError(f"hub={hub!r}: holds other weights than the run")
    size, digest = path.stat().st_size, results.file_sha256(path)
    return dataclasses.replace(row, dtype=kind, size=size, sha256=digest), there


def _write(
    place: Path,
    row: Result,
    run: Run,
    stored: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    old: str,
) -> None:
    """Puts the row and its files into the package, and takes out those of the row `old`, if another is meant."""
    folder, name = place / "weights", f"{row.name}.safetensors"
    gone = [f"weights/{name}"] if row.hub_id else []
    if old and old != row.name:
        files = (f"weights/{old}.{kind}" for kind in ("safetensors", "reference.safetensors", "log.jsonl"))
        gone += [file for file in files if (place / file).exists()]
    # Last the table, since it is its row that publishes the files.
    with staged(place, last="results.csv", gone=gone) as aside:
        rows = results.read_results(place / "results.csv")  # minutes of measuring ago it may have been another
        _check_place(rows, row, old)
        if not row.hub_id:
            row = dataclasses.replace(row, weights=name)
            path = results.weights_path(row, aside)
            before = tuple(f"{one}." for one in (row.name, old) if one)
            others = sum(file.stat().st_size for file in folder.glob("*") if not file.name.startswith((*before, ".")))
            size = sum(value.numel() * value.element_size() for held in (stored, reference) for value in held.values())
            if others + size > results.MAX_BYTES:
                raise ValueError(
                    f"{row.name}: {size / 1e6:.1f} MB beside {others / 1e6:.1f} MB are more than the "
                    f"{results.MAX_BYTES / 1e6:.0f} MB that the package may carry; publish them, then give --hub"
                )
            write_weights(path, stored, {"model": row.name, "license": row.license})
            row = dataclasses.replace(row, size=path.stat().st_size, sha256=results.file_sha256(path))
        write_weights(results.reference_path(row, aside), reference, {"model": row.name})
        write_text(aside / "weights" / f"{row.name}.log.jsonl", published_log(run.log))
        results.write_results(results.with_row(rows, row, old), aside / "results.csv")


def compare_with_reference(model: nn.Module, path: Path | str) -> tuple[float, float]:
    """Largest difference of a logit from the reference tensors, and how much it may be: 1e-4 of the largest logit.

    Kernels differ between processors by less than that. ValueError where the file is no such file.
    """
    images, expected = results.read_reference(path)
    with torch.no_grad():
        got = model.eval()(images)
    difference = float(np.abs(got.numpy() - expected.numpy()).max())
    return difference, 1e-4 * max(1.0, float(expected.abs().max()))


# ----------------------------------------------------------------------------------------------------------- program


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="nas-zoo adopt", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run of `nas-zoo train` that has ended")
    parser.add_argument("--tag", required=True, help="of the weights: data and recipe in lower case, as in jpeg_e60")
    parser.add_argument("--model", help="registered model that the weights are for (default: the run's)")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto",
                        help="of the stored weights; auto: float16 where it costs no accuracy (default)")  # fmt: skip
    parser.add_argument("--also", type=Path, nargs="+", default=[], metavar="RUN",
                        help="runs of other seeds: for mean and spread")  # fmt: skip
    parser.add_argument("--data", help="where the run's data lie now (default: as the run had them)")
    parser.add_argument("--test-data", help="likewise, of the test images")
    parser.add_argument("--data-root", type=Path, help="likewise, of cifar10 and cifar100")
    parser.add_argument("--dataset", help="what to call the data set (known ones have their names)")
    parser.add_argument("--dataset-note", default="", help="how it differs from the set of that name")
    parser.add_argument("--dataset-id", default="", help="its id on the Hub")
    parser.add_argument("--hub", metavar="ORG/NAME@COMMIT", help="where the weights lie, instead of in the package")
    parser.add_argument("--replace", action="store_true", help="replace the weights of that model and tag")
    parser.add_argument("--instead-of", metavar="TAG", help="replace the model's weights of this tag")
    parser.add_argument("--license", help="of the weights (default: apache-2.0)")
    return parser


@program("nas-zoo adopt")
def main(argv: list[str] | None = None) -> int:
    """The program: 0 when the run is published, 2 for a mistake of the user's, after which nothing has changed."""
    given = make_parser().parse_args(argv)
    if given.dataset is None and (given.dataset_note or given.dataset_id):
        raise ValueError("--dataset-note and --dataset-id can be given with --dataset only")
    dataset = Dataset(given.dataset, given.dataset_note, given.dataset_id) if given.dataset else None
    same = ("tag", "model", "dtype", "also", "data", "test_data", "data_root", "hub", "replace", "license",
            "instead_of")  # fmt: skip
    row, words = adopt(given.run, dataset=dataset, **{name: getattr(given, name) for name in same})
    print(words)
    where = f"{row.hub_id} at {row.hub_revision[:12]}" if row.hub_id else f"weights/{row.weights}"
    print(f"{row.name}: {row.top1:.2f} % top-1 of {row.test_images} images of {row.dataset}, {row.dtype}, "
          f"{row.size / 1e6:.2f} MB: {where}")  # fmt: skip
    own = timm.get_pretrained_cfg(row.model)
    if own is not None and own.num_classes != row.num_classes:
        print(f"{row.model} has {own.num_classes} classes, these weights {row.num_classes}: they are had by their tag, "
              f"timm.create_model({row.name!r}, pretrained=True)")  # fmt: skip
    else:
        rows = results.read_results(results.PACKAGE / "results.csv")
        default = next(r for r in rows if (r.model, r.num_classes) == (row.model, row.num_classes))
        stays = (
            "" if default.name == row.name else f"; with --instead-of {default.tag} and another tag these had its place"
        )
        print(f"timm.create_model({row.model!r}, pretrained=True) has the weights {default.name}{stays}")
    return 0
