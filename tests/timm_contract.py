"""timm's own model tests, run on every model of this package.

timm publishes these tests in its source archive only, not in the wheel that is installed, so they are fetched first::

    python tests/timm_contract.py                          # fetches the archive of the timm that is installed (pip)
    python tests/timm_contract.py --source timm-1.0.31     # a folder it has been unpacked to: no network needed
    python tests/timm_contract.py -- -k backward -x        # what follows -- goes to pytest

    python tests/timm_contract.py --results benchmarks/timm_contract.jsonl    # 2 hours, in pieces if need be
    python tests/timm_contract.py --network                # also loads other people's weights, which are fetched

11 tests a model (timm 1.0.31), about 40 s for all of them on one core, and two for each checkpoint: one loads it with
other classes and image channels, one for its feature maps. Those of other people's checkpoints need a network: without
--network they are not run, and it is said how many these are. benchmarks/timm_contract.jsonl holds how the tests of
each model and checkpoint ended last. With --results a line of JSON is written when the last test of one has run; those
that have passed already with the same code (see ``digest``) are left out, those that have no line come first, and no
test is cut off by timm's time limits, which a busy machine breaks. Exit status: that of pytest; also 1 when timm has
another set of tests than known here, so that none goes missing unseen.
"""

import argparse
import ast
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import timm
import torch

import nas_zoo
from nas_zoo.genotype import load_genotype
from nas_zoo.models.catalog import MODELS
from nas_zoo.models.public import find_public

KNOWN_TESTS = 13  # 11 of a model, 2 of its weights
PASSED = ("passed", "already")  # mark of a test that --results leaves out
#: The code that these tests run; what is left out trains, searches, reads or writes.
SOURCES = (
    "models/network", "models/operations", "models/layout", "models/catalog", "models/registry", "models/depthwise",
    "genotype/genotype",
)  # fmt: skip


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
    """Notes which tests there are for our models."""

    def __init__(self) -> None:
        self.tests: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.note(session.items)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self.note([item for item in items if item.user_properties == [PASSED]])  # not what -k has left out

    def note(self, items: Sequence[pytest.Item]) -> None:
        self.tests |= {getattr(item, "originalname", item.name) for item in items}


def model_of(item: pytest.Item) -> str:
    """The name, with its tag if it has one, that a test is run on; empty for a test of no model."""
    return str(item.callspec.params.get("model_name", "")) if hasattr(item, "callspec") else ""


class NeedsNetwork:
    """Leaves out the tests that would fetch other people's weights, and says which."""

    def __init__(self) -> None:
        self.left_out: list[pytest.Item] = []

    @pytest.hookimpl(trylast=True)  # behind -k
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self.left_out = [item for item in items if "pretrained" in item.name and find_public(model_of(item))]
        items[:] = [item for item in items if item not in self.left_out]
        config.hook.pytest_deselected(items=self.left_out)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.left_out:
            tests = sorted({getattr(item, "originalname", item.name) for item in self.left_out})
            tags = len({*map(model_of, self.left_out)})
            terminalreporter.write_line(
                f"needs network, not run: {' and '.join(tests)} of {tags} checkpoints of other people "
                "(--network fetches these and runs them)"
            )


class Results:
    """Leaves out models that have passed, runs the others one after the other, and writes a line for each."""

    def __init__(self, path: Path, network: bool = False) -> None:
        self.path, self.network = path, network
        self.code = code_digest()
        lines = [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []
        self.known = {line["model"] for line in lines}
        self.passed = {line["model"]: line["digest"] for line in lines if line["failed"] == 0}
        self.waiting: dict[str, set[str]] = {}
        self.reports: dict[str, list[pytest.TestReport]] = {}

    @pytest.hookimpl(trylast=True)  # behind -k
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        done = {name for name in {*map(model_of, items)} if name and self.passed.get(name) == self.digest(name)}
        left_out = [item for item in items if model_of(item) in done]
        for item in left_out:
            item.user_properties.append(PASSED)
        config.hook.pytest_deselected(items=left_out)
        items[:] = sorted((item for item in items if model_of(item) not in done), key=self.place)
        for item in items:
            self.waiting.setdefault(model_of(item), set()).add(item.nodeid)
            self.reports.setdefault(model_of(item), [])
        print(f"\n{len(done)} models have passed already, {len(self.waiting)} are run", flush=True)

    def place(self, item: pytest.Item) -> tuple[bool, str]:
        return model_of(item) in self.known, model_of(item)

    def digest(self, name: str) -> str:
        """Of all that decides a model's results: code, settings, cell, version of timm, of others whether fetched."""
        settings = MODELS[name.split(".")[0]]
        words = [self.code, settings, load_genotype(settings["cell"]).digest, timm.__version__]
        words += ["network"] if self.network and find_public(name) else []
        return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = next((name for name, tests in self.waiting.items() if report.nodeid in tests), None)
        if name is None:
            return
        self.reports[name].append(report)
        if report.when != "teardown":
            return
        self.waiting[name].discard(report.nodeid)
        if self.waiting[name]:
            return
        reports = self.reports[name]
        failed = sorted({one.nodeid.split("::")[-1] for one in reports if one.failed})
        line = {
            "model": name,
            "digest": self.digest(name),
            "passed": sum(one.passed for one in reports if one.when == "call"),
            "failed": len(failed),
            "failures": failed,
            "seconds": round(sum(one.duration for one in reports), 1),
            "timm": timm.__version__,
            "torch": torch.__version__,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        with self.path.open("a", encoding="ascii") as file:
            file.write(json.dumps(line) + "\n")


def code_digest() -> str:
    """Of the statements of SOURCES: comments, documentation and layout of the code do not count."""
    digest = hashlib.sha256()
    for name in SOURCES:
        tree = ast.parse((Path(nas_zoo.__file__).parent / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def run(source: Path, results: Path | None, network: bool, pytest_args: list[str]) -> int:
    """Runs test_models.py in `source` on our models alone; returns pytest's exit status."""
    ours = timm.list_models(module="nas_zoo")
    list_models = timm.list_models

    def list_ours(filter="", module="", **kwargs):
        """timm.list_models, without its filter by module: the tests name timm's own modules there."""
        return [name for name in list_models(filter, **kwargs) if name.split(".")[0] in ours]

    vars(timm)["list_models"] = list_ours  # the tests ask for names when they are imported
    chosen = Chosen()
    # Tests that name timm's own models would run too, hence -k.
    names = " or ".join(ours)
    command = [str(source / "tests" / "test_models.py"), "-c", str(source / "pyproject.toml"), "-k", names]
    plugins: list[object] = [chosen] if network else [chosen, NeedsNetwork()]
    if results is not None:
        plugins.append(Results(results, network))
        command += ["-p", "no:timeout"]
    status = int(pytest.main([*command, "-q", "-p", "no:cacheprovider", *pytest_args], plugins=plugins))
    if status == pytest.ExitCode.NO_TESTS_COLLECTED and results is not None:
        return 0  # all have passed already
    if status == 0 and not pytest_args and len(chosen.tests) != KNOWN_TESTS:
        print(f"timm {timm.__version__} has {len(chosen.tests)} tests for a model, known are {KNOWN_TESTS}")
        return 1
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description="timm's own model tests on the models of this package")
    parser.add_argument("--source", type=Path, help="folder of timm's unpacked source archive (default: fetched)")
    parser.add_argument("--results", type=Path, help="file of a line a model; those that have passed are left out")
    parser.add_argument("--network", action="store_true", help="fetch other people's weights and test these too")
    parser.add_argument("pytest_args", nargs="*", help="for pytest, after --")
    options = parser.parse_args()
    if options.source is not None:
        return run(options.source, options.results, options.network, options.pytest_args)
    with tempfile.TemporaryDirectory() as folder:
        return run(fetch(Path(folder)), options.results, options.network, options.pytest_args)


if __name__ == "__main__":
    sys.exit(main())
