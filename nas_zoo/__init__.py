"""nas-zoo: cell networks of differentiable architecture search, as timm models.

Importing this package registers the models with timm::

    import nas_zoo, timm
    model = timm.create_model("edas_c10")
"""

from nas_zoo.genotype import Genotype, list_genotypes, load_genotype
from nas_zoo.models import network as _network

__all__ = ["Genotype", "list_genotypes", "load_genotype"]
__version__ = "0.1.0"
_ = _network  # imported for what importing it does: registration
