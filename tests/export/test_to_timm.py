"""Genotypes written out: a module that stands alone and computes the same, and texts that are read back."""

import inspect
import os
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import nas_zoo  # noqa: F401  # registers
from nas_zoo.cli import main
from nas_zoo.export.cells.to_timm import export_model, to_dot, to_timm_module
from nas_zoo.genotype import Genotype, load_genotype
from nas_zoo.models import operations
from nas_zoo.models.depthwise import DepthwiseConv
from tests.models.test_convert import ODD, SKIPPING

ALL = {"darts_v2": "cifar", "nasnet_a": "imagenet", "fairdarts_c": "cifar", "odd": "imagenet", "skipping": "imagenet"}

RUN = """
import sys
import {modules}
import safetensors.torch, timm, torch
assert not any(name.split(".")[0] == "nas_zoo" for name in sys.modules)
out = {{}}
for name in {names}:
    model = timm.create_model(name, num_classes=7).eval()
    model.load_state_dict(safetensors.torch.load_file(f"{{name}}.safetensors"))
    images = safetensors.torch.load_file(f"{{name}}.images")["images"]
    out[name] = model(images).detach()
    model.train().set_grad_checkpointing()
    model(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.reset_classifier(0)
    assert model(images).shape == (2, model.num_features) and model.num_features == model.head_hidden_size
    assert timm.create_model(name, in_chans=1, drop_path_rate=0.1, device="meta").in_chans == 1
safetensors.torch.save_file(out, "logits")
"""


@pytest.mark.slow
def test_the_written_modules_stand_alone_and_compute_the_same(tmp_path):
    names, expected = [], {}
    for key, layout in ALL.items():
        genotype = {"odd": ODD, "skipping": SKIPPING}.get(key) or load_genotype(key)
        name = f"written_{key}"
        names.append(name)
        export_model(
            genotype, "timm-module", tmp_path / f"{name}.py", layout=layout, init_channels=4, num_cells=5, num_classes=7
        )
        torch.manual_seed(0)
        ours = timm.create_model(
            f"cell_net_{layout}", genotype=genotype, init_channels=4, num_cells=5, num_classes=7
        ).eval()
        images = torch.randn(2, 3, *([64, 64] if layout == "imagenet" else [16, 16]))
        save_file(ours.state_dict(), tmp_path / f"{name}.safetensors")
        save_file({"images": images}, tmp_path / f"{name}.images")
        expected[name] = ours(images).detach()
    code = RUN.format(modules=", ".join(names), names=names)
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True, env=_environment())
    found = load_file(tmp_path / "logits")
    assert found.keys() == expected.keys()
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_written_module_holds_what_its_cells_need_only(tmp_path):
    text = to_timm_module(load_genotype("darts_v2"), "my_darts")
    assert "nas_zoo" not in text
    assert max(map(len, text.splitlines())) <= 120
    assert "class MyDarts(nn.Module):" in text
    assert "class DilatedConv" in text
    assert "class StackedConv" not in text
    assert "init_channels: int = 36" in text
    assert "{{" not in text
    assert "{%" not in text
    file = tmp_path / "my_darts.py"
    file.write_text(text)
    for arguments in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--isolated", "--line-length", "120", str(file)]
        subprocess.run(command, check=True, capture_output=True)


def test_a_written_module_copies_the_code_of_the_operations_as_it_is():
    text = to_timm_module(load_genotype("darts_v2"), "my_darts")
    for made in (
        operations.PointwiseNorm,
        operations.FactorizedReduce,
        operations.SeparableConv,
        operations.DilatedConv,
        DepthwiseConv.__init__,
    ):
        assert inspect.getsource(made) in text


@pytest.mark.parametrize("name", ["darts_v2", "nasnet_a", "fairdarts_c"])
def test_the_texts_are_read_back(name, tmp_path, capsys):
    for to in ("darts", "json"):
        path = tmp_path / f"cells.{to}"
        assert main(["export-model", name, "--to", to, "--output", str(path)]) == 0
        assert load_genotype(path) == load_genotype(name)
        capsys.readouterr()
        assert main(["export-model", name, "--to", to]) == 0
        assert capsys.readouterr().out.split("=", 1)[-1] == path.read_text().split("=", 1)[-1] or to == "json"


def test_a_name_that_begins_with_a_digit_has_a_class_all_the_same():
    text = to_timm_module(load_genotype("darts_v2"), "_1")
    compile(text, "_1.py", "exec")
    assert "class Network1(nn.Module):" in text


def test_cells_of_a_file_go_by_their_own_name(tmp_path):
    (tmp_path / "genotypes.py").write_text(f"DARTS_X = {load_genotype('darts_v2').to_darts()}")
    assert "def darts_x(" in export_model(f"{tmp_path / 'genotypes.py'}:DARTS_X", "timm-module")


def test_dot_has_every_edge():
    genotype = load_genotype("darts_v2")
    text = to_dot(genotype)
    assert text.count('[label="') == 2 * 7 + genotype.num_edges
    assert 'normal_0 -> normal_2 [label="sep_conv_3x3"];' in text
    assert text.count("{") == text.count("}") == 3
    assert to_dot(Genotype(genotype.reduce, genotype.normal)) != text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["darts_v2", "--to", "keras"], "'keras' is unknown; it must be one of timm-module, darts, json, dot"),
        (["darts_v2", "--to", "timm-module", "--name", "a.b"], "name 'a.b'"),
        *(
            (["darts_v2", "--to", "timm-module", "--name", name], f"name {name!r}: means something else in Python")
            for name in ("torch", "timm", "nn", "cell", "node", "checkpoint", "make_operation", "sum", "random", "any")
        ),
        (
            ["darts_v2", "--to", "timm-module", "--layout", "mnist"],
            "layout must be one of cifar, imagenet, got 'mnist'",
        ),
        (["darts_v2", "--to", "json", "--num-cells", "8"], "num_cells: only --to timm-module takes it"),
        (["nasp", "--to", "timm-module"], "cannot be built here"),
        (["nonesuch", "--to", "dot"], "no such file"),
    ],
)
def test_mistakes_are_one_line(arguments, words, capsys):
    assert main(["export-model", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
