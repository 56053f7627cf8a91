"""The latency table goes on where it was, and the picture shows what the table and the catalog say."""

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nas_zoo.models.palette import METHOD_COLORS

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


zoo_latency, zoo_picture = load("zoo_latency"), load("zoo_picture")
SHORT = ["--repeats", "1", "--min-s", "0", "--batch", "1", "--threads", "1"]


def run(program: ModuleType, monkeypatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, words)])
    return program.main()


@pytest.mark.slow
def test_rows_that_are_there_are_kept_and_only_the_others_are_measured(tmp_path, monkeypatch, capsys):
    table = tmp_path / "latency.csv"
    words = ["--csv", table, "--models", "edas_c10_s", *SHORT]
    assert run(zoo_latency, monkeypatch, *words, "--runtime", "eager") == 0
    first = table.read_text()
    assert run(zoo_latency, monkeypatch, *words, "--runtime", "eager", "onnx") == 0
    assert table.read_text().startswith(first)
    assert "2 rows, 1 of them new" in capsys.readouterr().out
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["model"], row["runtime"], row["batch"], row["threads"]) for row in rows] == [
        ("edas_c10_s", "eager", "1", "1"),
        ("edas_c10_s", "onnx", "1", "1"),
    ]
    for row in rows:
        assert float(row["images_per_s"]) == pytest.approx(1000 / float(row["median_ms"]), rel=1e-3)
        assert float(row["p10_ms"]) <= float(row["median_ms"]) <= float(row["p90_ms"])
        assert "torch" in row["versions"]


def test_a_pattern_without_a_model_and_another_table_are_refused_in_words(tmp_path, monkeypatch, capsys):
    table = tmp_path / "latency.csv"
    assert run(zoo_latency, monkeypatch, "--csv", table, "--models", "resnet*") == 2
    assert "models 'resnet*': matches none of the" in capsys.readouterr().err
    table.write_text("a,b\n1,2\n")
    assert run(zoo_latency, monkeypatch, "--csv", table, "--models", "edas_c10_s") == 2
    assert "latency.csv: not a table of this program" in capsys.readouterr().err
    assert table.read_text() == "a,b\n1,2\n"


def write_table(path: Path, names: list[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, zoo_latency.COLUMNS)
        writer.writeheader()
        for i, name in enumerate(names):
            row = dict.fromkeys(zoo_latency.COLUMNS, "x")
            writer.writerow(row | {"model": name, "runtime": "onnx", "batch": 1, "median_ms": 5 + i})


@pytest.mark.slow
def test_the_picture_shows_every_model_that_has_both_figures(tmp_path, monkeypatch):
    table = tmp_path / "latency.csv"
    write_table(table, ["darts_v2_c10", "pc_darts_c10", "edas_c10"])
    outputs = [tmp_path / "zoo.svg", tmp_path / "zoo.png"]
    assert run(zoo_picture, monkeypatch, "--csv", table, "--output", *outputs) == 0
    text = outputs[0].read_text()
    assert "as the papers report it" in text or "<path" in text  # letters may be drawn as paths
    assert outputs[1].read_bytes().startswith(b"\x89PNG")
    latency, _ = zoo_picture.read_latency(table, "onnx", 1)
    assert latency == {"darts_v2_c10": 5.0, "pc_darts_c10": 6.0, "edas_c10": 7.0}
    first = outputs[0].read_bytes()
    assert run(zoo_picture, monkeypatch, "--csv", table, "--output", outputs[0]) == 0
    assert outputs[0].read_bytes() == first


def test_a_point_has_the_papers_accuracy_and_our_count():
    points = {point["name"]: point for point in zoo_picture.find_points("c10")}
    assert points["darts_v2_c10"]["accuracy"] == pytest.approx(100 - 2.76)
    assert points["darts_v2_c10"]["madds"] == pytest.approx(528.36, abs=0.01)
    assert "edas_c10" not in points  # no paper reports a figure of our own cells
    assert "darts_v2_c10_s" not in points  # the paper's figure is of another size
    assert not {"xnas_m_c10", "xnas_l_c10", "eenas_2020_l_c10"} & points.keys()  # nor where it is of a narrower one
    assert points["darts_v2_c10"]["same_network"]
    assert not points["nsganet_c10"]["same_network"]  # the paper's widens, ours does not


def test_a_picture_says_which_sizes_are_others_and_how_many_were_not_timed(tmp_path):
    points = {point["name"]: point for point in zoo_picture.find_points("in1k")}
    assert points["relativenas_in1k"]["same_network"]  # 46 channels are its paper's own
    assert not points["xnas_in1k"]["same_network"]  # its paper's has squeeze-and-excitation
    few = {"darts_v2_in1k": 10.0, "pc_darts_in1k": 12.0}
    figure = zoo_picture.draw([*points.values()], few, "in1k", "onnx", 1, "a machine")
    left = figure.axes[0].get_xlabel()
    assert f"2 of {len(points)} models, the others were not timed" in left
    assert "C = 48, 14 cells (random_nsas_c: C = 50, relativenas: C = 46)" in figure.get_supxlabel()
    one = [points["darts_v2_in1k"]]
    assert "1 models)" in zoo_picture.draw(one, few, "in1k", "onnx", 1, "a machine").axes[0].get_xlabel()


def test_edas_and_da2s_are_shown_by_what_is_known_of_them():
    latency = {"darts_v2_c10": 10.0, "edas_c10": 12.0}
    figure = zoo_picture.draw(zoo_picture.find_points("c10"), latency, "c10", "onnx", 1, "a machine")
    for axes, cost in zip(figure.axes, (12.0, 602.7), strict=True):
        shown = {text.get_text().strip(): text.get_color() for text in axes.texts}
        assert shown["EDAS, its paper: 97.08"] == shown["edas_c10"] == METHOD_COLORS["edas"][0]
        assert shown["DA2S, its paper: 97.58"] == METHOD_COLORS["da2s"][0]
        of_edas = [line for line in axes.lines if line.get_color() == METHOD_COLORS["edas"][0]]
        assert any(list(line.get_xdata()) == pytest.approx([cost, cost], abs=0.1) for line in of_edas)
    assert "da2s_c10" not in {text.get_text().strip() for text in figure.axes[0].texts}  # not timed there
    assert "da2s_c10" in {text.get_text().strip() for text in figure.axes[1].texts}


def test_the_front_is_what_nothing_surpasses():
    points = [{"ms": ms, "accuracy": accuracy} for ms, accuracy in ((1, 90), (2, 95), (3, 94), (2, 96), (4, 97))]
    assert [(p["ms"], p["accuracy"]) for p in zoo_picture.front(points, "ms")] == [(1, 90), (2, 96), (4, 97)]


def test_a_missing_table_is_told_in_words(tmp_path, monkeypatch, capsys):
    assert run(zoo_picture, monkeypatch, "--csv", tmp_path / "no.csv", "--output", tmp_path / "a.png") == 2
    assert "csv 'no.csv': no such file" in capsys.readouterr().err
