"""Links between the pages, and from them into the repository, as a reader of the files follows them.

`make docs` tests the pages as a site, of which README, CONTRIBUTING and CHANGELOG are no part or by inclusion only.
"""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nas_zoo.cli import main
from nas_zoo.models.catalog import MODELS
from nas_zoo.models.results import package_results
from tests.test_cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def prose(page: Path) -> str:
    """Without code, in which brackets are no links."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of a page's headings and those of the page it includes, as hosts of Git repositories and MyST make them."""
    text = page.read_text(encoding="utf-8")
    if included := re.match(r"```{include} (\S+)\n```", text):
        return anchors(page.parent / included[1])
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        place, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        there = page.parent / place if place else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            found.append(target)
    return found


def test_no_page_takes_the_place_of_one_that_sphinx_makes() -> None:
    assert not {page.stem for page in (ROOT / "docs").glob("*.md")} & {"search", "genindex", "py-modindex"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_leads_nowhere(page: Path) -> None:
    assert broken_links(page) == []


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(
        "# One: `two`\n[a](a.md#one-two) [b](b.md) [c](#one) [d](https://e.org/x) `[e](f.md)` ![g](h.png)\n"
    )
    assert broken_links(tmp_path / "a.md") == ["b.md", "#one", "h.png"]


def test_the_pictures_of_the_concepts_are_those_that_their_program_draws(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "benchmarks" / "concept_pictures.py"))["main"](["--to", str(tmp_path)])
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert len(drawn) == 5
    assert drawn == {name: (ROOT / "docs" / "pictures" / name).read_text() for name in drawn}
    assert "drawn from its log" in (ROOT / "docs" / "concepts.md").read_text()


@pytest.mark.slow
def test_the_pages_made_of_the_code_have_every_command_flag_model_and_name() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    text = "\n".join(made["commands"]())
    assert set(COMMANDS) | {"auto"} <= set(re.findall(r"^## (.*)$", text, re.MULTILINE))
    for flag in (
        "--max-latency",
        "--edges",
        "--method da2s: its own flags",
        "--with-preprocessing",
        "--json",
        "PATTERN",
    ):
        assert flag in text, flag
    assert "%%" not in text
    rooms = {room.__name__: "\n".join(made["page_of"](room)) for room in made["rooms"]()}
    assert ".. autofunction:: nas_zoo.search.search\n" in rooms["nas_zoo.search"]
    assert ".. autoclass:: nas_zoo.export.runtime.OnnxClassifier\n" in rooms["nas_zoo.export.runtime"]
    assert ".. autofunction:: nas_zoo.search.methods.edas.relax\n" in rooms["nas_zoo.search.methods"]
    assert {"nas_zoo.genotype", "nas_zoo.models", "nas_zoo.data", "nas_zoo.runs", "nas_zoo.train"} <= set(rooms)
    assert len(list(made["zoo"]())) == 2 + len(MODELS)
    assert len(list(made["weights"]())) == 2 + len(package_results())


PYTHON = {page: re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL) for page in PAGES}
#: Those that a test of their own runs, with the commands between.
RUN_ELSEWHERE = ("README.md", "extending.md", "tutorial_search.md", "tutorial_photos.md")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what the commands of the pages leave: a network's file; and a picture."""
    folder = tmp_path_factory.mktemp("made")
    assert main(["export", "darts_v2_c10_s", "--output", str(folder / "net.onnx")]) == 0
    Image.new("RGB", (40, 50), "orange").save(folder / "cat.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if PYTHON[page] and page.name not in RUN_ELSEWHERE], ids=lambda page: page.name
)
def test_the_python_of_the_pages_runs(page: Path, made: Path) -> None:
    words = [sys.executable, "-W", "ignore", "-c", "\n".join(PYTHON[page])]
    done = subprocess.run(words, cwd=made, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
