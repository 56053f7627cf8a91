"""The README's commands and Python, run in its order in one folder, as by somebody who reads it from top to bottom."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_packaging import README, ROOT, commands_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # a minute or two; several beside other work

#: CI runs make's targets, tests/auto and the tutorial's test `nas-zoo auto`, for which an hour is too long here.
ELSEWHERE = ("make ", "nas-zoo auto ")


def test_the_readme_opens_with_the_two_commands() -> None:
    assert commands_of(README)[:2] == ["make demo", "make test"]


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 200


def blocks() -> list[tuple[str, str]]:
    """Language and text of the README's blocks of code, in their order."""
    return re.findall(r"```(sh|python)\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def test_its_python_runs(tmp_path: Path) -> None:
    """By itself, as `make test-wheel` runs it on the installed wheel."""
    text = "\n".join(text for language, text in blocks() if language == "python")
    words = [sys.executable, "-W", "ignore", "-c", text]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "n03028079\n"


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each command of the README printed, to the end of its blocks; the first that fails ends the walk."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "search").symlink_to(ROOT / "search")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    hub = "http://127.0.0.1:9"  # nobody answers there: the README sends nothing
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub, "ACCELERATE_USE_CPU": "true"}
    said = {}
    for language, text in blocks():
        if language == "python":
            commands = [[sys.executable, "-W", "ignore", "-c", text]]
        else:
            lines = text.replace("\\\n", " ").splitlines()
            commands = [shlex.split(line, comments=True) for line in lines if not line.startswith(ELSEWHERE)]
        for words in filter(None, commands):
            done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, (words, done.stdout, done.stderr)
            said[" ".join(words)] = done.stdout
    return said


def test_every_command_runs_as_written(walked: dict[str, str]) -> None:
    assert sum(command.startswith("nas-zoo ") for command in walked) == 9


def test_the_picture_of_the_first_minute_is_seen_as_the_readme_says(walked: dict[str, str]) -> None:
    """The line that the README shows is the line that is printed."""
    (shown,) = re.findall(r"^china\.jpg  .*$", README.read_text("utf-8"), re.MULTILINE)
    assert shown in walked["nas-zoo predict net.onnx china.jpg"].splitlines()
