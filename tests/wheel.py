"""Builds wheel and source archive, installs the wheel, and tests what is installed (`make test-wheel`):

    python -m tests.wheel            # more words go to pytest

The wheel's environment is a new one with the wheel alone; other packages come from the environment that runs this. The
tests run in a copy of the tree without the package's own folders, so there is nothing else that they could import.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

from tests.test_packaging import copy_of_the_tree

#: What users do: every command, the pages' commands and Python, the whole way from a search to a page.
TESTS = [
    "tests/wheel_installed.py",
    "tests/test_cli.py",
    "tests/test_completion.py",
    "tests/test_demo.py",
    "tests/test_packaging.py::test_the_commands_of_the_pages_are_understood_as_written",
    "tests/test_readme.py::test_its_python_runs",
]


def build(tree: Path, place: Path, *what: str) -> None:
    """By `build` into a folder: the source archive and of that the wheel, or what the flags say."""
    command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", str(place), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tree)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def install(wheel: Path, place: Path) -> Path:
    """The Python of a new environment with the wheel, which sees this one's packages but no editable install."""
    venv.create(place)
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    words = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", *words], check=True)
    (site,) = place.rglob("site-packages")
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"])  # whose own .pth files are not read this way
    return python


def main(words: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        tree = copy_of_the_tree(place / "tree", links=False)
        build(tree, place / "built")
        build(tree, place / "straight", "--wheel")
        python = install(next((place / "built").glob("*.whl")), place / "installed")
        for name in ("nas_zoo", "search", "export", "hub_cards", "build"):
            shutil.rmtree(tree / name)
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        env["NAS_ZOO_BUILT"] = str(place)
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.wheel_installed"]
        return subprocess.run([*command, *words, *TESTS], cwd=tree, env=env).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
