"""The published checkpoints: one row of results.csv each, and where their weights lie.

Rows are written by `nas-zoo adopt` out of a finished run's own files and by nothing else; cards, the README's table and
timm's configurations are made from them. The weights lie in ``weights/`` beside the table, or, where a row says so, on
the Hugging Face Hub under one commit; in either case their SHA-256 is in the row and is checked before they are used.
Every figure is ours. What the papers report stands with the cells (``nas_zoo.models.table.paper_figures``).
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import functools
import hashlib
import io
import json
import math
import re
import typing
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from nas_zoo.runs.files import write_text
from nas_zoo.runs.settings import require

__all__ = [
    "DTYPES",
    "HUB_FILE",
    "PACKAGE",
    "Result",
    "fetch_weights",
    "file_sha256",
    "in_table",
    "network_errors",
    "package_results",
    "read_reference",
    "read_results",
    "reference_path",
    "standard_error",
    "titles_of_classes",
    "weights_path",
    "words_of_classes",
    "write_results",
]  # fmt: skip

#: The folder that holds results.csv and weights/: the installed package.
PACKAGE = Path(__file__).parent
DTYPES = ("float32", "float16")
#: What the package may carry, of all checkpoints together.
MAX_BYTES = 40_000_000
HUB_FILE = "model.safetensors"

_NAME = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WORDNET_ID = re.compile(r"n\d{8}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclasses.dataclass(frozen=True)
class Result:
    """One published checkpoint. Accuracies are in percent of the test images, the spread in points."""

    model: str  # its timm name, without the tag
    tag: str  # data and recipe: edas_c10_s.jpeg_e60
    cell: str  # name of the genotype
    genotype: str  # and its digest
    init_channels: int
    num_cells: int
    dataset: str  # "CIFAR-10 (JPEG)"
    dataset_note: str  # how it differs from the set of that name; empty: not at all
    dataset_id: str  # of the set on the Hub, or empty
    train_images: int
    test_images: int
    num_classes: int
    label_names: tuple[str, ...]
    input_size: tuple[int, int, int]  # (C, H, W)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    top1: float  # of the published file, loaded as float32
    top5: float | None  # where there are more than ten classes
    loss: float  # mean cross-entropy of the published file
    run_top1: float  # of the run's own float32 weights, as the run measured it
    seed: int  # of the published checkpoint
    seeds: tuple[int, ...]  # of all runs of these settings; the published one is the first, not the best
    seeds_top1: tuple[float, ...]  # of those runs, in that order
    spread: float | None  # standard deviation (n - 1) of seeds_top1; none for one seed
    recipe: str
    settings: str  # JSON: what the run changed in the recipe
    epochs: int
    seconds: float  # of training, of the published run
    device: str
    device_name: str
    threads: int
    processes: int
    versions: str  # "python=3.11.7 torch=2.14.1 ..."
    commit: str  # of this repository when the run began; empty: unknown
    date: str  # on which the run ended
    params: int
    macs: int  # multiply-adds, see nas_zoo.models.count.CONVENTION
    dtype: str  # of the published file
    weights: str  # file in weights/, or empty: on the Hub
    size: int  # of the file in bytes
    sha256: str  # of the file
    hub_id: str  # ORG/NAME, or empty
    hub_revision: str  # the commit there
    license: str

    def __post_init__(self) -> None:
        def need(condition: bool, name: str, what: str) -> None:
            require(condition, name, getattr(self, name), what)

        for name in ("model", "tag"):
            need(_NAME.fullmatch(getattr(self, name)) is not None, name, "lower-case words joined by _")
        for name in ("top1", "run_top1"):
            need(0 <= getattr(self, name) <= 100, name, "a percentage")
        for name in ("train_images", "test_images", "epochs", "params", "macs", "size", "num_classes"):
            need(getattr(self, name) > 0, name, "greater than 0")
        need(math.isfinite(self.loss) and self.loss >= 0, "loss", "a finite number of at least 0")
        need(len(self.label_names) == self.num_classes, "label_names", f"{self.num_classes} names")
        need(len(self.input_size) == 3, "input_size", "(channels, height, width)")
        for name in ("mean", "std"):
            need(len(getattr(self, name)) == self.input_size[0], name, f"{self.input_size[0]} numbers")
        need(self.seeds[:1] == (self.seed,), "seeds", f"a list that begins with the published seed {self.seed}")
        need(len(self.seeds_top1) == len(set(self.seeds)), "seeds_top1", "one figure for each seed")
        need((self.spread is None) == (len(self.seeds) < 2), "spread", "given with two seeds or more, and not with one")
        need(self.dtype in DTYPES, "dtype", f"one of {', '.join(DTYPES)}")
        need(_SHA256.fullmatch(self.sha256) is not None, "sha256", "64 hex digits")
        need(_DATE.fullmatch(self.date) is not None, "date", "a date like 2026-11-21")
        need("/" not in self.weights and "\\" not in self.weights, "weights", "the name of a file, without folders")
        need(bool(self.weights) != bool(self.hub_id), "weights", "given, or hub_id, and not both")
        need(
            (_COMMIT.fullmatch(self.hub_revision) is not None) == bool(self.hub_id),
            "hub_revision", "a commit of 40 hex digits with a hub_id, and empty without",
        )  # fmt: skip
        try:
            readable = isinstance(json.loads(self.settings), dict)
        except ValueError:
            readable = False
        need(readable, "settings", "a JSON object")

    @property
    def name(self) -> str:
        """Model and tag as timm writes them."""
        return f"{self.model}.{self.tag}"

    @property
    def changed_settings(self) -> dict[str, Any]:
        """What the run changed in the recipe."""
        return dict(json.loads(self.settings))

    @property
    def label_descriptions(self) -> dict[str, str]:
        """What WordNet ids among the class names mean: {"n01440764": "tench, Tinca tinca"}; of other names nothing."""
        return words_of_classes(self.label_names)

    def cfg(self) -> dict[str, Any]:
        """What these weights change in a timm configuration: their place, and the images that they were trained on.

        No figure: a configuration goes on to networks that were trained on something else.
        """
        place: dict[str, Any] = (
            {"file": str(weights_path(self))}
            if self.weights
            else {"hf_hub_id": f"{self.hub_id}@{self.hub_revision}", "hf_hub_filename": HUB_FILE}
        )
        return place | {
            "num_classes": self.num_classes,
            "input_size": self.input_size,
            "mean": self.mean,
            "std": self.std,
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "label_names": self.label_names,
            "label_descriptions": self.label_descriptions or None,
            "license": self.license,
        }


def words_of_classes(names: Sequence[str]) -> dict[str, str]:
    """What WordNet ids among the names of classes mean."""
    ids = tuple(name for name in names if _WORDNET_ID.fullmatch(name))
    return _wordnet_words(ids) if ids else {}


def titles_of_classes(names: Sequence[str]) -> dict[str, str]:
    """What a reader is shown for each name: "tench (n01440764)" where it is a WordNet id, else the name itself."""
    meant = words_of_classes(names)
    return {name: f"{meant[name].split(',')[0]} ({name})" if name in meant else name for name in names}


@functools.cache
def _wordnet_words(ids: tuple[str, ...]) -> dict[str, str]:
    """The words of these WordNet ids, out of the table that timm.data.ImageNetInfo reads.

    Looked up line by line, because each import of timm asks, and reading all of its tables would take as long as the
    rest of our registration.
    """
    table = resources.files("timm.data").joinpath("_info", "imagenet_synset_to_lemma.txt")
    text = f"\n{table.read_text(encoding='utf-8')}\n" if table.is_file() else ""
    places = {one: text.find(f"\n{one}\t") for one in ids}
    return {one: text[at + len(one) + 2 : text.index("\n", at + 1)] for one, at in places.items() if at >= 0}


# --------------------------------------------------------------------------------------------------------- the table

_COLUMNS: dict[str, Any] = typing.get_type_hints(Result)  # and the type of each


def read_results(path: Path | str) -> tuple[Result, ...]:
    """The rows of a table, in their order.

    Raises:
        ValueError: Naming file, line, column and value, for a table that is not one of these.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"results {path} cannot be read: {error}") from None
    reader = csv.reader(io.StringIO(text))
    head = next(reader, [])
    if head != list(_COLUMNS):
        missing, unknown = sorted(set(_COLUMNS) - set(head)), sorted(set(head) - set(_COLUMNS))
        raise ValueError(f"results {path}, line 1: the columns must be {','.join(_COLUMNS)}"
                         f"{'; missing: ' + ', '.join(missing) if missing else ''}"
                         f"{'; unknown: ' + ', '.join(unknown) if unknown else ''}")  # fmt: skip
    rows: list[Result] = []
    for values in reader:
        place = f"results {path}, line {reader.line_num}"
        if len(values) != len(head):
            raise ValueError(f"{place}: {len(values)} values for {len(head)} columns")
        given = {name: _from_text(name, value, place) for name, value in zip(head, values, strict=True)}
        try:
            row = Result(**given)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        if any(row.name == other.name for other in rows):
            raise ValueError(f"{place}: {row.name} stands in the table already")
        rows.append(row)
    return tuple(rows)


def in_table(rows: Iterable[Result]) -> str:
    """The rows as the table's text; read_results gives them back equal."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        writer.writerow([_to_text(getattr(row, name)) for name in _COLUMNS])
    return file.getvalue()


def write_results(rows: Sequence[Result], path: Path | str) -> None:
    """The table, sorted by model (of its rows `pretrained=True` takes the first); whole or as it was before."""
    order = sorted(rows, key=lambda row: row.model)
    write_text(path, in_table(order))


def _to_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        # Names may hold blanks, numbers do not.
        texts = any(isinstance(part, str) for part in value)
        return json.dumps(value, ensure_ascii=False) if texts else " ".join(map(str, value))
    return str(value)


def _from_text(name: str, text: str, place: str) -> Any:
    kind = _COLUMNS[name]
    try:
        if kind is str:
            return text
        if kind in (int, float):
            return kind(text)
        if typing.get_origin(kind) is tuple:
            part = typing.get_args(kind)[0]
            return tuple(json.loads(text)) if part is str else tuple(part(word) for word in text.split())
        return float(text) if text else None  # float | None
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"{place}: {name} cannot be read from {text[:80]!r}") from None


@functools.cache
def package_results() -> tuple[Result, ...]:
    """The rows of the installed package."""
    return read_results(PACKAGE / "results.csv")


# ------------------------------------------------------------------------------------------------------- the weights


def with_row(rows: Sequence[Result], row: Result, old: str = "") -> list[Result]:
    """The rows with this one: in the place of the one named `old`, or of its own name; a new one is the last.

    A model's first row is its default.
    """
    old = old or row.name
    if any(other.name == old for other in rows):
        return [row if other.name == old else other for other in rows]
    return [*rows, row]


def weights_path(row: Result, package: Path | None = None) -> Path:
    """Where the weights of a row lie that come with the package."""
    return (package or PACKAGE) / "weights" / row.weights


def reference_path(row: Result, package: Path | None = None) -> Path:
    """Where the reference tensors of a row lie: a few images and what the published file makes of them."""
    return (package or PACKAGE) / "weights" / f"{row.name}.reference.safetensors"


def read_reference(path: Path | str) -> tuple[Any, Any]:
    """(pixel_values (N, C, H, W), logits (N, num_classes)), float32 both; ValueError where the file is not that."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        return tensors["pixel_values"], tensors["logits"]
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"reference tensors {path}: not readable: {error}") from None


def network_errors() -> tuple[type[Exception], ...]:
    """What the Hub's client raises where there is no answer; its HTTP library changes its name now and then."""
    from huggingface_hub.utils import _http

    library = getattr(_http, "httpx2", None) or getattr(_http, "httpx", None)
    return () if library is None else (library.RequestError,)


def hub_is_away(name: str, *filenames: str, cache_dir: Path | str | None = None) -> str | None:
    """Words for why a file can neither be had from the Hub nor from its cache; None where one of the two may do.

    To be asked before the Hub's client, which tries for 23 seconds where there is no network at all. Whatever may pass
    (a slow answer, a server in trouble) is None and left to its patience, and so is a proxy, whose way is its own.

    Args:
        name: ORG/NAME or ORG/NAME@REVISION.
        filenames: Of the repository; one of them is enough.
        cache_dir: Of the Hub's client; None: the user's.
    """
    import socket
    import urllib.request
    from urllib.parse import urlsplit

    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repository, _, revision = name.partition("@")
    try:
        kept = [try_to_load_from_cache(repository, one, cache_dir, revision or None) for one in filenames]
    except HFValidationError as error:
        return " ".join(str(error).split())
    place = urlsplit(constants.ENDPOINT)
    proxied = urllib.request.getproxies().keys() & {place.scheme, "all"}
    if any(isinstance(one, str) for one in kept) or constants.HF_HUB_OFFLINE or proxied:
        return None
    try:
        socket.create_connection((place.hostname, place.port or (80 if place.scheme == "http" else 443)), 5).close()
    except OSError as error:
        never = isinstance(error, socket.gaierror | ConnectionRefusedError)
        if not never and error.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            return None
        reason = error.strerror
    else:
        return None
    return f"{place.netloc} cannot be reached ({reason}), and {filenames[0]} of {name} is not in the Hub's cache"


def file_sha256(path: Path | str) -> str:
    """Of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_weights(row: Result, *, local_only: bool = False, cache_dir: Path | str | None = None) -> Path:
    """The file with a row's weights, its hash checked: from the package, or from the Hub's cache or the Hub.

    Args:
        row: The checkpoint.
        local_only: Do not ask the network.
        cache_dir: Of the Hub's client; None: the user's.

    Raises:
        ValueError: The file is missing, cannot be had, or is not the published one; one line.
    """
    if row.weights:
        path = weights_path(row)
        if not path.is_file():
            raise ValueError(f"weights of {row.name}: {path.name} is missing from the package; install it again")
        again = "install nas-zoo again"
    else:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

        failed: tuple[type[BaseException], ...] = (OSError, EntryNotFoundError, HfHubHTTPError, *network_errors())
        if not local_only and (away := hub_is_away(f"{row.hub_id}@{row.hub_revision}", HUB_FILE, cache_dir=cache_dir)):
            raise ValueError(f"weights of {row.name} cannot be had: {away}")
        try:
            path = Path(
                hf_hub_download(
                    row.hub_id, HUB_FILE, revision=row.hub_revision, local_files_only=local_only, cache_dir=cache_dir
                )
            )
        except failed as error:
            reason = error.__cause__ or error  # the client wraps what the network said in words about its cache
            text = (str(reason).strip() or type(reason).__name__).splitlines()[0]
            raise ValueError(
                f"weights of {row.name}: {HUB_FILE} of {row.hub_id} at {row.hub_revision[:12]} cannot be had: {text}"
            ) from error
        again = "remove it from the Hub's cache and try again"
    found = file_sha256(path)
    if found != row.sha256:
        raise ValueError(
            f"weights of {row.name}: {path.name} has SHA-256 {found[:16]}..., published is {row.sha256[:16]}...; "
            f"{again}"
        )
    return path


def standard_error(top1: float, n: int) -> float:
    """Of an accuracy in [0, 1] on n pictures, by Agresti and Coull: two right and two wrong ones more.

    So that 24 of 24 do not look certain, as they would with the binomial's own 0; for many pictures it is that.
    """
    share = (top1 * n + 2) / (n + 4)
    return math.sqrt(share * (1 - share) / (n + 4))
