"""What an experiment is, what has been run for it, and what several of them compute and draw."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nas_zoo.genotype import Genotype, load_genotype
from nas_zoo.models.count import work_out
from nas_zoo.search.papers.findings import Check, Column, Findings, Picture, Row, agrees, exact, mean
from nas_zoo.search.papers.scales import Scale, label
from nas_zoo.search.report import figures
from nas_zoo.search.report.figures import Line, Spread
from nas_zoo.search.report.figures import method_style as style
from nas_zoo.search.report.history import Run

__all__ = [
    "ERROR",
    "RETRAINED",
    "Experiment",
    "Results",
    "Wanted",
    "accuracy_lines",
    "edge_set",
    "error_picture",
    "in_percent",
    "label",
    "marks",
    "params_m",
    "percent",
    "retrained",
    "spread_picture",
    "style",
    "told_errors",
    "transfer",
]  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """A search of an experiment: a case with settings of its own, and whether it is that of Figure 4's length."""

    case: str
    own: Mapping[str, Any] = field(default_factory=dict)
    long: bool = False
    data: str | None = None  # another data set, at scale paper alone


@dataclass(frozen=True)
class Experiment:
    """A table or figure of a paper."""

    name: str
    paper: str
    place: str
    claim: str
    examine: "Callable[[Results], Findings]"
    searches: Mapping[str, Wanted] = field(default_factory=dict)
    #: What is retrained: (search, rule or number of edges, which of ``marks``), each of them None for the usual one.
    trains: Sequence[tuple[str, str | None, int | None]] = ()
    gaps: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of a search: edges to cut it to
    memory: Sequence[str] = ()  # methods whose iterations are measured
    models: Mapping[str, str] = field(default_factory=dict)  # of the zoo, trained at scale paper alone: name, recipe
    like: str | None = None  # as which search a further method is run, retrained and cut; None: it compares no methods
    further: Sequence[str] = ()  # methods that the paper does not have

    @property
    def title(self) -> str:
        return f"{self.paper}, {self.place}"

    def beside(self, methods: Sequence[str]) -> "Experiment":
        """The same with further methods, of ``CASES`` or from outside; those that it has already are left out."""
        new = [name for name in dict.fromkeys(methods) if name not in (*self.searches, *self.memory)]
        trains = [(name, rule, mark) for name in new for search, rule, mark in self.trains if search == self.like]
        gaps = {name: edges for name in new for search, edges in self.gaps.items() if search == self.like}
        searches = {name: Wanted(name) for name in new} if self.like in self.searches else {}
        return replace(
            self,
            further=new,
            searches={**self.searches, **searches},
            trains=[*self.trains, *trains],
            gaps={**self.gaps, **gaps},
        )


class Results:
    """What has been run for an experiment; what has not is left out."""

    def __init__(
        self,
        scale: Scale,
        runs: Mapping[str, Sequence[Run]],
        trained: Mapping[tuple[str, str | None, int | None], Sequence[Mapping[str, Any]]],
        measured: Mapping[str, Any] | None = None,
        models: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        further: Sequence[str] = (),
    ) -> None:
        self.scale, self._runs, self._trained, self.measured = scale, runs, trained, measured
        self.models, self.further = models or {}, tuple(further)

    def runs(self, name: str) -> Sequence[Run]:
        """A search's runs, one a seed."""
        return self._runs.get(name, ())

    def figures(self, name: str, of: Callable[[Run], float | None]) -> list[float]:
        """A figure of each seed's run."""
        return [value for run in self.runs(name) if (value := of(run)) is not None]

    def errors(self, name: str, rule: str | None = None, mark: int | None = None) -> list[float]:
        """Of the retrained networks, as shares of the test images."""
        return [1 - result["top1"] for result in self._trained.get((name, rule, mark), ())]

    def tested(self) -> int:
        """Test images of the retrained networks."""
        return next((result["n"] for results in self._trained.values() for result in results), 0)

    @property
    def held_out(self) -> int:
        """Held-out images after the last epoch."""
        return next((run.last["held_out"]["n"] for runs in self._runs.values() for run in runs), 0)

    def curve(self, name: str, of: Callable[[Run], Sequence[float | None]]) -> list[float | None]:
        """A figure over the epochs, mean over the seeds."""
        each = [of(run) for run in self.runs(name)]
        known = [[v for v in values if v is not None] for values in zip(*each, strict=False)]
        return [mean(values) if values else None for values in known]


def percent(values: Sequence[float]) -> str:
    return "nothing yet" if not values else f"{100 * mean(values):.1f} %"


def in_percent(name: str, digits: int = 1) -> Column:
    """A column of shares, told in percent."""
    return Column(name, "%", digits, 100.0)


ERROR = in_percent("test error, retrained", 2)


def edge_set(genotype: Genotype, kind: str) -> set[tuple[int, int, str]]:
    cell = genotype.cell(kind)
    return {(n, e.source, e.operation) for n, edges in enumerate(cell.nodes, 2) for e in edges}


def params_m(genotype: Genotype, classes: int = 10) -> float:
    """Parameters in millions at C = 36 and 20 cells, where the papers count them."""
    return work_out(genotype, "cifar", 36, 20, classes, (3, 32, 32)).params / 1e6


def marks(scale: Scale) -> list[int]:
    """Epochs, from 1, of EDAS' Figure 4: 0, 20, 40, 60, 80 and 99 of 100 as parts of the search."""
    return [1 + round(epoch / 99 * (scale.long_epochs - 1)) for epoch in (0, 20, 40, 60, 80, 99)]


def accuracy_lines(title: str, curves: Sequence[Line]) -> str:
    y_range, ticks = figures.accuracy_axis(c.values for c in curves)
    shown = [c for c in curves if any(v is not None for v in c.values)]
    return figures.lines(title, shown, y_range=y_range, y_ticks=ticks, scale=100)


_SIZES = ("test error, retrained", "parameters", "search")
#: Of a table of ``retrained``.
RETRAINED = (ERROR, Column("parameters", "M", 2), Column("search", "s", 0))


def retrained(
    results: Results, name: str, paper: Sequence[str] = (), *, rule: str = "found", classes: int = 10,
    title: str | None = None, kind: str | None = None,
) -> Row:  # fmt: skip
    """A search's row of ``RETRAINED``: error of its networks, parameters of its cells by a rule, seconds of it.

    `paper`: its figures in that order; `kind`: the method whose colour the row has, if not `name`.
    """
    cells = [g for run in results.runs(name) if (g := run.genotype(rule)) is not None]
    seconds = results.figures(name, lambda run: run.last.get("seconds"))
    values = zip(_SIZES, (results.errors(name), [params_m(g, classes) for g in cells], seconds), strict=True)
    return Row(title or label(name), style(kind or name), dict(values), dict(zip(_SIZES, paper, strict=False)))


def told_errors(rows: Iterable[Row]) -> str:
    """What the retrained networks of these rows have wrong, in half a sentence."""
    known = [f"{row.name} {percent(values)}" for row in rows if (values := row.values[ERROR.name])]
    return f"test error of the retrained networks: {', '.join(known) or 'nothing yet'}"


def error_picture(rows: Iterable[Row], paper: Mapping[str, float]) -> Picture:
    """The same as a figure, beside the paper's."""
    return spread_picture(rows, ERROR.name, "Test error of the retrained networks, %", 100, paper)


def spread_picture(
    rows: Iterable[Row], column: str, caption: str, scale: float = 1.0, paper: Mapping[str, float] | None = None,
    form: str = "{:.1f}",
) -> Picture:  # fmt: skip
    """A row each; a ring a seed, a disc at the mean, and the paper's figure where the scale is its own."""
    shown = [
        Spread(row.name, row.style, [scale * v for v in row.values.get(column, ())], (paper or {}).get(row.name))
        for row in rows
        if row.values.get(column)
    ]
    return Picture(
        caption, figures.spreads(caption, shown, form), "ring: a seed, disc: mean" + "; bar: the paper" * bool(paper)
    )


def transfer(results: Results, name: str, paper: tuple[float, float, float] | None, note: str) -> Findings:
    from nas_zoo.models.catalog import settings_of

    sizes = settings_of(name)
    counts = work_out(
        load_genotype(sizes["genotype"]), "imagenet", sizes["init_channels"], sizes["num_cells"], 1000, (3, 224, 224)
    )
    errors = [1 - result["top1"] for result in results.models.get(name, ())]
    values = {"top-1 error": errors, "parameters": [counts.params / 1e6], "multiply-adds": [counts.macs / 1e6]}
    said = {} if paper is None else {"top-1 error": f"{paper[0]:.1f}", "parameters": f"{paper[1]:.1f}",
                                     "multiply-adds": f"{paper[2]:.0f}"}  # fmt: skip
    checks = [
        Check("below 600M multiply-adds, the mobile setting", counts.macs < 600e6, "figures"),
        # what is counted decides nothing; DARTS' error stands in the same table
        exact("top-1 error below DARTS' 26.7 (DA2S, Table 5)", mean(errors) < 0.267 if errors and paper else None),
    ]
    if paper:
        checks.append(agrees(f"top-1 error {paper[0]}", [100 * v for v in errors], paper[0], None, results.scale.own))
    told = f"{name} has {counts.params / 1e6:.2f}M parameters and {counts.macs / 1e6:.0f}M multiply-adds"
    rows = [Row(name, style(name.split("_")[0]), values, said)]
    return Findings(
        told + (f" and {percent(errors)} top-1 error" if errors else "; it is trained at scale paper only"),
        [in_percent("top-1 error"), Column("parameters", "M", 2), Column("multiply-adds", "M", 0)],
        rows,
        checks,
        [spread_picture(rows, "multiply-adds", "Multiply-adds in millions", 1.0, {name: paper[2]} if paper else {},
                        form="{:.0f}")],
        [note, "At scale paper --data is ImageNet: a folder of its classes, train/ and val/."],
    )  # fmt: skip
