"""Writes the folder of a demo for a Hugging Face Space: a page that classifies an image and shows the cells.

    nas-zoo space edas_e8_c10_s --to space --examples pictures/
    cd space && pip install -r requirements.txt && python app.py        # http://127.0.0.1:7860
    hf upload owner/edas_e8_c10_s-demo space . --repo-type space

The folder needs neither nas-zoo nor torch: it holds the network as an ONNX file with its preprocessing inside, the
picture of its cells, app.py, requirements.txt, README.md with what a Space is set up by, and the examples.
"""

from __future__ import annotations

import argparse
import re
import shutil
import string
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CardData

from nas_zoo.data import pictures
from nas_zoo.export.cells.draw import draw_genotype
from nas_zoo.export.graph.deliver import Forms, deliver
from nas_zoo.export.graph.real_images import RealImages
from nas_zoo.export.publish.published import Checkpoint, add_choices, open_checkpoint
from nas_zoo.models.results import Result
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import staged, write_text
from nas_zoo.runs.settings import Parser
from nas_zoo.text import counted, markdown

__all__ = ["main", "write_space"]

MODEL_FILE, PICTURE = "model_images.onnx", "cells.png"
#: The version that the page was driven with (benchmarks/drive_space.py); a Space installs exactly this one.
GRADIO_VERSION = "6.31.0"
MOST_EXAMPLES = 8
REQUIREMENTS = f"gradio>={GRADIO_VERSION.split('.')[0]}\nonnxruntime>=1.25\nnumpy>=1.26\npillow>=11\n"

APP = '''\
"""A page that classifies an image with $title and shows the network's cells.

    pip install -r requirements.txt && python app.py

Written by nas-zoo. Apache-2.0.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).parent
#: Larger images are shrunk first; the network looks at $width x $height pixels.
LARGEST = 4096

session = onnxruntime.InferenceSession(str(HERE / "$model_file"), providers=["CPUExecutionProvider"])
(takes,), (gives,) = session.get_inputs(), session.get_outputs()
facts = session.get_modelmeta().custom_metadata_map
labels, meant = json.loads(facts["labels"]), json.loads(facts.get("label_descriptions", "{}"))
classes = [f"{meant[label]} ({label})" if label in meant else label for label in labels]


def classify(image: Image.Image | None) -> dict[str, float]:
    """The probability of each class; {} without an image."""
    if image is None:
        return {}
    image = ImageOps.exif_transpose(image)
    image.thumbnail((LARGEST, LARGEST))
    pixels = np.asarray(image.convert("$mode"), np.uint8).reshape(1, image.height, image.width, takes.shape[3])
    (probabilities,) = session.run([gives.name], {takes.name: pixels})
    return {name: float(p) for name, p in zip(classes, probabilities[0], strict=True)}


def build():
    """The page."""
    import gradio as gr

    examples = sorted(str(path) for path in (HERE / "examples").glob("*"))
    with gr.Blocks(title=$title_text) as page:
        gr.Markdown($words)
        with gr.Row():
            image = gr.Image(type="pil", label="Image", height=320)
            top = gr.Label(num_top_classes=min(5, len(labels)), label="Classes")
        image.change(classify, image, top, api_name="classify")
        if examples:
            gr.Examples(examples, image)
        with gr.Accordion("The cells of the network", open=True):
            gr.Image(str(HERE / "$picture"), show_label=False, interactive=False)
    return page


if __name__ == "__main__":
    build().launch()
'''


def write_space(
    checkpoint: Checkpoint,
    folder: Path | str,
    *,
    examples: Sequence[Path | str] = (),
    repo: str | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """The files of the demo in that folder, which has to be new or empty.

    Args:
        checkpoint: What the page classifies with.
        folder: Where to.
        examples: Image files to offer, at most eight; they are copied as they are.
        repo: ORG/NAME of the published model, for a link.
        say: Is told what is done.

    Raises:
        ValueError: The folder holds something, or an example is no image.
    """
    from PIL import Image

    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"to={str(folder)!r}: the folder must be new or empty")
    if len(examples) > MOST_EXAMPLES:
        raise ValueError(f"examples: at most {MOST_EXAMPLES} images, got {len(examples)}")
    for example in map(Path, examples):
        try:
            with Image.open(example) as picture:
                picture.load()
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"examples: {str(example)!r} is not readable as an image: {error}") from None
    model = checkpoint.model()
    # The examples are real images; without any, noise tells the differences too.
    images = RealImages("examples", [Path(example) for example in examples], None) if examples else None
    with staged(place) as made:
        with tempfile.TemporaryDirectory() as aside:
            deliver(model, Path(aside) / "onnx", Forms(layout="NHWC"), images=images, say=say)
            shutil.copyfile(Path(aside) / "onnx" / MODEL_FILE, made / MODEL_FILE)
        draw_genotype(model.genotype, made / PICTURE)
        write_text(made / "requirements.txt", REQUIREMENTS)
        write_text(made / "README.md", _readme(checkpoint, repo))
        write_text(made / "app.py", _app(checkpoint))
        if examples:
            (made / "examples").mkdir()
            for number, example in enumerate(map(Path, examples)):
                name = re.sub(r"[^A-Za-z0-9._-]+", "_", example.name)
                shutil.copyfile(example, made / "examples" / f"{number}_{name}")
    if say:
        say(f"{checkpoint.name}: {place}")
    return sorted(path for path in place.rglob("*") if path.is_file())


def _words(checkpoint: Checkpoint) -> str:
    row = checkpoint.row
    figure = ""
    if isinstance(row, Result) and checkpoint.measured:
        figure = f": {row.top1:.2f} % top-1 on its {counted(row.test_images, 'test image')}"
    if theirs := checkpoint.theirs:
        figure = f" by others: {theirs.authors}, {theirs.page} (licence: {markdown(theirs.license)})"
    return (
        f"# {checkpoint.title}\n\n"
        f"A network of {counted(row.num_cells, 'cell')} and {counted(row.params, 'parameter')}, trained on "
        f"{markdown(row.dataset)}{figure}. It knows "
        f"{counted(row.num_classes, 'class', 'classes')} and answers every image with one of them."
    )


def _app(checkpoint: Checkpoint) -> str:
    row = checkpoint.row
    return string.Template(APP).substitute(
        title=checkpoint.title,
        title_text=repr(checkpoint.title),
        words=repr(_words(checkpoint)),
        width=row.input_size[2],
        height=row.input_size[1],
        mode="L" if row.input_size[0] == 1 else "RGB",
        model_file=MODEL_FILE,
        picture=PICTURE,
    )


def _readme(checkpoint: Checkpoint, repo: str | None) -> str:
    head: dict[str, Any] = {
        "title": checkpoint.title,
        "emoji": "\N{ANT}",
        "colorFrom": "green",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": GRADIO_VERSION,
        "app_file": "app.py",
        "license": checkpoint.row.license,
        **({"models": [repo]} if repo else {}),
    }
    text = CardData(**head).to_yaml()
    start = "The page runs anywhere: `pip install -r requirements.txt && python app.py`."
    return f"---\n{text}\n---\n\n{_words(checkpoint)}\n\n{start}\n"


# ------------------------------------------------------------------------------------------------------------ program


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="nas-zoo space", description=__doc__)
    parser.add_argument("model", help="MODEL or MODEL.TAG with weights, or the folder of a run that has ended")
    parser.add_argument("--to", type=Path, default=Path("space"), help="folder to write, new or empty (default: space)")
    parser.add_argument("--examples", type=Path, nargs="+", default=[], metavar="IMAGE",
                        help="images to offer: files, or one folder of at most eight")  # fmt: skip
    parser.add_argument("--repo", metavar="ORG/NAME", help="where the model is published, for a link")
    add_choices(parser)
    return parser


@program("nas-zoo space")
def main(argv: list[str] | None = None) -> int:
    """The program: 0 when the folder is written, 2 for a mistake of the user's."""
    given = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
    examples = [
        file
        for path in given.examples
        for file in (
            sorted(f for f in path.iterdir() if f.suffix.lower() in pictures.EXTENSIONS) if path.is_dir() else [path]
        )
    ]
    if given.examples and not examples:
        raise ValueError(f"examples: no images in {', '.join(map(str, given.examples))}")
    checkpoint = open_checkpoint(
        given.model, license=given.license, called=given.name, figures=not given.without_figures
    )
    write_space(checkpoint, given.to, examples=examples, repo=given.repo, say=print)
    print(f"start it with: cd {given.to} && pip install -r requirements.txt && python app.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
