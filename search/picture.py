"""The cells of an epoch as a picture of pixels, for trackers; drawings of cells are in ``export.cells``."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nas_zoo.genotype import KINDS, Genotype
from nas_zoo.models.palette import color_of

__all__ = ["changed_cells", "picture_of"]


def picture_of(genotype: Genotype) -> np.ndarray:
    """Both cells, one above the other, (H, W, 3) uint8: nodes in a row, an arc for each edge with its operation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(len(KINDS)), KINDS, strict=True):
        cell = genotype.cell(kind)
        last = len(cell.nodes) + 1
        axes.set(title=f"{kind} cell", xlim=(-0.5, last + 0.5), ylim=(-last / 2 - 0.2, last / 2 + 0.2))
        axes.axis("off")
        arcs = [(number, edge) for number, edges in enumerate(cell.nodes, start=2) for edge in edges]
        for place, (number, edge) in enumerate(arcs):
            side, color = 1 if place % 2 else -1, color_of(edge.operation)
            x = np.linspace(0, np.pi, 40)
            middle, radius = (number + edge.source) / 2, (number - edge.source) / 2
            axes.plot(middle - radius * np.cos(x), side * radius * np.sin(x), color=color)
            axes.text(middle, side * radius, edge.operation, color=color, ha="center", va="center", fontsize=7,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # fmt: skip
        for number in range(last + 1):
            text = f"c{number - 2}" if number < 2 else str(number)
            used = number < 2 or number in cell.concat
            axes.text(number, 0, text, ha="center", va="center",
                      bbox={"boxstyle": "circle", "facecolor": "#DDE7F0" if used else "white"})  # fmt: skip
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
