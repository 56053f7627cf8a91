"""nas-zoo paper: every experiment at tiny, runs that are shared, stopped and gone on with, the rule of the verdict."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from markupsafe import escape

from nas_zoo.cli import main
from nas_zoo.genotype import KINDS, load_genotype
from nas_zoo.runs import outside
from nas_zoo.runs.log import RunLog
from nas_zoo.search import papers
from nas_zoo.search.papers.edas import depth, edas_figure_3
from nas_zoo.search.papers.experiment import Results, marks, transfer
from nas_zoo.search.papers.experiments import EXPERIMENTS
from nas_zoo.search.papers.findings import RULE, Check, above, agrees, better, exact, more_often, verdict
from nas_zoo.search.papers.launch import Launcher, Share
from nas_zoo.search.papers.run import Plan, _read
from nas_zoo.search.papers.runs import Data, Searching, Store
from nas_zoo.search.papers.scales import SCALES, retraining, searching
from nas_zoo.search.rederive import cells_of_run
from nas_zoo.search.report.history import Run

DIGITS = Data("digits")
RESULTS = Path(__file__).parents[3] / "search" / "results"


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("papers")
    assert main(["paper", "all", "--out", str(out)]) == 0
    return out


def stamps(out: Path) -> dict[str, int]:
    names = ("log.jsonl", "result.json", "measured.json", "gap.json")
    return {str(path): path.stat().st_mtime_ns for name in names for path in (out / "runs").rglob(name)}


def test_list_names_every_experiment_with_the_claim(capsys):
    assert main(["paper", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)
    assert "edas-figure-3     EDAS, Figure 3         through the search EDAS' derived network" in lines[0]
    assert main(["paper", "list", "--json"]) == 0
    assert [row["claim"] for row in json.loads(capsys.readouterr().out)] == [e.claim for e in EXPERIMENTS.values()]
    assert main(["paper", "list", "edas-figure-3"]) == 2
    assert "`list` shows the experiments and stands alone" in capsys.readouterr().err


def test_of_what_has_not_run_a_page_says_that_there_is_nothing_yet(tmp_path, capsys):
    assert main(["paper", "all", "edas-figure-3", "--page", "--out", str(tmp_path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "We saw: " in line]
    assert len(lines) == len(EXPERIMENTS)
    assert [line for line in lines if "still missing" in line and "nothing yet" not in line] == []


def test_a_search_whose_edges_never_pass_a_half_names_no_epoch():
    settings = {"method": "da2s", "epochs": 1, "seed": 0}
    flat = {kind: [[0.0] * 8] * 14 for kind in KINDS}
    sharp = {kind: [[9.0, *[0.0] * 7]] * 14 for kind in KINDS}
    beta = {kind: [0.0] * 14 for kind in KINDS}
    runs = [
        Run("r", {"settings": settings}, [{"epoch": 1, "alpha": alpha, "beta": beta, "operations": list("abcdefgh")}])
        for alpha in (flat, sharp)
    ]
    for chosen, words in (
        (runs[:1], "edges never pass 0.5;"),
        (runs, "edges pass 0.5 in epoch 1 of 1 (1 of 2 seeds);"),
    ):
        found = EXPERIMENTS["da2s-figures-3-4"].examine(Results(SCALES["tiny"], {"da2s": chosen}, {}))
        assert words in found.seen


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs_at_tiny_and_says_what_it_saw(everything, name):
    folder = everything / "tiny" / name
    table = json.loads((folder / "table.json").read_text("utf-8"))
    assert table["verdict"] == "not comparable at this scale"
    assert table["missing"] == 0
    page = (folder / "index.html").read_text("utf-8")
    first = re.findall(r"<header><p>(.*?)</p>", page)[0]
    assert "claims: " in first
    assert "We saw: " in first
    assert "allows no judgement" in first
    assert all(word not in first for word in ("missing", "nothing yet", "nan"))
    rows = list(csv.DictReader((folder / "table.csv").read_text("utf-8").splitlines()))
    assert {row["row"] for row in rows} <= {row["name"] for row in table["rows"]}
    assert any(row["mean"] for row in rows)
    for picture in folder.glob("*.svg"):
        root = ET.fromstring(picture.read_text("utf-8"))
        assert root.tag.endswith("svg")
        used = {
            word
            for e in root.iter()
            for word in e.get("class", "").split()
            if word.startswith(("m-", "op-", "control-"))
        }
        style = next(e.text or "" for e in root.iter() if e.tag.endswith("style"))
        assert all(f".{word}{{--c:" in style for word in used)
    assert (folder / "figure.svg").exists()
    for run in table["runs"]:
        logs = everything / "logs"
        log = logs / run["name"] / "log.jsonl" if run["program"] == "search" else logs / f"{run['name']}.jsonl"
        assert str(everything) not in log.read_text("utf-8")


@pytest.mark.slow
def test_what_is_retrained_is_the_first_row_and_colours_mean_the_same_on_every_page(everything):
    table = json.loads((everything / "tiny" / "da2s-table-4" / "table.json").read_text("utf-8"))
    assert table["rows"][0]["name"] == "3/14 DA2S, what is retrained"
    assert set(table["rows"][0]["values"]) == {"before", "after", "lost", "test error, retrained"}
    assert "test error, retrained" not in table["rows"][1]["values"]
    keys = {
        re.findall(r'<ul class="key">.*?</ul>', (everything / "tiny" / n / "index.html").read_text())[0]
        for n in EXPERIMENTS
    }
    colors = {
        re.findall(r"\.m-edas\{--c:.*", (everything / "tiny" / n / "index.html").read_text())[0] for n in EXPERIMENTS
    }
    assert len(keys) == len(colors) == 1


@pytest.mark.slow
def test_the_published_logs_give_the_pages_again_with_what_was_measured_of_the_cuts(everything, tmp_path):
    """A borrowed log of DARTS came without the accuracies at 3 to 6 edges, so its seed was missing in Table 4."""
    words = ["paper", "da2s-table-4", "--page", "--borrow", str(everything / "logs"), "--out", str(tmp_path)]
    assert main(words) == 0
    ours, again = (json.loads((out / "tiny/da2s-table-4/table.json").read_text()) for out in (everything, tmp_path))
    for a, b in zip(ours["rows"], again["rows"], strict=True):
        measured = ("before", "after", "lost")
        assert {name: b["values"][name] for name in measured} == {name: a["values"][name] for name in measured}
        assert b["values"]["before"]


@pytest.mark.slow
def test_a_finished_run_is_never_computed_again(everything, capsys):
    before = stamps(everything)
    assert main(["paper", "da2s-table-1", "da2s-table-4", "edas-table-1", "edas-memory", "--out", str(everything)]) == 0
    assert stamps(everything) == before
    assert main(["paper", "da2s-table-1", "--page", "--seeds", "2", "--out", str(everything)]) == 0
    assert stamps(everything) == before
    assert "(4 runs are still missing)" in capsys.readouterr().out


def test_experiments_share_a_run_by_settings_and_data_and_by_nothing_else(tmp_path):
    store, tiny = Store(tmp_path, DIGITS), SCALES["tiny"]
    plans = {name: Plan(EXPERIMENTS[name], tiny, 2, store) for name in ("edas-figure-3", "edas-table-2", "da2s-table-3",
                                                                        "da2s-table-1")}  # fmt: skip
    assert plans["edas-figure-3"].searches["darts"] == plans["edas-table-2"].searches["darts"]
    assert plans["da2s-table-3"].searches["lambda_2_log"] == plans["da2s-table-1"].searches["da2s"]
    jobs = plans["da2s-table-3"].searches
    assert len({job.folder for row in jobs.values() for job in row}) == 20
    wanted = searching("edas", tiny, 0)
    told = Searching("edas", {**wanted.settings, "draw": "one", "workers": 0})  # its default, and what changes nothing
    assert store.search(told).folder == store.search(wanted).folder
    assert (
        store.search(Searching("edas", {**wanted.settings, "draw": "per_kind"})).folder != store.search(wanted).folder
    )
    others = tmp_path / "others"
    for label in ("a", "b"):
        (others / label).mkdir(parents=True)
        for i in range(6):
            from PIL import Image

            Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(others / label / f"{i}.png")
    assert Store(tmp_path, Data(str(others))).search(wanted).folder != store.search(wanted).folder


def test_alpha_has_as_far_to_go_as_in_the_paper():
    small = SCALES["small"]
    assert searching("edas", small, 0).settings["alpha_lr"] == pytest.approx(0.025 * 25 * 391 / 372, rel=1e-3)
    assert searching("darts", small, 1).settings["alpha_lr"] == pytest.approx(3e-4 * 50 * 390 / 372, rel=1e-3)
    assert searching("edas_warmup", small, 0).settings["warmup_epochs"] == 2
    paper = searching("edas_warmup", SCALES["paper"], 3)
    assert paper.settings == {"seed": 3, "warmup_epochs": 10}
    assert searching("pc_darts", SCALES["paper"], 0).settings == {"seed": 0}


@pytest.mark.slow
def test_a_method_of_ones_own_stands_beside_the_papers_and_has_no_part_in_the_verdict(tmp_path, monkeypatch, capsys):
    guide = (Path(__file__).parents[3] / "docs" / "extending.md").read_text("utf-8")
    file = tmp_path / "my_gdas.py"
    file.write_text(re.findall(r"```python\n(.*?)```", guide, re.DOTALL)[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(outside, "_loaded", {})
    command, out = re.findall(r"`nas-zoo (paper edas-figure-3 --method \S+ --out (\S+))`", guide)[0]
    folder = Path(out) / "tiny" / "edas-figure-3"
    assert main(command.split()) == 0
    with_it = json.loads((folder / "table.json").read_text())
    page = (folder / "index.html").read_text("utf-8")
    before = stamps(Path(out))
    assert main(["paper", "edas-figure-3", "--page", "--out", out]) == 0
    without = json.loads((folder / "table.json").read_text())
    own = [row for row in with_it["rows"] if row["name"].startswith("my_gdas.py:MyGdas")]
    assert with_it["rows"] == [*without["rows"], *own]
    assert all(own[0]["values"].values())
    assert all(with_it[key] == without[key] for key in ("verdict", "seen", "checks"))
    assert 'class="line m-my_gdas-py-MyGdas bold"' in page
    assert ".m-my_gdas-py-MyGdas{--c:" in page
    assert str(tmp_path) not in page
    (log,) = (Path(out) / "logs").glob("my_gdas-py-MyGdas-s0-*/log.jsonl")
    assert RunLog.read(log)[0]["code"] == {"my_gdas.py:MyGdas": outside.find("my_gdas.py:MyGdas", "method").mark}
    borrowed = Store(tmp_path / "other", DIGITS, [log.parent]).search(searching("my_gdas.py:MyGdas", SCALES["tiny"], 0))
    assert borrowed.borrowed
    monkeypatch.setattr(outside, "_loaded", {})
    assert main([*command.split(), "--page"]) == 0
    assert stamps(Path(out)) == before
    file.write_text(file.read_text() + "# another\n")  # which makes it another method
    assert main([*command.split(), "--page"]) == 0
    assert "(1 run is still missing)" in capsys.readouterr().out
    assert (
        not Store(tmp_path / "x", DIGITS, [log.parent])
        .search(searching("my_gdas.py:MyGdas", SCALES["tiny"], 0))
        .borrowed
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["da2s-figure-5", "--method", "gdas"], "--method: da2s-figure-5 compares no methods; those that do are edas-"),
        (["edas-figure-3", "--method", "gdsa"], "got 'gdsa'; did you mean gdas?"),
        (["edas-figure-3", "--method", "no.py:Method"], "the file 'no.py' cannot be read"),
    ],
)
def test_a_further_method_that_cannot_stand_there_is_told(words, message, tmp_path, capsys):
    assert main(["paper", *words, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_further_method_is_searched_retrained_and_cut_as_darts_is():
    table_4 = EXPERIMENTS["da2s-table-4"].beside(["gdas", "darts"])
    assert list(table_4.further) == ["gdas"]  # darts is there
    assert table_4.searches["gdas"].case == "gdas"
    assert table_4.gaps["gdas"] == table_4.gaps["darts"]
    assert [rule for name, rule, _ in table_4.trains if name == "gdas"] == ["3/14", "4/14", "5/14", "6/14"]
    assert [t for t in EXPERIMENTS["edas-table-2"].beside(["gdas"]).trains if t[0] == "gdas"] == [("gdas", None, None)]
    assert EXPERIMENTS["edas-memory"].beside(["gdas"]).searches == {}
    assert EXPERIMENTS["da2s-table-4"].further == ()


@pytest.mark.slow
def test_a_stopped_experiment_goes_on_where_it_was(tmp_path, capsys):
    out = tmp_path / "out"
    words = ["paper", "edas-figure-3", "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "nas_zoo.cli", *words], stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while not any("epoch" in log.read_text() for log in (out / "runs").glob("edas-*/log.jsonl")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode in (143, 0)
    job = Plan(EXPERIMENTS["edas-figure-3"], SCALES["tiny"], 1, Store(out, DIGITS)).searches["darts"][0]
    if not job.finished:  # it may have been quicker than the signal
        stopped = [folder for folder in (out / "runs").iterdir() if not (folder / "derived.safetensors").exists()]
        assert main(words) == (2 if stopped else 0)
        assert bool(stopped) == ("has not finished; --resume goes on with it" in capsys.readouterr().err)
    assert main([*words, "--resume"]) == 0
    straight = tmp_path / "straight"
    assert main(["paper", "edas-figure-3", "--out", str(straight)]) == 0
    names = sorted(path.name for path in (straight / "runs").iterdir())
    assert names == sorted(path.name for path in (out / "runs").iterdir())
    for name in names:
        one, other = (RunLog.read(folder / "runs" / name)[-1]["alpha"] for folder in (out, straight))
        assert one == other


def test_a_run_with_settings_that_are_no_default_any_more_is_not_taken(tmp_path):
    store = Store(tmp_path, DIGITS)
    wanted = searching("random", SCALES["tiny"], 0)
    job = store.search(wanted)
    assert Launcher().run([job]) is None
    assert store.search(wanted).finished
    log = job.folder / "log.jsonl"
    log.write_text(log.read_text().replace('"momentum": 0.9', '"momentum": 0.8', 1))
    with pytest.raises(ValueError, match=r"was run with momentum 0.8, which is 0.9 by default now"):
        store.search(wanted)


def test_a_borrowed_log_stands_in_for_the_same_search_and_for_no_other(tmp_path):
    tiny = SCALES["tiny"]
    lent = Store(tmp_path / "lent", DIGITS).search(searching("random", tiny, 0))
    assert Launcher().run([lent]) is None
    for path in lent.folder.iterdir():
        if path.name != "log.jsonl":
            path.unlink()
    store = Store(tmp_path / "out", DIGITS, [tmp_path / "lent"])
    borrowed = store.search(searching("random", tiny, 0))
    assert (borrowed.folder, borrowed.finished) == (lent.folder, True)
    assert Launcher().run([borrowed]) is None
    trained = store.train(retraining(tiny, "DA2S"), borrowed)  # a log is enough for its cells
    assert (tmp_path / "out" / "runs" / "cells").exists()
    assert not trained.finished
    for other in (searching("random", tiny, 1), searching("random", tiny, 0, epochs=1), searching("darts", tiny, 0)):
        assert not store.search(other).finished
    settings = lent.folder / "log.jsonl"  # a setting that came later had its default then
    settings.write_text(settings.read_text().replace('"crop_padding": 4, ', "", 1))
    store = Store(tmp_path / "out", DIGITS, [tmp_path / "lent"])
    assert store.search(searching("random", tiny, 0)).finished
    assert not store.search(searching("random", tiny, 0, crop_padding=3)).finished


def test_a_search_for_other_edges_is_not_borrowed_for_one_that_names_none(tmp_path):
    """Two edges a node are the default, 8/14 written out; a search for 4/14 was taken for it."""
    wanted = searching("da2s", SCALES["small"], 0)
    assert wanted.settings.get("edges") is None
    logs = {name: tmp_path / name for name in ("da2s_e4", "da2s")}
    for name, folder in logs.items():
        folder.mkdir()
        text = (RESULTS / "comparison_cpu" / name / "log.jsonl").read_text("utf-8")
        (folder / "log.jsonl").write_text(text.replace("cifar10-jpeg-train.tar.xz", "digits"), "utf-8")
    found = Store(tmp_path, DIGITS, list(logs.values())).search(wanted)
    assert (found.borrowed, found.folder) == (True, logs["da2s"])
    assert not Store(tmp_path, DIGITS, [logs["da2s_e4"]]).search(wanted).borrowed


def test_cells_of_a_borrowed_log_are_those_of_the_rule_that_is_wanted(tmp_path):
    """Logs of EDAS by DARTS' rule stand in for EDAS by argmax; the cells of their own rule were retrained."""
    log, wanted = tmp_path / "logs" / "edas", searching("edas", SCALES["small"], 0)
    log.mkdir(parents=True)
    text = (RESULTS / "comparison_cpu" / "edas" / "log.jsonl").read_text("utf-8")
    (log / "log.jsonl").write_text(text.replace("cifar10-jpeg-train.tar.xz", "digits"), "utf-8")
    store = Store(tmp_path / "out", DIGITS, [tmp_path / "logs"])
    job = store.search(wanted)
    assert (job.borrowed, job.derive) == (True, "argmax")
    cells, own = cells_of_run(log, "argmax")[0], cells_of_run(log)[0]
    assert cells != own
    assert f"{cells.digest}.json" in " ".join(store.train(retraining(SCALES["small"], "EDAS"), job).words)
    run = _read(job, "EDAS")
    assert run.genotype("found") == cells
    assert run.derived("found") == run.derived("argmax")


def test_a_log_without_a_line_is_a_run_that_has_not_begun(tmp_path):
    wanted = searching("random", SCALES["tiny"], 0)
    folder = Store(tmp_path / "out", DIGITS).search(wanted).folder
    for place in (folder, tmp_path / "logs" / "random"):
        place.mkdir(parents=True)
        (place / "log.jsonl").touch()
    job = Store(tmp_path / "out", DIGITS, [tmp_path / "logs"]).search(wanted)
    assert (job.begun, job.finished, job.borrowed) == (False, False, False)
    with pytest.raises(ValueError, match=r"its log.jsonl is not that of a search that has ended an epoch"):
        cells_of_run(folder)


def test_a_network_that_none_has_won_everywhere_has_lost_nothing_that_is_known():
    def run(derived: float | None) -> Run:
        held = {"supernet": 0.5, "derived": {"argmax": derived}, "n": 100}
        return Run("a run", {"settings": {"method": "darts"}}, [{"epoch": 1, "held_out": held}])

    runs = {"edas": [run(0.5)], "alpha_max": [run(0.4)], "darts": [run(None), run(0.2)]}
    rows = edas_figure_3(Results(SCALES["tiny"], runs, {})).rows
    assert [row.values["lost"] for row in rows] == [[0.0], [pytest.approx(0.1)], [pytest.approx(0.3)]]


def test_a_deviation_that_the_paper_does_not_give_is_told_as_assumed():
    check = agrees("error 2.60", [2.5], 2.6, None, at_paper=True)
    assert check.words == "error 2.60 (the paper gives no deviation; 0.1 points are assumed)"
    assert check.holds is True


def test_a_count_of_multiply_adds_says_nothing_of_a_transfer():
    results: Any = SimpleNamespace(models={}, scale=SimpleNamespace(own=True))
    for name, paper in (("edas_in1k", None), ("da2s_in1k", (24.4, 5.0, 565.0))):
        found = transfer(results, name, paper, "")
        assert verdict(found.checks, "paper") == "not comparable at this scale"
        results.models[name] = [{"top1": 0.75}]
        assert verdict(transfer(results, name, paper, "").checks, "paper") == (
            "not comparable at this scale" if paper is None else "contradicted"
        )
        results.models[name] = [{"top1": 0.756}]
    assert verdict(transfer(results, "da2s_in1k", (24.4, 5.0, 565.0), "").checks, "paper") == "reproduced"


@pytest.mark.slow
def test_submitit_runs_the_shares_and_a_requeued_one_goes_on(tmp_path):
    pytest.importorskip("submitit")
    store = Store(tmp_path, DIGITS)
    jobs = [store.search(searching("random", SCALES["tiny"], seed)) for seed in range(2)]
    again = Share((jobs[0],)).checkpoint()
    assert again.function == Share((jobs[0],))
    assert again.function() is None  # what submitit calls when the job comes again
    assert [job.finished for job in jobs] == [True, False]
    launcher = Launcher("local", tmp_path / "jobs", devices=1)
    assert launcher.run(jobs) is None
    assert all(job.finished for job in jobs)
    assert list((tmp_path / "jobs").glob("*_result.pkl"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["edas-figure-9"], "there is no experiment 'edas-figure-9'"),
        (["edas-figure-3", "--scale", "huge"], "huge"),
        (["edas-figure-3", "--data", "no/such/images"], "no/such/images"),
        (["edas-figure-3", "--borrow", "no/such/logs"], "--borrow no/such/logs: there is no such folder"),
        (["edas-figure-3", "--hours", "0"], "--hours must be more than 0, got 0.0"),
        (["edas-figure-3", "--launcher", "slurm"], "--launcher slurm"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, told, tmp_path, capsys):
    try:
        code = main(["paper", *words, "--out", str(tmp_path)])
    except SystemExit as end:  # argparse
        code = int(end.code or 0)
    assert code == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


# The rule of the verdict ----------------------------------------------------------------------------------------------


def test_a_difference_within_two_standard_errors_decides_nothing():
    assert above("", [0.50], [0.45], n=100).holds is None  # standard errors of 0.05 each
    assert above("", [0.50], [0.45], n=10_000).holds is True
    assert above("", [0.45], [0.50], n=10_000).holds is False
    assert above("", [0.5, 0.9], [0.3, 0.6], n=10_000).holds is None  # the seeds differ more than chance
    assert above("", [], [0.5], n=100).holds is None
    assert better("", [0.60], [0.50], n=10_000).holds is None  # a seed alone
    assert better("", [0.60, 0.61], [0.50, 0.51], n=10_000).holds is True
    assert more_often("", [9], [4]).holds is None
    assert more_often("", [30], [4]).holds is True
    assert agrees("", [2.6], 2.51, 0.09, at_paper=True).holds is True
    assert agrees("", [2.8], 2.51, 0.09, at_paper=True).holds is False
    assert agrees("", [2.6], 2.51, 0.09, at_paper=False).holds is None


def test_a_figure_is_held_against_the_papers_standard_deviation_and_published_pages_say_so():
    assert agrees("", [2.51, 2.53], 2.51, 0.0, at_paper=True).holds is True  # 0.01 away, our standard error is 0.01
    assert agrees("", [2.54, 2.56], 2.51, 0.0, at_paper=True).holds is False
    assert agrees("", [2.54, 2.56], 2.51, 0.02, at_paper=True).holds is True
    assert "our standard error and the paper's standard deviation" in RULE
    for page in (Path(papers.__file__).parents[1] / "results" / "papers").rglob("index.html"):
        assert str(escape(RULE)) in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("direction", "figures", "scale", "expected"),
    [
        ([True], [True], "tiny", "not comparable at this scale"),
        ([None, None], [None], "small", "not comparable at this scale"),
        ([True, None], [None], "small", "the direction only"),
        ([True, True], [None], "small", "the direction only"),
        ([True, False], [None], "small", "contradicted"),
        ([True], [True], "paper", "reproduced"),
        ([True], [False], "paper", "contradicted"),
        ([True], [None], "paper", "the direction only"),
    ],
)
def test_the_verdict_follows_the_rule(direction, figures, scale, expected):
    checks = [exact("", holds) for holds in direction] + [Check("", holds, "figures") for holds in figures]
    assert verdict(checks, scale) == expected


def test_depth_and_marks():
    assert depth(load_genotype("darts_v2").normal) == 2
    assert marks(SCALES["paper"]) == [1, 21, 41, 61, 81, 100]
    assert marks(SCALES["tiny"]) == [1, 2, 3, 4, 5, 6]


class Quick:
    """Something to be done, as a share of runs sees a job."""

    told = "a quick one"
    finished = False

    def __call__(self) -> None:
        self.finished = True


def test_each_run_after_the_first_is_told_with_the_time_that_is_left(capsys):
    jobs: Any = (Quick(), Quick(), Quick())
    jobs[1].finished = True
    assert Share(jobs)() is None
    told = capsys.readouterr().out.split()
    assert " ".join(told) == "run 1 of 3: a quick one run 3 of 3, about 00:00 left: a quick one"
