"""Trained weights that other people publish, a row each of public.csv: where they are, whose, what is known of them.

None of these files comes with the package or was measured by it: the user's machine fetches them from their authors
(``nas_zoo.models.download``). What is in a row was read from the authors' repositories, at the commit that it names;
figures are the authors' own, in percent of wrong answers, and stand in columns that begin with ``reported_``.

Rows with ``not_by_name`` have no tag: files that are gone, have no link of their own, are of an unnamed cell or of
another network. They stand here so that nobody looks for them again.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import re
from pathlib import Path
from typing import Any

__all__ = ["KEY_SCHEMES", "PublicWeights", "find_public", "public_of", "public_weights", "read_public"]

#: How the names in a file are made up (``nas_zoo.models.key_schemes``).
KEY_SCHEMES = ("darts", "fairdarts", "nni", "cdarts", "pt_darts")
#: Licences under which anybody may pass a file on, changed too, with its notice. GPL and its like ask for more.
OPEN_LICENSES = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "unlicense",
)  # fmt: skip
NO_LICENSE = "no licence stated"
#: What a figure is of, where the authors say it.
EPOCHS = ("best epoch", "last epoch", "mean of several runs", "not said")

_NAME = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*")
_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
_HEX = re.compile(r"[0-9a-f]*")
_HEX_DIGITS = {"git_blob": 40, "md5": 32}


@dataclasses.dataclass(frozen=True)
class PublicWeights:
    """One checkpoint of other people. Empty text and None: the authors do not say."""

    model: str  # its timm name here, without the tag
    tag: str  # whose, or of which training
    repository: str  # OWNER/NAME, where the link is given
    commit: str  # at which it was read
    path: str  # of the file in the repository, or what the link is called there
    link: str
    git_blob: str  # 40 hex digits: SHA-1 of "blob SIZE\0" and the bytes
    sha256: str  # all of it, or its first digits
    md5: str
    reported_err: float | None  # top-1, in percent
    reported_top5_err: float | None
    reported_of: str  # one of EPOCHS
    reported_source: str
    license: str  # an SPDX identifier, or in words
    format: str  # "state_dict", or "checkpoint": that and other things
    keys: str  # one of KEY_SCHEMES, or empty where none fits
    edges: str  # numbers of the edges in the file, "normal | reduction", where it counts others ('none') too
    input_size: tuple[int, ...]  # (C, H, W)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float | None
    interpolation: str
    cautions: str
    not_by_name: str  # why the file is not had by a name; empty: it is

    def __post_init__(self) -> None:
        def need(condition: bool, name: str, words: str) -> None:
            if not condition:
                raise ValueError(f"{name} {words}, got {getattr(self, name)!r}")

        by_name = not self.not_by_name
        for name in ("model", "tag"):
            empty = not by_name and not getattr(self, name)
            need(empty or bool(_NAME.fullmatch(getattr(self, name))), name, "must be lower-case words joined by _")
        need(by_name or not self.tag, "tag", "must be empty where the file is not had by name")
        need(bool(_REPOSITORY.fullmatch(self.repository)), "repository", "must be OWNER/NAME")
        need(self.link.startswith(("https://", "http://")), "link", "must begin with https:// or http://")
        for name, digits in _HEX_DIGITS.items():
            value = getattr(self, name)
            need(len(value) in (0, digits) and bool(_HEX.fullmatch(value)), name, f"must be {digits} hex digits")
        need(len(self.sha256) <= 64 and bool(_HEX.fullmatch(self.sha256)), "sha256", "must be up to 64 hex digits")
        for name in ("reported_err", "reported_top5_err"):
            value = getattr(self, name)
            need(value is None or 0 < value < 100, name, "must be a percentage above 0 and below 100")
        need(self.reported_of in (EPOCHS if self.reported_err is not None else ("",)), "reported_of",
             f"must be one of {', '.join(EPOCHS)} where there is a figure")  # fmt: skip
        need(bool(self.reported_source) == (self.reported_err is not None), "reported_source", "must stand by a figure")
        need(bool(self.license), "license", f"must say {NO_LICENSE!r} where there is none")
        need(self.format in ("state_dict", "checkpoint"), "format", "must be state_dict or checkpoint")
        need(self.keys in (KEY_SCHEMES if by_name else ("", *KEY_SCHEMES)), "keys",
             f"must be one of {', '.join(KEY_SCHEMES)}")  # fmt: skip
        if by_name:
            need(len(self.input_size) == 3, "input_size", "must be (channels, height, width)")
            for name in ("mean", "std"):
                words = f"must be {self.input_size[0]} numbers, one a channel"
                need(len(getattr(self, name)) == self.input_size[0], name, words)
            need(self.crop_pct is not None, "crop_pct", "must be a number")

    @property
    def name(self) -> str:
        """Model and tag as timm writes them; without a tag, the model alone."""
        return f"{self.model}.{self.tag}" if self.tag else self.model

    @property
    def source(self) -> str:
        """The repository at its commit, as the cells' records write it."""
        return f"{self.repository}@{self.commit[:7]}" if self.commit else self.repository

    @property
    def authors(self) -> str:
        """Who publishes the file: the owner of the repository, whose page names the people."""
        return self.repository.split("/")[0]

    @property
    def page(self) -> str:
        """Of the repository at its commit, where the people, their licence and its notice are named."""
        return f"https://github.com/{self.repository}" + (f"/tree/{self.commit}" if self.commit else "")

    @property
    def may_be_passed_on(self) -> bool:
        """Whether the licence that the repository states lets anybody publish the weights again."""
        return self.license in OPEN_LICENSES

    def license_to_publish(self, what: str) -> str:
        """The licence under which `what` may be published, which begins a sentence: the authors'.

        Raises:
            ValueError: It does not allow it; then it is for the user to give one.
        """
        if not self.may_be_passed_on:
            raise ValueError(
                f"{what} {self.name}, weights of {self.authors} ({self.source}), of which it is said: {self.license}; "
                "if you may publish what comes of them, give its licence with --license"
            )
        return self.license

    @property
    def numbering(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The numbers in the file of our edges, of the normal and of the reduction cell; None: counted through."""
        if not self.edges:
            return None
        normal, reduce = ([int(word) for word in part.split()] for part in self.edges.split("|"))
        return tuple(normal), tuple(reduce)

    @property
    def file_name(self) -> str:
        """Under which the file is kept: no two rows share it."""
        ending = Path(self.link.rpartition("/")[2].partition("?")[0] if "uc?" not in self.link else "").suffix
        return f"{self.name}{ending if ending in ('.pt', '.pth', '.tar', '.t7') else '.pt'}"

    @property
    def figure(self) -> str:
        """The authors' figure in a line: "2.26 % (epoch not said)"; empty without one."""
        if self.reported_err is None:
            return ""
        of = "epoch not said" if self.reported_of == "not said" else self.reported_of
        return f"{self.reported_err:.2f} % ({of})"

    def cfg(self) -> dict[str, Any]:
        """What these weights change in a timm configuration. No figure: one that we did not measure is not carried."""
        assert not self.not_by_name
        return {
            "url": self.link,
            "input_size": self.input_size,
            "mean": self.mean,
            "std": self.std,
            "crop_pct": self.crop_pct,
            "interpolation": self.interpolation,
            "license": self.license,
            "origin_url": f"https://github.com/{self.repository}",
            "description": f"trained by others: {self.source}, {self.path}",
        }


_COLUMNS = {field.name: field for field in dataclasses.fields(PublicWeights)}


def read_public(path: Path | str) -> tuple[PublicWeights, ...]:
    """The rows of a table, in their order.

    Raises:
        ValueError: Naming file, line, column and value, for a table that is not one of these.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"public weights {path}: cannot be read: {error}") from None
    reader = csv.DictReader(io.StringIO(text))
    if list(reader.fieldnames or ()) != list(_COLUMNS):
        raise ValueError(f"public weights {path}, line 1: the columns must be {','.join(_COLUMNS)}")
    rows: list[PublicWeights] = []
    for values in reader:
        place = f"public weights {path}, line {reader.line_num}"
        if None in values or None in values.values():
            raise ValueError(f"{place}: there must be {len(_COLUMNS)} values")
        try:
            row = PublicWeights(**{name: _from_text(name, value) for name, value in values.items()})
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        if row.tag and any(row.name == other.name for other in rows):
            raise ValueError(f"{place}: {row.name} stands there twice")
        rows.append(row)
    return tuple(rows)


def _from_text(name: str, text: str) -> Any:
    kind = str(_COLUMNS[name].type)
    try:
        if kind == "float | None":
            return float(text) if text else None
        if kind.startswith("tuple"):
            return tuple((int if "int" in kind else float)(word) for word in text.split())
        return text
    except ValueError:
        raise ValueError(f"{name} must be made of numbers, got {text!r}") from None


@functools.cache
def public_weights() -> tuple[PublicWeights, ...]:
    """The rows of the installed package, those that are not had by name among them."""
    return read_public(Path(__file__).with_name("public.csv"))


def find_public(name: str) -> PublicWeights | None:
    """The row of MODEL.TAG, or None."""
    return next((row for row in public_weights() if row.tag and row.name == name), None)


def public_of(model: str) -> list[PublicWeights]:
    """The rows of a model that are had by name."""
    return [row for row in public_weights() if row.model == model and row.tag]
