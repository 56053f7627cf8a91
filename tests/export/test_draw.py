"""export/draw.py: files, sameness, and a layout in which nothing lies on anything else."""

import itertools
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas_zoo.export.cells.draw import _columns, _crossings, _increasing, _joined, _lay_out, draw_genotype
from nas_zoo.genotype import KINDS, OPERATIONS, Cell, Genotype, as_genotype, list_found, list_genotypes, load_genotype
from nas_zoo.models.palette import OPERATION_COLORS

EVERY_EDGE = [[[OPERATIONS[(i + j) % 9], j] for j in range(i + 2)] for i in range(4)]
ALL_14 = as_genotype([[EVERY_EDGE, [2, 3, 4, 5]], [EVERY_EDGE, [2, 3, 4, 5]]])
FEW = as_genotype([
    [[[["sep_conv_3x3", 1]], [["dil_conv_5x5", 0]], [["max_pool_3x3", 3]], [["skip_connect", 2]]], [4, 5]],
    [[[["sep_conv_3x3", 0], ["dil_conv_3x3", 0], ["sep_conv_3x3", 0]], [], [["sep_conv_5x5", 1]]], [2]],
])  # fmt: skip
SIX = [[["sep_conv_3x3", max(0, i - 1)], ["conv_7x1_1x7", i + 1]] for i in range(6)]
SIX_NODES = as_genotype([[SIX, [2, 3, 4, 5, 6, 7]], [SIX, [7]]])
GENOTYPES = {name: load_genotype(name) for name in [*list_genotypes(1), *list_found()]} | {
    "all_14": ALL_14, "few": FEW, "six_nodes": SIX_NODES,
}  # fmt: skip


SVG = "{http://www.w3.org/2000/svg}"


def test_every_operation_has_a_colour_of_its_own() -> None:
    assert set(OPERATION_COLORS) == set(OPERATIONS)
    assert len(set(OPERATION_COLORS.values())) == len(OPERATIONS)


@pytest.mark.parametrize("name", GENOTYPES)
def test_nothing_lies_on_anything_else(name: str) -> None:
    for kind in KINDS:
        cell = GENOTYPES[name].cell(kind)
        items, lines = _lay_out(cell)
        assert sum(item.kind == "label" for item in items) == sum(len(node) for node in cell.nodes)
        assert sum(item.kind == "node" for item in items) == len(cell.nodes)
        assert len(lines) == sum(len(node) for node in cell.nodes) + len(set(cell.concat))
        for a, b in itertools.combinations(items, 2):
            apart_x = abs(a.x - b.x) - (a.width + b.width) / 2
            apart_y = abs(a.y - b.y) - (a.height + b.height) / 2
            # lines run straight through a column, so this holds for labels and passing lines too
            assert max(apart_x, apart_y) > 0.05, (a, b)


@pytest.mark.parametrize("name", GENOTYPES)
def test_every_line_runs_from_left_to_right_and_labels_say_the_operation(name: str) -> None:
    for kind in KINDS:
        cell = GENOTYPES[name].cell(kind)
        _, lines = _lay_out(cell)
        names = {"$c_{k-2}$": 0, "$c_{k-1}$": 1} | {str(i): i for i in range(2, 10)}
        drawn = []
        for line in lines:
            assert all(a.column + 1 == b.column for a, b in itertools.pairwise(line.items))
            assert all(a.x + a.width / 2 < b.x - b.width / 2 for a, b in itertools.pairwise(line.items))
            labels = [item.text for item in line.items if item.kind == "label"]
            if labels:
                drawn.append((labels[0], names[line.items[0].text], names[line.items[-1].text]))
            else:
                assert line.items[-1].kind == "output"
        wanted = [(edge.operation, edge.source, i) for i, node in enumerate(cell.nodes, 2) for edge in node]
        assert sorted(drawn) == sorted(wanted)


def test_a_cell_that_can_be_drawn_without_crossings_is() -> None:
    items, _ = _lay_out(FEW.normal)
    columns = [sorted(column, key=lambda item: item.y) for column in _columns(items)]
    assert _crossings(columns) == 0


def test_what_does_not_reach_the_output_is_marked() -> None:
    items, lines = _lay_out(FEW.reduce)
    unused = [item.text for item in items if not item.used]
    assert sorted(unused) == ["$c_{k-1}$", "3", "4", "sep_conv_5x5"]
    assert [line.items[-1].text for line in lines if not line.used] == ["4"]


@pytest.mark.parametrize("cell", [load_genotype("da2s_e4_c10").reduce, FEW.reduce], ids=["an input", "and a node"])
def test_what_no_line_joins_with_the_output_lies_by_the_rest(cell: Cell) -> None:
    items, _ = _lay_out(cell)
    rest = _joined(next(item for item in items if item.kind == "output"))
    others = [item for item in items if id(item) not in rest]
    assert others
    top, bottom = min(item.y for item in rest.values()), max(item.y for item in rest.values())
    assert all(top - 0.7 < item.y < bottom + 0.7 for item in others)


def test_least_squares_in_order_by_hand() -> None:
    np.testing.assert_allclose(_increasing(np.array([1.0, 3.0, 2.0, 4.0]), np.ones(4)), [1, 2.5, 2.5, 4])
    np.testing.assert_allclose(_increasing(np.array([3.0, 0.0]), np.array([1.0, 2.0])), [1, 1])
    np.testing.assert_allclose(_increasing(np.array([3.0, 2.0, 1.0]), np.ones(3)), [2, 2, 2])


@pytest.mark.parametrize("genotype", [ALL_14, FEW, "darts_v2"], ids=["all_14", "few", "darts_v2"])
def test_png_holds_a_picture(genotype: Genotype | str, tmp_path: Path) -> None:
    path = draw_genotype(genotype, tmp_path / "cell.PNG", title="A title with $ and _")
    with Image.open(path) as picture:
        assert picture.width > 800
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert 0.7 < (pixels.min(2) > 240).mean() < 0.99  # mostly paper
    assert (np.ptp(pixels, axis=2) > 60).mean() > 0.001  # and some colour
    border = np.concatenate([pixels[:8].ravel(), pixels[-8:].ravel(), pixels[:, :8].ravel(), pixels[:, -8:].ravel()])
    assert border.min() == 255  # nothing is cut off
    assert [entry.name for entry in tmp_path.iterdir()] == ["cell.PNG"]


def test_svg_is_the_same_in_another_process_with_other_settings(tmp_path: Path) -> None:
    path = draw_genotype("pc_darts_c10", tmp_path / "one.svg", title="PC-DARTS")
    assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    (tmp_path / "matplotlibrc").write_text("svg.fonttype: none\nlines.linewidth: 9\nfont.family: serif\n")
    code = "from nas_zoo.export.cells.draw import draw_genotype as d; d('pc_darts_c10', 'two.svg', 'PC-DARTS')"
    environment = os.environ | {"MATPLOTLIBRC": str(tmp_path), "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    data = path.read_bytes()
    assert (tmp_path / "two.svg").read_bytes() == data
    assert str(Path.home()).encode() not in data
    assert b"<dc:date>" not in data


def test_drawing_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"lines.linewidth": 9.0}):
        draw_genotype("darts_v1", tmp_path / "x.svg")
        assert matplotlib.rcParams["lines.linewidth"] == 9.0
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("genotype", [ALL_14, FEW, "darts_v2"], ids=["all_14", "few", "darts_v2"])
def test_svg_shows_what_the_cells_hold_as_text_within_its_edges(genotype: Genotype | str, tmp_path: Path) -> None:
    """Written without matplotlib, so from the same layout in other words."""
    root = ElementTree.parse(draw_genotype(genotype, tmp_path / "cells.svg", title="A & <b> $ _")).getroot()
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    cells = [as_genotype(genotype).cell(kind) for kind in KINDS]
    edges = [edge.operation for cell in cells for node in cell.nodes for edge in node]
    nodes = [str(i + 2) for cell in cells for i in range(len(cell.nodes))]
    names = ["A & <b> $ _", "Normal cell", "Reduction cell", *["ck−2", "ck−1", "ck"] * 2]
    assert sorted(texts) == sorted([*edges, *nodes, *names])
    assert len(list(root.iter(f"{SVG}circle"))) == len(nodes)
    arrows = len(edges) + sum(len(set(cell.concat)) for cell in cells)
    assert len(list(root.iter(f"{SVG}polygon"))) == arrows
    for box in list(root.iter(f"{SVG}rect"))[1:]:
        x, y, w, h = (float(box.attrib[key]) for key in ("x", "y", "width", "height"))
        assert 5 < x < x + w < width - 5
        assert 5 < y < y + h < height - 5
    dashed = sum("stroke-dasharray" in shape.attrib for shape in root.iter())
    drawn = [_lay_out(cell) for cell in cells]
    unused = [not item.used and item.kind != "point" for items, _ in drawn for item in items]
    assert dashed == sum(unused) + sum(not line.used for _, lines in drawn for line in lines)


@pytest.mark.parametrize("name", ["cell.pdf", "cell", "cell.svg.gz"])
def test_other_kinds_of_files_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"end in \.svg or \.png"):
        draw_genotype("darts_v2", tmp_path / name)


def test_a_wrong_folder_and_a_wrong_genotype_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        draw_genotype("darts_v2", tmp_path / "missing" / "x.svg")
    with pytest.raises(ValueError, match="darts_v9"):
        draw_genotype("darts_v9", tmp_path / "x.svg")


def test_a_title_of_any_letters_is_shown_as_text(tmp_path: Path) -> None:
    """XML has no place for a terminal's commands and halves of letters."""
    path = draw_genotype("darts_v2", tmp_path / "cells.svg", title="\x1b[31m<a>\ud800")
    title = ElementTree.parse(path).getroot().find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text == r"\x1b[31m<a>\ud800"
