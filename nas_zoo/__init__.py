"""nas-zoo: cell networks of differentiable architecture search, as timm models.

Importing this package registers the models with timm::

    import nas_zoo, timm
    model = timm.create_model("edas_c10")
"""

from typing import TYPE_CHECKING, Any

from nas_zoo import network as _network
from nas_zoo.genotype import Genotype, list_genotypes, load_genotype

if TYPE_CHECKING:
    from nas_zoo.inference import optimize_for_inference

__all__ = ["Genotype", "list_genotypes", "load_genotype", "optimize_for_inference"]
__version__ = "0.1.0"
_ = _network  # imported for what importing it does: registration


def __getattr__(name: str) -> Any:
    """What few need is imported when it is asked for."""
    if name == "optimize_for_inference":
        from nas_zoo.inference import optimize_for_inference

        return optimize_for_inference
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
