"""The house's rooms: which way imports run, no circles, and walls that a type checker sees through."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Each room and the rooms whose modules it may import. On top of all stand the modules of nas_zoo itself: TOP.
MAY_IMPORT = {
    "text": set[str](),
    "genotype": {"text"},
    "runs": {"text"},
    "models": {"genotype", "runs", "text"},
    "data": {"genotype", "runs", "text"},
    "train": {"genotype", "runs", "text", "models", "data"},
    "release": {"genotype", "runs", "text", "models", "data", "train"},
    "search": {"genotype", "runs", "text", "models", "data", "train"},
    "export": {"genotype", "runs", "text", "models", "data", "train", "release"},
}
TOP = {"auto", "cli", "demo", "doctor", "__main__"}


def find_modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for folder, name in (("nas_zoo", "nas_zoo"), ("search", "nas_zoo.search"), ("export", "nas_zoo.export")):
        place = ROOT / folder
        for path in sorted(place.rglob("*.py")):
            inside = path.relative_to(place).with_suffix("").parts
            if not (place / inside[0]).is_symlink():
                found[".".join([name, *(part for part in inside if part != "__init__")])] = path
    return found


MODULES = find_modules()


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """(module of ours, name in it or None) that a file imports anywhere in it, in functions and for types too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((one.name, None) for one in node.names if one.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for one in node.names:
                inside = f"{node.module}.{one.name}"
                yield (inside, None) if inside in MODULES else (node.module, one.name)


def modules_imported(path: Path) -> set[str]:
    return {module for module, _ in imports(path)}


def room(module: str) -> str:
    """ "models" of nas_zoo.models.count; "" of nas_zoo itself."""
    return module.partition(".")[2].partition(".")[0]


def test_the_walk_finds_the_modules_that_are_there() -> None:
    assert {"nas_zoo", "nas_zoo.models.network", "nas_zoo.search.methods.edas", "nas_zoo.export.graph.check"} <= set(
        MODULES
    )
    assert len(MODULES) == len(set(MODULES.values())) > 80
    here = modules_imported(MODULES["nas_zoo.models.registry"])
    assert {"nas_zoo.models.network", "nas_zoo.models.results"} <= here  # the first of them in a function


def test_imports_run_one_way_between_the_rooms() -> None:
    wrong = []
    for module, path in MODULES.items():
        mine = room(module)
        if mine in TOP:
            continue
        may = MAY_IMPORT[mine] | {mine, ""} if mine else {"genotype", "models"}
        wrong += [f"{module} imports {other}" for other in modules_imported(path) if room(other) not in may]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Nor in functions: who reads one of them must not have to read the others to understand it."""
    graph = {module: modules_imported(path) - {module} for module, path in MODULES.items()}
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")
    assert len(order) == len(MODULES)


def named_for_others(folder: str) -> set[str]:
    """What a room's `__init__` names: modules in the lines of its docstring, and what it imports itself."""
    tree = ast.parse(MODULES[folder].read_text(encoding="utf-8"))
    modules = re.findall(r"^    (\w+) {2,}\w", ast.get_docstring(tree, clean=False) or "", re.MULTILINE)
    return {*modules, *(module.rpartition(".")[2] for module in modules_imported(MODULES[folder]))}


def exported(module: str) -> set[str]:
    """The names in a module's `__all__`."""
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.slow
def test_rooms_use_of_each_other_what_is_named_for_them() -> None:
    """Other rooms import modules that a room's `__init__` names, of them what `__all__` does; and all named is used."""
    wrong, used = [], dict[str, set[str]]()
    for module, path in MODULES.items():
        mine = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for other, name in imports(path):
            is_room = MODULES[other].name == "__init__.py"
            folder = other if is_room else other.rpartition(".")[0]
            if mine.startswith(folder) or (folder.startswith(mine) and mine != "nas_zoo"):
                continue  # a room and what stands in it
            if not is_room:
                used.setdefault(folder, set()).add(other.rpartition(".")[2])
            if name is not None and name not in exported(other):
                wrong.append(f"{module}: {name} is not in the __all__ of {other}")
    for folder, modules in used.items():
        if folder != "nas_zoo" and modules - named_for_others(folder):
            wrong.append(f"{folder}/__init__.py does not name {', '.join(sorted(modules - named_for_others(folder)))}")
    for folder in {module.rpartition(".")[0] for module in MODULES}:
        if folder in MODULES and "Other rooms import" in MODULES[folder].read_text(encoding="utf-8"):
            idle = named_for_others(folder) - used.get(folder, set())
            wrong += [f"{folder}/__init__.py names {name}, which nobody uses" for name in sorted(idle)]
    assert wrong == []


def test_contributing_names_every_room() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {place.strip("`/") for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for place in row.split(", ")}
    folders = {str(path.parent.relative_to(ROOT)) for path in MODULES.values()}
    assert {folder for folder in folders if folder.count("/") == 1} <= named
    assert all((ROOT / place).exists() for place in named if "*" not in place), named


INWARDS = """
from nas_zoo.genotype import load_genotype
reveal_type(load_genotype("darts_v2").digest)
"""
OUTWARDS = """
from nas_zoo.export.cells.draw import draw_genotype
from nas_zoo.search.discretize import best_operations
reveal_type(draw_genotype("darts_v2", "x.svg"))
reveal_type(best_operations)
"""


@pytest.mark.slow
def test_mypy_types_calls_across_the_walls(tmp_path: Path) -> None:
    """Calls put at the end of files in the three packages, and what mypy says of their types there."""
    files = {"search/gap.py": INWARDS, "export/cells/draw.py": INWARDS, "demo.py": OUTWARDS}
    words = []
    for number, (name, lines) in enumerate(files.items()):
        path, shadow = f"nas_zoo/{name}", tmp_path / f"{number}.py"
        shadow.write_text((ROOT / path).read_text(encoding="utf-8") + lines, encoding="utf-8")
        words += ["--shadow-file", path, str(shadow)]
    command = [sys.executable, "-m", "mypy", *words, *(f"nas_zoo/{name}" for name in files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, list[str]] = {}
    for path, kind in re.findall(r'^nas_zoo/(.*?):.*Revealed type is "(.*)"', done.stdout, re.MULTILINE):
        told.setdefault(path, []).append(kind.replace("builtins.", ""))
    assert told["search/gap.py"] == told["export/cells/draw.py"] == ["str"]
    picture, function = told["demo.py"]
    assert picture == "pathlib.Path"
    assert "Tensor" in function
    assert "Any" not in function


def test_no_words_for_users_say_what_is_accepted():
    """They are whole sentences: "lr must be greater than 0, got -1"."""
    told = [
        f"{name}, line {node.lineno}: {node.value}"
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        # the word alone is the name of a figure in records that are written already
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value != "accepted"
        if re.search("accepted", node.value, re.IGNORECASE)
    ]
    assert told == []
