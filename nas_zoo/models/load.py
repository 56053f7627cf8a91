"""A model with its weights, from whatever a user calls it by: a run's folder, a Hub id, a name, a weights file."""

import json
import pickle
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torch
from safetensors import safe_open
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from nas_zoo.genotype import Genotype, name_of_cells
from nas_zoo.models.catalog import hint_for_model, network_named, words_for_cells
from nas_zoo.models.config import check_config, check_images
from nas_zoo.models.results import hub_is_away
from nas_zoo.text import near_names, show

__all__ = [
    "StateDict",
    "class_names",
    "find_cfg",
    "load_model",
    "make_named",
    "name_of_run",
    "read_state_dict",
    "require_hub",
    "state_dict_of",
    "words_of",
]

StateDict = dict[str, torch.Tensor]
_OF_IMAGES = ("input_size", "mean", "std", "crop_pct", "interpolation")


def name_of_run(folder: Path | str) -> str:
    """What a run's network is called unless its user says otherwise: as its folder, in what the Hub takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", Path(folder).resolve().name).strip("._-") or "network"


def load_model(
    model: str, weights: Path | str | None = None, *, random_weights: bool = False, **kwargs: Any
) -> nn.Module:
    """The model in evaluation mode.

    Args:
        model: A folder with config.json and model.safetensors (as training leaves it), ``hf-hub:ORG/NAME``,
            ``local-dir:FOLDER`` or the name of a registered model, with or without a tag. The name of cells is that of
            cell_net_cifar with them, which has no weights.
        weights: File of a state dict (safetensors, or torch's without code); needed where the model has none.
        random_weights: Take random ones (of seed 0) where the model has none, for all of it or for a classifier or stem
            of another size; ``model.random_weights`` then says for which.
        kwargs: Of ``timm.create_model``, such as genotype, init_channels, num_cells, num_classes, in_chans.

    Raises:
        ValueError: Unknown model, no weights, or weights that do not fit; one line that says which.
    """
    if not model.removeprefix("local-dir:"):
        raise ValueError("model '' must be a folder, hf-hub:ORG/NAME or a name of `nas-zoo list`")
    folder, pretrained = Path(model.removeprefix("local-dir:")), weights is None
    if model.startswith("local-dir:") or folder.is_dir():
        if not folder.is_dir():
            raise ValueError(f"model {model!r}: no such folder")
        if not (folder / "config.json").is_file():
            raise ValueError(f"model {model!r}: a folder without config.json (an unfinished run?)")
        check_config(folder / "config.json")
        name = f"local-dir:{folder}"
    else:
        name, cells = network_named(model)
        kwargs = cells | kwargs
        if pretrained:
            require_hub(name)
        if not model.startswith(("hf-hub:", "hf_hub:")):
            known = timm.is_model(name.split(".")[0])
            if "/" in model or "\\" in model or model.endswith((".safetensors", ".pt", ".onnx")):
                raise ValueError(f"model {model!r}: no such folder, and no name of a model (see `nas-zoo list`)")
            cfg = find_cfg(name) if known else None
            if weights is None and random_weights and cfg is not None and not cfg.has_weights:
                pretrained = False
            elif weights is None and cfg is not None and not cfg.has_weights:
                tagged = [one for one in timm.list_models(f"{model}*", pretrained=True) if one.split(".")[0] == model]
                if cells:
                    raise ValueError(f"{words_for_cells(model)}; it comes without weights: give a file of them")
                these = f"; it has weights as {', '.join(tagged)}" if tagged else ""
                raise ValueError(
                    f"model {model!r} comes without weights: train it (`nas-zoo train --model {model}`) and name the "
                    f"run's folder, or give a weights file{these}"
                )
    if random_weights:
        torch.manual_seed(0)
    made = make_named(name, model, pretrained=pretrained, **kwargs)
    if weights is not None:
        try:
            made.load_state_dict(read_state_dict(Path(weights)))
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()]
            raise ValueError(f"weights {str(weights)!r} do not fit {model!r}: {' '.join(lines[:2])}") from error
        _as_the_file_says(made, Path(weights), model)
    elif part := _untrained(made) if pretrained else "all":
        if not random_weights:
            sizes = "classes" if part == "classifier" else "channels of an image"
            raise ValueError(
                f"model {model!r}: its weights were trained for another number of {sizes}, so its {part} would be left "
                "untrained; --random-weights of `nas-zoo export` exports it all the same"
            )
        made.random_weights = part  # type: ignore[assignment]
    return made.eval()


def _as_the_file_says(made: Any, weights: Path, model: str) -> None:
    """Takes what training wrote into a weights file: the classes, and how images are prepared.

    ValueError where it says that they are of other cells, or of images what cannot be. Cells that differ in operations
    without parameters alone fit each other's weights and mean something else.
    """
    if weights.suffix != ".safetensors":
        return
    with safe_open(weights, "pt") as file:
        told = file.metadata() or {}
    try:
        cells = Genotype.from_json(told["genotype"]) if "genotype" in told else None
        classes, images = (json.loads(told.get(name, "null")) for name in ("classes", "images"))
    except (ValueError, RecursionError):  # of another program
        return
    own = getattr(made, "genotype", None)
    if cells is not None and isinstance(own, Genotype) and cells != own:
        raise ValueError(
            f"weights {str(weights)!r} were trained with cells {name_of_cells(cells.digest)}, and {model!r} has "
            f"{name_of_cells(own.digest)}"
        )
    if isinstance(classes, list) and len(classes) == getattr(made, "num_classes", None):
        made.pretrained_cfg = dict(made.pretrained_cfg) | {"label_names": tuple(map(str, classes))}
    if isinstance(images, dict):
        check_images(images, f"weights {str(weights)!r}: images.")
        made.pretrained_cfg = dict(made.pretrained_cfg) | {name: images[name] for name in _OF_IMAGES if name in images}


def make_named(name: str, said: str, **kwargs: Any) -> nn.Module:
    """``timm.create_model``; a ValueError that begins with what the user `said` where there is no such model."""
    try:
        made: nn.Module = timm.create_model(name, **kwargs)
    except (RuntimeError, FileNotFoundError, TypeError, KeyError) as error:
        raise ValueError(f"model {said!r}: {words_of(error, said)}") from error
    return made


def require_hub(model: str) -> None:
    """ValueError where weights of this name can come from the Hub alone, and it cannot be reached."""
    away = None
    if model.startswith(("hf-hub:", "hf_hub:")):
        repository = model[len("hf-hub:") :]
        away = hub_is_away(repository, "config.json") if repository else "hf-hub:ORG/NAME is needed"
    elif timm.is_model(model.split(".")[0]) and (cfg := find_cfg(model)) and cfg.hf_hub_id and not cfg.file:
        files = [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
        away = hub_is_away(cfg.hf_hub_id, *files)
    if away:
        raise ValueError(f"model {model!r}: {away}")


def _untrained(model: nn.Module) -> str:
    """The part that timm has made anew because the weights are for another size: classifier, stem or none ("")."""
    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    classes, size = cfg.get("num_classes"), cfg.get("input_size")
    if getattr(model, "num_classes", 0) and classes and model.num_classes != classes:
        return "classifier"
    return "stem" if size and getattr(model, "in_chans", size[0]) != size[0] else ""


def class_names(cfg: Any) -> tuple[str, ...] | None:
    """What the logits of trained weights are of, in their order, as timm's configuration of them says.

    Of weights of all of ImageNet, whose configurations leave it out, the 1,000 WordNet ids; None: nobody says.
    """
    if names := cfg.get("label_names"):
        return tuple(names)
    return tuple(ImageNetInfo().label_names()) if infer_imagenet_subset(cfg) == "imagenet-1k" else None


def find_cfg(model: str) -> Any:
    """timm's configuration of MODEL, MODEL.TAG, ``hf-hub:ORG/NAME`` or ``local-dir:FOLDER``; None where it has none.

    A ValueError for an unknown tag.
    """
    if model.startswith(("hf-hub:", "hf_hub:", "local-dir:")):  # which it knows only with the model
        require_hub(model)
        with torch.device("meta"):
            return SimpleNamespace(**make_named(model, model).pretrained_cfg)  # type: ignore[arg-type]
    try:
        return timm.get_pretrained_cfg(model)
    except RuntimeError as error:
        raise ValueError(f"model {model!r}: {words_of(error, model)}") from error


def words_of(error: Exception, model: str) -> str:
    """The first line of an error of timm's, and the nearest names where it does not know the model or its tag."""
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    if "Unknown model" in text:
        return text + hint_for_model(model)
    if "pretrained tag" in text:
        tags = timm.list_pretrained(f"{model.partition('.')[0]}.*")
        return text.removesuffix(".") + (near_names(model, tags) or f"; it has {', '.join(tags) or 'no weights'}")
    return text


def read_state_dict(path: Path) -> StateDict:
    """The state dict in a safetensors file, or in a torch file by itself or in a checkpoint (see state_dict_of).

    No code in the file is run: a torch file is read as tensors and plain values only, and what else lies beside them in
    usual checkpoints (an argparse.Namespace, numpy's scalars) is passed over unread.

    Raises:
        ValueError: No such file, damaged, or something else in it; a pickle that carries code is refused.
    """
    named = f"weights {str(path)!r}"
    if not path.is_file():
        raise ValueError(f"{named}: {'a folder, a pipe or a device, not a file' if path.exists() else 'no such file'}")
    if path.stat().st_size == 0:
        raise ValueError(f"{named}: the file is empty")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            value: Any = load_file(path)
        else:
            passed_over = torch.serialization.safe_globals([(_Unread, name) for name in _PASSED_OVER])
            with passed_over, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old forms
                value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words go on to tell how to run the code in it all the same.
        known = _first_line(str(error).partition("GLOBAL ")[2].split(maxsplit=1)[:1])
        held = f" (it names {known})" if known else ""
        raise ValueError(
            f"{named}: not readable as tensors and plain values{held}; a pickle that carries code is refused"
        ) from error
    except Exception as error:  # either library raises many kinds for a damaged file
        words = _first_line(str(error).splitlines())
        said = f": {words}" if " " in words else f" as weights ({type(error).__name__})"  # "101" tells nobody anything
        raise ValueError(f"{named}: not readable{said}") from error
    return state_dict_of(value, named)


def _first_line(lines: list[str]) -> str:
    """The first of them, if any; words of a damaged file may hold anything, also what a terminal obeys."""
    return "".join(character if character.isprintable() else "?" for character in lines[0]) if lines else ""


class _Unread:
    """Stands for an object beside the tensors; made of anything, it keeps nothing and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Unread":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_PASSED_OVER = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)

#: Where programs keep the state dict in a checkpoint, the first that is there. Averaged weights come first, as in timm.
_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net", "network", "weights")
#: What DataParallel, torch.compile and wrapping modules put in front of every name.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def state_dict_of(value: Any, named: str = "checkpoint") -> StateDict:
    """The state dict that `value` is or has under one of the usual keys, without prefixes of wrappers in its names.

    The keys are state_dict_ema, model_ema, state_dict, model_state_dict, model, net, network and weights, in this order
    and also inside one another; the prefixes module., _orig_mod., model. and net., where every name has them.

    Raises:
        ValueError: It has none, or its tensors are not plain ones; the words begin with `named`.
    """
    for _ in range(4):
        held = [value[key] for key in _KEYS if isinstance(value, dict) and isinstance(value.get(key), dict)]
        value = held[0] if held else value
    if not isinstance(value, dict) or not value or not all(isinstance(item, torch.Tensor) for item in value.values()):
        raise ValueError(f"{named}: no state dict in it (names and tensors, by themselves or under {', '.join(_KEYS)})")
    for key, tensor in value.items():
        if not isinstance(key, str) or not key.isprintable():  # names come into messages
            raise ValueError(f"{named}: the keys of a state dict must be names, got {show(key)}")
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ValueError(
                f"{named}: {key!r} must be a plain tensor, not one that is sparse, quantized or without data"
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{named}: {key!r} has more elements, {tuple(tensor.shape)}, than the file has data")
    names = {key: key.replace("._orig_mod.", ".") for key in value if key != "n_averaged"}  # of swa_utils.AveragedModel
    while prefix := next((one for one in _PREFIXES if all(name.startswith(one) for name in names.values())), None):
        names = {key: name.removeprefix(prefix) for key, name in names.items()}
        if not names:
            break
    state = {name: value[key] for key, name in names.items()}
    if len(state) < len(names):
        found = list(names.values())
        raise ValueError(f"{named}: two tensors are called {next(n for n in found if found.count(n) > 1)!r}")
    return state
