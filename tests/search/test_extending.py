"""docs/extending.md as it is written; code from outside: what is remembered, what is asked for, what is refused."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from nas_zoo.auto.run import _told_how_to_go_on
from nas_zoo.auto.settings import AutoSettings
from nas_zoo.cli import main
from nas_zoo.genotype import Genotype, load_genotype
from nas_zoo.models.load import load_model
from nas_zoo.models.operations import build_op, load_operation
from nas_zoo.runs import outside
from nas_zoo.runs.checkpoint import load_checkpoint
from nas_zoo.runs.log import RunLog
from nas_zoo.search.method import find_method, load_method
from nas_zoo.search.report.page import main as report
from nas_zoo.search.run import main as search
from tests.search.test_run import assert_same_run

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", GUIDE, re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
COMMANDS = [shlex.split(line) for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
TINY = ["--data", "digits", "--num-cells", "3", "--init-channels", "4", "--batch-size", "8", "--train-limit", "34",
        "--epochs", "2", "--gap-batches", "1"]  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch):
    """As in a new process."""
    monkeypatch.setattr(outside, "_loaded", {})
    monkeypatch.setattr(outside, "_modules", {})


@pytest.fixture(scope="module")
def guide(tmp_path_factory) -> Path:
    """A folder in which the guide's files lie and its commands were run."""
    folder = tmp_path_factory.mktemp("guide")
    (folder / "my_gdas.py").write_text(PYTHON[0])
    (folder / "my_ops.py").write_text(PYTHON[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for program, *words in COMMANDS:
            assert program == "nas-zoo"
            patch.setattr(outside, "_loaded", {})
            assert main(words) == 0, words
    return folder


def test_the_guide_names_its_files_and_every_kind_of_command(guide):
    assert [words[1] for words in COMMANDS] == ["search", "search", "gap", "genotype", "report", "search", "train",
                                                "export", "card", "export-model"]  # fmt: skip
    assert {"runs", "four_edges.json", "swish.onnx", "my_swish.py"} <= {path.name for path in guide.iterdir()}


def test_auto_tells_the_file_of_its_method_with_what_to_type_next(guide, capsys):
    """The line that was told ended with 2: a file is run only where it is named."""
    settings = AutoSettings(method=load_method(f"{guide / 'my_gdas.py'}:MyGdas"), out=guide / "a b")
    with pytest.raises(KeyboardInterrupt), _told_how_to_go_on(settings):
        raise KeyboardInterrupt
    words = shlex.split(capsys.readouterr().out.partition("continue with: ")[2])
    assert words == ["nas-zoo", "auto", "--resume", "--out", str(guide / "a b"), "--method",
                     f"{guide / 'my_gdas.py'}:MyGdas"]  # fmt: skip


def test_a_run_remembers_the_file_of_its_method_and_is_reported(guide):
    head, *epochs = RunLog.read(guide / "runs" / "gdas")
    mark = f"sha256 {hashlib.sha256((guide / 'my_gdas.py').read_bytes()).hexdigest()}"
    assert head["code"] == {"my_gdas.py:MyGdas": mark}
    assert head["settings"]["method"] == "my_gdas.py:MyGdas"
    assert head["settings"]["tau"] == 5
    assert len(epochs) == 2
    state = load_checkpoint(guide / "runs" / "gdas" / "checkpoint.pt", "search")
    assert state["code"] == head["code"]
    four = json.loads((guide / "four_edges.json").read_text())
    assert four["provenance"]["method"] == "my_gdas.py:MyGdas"
    assert sum(map(len, four["normal"]["nodes"])) == 4
    assert "my_gdas.py:MyGdas" in (guide / "runs" / "gdas" / "report.html").read_text()


@pytest.mark.slow
def test_a_method_of_a_file_in_pieces_is_the_run_that_never_stopped(guide, tmp_path):
    words = [*TINY, "--method", str(guide / "my_gdas.py:MyGdas")]
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert search([*words, "--out", str(whole)]) == 0
    assert search([*words, "--out", str(pieces), "--time-budget", "0.0001"]) == 0
    assert search(["--resume", "--method", str(guide / "my_gdas.py:MyGdas"), "--out", str(pieces)]) == 0
    assert_same_run(whole, pieces)


@pytest.mark.slow
def test_own_operations_are_in_every_form_of_the_network(guide):
    name = "my_ops.py:swish_conv"
    genotype = load_genotype(guide / "runs" / "swish")  # as data it needs no code
    assert len(genotype.normal.nodes) == 5
    assert name in genotype.operations
    assert Genotype.from_darts(genotype.to_darts()) == genotype == Genotype.from_json(genotype.to_json())
    with pytest.raises(ValueError, match=r"my_ops.py:swish_conv' comes from the file my_ops.py.*give --operations"):
        load_model(str(guide / "runs" / "swish_trained"))
    assert load_operation(str(guide / name)) == name
    model = load_model(str(guide / "runs" / "swish_trained"))
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(images)
    import onnxruntime

    session = onnxruntime.InferenceSession(guide / "swish.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(found, logits.numpy(), atol=1e-4)
    metadata = {entry.key: entry.value for entry in onnx.load(guide / "swish.onnx").metadata_props}
    assert name in metadata["genotype"]
    card = (guide / "card" / "README.md").read_text()
    assert f'from nas_zoo.models.operations import load_operation\n\nload_operation("{name}")\n\nmodel =' in card
    assert f"operations of its own, which nas-zoo does not bring: {name}." in card
    # the module of one file: no nas-zoo, no my_ops.py
    code = (
        "import sys; sys.modules['nas_zoo'] = None\n"
        "import my_swish, timm, torch; from safetensors.torch import load_file\n"
        "model = timm.create_model('my_swish', in_chans=1).eval()\n"
        "model.load_state_dict(load_file(sys.argv[1]))\n"
        "x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))\n"
        "print(model(x).flatten().tolist())"
    )
    place = guide / "apart"
    place.mkdir()
    (place / "my_swish.py").write_text((guide / "my_swish.py").read_text())
    weights = guide / "runs" / "swish_trained" / "model.safetensors"
    assert load_file(weights)
    done = subprocess.run([sys.executable, "-c", code, str(weights)], capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), logits.flatten().tolist(), atol=1e-5)


def test_the_guides_noise_is_an_operation_of_a_search(tmp_path, monkeypatch):
    """S4 of RobustDARTS: an operation without parameters that does not look at its input."""
    monkeypatch.chdir(tmp_path)
    Path("my_noise.py").write_text(PYTHON[3])
    named = ["--operations", "sep_conv_3x3,my_noise.py:Noise"]
    assert f"`{' '.join(named)}`" in GUIDE
    short = TINY[: TINY.index("--epochs")]
    assert main(["search", "--method", "darts", *named, *short, "--epochs", "1", "--out", "run"]) == 0
    assert RunLog.read("run")[-1]["operations"] == ["sep_conv_3x3", "my_noise.py:Noise"]
    noise = build_op("my_noise.py:Noise", 4, 2)
    draws = [noise(torch.zeros(8, 4, 9, 9)) for _ in range(2)]
    assert draws[0].shape == (8, 4, 5, 5)
    assert not torch.equal(*draws)
    assert draws[0].std() == pytest.approx(1, abs=0.15)


def test_the_guides_python_runs(guide, monkeypatch, capsys):
    monkeypatch.chdir(guide)
    exec(compile(PYTHON[2], "extending.md", "exec"), {})
    assert "Genotype(normal=" in capsys.readouterr().out


def test_what_a_run_is_made_of_is_asked_for_and_must_not_have_changed(guide, tmp_path, capsys):
    out = str(guide / "runs" / "gdas")
    assert search(["--resume", "--out", out]) == 2
    mark = hashlib.sha256((guide / "my_gdas.py").read_bytes()).hexdigest()
    told = capsys.readouterr().err
    assert f"comes from the file my_gdas.py (sha256 {mark} then)" in told
    assert "give --method FOLDER/my_gdas.py:MyGdas" in told
    (tmp_path / "my_gdas.py").write_text(PYTHON[0].replace("0.99", "0.98"))
    for words in (["--resume", "--out", out], ["genotype", out], ["gap", out]):
        outside._loaded.clear()
        run = search if words[0] == "--resume" else main
        assert run([*words, "--method", str(tmp_path / "my_gdas.py:MyGdas")]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert f"my_gdas.py:MyGdas has changed since the run began: sha256 {mark} then" in told
    assert report([out]) == 0  # the log alone


def test_no_genotype_runs_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text("open('was_run', 'w').close()\ndef op(channels, stride, affine): ...\n")
    cells = [[("bad.py:op", 0), ("skip_connect", 1)]]
    genotype = Genotype(normal=(cells, [2]), reduce=(cells, [2]))
    (tmp_path / "cells.json").write_text(genotype.to_json())
    assert main(["draw", "cells.json", "cells.svg"]) == 0
    assert main(["info", "cell_net_cifar", "--genotype", "cells.json"]) == 2
    with pytest.raises(ValueError, match=r"comes from the file bad.py"):
        build_op("bad.py:op", 4, 1)
    with pytest.raises(ValueError, match=r"comes from the package some-ops, which is not installed here"):
        build_op("some-ops:op", 4, 1)
    assert not (tmp_path / "was_run").exists()


HEAD = """
from dataclasses import dataclass
from torch import nn
from nas_zoo.runs.settings import setting
from nas_zoo.search.method import SearchSettings
@dataclass(frozen=True)
class Settings(SearchSettings):
    {setting}
class Mine(nn.Module):
    def __init__(self, settings{annotation}): ...
    def mixing(self, step): ...
    def loss(self, problem, step): ...
    def genotype(self, rule=None): ...
"""


BARE = HEAD.format(setting="tau: float = 1.0", annotation=": Settings").replace("@dataclass(frozen=True)", "")


@pytest.mark.parametrize(
    ("text", "source", "message"),
    [
        ("no.py:Mine", None, "the file '.*no.py' cannot be read: No such file or directory"),
        ("a.py", "", "the name in the file is missing, as in .*a.py:NAME"),
        ("a.py:Other", "class Mine: ...", "there is no Other in it; there are Mine"),
        ("a.py:Mine", "class Mine: ...", "must be a class that inherits from torch.nn.Module"),
        ("a.py:Mine", "x = (\n", "a.py, line 1: SyntaxError: '\\(' was never closed"),
        ("a.py:Mine", "\nimport nothing_like_this", "a.py, line 2: ModuleNotFoundError: No module named"),
        ("a.py:Mine", "from torch import nn\nclass Mine(nn.Module):\n    def loss(self, problem, step): ...",
         "it has no mixing, genotype"),
        ("a.py:Mine", HEAD.format(setting="...", annotation=""), "must take `settings`, annotated with a class"),
        ("a.py:Mine", HEAD.format(setting="...", annotation=": int"), "must take `settings`, annotated with a class"),
        ("a.py:Mine", HEAD.format(setting="config: str = ''", annotation=": Settings"),
         "the program has a flag --config itself; give the setting config another name"),
        ("a.py:Mine", HEAD.format(setting="epochs: str = '5'", annotation=": Settings"),
         "the setting epochs must stay a whole number"),
        ("a.py:Mine", HEAD.format(setting="table: dict = None", annotation=": Settings"),
         "the setting table must be int, float, str"),
        ("a.py:Mine", HEAD.format(setting="tau: float = 'hot'", annotation=": Settings"),
         "the default of tau must be a number, got 'hot'"),
        ("a.py:Mine", BARE,
         "Settings must be decorated with @dataclass\\(frozen=True\\), so that tau are settings"),
        ("a.py:edas", "edas = 1", "has the name of one of nas-zoo's own; rename it"),
    ],
)  # fmt: skip
def test_what_is_no_method_is_told_in_one_line(text, source, message, tmp_path, capsys):
    if source is not None:
        (tmp_path / "a.py").write_text(source)
    assert search(["--method", str(tmp_path / text), *TINY, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1, told
    assert re.search(message, told), told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def op(channels): ...", r"cannot be made by a.py:op\(4, 1, True\): TypeError"),
        ("def op(channels, stride, affine): return 5", "must make a torch.nn.Module, got a int"),
        ("from torch import nn\ndef op(c, s, a): return nn.Conv2d(c, c, 3, s)", r"must make \(2, 4, 7, 7\) of"),
        ("from torch import nn\ndef op(c, s, a): return nn.Conv2d(c, c, 3, 1, 1)", r"with stride 2 must make"),
        ("from torch import nn\ndef op(c, s, a): return nn.Conv2d(3, c, 3, s, 1)", "fails with stride 1: RuntimeError"),
    ],
)
def test_what_is_no_operation_is_told_in_one_line(body, message, tmp_path, capsys):
    (tmp_path / "a.py").write_text(body)
    words = ["--operations", f"skip_connect,{tmp_path / 'a.py'}:op", *TINY, "--out", str(tmp_path / "run")]
    assert search(words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1, told
    assert re.search(message, told), told


def test_installed_packages_bring_methods_and_operations(guide, tmp_path, monkeypatch):
    """As pip leaves them: a package and its entry points beside it."""
    for path, text in {
        "my_package/__init__.py": "",
        "my_package/gdas.py": PYTHON[0],
        "my_package/ops.py": PYTHON[1],
        "my_package-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: my-package\nVersion: 1.2\n",
        "my_package-1.2.dist-info/entry_points.txt": "[nas_zoo.methods]\nmy_gdas = my_package.gdas:MyGdas\n"
        "edas = my_package.gdas:MyGdas\n[nas_zoo.operations]\nswish_conv = my_package.ops:swish_conv\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_method("my_gdas") == "my-package:my_gdas"
    assert find_method("my-package:my_gdas")[0].__name__ == "MySettings"
    assert outside.find("my-package:my_gdas", "method").mark == "version 1.2"
    assert load_operation("swish_conv") == "my-package:swish_conv"
    assert build_op("my-package:swish_conv", 4, 2)(torch.zeros(1, 4, 5, 5)).shape == (1, 4, 3, 3)
    outside._loaded.clear()
    assert build_op("my-package:swish_conv", 4, 1) is not None  # found by its name alone
    with pytest.raises(ValueError, match=r"'edas' is nas-zoo's own, and the package my-package brings one"):
        load_method("edas")
    assert load_method("my-package:edas") == "my-package:edas"
    assert load_method("darts") == "darts"
    with pytest.raises(ValueError, match=r"method must be one of edas, .* or FILE.py:CLASS, got 'ednas'"):
        find_method(load_method("ednas"))


TWO_RUNS = """
import sys
from pathlib import Path
from nas_zoo.search import find_method, load_method, search

name = load_method("my_gdas.py:MyGdas")
for seed in (0, 1):
    settings = find_method(name)[0](method=name, seed=seed, epochs=1, num_cells=3, init_channels=4, batch_size=8,
                                    train_limit=34, out=Path(sys.argv[1]) / str(seed))
    print(f"digest {seed} {search(settings).genotype.digest}\\n", end="", flush=True)  # two write to one pipe
"""


@pytest.mark.slow
def test_two_processes_search_twice_in_one_program_with_a_method_of_a_file(guide, tmp_path):
    (tmp_path / "twice.py").write_text(TWO_RUNS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launch, str(tmp_path / "twice.py"), str(tmp_path)], env=environment, capture_output=True, text=True,
        timeout=500, cwd=guide,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = sorted(line for line in done.stdout.splitlines() if line.startswith("digest"))
    expected = [f"digest {seed} {load_genotype(tmp_path / str(seed)).digest}" for seed in (0, 1)]
    assert told == sorted(2 * expected)
