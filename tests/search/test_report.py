"""nas-zoo report: what the page says of a run, what it refuses, and that a real browser shows all of it."""

import json
import math
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas_zoo.cli import main
from nas_zoo.genotype import KINDS, OPERATIONS, Genotype
from nas_zoo.models.palette import (
    DARK_OPERATION_COLORS,
    METHOD_COLORS,
    NUMBER_COLORS,
    OPERATION_COLORS,
    method_colors,
)
from nas_zoo.runs.log import RunLog
from nas_zoo.search import run
from nas_zoo.search.method import METHODS
from nas_zoo.search.report import page as report
from nas_zoo.search.report.history import read_run, read_runs

OLD_LOG = Path(__file__).parents[2] / "search" / "results" / "edas_small_c10"
VOID = {"meta", "link", "br"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Two real searches: one with edge weights, one without."""
    root = tmp_path_factory.mktemp("report")
    argv = ["--num-cells", "3", "--init-channels", "4", "--batch-size", "16", "--train-limit", "64",
            "--epochs", "2", "--gap-batches", "1"]  # fmt: skip
    for name, more in (
        ("da2s", ["--method", "da2s", "--edges", "4/14"]),
        ("edas", ["--method", "edas", "--derive", "darts"]),
    ):
        assert run.main([*argv, *more, "--out", str(root / name)]) == 0
    return {name: root / name for name in ("da2s", "edas")}


def changed(folder: Path, target: Path, change: Any) -> Path:
    """A copy of a run's log in another folder, its lines changed by a function."""
    target.mkdir(parents=True)
    lines = RunLog.read(folder)
    change(lines)
    (target / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return target


class Page(HTMLParser):
    """The elements of a page, checked to be closed in the order they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # element, text
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.elements if name in (attributes.get("class") or "").split()]

    @property
    def words(self) -> str:
        return " ".join(text for element, text in self.texts if element not in ("style", "script"))


def page_of(*folders: Path) -> Page:
    return Page(report.page(read_runs(folders)))


def test_the_page_of_a_run_holds_its_figures_and_texts(folders):
    text = report.page(read_runs([folders["da2s"]]))
    page = Page(text)
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert sections == ["accuracy", "gap", "cells", "genotype", "operations", "alpha", "beta", "entropy", "settings"]
    assert len(page.of_class("tile")) == 2 * 14 + 2 * 4
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        figure = ElementTree.fromstring(svg)  # well-formed, so no name broke out of its place
        assert figure.get("role") == "img"
        assert len(figure.get("aria-label", "")) > 20
    last = RunLog.read(folders["da2s"])[-1]
    before, row = last["gap"]["before"], last["gap"]["after"][0]
    assert f"{100 * before['running']:.1f} → {100 * row['running']:.1f}" in page.words
    assert f"{100 * before['reestimated']:.1f} → {100 * row['reestimated']:.1f}" in page.words
    assert f"n = {last['held_out']['n']}" in page.words
    facts = RunLog.read(folders["da2s"])[0]
    assert facts["device_name"] in page.words
    assert facts["versions"]["torch"] in page.words
    assert "2 of 2 epochs" in page.words
    numbers = " ".join(text for element, text in page.texts if element == "td")
    for line in RunLog.read(folders["da2s"])[1:]:
        assert f"{100 * line['train']['accuracy']:.1f} {100 * line['held_out']['supernet']:.1f}" in numbers


def test_a_last_epoch_that_is_measured_on_other_images_is_told(folders, tmp_path):
    def change(lines):
        lines[-1]["held_out"]["n"] = 8000

    page = page_of(changed(folders["da2s"], tmp_path / "run", change))
    before = RunLog.read(folders["da2s"])[1]["held_out"]["n"]
    assert f"n = 8,000 in the last epoch, {before} before" in page.words


def test_folders_of_the_machine_are_not_shown(folders, tmp_path):
    def change(lines):
        lines[0]["data"]["name"] = lines[0]["settings"]["data"] = "/home/me/images.tar"

    page = page_of(changed(folders["da2s"], tmp_path / "run", change))
    assert "on images.tar" in page.words
    assert "/home/me" not in page.words


def test_the_genotypes_to_copy_are_those_of_the_log(folders):
    page = page_of(folders["da2s"])
    last = RunLog.read(folders["da2s"])[-1]
    texts = [text for element, text in page.texts if element == "pre"]
    expected = list(dict.fromkeys(Genotype.from_json(g) for g in (last["found"], *last["genotype"].values())))
    assert [Genotype.from_json(text) for text in texts if text.startswith("{")] == expected
    darts = [text for text in texts if not text.startswith("{")]
    assert [Genotype.from_darts(text) for text in darts] == [genotype for genotype in expected if genotype.in_darts]
    assert 0 < len(darts) < len(expected)  # 4 of 14 edges are no cells of DARTS' code, its own rule's are
    copies = [attributes["data-copies"] for tag, attributes in page.elements if tag == "button"]
    assert copies == [attributes["id"] for tag, attributes in page.elements if tag == "pre"]


def test_the_page_loads_nothing_and_is_the_same_each_time(folders):
    runs = list(folders.values())
    text = report.page(read_runs(runs))
    assert text == report.page(read_runs(runs))
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=", text.replace("http-equiv", ""))
    assert "default-src 'none'" in text
    assert str(folders["edas"].parent) not in text  # no folder of this machine


def test_alpha_and_entropy_are_those_of_the_search(folders):
    for name, folder in folders.items():
        shown = read_run(folder)
        for epoch, line in enumerate(RunLog.read(folder)[1:]):
            for kind in KINDS:
                logits = np.array(line["alpha"][kind])
                p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
                assert np.allclose(shown.alpha[kind][epoch], p)
                assert shown.entropy(kind)[epoch] == pytest.approx(line["entropy"][kind], abs=1e-6)
        assert bool(shown.beta) == (name == "da2s")


def test_beta_is_clamped_at_one_as_da2s_uses_it(folders, tmp_path):
    def change(lines):
        lines[-1]["beta"]["normal"][:2] = [3.0, 1.0]
        lines[-1]["beta"]["normal"][2:5] = [1.0, 0.0, 0.0]

    shown = read_run(changed(folders["da2s"], tmp_path / "clamped", change))
    node_2, node_3 = (part[-1] for part in shown.beta["normal"][:2])
    assert node_2.tolist() == [0.5, 0.5]
    assert node_3[0] == pytest.approx(math.e / (math.e + 2))

    def released(lines):
        lines[0]["settings"] |= {"method": "da2s_released", "strengthen": True}
        lines[-1]["alpha"]["normal"][0] = [0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0]

    shown = read_run(changed(folders["da2s"], tmp_path / "released", released))
    total = 5 + math.exp(2) + math.exp(-8)  # 2 alpha, cubed below -1
    assert shown.alpha["normal"][-1, 0, 1:3].tolist() == pytest.approx([math.exp(2) / total, math.exp(-8) / total])


def test_several_runs_stand_side_by_side_with_a_comparison_first(folders):
    page = page_of(folders["da2s"], folders["edas"])
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert sections[0] == "comparison"
    headings = [text.strip() for element, text in page.texts if element == "h3"]
    assert headings == ["da2s", "edas"] * 8
    assert len(page.of_class("tile")) == 2 * (2 * 14) + 2 * 4
    assert "This method has no edge weights." in page.words
    for name in ("da2s", "edas"):
        last = RunLog.read(folders[name])[-1]
        assert f"{100 * last['held_out']['supernet']:.1f} → {100 * last['held_out']['found']:.1f}" in page.words


def test_settings_that_differ_are_marked_and_differing_budgets_are_told(folders, tmp_path):
    def change(lines):
        lines[0]["settings"] |= {"seed": 1, "lr": 0.2, "out": "elsewhere"}
        lines[0]["threads"] += 1

    other = changed(folders["edas"], tmp_path / "other", change)
    text = report.page(read_runs([folders["edas"], other]))
    marked = re.findall(r'<tr class="differs"><th scope="row">([a-z_ ]+)<', text)
    assert marked == ["seed", "lr", "processes"]
    assert "The runs differ in seed: their accuracies are not like for like." in text
    assert "The runs differ in threads: their times are not like for like." in text
    alike = report.page(read_runs([folders["edas"], changed(folders["edas"], tmp_path / "same", lambda _: None)]))
    assert "The runs differ" not in alike


def test_a_run_that_has_not_finished_is_shown_as_far_as_it_goes(folders, tmp_path):
    lines = (folders["da2s"] / "log.jsonl").read_bytes().splitlines(keepends=True)
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "log.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:1000])
    (cut / "events.jsonl").write_text('{"kind": "stopped", "time": "", "reason": "time budget", "epoch": 2}\n')
    words = page_of(cut).words
    assert "not finished: 1 of 2 epochs are in the log, stopped by time budget." in words
    (cut / "log.jsonl").write_bytes(lines[0])
    assert "not finished: 0 of 2 epochs" in page_of(cut).words
    assert "No epoch has ended yet." in page_of(cut).words
    assert "No epoch has ended yet." in page_of(cut, folders["edas"]).words


def test_missing_figures_leave_gaps(folders, tmp_path):
    def change(lines):
        lines[1]["train"]["loss"] = lines[1]["alpha_loss"] = None
        lines[1]["held_out"]["derived"]["argmax"] = lines[1]["genotype"]["argmax"] = None
        lines[2]["found"] = lines[2]["histogram"] = lines[2]["held_out"]["found"] = None
        lines[2]["gap"]["after"] = [row for row in lines[2]["gap"]["after"] if row["cells"] != "found"]
        del lines[2]["peak_memory_gb"], lines[0]["versions"], lines[0]["commit"]

    folder = changed(folders["edas"], tmp_path / "gaps", change)
    assert "nan" not in page_of(folder).words
    page_of(folder, folders["edas"])


def test_a_page_says_what_a_figure_is_of(folders, tmp_path):
    """Edge weights that a cut network keeps, the peak of a run in pieces, and the rule of a method from outside."""
    assert "cut, edge weights kept" in page_of(folders["da2s"]).words
    assert "derived, search's own weights" in page_of(folders["edas"]).words

    def pieces(lines):
        lines[1]["peak_memory_gb"], lines[2]["peak_memory_gb"] = 3.25, 1.5

    assert "3.25 GB" in page_of(changed(folders["edas"], tmp_path / "pieces", pieces)).words

    def outside(lines):
        lines[0]["settings"]["method"] = "my.py:Mine"
        for name in ("derive", "edges"):
            lines[0]["settings"].pop(name, None)

    words = page_of(changed(folders["edas"], tmp_path / "outside", outside)).words
    assert "found (own" in words
    assert "found (darts rule" not in words


def test_a_search_among_one_operation_has_a_page(folders, tmp_path):
    """Only its edges are searched; the axis of entropy had no height."""

    def one(lines):
        for line in lines[1:]:
            line["operations"] = line["operations"][3:4]
            for kind in ("normal", "reduce"):
                line["alpha"][kind] = [row[3:4] for row in line["alpha"][kind]]

    assert "entropy" in page_of(changed(folders["da2s"], tmp_path / "one", one)).words


def test_the_first_logs_without_gap_and_found_are_read_too():
    words = page_of(OLD_LOG).words
    assert "43.6 → 9.9" in words
    assert "43.6 → 46.2" in words
    assert "found (darts rule)" in words


def collapse(lines: list[dict[str, Any]], skips: int) -> None:
    for line in lines[2:]:
        edges = [edge for node in line["found"]["normal"]["nodes"] for edge in node]
        for i, edge in enumerate(edges):
            edge[0] = "skip_connect" if i < skips else "sep_conv_3x3"
    for edge in (edge for node in lines[1]["found"]["normal"]["nodes"] for edge in node):
        edge[0] = "sep_conv_3x3"


def test_many_skip_connections_are_a_collapse_and_two_are_where_darts_plus_stops(folders, tmp_path):
    four = changed(folders["edas"], tmp_path / "four", lambda lines: collapse(lines, 4))
    words = page_of(four).words
    assert words.count("4 of 8 edges of the normal cell are skip connections; half or more") == 2  # on top and below
    assert "since epoch 2" in words
    two = changed(folders["edas"], tmp_path / "two", lambda lines: collapse(lines, 2))
    words = page_of(two).words
    assert "2 of 8 edges of the normal cell are skip connections, two or more since epoch 2" in words
    assert "arXiv:1909.06035" in words
    assert "Collapse:" not in words
    none = changed(folders["edas"], tmp_path / "none", lambda lines: collapse(lines, 1))
    assert "1909.06035" not in page_of(none).words
    assert "four :" in page_of(none, four).words  # the warning names its run


def test_gap_save_adds_configurations_to_the_table(folders, tmp_path):
    folder = tmp_path / "saved"
    shutil.copytree(folders["edas"], folder)
    assert main(["gap", str(folder), "--edges", "found", "6/14", "--save"]) == 0
    gap = json.loads((folder / "gap.json").read_text())
    row = gap["after"][1]
    page = page_of(folder)
    assert "6/14" in page.words
    assert f"{100 * gap['before']['running']:.1f} → {100 * row['running']:.1f}" in page.words
    assert page.words.count("found (darts rule)") == page_of(folders["edas"]).words.count("found (darts rule)")
    (folder / "gap.json").write_text(json.dumps(gap | {"epochs": 1}))
    assert "after epoch 1" in page_of(folder).words
    (folder / "gap.json").write_text('{"after": []}')
    with pytest.raises(ValueError, match=r"gap\.json: is not what `nas-zoo gap --save` writes"):
        read_run(folder)


def test_names_from_outside_stay_text(folders, tmp_path):
    def change(lines):
        lines[0]["data"]["name"] = "<img src=x onerror=alert(1)>"
        lines[0]["command"] = '"><script>alert(2)</script>'

    hostile = changed(folders["edas"], tmp_path / "<b onclick=1>&amp;\"'", change)
    for page in (page_of(hostile), page_of(hostile, folders["da2s"])):
        assert not [1 for tag, attributes in page.elements if tag == "img" or "onclick" in attributes]
        assert sum(tag == "script" for tag, _ in page.elements) == 1
        assert "<b onclick=1>&amp;\"'" in page.words


def test_runs_in_folders_of_the_same_name_get_different_labels(folders, tmp_path):
    one = changed(folders["edas"], tmp_path / "one" / "search", lambda _: None)
    two = changed(folders["edas"], tmp_path / "two" / "search", lambda _: None)
    assert [r.label for r in read_runs([one, two, folders["da2s"]])] == ["one/search", "two/search", "da2s"]


def test_random_cells_have_nothing_to_learn(folders, tmp_path):
    def change(lines):
        lines[0]["settings"]["method"] = "random"

    words = page_of(changed(folders["da2s"], tmp_path / "random", change)).words
    assert "Nothing is learned: alpha is drawn once from the seed" in words


def test_every_operation_has_a_colour_on_a_dark_page_too():
    assert set(DARK_OPERATION_COLORS) == set(OPERATION_COLORS) == set(OPERATIONS)


def test_every_method_has_a_colour_of_its_own():
    assert set(METHOD_COLORS) == {*METHODS, "edas_warmup", "edas_warmup_weights"}
    different = set(METHOD_COLORS) - {"da2s_released"}  # DA2S by the authors' code, told apart by its line
    for i in (0, 1):
        assert len({METHOD_COLORS[name][i] for name in different}) == len(different)


def test_a_method_has_its_colour_on_every_page_and_runs_of_one_method_differ_in_their_lines(folders, tmp_path):
    """On the old pages a colour was a place: EDAS was blue on its own page and orange as the second of two."""

    def named(method, **settings):
        def change(lines):
            lines[0]["settings"] |= {"method": method, **settings}

        return changed(folders["edas"], tmp_path / f"{method.rpartition(':')[2]}{len(settings)}", change)

    own = named("my_gdas.py:MyGdas")
    edas, again, da2s = folders["edas"], named("edas"), folders["da2s"]
    styles: dict[str, set[str]] = {}
    for order in ([edas, da2s, again, own], [own, again, edas, da2s]):
        for one in read_runs(order):
            styles.setdefault(one.label, set()).add(one.style)
    assert styles["da2s"] == {"m-da2s"}
    assert styles["MyGdas0"] == {"m-my_gdas-py-MyGdas"}
    assert styles["edas"] == {"m-edas", "m-edas dashed"}  # the first of its colour has the plain line
    warm = read_run(named("edas", warmup_epochs=2))
    assert (warm.kind, warm.method, warm.color) == ("edas_warmup", "EDAS with warm-up", "m-edas_warmup")
    text = report.page(read_runs([own, edas]))
    for i, name in enumerate(("light", "dark")):
        part = text.partition("@media screen and (prefers-color-scheme:dark){")[0 if name == "light" else 2]
        assert f".m-edas{{--c:{METHOD_COLORS['edas'][i]}}}" in part
        assert f".m-my_gdas-py-MyGdas{{--c:{method_colors('my_gdas.py:MyGdas')[i]}}}" in part


def test_every_input_of_a_node_has_a_colour_and_stands_in_the_key(folders):
    assert len(NUMBER_COLORS) == len(set(NUMBER_COLORS)) == 7  # the last of six nodes has seven inputs
    text = report.page(read_runs([folders["da2s"]]))
    used = set(re.findall(r'class="line (input-\d)', text))
    assert used == set(re.findall(r'<li class="(input-\d)">', text))
    assert all(f".{name}{{--c:" in text for name in used)


def test_the_program_writes_the_page_and_says_where(folders, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    shutil.copytree(folders["edas"], folder)
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(folder), str(folders["da2s"])]) == 0
    assert capsys.readouterr().out.strip() == "report.html"
    assert main(["report", "run", "--output", "new.html"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.html", "report.html", "run"]


@pytest.mark.parametrize(
    ("name", "argv", "message"),
    [
        ("nowhere", ["NEW"], "nowhere: there is no such folder"),
        ("empty", ["NEW"], "holds no log.jsonl of a search"),
        ("training", ["NEW"], "is the log of another program, not of a search"),
        ("headless", ["NEW"], "does not begin with the line that tells a run's settings"),
        ("broken", ["NEW"], "line 2: is no JSON"),
        ("shape", ["NEW"], "line 3: alpha of the reduce cell: it must have a number for each edge and operation"),
        ("ragged", ["NEW"], "line 3: alpha of the normal cell"),
        ("operation", ["NEW"], "line 2: operations must be a list of some of none, max_pool_3x3"),
        ("cells", ["NEW"], "line 2: cells darts: "),
        ("good", ["NEW", "NEW"], "is given twice"),
        ("good", ["NEW", "--output", "log.jsonl"], "the name must end in .html"),
        ("good", ["NEW", "--output", "no/such/page.html"], "there is no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_writes_nothing(
    name, argv, message, folders, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    changes: dict[str, Any] = {
        "training": lambda lines: lines[0]["settings"].pop("method"),
        "headless": lambda lines: lines.pop(0),
        "broken": lambda lines: None,
        "shape": lambda lines: lines[2]["alpha"].update(reduce=[[0.0] * 8] * 13),
        "ragged": lambda lines: lines[2]["alpha"].update(normal=[[0.0] * 8] * 9),  # three nodes in place of four
        "operation": lambda lines: lines[1]["operations"].__setitem__(0, '"><b>'),
        "cells": lambda lines: lines[1]["genotype"]["darts"]["normal"]["nodes"][0][0].__setitem__(0, "no_such"),
        "good": lambda lines: None,
    }
    if name == "empty":
        Path(name).mkdir()
    elif name in changes:
        changed(folders["edas"], tmp_path / name, changes[name])
    if name == "broken":
        log = tmp_path / name / "log.jsonl"
        lines = log.read_text().splitlines()
        log.write_text("\n".join([lines[0], lines[1][:100], *lines[2:]]) + "\n")
    before = sorted(tmp_path.rglob("*"))
    assert main(["report", *(name if word == "NEW" else word for word in argv)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nas-zoo report: ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


# In a browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(folders, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    return {
        "one": report.write_report([folders["da2s"]], root / "one.html"),
        "two": report.write_report(list(folders.values()), root / "two.html"),
    }


@pytest.mark.parametrize("which", ["one", "two"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_all_figures_without_horizontal_scrolling(which, width, scheme, browser, pages):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True)
    page = context.new_page()
    wrong: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(pages[which].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    figures = page.evaluate(
        """[...document.querySelectorAll('svg')].map(svg => {
            const box = svg.getBoundingClientRect();
            const texts = [...svg.querySelectorAll('text')].map(text => text.getBoundingClientRect());
            const marks = svg.querySelectorAll('path, circle, rect').length;
            return {width: box.width, height: box.height, marks, left: box.left, right: box.right,
                    title: svg.getAttribute('aria-label'),
                    smallest: Math.min(99, ...texts.map(t => t.height)),
                    over: Math.max(0, ...texts.map(t => t.right - box.right), ...texts.map(t => box.left - t.left))};
        })"""
    )
    assert len(figures) == pages[which].read_text(encoding="utf-8").count("<svg") >= 45
    for figure in figures:
        assert figure["width"] >= 80, figure
        assert figure["height"] >= 45, figure
        assert figure["marks"] >= 3, figure
        assert figure["left"] >= 0, figure
        assert figure["right"] <= width, figure
        assert figure["smallest"] >= 9, figure  # line height in pixels
        assert figure["over"] <= 6, figure  # a label may stand out by no more than the margin
    assert wrong == []
    assert requests == [pages[which].as_uri()]
    context.close()


@pytest.mark.parametrize("clipboard", ["of the browser", "by a selection"])
def test_the_copy_button_copies_on_a_page_from_disk(clipboard, browser, pages):
    context = browser.new_context(offline=True)
    if clipboard == "of the browser":
        context.grant_permissions(["clipboard-read", "clipboard-write"])
    else:
        context.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined});")
    page = context.new_page()
    page.goto(pages["one"].as_uri())
    buttons = page.locator("button[data-copies]")
    for index in (0, 1):
        buttons.nth(index).click()
        page.wait_for_function("i => document.querySelectorAll('button')[i].textContent === 'Copied'", arg=index)
        page.evaluate("document.body.append(document.createElement('textarea'))")
        page.locator("textarea").last.focus()
        page.keyboard.press("Control+V")
        pasted = page.locator("textarea").last.input_value()
        assert pasted == page.locator("pre").nth(index).text_content()
        assert (Genotype.from_json if pasted.startswith("{") else Genotype.from_darts)(pasted)
    context.close()


def test_without_scripts_the_page_is_whole_and_has_no_dead_buttons(browser, pages):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(pages["one"].as_uri())
    assert page.locator("button:visible").count() == 0
    assert page.locator("section:visible").count() == 9
    context.close()


def test_the_page_counts_how_often_the_strongest_operations_change():
    """EDAS, Figure 5, on every edge; from alpha in the log, so that runs of before it was logged have it too."""
    (run,) = read_runs([OLD_LOG.parent / "edas_c8_c10"])
    assert run.changed_edges("normal") == [None, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert run.changed_edges("reduce") == [None, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert run.kendall_tau("normal")[-1] == pytest.approx(0.96, abs=0.01)
    text = report.page([run])
    assert "Edges whose strongest operation has changed" in text
    assert "Kendall&#39;s tau of the operations&#39; order" in text
