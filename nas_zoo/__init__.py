"""nas-zoo: cell networks of differentiable architecture search, as timm models.

Importing this package registers the models with timm, before or after timm itself is imported::

    import nas_zoo, timm
    model = timm.create_model("edas_c10")

It is cheap by itself: torch and timm are imported when something is asked for that needs them.
"""

from typing import TYPE_CHECKING, Any

from wrapt import register_post_import_hook

if TYPE_CHECKING:
    from nas_zoo.genotype import Genotype, list_genotypes, load_genotype

__all__ = ["Genotype", "list_genotypes", "load_genotype"]  # timm adds the models when it is imported
__version__ = "0.2.0"

register_post_import_hook("nas_zoo.models.registry:register", "timm")


def __getattr__(name: str) -> Any:
    """What has been asked for first: genotypes, or the function that makes a model (``nas_zoo.edas_c10()``)."""
    if name in ("Genotype", "list_genotypes", "load_genotype"):
        import nas_zoo.genotype as genotype  # `from nas_zoo import genotype` would ask here again

        return getattr(genotype, name)
    from nas_zoo.models.registry import ENTRYPOINTS

    if name in ENTRYPOINTS:
        return ENTRYPOINTS[name]
    raise AttributeError(f"module 'nas_zoo' has no attribute {name!r}")
