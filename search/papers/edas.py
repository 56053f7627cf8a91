"""What the tables and figures of EDAS (https://arxiv.org/abs/1912.01237) ask to be computed."""

import numpy as np

from nas_zoo.genotype import KINDS, Cell, Genotype
from nas_zoo.search.papers.experiment import (
    RETRAINED,
    Experiment,
    Results,
    Wanted,
    accuracy_lines,
    edge_set,
    error_picture,
    in_percent,
    label,
    marks,
    params_m,
    percent,
    retrained,
    spread_picture,
    style,
    told_errors,
    transfer,
)  # fmt: skip
from nas_zoo.search.papers.findings import (
    Column,
    Findings,
    Picture,
    Row,
    above,
    agrees,
    better,
    exact,
    mean,
    more_often,
)
from nas_zoo.search.papers.scales import short_label
from nas_zoo.search.report import figures
from nas_zoo.search.report.figures import Line
from nas_zoo.search.report.history import Run

__all__ = ["EXPERIMENTS"]


def depth(cell: Cell) -> int:
    """Operations on the longest way from an input to the output."""
    longest = [0, 0]
    for edges in cell.nodes:
        longest.append(max((longest[edge.source] + 1 for edge in edges), default=0))
    return max(longest[node] for node in cell.concat)


def edas_figure_3(results: Results) -> Findings:
    order = ("edas", "alpha_max", "darts")
    shown = (*order, *results.further)
    derived = {name: results.figures(name, lambda run: run.derived("argmax")[-1]) for name in shown}
    supernet = {name: results.figures(name, lambda run: run.supernet[-1]) for name in shown}
    n = results.held_out
    rows = []

    def lost_by(run: Run) -> float | None:
        derived, supernet = run.derived("argmax")[-1], run.supernet[-1]
        return None if derived is None or supernet is None else supernet - derived

    for name in shown:
        # of cells that 'none' has won everywhere there is no network
        values = {"derived": derived[name], "supernet": supernet[name], "lost": results.figures(name, lost_by)}
        rows.append(Row(f"{label(name)}, every edge's strongest operation", style(name), values))
    lost = rows[0].values["lost"]
    checks = [
        above("EDAS' derived network ends above DARTS'", derived["edas"], derived["darts"], n),
        above("EDAS' derived network ends above alpha-max's", derived["edas"], derived["alpha_max"], n),
        above("DARTS loses when it is cut", supernet["darts"], derived["darts"], n),
        exact(
            "EDAS loses nothing (less than two points, or less than two standard errors)",
            None
            if not lost
            else mean(lost) < 0.02 or above("", supernet["edas"], derived["edas"], n).holds is not True,
        ),
    ]
    curves = [Line(short_label(name), f"{style(name)} bold", results.curve(name, lambda r: r.derived("argmax")))
              for name in shown]  # fmt: skip
    curves += [Line("its supernet", f"{style('darts')} thin", results.curve("darts", lambda r: r.supernet))]
    return Findings(
        "held-out accuracy of the derived network at the end: "
        + ", ".join(f"{label(name)} {percent(derived[name])}" for name in order)
        + f"; its supernet before: EDAS {percent(supernet['edas'])}, DARTS {percent(supernet['darts'])}",
        [in_percent("derived"), in_percent("supernet"), Column("lost", "points", 1, 100.0)],
        rows,
        checks,
        [Picture("Held-out accuracy of the derived network, %", accuracy_lines("Derived network", curves), "Figure 3")],
        ["The rule is argmax for all, as section 3.2 has it; DARTS' own is two edges a node.",
         f"The curve's points but the last are of fewer images; the last of {n:,}."],
    )  # fmt: skip


def cells_at_marks(results: Results) -> list[tuple[int, list[Genotype]]]:
    """Cells of the long search at the marks, one a seed; the result's, which is retrained, first."""
    found = []
    for number, epoch in reversed(list(enumerate(marks(results.scale)))):
        cells = [g for run in results.runs("long") if (g := run.genotype("argmax", epoch - 1)) is not None]
        found.append((number, cells))
    return found


_LETTERS, _EPOCHS = "abcdef", (0, 20, 40, 60, 80, 99)
_TABLE_1 = ((2.89, 96.87), (2.89, 97.15), (3.07, 97.14), (2.89, 97.15), (3.27, 97.22), (3.09, 97.21))


def edas_figure_4(results: Results) -> Findings:
    rows, pictures = [], []
    depths: dict[int, list[float]] = {}
    common: dict[int, list[float]] = {}
    at = dict(cells_at_marks(results))
    for number, genotypes in cells_at_marks(results):
        depths[number] = [float(depth(g.normal)) for g in genotypes]
        before = at.get(number - 1, [])
        common[number] = [
            len(edge_set(g, "normal") & edge_set(b, "normal")) / max(1, len(edge_set(g, "normal")))
            for g, b in zip(genotypes, before, strict=False)
        ]
        epoch = marks(results.scale)[number]
        rows.append(
            Row(f"({_LETTERS[number]}) after epoch {epoch}", style("edas"),
                {"depth": depths[number], "edges kept": common[number],
                 "edges": [float(len(edge_set(g, "normal"))) for g in genotypes]}, {})
        )  # fmt: skip
        if genotypes:
            name = f"({_LETTERS[number]}) epoch {epoch}"
            pictures.append(Picture(name, figures.cell_rails(f"Normal cell, {name}", genotypes[0].normal)))
    known = len(at) == 6 and all(depths[i] for i in range(6))
    line = [mean(depths[i]) for i in range(6)] if known else []
    alike = [v for i in range(2, 6) for v in common[i]]
    return Findings(
        "depth of the normal cell at the six marks "
        + (", ".join(f"{v:.1f}" for v in line) or "nothing yet")
        + (f"; from (b) to (f) {percent(alike)} of the edges stay from mark to mark" if alike else ""),
        [Column("depth", "", 1), in_percent("edges kept"), Column("edges", "", 1)],
        rows,
        [
            exact("the depth falls from (a) to (d)", None if not line or line[0] == line[3] else line[3] < line[0]),
            exact("the depth rises from (d) to (f)", None if not line or line[5] == line[3] else line[5] > line[3]),
            exact("cells (b) to (f) are alike: half of the edges or more stay from mark to mark",
                  None if not alike else mean(alike) >= 0.5),
        ],
        pictures[::-1],
        ["Paper: drawings, no numbers. Marks are 0, 20, 40, 60, 80 and 99 of 100 epochs, as parts of the search."],
    )  # fmt: skip


def edas_table_1(results: Results) -> Findings:
    rows = []
    for number, genotypes in cells_at_marks(results):
        size, accuracy = _TABLE_1[number]
        errors = results.errors("long", None, number)
        rows.append(
            Row(f"({_LETTERS[number]}) after epoch {marks(results.scale)[number]}", style("edas"),
                {"parameters": [params_m(g) for g in genotypes], "accuracy": [1 - e for e in errors]},
                {"parameters": f"{size:.2f}", "accuracy": f"{accuracy:.2f}"})
        )  # fmt: skip
    last, first = rows[0].values["accuracy"], rows[-1].values["accuracy"]
    return Findings(
        f"test accuracy of the retrained cells {percent(first)} at the first mark, {percent(last)} at the last",
        [in_percent("accuracy", 2), Column("parameters", "M", 2)],
        rows,
        [
            better("the last cells are better than the first", last, first, results.tested() or 1),
            agrees("accuracy of the last cells: 97.21", [100 * v for v in last], 97.21, None, results.scale.own),
        ],
        [spread_picture(rows, "accuracy", "Test accuracy, %", 100, {r.name: float(r.paper["accuracy"]) for r in rows}
                        if results.scale.own else {})],
    )  # fmt: skip


def changes(run: Run) -> list[float]:
    """Edges of all 28 whose strongest operation changed in epochs 2, 3 ..."""
    both = [run.changed_edges(kind)[1:] for kind in KINDS]
    return [float((a or 0) + (b or 0)) for a, b in zip(*both, strict=True)]


def edas_figure_5(results: Results) -> Findings:
    order = ("edas", "alpha_max", "edas_warmup", "edas_warmup_weights", *results.further)
    counts = {name: results.figures(name, lambda run: sum(changes(run))) for name in order}
    late = {name: results.figures(name, lambda run: sum(changes(run)[len(changes(run)) // 2 :])) for name in order}
    taus = {
        name: results.figures(
            name, lambda run: mean([v for kind in KINDS for v in run.kendall_tau(kind)[1:] if v is not None])
        )
        for name in order
    }
    said = {"edas": "several times", "alpha_max": "does not change", "edas_warmup": "dynamically, then steadily"}
    rows = [
        Row(label(name), style(name), {"changes": counts[name], "in the second half": late[name], "tau": taus[name],
                                       "derived": results.figures(name, lambda run: run.derived("argmax")[-1])},
            {"changes": said.get(name, "")})
        for name in order if counts[name]
    ]  # fmt: skip
    curve = {name: results.curve(name, lambda run: [None, *changes(run)]) for name in order}
    top = max((v or 0 for values in curve.values() for v in values), default=1)
    top = max(2, 2 * round(top / 2 + 0.5))
    known = [name for name in order if any(value is not None for value in curve[name])]
    lines = [Line(short_label(name), f"{style(name)} bold", curve[name]) for name in known]
    tau_lines = [
        Line(short_label(name), f"{style(name)} bold",
             results.curve(name, lambda run: [None, *((a or 0) / 2 + (b or 0) / 2 for a, b in zip(
                 run.kendall_tau("normal")[1:], run.kendall_tau("reduce")[1:], strict=True))]))
        for name in known
    ]  # fmt: skip
    told = [name for name in order if counts[name] and name not in results.further]
    no_change = None if not counts["alpha_max"] else mean(counts["alpha_max"]) == 0
    return Findings(
        "changes of an edge's strongest operation after the first epoch, of 28 edges: "
        + (", ".join(f"{label(name)} {mean(counts[name]):g}" for name in told) or "nothing yet"),
        [Column("changes", "edges", 1), Column("in the second half", "edges", 1), Column("tau", "", 2),
         in_percent("derived")],
        rows,
        [
            exact("alpha-max's strongest operations never change after the first epoch", no_change),
            more_often("EDAS changes them more often than alpha-max", counts["edas"], counts["alpha_max"]),
            more_often("EDAS with warm-up changes them more often than EDAS", counts["edas_warmup"], counts["edas"]),
            more_often("with warm-up they go on changing in the second half, more than with EDAS", late["edas_warmup"],
                       late["edas"]),
        ],
        [
            Picture("Edges whose strongest operation has changed since the epoch before", figures.lines(
                "Changes of the strongest operation", lines, y_range=(0, top), y_ticks=[0, top / 2, top]), "of 28"),
            Picture("Kendall's tau of the operations' order", figures.lines(
                "Kendall's tau", tau_lines, y_range=(0, 1), y_ticks=[0, 0.5, 1], end_format="{:.2f}"),
                "1: as an epoch before; mean over all edges"),
        ],
        ["The paper shows three edges of 28; here all are counted. Its Figure 5 has no numbers.",
         "The warm-up in the weight step alone is this project's second reading of Eq. 3, not the paper's."],
    )  # fmt: skip


def edas_table_2(results: Results) -> Findings:
    papers = {
        "edas": (2.92, 3.44), "edas_warmup": (2.86, 3.15), "c100": (17.61, 3.18), "c100_warmup": (17.16, 4.06),
        "darts": (3.00, 3.3),
    }  # fmt: skip
    of_paper = ("edas", "edas_warmup", "darts", "c100", "c100_warmup")
    names = {"c100": "EDAS, CIFAR-100", "c100_warmup": "EDAS with warm-up, CIFAR-100"}
    rows = []
    for name in (*of_paper, *results.further):
        rule = "found" if name == "darts" or name in results.further else "argmax"
        cost = "1.5 GPU-days" if name == "darts" else "0.125 GPU-days"
        paper = (*(f"{figure:.2f}" for figure in papers[name]), cost) if name in papers else ()
        kind = name.replace("c100_warmup", "edas_warmup").replace("c100", "edas")
        classes = 100 if name.startswith("c100") else 10
        rows.append(retrained(results, name, paper, rule=rule, classes=classes, title=names.get(name), kind=kind))
    found = {row.name: row for row in rows}
    error_of = {name: results.errors(name) for name in papers}
    n = results.tested() or 1
    seconds = {name: found[label(name)].values["search"] for name in ("edas", "darts")}
    faster = None if not all(seconds.values()) else mean(seconds["edas"]) < mean(seconds["darts"])
    ratio = f"{mean(seconds['darts']) / mean(seconds['edas']):.1f}" if all(seconds.values()) else "?"
    checks = [
        better("EDAS' error is below DARTS'", error_of["darts"], error_of["edas"], n),
        better("with warm-up it is below that without", error_of["edas"], error_of["edas_warmup"], n),
        exact("EDAS' search takes less time than DARTS'", faster),
        *(agrees(f"error of {row.name}: {row.paper['test error, retrained']}",
                 [100 * v for v in row.values["test error, retrained"]], papers[name][0], None, results.scale.own)
          for name, row in zip(of_paper, rows[: len(of_paper)], strict=True)),
    ]  # fmt: skip
    paper_errors = {row.name: float(row.paper["test error, retrained"]) for row in rows if row.paper}
    return Findings(
        f"{told_errors(row for row in rows if row.paper)}; DARTS' search takes {ratio} times EDAS'",
        RETRAINED,
        rows,
        checks,
        [error_picture(rows, paper_errors if results.scale.own else {})],
        ["Parameters are counted at C = 36 and 20 cells. CIFAR-100 is searched at scale paper only."],
    )


def edas_memory(results: Results) -> Findings:
    measured = (results.measured or {}).get("networks", {})
    cells = results.scale.memory_cells
    rows = []
    for name in (*(f"EDAS, {count} cells" for count in reversed(cells)), *(f"DARTS, {count} cells" for count in cells)):
        values = {"memory": [measured[name]["gb"]], "iteration": [measured[name]["median"]]} if name in measured else {}
        compared = name in (f"EDAS, {cells[-1]} cells", f"DARTS, {cells[0]} cells")
        paper = {"memory": "12 GB are enough"} if compared else {}
        rows.append(Row(name, style("edas" if name.startswith("EDAS") else "darts"), values, paper))
    for name in measured:
        if name not in {row.name for row in rows}:
            values = {"memory": [measured[name]["gb"]], "iteration": [measured[name]["median"]]}
            rows.append(Row(name, style(measured[name]["method"]), values))
    darts = measured.get(f"DARTS, {cells[0]} cells")
    for row in rows:
        if darts and row.name in measured:
            pairs = zip(measured[row.name]["seconds"], darts["seconds"], strict=True)
            row.values = {**row.values, "time over DARTS": [float(np.median([a / b for a, b in pairs]))]}
    deep, shallow = measured.get(f"EDAS, {cells[-1]} cells"), measured.get(f"DARTS, {cells[0]} cells")
    same = measured.get(f"EDAS, {cells[0]} cells")
    known = bool(deep and shallow and same)
    return Findings(
        "nothing yet" if not known else
        f"EDAS' iteration with {cells[-1]} cells takes {deep['gb']:.2f} GB, DARTS' with {cells[0]} "
        f"{shallow['gb']:.2f}; with {cells[0]} cells each, EDAS' takes {same['median'] / shallow['median']:.2f} of "
        "DARTS' time",
        [Column("memory", "GB", 3), Column("iteration", "s", 3), Column("time over DARTS", "", 2)],
        rows,
        [
            exact(f"EDAS with {cells[-1]} cells needs no more memory than DARTS with {cells[0]}",
                  deep["gb"] <= shallow["gb"] if known else None),
            exact(f"EDAS' iteration is faster than DARTS' at {cells[0]} cells",
                  same["median"] < shallow["median"] if known else None),
        ],
        [spread_picture(rows, "memory", "Memory of an iteration, GB", form="{:.2f}"),
         spread_picture(rows, "time over DARTS", f"Time of an iteration over DARTS' with {cells[0]} cells",
                        form="{:.2f}")],
        [f"C = {results.scale.memory_size[0]}, {results.scale.memory_size[1]} pixels, batch "
         f"{results.scale.memory_size[2]}; memory is tensor data alive during an architecture and a weight step beyond "
         "what was alive before, so it scales with the batch and the comparison does not depend on it.",
         "Times are medians of rounds in which all had their turn, in one process; the ratio is the median of the "
         "rounds' ratios."],
    )  # fmt: skip


def edas_transfer(results: Results) -> Findings:
    return transfer(results, "edas_in1k", None, "The paper gives no figure of the transfer.")


_EDAS_THREE = {name: Wanted(name) for name in ("edas", "alpha_max", "darts")}

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        "edas-figure-3", "EDAS", "Figure 3",
        "through the search EDAS' derived network is above those of alpha-max and DARTS, and nothing is lost at "
        "derivation", edas_figure_3, _EDAS_THREE, like="darts",
    ),
    Experiment(
        "edas-figure-4", "EDAS", "Figure 4",
        "the normal cell's depth falls in the first epochs and rises once in the middle; cells (b) to (f) are alike",
        edas_figure_4, {"long": Wanted("edas", long=True)},
    ),
    Experiment(
        "edas-table-1", "EDAS", "Table 1",
        "retrained, the cells get better as the search goes on (96.87 to 97.21 %), without a pattern in their size",
        edas_table_1, {"long": Wanted("edas", long=True)}, [("long", None, number) for number in range(6)],
    ),
    Experiment(
        "edas-table-2", "EDAS", "Table 2",
        "error 2.92 % on CIFAR-10 (2.86 with warm-up), 17.61 % (17.16) on CIFAR-100, against 3.00 of DARTS, at a "
        "twelfth of its search time", edas_table_2,
        {"edas": Wanted("edas"), "edas_warmup": Wanted("edas_warmup"), "darts": Wanted("darts"),
         "c100": Wanted("edas", data="cifar100"), "c100_warmup": Wanted("edas_warmup", data="cifar100")},
        [(name, None, None) for name in ("edas", "edas_warmup", "darts", "c100", "c100_warmup")], like="darts",
    ),
    Experiment(
        "edas-figure-5", "EDAS", "Figure 5",
        "with alpha-max the ranking of the operations never changes, with EDAS several times, with warm-up much at "
        "first and steadily after", edas_figure_5,
        {name: Wanted(name) for name in ("edas", "alpha_max", "edas_warmup", "edas_warmup_weights")},
        like="alpha_max",
    ),
    Experiment(
        "edas-memory", "EDAS", "section 4.1",
        "a supernet of 20 cells fits into the memory that DARTS' 8 cells take (12 GB), at a fraction of the time",
        edas_memory, memory=("edas", "darts"), like="darts",
    ),
    Experiment(
        "edas-transfer", "EDAS", "section 4.3", "the cells found on CIFAR transfer to ImageNet", edas_transfer,
        models={"edas_in1k": "imagenet"},
    ),
)  # fmt: skip
