"""Training and evaluation of one network: `python -m nas_zoo.train`, or from a Python program.

    from nas_zoo.train import EvaluateSettings, TrainSettings, evaluate, train

    result = train(TrainSettings.from_recipe("quick", model="edas_c10", data="cifar10", out=Path("runs/edas_c10")))
    print(result.top1, evaluate(result.path, EvaluateSettings(data="cifar10")))

What is named here is imported when it is asked for. The rooms around take:

    run          the program and its step
    recipes      settings with a source
    model        the network that settings name
    evaluation   what a network gets right
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_zoo.train.api import TrainResult, train
    from nas_zoo.train.evaluation import EvaluateSettings
    from nas_zoo.train.evaluation import evaluate_on as evaluate
    from nas_zoo.train.recipes import RECIPES, TrainSettings

__all__ = ["RECIPES", "EvaluateSettings", "TrainResult", "TrainSettings", "evaluate", "train"]

_PLACES = {
    "EvaluateSettings": ("evaluation", "EvaluateSettings"),
    "RECIPES": ("recipes", "RECIPES"),
    "TrainResult": ("api", "TrainResult"),
    "TrainSettings": ("recipes", "TrainSettings"),
    "evaluate": ("evaluation", "evaluate_on"),
    "train": ("api", "train"),
}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _PLACES:
        module, inside = _PLACES[name]
        return getattr(importlib.import_module(f"nas_zoo.train.{module}"), inside)
    raise AttributeError(f"module 'nas_zoo.train' has no attribute {name!r}")
