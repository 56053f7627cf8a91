"""timm's own model tests, run on every model of this package.

timm publishes these tests in its source archive only, not in the wheel that is installed, so they are fetched first::

    python tests/timm_contract.py                          # fetches the archive of the timm that is installed (pip)
    python tests/timm_contract.py --source timm-1.0.31     # a folder it has been unpacked to: no network needed
    python tests/timm_contract.py -- -k backward -x        # what follows -- goes to pytest

11 tests a model (timm 1.0.31), about a minute for each on one core. Exit status: that of pytest; also 1 when timm has
another set of tests than known here, so that none goes missing unseen.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
import timm

import nas_zoo  # noqa: F401  (registers the models)

MODULE = "network"  # the module of nas_zoo that registers models, as timm.list_models calls it
KNOWN_TESTS = 11


def fetch(folder: Path) -> Path:
    """Downloads and unpacks the source archive of the installed timm; returns the folder that holds its tests."""
    wanted = f"timm=={timm.__version__}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "-d", str(folder), wanted], check=True)
    (archive,) = folder.glob("timm-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


class Chosen:
    """Notes which tests pytest is going to run."""

    def __init__(self) -> None:
        self.tests: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.tests = {getattr(item, "originalname", item.name) for item in session.items}


def run(source: Path, pytest_args: list[str]) -> int:
    """Runs test_models.py in `source` on our models alone; returns pytest's exit status."""
    ours = timm.list_models(module=MODULE)
    list_models = timm.list_models

    def list_ours(filter="", module="", **kwargs):
        """timm.list_models, without its filter by module: the tests name timm's own modules there."""
        return [name for name in list_models(filter, **kwargs) if name.split(".")[0] in ours]

    vars(timm)["list_models"] = list_ours  # the tests ask for names when they are imported
    chosen = Chosen()
    # Tests that name timm's own models would run too, hence -k; tests of pretrained weights need the Hub.
    names = f"({' or '.join(ours)}) and not pretrained"
    command = [str(source / "tests" / "test_models.py"), "-c", str(source / "pyproject.toml"), "-k", names]
    status = int(pytest.main([*command, "-q", "-p", "no:cacheprovider", *pytest_args], plugins=[chosen]))
    if status == 0 and not pytest_args and len(chosen.tests) != KNOWN_TESTS:
        print(f"timm {timm.__version__} has {len(chosen.tests)} tests for a model, known are {KNOWN_TESTS}")
        return 1
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description="timm's own model tests on the models of this package")
    parser.add_argument("--source", type=Path, help="folder of timm's unpacked source archive (default: fetched)")
    parser.add_argument("pytest_args", nargs="*", help="for pytest, after --")
    options = parser.parse_args()
    if options.source is not None:
        return run(options.source, options.pytest_args)
    with tempfile.TemporaryDirectory() as folder:
        return run(fetch(Path(folder)), options.pytest_args)


if __name__ == "__main__":
    sys.exit(main())
