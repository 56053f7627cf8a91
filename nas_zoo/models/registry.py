"""Registers the models with timm.

An entrypoint is a function of the package `nas_zoo` that bears the model's name, so
``timm.list_models(module="nas_zoo")`` lists them all. ``nas_zoo/__init__.py`` has ``register`` called as soon as
somebody imports timm; until then neither timm nor torch is imported here, and cells are read when a model is made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nas_zoo.models.catalog import DATA, MODELS, Data, cells_named, settings_of
from nas_zoo.models.public import PublicWeights, find_public, public_of
from nas_zoo.models.results import Result, fetch_weights, package_results

if TYPE_CHECKING:
    from nas_zoo.models.network import CellNet

__all__ = ["ENTRYPOINTS", "configurations", "find_result", "register"]

# Configurations -------------------------------------------------------------------------------------------------------


def _configuration(data: Data, **differing: Any) -> dict[str, Any]:
    """A timm configuration: that of the data, but for what differs."""
    cifar = data.layout == "cifar"
    input_size = differing.get("input_size", data.input_size)
    return {
        "url": "",
        "num_classes": data.num_classes,
        "input_size": input_size,
        "pool_size": tuple(-(-side // (4 if cifar else 32)) for side in input_size[1:]),
        "crop_pct": 1.0 if cifar else 0.875,
        "interpolation": "bilinear" if cifar else "bicubic",
        "mean": data.mean,
        "std": data.std,
        "first_conv": "stem.0.conv",
        "classifier": "classifier",
        "license": "apache-2.0",
        "label_names": data.label_names,
    } | differing


def _rows_of(model: str) -> list[Result]:
    """The published checkpoints of a model; those of its own number of classes first."""
    rows = [row for row in package_results() if row.model == model]
    return sorted(rows, key=lambda row: row.num_classes != DATA[MODELS[model]["data"]].num_classes)


def find_result(name: str) -> Result | None:
    """The published row of MODEL.TAG, or that of MODEL: the weights that ``pretrained=True`` takes; None without.

    A model's default is the first row of its own number of classes. Weights of another are had by their tag alone:
    what MODEL means, and how many parameters it has, must not change with somebody's weights.
    """
    if "." in name:
        return next((row for row in package_results() if row.name == name), None)
    rows = _rows_of(name) if name in MODELS else []
    return rows[0] if rows and rows[0].num_classes == DATA[MODELS[name]["data"]].num_classes else None


def configurations() -> dict[str, Any]:
    """timm's configurations by MODEL, or by MODEL.TAG where there are weights."""
    cfgs: dict[str, Any] = {}
    for name, model in MODELS.items():
        data = DATA[model["data"]]
        own = {"label_names": None} if name.startswith("cell_net_") else {}
        rows: list[Result | PublicWeights] = [*_rows_of(name), *public_of(name)]
        cfgs |= {row.name: _configuration(data, **row.cfg()) for row in rows}
        if find_result(name) is None:
            cfgs[f"{name}.*" if rows else name] = _configuration(data, **own)  # .*: the default, no tag
    return cfgs


# Entrypoints ----------------------------------------------------------------------------------------------------------

#: Where weights may lie, in the order in which timm looks.
_PLACES = ("file", "hf_hub_id", "url")


def _make_entrypoint(name: str) -> Callable[..., CellNet]:
    """A function as timm wants it, by the name of the model."""
    settings = settings_of(name)

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> CellNet:
        from nas_zoo.models.network import build

        asked: dict[str, Any] = settings | kwargs
        model = build(name, pretrained, **(asked | _place_of_weights(name, asked) if pretrained else asked))
        cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
        cfg.pop("state_dict", None)  # of other people's weights; they are in the network now
        cfg.pop("description", None)  # of older configurations: a figure that was measured on published weights
        own_weights = any((asked.get("pretrained_cfg_overlay") or {}).get(place) for place in _PLACES)
        other_head = asked.get("num_classes") not in (None, cfg.get("num_classes"))
        if not pretrained or own_weights or other_head:
            cfg.pop("tag", None)  # it names weights, and this network has not got them
        return model

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = "nas_zoo"
    size = f"C={settings['init_channels']}, {settings['num_cells']} cells"
    entrypoint.__doc__ = f"Cells {settings['genotype']!r}, {settings['layout']} layout: {size}."
    return entrypoint


ENTRYPOINTS = {name: _make_entrypoint(name) for name in MODELS}


def register(_: Any = None) -> None:
    """Makes the models known to timm, which is imported here if it is not yet."""
    from timm.models import generate_default_cfgs, register_model

    # timm looks for a model's configurations in the module that its entrypoint names.
    vars(sys.modules["nas_zoo"])["default_cfgs"] = generate_default_cfgs(configurations())
    for entrypoint in ENTRYPOINTS.values():
        register_model(entrypoint)


def _place_of_weights(variant: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What timm has to be told of where the weights lie, once they are there and are the published ones.

    Raises:
        ValueError: The model has no weights, they are damaged or cannot be had, or the network asked for is another.
    """
    from timm.models._builder import resolve_pretrained_cfg

    from nas_zoo.genotype import as_genotype, name_of_cells

    given, overlay = kwargs.get("pretrained_cfg"), dict(kwargs.get("pretrained_cfg_overlay") or {})
    first = next((place for place in _PLACES if overlay.get(place)), None)
    if first is not None:  # what the user sets wins over what stands before it in ours
        overlay |= dict.fromkeys(_PLACES[: _PLACES.index(first)])
    cfg = resolve_pretrained_cfg(variant, given, overlay)
    if cfg.source in ("hf-hub", "local-dir") or cfg.state_dict:  # hf-hub:ORG/NAME and the like
        return {}
    if not cfg.has_weights:
        if others := public_of(variant):
            raise ValueError(_ask_for_one(variant, others))
        other = [f"{row.name} ({row.dataset})" for row in _rows_of(variant)]
        having = [name for name in MODELS if find_result(name)]
        raise ValueError(
            f"{variant} has no trained weights{f' of its {cfg.num_classes} classes' if other else ''}: make them with "
            f"`nas-zoo train --model {variant} --out FOLDER` and "
            f"timm.create_model('local-dir:FOLDER', pretrained=True)"
            f"{'; it has them as ' + ', '.join(other) if other else ''}"
            f"{'; with weights come ' + ', '.join(having) if having else ''}"
        )
    row, public = find_result(f"{variant}.{cfg.tag}"), find_public(f"{variant}.{cfg.tag}")
    if first is not None:
        return {"pretrained_cfg_overlay": overlay}
    if (row is None and public is None) or not isinstance(given, str | None):
        return {}
    own = settings_of(variant) if row is None else vars(row)
    asked = {"genotype": cells_named(kwargs["genotype"]).digest}
    asked |= {key: kwargs[key] for key in ("init_channels", "num_cells")}
    for key, value in asked.items():
        wanted = as_genotype(own[key]).digest if key == "genotype" and row is None else own[key]
        if value != wanted:
            named = (
                f" (asked for: {name_of_cells(value)}, theirs: {name_of_cells(wanted)})" if key == "genotype" else ""
            )
            raise ValueError(
                f"{key}={value!r}: the weights of {variant}.{cfg.tag} are of a network with {wanted!r}{named}"
            )
    if row is not None:
        # A file of checked content, which timm prefers to the Hub.
        return {"pretrained_cfg_overlay": {**overlay, "file": str(fetch_weights(row))}}
    assert public is not None
    from nas_zoo.models.download import public_state_dict

    return {"pretrained_cfg_overlay": {**overlay, "state_dict": public_state_dict(public)}}


def _ask_for_one(variant: str, others: list[PublicWeights]) -> str:
    """Words for a model that has weights of others alone: whose weights they are is for the user to choose."""
    listed = "; ".join(
        f"{row.name} by {row.authors}, wrong {row.figure or 'not said'}, {row.license}" for row in others
    )
    own = [f"{row.name} ({row.dataset})" for row in _rows_of(variant)]
    ours = f" (ours are of other classes: {', '.join(own)})" if own else ""
    return f"{variant} has no trained weights of ours{ours}; others publish some, ask for one by its tag: {listed}"
