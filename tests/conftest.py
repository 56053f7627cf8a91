"""Before anything imports torch: one thread, since the tensors here are small, and no progress bars."""

import gc
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")


def pytest_collection_modifyitems(config, items):
    """Tests that need the real network are left out unless `-m` names their marker."""
    if "network" in config.option.markexpr:
        return
    wanted = [item for item in items if item.get_closest_marker("network") is None]
    if len(wanted) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(wanted)])
        items[:] = wanted


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """publish(NAME, content): what the link of weights of others leads to (tests/served_weights.py)."""
    from tests.served_weights import served

    with served(tmp_path / "torch", monkeypatch) as put:
        yield put


def pytest_collection_finish():
    """What is imported by now stays: without this, every thousandth new object has the collector walk all of torch."""
    gc.collect()
    gc.freeze()


#: CPU seconds of a test and its child processes, without its fixtures, above which it is to be marked slow.
FAST_S = 1.0


def cpu_seconds():
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    before = cpu_seconds()
    try:
        return (yield)
    finally:
        item.user_properties.append(("setup_cpu_s", cpu_seconds() - before))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    before = cpu_seconds()
    try:
        return (yield)
    finally:
        item.user_properties.append(("cpu_s", cpu_seconds() - before))


def pytest_terminal_summary(terminalreporter):
    """Says what the tests cost in CPU time, and which should be marked slow: said only, since machines differ."""
    reports = [report for some in terminalreporter.stats.values() for report in some]
    called = [report for report in reports if getattr(report, "when", None) == "call"]
    total = sum(seconds for report in called for _, seconds in report.user_properties)
    terminalreporter.write_line(f"the tests took {total:.0f} CPU seconds with their fixtures")
    for report in called:
        cpu_s = dict(report.user_properties)["cpu_s"]
        if cpu_s > 2 * FAST_S and "slow" not in report.keywords:
            terminalreporter.write_line(f"to be marked slow, {cpu_s:.1f} CPU seconds: {report.nodeid}")


def find_browser() -> str | None:
    """A Chromium or Chrome of this machine; None: only Playwright's own, if that is installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
    return os.environ.get("NAS_ZOO_BROWSER") or next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless; where there is none the tests are skipped, unless NAS_ZOO_NEEDS_BROWSER says that they must run."""
    playwright_api = pytest.importorskip("playwright.sync_api")
    with playwright_api.sync_playwright() as playwright:
        # a browser that runs as root has no sandbox; the pages here are our own and it has no network
        arguments = [
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ]
        try:
            opened = playwright.chromium.launch(executable_path=find_browser(), args=arguments)
        except playwright_api.Error as error:
            if os.environ.get("NAS_ZOO_NEEDS_BROWSER"):
                raise
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield opened
        opened.close()
