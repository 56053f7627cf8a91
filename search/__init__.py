"""Searches: one method a file, one loop for all (imported as nas_zoo.search).

    from nas_zoo.search import EdasSettings, search

    result = search(EdasSettings(data="digits", epochs=10, num_cells=5, init_channels=8, out=Path("runs/digits")))
    print(result.genotype, result.history[-1]["supernet"], result.gap, result.path)

What is named here is imported when it is asked for. The demo and the command line take:

    run          the program and its step
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_zoo.models.operations import load_operation
    from nas_zoo.search.api import SearchResult, search
    from nas_zoo.search.method import SearchSettings, find_method, load_method
    from nas_zoo.search.methods.da2s import Da2sReleasedSettings, Da2sSettings
    from nas_zoo.search.methods.darts import DartsSettings
    from nas_zoo.search.methods.drnas import DrNasSettings
    from nas_zoo.search.methods.edas import AlphaMaxSettings, EdasSettings
    from nas_zoo.search.methods.edas_settled import EdasSettledSettings
    from nas_zoo.search.methods.fairdarts import FairDartsSettings
    from nas_zoo.search.methods.gdas import GdasSettings
    from nas_zoo.search.methods.pc_darts import PcDartsSettings
    from nas_zoo.search.methods.random_cells import RandomSettings

__all__ = [
    "AlphaMaxSettings",
    "Da2sReleasedSettings",
    "Da2sSettings",
    "DartsSettings",
    "DrNasSettings",
    "EdasSettings",
    "EdasSettledSettings",
    "FairDartsSettings",
    "GdasSettings",
    "PcDartsSettings",
    "RandomSettings",
    "SearchResult",
    "SearchSettings",
    "find_method",
    "load_method",
    "load_operation",
    "search",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in ("SearchResult", "search"):
        return getattr(importlib.import_module("nas_zoo.search.api"), name)
    if name == "load_operation":
        return importlib.import_module("nas_zoo.models.operations").load_operation
    if name in __all__:
        from nas_zoo.search import method

        if hasattr(method, name):
            return getattr(method, name)
        for module, settings, _ in method.METHODS.values():
            if settings == name:
                return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'nas_zoo.search' has no attribute {name!r}")
