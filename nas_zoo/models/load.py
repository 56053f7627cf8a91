"""A model with its weights, from whatever a user calls it by: a run's folder, a Hub id, a name, a weights file."""

import pickle
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from nas_zoo.models.registry import MODELS

__all__ = ["load_model", "read_state_dict"]


def load_model(model: str, weights: Path | str | None = None, **kwargs: Any) -> nn.Module:
    """The model in evaluation mode.

    Args:
        model: A folder with config.json and model.safetensors (as training leaves it), ``hf-hub:ORG/NAME``,
            ``local-dir:FOLDER`` or the name of a registered model, with or without a tag.
        weights: File of a state dict (safetensors, or torch's without code); needed where the model has none.
        kwargs: Of ``timm.create_model``, such as genotype, init_channels, num_cells, num_classes, in_chans.

    Raises:
        ValueError: Unknown model, no weights, or weights that do not fit; one line that says which.
    """
    folder = Path(model.removeprefix("local-dir:"))
    if model.startswith("local-dir:") or folder.is_dir():
        if not folder.is_dir():
            raise ValueError(f"model {model!r}: no such folder")
        if not (folder / "config.json").is_file():
            raise ValueError(f"model {model!r}: a folder without config.json (an unfinished run?)")
        name = f"local-dir:{folder}"
    else:
        name = model
        if not model.startswith(("hf-hub:", "hf_hub:")):
            known = timm.is_model(model.split(".")[0])
            if "/" in model or "\\" in model or model.endswith((".safetensors", ".pt", ".onnx")):
                raise ValueError(f"model {model!r}: no such folder, and no name of a model (see `nas-zoo list`)")
            cfg = timm.get_pretrained_cfg(model) if known else None
            if weights is None and cfg is not None and not cfg.has_weights:
                tagged = [one for one in timm.list_models(f"{model}*", pretrained=True) if one.split(".")[0] == model]
                these = f"; it has weights as {', '.join(tagged)}" if tagged else ""
                raise ValueError(
                    f"model {model!r} comes without weights: train it (`nas-zoo train --model {model}`) and name the "
                    f"run's folder, or give a weights file{these}"
                )
    try:
        made: nn.Module = timm.create_model(name, pretrained=weights is None, **kwargs)
    except (RuntimeError, FileNotFoundError, TypeError, KeyError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        near = _near_names(model) if "Unknown model" in text else ""
        raise ValueError(f"model {model!r}: {text}{near}") from error
    if weights is not None:
        try:
            made.load_state_dict(read_state_dict(Path(weights)))
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()]
            raise ValueError(f"weights {str(weights)!r} do not fit {model!r}: {' '.join(lines[:2])}") from error
    return made.eval()


def _near_names(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else "; `nas-zoo list` shows ours"


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a safetensors file, or in a torch file by itself or under "model" or "state_dict".

    Raises:
        ValueError: No such file, damaged, or something else in it; a pickle that carries code is refused.
    """
    if not path.is_file():
        raise ValueError(f"weights {str(path)!r}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words go on to tell how to run the code in it all the same.
        known = str(error).partition("GLOBAL ")[2].split()[:1]
        held = f" (it names {known[0]})" if known else ""
        raise ValueError(
            f"weights {str(path)!r}: not readable as tensors and plain values{held}; "
            "a pickle that carries code is refused"
        ) from error
    except Exception as error:  # either library raises many kinds for a damaged file
        raise ValueError(f"weights {str(path)!r}: not readable: {str(error).splitlines()[0]}") from error
    for key in ("model", "state_dict"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in value.values()):
        raise ValueError(f"weights {str(path)!r}: no state dict in it")
    return value
