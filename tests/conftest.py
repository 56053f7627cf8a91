"""Before anything imports torch: one thread, since the tensors here are small, and no progress bars."""

import os

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
