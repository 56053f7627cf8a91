"""What a cell is, how people write one down, and the cells there are."""

from nas_zoo.genotype.catalog import (
    count_cells,
    describe_cells,
    genotype_record,
    list_found,
    list_genotypes,
    list_records,
)
from nas_zoo.genotype.cell import KINDS, MAX_NODES, OPERATIONS, Cell, Edge, Kind
from nas_zoo.genotype.genotype import Genotype
from nas_zoo.genotype.reading import as_genotype, load_genotype, name_of_cells, provenance_of

__all__ = [
    "KINDS",
    "MAX_NODES",
    "OPERATIONS",
    "Cell",
    "Edge",
    "Genotype",
    "Kind",
    "as_genotype",
    "count_cells",
    "describe_cells",
    "genotype_record",
    "list_found",
    "list_genotypes",
    "list_records",
    "load_genotype",
    "name_of_cells",
    "provenance_of",
]
