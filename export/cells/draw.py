"""Draws a genotype: both cells as graphs from left to right, as SVG (written here) or PNG (with matplotlib).

    draw_genotype(load_genotype("darts_v2"), "darts_v2.svg", title="DARTS (second order)")

The layout is that of Sugiyama, Tagawa and Toda (1981) in small: nodes stand in columns by the longest path that leads
to them, and each edge passes through every column between. Where an edge arrives, its label has a place of its own in
a column of labels, so labels can lie neither on each other nor on a node; the order within the columns is the one with
the fewest crossings that a few sweeps find, and the positions are the least squares that keep it.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from nas_zoo.genotype import KINDS, Cell
from nas_zoo.models.catalog import cells_named
from nas_zoo.models.palette import color_of
from nas_zoo.runs.files import replacing
from nas_zoo.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_genotype"]

_INK, _FAINT, _PAPER = "#222222", "#AAAAAA", "#FFFFFF"
_UNUSED_TEXT = "#777777"
_CONCAT = "#8C8C8C"
_TITLES = {"normal": "Normal cell", "reduce": "Reduction cell"}
_DASHES = (3, 2)

# Sizes in inches; the figure is as large as the graph needs.
_NODE_WIDTH, _NODE_HEIGHT = 0.36, 0.36
_INPUT_WIDTH, _OUTPUT_WIDTH = 0.95, 0.95
_LABEL_WIDTH, _LABEL_HEIGHT = 1.16, 0.2
_GAP = 0.46  # between the columns, for the lines to bend in
_ROW = 0.11  # least free height between two things of a column
_FONT_POINTS = 8.5
_MARGIN, _TITLE_HEIGHT, _HEADING_HEIGHT = 0.16, 0.34, 0.3
_SWEEPS = 60


@dataclass(eq=False)
class _Item:
    """Something with a place: a node, the label of an edge, or a point that a long edge passes through."""

    column: int
    height: float
    width: float
    text: str = ""
    kind: str = "point"  # "node", "input", "output", "label", "point"
    color: str = _INK
    used: bool = True  # reaches the output
    before: list[_Item] = field(default_factory=list)
    after: list[_Item] = field(default_factory=list)
    x: float = 0.0
    y: float = 0.0


@dataclass(eq=False)
class _Line:
    """An edge: the items it passes from its source to its target."""

    items: list[_Item]
    color: str
    used: bool


def draw_genotype(genotype: Any, path: str | os.PathLike[str], title: str | None = None) -> Path:
    """Draws both cells to `path`, .svg or .png (200 dots an inch), and returns it; the same bytes each time.

    Args:
        genotype: A Genotype, or anything ``as_genotype`` takes.
        path: Where to; an existing file is replaced.
        title: Written above the cells.

    Nodes bear their numbers, inputs c_{k-2} (the cell before the last) and c_{k-1} (the last cell), the output c_k.
    Faint and dashed is what does not reach the output.

    Raises:
        ValueError: For another suffix, a folder that does not exist, or what is no genotype.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in (".svg", ".png"):
        raise ValueError(f"the picture's name must end in .svg or .png, got {str(target)!r}")
    if not target.parent.is_dir():
        raise ValueError(f"path {str(target)!r}: there is no such folder")
    cells, title = cells_named(genotype), title and plain(title)
    graphs = [(_TITLES[kind], *_lay_out(cells.cell(kind))) for kind in KINDS]
    with replacing(target) as file:
        if suffix == ".svg":
            file.write(_svg(graphs, title).encode("utf-8"))
        else:
            _write_png(file, graphs, title)
    return target


# Layout ---------------------------------------------------------------------------------------------------------------


def _lay_out(cell: Cell) -> tuple[list[_Item], list[_Line]]:
    """All items of a cell with their places in inches (from the top left corner), and the lines between them."""
    items, lines = _build(cell)
    columns = _columns(items)
    _order(columns)
    _place(columns)
    left = 0.0
    for column in columns:
        width = max(item.width for item in column)
        for item in column:
            item.x = left + width / 2
            if item.kind == "point":  # a line bends in the gaps only, else it would run below labels
                item.width = width
        left += width + _GAP
    return items, lines


def _build(cell: Cell) -> tuple[list[_Item], list[_Line]]:
    """Items and lines of a cell, without places.

    Columns 0, 2, 4 ... hold nodes, 1, 3, 5 ... the labels of the edges that arrive in the next one.
    """
    live, reads = set(cell.live_nodes), cell.inputs_read
    levels = {0: 0, 1: 0}
    for number, edges in enumerate(cell.nodes, start=2):
        levels[number] = 1 + max((levels[edge.source] for edge in edges), default=0)
    end = 1 + max(levels.values())
    names = {0: "$c_{k-2}$", 1: "$c_{k-1}$"}
    nodes: dict[int, _Item] = {}
    for number, level in levels.items():
        is_input = number < 2
        nodes[number] = _Item(
            column=2 * level,
            height=_NODE_HEIGHT,
            width=_INPUT_WIDTH if is_input else _NODE_WIDTH,
            text=names.get(number, str(number)),
            kind="input" if is_input else "node",
            used=number in reads if is_input else number in live,
        )
    # No labels on the lines that arrive there, so no column for them.
    output = _Item(2 * end - 1, _NODE_HEIGHT, _OUTPUT_WIDTH, "$c_k$", "output")
    items, lines = [*nodes.values(), output], []
    for number, edges in enumerate(cell.nodes, start=2):
        for edge in edges:
            color = color_of(edge.operation)
            used = number in live
            target = nodes[number]
            label = _Item(target.column - 1, _LABEL_HEIGHT, _LABEL_WIDTH, edge.operation, "label", color, used)
            lines.append(_Line(_connect(nodes[edge.source], label, target, items, color), color, used))
    for number in dict.fromkeys(cell.concat):
        lines.append(_Line(_connect(nodes[number], None, output, items, _CONCAT), _CONCAT, True))
    return items, lines


def _connect(source: _Item, label: _Item | None, target: _Item, items: list[_Item], color: str) -> list[_Item]:
    """Source, a point in each column between, the label, target; what is new is added to `items`."""
    labels = [] if label is None else [label]
    between = range(source.column + 1, target.column - len(labels))
    new = [*(_Item(column, 0.0, 0.0, color=color) for column in between), *labels]
    items += new
    way = [source, *new, target]
    for one, next_one in itertools.pairwise(way):
        one.after.append(next_one)
        next_one.before.append(one)
    return way


def _columns(items: Sequence[_Item]) -> list[list[_Item]]:
    columns: list[list[_Item]] = [[] for _ in range(1 + max(item.column for item in items))]
    for item in items:
        columns[item.column].append(item)
    return columns


def _order(columns: list[list[_Item]]) -> None:
    """Orders each column so that few lines cross: barycentres, forth and back; the best order seen stays."""
    best, fewest = [list(column) for column in columns], _crossings(columns)
    for sweep in range(_SWEEPS):
        forth = sweep % 2 == 0
        for column in columns if forth else reversed(columns):
            _rank(columns)
            means = {
                id(item): float(np.mean([other.y for other in near])) if near else item.y
                for item in column
                for near in [item.before if forth else item.after]
            }
            # ties: every other pair of sweeps turned around, to get out of a dead end
            turn = -1 if sweep % 4 >= 2 else 1
            column.sort(key=lambda item, means=means, turn=turn: (round(means[id(item)], 9), turn * item.y))  # type: ignore[misc]
        found = _crossings(columns)
        if found < fewest:
            best, fewest = [list(column) for column in columns], found
        if not fewest:
            break
    columns[:] = best


def _rank(columns: list[list[_Item]]) -> None:
    for column in columns:
        for i, item in enumerate(column):
            item.y = (i + 0.5) / len(column)


def _crossings(columns: list[list[_Item]]) -> int:
    """Pairs of lines that cross between neighbouring columns."""
    total = 0
    for left, right in itertools.pairwise(columns):
        place = {id(item): i for i, item in enumerate(right)}
        ends = [place[id(other)] for item in left for other in sorted(item.after, key=lambda o: place[id(o)])]
        total += sum(1 for i, j in itertools.combinations(range(len(ends)), 2) if ends[i] > ends[j])
    return total


def _place(columns: list[list[_Item]]) -> None:
    """Vertical places: each item near the mean of its neighbours, in order, nothing nearer than _ROW to the next."""
    for column in columns:
        y = 0.0
        for item in column:
            item.y = y + item.height / 2
            y += item.height + _ROW
        for item in column:
            item.y -= (y - _ROW) / 2
    for sweep in range(_SWEEPS):
        for column in columns if sweep % 2 else reversed(columns):
            wanted, weights = [], []
            for item in column:
                near = [*item.before, *item.after]
                wanted.append(float(np.mean([other.y for other in near])) if near else item.y)
                # a bend in a passing line disturbs most
                weights.append(4.0 if item.kind in ("point", "label") else 1.0)
            steps = [0.0] + [(a.height + b.height) / 2 + _ROW for a, b in itertools.pairwise(column)]
            offsets = np.cumsum(steps)
            for item, y in zip(
                column, _increasing(np.array(wanted) - offsets, np.array(weights)) + offsets, strict=True
            ):
                item.y = float(y)
    items = list(itertools.chain.from_iterable(columns))
    _gather(columns, items)
    top = min(item.y - item.height / 2 for item in items)
    for item in items:
        item.y -= top


def _gather(columns: list[list[_Item]], items: list[_Item]) -> None:
    """Moves what no line joins with the output to the height of the rest, as near as the order of the columns allows.

    Nothing has pulled the two together, so that an input which no edge reads may have drifted far away.
    """
    rest = _joined(next(item for item in items if item.kind == "output"))
    middle = np.mean([item.y for item in rest.values()])
    seen = set(rest)
    for item in items:
        if id(item) in seen:
            continue
        island = _joined(item)
        seen |= set(island)
        least, most = -np.inf, np.inf
        for column in columns:
            for a, b in itertools.pairwise(column):
                free = b.y - a.y - (a.height + b.height) / 2 - _ROW
                if id(a) in island and id(b) not in island:
                    most = min(most, free)
                elif id(b) in island and id(a) not in island:
                    least = max(least, -free)
        shift = float(np.clip(middle - np.mean([one.y for one in island.values()]), least, most))
        for one in island.values():
            one.y += shift


def _joined(item: _Item) -> dict[int, _Item]:
    """All items that lines join with this one, itself among them, by their id."""
    found, todo = {id(item): item}, [item]
    while todo:
        one = todo.pop()
        for near in (*one.before, *one.after):
            if id(near) not in found:
                found[id(near)] = near
                todo.append(near)
    return found


def _increasing(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The non-decreasing sequence nearest to `values` in weighted least squares (pool adjacent violators)."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        block = (float(value), float(weight), 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, heavy, length = blocks.pop()
            total = heavy + block[1]
            block = ((mean * heavy + block[0] * block[1]) / total, total, length + block[2])
        blocks.append(block)
    return np.concatenate([np.full(length, mean) for mean, _, length in blocks])


# Painting -------------------------------------------------------------------------------------------------------------

_Graph = tuple[str, list[_Item], list[_Line]]  # its heading, what it shows
_Point = tuple[float, float]


def _sizes(graphs: Sequence[_Graph], title: str | None) -> tuple[float, float, list[float]]:
    """(width, height, top of each graph) in inches."""
    width = max(max(item.x + item.width / 2 for item in items) for _, items, _ in graphs) + 2 * _MARGIN
    heights = [max(item.y + item.height / 2 for item in items) for _, items, _ in graphs]
    top = _MARGIN + (_TITLE_HEIGHT if title else 0.0)
    height = top + sum(heights) + len(heights) * (_HEADING_HEIGHT + 2 * _MARGIN)
    steps = (cell_height + _HEADING_HEIGHT + 2 * _MARGIN for cell_height in heights[:-1])
    return width, height, list(itertools.accumulate(steps, initial=top))


def _bends(line: _Line, left: float, top: float) -> list[tuple[_Point, _Point, _Point, _Point]]:
    """The Bezier curves of a line (start, two controls, end), joined by straight pieces below its labels."""
    bends = []
    for one, other in itertools.pairwise(line.items):
        start, end = left + one.x + one.width / 2, left + other.x - other.width / 2
        half, y0, y1 = (end - start) / 2, top + one.y, top + other.y
        bends.append(((start, y0), (start + half, y0), (end - half, y1), (end, y1)))
    return bends


def _head(tip: _Point) -> list[_Point]:
    """The corners of an arrow's head."""
    x, y = tip
    return [(x, y), (x - 0.075, y - 0.036), (x - 0.075, y + 0.036)]


def _color(thing: _Item | _Line) -> str:
    if not thing.used:
        return _FAINT
    return thing.color if isinstance(thing, _Line) or thing.kind == "label" else _INK


def _fill(item: _Item) -> tuple[float, ...]:
    """Paper, or of a label its colour, four fifths of the way to white: dark text on it is readable."""
    color = _color(item) if item.kind == "label" else _PAPER
    white = 0.8 if item.kind == "label" else 0.0
    return tuple(1 - (1 - int(color[i : i + 2], 16) / 255) * (1 - white) for i in (1, 3, 5))


def _named(text: str) -> str:
    """The name of an item for an SVG; $c_{k-1}$ is a letter in italics and what stands below it."""
    parts = re.fullmatch(r"\$c_\{?([^}]*?)\}?\$", text)
    if parts is None:
        return escape(text)
    below = parts[1].replace("-", "−")
    return f'<tspan font-style="italic">c<tspan font-size="70%" dy="0.25em">{below}</tspan></tspan>'


def _svg(graphs: Sequence[_Graph], title: str | None) -> str:
    """An SVG document in points, its text as text, which can be searched and read aloud."""
    width, height, tops = _sizes(graphs, title)

    def at(*inches: float) -> str:
        return " ".join(f"{round(72 * inch, 2):g}" for inch in inches)

    def text(x: float, y: float, words: str, points: float, more: str = "") -> str:
        # A third of an em below the middle, since not all programs know dominant-baseline.
        return f'<text x="{at(x)}" y="{at(y + points / 72 * 0.35)}" font-size="{points:g}"{more}>{words}</text>'

    def style(thing: _Item | _Line, width: float) -> str:
        dashes = "" if thing.used else f' stroke-dasharray="{_DASHES[0] * width:g} {_DASHES[1] * width:g}"'
        return f'stroke="{_color(thing)}" stroke-width="{width:g}"{dashes}'

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{at(width)}pt" height="{at(height)}pt" '
        f'viewBox="0 0 {at(width, height)}" font-family="DejaVu Sans, Verdana, Arial, sans-serif" fill="{_INK}">',
        f"<title>{escape(title or 'Cells of a network')}</title>",
        f'<rect width="100%" height="100%" fill="{_PAPER}"/>',
    ]
    if title:
        middle = (width / 2, _MARGIN + _TITLE_HEIGHT / 2)
        out.append(text(*middle, escape(title), _FONT_POINTS + 4, ' text-anchor="middle"'))
    for (heading, items, lines), top in zip(graphs, tops, strict=True):
        out.append(text(_MARGIN, top + _HEADING_HEIGHT / 2, heading, _FONT_POINTS + 1.5, ' font-weight="bold"'))
        left, top = _MARGIN, top + _HEADING_HEIGHT + _MARGIN / 2
        for line in lines:
            bends = _bends(line, left, top)
            way = f"M{at(*bends[0][0])}" + "".join(f"L{at(*a)}C{at(*b, *c, *d)}" for a, b, c, d in bends)
            out.append(f'<path d="{way}" fill="none" {style(line, 1.0 if line.color == _CONCAT else 1.4)}/>')
            out.append(f'<polygon points="{at(*itertools.chain(*_head(bends[-1][3])))}" fill="{_color(line)}"/>')
        for item in items:
            if item.kind == "point":
                continue
            x, y = left + item.x, top + item.y
            look = f'fill="#{"".join(f"{round(255 * part):02x}" for part in _fill(item))}" {style(item, 1.0)}'
            if item.kind == "node":
                out.append(f'<circle cx="{at(x)}" cy="{at(y)}" r="{at(item.height / 2)}" {look}/>')
            else:
                out.append(
                    f'<rect x="{at(x - item.width / 2)}" y="{at(y - item.height / 2)}" width="{at(item.width)}" '
                    f'height="{at(item.height)}" rx="{at(item.height / 2 if item.kind == "label" else 0.06)}" {look}/>'
                )
            points = _FONT_POINTS - 0.5 if item.kind == "label" else _FONT_POINTS + 1.5
            more = ' text-anchor="middle"' + ("" if item.used else f' fill="{_UNUSED_TEXT}"')
            out.append(text(x, y, _named(item.text), points, more))
    return "\n".join([*out, "</svg>", ""])


def _write_png(file: BinaryIO, graphs: Sequence[_Graph], title: str | None) -> None:
    # Here, because matplotlib takes half a second; without pyplot, which keeps figures and looks for a screen.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height, tops = _sizes(graphs, title)
    # With none of the user's settings (and so with the font that comes with matplotlib): the same picture everywhere.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(width, height), facecolor=_PAPER)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        axes.set_xlim(0.0, width)
        axes.set_ylim(height, 0.0)  # inches from the top left corner
        if title:
            axes.text(
                width / 2, _MARGIN + _TITLE_HEIGHT / 2, title, ha="center", va="center", fontsize=_FONT_POINTS + 4,
                color=_INK, parse_math=False,
            )  # fmt: skip
        for (heading, items, lines), top in zip(graphs, tops, strict=True):
            axes.text(
                _MARGIN, top + _HEADING_HEIGHT / 2, heading, ha="left", va="center",
                fontsize=_FONT_POINTS + 1.5, fontweight="bold", color=_INK,
            )  # fmt: skip
            _paint(axes, items, lines, _MARGIN, top + _HEADING_HEIGHT + _MARGIN / 2)
        # no version in the file, so that the same genotype gives the same bytes
        figure.savefig(file, format="png", dpi=200, facecolor=_PAPER, metadata={"Software": None})


def _paint(axes: Axes, items: Sequence[_Item], lines: Sequence[_Line], left: float, top: float) -> None:
    from matplotlib.patches import Circle, FancyBboxPatch, PathPatch
    from matplotlib.path import Path as Curve

    def dashes(thing: _Item | _Line) -> Any:
        return "-" if thing.used else (0, _DASHES)

    for line in lines:
        bends = _bends(line, left, top)
        codes = [Curve.MOVETO, *[Curve.CURVE4] * 3] + [Curve.LINETO, *[Curve.CURVE4] * 3] * (len(bends) - 1)
        width = 1.0 if line.color == _CONCAT else 1.4
        axes.add_patch(
            PathPatch(
                Curve(list(itertools.chain(*bends)), codes), facecolor="none", capstyle="butt", zorder=1,
                edgecolor=_color(line), linewidth=width, linestyle=dashes(line),
            )
        )  # fmt: skip
        head = _head(bends[-1][3])
        axes.add_patch(
            PathPatch(Curve([*head, head[0]], closed=True), facecolor=_color(line), edgecolor="none", zorder=2)
        )
    for item in items:
        if item.kind == "point":
            continue
        x, y = left + item.x, top + item.y
        label = item.kind == "label"
        look: dict[str, Any] = {
            "facecolor": _fill(item),
            "edgecolor": _color(item),
            "linewidth": 1.0,
            "linestyle": dashes(item),
            "zorder": 3,
        }
        if item.kind == "node":
            axes.add_patch(Circle((x, y), item.height / 2, **look))
        else:
            corner = (x - item.width / 2, y - item.height / 2)
            shape = f"round,pad=0,rounding_size={item.height / 2 if label else 0.06}"
            axes.add_patch(FancyBboxPatch(corner, item.width, item.height, boxstyle=shape, **look))
        axes.text(
            x, y, item.text, ha="center", va="center_baseline" if label else "center", zorder=4, parse_math=not label,
            fontsize=_FONT_POINTS - 0.5 if label else _FONT_POINTS + 1.5, color=_INK if item.used else _UNUSED_TEXT,
        )  # fmt: skip
