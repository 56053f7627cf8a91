"""Checkpoints of the original code: the converted network computes the same logits; what does not fit is told."""

import argparse
import os
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

import nas_zoo  # noqa: F401  # registers
from nas_zoo.cli import main
from nas_zoo.genotype import Genotype, load_genotype
from nas_zoo.models.convert import convert_checkpoint, convert_state_dict, describe
from nas_zoo.models.load import load_model, read_state_dict, state_dict_of
from tests.old_torch import old_file
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
    compiled = {f"_orig_mod.module.{key}": value for key, value in plain.items()}
    parts = {key.replace("cells.1.", "cells.1._orig_mod."): value for key, value in plain.items()}
    averaged = {"n_averaged": torch.tensor(5)} | {f"module.{key}": value for key, value in plain.items()}
    other = {key: torch.zeros_like(value) for key, value in plain.items()}
    for wrapped in (
        old, {"state_dict": old, "epoch": 3}, {"model": plain}, {"model": {"state_dict": old}}, {"net": plain, "a": 9},
        {"model_state_dict": plain, "optimizer_state_dict": {"state": {}}}, {"network": {"model": plain}}, compiled,
        parts, averaged, {"state_dict": {f"model.{key}": value for key, value in plain.items()}},
        {"state_dict_ema": plain, "state_dict": other}, {"model": other, "model_ema": averaged}, {"weights": compiled},
    ):  # fmt: skip
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
        ("darts_v2", {"layout": "mnist"}, ["layout must be one of cifar, imagenet, got 'mnist'"]),
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
    wide = Genotype(normal=[[*SKIPPING.normal.nodes, [("max_pool_3x3", 0)]], [2, 3]], reduce=SKIPPING.reduce)
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


@pytest.mark.parametrize(
    ("left_out", "said"),
    [("none", "14 tensors of the auxiliary head"), ("features.6", "9 tensors of the auxiliary head"), ("", "nothing")],
)
def test_an_auxiliary_head_with_or_without_its_last_batch_norm_or_none_is_the_same(left_out, said, tmp_path):
    theirs = original(load_genotype("darts_v2"), "imagenet", 4, 3)
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith(f"auxiliary_head.{left_out}")}
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "theirs.pt")
    told = convert_checkpoint(tmp_path / "theirs.pt", tmp_path / "ours.safetensors", "darts_v2")
    assert told.endswith(f"left out: {said}")
    ours = timm.create_model("cell_net_imagenet", genotype="darts_v2", init_channels=4, num_cells=3, num_classes=10)
    ours.load_state_dict(load_file(tmp_path / "ours.safetensors"))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs(x), rtol=0, atol=1e-5)


def test_a_file_of_torch_0_3_from_a_gpu_and_in_half_precision_is_read(tmp_path):
    theirs = original(load_genotype("darts_v2"), "cifar", 4, 3)
    state = {f"module.{key}": value.half() for key, value in theirs.state_dict().items() if "num_batches" not in key}
    (tmp_path / "old.pt").write_bytes(old_file(state, "cuda:3", epoch=600, optimizer={"param_groups": [{"lr": 0.1}]}))
    convert_checkpoint(tmp_path / "old.pt", tmp_path / "ours.safetensors", "darts_v2")
    ours = timm.create_model("cell_net_cifar", genotype="darts_v2", init_channels=4, num_cells=3, num_classes=10)
    ours.load_state_dict(load_file(tmp_path / "ours.safetensors"))
    theirs.load_state_dict({key: value.half().float() for key, value in theirs.state_dict().items()})
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=1e-5)


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


BESIDE = {
    "args": argparse.Namespace(arch="DARTS", lr=0.025, data=Path("data"), seeds=[1, 2]),
    "best_acc": np.float64(97.24),
    "epoch": np.int64(599),
    "losses": np.array([2.3, 0.1]),
    "names": np.array(["plane", "car"], dtype=object),
    "dtype": np.dtype("float32"),
    "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_what_lies_beside_the_tensors_is_passed_over(zipped, tmp_path):
    state = original(SKIPPING, "cifar", 4, 3).state_dict()
    for key in ("net", "model_state_dict", "state_dict_ema"):
        torch.save(BESIDE | {key: state}, tmp_path / "last.pth.tar", _use_new_zipfile_serialization=zipped)
        found = read_state_dict(tmp_path / "last.pth.tar")
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], value) for key, value in state.items())
    assert "parameters" in convert_checkpoint(tmp_path / "last.pth.tar", tmp_path / "out.safetensors", SKIPPING)


def test_weights_of_wrapped_models_are_loaded(tmp_path):
    model = timm.create_model("darts_v2_c10", init_channels=4, num_cells=3)
    wrapped = {f"_orig_mod.{key}": value for key, value in model.state_dict().items()}
    torch.save({"net": wrapped, "acc": np.float32(9)}, tmp_path / "net.pt")
    loaded = load_model("darts_v2_c10", tmp_path / "net.pt", init_channels=4, num_cells=3)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())


def archive(path, *names):
    with tarfile.open(path, "w") as file:
        for name in names:
            file.addfile(tarfile.TarInfo(name))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: torch.save({0: torch.zeros(1)}, path), "the keys of a state dict must be names, got 0"),
        (lambda path: torch.save({"net": {("a", 1): torch.zeros(1)}}, path), "must be names, got ('a', 1)"),
        (lambda path: torch.save({}, path), "no state dict in it"),
        (lambda path: torch.save({"model": {}}, path), "no state dict in it"),
        (lambda path: torch.save({"net": {"a": 1}}, path), "no state dict in it"),
        (lambda path: torch.save(torch.zeros(3), path), "no state dict in it"),
        (lambda path: torch.save({"a": torch.zeros(1).expand(10**12)}, path), "has more elements, (1000000000000,)"),
        (lambda path: torch.save({"a": torch.zeros(2, 2).to_sparse()}, path), "must be a plain tensor"),
        (lambda path: torch.save({"a": torch.zeros(2, device="meta")}, path), "must be a plain tensor"),
        (lambda path: path.write_bytes(pickle.dumps({"net": BESIDE["args"]})), "not readable"),
        (lambda path: archive(path, "sys_info", "pickle", "storages", "tensors"), "not readable"),  # torch 0.1
        (lambda path: path.write_bytes(b"<html>404: not found</html>"), "not readable"),
    ],
    ids=range(13),
)
def test_what_is_no_checkpoint_is_one_line(write, words, tmp_path, capsys):
    path = tmp_path / "theirs.pt"
    write(path)
    assert main(["convert", str(path), "--genotype", "darts_v2", str(tmp_path / "out.safetensors")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    with pytest.raises(ValueError, match=re.escape(words)):
        load_model("darts_v2_c10", path)


def test_a_state_dict_with_two_names_for_one_tensor_is_refused():
    state = {"cells.0._orig_mod.a": torch.zeros(1), "cells.0.a": torch.ones(1)}
    with pytest.raises(ValueError, match=r"checkpoint: two tensors are called 'cells\.0\.a'"):
        state_dict_of(state)
