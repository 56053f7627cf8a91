"""Checkpoints of the original code: the converted network computes the same logits; what does not fit is told."""

import os
import re

import pytest
import timm
import torch
from safetensors.torch import load_file

import nas_zoo  # noqa: F401  # registers
from nas_zoo.cli import main
from nas_zoo.genotype import Genotype, load_genotype
from nas_zoo.models.convert import convert_checkpoint, convert_state_dict, describe
from tests.original_darts import original

# Input 0 of the normal cell unread, a node that reaches nothing, every operation with weights of two names.
ODD = Genotype.from_darts(
    "Genotype(normal=[[('sep_conv_5x5', 1), ('conv_7x1_1x7', 1)], [('dil_conv_5x5', 2)], [('sep_conv_7x7', 1)]], "
    "normal_concat=[3, 2], reduce=[[('skip_connect', 0), ('conv_7x1_1x7', 1)], [('skip_connect', 2), "
    "('sep_conv_3x3', 0), ('max_pool_3x3', 1)]], reduce_concat=[2, 3])"
)
# Reads input 0 alone: every second cell has no reader.
SKIPPING = Genotype.from_darts(
    "Genotype(normal=[('sep_conv_3x3', 0), ('dil_conv_3x3', 0)], normal_concat=[2], "
    "reduce=[('skip_connect', 0), ('avg_pool_3x3', 0)], reduce_concat=[2])"
)
CASES = {
    "darts_v2": None,
    "pc_darts_c10": None,
    "p_darts_c10": None,
    "nasnet_a": None,
    "odd": ODD,
    "skipping": SKIPPING,
}


def images(layout: str) -> torch.Tensor:
    size = 64 if layout == "imagenet" else 16
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layout", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", CASES)
def test_the_converted_network_computes_the_original_logits(name, layout):
    genotype = CASES[name] or load_genotype(name)
    theirs = original(genotype, layout, 4, 6)
    state = convert_state_dict(theirs.state_dict(), genotype, layout=layout)
    ours = timm.create_model(f"cell_net_{layout}", genotype=genotype, init_channels=4, num_cells=6, num_classes=10)
    ours.load_state_dict(state)
    with torch.no_grad():
        expected = theirs(images(layout))
        torch.testing.assert_close(ours.eval()(images(layout)), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.01
    assert not any(key.startswith("auxiliary_head") for key in state)


def test_prefixes_wrappings_and_old_batch_norms_are_read():
    genotype = load_genotype("darts_v2")
    plain = original(genotype, "cifar", 4, 3).state_dict()
    expected = convert_state_dict(plain, genotype)
    old = {f"module.{key}": value for key, value in plain.items() if not key.endswith("num_batches_tracked")}
    for wrapped in (old, {"state_dict": old, "epoch": 3}, {"model": plain}, {"model": {"state_dict": old}}):
        found = convert_state_dict(wrapped, "darts_v2", "cifar", init_channels=4, num_cells=3)
        assert list(found) == list(expected)
        for key, value in expected.items():
            tracked = key.endswith("num_batches_tracked")
            assert torch.equal(found[key], value) or (tracked and found[key] == 0)
    assert str(describe(old)) == "layout=cifar, init_channels=4, num_cells=3, num_classes=10, in_chans=3"


@pytest.mark.parametrize(
    ("genotype", "settings", "words"),
    [
        ("darts_v2", {"num_cells": 20}, ["num_cells=20 does not fit", "num_cells=6", "init_channels=4"]),
        (
            "darts_v2",
            {"init_channels": 36, "layout": "imagenet"},
            ["layout=imagenet, init_channels=36", "layout=cifar"],
        ),
        ("darts_v2", {"layout": "mnist"}, ["layout='mnist'", "cifar, imagenet"]),
        (
            "pc_darts_c10",
            {},
            [
                "edge 1 of its normal cell is skip_connect from 0",
                "_ops.1 holds the weights of sep_conv_3x3",
                "darts_v2",
            ],
        ),
        ("snas_mild", {}, ["does not fit", "fitting: darts_v2"]),
        ("darts_v3", {}, ["darts_v3", "no such file"]),
    ],
)
def test_what_does_not_fit_is_one_line_that_says_what_would(genotype, settings, words):
    state = original(load_genotype("darts_v2"), "cifar", 4, 6).state_dict()
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        convert_state_dict(state, genotype, **settings)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_wrong_concat_and_a_missing_tensor_are_told():
    state = original(SKIPPING, "cifar", 4, 3).state_dict()
    wide = SKIPPING._replace(normal=[[*SKIPPING.normal.nodes, [("max_pool_3x3", 0)]], [2, 3]])
    with pytest.raises(ValueError, match=r"has shape .* needs .*none of the package's genotypes fits"):
        convert_state_dict(state, wide)
    missing = dict(state)
    del missing["cells.2.preprocess0.conv_2.weight"]
    with pytest.raises(ValueError, match=r"preprocess0\.conv_2\.weight is missing"):
        convert_state_dict(missing, SKIPPING)
    with pytest.raises(ValueError, match="nothing to convert"):
        convert_state_dict(convert_state_dict(state, SKIPPING), SKIPPING)
    with pytest.raises(ValueError, match="no network of the original"):
        convert_state_dict({"fc.weight": torch.zeros(2, 2)}, SKIPPING)
    with pytest.raises(ValueError, match="names and tensors"):
        convert_state_dict({"fc.weight": 3}, SKIPPING)


def test_the_command_writes_safetensors_and_says_what_it_left_out(tmp_path, capsys):
    theirs = original(load_genotype("darts_v2"), "cifar", 4, 6)
    torch.save({"state_dict": theirs.state_dict(), "epoch": 600}, tmp_path / "theirs.pt")
    out = tmp_path / "ours.safetensors"
    options = ["--genotype", "darts_v2", "--layout", "cifar", "--init-channels", "4", "--num-cells", "6"]
    assert main(["convert", str(tmp_path / "theirs.pt"), *options, str(out)]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    ours = timm.create_model("darts_v2_c10", init_channels=4, num_cells=6)
    ours.load_state_dict(load_file(out))
    assert f"{sum(p.numel() for p in ours.parameters()):,} parameters" in line
    assert "left out: 14 tensors of the auxiliary head\n" in line
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images("cifar")), theirs(images("cifar")), rtol=0, atol=1e-5)

    assert main(["convert", str(tmp_path / "theirs.pt"), *options[:-1], "8", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "num_cells=8 does not fit" in error
    assert main(["convert", str(tmp_path / "theirs.pt"), *options, str(tmp_path / "ours.pt")]) == 2
    assert ".safetensors" in capsys.readouterr().err


class Command:
    """Unpickled, it would run a command."""

    def __reduce__(self):
        return os.system, ("false",)


def test_a_pickle_that_carries_code_is_refused(tmp_path):
    torch.save({"state_dict": Command()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="a pickle that carries code is refused") as caught:
        convert_checkpoint(tmp_path / "bad.pt", tmp_path / "out.safetensors", "darts_v2")
    assert "\n" not in str(caught.value)
    assert "system" in str(caught.value)
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match=r"torn\.pt"):
        convert_checkpoint(tmp_path / "torn.pt", tmp_path / "out.safetensors", "darts_v2")
