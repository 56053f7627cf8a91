"""search/figures.py: numbers along a path, ticks, labels that keep apart, and cells in which nothing meets."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from nas_zoo.genotype import KINDS, Genotype, list_found, list_genotypes, load_genotype
from nas_zoo.search.report import figures
from nas_zoo.search.report.figures import Line, Pair
from tests.present import present

GENOTYPES = {name: load_genotype(name) for name in [*list_genotypes(1), *list_found()]} | {
    "dead nodes": Genotype(
        normal=[[[["sep_conv_3x3", 0], ["skip_connect", 0]], [], [["sep_conv_5x5", 1]], [["max_pool_3x3", 2]]], [4]],
        reduce=[[[["sep_conv_3x3", 1]], [["dil_conv_5x5", 2]], [["max_pool_3x3", 3]], [["skip_connect", 4]]], [5]],
    ),
}  # fmt: skip


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def text_of(element: ElementTree.Element, attribute: str) -> str:
    return present(element.get(attribute))


def number_of(element: ElementTree.Element, attribute: str) -> float:
    return float(text_of(element, attribute))


def test_a_path_returns_to_where_its_points_are():
    points = [(0.37 * i, 10 + 9 * math.sin(i)) for i in range(400)]
    x = y = 0.0
    ends = []
    for command, dx, dy in re.findall(r"([Ml])(-?[\d.]+) (-?[\d.]+)", figures.path(points)):
        x, y = (float(dx), float(dy)) if command == "M" else (x + float(dx), y + float(dy))
        ends.append((x, y))
    assert len(ends) == len(points)
    assert all(abs(a - c) < 0.051 and abs(b - d) < 0.051 for (a, b), (c, d) in zip(ends, points, strict=True))


def test_a_path_is_interrupted_where_there_is_no_point_and_one_alone_is_a_dot():
    assert figures.path([(1, 2), (2, 2), None, (4, 3), None]) == "M1 2l1 0M4 3h.1"
    assert figures.path([]) == ""


@pytest.mark.parametrize(("value", "text"), [(0.5, ".5"), (-0.5, "-.5"), (-0.01, "0"), (10.0, "10"), (-20.25, "-20.2")])
def test_a_coordinate_is_short(value, text):
    assert figures.number(value) == text
    assert figures.signed(-0.04) == "0.0"
    assert figures.signed(-1) == "\N{MINUS SIGN}1.0"


@pytest.mark.parametrize("last", [1, 2, 3, 7, 12, 25, 50, 99, 600])
def test_ticks_begin_with_the_first_epoch_end_with_the_last_and_are_few(last):
    ticks = figures.epoch_ticks(last)
    assert (ticks[0], ticks[-1]) == (1, last)
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 8


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.16), (0.0, 2.39), (0.11, 0.1101), (0, 14.2)])
def test_a_range_holds_its_values_and_is_not_much_wider(low, high):
    bottom, top = figures.nice_range(low, high)
    assert bottom <= low < high <= top
    assert top - bottom <= 2 * (high - low) or high - low < 0.001


@pytest.mark.parametrize("wanted", [[5, 5, 5, 5], [0, 100], [99, 98, 100, 100, 1], [50, 50.1], []])
def test_labels_keep_apart_and_in_order_within_the_figure(wanted):
    places = figures._apart(wanted, 13, 0, 100)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for a, b in itertools.pairwise(order):
        assert places[b] - places[a] >= 13 - 1e-3
    assert all(-1e-3 <= place <= 100 + 1e-3 for place in places)


def test_lines_say_in_words_what_they_show():
    series = [Line("supernet", "s0", [0.1, None, 0.9]), Line("found <1>", "s1", [None, None, None])]
    svg = parsed(
        figures.lines("Accuracy & more", series, y_range=(0, 1), y_ticks=[0, 1], scale=100, references={"chance": 0.1})
    )
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == "Accuracy & more. 3 epochs: supernet from 10.0 to 90.0"
    assert "supernet 90.0" in [text.text for text in svg.iter("text")]


def test_equal_epochs_are_one_block_of_their_height():
    counts = [{"skip_connect": 2, "sep_conv_3x3": 6}] * 3 + [None, {"skip_connect": 8}]
    svg = parsed(figures.columns("Operations", counts, ["skip_connect", "sep_conv_3x3"], epochs=5))
    blocks = list(svg.iter("rect"))
    assert [present(block.find("title")).text for block in blocks] == [
        "2 skip_connect, epochs 1 to 3", "6 sep_conv_3x3, epochs 1 to 3", "8 skip_connect, epoch 5",
    ]  # fmt: skip
    heights = [number_of(block, "height") for block in blocks]
    assert heights[1] == pytest.approx(3 * heights[0], abs=0.2)
    assert heights[2] == pytest.approx(4 * heights[0], abs=0.2)
    assert number_of(blocks[0], "width") == pytest.approx(3 * number_of(blocks[2], "width"), abs=0.2)


def test_pairs_write_both_figures_outside_and_the_difference():
    svg = parsed(figures.pairs("Gap", [Pair("found", 0.928, 0.125, "s0"), Pair("argmax", 0.5, None, "s1")], chance=0.1))
    words = [text.text for text in svg.iter("text")]
    assert {"92.8", "12.5", "\N{MINUS SIGN}80.3", "50.0", "not measured"} <= set(words)
    ring, disc = (next(c for c in svg.iter("circle") if c.get("class") == f"{which} s0") for which in ("ring", "disc"))
    before, after = (next(t for t in svg.iter("text") if t.text == text) for text in ("92.8", "12.5"))
    assert number_of(after, "x") < number_of(disc, "cx") < number_of(ring, "cx") < number_of(before, "x")


@pytest.mark.parametrize("name", GENOTYPES)
def test_a_cell_has_every_edge_once_and_nothing_on_anything_else(name):
    for kind in KINDS:
        cell = GENOTYPES[name].cell(kind)
        svg = parsed(figures.cell_rails("Cell", cell))
        _, _, width, height = map(float, text_of(svg, "viewBox").split())
        edges = [edge for node in cell.nodes for edge in node]
        assert [text.text for text in svg.iter("text") if text.get("class") == "chiptext"] == [
            e.operation for e in edges
        ]
        boxes = [
            (number_of(r, "x"), number_of(r, "y"), number_of(r, "width"), number_of(r, "height"))
            for r in svg.iter("rect")
        ]
        boxes += [
            (number_of(c, "cx") - 12, number_of(c, "cy") - 12, 24.0, 24.0)
            for c in svg.iter("circle") if text_of(c, "class").startswith("node")
        ]  # fmt: skip
        assert len(boxes) == len(edges) + 3 + len(cell.nodes)
        for x, y, w, h in boxes:
            assert x >= 0
            assert y >= 0
            assert x + w <= width
            assert y + h <= height
        for a, b in itertools.combinations(boxes, 2):
            apart_x = max(a[0] - (b[0] + b[2]), b[0] - (a[0] + a[2]))
            apart_y = max(a[1] - (b[1] + b[3]), b[1] - (a[1] + a[3]))
            assert max(apart_x, apart_y) >= 0, (a, b)
        # each edge begins on the rail of its source
        joints = [c for c in svg.iter("circle") if text_of(c, "class").startswith("joint op-")]
        assert [number_of(joint, "cx") for joint in joints] == [16 + 25 * edge.source for edge in edges]


def test_what_does_not_reach_the_output_is_faint():
    svg = parsed(figures.cell_rails("Cell", GENOTYPES["dead nodes"].normal))
    faint = {text.text for text in svg.iter("text") if "faint" in (text.get("class") or "")}
    assert {"2", "3", "5"} <= faint
    assert "4" not in faint
    assert "max_pool_3x3 of node 2" in text_of(svg, "aria-label")


def test_dots_keep_their_names_apart_and_in_the_figure_and_tell_all_in_words():
    points = [
        figures.Dot("found", "a", 0.15, 95.0, 1.1),
        figures.Dot("random cells", "b", 0.16, 94.8, 1.1),
        figures.Dot("darts_v2", "c", 0.25, 95.2),
        figures.Dot("mobilenetv3_small_100", "d", 0.31, 94.9, 2.2),
    ]
    svg = parsed(figures.dots("Accuracy", points, x_name="ms", limit=("limit 0.2", 0.2)))
    names = [text for text in svg.iter("text") if (text.get("class") or "").startswith("end")]
    assert [text.text for text in names] == [p.name for p in points]
    heights = sorted(number_of(text, "y") for text in names)
    assert all(b - a > 11 for a, b in itertools.pairwise(heights))
    for text in names:
        at, long = number_of(text, "x"), figures._CHARACTER * len(present(text.text))
        begin = at - long if text.get("text-anchor") == "end" else at
        assert 0 <= begin <= begin + long <= figures.WIDTH
    assert len(list(svg.iter("circle"))) == 4
    assert len([p for p in svg.iter("path") if (p.get("class") or "").startswith("span")]) == 3
    assert "found: 95.0 ± 1.1 at 0.15; random cells: 94.8 ± 1.1 at 0.16; darts_v2: 95.2 at 0.25" in text_of(
        svg, "aria-label"
    )


def test_one_dot_has_axes_too():
    svg = figures.dots("Accuracy", [figures.Dot("found", "a", 0.15, 100.0)], x_name="ms")
    assert "nan" not in svg
    assert parsed(svg).find("circle") is not None or "<circle" in svg
