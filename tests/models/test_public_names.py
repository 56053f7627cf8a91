"""Weights of others by name, timm's way: from a server on loopback, in the forms in which such files are.

The networks have their full size.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

import nas_zoo  # noqa: F401  # registers
from nas_zoo.genotype import load_genotype
from nas_zoo.models import public
from tests.present import present
from tests.served_weights import theirs_of
from tests.their_networks import TheirNetwork


def agree(ours: nn.Module, theirs: nn.Module, size: tuple[int, ...]) -> None:
    x = torch.randn(1, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.eval()(x)
        torch.testing.assert_close(ours.eval()(x), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.001


@pytest.mark.slow
def test_relativenas_as_its_repository_has_it(publish, tmp_path):
    """A bare state dict of DataParallel in torch's old container, with an auxiliary head, without batch counters."""
    theirs = theirs_of("relativenas_c10.emi")
    state = {f"module.{key}": value for key, value in theirs.state_dict().items() if "num_batches" not in key}
    publish("relativenas_c10.emi", state, legacy=True)
    ours: Any = timm.create_model("relativenas_c10.emi", pretrained=True)
    agree(ours, theirs, (3, 32, 32))
    cfg = ours.pretrained_cfg
    assert (cfg["mean"], cfg["std"]) == ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768))
    assert (cfg["tag"], cfg["license"], cfg["num_classes"]) == ("emi", "no licence stated", 10)
    assert cfg["origin_url"] == "https://github.com/EMI-Group/RelativeNAS"
    # what is saved is a plain model, without anything of the file's
    save_for_hf(ours, str(tmp_path / "saved"), safe_serialization=True)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert "state_dict" not in config["pretrained_cfg"]
    assert "2.26" not in json.dumps(config)

    # the second time from the cache, and as for any weights of timm
    asked = len(publish.server.requests)
    few: Any = timm.create_model("relativenas_c10.emi", pretrained=True, num_classes=4)
    assert few(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    assert "tag" not in few.pretrained_cfg
    assert torch.equal(few.cells[3].preprocess1.conv.weight, ours.cells[3].preprocess1.conv.weight)
    grey: Any = timm.create_model("relativenas_c10.emi", pretrained=True, in_chans=1)
    torch.testing.assert_close(grey.stem[0].conv.weight, ours.stem[0].conv.weight.sum(1, keepdim=True))
    levels: Any = timm.create_model("relativenas_c10.emi", pretrained=True, features_only=True)
    with torch.no_grad():
        x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(levels.eval()(x)[-1], ours.forward_features(x))
    assert len(publish.server.requests) == asked == 1


def test_an_imagenet_checkpoint_with_optimizer_namespace_and_the_last_batch_norm(publish):
    theirs = theirs_of("p_darts_in1k.nsas")
    wrapped = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    content = {
        "epoch": 250,
        "state_dict": wrapped,
        "best_acc_top1": 74.1,
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "args": argparse.Namespace(data="imagenet", arch="PDARTS"),
    }
    publish("p_darts_in1k.nsas", content)
    ours: Any = timm.create_model("p_darts_in1k.nsas", pretrained=True)
    agree(ours, theirs, (3, 64, 64))
    assert ours.pretrained_cfg["crop_pct"] == 0.875
    assert any(key.startswith("module.auxiliary_head.features.6") for key in wrapped)  # the last BatchNorm of its head


@pytest.mark.slow
def test_edges_of_none_names_of_fairdarts_another_width_and_one_channel(publish):
    none = theirs_of("random_nsas_c10.nsas")
    numbers = present(present(public.find_public("random_nsas_c10.nsas")).numbering)
    state = {}
    for key, value in none.state_dict().items():
        if match := re.fullmatch(r"cells\.(\d+)\._ops\.(\d+)\.(.+)", key):
            k = numbers[int(match[1]) in (6, 13)][int(match[2])]
            key = f"cells.{match[1]}._ops.{k}.{match[3]}"
        state[key] = value
    publish("random_nsas_c10.nsas", state)
    agree(timm.create_model("random_nsas_c10.nsas", pretrained=True), none, (3, 16, 16))

    torch.manual_seed(0)
    fair = TheirNetwork("fairdarts", load_genotype("fairdarts_a"), "cifar", 36, 20, 10)
    counted = {f"{name}.total_ops": torch.zeros(1) for name, _ in fair.named_modules() if name}  # its code runs thop
    content = {"state_dict": fair.state_dict() | counted, "scheduler": {"last_epoch": 600}}
    publish("fairdarts_a_c10.fairdarts", content)
    agree(timm.create_model("fairdarts_a_c10.fairdarts", pretrained=True), fair, (3, 16, 16))

    wide = theirs_of("xnas_m_c10.xnas")  # C = 44
    publish("xnas_m_c10.xnas", {"model": wide.state_dict()})
    agree(timm.create_model("xnas_m_c10.xnas", pretrained=True), wide, (3, 16, 16))

    grey: Any = theirs_of("sgas_es_1_fmnist.sgas_es")
    grey.stem[0] = nn.Conv2d(1, 108, 3, padding=1, bias=False)
    publish("sgas_es_1_fmnist.sgas_es", grey.state_dict())
    ours = timm.create_model("sgas_es_1_fmnist.sgas_es", pretrained=True)
    assert ours.in_chans == 1
    agree(ours, grey, (1, 28, 28))
    colour = timm.create_model("sgas_es_1_fmnist.sgas_es", pretrained=True, in_chans=3)
    assert colour(torch.zeros(1, 3, 28, 28)).shape == (1, 10)


def test_a_model_without_a_tag_lists_the_tags_with_licence_and_figure_and_asks_for_one():
    with pytest.raises(ValueError, match="relativenas_in1k has no trained weights of ours; others publish") as caught:
        timm.create_model("relativenas_in1k", pretrained=True)
    assert (
        "ask for one by its tag: relativenas_in1k.emi by EMI-Group, wrong 24.88 % (epoch not said), no licence stated; "
        "relativenas_in1k.darmo by jitdee-ai, wrong not said, unclear: apache-2.0 by darmo" in str(caught.value)
    )
    with pytest.raises(ValueError, match=r"ours are of other classes: darts_v2_in1k\.imagenette.*darts_v2_in1k\.darmo"):
        timm.create_model("darts_v2_in1k", pretrained=True)
    # a model that has weights of ours takes them, whatever others publish
    of_ours: Any = timm.create_model("darts_v2_c10_s", pretrained=True)
    assert of_ours.pretrained_cfg["tag"] == "jpeg_e4"
    # without weights, a name is a name
    assert timm.create_model("relativenas_in1k", device="meta").num_classes == 1000
    assert "relativenas_c10.emi" in timm.list_models("relativenas*", pretrained=True)
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        timm.create_model("relativenas_c10.mine", pretrained=True)


def test_a_network_of_another_size_or_cells_is_not_given_their_weights():
    for more, words in (
        ({"init_channels": 16}, "init_channels=16: the weights of relativenas_c10.emi are of a network with 36"),
        ({"num_cells": 8}, "num_cells=8: the weights of relativenas_c10.emi are of a network with 20"),
        ({"genotype": "darts_v2"}, "genotype='d795ea3e79663488': the weights of relativenas_c10.emi are"),
        ({"genotype": "darts_v2"}, "(asked for: darts_v2, theirs: relativenas)"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            timm.create_model("relativenas_c10.emi", pretrained=True, **more)


@pytest.mark.slow
def test_a_file_of_another_network_is_refused_with_link_place_and_what_is_wrong(publish):
    right = theirs_of("dots_c10.jittor").state_dict()
    cases = {
        "attention": (right | {"cells_SE.0.fc.0.weight": torch.zeros(2, 2)}, "cells_SE.0.fc.0.weight would be left"),
        "missing": ({k: v for k, v in right.items() if k != "cells.19.preprocess1.op.2.bias"},
                    "cells.19.preprocess1.op.2.bias is missing"),
        "classes": (right | {"classifier.weight": torch.zeros(100, 576), "classifier.bias": torch.zeros(100)},
                    "it has 100 classes and 3 image channels, the model has 10 classes and 3 image channels"),
        "cells": (theirs_of("darts_v2_c10").state_dict(), "the genotype does not fit it"),
        "no weights": ({"epoch": 3}, "no state dict in it"),
    }  # fmt: skip
    for content, words in cases.values():
        publish("dots_c10.jittor", content)
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            timm.create_model("dots_c10.jittor", pretrained=True)
        text = str(caught.value)
        assert text.startswith(f"weights of dots_c10.jittor, fetched from {publish.server.link('dots_c10.jittor.pt')}")
        assert "\n" not in text
        path = Path(re.search(r" to (\S+\.pt): ", text)[1])  # type: ignore[index]
        path.unlink()
        path.with_name(f"{path.name}.json").unlink()
    publish("dots_c10.jittor", right, keys="fairdarts")
    with pytest.raises(ValueError, match="its names are those of DARTS, expected are those of fairdarts"):
        timm.create_model("dots_c10.jittor", pretrained=True)
