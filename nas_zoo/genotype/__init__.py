"""What a cell is, how people write one down, and the cells there are."""

from nas_zoo.genotype.genotype import (
    KINDS,
    MAX_NODES,
    OPERATIONS,
    Cell,
    Edge,
    Genotype,
    Kind,
    as_genotype,
    genotype_record,
    list_genotypes,
    list_records,
    load_genotype,
)

__all__ = [
    "KINDS",
    "MAX_NODES",
    "OPERATIONS",
    "Cell",
    "Edge",
    "Genotype",
    "Kind",
    "as_genotype",
    "genotype_record",
    "list_genotypes",
    "list_records",
    "load_genotype",
]
