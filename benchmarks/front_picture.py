"""Draws the README's first picture: the cells of two searches, and what small networks of such cells reach and take.

    python benchmarks/front_picture.py --output docs/pictures/front.svg

It is 390 pixels wide, as a phone is, and its text is of 11 pixels or more there. An edge of a cell is an arc from left
to right in its operation's colour, with a sign that the key explains. The dots have no colours, since those are the
operations': accuracy comes from nas_zoo/models/results.csv and, for the cells of edas_c10, from the run of the same
recipe in benchmarks/measured/edas_argmax_c16.json. Latency is what `nas-zoo latency` estimates from the pieces in
benchmarks/measured/latency_table.json, which were timed on a quiet machine; held-out networks of this size were off by
4.3 % on average (benchmarks/latency.py), so a bar of that length lies on either side.
"""

import argparse
import json
import math
from html import escape
from pathlib import Path
from typing import NamedTuple

from nas_zoo import load_genotype
from nas_zoo.genotype import KINDS, Cell
from nas_zoo.models.latency import LatencyTable, Shape
from nas_zoo.models.palette import color_of
from nas_zoo.models.results import package_results, standard_error
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import write_text

MEASURED = Path(__file__).parent / "measured"
WIDTH, MARGIN, INK, SOFT = 390, 12, "#1b1f24", "#59636e"
SHOWN = {"edas_c10": "EDAS", "da2s_c10": "DA2S"}
DATASET = "CIFAR-10 (JPEG)"
#: What stands on an edge.
SIGNS = {
    "max_pool_3x3": "m", "avg_pool_3x3": "a", "skip_connect": "=", "sep_conv_3x3": "s3", "sep_conv_5x5": "s5",
    "sep_conv_7x7": "s7", "dil_conv_3x3": "d3", "dil_conv_5x5": "d5", "conv_7x1_1x7": "c7",
}  # fmt: skip
OFF = 0.043  # mean error of an estimated latency
STEP, RADIUS, RISE = 31, 8.5, 13  # between nodes; of a node; of an arc, per step that it spans


class Point(NamedTuple):
    name: str
    top1: float  # percent
    images: int
    ms: float

    @property
    def error(self) -> float:
        """Standard error of top1, in points."""
        return 100 * standard_error(self.top1 / 100, self.images)


def small_networks(table: Path) -> tuple[list[Point], str]:
    """The networks of 8 cells and C = 16 that have a measured accuracy, and words on the machine of the table."""
    latency = LatencyTable.read(table)
    shape = Shape("cifar", 16, 8, 10, (3, 32, 32))
    found = {row.model: (row.cell, row.top1, row.test_images) for row in package_results() if row.dataset == DATASET}
    run = json.loads((MEASURED / "edas_argmax_c16.json").read_text(encoding="utf-8"))
    if run["genotype"] == load_genotype("edas_c10").digest:
        found.setdefault("edas_c10_s", ("edas_c10", 100 * run["top1"], run["n"]))
    points = [
        Point(name, top1, images, latency.estimate(load_genotype(cell), shape).ms)
        for name, (cell, top1, images) in sorted(found.items())
    ]
    threads = latency.conditions.threads
    return points, f"{latency.conditions.device}, {threads} thread{'s' * (threads != 1)}"


def text(x: float, y: float, words: str, size: int = 12, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" {more}>{escape(words)}</text>'


def cell_arcs(cell: Cell, left: float, base: float) -> list[str]:
    """A cell, its nodes on a line: inputs first, then the nodes in their order."""
    names = ["k−2", "k−1", *map(str, range(len(cell.nodes)))]
    x = [left + RADIUS + STEP * i for i in range(len(names))]
    arcs, signs = [], []
    edges = [(edge, target) for target, node in enumerate(cell.nodes, 2) for edge in node]
    for edge, target in sorted(edges, key=lambda item: item[0].source - item[1]):  # long ones behind
        half, color = (x[target] - x[edge.source]) / 2, color_of(edge.operation)
        rise = RISE * (target - edge.source) + 5
        arcs.append(
            f'<path d="M{x[edge.source]:.1f} {base} a{half:.1f} {rise:.1f} 0 0 1 {2 * half:.1f} 0" fill="none" '
            f'stroke="{color}" stroke-width="2.2"/>'
        )
        look = f'fill="{color}" stroke="#ffffff" stroke-width="3" paint-order="stroke" font-weight="600"'
        signs.append(text(x[edge.source] + half, base - rise + 4, SIGNS.get(edge.operation, "?"), 11, "middle", look))
    nodes = []
    for i, name in enumerate(names):
        fill = "#eef1f4" if i < 2 else "#ffffff"
        nodes.append(f'<circle cx="{x[i]:.1f}" cy="{base}" r="{RADIUS}" fill="{fill}" stroke="{INK}"/>')
        nodes.append(text(x[i], base + (22 if i < 2 else 4), name, 11, "middle"))
    return [*arcs, *signs, *nodes]


def key_of(operations: list[str], top: float) -> list[str]:
    """The operations' colours and signs, two columns."""
    parts, rows = [], (len(operations) + 1) // 2
    for i, name in enumerate(operations):
        x, y = MARGIN + 190 * (i // rows), top + 17 * (i % rows)
        parts.append(
            f'<line x1="{x}" x2="{x + 20}" y1="{y - 4}" y2="{y - 4}" stroke="{color_of(name)}" stroke-width="4"/>'
        )
        parts.append(text(x + 26, y, f"{SIGNS.get(name, '?')}  {name}"))
    return parts


def dots(points: list[Point], top: float, height: float) -> list[str]:
    """Accuracy over latency, with a standard error to either side."""
    left, right, bottom = MARGIN + 34.0, WIDTH - MARGIN - 6.0, top + height
    low, high = math.floor(min(p.top1 - p.error for p in points)), math.ceil(max(p.top1 + p.error for p in points))
    most = max(p.ms for p in points)
    unit = next(u for u in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if most / u <= 6)
    end = unit * math.ceil(1.12 * most / unit)

    def place(ms: float, top1: float) -> tuple[float, float]:
        return left + (right - left) * ms / end, bottom - height * (top1 - low) / (high - low)

    parts = []
    for value in range(low, high + 1):
        y = place(0, value)[1]
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d8dee4"/>')
        parts.append(text(left - 5, y + 4, f"{value} %", 11, "end", f'fill="{SOFT}"'))
    for i in range(round(end / unit) + 1):
        parts.append(text(place(i * unit, low)[0], bottom + 16, f"{i * unit:g}", 11, "middle", f'fill="{SOFT}"'))
    spread = {p.name: ((right - left) * OFF * p.ms / end, height * p.error / (high - low)) for p in points}
    taken = []
    for point in points:
        (x, y), (along, reach) = place(point.ms, point.top1), spread[point.name]
        taken += [(x - along, y - 5, x + along, y + 5), (x - 1, y - reach, x + 1, y + reach)]
    for point in points:
        (x, y), (along, reach) = place(point.ms, point.top1), spread[point.name]
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - reach:.1f}" y2="{y + reach:.1f}" stroke="{INK}"/>')
        parts.append(f'<line x1="{x - along:.1f}" x2="{x + along:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{INK}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{INK}"/>')
        wide = 6.9 * len(point.name)
        for dx, dy in ((-17, 4), (17, 4), (6, -9), (-6, -9), (6, 17), (-6, 17), (6, 31), (-6, 31)):
            box = (
                (x + dx - wide, y + dy - 11, x + dx, y + dy + 3)
                if dx < 0
                else (x + dx, y + dy - 11, x + dx + wide, y + dy + 3)
            )
            hit = any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)
            if not hit and left < box[0] and box[2] < WIDTH - 2:
                break
        taken.append(box)
        parts.append(text(x + dx, y + dy, point.name, 12, "end" if dx < 0 else "start", 'stroke="#ffffff" '
                          'stroke-width="3" paint-order="stroke"'))  # fmt: skip
    return parts


def draw(points: list[Point], machine: str) -> str:
    """The picture as SVG."""
    parts: list[str] = []
    cells = {name: load_genotype(name) for name in SHOWN}
    for column, (name, method) in enumerate(SHOWN.items()):
        left = MARGIN + 192 * column
        parts.append(text(left, 20, name, 15, more='font-weight="700"'))
        parts.append(text(left + 10 * len(name) + 2, 20, f"by {method}", 12, more=f'fill="{SOFT}"'))
        for kind, base in zip(KINDS, (119, 242), strict=True):
            cell = cells[name].cell(kind)
            title = "normal" if kind == "normal" else "reduction"
            parts.append(text(left, base - 80, f"{title} cell, {sum(map(len, cell.nodes))} edges", 12))
            parts += cell_arcs(cell, left, base)
    used = {edge.operation for g in cells.values() for kind in KINDS for node in g.cell(kind).nodes for edge in node}
    operations = [name for name in SIGNS if name in used] + sorted(used - SIGNS.keys())
    top = 286
    parts += key_of(operations, top)
    top += 17 * ((len(operations) + 1) // 2) + 12
    parts.append(text(MARGIN, top, "Small networks: top-1 over latency", 13, more='font-weight="700"'))
    parts.append(text(MARGIN, top + 17, f"{DATASET}, 4 epochs, n = {points[0].images:,}; ± standard error", 12))
    parts += dots(points, top + 32, 150)
    bottom = top + 32 + 150
    parts.append(text(WIDTH - MARGIN, bottom + 33, "ms an image in ONNX Runtime, ± 4.3 %", 12, "end"))
    parts.append(
        text(WIDTH - MARGIN, bottom + 49, f"estimated by nas-zoo latency for {machine}", 11, "end", f'fill="{SOFT}"')
    )
    height = bottom + 58
    told = ", ".join(f"{p.name} {p.top1:.2f} % at {p.ms:.2f} ms" for p in points)
    shown = "; ".join(f"{name}: {g.histogram()['normal']} and {g.histogram()['reduce']}" for name, g in cells.items())
    both = " and ".join(SHOWN)
    alt = f"The normal and the reduction cell of {both} ({shown}), and the accuracy of small networks: {told}."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="system-ui, -apple-system, \'Segoe UI\', \'DejaVu Sans\', sans-serif" fill="{INK}">\n'
        f"<title>Cells of EDAS and DA2S, and what small networks of them reach</title>\n<desc>{escape(alt)}</desc>\n"
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


@program("front_picture")
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--latency", type=Path, default=MEASURED / "latency_table.json", help="a table of nas-zoo latency"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/pictures/front.svg"), help="the SVG to write")
    options = parser.parse_args()
    if options.output.suffix.lower() != ".svg" or not options.output.parent.is_dir():
        raise ValueError(f"output {str(options.output)!r}: the name must end in .svg, in a folder that exists")
    write_text(options.output, draw(*small_networks(options.latency)))
    print(options.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
