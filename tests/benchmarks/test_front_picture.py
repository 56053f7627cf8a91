"""The README's first picture: fits a phone, can be read there, and is what its command draws."""

import importlib.util
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from nas_zoo.models.palette import METHOD_COLORS, OPERATION_COLORS

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "pictures" / "front.svg"
spec = importlib.util.spec_from_file_location("front_picture", ROOT / "benchmarks" / "front_picture.py")
assert spec is not None
assert spec.loader is not None
front_picture = importlib.util.module_from_spec(spec)
spec.loader.exec_module(front_picture)


def test_the_picture_is_what_its_command_draws():
    points, machine = front_picture.small_networks(front_picture.MEASURED / "latency_table.json")
    assert {"edas_c10_s", "da2s_c10_s", "darts_v2_c10_s"} <= {point.name for point in points}
    drawn = front_picture.draw(points, machine)
    assert PICTURE.read_text(encoding="utf-8") == drawn, "python benchmarks/front_picture.py draws it anew"


def test_the_picture_fits_a_phone_and_can_be_read_there():
    root = ET.fromstring(PICTURE.read_text(encoding="utf-8"))
    assert float(root.attrib["width"]) <= 390
    assert root.attrib["role"] == "img"
    described = "".join(element.text or "" for element in root if element.tag.endswith(("title", "desc")))
    texts = [element for element in root.iter() if element.tag.endswith("}text")]
    for element in texts:
        assert float(element.attrib["font-size"]) >= 11
        width = 0.55 * float(element.attrib["font-size"]) * len(element.text or "")
        x, anchor = float(element.attrib["x"]), element.attrib["text-anchor"]
        begin = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * width
        assert begin >= 0, element.text
        assert begin + width <= 390, element.text
    for name in ("edas_c10", "da2s_c10"):
        assert name in described
        assert any(element.text == name for element in texts)


def test_a_colour_is_an_operation_and_nothing_else():
    root = ET.fromstring(PICTURE.read_text(encoding="utf-8"))
    strokes = {element.attrib.get("stroke") for element in root.iter() if element.tag.endswith("}path")}
    assert strokes <= set(OPERATION_COLORS.values())
    dots = [element for element in root.iter() if element.tag.endswith("}circle") and element.attrib["r"] == "4.5"]
    assert len(dots) >= 3
    colors = {light for light, _ in METHOD_COLORS.values()} | set(OPERATION_COLORS.values())
    assert not {dot.attrib["fill"] for dot in dots} & colors


def test_what_it_cannot_draw_is_told_in_words(tmp_path, monkeypatch, capsys):
    for words, told in ((["--latency", "no.json"], "no.json"), (["--output", "front.png"], "must end in .svg")):
        monkeypatch.setattr(sys, "argv", ["front_picture", "--output", str(tmp_path / "x.svg"), *words])
        assert front_picture.main() == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "x.svg").exists()
