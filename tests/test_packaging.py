"""What the wheel holds, and that the README's commands are commands."""

import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.slow
def test_the_wheel_holds_one_top_level_package_and_its_data(tmp_path):
    tree = tmp_path / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in listed:  # a copy, so that building leaves nothing behind here
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(tree)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "dist").glob("nas_zoo-*.whl")
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
                   "nas_zoo/py.typed", "nas_zoo/search/report/report.css",
                   "nas_zoo/search/report/report.js"):  # fmt: skip
        assert needed in names
    assert "License-Expression: Apache-2.0" in metadata
    requires = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: onnxruntime")]
    assert all(";" in line for line in requires), "only one of the two onnxruntime packages may ever apply"


def test_the_constraints_pin_every_dependency_and_name_no_address():
    text = (ROOT / "constraints.txt").read_text()
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in text.splitlines() if "==" in line}
    assert "://" not in text
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"]:
        assert re.match(r"[A-Za-z0-9.-]+", line)[0].lower() in pinned, line  # type: ignore[index]


def commands_of(*pages: Path) -> list[str]:
    """The lines of the pages' shell blocks, continued lines joined, comments cut."""
    blocks = [block for page in pages for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def test_the_readme_opens_with_the_two_commands():
    assert commands_of(README)[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("command", [c for c in commands_of(README, *DOCS) if re.search(r"nas-zoo|\.py|-m ", c)])
def test_the_commands_of_the_pages_are_understood_as_written(command, tmp_path, monkeypatch, capsys):
    """Parsed by the program that would run them; what they would compute is tested elsewhere."""
    from nas_zoo import cli
    from nas_zoo.search import run
    from nas_zoo.train import run as train

    monkeypatch.chdir(tmp_path)
    command = command.replace(" --resume", "")  # of runs that are not here
    words = [word for word in shlex.split(command) if "=" not in word.split("/")[0] or word.startswith("-")]
    if "nas_zoo.train" in words or words[:2] == ["nas-zoo", "train"]:
        train.parse(words[words.index("train" if words[0] == "nas-zoo" else "nas_zoo.train") + 1 :])
    elif "search/run.py" in words or words[:2] == ["nas-zoo", "search"]:
        run.parse(words[words.index("search" if words[0] == "nas-zoo" else "search/run.py") + 1 :])
    elif words[0] == "nas-zoo" and words[1] in cli.PROGRAMS:
        assert cli.main(words[1:]) == 2  # the runs and pictures it names are not here; a wrong flag is another error
        assert "usage:" not in (said := capsys.readouterr().err), said
    elif words[0] == "nas-zoo":
        cli.make_parser().parse_args(words[1:])
    else:
        assert (ROOT / next(word for word in words if word.endswith(".py"))).is_file()


def test_the_readmes_python_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", "\n".join(blocks)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
