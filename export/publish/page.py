"""Writes a page that runs a network in the browser: drop a picture or take one, and read the classes. No server needed.

    nas-zoo page runs/photos --to page --examples pictures/
    python -m http.server --directory page          # http://localhost:8000; any host of static files does the same

The folder holds index.html, page.js, page.css, the network as an ONNX file with its preprocessing inside, its cells as
a picture, and the examples. ONNX Runtime for browsers comes from its public distribution, one version whose hashes the
page holds and the browser checks; `--runtime FOLDER` (the dist folder of the npm package onnxruntime-web) copies it
into the page instead, which then asks no other host for anything. A picture never leaves the browser.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from nas_zoo.data import pictures
from nas_zoo.export.cells.draw import draw_genotype
from nas_zoo.export.graph.deliver import Forms, deliver
from nas_zoo.export.graph.real_images import RealImages
from nas_zoo.export.publish.published import Checkpoint, add_choices, open_chosen
from nas_zoo.models.results import Result
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import read_bytes, staged, write_bytes, write_text
from nas_zoo.runs.settings import Parser
from nas_zoo.text import counted, fill, plain

__all__ = ["ORT_FILES", "ORT_VERSION", "add_page_flags", "examples_in", "main", "page_words", "write_page"]

MODEL_FILE, PICTURE, RUNTIME = "model_images.onnx", "cells.svg", "runtime"
MOST_EXAMPLES = 8
#: Of onnxruntime-web on npm; the SHA-384 of its two files that the page uses, as browsers check them.
ORT_VERSION = "1.30.0"
ORT_FILES = {
    "ort.wasm.bundle.min.mjs": "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    "ort-wasm-simd-threaded.wasm": "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}
_ORIGIN = "https://cdn.jsdelivr.net"
_HERE = Path(__file__).parent


def write_page(
    checkpoint: Checkpoint,
    folder: Path | str,
    *,
    examples: Sequence[Path | str] = (),
    runtime: Path | str | None = None,
    file: Path | None = None,
    words: str | None = None,
    more: Callable[[Path], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """The files of the page in that folder, which has to be new or empty; it appears whole or not at all.

    Args:
        checkpoint: What the page classifies with.
        folder: Where to.
        examples: Image files to offer, at most eight; they are copied as they are.
        runtime: Folder with the files of ONNX Runtime for browsers, to be copied; None: the page fetches them.
        file: The ONNX file with its preprocessing inside, where it is made and checked already; None: made here.
        words: What it says of the network; None: ``page_words``.
        more: Writes what else belongs into the folder.
        say: Is told what is done.

    Raises:
        ValueError: The folder holds something, an example is no image, or a file of the runtime is missing.
    """
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"to={str(folder)!r}: the folder must be new or empty")
    if len(examples) > MOST_EXAMPLES:
        raise ValueError(f"examples: at most {MOST_EXAMPLES} images, got {len(examples)}")
    for example in map(Path, examples):
        try:
            pictures.decode(pictures.read_file(example), None, 3)
        except pictures.DECODE_ERRORS as error:
            raise ValueError(f"examples: {str(example)!r} is not readable as an image: {error}") from None
    copied = None if runtime is None else _runtime_files(Path(runtime))
    model = checkpoint.model()
    # The examples are real images; without any, noise tells the differences too.
    images = RealImages("examples", [Path(example) for example in examples], None) if examples else None
    with staged(place) as made:
        with tempfile.TemporaryDirectory() as aside:
            if file is None:
                deliver(model, Path(aside) / "onnx", Forms(layout="NHWC"), images=images, say=say)
            shutil.copyfile(file or Path(aside) / "onnx" / MODEL_FILE, made / MODEL_FILE)
        draw_genotype(model.genotype, made / PICTURE)
        shown = []
        for number, example in enumerate(map(Path, examples)):
            (made / "examples").mkdir(exist_ok=True)
            name = re.sub(r"[^A-Za-z0-9._-]+", "_", example.name)
            shutil.copyfile(example, made / "examples" / f"{number}_{name}")
            shown.append(f"examples/{number}_{name}")
        if copied is not None:
            (made / RUNTIME).mkdir()
            for name, data in copied.items():
                write_bytes(made / RUNTIME / name, data)
        write_text(made / "index.html", _html(checkpoint, model, shown, copied, words))
        for name in ("page.js", "page.css"):
            shutil.copyfile(_HERE / name, made / name)
        if more is not None:
            more(made)
    if say:
        say(plain(f"{checkpoint.name}: {place}"))
    return sorted(path for path in place.rglob("*") if path.is_file())


def page_words(checkpoint: Checkpoint) -> str:
    """What there is to say of the network, in plain text."""
    row, figure = checkpoint.row, ""
    if isinstance(row, Result) and checkpoint.measured:
        figure = f": {row.top1:.2f} % top-1 on its {counted(row.test_images, 'test image')}"
    if theirs := checkpoint.theirs:
        figure = f" by others: {theirs.authors}, {theirs.page} (licence: {theirs.license})"
    return (
        f"A network of {counted(row.num_cells, 'cell')} and {counted(row.params, 'parameter')}, trained on "
        f"{plain(row.dataset)}{figure}. It knows {counted(row.num_classes, 'class', 'classes')} and answers every "
        "image with one of them."
    )


def _html(
    checkpoint: Checkpoint, model: Any, examples: list[str], copied: dict[str, bytes] | None, words: str | None = None
) -> str:
    cfg = model.pretrained_cfg
    meant = cfg.get("label_descriptions") or {}
    labels = list(cfg.get("label_names") or map(str, range(model.num_classes)))
    hashes = (
        ORT_FILES
        if copied is None
        else {
            name: f"sha384-{base64.b64encode(hashlib.sha384(data).digest()).decode()}" for name, data in copied.items()
        }
    )
    script, wasm = ({"name": name, "integrity": hashes[name]} for name in ORT_FILES)
    base = f"{RUNTIME}/" if copied is not None else f"{_ORIGIN}/npm/onnxruntime-web@{ORT_VERSION}/dist/"
    facts = {
        "model": MODEL_FILE,
        "classes": [plain(f"{meant[label]} ({label})" if label in meant else label) for label in labels],
        "channels": model.in_chans,
        "large": pictures.LARGE_PIXELS,
        "longest": pictures.LONGEST,
        "most": pictures.MAX_PIXELS,
        "runtime": {"base": base, "script": script, "wasm": wasm},
    }
    # "<" so escaped ends no script element, whatever a class is called
    text = json.dumps(facts, ensure_ascii=False).replace("<", "\\u003c")
    edges = {kind: sum(map(len, model.genotype.cell(kind).nodes)) for kind in ("normal", "reduce")}
    return fill(
        __package__,
        "page.html.j2",
        title=plain(checkpoint.title),
        words=words or page_words(checkpoint),
        origin=_ORIGIN if copied is None else "",
        examples=examples,
        cells=f"The normal cell, {edges['normal']} edges, and the reduction cell, {edges['reduce']} edges, as graphs",
        footer="Written by nas-zoo. The network runs in ONNX Runtime.",
        facts=Markup(text),
    )


def _runtime_files(folder: Path) -> dict[str, bytes]:
    """The files of ONNX Runtime for browsers, found in a folder or in the `dist` of the npm package that it is."""
    for place in (folder, folder / "dist"):
        if all((place / name).is_file() for name in ORT_FILES):
            return {name: read_bytes(place / name) for name in ORT_FILES}
    raise ValueError(
        f"runtime {str(folder)!r} lacks {' or '.join(ORT_FILES)}; `npm pack onnxruntime-web@{ORT_VERSION}` and "
        "unpacking what it fetches gives a folder that has them"
    )


# ------------------------------------------------------------------------------------------------------------ program


def add_page_flags(parser: argparse.ArgumentParser, to: str) -> None:
    """The flags that ``nas-zoo page`` and ``nas-zoo space`` share."""
    parser.add_argument("model", help="MODEL or MODEL.TAG with weights, or the folder of a run that has ended")
    parser.add_argument("--to", type=Path, default=Path(to), help=f"folder to write, new or empty (default: {to})")
    parser.add_argument("--examples", type=Path, nargs="+", default=[], metavar="IMAGE",
                        help="images to offer: files, or one folder of at most eight")  # fmt: skip
    parser.add_argument("--runtime", type=Path, metavar="FOLDER",
                        help="of onnxruntime-web's files, to copy into the page; without it the page fetches "
                             f"version {ORT_VERSION} from its public distribution")  # fmt: skip
    add_choices(parser)


def examples_in(given: Sequence[Path]) -> list[Path]:
    """The image files that --examples names; ValueError where it names none."""
    found = [
        file
        for path in given
        for file in (
            sorted(f for f in path.iterdir() if f.suffix.lower() in pictures.EXTENSIONS) if path.is_dir() else [path]
        )
    ]
    if given and not found:
        raise ValueError(f"examples: no images in {', '.join(map(str, given))}")
    return found


def make_parser() -> Parser:
    parser = Parser(prog="nas-zoo page", description=__doc__)
    add_page_flags(parser, "page")
    return parser


@program("nas-zoo page")
def main(argv: list[str] | None = None) -> int:
    """The program: 0 when the folder is written, 2 for a mistake of the user's."""
    given = make_parser().parse_args(argv)
    examples, checkpoint = examples_in(given.examples), open_chosen(given)
    write_page(checkpoint, given.to, examples=examples, runtime=given.runtime, say=print)
    print(
        f"see it: python -m http.server --directory {plain(shlex.quote(str(given.to)))}    then http://localhost:8000"
    )
    return 0
