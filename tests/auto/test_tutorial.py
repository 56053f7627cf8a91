"""docs/tutorial_photos.md as it is written: its commands, one after the other, in an empty folder."""

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from nas_zoo.auto.plan import LADDER
from nas_zoo.cli import main
from nas_zoo.export.runtime.latency import conditions_here, table_path
from nas_zoo.models.latency import Fit, LatencyTable, Shape, all_pieces
from nas_zoo.models.operations import SEARCH_OPERATIONS
from nas_zoo.runs.files import write_text

DOCS = Path(__file__).resolve().parents[2] / "docs"
TUTORIAL = (DOCS / "tutorial_photos.md").read_text(encoding="utf-8")
SHELL = "".join(re.findall(r"```sh\n(.*?)```", TUTORIAL, re.DOTALL))
COMMANDS = [shlex.split(line) for line in SHELL.splitlines() if line.strip()]


def test_its_pictures_are_there_small_and_said_in_words():
    shown = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", TUTORIAL)
    assert len(shown) >= 4
    for words, path in shown:
        assert len(words) > 20
        assert (DOCS / path).stat().st_size < 150_000


def serve_once(words: list[str]) -> str:
    """The first page of a server begun by a command, on a free port, and ended."""
    server = subprocess.Popen([sys.executable, "-u", *words[1:], "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = re.search(r"port (\d+)", server.stdout.readline())
        assert port is not None
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/index.html") as page:
            text: str = page.read().decode()
            return text
    finally:
        server.terminate()
        server.communicate()


@pytest.fixture
def measured(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has measured the pieces of these networks before: times that look like some."""
    monkeypatch.setenv("NAS_ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
    conditions = conditions_here("cpu", 1, 1)
    shapes = [Shape("cifar", *rung, 10, (3, 8, 8)) for rung in LADDER]
    wanted = {piece for shape in shapes for piece in all_pieces((*SEARCH_OPERATIONS, "none"), shape)}
    ms = {piece: 1e-3 + 1e-6 * piece.in_channels * piece.height * piece.width for piece in wanted}
    fits = {shape: Fit(1.0, 0.01, ((0.1, 0.1), (0.2, 0.2))) for shape in shapes}
    path = table_path(conditions)
    path.parent.mkdir(parents=True)
    write_text(path, LatencyTable(conditions, ms, fits).to_json())


@pytest.mark.slow
@pytest.mark.timeout(1800)  # its commands have budgets of their own
@pytest.mark.usefixtures("measured")
def test_the_tutorial_as_it_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (script,) = re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)
    Path("digits_folder.py").write_text(script)
    subprocess.run([sys.executable, "digits_folder.py"], check=True)
    assert len(list(Path("photos").rglob("*.png"))) == 1797
    ran = []
    for words in COMMANDS:
        ran.append(" ".join(words[:3]))
        if words[0] == "python":
            assert "<html" in serve_once(words)
        elif "--pretrained" not in words:  # these weights are fetched; tests have no network
            assert main(words[1:]) in ((0, 1) if words[1] == "auto" else (0,)), words  # 1: this machine was busy
    assert ran == ["nas-zoo auto photos", "nas-zoo predict runs/photos/model.onnx", "nas-zoo auto --resume",
                   "python -m http.server", "nas-zoo train --model"]  # fmt: skip
    run = Path("runs/photos")
    for name in re.findall(r"^\| (`[^|]*`) \|", TUTORIAL, re.MULTILINE):
        for file in re.findall(r"`([^`]+)`", name):
            assert (run / file).exists(), file
    summary, compared = (json.loads((run / f"{name}.json").read_text()) for name in ("summary", "compare"))
    assert summary["top1"] > 0.5
    assert compared["rows"][0]["kind"] == "found"
    assert len(compared["rows"]) + len(compared["left_out"]) == 4
    text = (run / "report.html").read_text()
    assert "Random cells" in text or "random cells" in text
    assert "photos/3/" in capsys.readouterr().out
