"""The figures of the report page as SVG text: lines, columns, pairs of dots, and a cell as rails.

Each function gives one ``<svg>`` that stands in an HTML page. Colours come from the page's style sheet by class, so
that one figure serves light, dark and printed pages; sizes are those of its viewBox, about one CSS pixel a unit on a
phone. Every figure has a role, a title and a description in words.
"""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from nas_zoo.genotype import Cell
from nas_zoo.text import counted

__all__ = [
    "Dot",
    "Line",
    "Pair",
    "Spread",
    "accuracy_axis",
    "cell_rails",
    "columns",
    "dots",
    "lines",
    "method_style",
    "nice_range",
    "pairs",
    "short",
    "spreads",
    "tile",
]

Values = Sequence[float | None]

#: Width of the larger figures; a phone's column is about as wide.
WIDTH = 360
_FONT = 11  # as in the style sheet
_CHARACTER = 6.2  # mean width of one at that size, on the safe side


class Line(NamedTuple):
    """A series of a line figure: what stands at its end, its class in the style sheet, a value an epoch."""

    name: str
    style: str
    values: Values


class Pair(NamedTuple):
    """A row of ``pairs``: label, accuracy before and after, its class in the style sheet."""

    name: str
    before: float | None
    after: float | None
    style: str


class Spread(NamedTuple):
    """A row of ``spreads``: label, class in the style sheet, a value a seed, and what a mark beside them stands for."""

    name: str
    style: str
    values: Sequence[float]
    mark: float | None = None


class Dot(NamedTuple):
    """A point of ``dots``: label, class in the style sheet, its place, and how far y may be off on either side."""

    name: str
    style: str
    x: float
    y: float
    off: float = 0.0


def style_of(operation: str) -> str:
    """The class that gives an operation its colour."""
    return "op-" + re.sub(r"\W", "-", operation)


def method_style(method: str) -> str:
    """The class that gives a method its colour."""
    return "m-" + re.sub(r"\W", "-", method)


def short(operation: str) -> str:
    """An operation's name for narrow places: "sep 3×3", "max pool", "skip"."""
    operation = operation.rpartition(":")[2]  # of one from outside without its file or package
    words = operation.replace("_conv_", " ").replace("_pool_3x3", " pool").replace("_connect", "").replace("_", " ")
    return re.sub(r"(\d)x(\d)", r"\1×\2", words)


def signed(value: float) -> str:
    """A difference with one decimal: "+1.0", "−0.4", "0.0"."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def number(value: float) -> str:
    """A coordinate: one decimal at most, as few characters as say it."""
    text = f"{value:.1f}".removesuffix(".0")
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else ("0" if text == "-0" else text)


def path(points: Sequence[tuple[float, float] | None]) -> str:
    """Path data of a line through points; it is interrupted at None, and a point alone becomes a dot.

    The steps between rounded points, so that rounding does not add up along the line.
    """
    data, x, y = [], 0.0, 0.0
    for index, point in enumerate(points):
        if point is None:
            continue
        new_x, new_y = round(point[0], 1), round(point[1], 1)
        if index == 0 or points[index - 1] is None:
            data.append(f"M{number(new_x)} {number(new_y)}")
            if index + 1 == len(points) or points[index + 1] is None:
                data.append("h.1")
                new_x += 0.1
        else:
            data.append(f"l{number(new_x - x)} {number(new_y - y)}")
        x, y = new_x, new_y
    return "".join(data)


def nice_range(low: float, high: float) -> tuple[float, float]:
    """A range that holds [low, high], its ends at round numbers: those of an axis."""
    span = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(span))
    step *= next(factor for factor in (0.2, 0.5, 1, 2) if span / (step * factor) <= 5 or factor == 2)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def accuracy_axis(series: Iterable[Values]) -> tuple[tuple[float, float], list[float]]:
    """Range and ticks of an axis of accuracies from 0 on that holds them all."""
    highest = max((v for values in series for v in values if v is not None), default=1.0)
    top = next(t for t in (0.2, 0.4, 0.6, 0.8, 1.0) if highest <= t or t == 1.0)
    return (0.0, top), [top * k / 4 for k in range(5)]


def epoch_ticks(last: int) -> list[int]:
    """Epochs to write below an axis: the first, round ones, the last; about six."""
    if last <= 1:
        return [1]
    step = next(s for k in itertools.count() for s in (10**k, 2 * 10**k, 5 * 10**k) if last / s <= 6)
    inner = [t for t in range(step, last, step) if t > 1 and last - t >= 0.6 * step and t - 1 >= 0.6 * step]
    return [1, *inner, last]


def _svg(width: float, height: float, title: str, description: str, body: Sequence[str], style: str = "") -> str:
    words = f"<title>{escape(title)}</title>" + (f"<desc>{escape(description)}</desc>" if description else "")
    name = escape(f"{title}. {description}" if description else title, quote=True)
    return (
        f'<svg class="{("figure " + style).strip()}" viewBox="0 0 {number(width)} {number(height)}" '
        f'role="img" aria-label="{name}">{words}{"".join(body)}</svg>'
    )


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "") -> str:
    more = (f' class="{style}"' if style else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{number(x)}" y="{number(y)}"{more}>{escape(text)}</text>'


def _last(values: Values) -> int | None:
    return next((i for i in range(len(values) - 1, -1, -1) if values[i] is not None), None)


def _apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places nearest to the wanted ones, in the same order, at least `gap` apart, within [low, high] if there is room.

    Nearest in least squares: without the gaps it is a non-decreasing sequence, found by pooling neighbours.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[float, int]] = []  # mean, length
    for rank, i in enumerate(order):
        mean, length = wanted[i] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean, length = (mean * length + other * count) / (length + count), length + count
        blocks.append((mean, length))
    room = max(low, high - gap * (len(wanted) - 1))
    flat = [min(max(mean, low), room) for mean, length in blocks for _ in range(length)]
    result = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        result[i] = flat[rank] + rank * gap
    return result


def lines(
    title: str,
    series: Sequence[Line],
    *,
    y_range: tuple[float, float],
    y_ticks: Sequence[float],
    y_format: str = "{:g}",
    end_format: str = "{:.1f}",
    scale: float = 1.0,
    references: Mapping[str, float] | None = None,
    epochs: int | None = None,
    height: float = 220,
) -> str:
    """Series over epochs, each with its name and last value at its end.

    Args:
        y_range: Ends of the axis, in the series' unit.
        y_ticks: Where lines run across, with the number beside them.
        y_format: Of these numbers; both formats take the value times `scale`.
        references: Dashed lines across: {words: value}.
        epochs: Length of the axis, where the run shall become longer than the series.
    """
    last = max([epochs or 0, 1, *(len(s.values) for s in series)])
    ends = [(s, i) for s in series if (i := _last(s.values)) is not None]
    labels = [f"{s.name} {end_format.format(scale * (s.values[i] or 0.0))}" for s, i in ends]
    left, right, top, bottom = 32.0, 12 + _CHARACTER * max([4, *map(len, labels)]), 10.0, 30.0
    low, high = y_range
    inner = WIDTH - left - right

    def x(epoch: float) -> float:
        return left + inner * ((epoch - 1) / (last - 1) if last > 1 else 0.5)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - (value - low) / (high - low))

    body = []
    for tick in y_ticks:
        body.append(f'<path class="across" d="M{number(left)} {number(y(tick))}h{number(inner)}"/>')
        body.append(_text(left - 5, y(tick) + 3.5, y_format.format(scale * tick), "tick", "end"))
    for tick in epoch_ticks(last):
        body.append(_text(x(tick), height - bottom + 15, str(tick), "tick", "middle"))
    body.append(_text(left + inner / 2, height - 3, "epoch", "tick", "middle"))
    for s in series:
        points = [None if v is None else (x(i + 1), y(min(max(v, low), high))) for i, v in enumerate(s.values)]
        body.append(f'<path class="line {s.style}" d="{path(points)}"/>')
    for words, value in (references or {}).items():
        body.append(f'<path class="reference" d="M{number(left)} {number(y(value))}h{number(inner)}"/>')
        below = value < (low + high) / 2  # away from the middle, where lines are
        body.append(_text(left + inner - 3, y(value) + (11 if below else -4), words, "tick over", "end"))
    wanted = [y(min(max(s.values[i] or 0.0, low), high)) for s, i in ends]
    for (s, i), label, at, place in zip(
        ends, labels, wanted, _apart(wanted, _FONT + 2.5, top, height - bottom), strict=True
    ):
        end = x(i + 1)
        body.append(f'<circle class="dot {s.style}" cx="{number(end)}" cy="{number(at)}" r="2.6"/>')
        body.append(_text(left + inner + 8, place + 3.8, label, f"end {s.style}"))
    told = "; ".join(
        f"{s.name} from {end_format.format(scale * first)} to {end_format.format(scale * (s.values[i] or 0.0))}"
        for s, i in ends
        for first in [next(v for v in s.values if v is not None)]
    )
    return _svg(WIDTH, height, title, f"{counted(last, 'epoch')}: {told}" if told else "no epoch yet", body)


def tile(
    title: str,
    series: Sequence[Line],
    *,
    y_range: tuple[float, float],
    reference: float | None = None,
    epochs: int | None = None,
) -> str:
    """A small multiple: series over epochs between two numbers, without names."""
    width, height, left, top = 120.0, 72.0, 22.0, 5.0
    last = max([epochs or 0, 1, *(len(s.values) for s in series)])
    low, high = y_range
    inner, tall = width - left - 3, height - 2 * top

    def y(value: float) -> float:
        return top + tall * (1 - (value - low) / (high - low))

    body = [
        f'<path class="across" d="M{number(left)} {number(y(value))}h{number(inner)}"/>'
        + _text(left - 3, y(value) + 3.5, f"{value:.2g}".replace("0.", "."), "tick", "end")
        for value in (low, high)
    ]
    if reference is not None and low <= reference <= high:
        body.append(f'<path class="reference" d="M{number(left)} {number(y(reference))}h{number(inner)}"/>')
    for s in series:
        points = [
            None if v is None else (left + inner * (i / (last - 1) if last > 1 else 0.5), y(v))
            for i, v in enumerate(s.values)
        ]
        body.append(f'<path class="line {s.style}" d="{path(points)}"/>')
    ends = sorted(((s.values[i] or 0.0, s.name) for s in series if (i := _last(s.values)) is not None), reverse=True)
    return _svg(width, height, title, "at last " + ", ".join(f"{name} {value:.2f}" for value, name in ends), body)


def columns(title: str, counts: Sequence[Mapping[str, int] | None], order: Sequence[str], epochs: int) -> str:
    """How often each operation was chosen, epoch by epoch, one on the other; equal neighbours are one block."""
    height, left, top, bottom = 150.0, 24.0, 6.0, 30.0
    high = max([1, *(sum(c.values()) for c in counts if c)])
    step = (WIDTH - left - 4) / max(epochs, len(counts), 1)
    unit = (height - top - bottom) / high
    body = []
    for value in sorted({0, high // 2, high}):
        y = height - bottom - unit * value
        body.append(f'<path class="across" d="M{number(left)} {number(y)}H{WIDTH - 4}"/>')
        body.append(_text(left - 5, y + 3.5, str(value), "tick", "end"))
    start = 0
    for histogram, group in itertools.groupby(counts, key=lambda c: sorted(c.items()) if c else None):
        length = len(list(group))
        at = height - bottom
        for operation in sorted(dict(histogram or []), key=order.index):
            count = dict(histogram or [])[operation]
            at -= unit * count
            span = f"epoch {start + 1}" if length == 1 else f"epochs {start + 1} to {start + length}"
            body.append(
                f'<rect class="block {style_of(operation)}" x="{number(left + step * start)}" y="{number(at)}" '
                f'width="{number(step * length)}" height="{number(unit * count)}">'
                f"<title>{count} {operation}, {span}</title></rect>"
            )
        start += length
    last = max(epochs, len(counts), 1)
    for tick in epoch_ticks(last):
        body.append(_text(left + step * (tick - 0.5), height - bottom + 15, str(tick), "tick", "middle"))
    body.append(_text(left + step * last / 2, height - 3, "epoch", "tick", "middle"))
    end = next((c for c in reversed(counts) if c), {})
    return _svg(WIDTH, height, title, "at last " + ", ".join(f"{n} {name}" for name, n in end.items()), body)


def pairs(title: str, rows: Sequence[Pair], chance: float | None = None) -> str:
    """Accuracy before (ring) and after (disc) in percent, a row a pair, the difference written beside the name."""
    row, left, right, top, bottom = 36.0, 38.0, 38.0, 4.0, 30.0
    height = top + row * len(rows) + bottom
    inner = WIDTH - left - right

    def x(value: float) -> float:
        return left + inner * value

    body = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        body.append(f'<path class="across" d="M{number(x(value))} {number(top)}V{number(height - bottom)}"/>')
        body.append(_text(x(value), height - bottom + 14, f"{100 * value:.0f} %", "tick", "middle"))
    if chance is not None:
        body.append(f'<path class="reference" d="M{number(x(chance))} {number(top)}V{number(height - bottom)}"/>')
        body.append(_text(x(chance), height - 3, "chance", "tick", "middle"))
    told = []
    for index, pair in enumerate(rows):
        y = top + row * index + 24
        both = [(v, which) for v, which in ((pair.before, "ring"), (pair.after, "disc")) if v is not None]
        known = pair.before is not None and pair.after is not None
        change = signed(100 * ((pair.after or 0.0) - (pair.before or 0.0))) if known else "not measured"
        body.append(_text(2, y - 11, pair.name, "over"))
        body.append(_text(WIDTH - 2, y - 11, change, f"change over {pair.style}", "end"))
        if len(both) == 2:
            a, b = both[0][0], both[1][0]
            body.append(f'<path class="span {pair.style}" d="M{number(x(a))} {number(y)}H{number(x(b))}"/>')
        lower = min((v for v, _ in both), default=0.0)
        for place, (value, which) in enumerate(both):
            body.append(f'<circle class="{which} {pair.style}" cx="{number(x(value))}" cy="{number(y)}" r="4.5"/>')
            to_left = len(both) == 2 and (value < both[1 - place][0] or (value == lower and place == 0))
            body.append(
                _text(x(value) + (-8 if to_left else 8), y + 4, f"{100 * value:.1f}", "over", "end" if to_left else "")
            )
        told.append(f"{pair.name}: " + " to ".join(f"{100 * v:.1f}" for v, _ in both) + f" ({change})")
    return _svg(WIDTH, height, title, "; ".join(told), body)


def spreads(title: str, rows: Sequence[Spread], form: str = "{:.1f}") -> str:
    """Figures of several runs, a row each: a ring a seed, a disc at their mean, a cross where the mark is."""
    row, left, right, top, bottom = 32.0, 12.0, 40.0, 4.0, 20.0
    height = top + row * len(rows) + bottom
    known = [v for r in rows for v in (*r.values, r.mark) if v is not None] or [0.0, 1.0]
    low, high = nice_range(min(known), max(known))

    def x(value: float) -> float:
        return left + (WIDTH - left - right) * (value - low) / (high - low)

    body = []
    for value in (low, (low + high) / 2, high):
        body.append(f'<path class="across" d="M{number(x(value))} {number(top)}V{number(height - bottom)}"/>')
        body.append(_text(x(value), height - 5, form.format(value), "tick", "middle"))
    told = []
    for index, (name, style, values, marked) in enumerate(rows):
        y = top + row * index + 22
        body.append(_text(2, y - 9, name, "over"))
        if marked is not None:
            at = number(x(marked))
            body.append(f'<path class="reference solid" d="M{at} {number(y - 6)}V{number(y + 6)}"><title>paper '
                        f"{form.format(marked)}</title></path>")  # fmt: skip
        seeds = values if len(values) > 1 else ()
        body += [f'<circle class="ring {style}" cx="{number(x(v))}" cy="{number(y)}" r="4"/>' for v in seeds]
        if values:
            middle = sum(values) / len(values)
            body.append(f'<circle class="disc {style}" cx="{number(x(middle))}" cy="{number(y)}" r="4.5"/>')
            body.append(_text(WIDTH - 2, y - 9, form.format(middle), f"change over {style}", "end"))
            told.append(f"{name}: {form.format(middle)}")
            told[-1] += "" if marked is None else f" (paper {form.format(marked)})"
    return _svg(WIDTH, height, title, "; ".join(told), body)


def dots(
    title: str,
    points: Sequence[Dot],
    *,
    x_name: str,
    limit: tuple[str, float] | None = None,
) -> str:
    """Points over two numbers, each with its name beside it and a line as long as y may be off.

    Args:
        x_name: Below the axis; y's name belongs above the figure.
        limit: A dashed line from top to bottom: (words, x).
    """
    height, left, right, top, bottom = 250.0, 34.0, 14.0, 16.0, 34.0
    x_low, x_high = 0.0, nice_range(0.0, max([1e-9, *(p.x for p in points), *([limit[1]] if limit else [])]))[1]
    y_low, y_high = nice_range(min(p.y - p.off for p in points), max(p.y + p.off for p in points))
    inner, tall = WIDTH - left - right, height - top - bottom

    def x(value: float) -> float:
        return left + inner * (value - x_low) / (x_high - x_low)

    def y(value: float) -> float:
        return top + tall * (1 - (value - y_low) / (y_high - y_low))

    body = []
    for k in range(5):
        value = y_low + k * (y_high - y_low) / 4
        body.append(f'<path class="across" d="M{number(left)} {number(y(value))}h{number(inner)}"/>')
        body.append(_text(left - 5, y(value) + 3.5, f"{value:.4g}", "tick", "end"))
        value = x_high * k / 4
        body.append(_text(x(value), height - bottom + 14, f"{value:.3g}", "tick", "middle"))
    body.append(_text(left + inner / 2, height - 4, x_name, "tick", "middle"))
    if limit is not None:
        at = x(limit[1])
        body.append(f'<path class="reference" d="M{number(at)} {number(top)}v{number(tall)}"/>')
        body.append(_text(at, top - 5, limit[0], "tick", "end" if at > left + inner / 2 else "start"))
    # A name stands in a line of its own, to the left of points in the right half, else to the right, or on the other
    # side where that has room and no other point.
    places = _apart([y(p.y) for p in points], _FONT + 3.0, top + 4, height - bottom - 4)

    def free(i: int, to_left: bool) -> bool:
        long = 9 + 1.1 * _CHARACTER * len(points[i].name)
        begin = x(points[i].x) - long if to_left else x(points[i].x)
        others = [(x(p.x), y(p.y)) for k, p in enumerate(points) if k != i]
        met = any(begin - 5 < at < begin + long + 5 and abs(over - places[i]) < 10 for at, over in others)
        return not met and begin >= 0 and begin + long <= WIDTH

    wanted = [p.x > x_high / 2 for p in points]
    sides = [
        to_left if free(i, to_left) or not free(i, not to_left) else not to_left for i, to_left in enumerate(wanted)
    ]
    for p in points:
        if p.off:
            span = f"M{number(x(p.x))} {number(y(p.y - p.off))}V{number(y(p.y + p.off))}"
            body.append(f'<path class="span {p.style}" d="{span}"/>')
    for p, to_left, place in zip(points, sides, places, strict=True):
        body.append(f'<circle class="disc {p.style}" cx="{number(x(p.x))}" cy="{number(y(p.y))}" r="5"/>')
        at = x(p.x) + (-9 if to_left else 9)
        body.append(_text(at, place + 3.8, p.name, f"end over {p.style}", "end" if to_left else ""))
    told = "; ".join(f"{p.name}: {p.y:.1f}{f' ± {p.off:.1f}' if p.off else ''} at {p.x:.2f}" for p in points)
    return _svg(WIDTH, height, title, told, body)


def cell_rails(title: str, cell: Cell) -> str:
    """A cell from top to bottom: a rail for each node, an edge a row, as wide as a phone whatever the cell.

    An edge leaves its source's rail at a dot, bears its operation, and ends in the node below. Faint is what does not
    reach the output.
    """
    lane, edge_row, node_row, chip_width, chip_height = 25.0, 25.0, 34.0, 104.0, 19.0
    live, reads = set(cell.live_nodes), cell.inputs_read
    num_nodes = len(cell.nodes) + 2
    chips = 30 + lane * (num_nodes - 1)
    bracket = chips + chip_width + 16
    width = bracket + 14

    def rail(node: int) -> float:
        return 16 + lane * node

    y, places, branches, heads = 18.0, {0: 18.0}, [], []
    y += node_row - 4
    places[1] = y
    ends = dict(places)
    y += node_row - 6
    for node, edges in enumerate(cell.nodes, start=2):
        first = y
        for edge in edges:
            branches.append((edge, node, y))
            ends[edge.source] = max(ends.get(edge.source, 0.0), y)
            y += edge_row
        y += 5
        heads.append((node, first, y, bool(edges)))
        places[node] = ends[node] = y
        y += node_row - 3
    output = y + 2
    for node in cell.concat:
        ends[node] = output
    body = []
    for node in range(num_nodes):
        used = node in reads if node < 2 else node in live
        if ends[node] > places[node]:
            faint = "" if used else " faint"
            way = f"M{number(rail(node))} {number(places[node])}V{number(ends[node])}"
            body.append(f'<path class="rail{faint}" d="{way}"/>')
    for edge, node, at in branches:
        style = style_of(edge.operation) + ("" if node in live else " faint")
        start = rail(edge.source)
        body.append(f'<path class="halo" d="M{number(start + 6)} {number(at)}H{number(chips)}"/>')
        body.append(f'<path class="branch {style}" d="M{number(start)} {number(at)}H{number(chips)}"/>')
        body.append(f'<circle class="joint {style}" cx="{number(start)}" cy="{number(at)}" r="3.2"/>')
        body.append(
            f'<rect class="chip {style}" x="{number(chips)}" y="{number(at - chip_height / 2)}" '
            f'width="{number(chip_width)}" height="{number(chip_height)}" rx="{number(chip_height / 2)}"/>'
        )
        body.append(_text(chips + chip_width / 2, at + 3.8, edge.operation, "chiptext", "middle"))
    for node, first, at, filled in heads:
        faint = "" if node in live else " faint"
        if filled:
            rows = [b[2] for b in branches if b[1] == node]
            corner = 7
            spokes = "".join(f"M{number(chips + chip_width)} {number(row)}h16" for row in rows[1:])
            body.append(
                f'<path class="into{faint}" d="M{number(chips + chip_width)} {number(first)}h{number(16 - corner)}'
                f"q{corner} 0 {corner} {corner}V{number(at - corner)}q0 {corner} -{corner} {corner}"
                f'H{number(rail(node) + 16)}{spokes}"/>'
            )
            body.append(f'<path class="arrow{faint}" d="M{number(rail(node) + 12)} {number(at)}l7-4v8z"/>')
        body.append(f'<circle class="node{faint}" cx="{number(rail(node))}" cy="{number(at)}" r="12"/>')
        body.append(_text(rail(node), at + 4, str(node), f"nodetext{faint}", "middle"))
    for node, name in ((0, "k−2"), (1, "k−1")):
        faint = "" if node in reads else " faint"
        x, at = rail(node) - 12, places[node]
        body.append(f'<rect class="node{faint}" x="{number(x)}" y="{number(at - 12)}" width="44" height="24" rx="5"/>')
        body.append(
            f'<text x="{number(x + 22)}" y="{number(at + 4)}" text-anchor="middle" class="nodetext{faint}">'
            f'c<tspan class="sub" dy="2.5">{name}</tspan></text>'
        )
    from_, to = min(map(rail, cell.concat)), max(map(rail, cell.concat))
    body.append(f'<path class="rail" d="M{number(from_)} {number(output)}H{number(chips)}"/>')
    for node in cell.concat:
        body.append(f'<circle class="joint rail-dot" cx="{number(rail(node))}" cy="{number(output)}" r="3.2"/>')
    assert to < chips
    body.append(
        f'<rect class="node" x="{number(chips)}" y="{number(output - 12)}" width="{number(chip_width)}" '
        'height="24" rx="5"/>'
    )
    body.append(
        f'<text x="{number(chips + chip_width / 2)}" y="{number(output + 4)}" text-anchor="middle" class="nodetext">'
        'c<tspan class="sub" dy="2.5">k</tspan><tspan dy="-2.5"> = concat</tspan></text>'
    )
    told = "; ".join(
        f"node {node}: " + (", ".join(f"{e.operation} of {_node_name(e.source)}" for e in edges) or "no input")
        for node, edges in enumerate(cell.nodes, start=2)
    )
    return _svg(width, output + 16, title, f"{told}; output: nodes {', '.join(map(str, cell.concat))}", body, "cell")


def _node_name(node: int) -> str:
    return ("the cell before the last", "the last cell")[node] if node < 2 else f"node {node}"
