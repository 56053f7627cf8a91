"""Draws the pictures of docs/concepts.md from a search's log: supernet, mixing, derivation, gap and genotype.

    python benchmarks/concept_pictures.py --to docs/pictures

The first two nodes of the normal cell that the search in search/results/edas_c8_c10 ended with, and what cutting its
supernet down cost. The same log gives the same bytes.
"""

import argparse
import math
from collections.abc import Iterable
from html import escape
from pathlib import Path

from nas_zoo.export.cells.draw import draw_genotype
from nas_zoo.models.palette import color_of
from nas_zoo.runs.files import write_text
from nas_zoo.search.report.history import Run, read_run

RESULTS = Path(__file__).parents[1] / "search" / "results"
INK, FAINT, NONE = "#222222", "#c9c9c9", "#9a9a9a"

#: Nodes: centre and text. 0 and 1 are the outputs of the two cells before, 2 and 3 nodes of this one.
NODES = {0: (70, 55, "0"), 1: (70, 225, "1"), 2: (285, 140, "2"), 3: (500, 140, "3")}
#: Edges in the order of alpha's rows, with how far the middle of each is pushed up or down.
EDGES = (((0, 2), 0), ((1, 2), 0), ((0, 3), -55), ((1, 3), 55), ((2, 3), 0))


def svg(width: int, height: int, title: str, body: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'font-family="sans-serif" font-size="15" fill="{INK}"><title>{escape(title)}</title>'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n{chr(10).join(body)}\n</svg>\n'
    )


def text(x: float, y: float, words: str, anchor: str = "middle", color: str = INK, size: int = 15) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{color}" font-size="{size}">{escape(words)}</text>'


def nodes() -> Iterable[str]:
    for x, y, number in NODES.values():
        yield f'<circle cx="{x}" cy="{y}" r="18" fill="#ffffff" stroke="{INK}" stroke-width="1.5"/>'
        yield text(x, y + 5, number)
    yield text(70, 22, "cell before the last")
    yield text(70, 262, "last cell")


def curve(edge: tuple[int, int], bend: float, shift: float, color: str, width: float, dashed: bool = False) -> str:
    """An edge, moved sideways by `shift`; it begins and ends at the rims of its nodes."""
    (x0, y0, _), (x1, y1, _) = (NODES[number] for number in edge)
    length = math.hypot(x1 - x0, y1 - y0)
    along, across = ((x1 - x0) / length, (y1 - y0) / length), (-(y1 - y0) / length, (x1 - x0) / length)
    begin, end = (x0 + 22 * along[0], y0 + 22 * along[1]), (x1 - 22 * along[0], y1 - 22 * along[1])
    middle = (
        (x0 + x1) / 2 + across[0] * 2 * shift,
        (y0 + y1) / 2 + across[1] * 2 * shift + 2 * bend,
    )
    line = f"M{begin[0]:.1f} {begin[1]:.1f}Q{middle[0]:.1f} {middle[1]:.1f} {end[0]:.1f} {end[1]:.1f}"
    dash = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<path d="{line}" fill="none" stroke="{color}" stroke-width="{width:.1f}"{dash}/>'


def paint(operation: str) -> str:
    return NONE if operation == "none" else color_of(operation)


def key(operations: Iterable[str], top: int) -> Iterable[str]:
    for i, operation in enumerate(operations):
        x, y = 30 + 140 * (i % 4), top + 24 * (i // 4)
        dash = ' stroke-dasharray="4 4"' if operation == "none" else ""
        yield f'<path d="M{x} {y}h22" stroke="{paint(operation)}" stroke-width="4"{dash}/>'
        yield text(x + 28, y + 5, operation, "start", size=13)


def supernet(operations: list[str]) -> str:
    body = [
        curve(edge, bend, 5 * (i - (len(operations) - 1) / 2), paint(operation), 2, operation == "none")
        for edge, bend in EDGES
        for i, operation in enumerate(operations)
    ]
    return svg(580, 335, "Two nodes of a supernet's cell", [*body, *nodes(), *key(operations, 294)])


def mixing(operations: list[str], weights: list[float]) -> str:
    body = [text(20, 24, "alpha of the edge from 0 to 2, softmax: the weight of each operation", "start")]
    for i, (operation, weight) in enumerate(zip(operations, weights, strict=True)):
        y = 42 + 27 * i
        body.append(text(150, y + 14, operation, "end", size=13))
        body.append(f'<rect x="160" y="{y}" width="{340 * weight:.1f}" height="18" fill="{paint(operation)}"/>')
        body.append(text(168 + 340 * weight, y + 14, f"{weight:.2f}", "start", size=13))
    return svg(580, 270, "Mixing: the weights of the operations of one edge", body)


def derivation(operations: list[str], weights: list[list[float]]) -> str:
    """Both rules: argmax keeps the strongest operation of every edge, darts the two strongest edges of a node."""
    best = [max(range(len(operations)), key=row.__getitem__) for row in weights]
    into = [i for i, (edge, _) in enumerate(EDGES) if edge[1] == 3]
    dropped = min(into, key=lambda i: weights[i][best[i]])
    panels: list[str] = []
    for rule, left_out in (
        ("argmax: the strongest operation of every edge", None),
        ("darts: two edges a node", dropped),
    ):
        body = []
        for i, (edge, bend) in enumerate(EDGES):
            gone = i == left_out
            operation = operations[best[i]]
            body.append(curve(edge, bend, 0, FAINT if gone else paint(operation), 2 if gone else 5, gone))
            x = (NODES[edge[0]][0] + NODES[edge[1]][0]) / 2
            y = (NODES[edge[0]][1] + NODES[edge[1]][1]) / 2 + bend
            words = f"{weights[i][best[i]]:.2f}"
            body.append(f'<rect x="{x - 20:g}" y="{y - 11:g}" width="40" height="22" fill="#ffffff"/>')
            body.append(text(x, y + 5, words, color=NONE if gone else INK, size=14))
        move = 325 * len(panels)
        drawn = "".join([*body, *nodes()])
        words = text(20, 22, rule, "start")
        panels.append(f'<g transform="translate(0 {move})">{words}<g transform="translate(0 35)">{drawn}</g></g>')
    chosen = sorted({operations[i] for i in best})
    return svg(580, 670, "Derivation by two rules", [*panels, *key(chosen, 650)])


def gap(rows: list[tuple[str, float, float]]) -> str:
    body = []
    for i, (name, before, after) in enumerate(rows):
        y = 14 + 92 * i
        body.append(text(20, y + 14, name, "start"))
        for k, (words, value, color) in enumerate((("before", before, "#9a9a9a"), ("after", after, INK))):
            top = y + 24 + 26 * k
            body.append(text(80, top + 15, words, "end", size=13))
            body.append(f'<rect x="90" y="{top}" width="{400 * value:.1f}" height="20" fill="{color}"/>')
            body.append(text(96 + 400 * value, top + 15, f"{100 * value:.1f} %", "start", size=13))
    return svg(580, 14 + 92 * len(rows), "The gap: accuracy of a supernet before and after it is cut down", body)


def pictures() -> dict[str, str]:
    edas, da2s = (read_run(RESULTS / name) for name in ("edas_c8_c10", "da2s_c16_c10"))
    weights = edas.alpha["normal"][-1, : len(EDGES)].tolist()
    operations = edas.operations

    def before_and_after(name: str, run: Run, cells: str) -> tuple[str, float, float]:
        gap = run.last["gap"]
        after = next(row for row in gap["after"] if row["cells"] == cells)
        return name, gap["before"]["running"], after["running"]

    rows = [
        before_and_after("EDAS, cut down by argmax (11 edges a cell)", edas, "argmax"),
        before_and_after("EDAS, cut down by darts (8 edges a cell)", edas, "darts"),
        before_and_after("DA2S, for 8 edges a cell", da2s, "found"),
    ]
    return {
        "supernet": supernet(operations),
        "mixing": mixing(operations, weights[0]),
        "derivation": derivation(operations, weights),
        "gap": gap(rows),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, help="folder")
    options = parser.parse_args(argv)
    options.to.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures().items():
        write_text(options.to / f"{name}.svg", picture)
    draw_genotype("edas_e8_c10", options.to / "genotype.svg")


if __name__ == "__main__":
    main()
