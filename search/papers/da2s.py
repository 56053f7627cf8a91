"""What the tables and figures of DA2S (https://arxiv.org/abs/2007.03154) ask to be computed."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nas_zoo.genotype import KINDS, Cell, Edge
from nas_zoo.search.papers.experiment import (
    ERROR,
    RETRAINED,
    Experiment,
    Results,
    Wanted,
    accuracy_lines,
    edge_set,
    error_picture,
    in_percent,
    label,
    percent,
    retrained,
    style,
    told_errors,
    transfer,
)  # fmt: skip
from nas_zoo.search.papers.findings import (
    Check,
    Column,
    Findings,
    Picture,
    Row,
    above,
    agrees,
    better,
    exact,
    mean,
)
from nas_zoo.search.report import figures
from nas_zoo.search.report.figures import Line, Pair
from nas_zoo.search.report.history import Run

__all__ = ["EXPERIMENTS"]


def da2s_table_1(results: Results) -> Findings:
    paper = {
        "da2s": ("2.51 ± 0.09 (best 2.42)", "3.4", "0.3 GPU-days"),
        "darts": ("3.00 ± 0.14", "3.3", "0.4 GPU-days"),
    }
    rows = [retrained(results, name, paper.get(name, ())) for name in ("da2s", "darts", *results.further)]
    error = {name: results.errors(name) for name in ("da2s", "darts")}
    return Findings(
        f"test error of the retrained networks: DA2S {percent(error['da2s'])}, DARTS {percent(error['darts'])}",
        RETRAINED,
        rows,
        [
            better("DA2S' error is below DARTS'", error["darts"], error["da2s"], results.tested() or 1),
            agrees("DA2S' error: 2.51", [100 * v for v in error["da2s"]], 2.51, 0.09, results.scale.own),
        ],
        [error_picture(rows, {"DA2S": 2.51, "DARTS": 3.00} if results.scale.own else {})],
        ["DARTS of the first order; the paper's baseline of 2.76 is the second."],
    )  # fmt: skip


_CONTROLS = ("linear", "log", "step", "const", "exp")
_TABLE_2 = {
    "const": (2.64, 0.14),
    "log": (2.56, 0.06),
    "exp": (2.78, 0.11),
    "step": (2.60, 0.07),
    "linear": (2.54, 0.02),
}
_TABLE_3 = {
    "lambda_1": {"const": (2.74, 0.03), "linear": (2.57, 0.02), "exp": (2.53, 0.02), "step": (2.54, 0.05),
                 "log": (2.64, 0.03)},
    "lambda_2": {"const": (2.56, 0.03), "linear": (2.68, 0.02), "exp": (2.60, 0.03), "step": (2.57, 0.06),
                 "log": (2.51, 0.09)},
}  # fmt: skip


def _errors_table(
    results: Results,
    rows: Mapping[str, tuple[str, str, tuple[float, float]]],
    checks: Sequence[Check],
    notes: Sequence[str],
) -> Findings:
    """A table of retrained errors: name -> (search, style, the paper's mean and deviation)."""
    table = [
        Row(name, look, {"test error, retrained": results.errors(search),
                         "supernet": results.figures(search, lambda run: run.supernet[-1]),
                         "found": results.figures(search, lambda run: run.derived("found")[-1])},
            {"test error, retrained": f"{value:.2f} ± {deviation:.2f}"})
        for name, (search, look, (value, deviation)) in rows.items()
    ]  # fmt: skip
    own = results.scale.own
    figures_hold = [
        agrees(f"error of {name}: {value:.2f}", [100 * v for v in results.errors(search)], value, deviation, own)
        for name, (search, _, (value, deviation)) in rows.items()
    ]
    return Findings(
        told_errors(table),
        [ERROR, in_percent("supernet"), in_percent("found")],
        table,
        [*checks, *figures_hold],
        [error_picture(table, {name: value for name, (_, _, (value, _)) in rows.items()} if own else {})],
        notes,
    )  # fmt: skip


def da2s_table_2(results: Results) -> Findings:
    rows = {f"lambda_c {name}": (name, style("da2s"), _TABLE_2[name]) for name in _CONTROLS}
    rows["baseline (DARTS)"] = ("darts", style("darts"), (2.76, 0.09))
    error, n = {name: results.errors(name) for name in (*_CONTROLS, "darts")}, results.tested() or 1
    checks = [
        better("linear is better than exp", error["exp"], error["linear"], n),
        better("log is better than exp", error["exp"], error["log"], n),
        better("linear is better than the baseline", error["darts"], error["linear"], n),
    ]
    notes = ["lambda_1 and lambda_2 are const, as in the paper. The baseline is DARTS of the first order here."]
    return _errors_table(results, rows, checks, notes)


def da2s_table_3(results: Results) -> Findings:
    rows = {}
    for fixed, delayed in (("lambda_2", "lambda_1"), ("lambda_1", "lambda_2")):
        for name in ("log", "step", "const", "exp", "linear"):
            rows[f"{fixed} = 1, {delayed} {name}"] = (f"{fixed}_{name}", style("da2s"), _TABLE_3[fixed][name])
    error, n = {name: results.errors(name) for name, _, _ in rows.values()}, results.tested() or 1
    checks = [
        better("with lambda_2 = 1, log is better than linear", error["lambda_2_linear"], error["lambda_2_log"], n),
        better("with lambda_1 = 1, step is better than const", error["lambda_1_const"], error["lambda_1_step"], n),
        better("the best of lambda_2 = 1 (log) is better than the best of lambda_1 = 1 (exp)", error["lambda_1_exp"],
               error["lambda_2_log"], n),
    ]  # fmt: skip
    return _errors_table(
        results, rows, checks, ["lambda_c is linear; the delayed one is 0 in the first 8 of 50 epochs."]
    )


_CONFIGURATIONS = ("3/14", "4/14", "5/14", "6/14")
_TABLE_4 = {
    "3/14": (("5.83 ± 1.21", 87.87, 10.03), ("3.67 ± 0.24", 85.52, 64.23)),
    "4/14": (("4.79 ± 1.17", 87.87, 9.87), ("2.94 ± 0.09", 85.63, 85.42)),
    "5/14": (("3.23 ± 0.08", 87.87, 10.12), ("2.72 ± 0.06", 84.76, 71.85)),
    "6/14": (("2.91 ± 0.05", 87.87, 9.96), ("2.64 ± 0.02", 84.29, 64.24)),
}


def _cut(run: Run, cells: str, weights: Sequence[str]) -> tuple[float, float] | None:
    """Held-out accuracy before and after cutting a supernet to these cells in such a way; None: not measured."""
    for row in run.gap_rows():
        if row["cells"] == cells and row["edge_weights"] in weights and row["running"] is not None:
            return row["before"]["running"], row["running"]
    return None


def da2s_table_4(results: Results) -> Findings:
    rows, pairs, checks = [], [], []
    n, tested = results.held_out, results.tested() or 1
    told = []
    for edges in _CONFIGURATIONS:
        darts_paper, da2s_paper = _TABLE_4[edges]
        ours: dict[str, Any] = {}
        # what is retrained has no edge weights: its row is the first
        two = (("what is retrained", ("plain",)), ("edge weights kept", ("shared out",)))
        for name, search, cells, paper, ways in (
            ("DA2S", edges, "found", da2s_paper, two),
            ("DARTS", "darts", edges, darts_paper, (("what is retrained", ("none",)),)),
            *((f"{label(other)}, a further method", other, edges, None, (("what is retrained", ("none", "plain")),))
              for other in results.further),
        ):  # fmt: skip
            for words, weights in ways:
                both = [pair for run in results.runs(search) if (pair := _cut(run, cells, weights))]
                before, after = [b for b, _ in both], [a for _, a in both]
                values = {"before": before, "after": after, "lost": [b - a for b, a in both]}
                first = words == "what is retrained"
                errors = results.errors(search, None if search == edges else edges)
                values |= {"test error, retrained": errors} if first else {}
                at = {} if paper is None or not first else {
                    "before": f"{paper[1]:.2f}", "after": f"{paper[2]:.2f}", "lost": f"{paper[1] - paper[2]:.2f}",
                    "test error, retrained": paper[0],
                }  # fmt: skip
                look = style("da2s" if search == edges else search)
                rows.append(Row(f"{edges} {name}, {words}", look, values, at))
                if first and paper is not None:  # a further method has no part in the verdict
                    ours[name] = values
                if both:
                    pairs.append(Pair(rows[-1].name, mean(before), mean(after), look))
        lost = {name: ours[name]["lost"] for name in ("DA2S", "DARTS")}
        if all(lost.values()):
            told.append(
                f"{edges} DARTS loses {100 * mean(lost['DARTS']):.1f} points, DA2S {100 * mean(lost['DA2S']):.1f}"
            )
        checks.append(above(f"{edges}: DARTS loses more than DA2S when it is cut", _shares(lost["DARTS"]),
                            _shares(lost["DA2S"]), n or 1))  # fmt: skip
        error = {name: ours[name]["test error, retrained"] for name in ("DA2S", "DARTS")}
        checks.append(better(f"{edges}: DA2S' retrained error is below DARTS'", error["DARTS"], error["DA2S"], tested))
        for name, paper in (("DA2S", da2s_paper), ("DARTS", darts_paper)):
            value, deviation = (float(word) for word in paper[0].split(" ± "))
            ours_percent = [100 * v for v in error[name]]
            checks.append(
                agrees(f"{edges}: {name}' error {value:.2f}", ours_percent, value, deviation, results.scale.own)
            )
    return Findings(
        "; ".join(told) or "nothing yet",
        [in_percent("before"), in_percent("after"), Column("lost", "points", 1, 100.0), ERROR],
        rows,
        checks,
        [Picture("Supernet (ring) → after discretization (disc), %", figures.pairs("Before and after", pairs), "")],
        ["Before and after are held-out accuracies of one supernet with running BatchNorm statistics. What is "
         "retrained has plain sums at its nodes; with its edge weights kept the cut supernet is the one that DA2S "
         "trained, which is probably what the paper measures. DARTS is searched once and cut to each number of edges."],
    )  # fmt: skip


def _shares(values: Sequence[float]) -> list[float]:
    """Losses as shares for the statistics: a gain is none."""
    return [min(1.0, max(0.0, v)) for v in values]


def da2s_figures_3_4(results: Results) -> Findings:
    runs = results.runs("da2s")
    over = [_passed(run) for run in runs]
    half = [next((epoch for epoch, share in enumerate(shares, 1) if share >= 0.5), None) for shares in over]
    final = [float(np.mean([run.alpha[kind][-1].max(axis=1).mean() for kind in KINDS])) for run in runs]
    two = [_two_edges(run) for run in runs]
    planned = runs[0].planned if runs else 0
    reached = [h for h in half if h is not None]
    values = {
        "half above 0.5": [h / planned for h in reached], "largest at last": final, "two edges": two,
        "above 0.5 at last": [shares[-1] for shares in over],
    }  # fmt: skip
    pictures = [
        Picture("Edges whose largest softmax of alpha is above 0.5, % of 28", accuracy_lines(
            "Edges above 0.5", [Line("DA2S", f"{style('da2s')} bold", results.curve("da2s", _passed))]), "")
    ]  # fmt: skip
    for run in runs[:1]:
        tiles = [
            figures.tile(f"Edge {source} to {node}", [
                Line(o, f"op-{o}", run.alpha["normal"][:, e, i].tolist()) for i, o in enumerate(run.operations)
            ], y_range=(0, 1), reference=1 / len(run.operations))
            for e, (node, source) in enumerate(run.edges)
        ]  # fmt: skip
        pictures.append(Picture("Softmax of alpha in the normal cell, edge by edge", "".join(tiles),
                                f"seed {run.settings['seed']}, as Figure 3; colours are operations"))  # fmt: skip
        tiles = [
            figures.tile(f"Node {node}", [Line(f"input {i}", f"input-{i}", part[:, i].tolist()) for i in range(node)],
                         y_range=(0, 1), reference=1 / node)
            for node, part in enumerate(run.beta["normal"], 2)
        ]  # fmt: skip
        words = f"seed {run.settings['seed']}, nodes 2 to 5, as Figure 4; colours are inputs"
        pictures.append(Picture("Softmax of beta in the normal cell, node by node", "".join(tiles), words))
    told = "nothing yet"
    if runs:
        passed = f"pass 0.5 in epoch {', '.join(map(str, reached))} of {planned}" if reached else "never pass 0.5"
        seeds = f" ({len(reached)} of {len(half)} seeds)" if 0 < len(reached) < len(half) else ""
        told = (
            f"half of the 28 edges {passed}{seeds}; at last the largest softmax is {mean(final):.2f} on average; "
            f"{percent(two)} of the nodes 3 to 5 share their weight between two inputs"
        )
    in_time = bool(reached) and 0.3 <= mean(values["half above 0.5"]) <= 0.5 if runs and results.scale.own else None
    return Findings(
        told,
        [Column("half above 0.5", "% of the epochs", 0, 100.0), Column("largest at last", "", 2),
         in_percent("above 0.5 at last"), in_percent("two edges")],
        [Row("DA2S 8/14", style("da2s"), values,
             {"half above 0.5": "about 20 of 50 epochs: 40", "largest at last": "towards 1", "two edges": "all"})],
        [
            exact("the operations differentiate: at last half of the edges or more are above 0.5",
                  None if not runs else mean(values["above 0.5 at last"]) >= 0.5),
            exact("at last one operation has nearly all: the mean of the largest is above 0.9",
                  None if not runs else mean(final) > 0.9),
            exact("two edges a node survive: two inputs hold 0.9 of the weight, a third or more each",
                  None if not runs else mean(two) > 0.5),
            Check("it takes about 20 of 50 epochs (0.3 to 0.5 of the search)", in_time, "figures"),
        ],
        pictures,
    )  # fmt: skip


def _passed(run: Run) -> list[float]:
    """The share of all edges whose largest softmax of alpha is above 0.5, in each epoch."""
    both = np.concatenate([run.alpha[kind].max(axis=2) for kind in KINDS], axis=1)
    return (both > 0.5).mean(axis=1).tolist()


def _two_edges(run: Run) -> float:
    """The share of nodes 3 to 5 of both kinds at which two inputs hold 0.9 of softmax(beta), a third or more each."""
    last = [np.sort(part[-1])[::-1] for kind in KINDS for part in run.beta[kind][1:]]
    return float(np.mean([b[:2].sum() > 0.9 and b[1] >= 1 / 3 for b in last]))


def da2s_figure_5(results: Results) -> Findings:
    from nas_zoo.search.methods.da2s import control

    curves = {
        name: [control(name, t, 50, 8) for t in range(1, 51)] for name in ("const", "log", "step", "linear", "exp")
    }
    lines = [Line(name, f"control-{name} bold", values) for name, values in curves.items()]
    grows = all(b >= a for values in curves.values() for a, b in itertools.pairwise(values))
    order = [curves[name][19] for name in ("const", "log", "linear", "exp")]
    rises = [t for t in range(2, 51) if curves["step"][t - 1] > curves["step"][t - 2]]
    return Findings(
        f"the code's five functions end at 1 and never fall; step rises at epochs {', '.join(map(str, rises))}",
        [Column("epoch 1", "", 2), Column("epoch 20", "", 2), Column("epoch 50", "", 2)],
        [Row(name, f"control-{name}", {"epoch 1": [v[0]], "epoch 20": [v[19]], "epoch 50": [v[-1]]})
         for name, v in curves.items()],
        [
            exact("none of the functions falls and all end at 1", grows and all(v[-1] == 1 for v in curves.values())),
            exact("in epoch 20 const is above log, log above linear, linear above exp", order == sorted(order)[::-1]),
        ],
        [Picture("The five control functions over 50 epochs", figures.lines(
            "Control functions", lines, y_range=(0, 1), y_ticks=[0, 0.5, 1], end_format="{:.0f}"),
            "drawn from the code that runs")],
    )  # fmt: skip


#: The normal cell of the authors' published curves (node 2 to 5: operation, source).
_PUBLISHED = {
    (2, 0, "sep_conv_3x3"), (2, 1, "sep_conv_3x3"), (3, 0, "sep_conv_3x3"), (3, 2, "dil_conv_5x5"),
    (4, 0, "sep_conv_3x3"), (4, 2, "dil_conv_3x3"), (5, 0, "skip_connect"), (5, 2, "dil_conv_5x5"),
}  # fmt: skip


def da2s_figure_6(results: Results) -> Findings:
    found = [(run, g) for run in results.runs("da2s") if (g := run.genotype("found")) is not None]
    common = [len({e[:2] for e in edge_set(g, "normal")} & {e[:2] for e in _PUBLISHED}) / 8 for _, g in found]
    alike = [len(edge_set(g, "normal") & _PUBLISHED) / 8 for _, g in found]
    convolutions = [sum("conv" in e[2] for e in edge_set(g, "normal")) / 8 for _, g in found]
    nodes: list[list[Edge]] = [[] for _ in range(4)]
    for node, source, operation in sorted(_PUBLISHED):
        nodes[node - 2].append(Edge(operation, source))
    theirs = Cell(nodes=tuple(map(tuple, nodes)), concat=(2, 3, 4, 5))
    pictures = [
        Picture(f"Normal cell, seed {run.settings['seed']}", figures.cell_rails("Our normal cell", g.normal))
        for run, g in found
    ]
    pictures.append(Picture("Normal cell of the authors' published curves",
                            figures.cell_rails("The authors' normal cell", theirs)))  # fmt: skip
    return Findings(
        "nothing yet" if not found else
        f"of the 8 edges of the authors' normal cell ours has {8 * mean(common):.1f}, {8 * mean(alike):.1f} of them "
        f"with the same operation; {percent(convolutions)} of its operations are convolutions",
        [in_percent("edges in common"), in_percent("with the operation"), in_percent("convolutions")],
        [Row("DA2S 8/14, normal cell", style("da2s"),
             {"edges in common": common, "with the operation": alike, "convolutions": convolutions},
             {"convolutions": "87.5"})],
        [exact("the cell found is made of convolutions mostly", None if not found else mean(convolutions) > 0.5)],
        pictures,
        ["Two random choices of 8 edges, two a node, have 5.1 of 8 in common on average."],
    )  # fmt: skip


def da2s_table_5(results: Results) -> Findings:
    return transfer(results, "da2s_in1k", (24.4, 5.0, 565.0), "The cells are those of our own search, not the paper's.")


_LAMBDAS = {"lambda_1": "const", "lambda_2": "const"}

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        "da2s-table-1", "DA2S", "Table 1", "error 2.51 ± 0.09 % (best 2.42), below DARTS'", da2s_table_1,
        {"da2s": Wanted("da2s"), "darts": Wanted("darts")}, [("da2s", None, None), ("darts", None, None)], like="darts",
    ),
    Experiment(
        "da2s-table-2", "DA2S", "Table 2", "lambda_c that grows fast at first (linear, log) is best, exp worst",
        da2s_table_2,
        {name: Wanted("da2s", {"lambda_c": name, **_LAMBDAS}) for name in _CONTROLS} | {"darts": Wanted("darts")},
        [(name, None, None) for name in (*_CONTROLS, "darts")],
    ),
    Experiment(
        "da2s-table-3", "DA2S", "Table 3",
        "edges first (lambda_2 = 1) with the operations' loss delayed and log is best: 2.42 %", da2s_table_3,
        {f"{fixed}_{name}": Wanted("da2s", {fixed: "const", other: f"{name}_delayed"})
         for fixed, other in (("lambda_1", "lambda_2"), ("lambda_2", "lambda_1")) for name in _CONTROLS},
        [(f"{fixed}_{name}", None, None) for fixed in ("lambda_1", "lambda_2") for name in _CONTROLS],
    ),
    Experiment(
        "da2s-table-4", "DA2S", "Table 4",
        "cut to 3 to 6 of 14 edges DARTS' supernet drops to chance (87.9 to 10 %), DA2S' loses 0.2 to 21.3 points, and "
        "DA2S' retrained networks are better", da2s_table_4,
        {"darts": Wanted("darts")} | {edges: Wanted("da2s", {"edges": edges}) for edges in _CONFIGURATIONS},
        [*((edges, None, None) for edges in _CONFIGURATIONS), *(("darts", edges, None) for edges in _CONFIGURATIONS)],
        {"darts": _CONFIGURATIONS}, like="darts",
    ),
    Experiment(
        "da2s-figures-3-4", "DA2S", "Figures 3 and 4",
        "softmax of alpha differentiates after about 20 of 50 epochs and ends near 1; two edges a node survive",
        da2s_figures_3_4, {"da2s": Wanted("da2s")},
    ),
    Experiment(
        "da2s-figure-5", "DA2S", "Figure 5", "five control functions that grow from (nearly) 0 to 1, or are 1",
        da2s_figure_5,
    ),
    Experiment(
        "da2s-figure-6", "DA2S", "Figure 6", "the cells found, of convolutions mostly", da2s_figure_6,
        {"da2s": Wanted("da2s")},
    ),
    Experiment(
        "da2s-table-5", "DA2S", "Table 5", "24.4 % top-1 error on ImageNet with 5.0M parameters and 565M multiply-adds",
        da2s_table_5, models={"da2s_in1k": "imagenet"},
    ),
)  # fmt: skip
