"""Before anything imports torch: one thread, since the tensors here are small, and no progress bars."""

import os

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
