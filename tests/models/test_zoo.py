"""One contract for every registered model.

Parameter counts and names of the state dict are pinned in expected/models.json, since published weights hang on them,
and multiply-adds beside them. After a change that is meant, write it anew with `python -m tests.models.test_zoo` and
read the diff.

The models differ in their cells and layouts alone, so tests that take longer run on models that together hold every
operation, both layouts and every oddity of a cell; with NAS_ZOO_ALL_MODELS=1 in the environment they run on all.
"""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.models import is_model, model_entrypoint, save_for_hf

import nas_zoo
from nas_zoo.genotype import Genotype, as_genotype, list_found, list_genotypes
from nas_zoo.models import registry
from nas_zoo.models.count import Counts, count, work_out
from nas_zoo.models.layout import LAYOUTS
from nas_zoo.models.network import CellNet

EXPECTED = Path(__file__).parents[1] / "expected" / "models.json"
MODELS = timm.list_models(module="nas_zoo")

COVERING = [
    "amoebanet_a_in1k",  # a concat of some nodes only
    "cell_net_cifar",
    "cell_net_imagenet",
    "darts_minus_c100",
    "data_m7_c10",  # two to five edges a node, several operations on one input
    "edas_c10",
    "edas_in1k",
    "enas_micro_fairdarts_c10",
    "fairdarts_c_c10",  # a node without inputs
    "gamenas_in1k",  # nodes that take one input twice
    "nasnet_a_c10",
    "nsganet_c10",
    "relativenas_in1k",  # another width
]

every_model = pytest.mark.parametrize("name", MODELS)
some_models = pytest.mark.parametrize("name", MODELS if os.environ.get("NAS_ZOO_ALL_MODELS") else COVERING)


def small(name: str, **kwargs: Any) -> Any:
    """The model with its own cells and layout, but few and narrow."""
    torch.manual_seed(0)
    return timm.create_model(name, **({"init_channels": 4, "num_cells": 4} | kwargs))


def images(model: Any, n: int = 2) -> torch.Tensor:
    """The smallest images that leave more than one pixel to the last cell."""
    size = 64 if model.layout == "imagenet" else 8
    return torch.randn(n, model.in_chans, size, size, generator=torch.Generator().manual_seed(1))


def by_arithmetic(model: Any, input_size: tuple[int, int, int]) -> Counts:
    """Counts without running the model, which over all models would take a minute."""
    return work_out(model.genotype, model.layout, model.init_channels, model.num_cells, model.num_classes, input_size)


@pytest.fixture(scope="module", params=MODELS)
def full_size(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """Each model's name, and it at its own size, without data; pytest runs the tests of one after the other."""
    return request.param, timm.create_model(request.param, device="meta")


def facts(model: Any, count_by: Callable[[Any, tuple[int, int, int]], Counts] = by_arithmetic) -> dict[str, Any]:
    """What is pinned of a model at its full size; keys: digest of names and shapes, in order."""
    shapes = [(key, list(value.shape)) for key, value in model.state_dict().items()]
    counts = count_by(model, model.pretrained_cfg["input_size"])
    return {
        "genotype": model.genotype.digest,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": counts.macs,
        "activations": counts.activations,
        "keys": hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16],
    }


@pytest.mark.parametrize("name", ["edas_in1k", "da2s_in1k", "darts_v2_in1k"])
def test_cells_compared_on_imagenet_keep_to_the_mobile_setting(name):
    """Under 600M multiply-adds at 224 x 224 pixels and 1,000 classes (DA2S, section 4.1)."""
    model = timm.create_model(name, device="meta")
    assert model.num_classes == 1000
    assert count(model, (3, 224, 224)).macs < 600e6


def test_the_models_are_those_that_are_pinned():
    assert list(json.loads(EXPECTED.read_text())) == MODELS


def test_parameters_and_names_are_as_pinned(full_size):
    """The pinned multiply-adds were counted by running the models; here they are worked out from the cells."""
    name, model = full_size
    assert facts(model) == json.loads(EXPECTED.read_text())[name]


def test_the_genotype_survives_json_and_darts_text(full_size):
    genotype = full_size[1].genotype
    assert Genotype.from_json(genotype.to_json()) == genotype
    assert Genotype.from_darts(genotype.to_darts()) == genotype


@some_models
def test_multiply_adds_counted_and_worked_out_agree(name):
    model = small(name, device="meta")
    for size in (64, 64), (75, 101):
        assert count(model, (3, *size)) == by_arithmetic(model, (3, *size))


def test_every_cell_that_a_paper_presents_is_a_model():
    cells = {model["cell"] for model in registry.MODELS.values()}
    assert cells <= {*list_genotypes(1), *list_found()}
    # AGNAS's network has five different cells, of which the genotype holds the first two.
    assert {*list_genotypes(1), *list_found()} - cells == {"agnas"}
    assert list(json.loads((Path(registry.__file__).parent / "models.json").read_text())) == sorted(
        name for name in MODELS if not name.startswith("cell_net_")
    )


@pytest.mark.slow
def test_importing_the_package_reads_the_list_of_models_but_no_cells():
    code = (
        "import sys; opened = []; sys.addaudithook(lambda e, a: e == 'open' and opened.append(str(a[0])))\n"
        "import nas_zoo, timm\n"
        "assert any(path.endswith('models.json') for path in opened), opened\n"
        "assert not [path for path in opened if 'genotype' in path and path.endswith('.json')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@every_model
def test_the_name_is_one_that_timm_can_carry(name):
    assert name.replace("_", "").isalnum()
    assert is_model(name)
    assert not hasattr(timm.models, name)  # timm has no model of that name
    assert not hasattr(timm.models, "nas_zoo")  # nor a module, by which list_models would mix them up
    entrypoint = model_entrypoint(name)
    assert entrypoint.__name__ == name
    assert entrypoint.__module__ == "nas_zoo"
    assert entrypoint.__doc__
    assert name in nas_zoo.__all__
    assert pickle.loads(pickle.dumps(entrypoint)) is entrypoint


@some_models
def test_the_configuration_describes_the_model(name):
    model: Any = timm.create_model(name, device="meta").eval()
    cfg = model.pretrained_cfg
    assert isinstance(model, CellNet)
    assert model.layout in LAYOUTS
    assert model.num_classes == cfg["num_classes"]
    assert model.in_chans == cfg["input_size"][0]
    assert len(cfg["mean"]) == len(cfg["std"]) == model.in_chans
    assert cfg["license"]
    assert cfg.get("label_names") is None or len(cfg["label_names"]) == model.num_classes
    assert {f"{cfg[key]}.weight" for key in ("first_conv", "classifier")} <= model.state_dict().keys()
    with torch.no_grad():
        features = model.forward_features(torch.empty(1, *cfg["input_size"], device="meta"))
        logits = model.forward_head(features)
    assert features.shape == (1, model.num_features, *cfg["pool_size"])
    assert logits.shape == (1, model.num_classes)
    pixels = create_transform(**resolve_data_config(model=model))
    assert pixels is not None


@every_model
def test_logits_come_in_training_too_and_every_parameter_gets_a_gradient(name):
    model = small(name, num_classes=5).train()
    logits = model(images(model))
    assert logits.shape == (2, 5)
    logits.pow(2).sum().backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not [key for key, parameter in model.named_parameters() if not parameter.grad.isfinite().all()]


@some_models
def test_a_batch_gives_what_its_images_give_alone(name):
    model = small(name).eval()
    x = images(model, n=3)
    with torch.no_grad():
        torch.testing.assert_close(model(x), torch.cat([model(one[None]) for one in x]), rtol=1e-4, atol=1e-5)


@some_models
def test_channels_and_classes_can_be_chosen(name):
    model = small(name, in_chans=1, num_classes=0).eval()
    assert model(images(model)).shape == (2, model.num_features)
    with pytest.raises(TypeError, match="no_such_setting"):
        small(name, no_such_setting=1)


@some_models
def test_features_halve_in_resolution_from_level_to_level(name):
    backbone: Any = small(name, features_only=True).eval()
    x = images(small(name))
    levels = backbone(x)
    info = backbone.feature_info
    assert len(levels) >= 3
    assert info.reduction() == sorted(set(info.reduction()))
    for level, channels, reduction in zip(levels, info.channels(), info.reduction(), strict=True):
        assert level.shape == (2, channels, x.shape[2] // reduction, x.shape[3] // reduction)


@some_models
# torch.jit is deprecated in torch 2.14; timm still promises scriptable models.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:FutureWarning")
def test_the_model_can_be_scripted_and_traced(name):
    model = small(name).eval()
    x = images(model)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.jit.script(model)(x), expected)
        torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), expected)


@some_models
def test_a_saved_model_loads_as_it_was(name, tmp_path):
    model = small(name).eval()
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == name
    assert as_genotype(config["model_args"]["genotype"]) == model.genotype
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(loaded(images(model)), model(images(model)))


if __name__ == "__main__":
    pinned = {name: facts(timm.create_model(name, device="meta"), count) for name in MODELS}
    EXPECTED.write_text(json.dumps(pinned, indent=2) + "\n")
    print(f"wrote {EXPECTED.name}: {len(MODELS)} models")
