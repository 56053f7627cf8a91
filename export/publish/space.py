"""Writes the folder of a demo for a Hugging Face Space: a static page that runs the network in the visitor's browser.

    nas-zoo space edas_e8_c10_s --to space --examples pictures/ --repo owner/edas_e8_c10_s
    hf upload owner/edas_e8_c10_s-demo space . --repo-type space

It is the page of `nas-zoo page` with a README.md that says what a Space is set up by. No server runs.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CardData

from nas_zoo.export.publish.hub import check_repo
from nas_zoo.export.publish.page import add_page_flags, examples_in, page_words, write_page
from nas_zoo.export.publish.published import Checkpoint, open_chosen
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import write_text
from nas_zoo.runs.settings import Parser
from nas_zoo.text import markdown, plain

__all__ = ["main", "write_space"]


def write_space(
    checkpoint: Checkpoint,
    folder: Path | str,
    *,
    examples: Sequence[Path | str] = (),
    runtime: Path | str | None = None,
    repo: str | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """The files of the demo in that folder: ``page.write_page``'s, and README.md.

    Args:
        checkpoint, folder, examples, runtime, say: See there.
        repo: ORG/NAME of the published model, for a link.
    """

    if repo is not None:
        check_repo(repo)

    def readme(made: Path) -> None:
        write_text(made / "README.md", _readme(checkpoint, repo))

    return write_page(checkpoint, folder, examples=examples, runtime=runtime, more=readme, say=say)


def _readme(checkpoint: Checkpoint, repo: str | None) -> str:
    head: dict[str, Any] = {
        "title": checkpoint.title,
        "emoji": "\N{ANT}",
        "colorFrom": "green",
        "colorTo": "indigo",
        "sdk": "static",
        "app_file": "index.html",
        "license": checkpoint.row.license,
        **({"models": [repo]} if repo else {}),
    }
    text = CardData(**head).to_yaml()
    start = "Any host of static files shows the page, on one's own machine `python -m http.server`."
    return f"---\n{text}\n---\n\n# {markdown(checkpoint.title)}\n\n{markdown(page_words(checkpoint))}\n\n{start}\n"


def make_parser() -> Parser:
    parser = Parser(prog="nas-zoo space", description=__doc__)
    add_page_flags(parser, "space")
    parser.add_argument("--repo", metavar="ORG/NAME", help="where the model is published, for a link")
    return parser


@program("nas-zoo space")
def main(argv: list[str] | None = None) -> int:
    """The program: 0 when the folder is written, 2 for a mistake of the user's."""
    given = make_parser().parse_args(argv)
    examples, checkpoint = examples_in(given.examples), open_chosen(given)
    write_space(checkpoint, given.to, examples=examples, runtime=given.runtime, repo=given.repo, say=print)
    print(
        f"see it: python -m http.server --directory {plain(shlex.quote(str(given.to)))}    then http://localhost:8000"
    )
    return 0
