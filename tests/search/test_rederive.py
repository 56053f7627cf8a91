"""`nas-zoo genotype`: cells out of a run's log alone, against those that the searches in the repository logged."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nas_zoo.cli import main
from nas_zoo.genotype import Genotype, load_genotype
from nas_zoo.models.palette import OPERATION_COLORS
from nas_zoo.runs.log import RunLog
from nas_zoo.runs.settings import CHANGEABLE
from nas_zoo.search.rederive import cells_of_run
from nas_zoo.search.report.figures import short

RESULTS = Path(__file__).parents[2] / "search" / "results"
RUNS = sorted(path.parent for path in RESULTS.glob("**/log.jsonl"))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_the_log_gives_the_cells_that_the_search_found_after_every_epoch(run):
    lines = [line for line in RunLog.read(run) if line["kind"] == "epoch"]
    for line in lines:
        for rule in ("argmax", "darts"):
            if line["genotype"][rule] is not None:
                cells, _ = cells_of_run(run, rule, line["epoch"])
                assert cells == Genotype.from_json(line["genotype"][rule])
        if line.get("found"):
            assert cells_of_run(run, None, line["epoch"])[0] == Genotype.from_json(line["found"])


def test_other_numbers_of_edges_are_written_as_a_genotype_file(tmp_path, capsys):
    run, file = RESULTS / "da2s_c16_c10", tmp_path / "four.json"
    assert main(["genotype", str(run), "--edges", "4/14", "--epoch", "3", "--to", str(file)]) == 0
    cells = load_genotype(file)
    assert [len(node) for node in cells.normal.nodes] == [1, 1, 1, 1]
    come_from = json.loads(file.read_text())["provenance"]
    assert (come_from["method"], come_from["epochs"], come_from["rule"]) == ("da2s", 3, "4/14")
    assert come_from["settings"].keys().isdisjoint({"data", *CHANGEABLE})  # paths of the machine
    capsys.readouterr()
    assert main(["genotype", str(run), "--edges", "4/14", "--epoch", "3"]) == 0
    assert Genotype.from_json(capsys.readouterr().out) == cells


def test_cells_of_several_epochs_are_drawn_below_one_another(tmp_path, capsys):
    run, file = RESULTS / "edas_c8_c10", tmp_path / "cells.svg"
    assert main(["genotype", str(run), "--epoch", "1,4,10", "--draw", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    words = [element.text for element in ElementTree.fromstring(file.read_text("utf-8")).iter() if element.text]
    edges = {}
    for epoch in (1, 4, 10):
        cells, _ = cells_of_run(run, None, epoch)
        for kind in ("normal", "reduce"):
            edges[epoch, kind] = {
                (node, *edge) for node, inputs in enumerate(cells.cell(kind).nodes) for edge in inputs
            }
    for kind, name in (("normal", "normal cell"), ("reduce", "reduction cell")):
        assert f"epoch 1, {name}" in words
        for before, after in ((1, 4), (4, 10)):
            new = len(edges[after, kind] - edges[before, kind])
            told = f"{new} new edge{'s' if new > 1 else ''}" if new else "none new"
            places = [{edge[:1] + edge[2:] for edge in edges[epoch, kind]} for epoch in (before, after)]
            told += f", {gone} gone" if (gone := len(places[0] - places[1])) else ""
            assert f"epoch {after}, {name}, {told}" in words
    drawn = sum(word in map(short, OPERATION_COLORS) for word in words)
    assert drawn == sum(map(len, edges.values()))
    again = tmp_path / "again.svg"
    assert main(["genotype", str(run), "--epoch", "1,4,10", "--draw", str(again)]) == 0
    assert again.read_bytes() == file.read_bytes()
    picture, cells_file = tmp_path / "last.png", tmp_path / "last.json"
    assert main(["genotype", str(run), "--draw", str(picture), "--to", str(cells_file)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert load_genotype(cells_file) == cells_of_run(run)[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--epoch", "99"], "epoch must be one that"),
        (["--epoch", "1,2"], "--epoch takes one number, or several with --draw and without --to, got [1, 2]"),
        (["--draw", "cells.gif"], "must end in .svg, .png or .pdf, got 'cells.gif'"),
        (["--draw", "no/cells.svg"], "'no/cells.svg': there is no such folder"),
        (["--edges", "9/14"], "'9/14' is neither"),
        (["--edges", ""], "got '', in which '' is neither"),  # which gave the method's own cells
    ],
)
def test_what_a_run_does_not_hold_is_told_in_one_line(words, told, capsys):
    assert main(["genotype", str(RESULTS / "edas_c8_c10"), *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_log_of_another_search_space_and_a_log_without_epochs_are_refused(tmp_path, capsys):
    shutil.copy(RESULTS / "edas_c8_c10" / "log.jsonl", tmp_path)
    first, line = RunLog.read(tmp_path)[:2]
    (tmp_path / "log.jsonl").write_text(json.dumps(first) + "\n")
    assert main(["genotype", str(tmp_path)]) == 2
    assert "is not that of a search that has ended an epoch" in capsys.readouterr().err
    line["alpha"]["normal"].pop()
    (tmp_path / "log.jsonl").write_text(json.dumps(first) + "\n" + json.dumps(line) + "\n")
    assert main(["genotype", str(tmp_path)]) == 2
    assert "alpha is of another search space than the method's" in capsys.readouterr().err
