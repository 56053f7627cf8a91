"""Of an installed wheel: that it is what is tested, and that wheel and source archive hold what they should.

`make test-wheel` runs it (tests/wheel.py), with what was built in NAS_ZOO_BUILT. As a plugin of pytest it looks, after
each test of the other files too, at where the modules came from.
"""

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import nas_zoo

MOST_MB = 40
SITE = Path(sysconfig.get_paths()["purelib"])


def strangers() -> list[str]:
    """Loaded modules of nas_zoo that are not the installed ones."""
    loaded = {name: module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "nas_zoo"}
    return [f"{name}: {file}" for name, file in loaded.items() if file and not Path(file).is_relative_to(SITE)]


def pytest_runtest_teardown() -> None:
    assert (found := strangers()) == [], f"tested was not the wheel but {found}"


def built(pattern: str) -> Path:
    (file,) = Path(os.environ["NAS_ZOO_BUILT"]).glob(pattern)
    return file


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_what_is_imported_is_the_wheel_and_nothing_else() -> None:
    import nas_zoo.export.publish.page
    import nas_zoo.hub_cards
    import nas_zoo.search.run

    assert Path(nas_zoo.__file__).is_relative_to(SITE)
    assert SITE.is_relative_to(os.environ["NAS_ZOO_BUILT"])
    assert strangers() == []
    spoiled = type(sys)("nas_zoo.of_the_tree")
    spoiled.__file__ = str(Path(__file__).parents[1] / "nas_zoo" / "of_the_tree.py")
    sys.modules[spoiled.__name__] = spoiled
    try:
        assert len(strangers()) == 1  # so this can fail
    finally:
        del sys.modules[spoiled.__name__]


def test_the_command_is_the_wheels(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("nas-zoo")
    done = subprocess.run([command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"nas-zoo {nas_zoo.__version__}\n"
    assert importlib.metadata.version("nas-zoo") == nas_zoo.__version__


def test_the_source_archive_gives_the_wheel_that_the_tree_gives() -> None:
    of_archive, of_tree = names_in(built("built/*.whl")), names_in(built("straight/*.whl"))
    assert of_archive == of_tree
    assert len(of_archive) > 250


def test_wheel_and_source_archive_are_small_and_hold_no_tests() -> None:
    for pattern in ("built/*.whl", "built/*.tar.gz"):
        assert built(pattern).stat().st_size < MOST_MB * 1e6
    with tarfile.open(built("built/*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "search/run.py"} <= names
    assert not [name for name in names if name.startswith("tests")]


def test_the_weights_in_the_wheel_are_those_of_their_hash() -> None:
    import timm
    import torch

    model = timm.create_model("darts_v2_c10_s", pretrained=True).eval()  # refused where the hash is another
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
