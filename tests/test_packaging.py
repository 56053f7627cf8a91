"""What the wheel holds, and that the README's commands are commands."""

import ast
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.oldest import lowest_versions

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
for run in "extending.md", "tutorial_search.md":  # by tests/search/test_extending.py and tests/search/test_tutorial.py
    DOCS.remove(ROOT / "docs" / run)


def copy_of_the_tree(place: Path, links: bool) -> Path:
    """What git tracks or would, so that building leaves nothing behind here; with the links in nas_zoo/ or without."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in listed:
        source, target = ROOT / name, place / name
        if source.is_symlink() and links:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.readlink())
        elif source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return place


def build(tree: Path, what: str) -> Path:
    """The archive that setuptools builds of a tree, by the name of its hook: build_wheel or build_editable."""
    code = f"import setuptools.build_meta; print('made ' + setuptools.build_meta.{what}('dist'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return tree / "dist" / done.stdout.split("made ")[-1].strip()


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_the_tree(tmp_path_factory.mktemp("linked"), links=True)


@pytest.fixture(scope="module")
def wheel(linked: Path) -> Path:
    return build(linked, "build_wheel")


def files_in(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as file:
        return {name: file.read(name) for name in file.namelist() if not name.endswith("RECORD")}


@pytest.mark.slow
def test_the_links_change_neither_the_wheel_nor_the_editable_install(linked: Path, wheel: Path, tmp_path: Path) -> None:
    plain = copy_of_the_tree(tmp_path / "plain", links=False)
    assert (linked / "nas_zoo" / "search").is_symlink()
    assert not (plain / "nas_zoo" / "search").exists()
    assert files_in(wheel) == files_in(build(plain, "build_wheel"))
    # The editable install says where packages lie (by the link or not), and reaches the modules that the wheel holds.
    modules = {name for name in files_in(wheel) if name.endswith(".py")}
    for tree in linked, plain:
        (finder,) = (text for name, text in files_in(build(tree, "build_editable")).items() if "finder" in name)
        found = re.search(r"^MAPPING: dict\[str, str\] = (\{.*\})$", finder.decode(), re.MULTILINE)
        assert found is not None
        places: dict[str, str] = ast.literal_eval(found[1])
        reached = set()
        for package in {str(Path(name).parent) for name in modules}:
            top, inside = package.replace("/", "."), ""
            while top not in places:
                top, _, last = top.rpartition(".")
                inside = f"{last}/{inside}"
            reached |= {f"{package}/{path.name}" for path in (Path(places[top]) / inside).glob("*.py")}
        assert reached == modules


@pytest.mark.slow
def test_the_wheel_holds_one_top_level_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"nas_zoo"}
    for needed in ("nas_zoo/search/run.py", "nas_zoo/search/configs/edas_c10.yaml",
                   "nas_zoo/export/runtime/classifier.py",
                   "nas_zoo/genotype/cells/darts_v2.json", "nas_zoo/genotype/cells/published.jsonl",
                   "nas_zoo/models/models.json",
                   "nas_zoo/models/results.csv", "nas_zoo/models/public.csv", "nas_zoo/hub_cards/template.md",
                   "nas_zoo/export/cells/module.py.j2",
                   "nas_zoo/py.typed", "nas_zoo/search/report/report.css",
                   "nas_zoo/search/report/report.js", "nas_zoo/search/report/page.html.j2"):  # fmt: skip
        assert needed in names
    assert "License-Expression: Apache-2.0" in metadata
    requires = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: onnxruntime")]
    assert all(";" in line for line in requires), "only one of the two onnxruntime packages may ever apply"


def test_the_version_is_one_and_has_its_changes() -> None:
    import nas_zoo

    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == nas_zoo.__version__  # type: ignore[index]
    changes = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changes is not None
    assert changes[1] in (nas_zoo.__version__, "Unreleased")


def test_the_constraints_pin_every_dependency_and_name_no_address():
    text = (ROOT / "constraints.txt").read_text()
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in text.splitlines() if "==" in line}
    assert "://" not in text
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"]:
        assert re.match(r"[A-Za-z0-9.-]+", line)[0].lower() in pinned, line  # type: ignore[index]


def test_every_dependency_has_a_lowest_version_to_be_tested() -> None:
    pins = lowest_versions(ROOT / "pyproject.toml")
    assert len(pins) == len({pin.split("==")[0] for pin in pins}) > 15
    assert any(pin.startswith("timm==1.0.") for pin in pins)


def commands_of(*pages: Path) -> list[str]:
    """The lines of the pages' shell blocks, continued lines joined, comments cut."""
    blocks = [block for page in pages for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def test_what_contributing_names_is_there():
    """Files and folders, the names in them that are to be added to, and make's targets."""
    text = (ROOT / "CONTRIBUTING.md").read_text().split("## Where something new goes")[1].split("\n## ")[0]
    named = re.findall(r"`([\w.-]*/?[\w./-]+\.(?:py|json|jsonl|csv|md|yml|yaml)|[\w-]+/[\w./-]+)`", text)
    assert len(named) > 30
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z0-9-]+)", text)) <= set(targets)
    names = re.findall(r"`([A-Z]+)`(?: and `([A-Z]+)`)? (?:of `([\w/.]+)`|there)", text)
    assert len(names) >= 4
    for one, _, place in names:
        if place:
            assert re.search(rf"^{one}\b", (ROOT / place).read_text(), re.MULTILINE), (one, place)


def test_hooks_and_workflow_run_what_make_and_ci_run():
    yaml = YAML(typ="safe")
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    commands = {line.replace("$(BIN)/", "").strip().removesuffix(" .") for line in lint[1].splitlines()}
    (repo,) = yaml.load(ROOT / ".pre-commit-config.yaml")["repos"]
    hooks = {hook["entry"].removeprefix(".venv/bin/").replace(" --force-exclude", "") for hook in repo["hooks"]}
    assert hooks == commands
    jobs = yaml.load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    assert [step["run"] for step in jobs["linux"]["steps"] if "run" in step] == [".ci/run"]
    assert jobs["linux"]["runs-on"].startswith("ubuntu")
    assert {name.split("-")[0] for name in jobs["quick"]["strategy"]["matrix"]["os"]} == {"macos", "windows"}
    install, test = (step["run"] for step in jobs["quick"]["steps"] if "run" in step)
    make = (ROOT / "Makefile").read_text()
    assert install.removeprefix("python ").replace('"', "'") in make.replace("--quiet --disable-pip-version-check ", "")
    assert test.removeprefix("python ").replace('"', "'").replace("-n 2", "-n $(JOBS)") in make


def test_every_picture_has_words_for_who_does_not_see_it():
    pages = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "hub_cards").rglob("*.md"))]
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    alts = {page: re.findall(r"!\[([^\]]*)\]\(", text) for page, text in texts.items()}
    assert sum(map(len, alts.values())) > 10
    assert [(page.name, alt) for page, found in alts.items() for alt in found if len(alt) < 20] == []
    for root in ("nas_zoo", "search", "export", "docs"):
        for page in [*(ROOT / root).rglob("*.j2"), *(ROOT / root).rglob("*.md"), README]:
            for tag in re.findall(r"<img\b[^>]*>", page.read_text(encoding="utf-8")):
                assert "alt=" in tag, (page.name, tag)
    for picture in [*(ROOT / "docs").rglob("*.svg")]:
        assert "<title>" in picture.read_text(encoding="utf-8"), picture.name


@pytest.mark.parametrize("command", [c for c in commands_of(README, *DOCS) if re.search(r"nas-zoo|\.py|-m nas_zoo", c)])
def test_the_commands_of_the_pages_are_understood_as_written(command, tmp_path, monkeypatch):
    """Parsed by the program that would run them; what they would compute is tested elsewhere."""
    from nas_zoo import cli
    from nas_zoo.search import run
    from nas_zoo.train import run as train

    monkeypatch.chdir(tmp_path)
    command = re.sub(" --resume( auto)?", "", command)  # of runs that are not here
    words = [word for word in shlex.split(command) if "=" not in word.split("/")[0] or word.startswith("-")]
    if "nas_zoo.train" in words or words[:2] == ["nas-zoo", "train"]:
        train.parse(words[words.index("train" if words[0] == "nas-zoo" else "nas_zoo.train") + 1 :])
    elif "search/run.py" in words or words[:2] == ["nas-zoo", "search"]:
        run.parse(words[words.index("search" if words[0] == "nas-zoo" else "search/run.py") + 1 :])
    elif words[0] == "nas-zoo" and words[1] in cli.PROGRAMS:
        cli.program_parser(words[1]).parse_args([word for word in words[2:] if word != "..."])
    elif words[0] == "nas-zoo":
        cli.make_parser().parse_args(words[1:])
    else:
        assert (ROOT / next(word for word in words if word.endswith(".py"))).is_file()
