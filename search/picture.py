"""Cells of a search as a picture: of an epoch for trackers, of several epochs below one another for `nas-zoo genotype`.

Large drawings of one genotype are in ``export.cells``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas_zoo.genotype import KINDS, Cell, Genotype
from nas_zoo.models.palette import color_of
from nas_zoo.runs.files import replacing
from nas_zoo.search.report.figures import short
from nas_zoo.text import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["changed_cells", "draw_rows", "picture_of"]

#: What a drawing may be saved as.
SUFFIXES = (".svg", ".png", ".pdf")


def figure_of(rows: Sequence[tuple[str, Genotype]]) -> Figure:
    """A row of a normal and a reduction cell for each name and genotype, below one another.

    Nodes stand in a line, inputs first; an arc is an edge with its operation, in the same place in each row. From the
    second row on the edges that the row above lacks, or has with another operation, are thick, and those that are gone
    are counted.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, as all of it
    from matplotlib.figure import Figure

    last = max(len(cells.cell(kind).nodes) for _, cells in rows for kind in KINDS) + 1
    twice = any(len(edges) > len({edge[:2] for edge in edges}) for edges in (
        _edges(cells.cell(kind)) for _, cells in rows for kind in KINDS))  # fmt: skip
    odd, even = (last / 2, last / 2) if twice else ((last - 1) // 2 + 0.5, last // 2)  # the widest arc above and below
    figure = Figure(figsize=(1.9 * (last + 1), (0.5 * last + 0.3) * len(rows)), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(KINDS), squeeze=False)
    above: Genotype | None = None
    for (name, cells), places in zip(rows, grid, strict=True):
        for kind, axes in zip(KINDS, places, strict=True):
            cell = cells.cell(kind)
            before = _edges((above or cells).cell(kind))
            new = set(_edges(cell)) - set(before)
            gone = len({edge[:2] for edge in before} - {edge[:2] for edge in _edges(cell)})
            words = [name, {"normal": "normal cell", "reduce": "reduction cell"}[kind]]
            if above is not None:
                words.append(counted(len(new), "new edge") if new else "none new")
                words += [f"{gone} gone"] * (gone > 0)
            axes.set_title(", ".join(filter(None, words)), fontsize=9, loc="left", parse_math=False)
            axes.set(xlim=(-0.5, last + 0.5), ylim=(-even - 0.3, odd + 0.3))
            axes.axis("off")
            _paint(axes, cell, new)
        above = cells
    return figure


def _edges(cell: Cell) -> list[tuple[int, int, str]]:
    """(node, source, operation) of each."""
    return [(node, edge.source, edge.operation) for node, edges in enumerate(cell.nodes, 2) for edge in edges]


def _paint(axes: Axes, cell: Cell, thick: set[tuple[int, int, str]]) -> None:
    from matplotlib.patches import Arc

    drawn: set[tuple[int, int]] = set()
    for node, source, operation in _edges(cell):
        middle, radius, color = (node + source) / 2, (node - source) / 2, color_of(operation)
        # Odd steps above and even ones below, so labels of one height stand a node apart; a second edge opposite.
        above = (node - source) % 2 != ((node, source) in drawn)
        drawn.add((node, source))
        first, width = (0, 180) if above else (180, 360), 3.0 if (node, source, operation) in thick else 1.3
        axes.add_patch(Arc((middle, 0), 2 * radius, 2 * radius, theta1=first[0], theta2=first[1], color=color,
                           linewidth=width))  # fmt: skip
        axes.text(middle, radius if above else -radius, short(operation), color=color, ha="center", va="center",
                  fontsize=8, parse_math=False,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # fmt: skip
    for node in range(len(cell.nodes) + 2):
        text, used = f"c{node - 2}" if node < 2 else str(node), node < 2 or node in cell.concat
        axes.text(node, 0, text, ha="center", va="center", fontsize=8,
                  bbox={"boxstyle": "circle", "facecolor": "#DDE7F0" if used else "white"})  # fmt: skip


def draw_rows(rows: Sequence[tuple[str, Genotype]], path: Path) -> None:
    """Draws such rows to a file; the same bytes each time.

    Raises:
        ValueError: The file's name does not end in .svg, .png or .pdf, or its folder does not exist.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"the picture's name must end in .svg, .png or .pdf, got {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"{str(path)!r}: there is no such folder")
    import matplotlib

    # None of the user's settings, letters as letters, and nothing that another version or day would change.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "nas-zoo"})
        said: dict[str, Any] = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None},
                                ".pdf": {"CreationDate": None, "Creator": None, "Producer": None}}[suffix]  # fmt: skip
        with replacing(path) as file:
            figure_of(rows).savefig(file, format=suffix[1:], dpi=160, metadata=said)


def picture_of(genotype: Genotype) -> np.ndarray:
    """Both cells, (H, W, 3) uint8."""
    canvas: Any = figure_of([("", genotype)]).canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def changed_cells() -> Callable[[Mapping[str, Any]], np.ndarray | None]:
    """What draws the cells of an epoch's line of the log where they are others than in the line before."""
    last: list[Any] = [None]

    def draw(line: Mapping[str, Any]) -> np.ndarray | None:
        if line["found"] in (None, last[0]):
            return None
        last[0] = line["found"]
        return picture_of(Genotype.from_json(line["found"]))

    return draw
