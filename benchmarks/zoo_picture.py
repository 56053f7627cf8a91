"""Draws accuracy against latency and against multiply-adds, from the CSV of zoo_latency.py and the catalog.

    python benchmarks/zoo_picture.py --csv benchmarks/zoo_latency.csv --output docs/zoo_c10.png docs/zoo_c10.svg
    python benchmarks/zoo_picture.py --data in1k --csv benchmarks/zoo_latency.csv --output docs/zoo_in1k.png

The accuracy is what a cell's paper reports for its own training; latency and multiply-adds are measured and counted
here, and the picture says so. Drawn are the networks of the papers' size (CIFAR: C = 36, 20 cells; ImageNet: C = 48,
14 cells, or what the picture names) whose paper reports an accuracy for that data. Those that the CSV does not have are
in the panel of multiply-adds alone, and it is said how many were timed. Hollow are cells whose paper puts another
network around them (NASNet's own, say), so that accuracy and cost are not of one network. The line joins the others to
which no other is superior in both.

EDAS and DA2S published no cells, so there is no network of theirs whose cost could be counted. A dashed line in the
method's colour is what its paper reports, an upright one what the cells found here cost at this size, for which they
have not been trained: no point pairs the two.
"""

import argparse
import csv
import os
import sys
from pathlib import Path
from typing import Any

from nas_zoo.models.catalog import DATA, MODELS
from nas_zoo.models.palette import method_colors
from nas_zoo.models.table import has_papers_size, model_rows
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import replacing

#: Cells that people look for; they get a label wherever they stand.
WELL_KNOWN = (
    "nasnet_a", "amoebanet_a", "darts_v1", "darts_v2", "snas_mild", "gdas_v1", "p_darts", "pc_darts", "drnas",
)  # fmt: skip
INK, GRAY = "#1b1f24", "#8a8f98"  # no method's colour
#: Of EDAS (Table 2) and DA2S (Tables 1 and 5): the paper's error, the model of this data with cells found here.
OURS: dict[str, dict[str, tuple[float | None, str | None]]] = {
    "c10": {"edas": (2.92, "edas_c10"), "da2s": (2.42, "da2s_c10")},
    "c100": {"edas": (17.61, None)},
    "in1k": {"edas": (None, "edas_in1k"), "da2s": (24.4, "da2s_in1k")},
}
DATA_WORDS = {"c10": "CIFAR-10", "c100": "CIFAR-100", "in1k": "ImageNet"}
Point = dict[str, Any]


def find_points(data: str) -> list[Point]:
    """The models of that data and of the papers' size: name, label, accuracy (%), multiply-adds (millions), and
    whether the accuracy is of the same network."""
    names = [
        name for name, model in MODELS.items()
        if model["data"] == data and not name.startswith("cell_net_") and has_papers_size(name)
    ]  # fmt: skip
    return [
        {
            "name": row["name"],
            "label": row["name"].removesuffix(f"_{data}"),
            "accuracy": 100 - row["paper_err"],
            "madds": row["macs"] / 1e6,
            "same_network": row["paper_network"] is None,
        }
        for row in model_rows(names)
        if row["paper_err"] is not None
    ]


def find_marks(data: str, latency: dict[str, float]) -> list[Point]:
    """Of EDAS and DA2S: method, the paper's accuracy (%, None: it gives none), the name of the model with cells found
    here and what it costs: multiply-adds (millions), milliseconds where they were measured."""
    own = OURS.get(data, {})
    counts = {row["name"]: row["macs"] / 1e6 for row in model_rows([name for _, name in own.values() if name])}
    return [
        {"method": method, "accuracy": None if error is None else 100 - error, "name": name,
         "madds": counts.get(name), "ms": latency.get(name or "")}
        for method, (error, name) in own.items()
    ]  # fmt: skip


def read_latency(path: Path, runtime: str, batch: int) -> tuple[dict[str, float], str]:
    """Milliseconds by model of one runtime, batch size and machine (that of the last row), and words on these.

    Raises:
        ValueError: There is no such row.
    """
    if not path.is_file():
        raise ValueError(f"csv {path.name!r}: no such file; benchmarks/zoo_latency.py makes it")
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["runtime"] == runtime and row["batch"] == str(batch)]
    if not rows:
        raise ValueError(f"csv {path.name!r}: has no row of runtime {runtime!r} and batch {batch}")
    same = ("device_name", "threads", "versions", "dtype")
    rows = [row for row in rows if all(row[column] == rows[-1][column] for column in same)]
    last = rows[-1]
    threads = f"{last['threads']} thread{'s' * (last['threads'] != '1')}"
    words = f"{last['device_name']}, {threads}, {last['dtype']}, {last['versions']}"
    return {row["model"]: float(row["median_ms"]) for row in rows}, words


def front(points: list[Point], key: str) -> list[Point]:
    """Those that no other one surpasses: lower key and higher accuracy."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p[key], -p["accuracy"])):
        if not best or point["accuracy"] > best[-1]["accuracy"]:
            best.append(point)
    return best


def draw_marks(axes: Any, marks: list[Point], key: str) -> list[Any]:
    """Lines of EDAS and DA2S with their words; the texts."""
    from matplotlib.patheffects import withStroke

    look: dict[str, Any] = {"fontsize": 8, "path_effects": [withStroke(linewidth=2.5, foreground="white")]}
    texts = []
    for mark in marks:
        color = method_colors(mark["method"])[0]
        if mark["accuracy"] is not None:
            axes.axhline(mark["accuracy"], color=color, lw=1.3, ls=(0, (5, 3)), zorder=1)
            words, at = f"{mark['method'].upper()}, its paper: {mark['accuracy']:.2f}", (0.01, mark["accuracy"])
            texts.append(axes.text(*at, words, transform=axes.get_yaxis_transform(), va="bottom", color=color, **look))
        if mark.get(key) is not None:
            axes.axvline(mark[key], color=color, lw=1.3, zorder=1)
            at = (mark[key], 0.02 + 0.06 * (mark["method"] == "edas"))
            side = "right" if mark["method"] == "da2s" else "left"
            texts.append(
                axes.text(*at, f" {mark['name']} ", transform=axes.get_xaxis_transform(), ha=side, color=color, **look)
            )
    return texts


def draw_panel(axes: Any, points: list[Point], key: str, words: str, marks: list[Point]) -> None:
    """One panel: all points, the front, labels of the front and of the well-known where they do not hide each other."""
    from matplotlib.patheffects import withStroke

    same = [p for p in points if p["same_network"]]
    on_front = front(same, key)
    axes.scatter([p[key] for p in same], [p["accuracy"] for p in same], s=16, color=GRAY, linewidths=0)
    others = [p for p in points if not p["same_network"]]
    axes.scatter(
        [p[key] for p in others], [p["accuracy"] for p in others], s=16, facecolors="none", edgecolors=GRAY,
        linewidths=1,
    )  # fmt: skip
    axes.plot(
        [p[key] for p in on_front], [p["accuracy"] for p in on_front], color=INK, marker="o", ms=5, lw=1.2
    )  # fmt: skip
    axes.set_xlabel(words)
    axes.grid(color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.12, y=0.1)
    texts = draw_marks(axes, marks, key)
    figure = axes.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    taken: list[Any] = [text.get_window_extent(renderer) for text in texts]
    dots = [axes.transData.transform((p[key], p["accuracy"])) for p in points]
    names = {p["name"] for p in on_front}
    wanted = on_front + [p for p in points if p["label"] in WELL_KNOWN and p["name"] not in names]
    places = [(6, 4, "left"), (-6, 4, "right"), (6, -10, "left"), (-6, -10, "right"), (0, 9, "center")]
    places += [(0, -15, "center"), (12, 14, "left"), (-12, 14, "right"), (12, -20, "left"), (-12, -20, "right")]
    inside = axes.get_window_extent(renderer)
    for point in wanted:
        color = INK if point["name"] in names else "#59636e"
        for dx, dy, side in places:
            text = axes.annotate(
                point["label"], (point[key], point["accuracy"]), (dx, dy), textcoords="offset points", ha=side,
                fontsize=7.5, color=color, path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip
            box = text.get_window_extent(renderer)
            own = axes.transData.transform((point[key], point["accuracy"]))
            free = not any(box.overlaps(other) for other in taken)
            free = free and not any(box.contains(x, y) for x, y in dots if (x, y) != tuple(own))
            free = free and inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1
            if free:
                taken.append(box)
                break
            text.remove()


def draw(points: list[Point], latency: dict[str, float], data: str, runtime: str, batch: int, machine: str) -> Any:
    """Both panels as a matplotlib figure."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "nas-zoo"  # ids in an SVG are random without one
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    timed = [p | {"ms": latency[p["name"]]} for p in points if p["name"] in latency]
    marks = find_marks(data, latency)
    draw_panel(
        left, timed, "ms", f"latency of a batch of {batch} (ms, {runtime}; ours, {_timed_of(timed, points)})", marks
    )
    draw_panel(right, points, "madds", f"multiply-adds (millions; ours, {len(points)} models)", marks)
    left.set_ylabel(f"{DATA_WORDS[data]} top-1 accuracy (%, as the papers report it)")
    figure.suptitle(
        f"Cells of the papers on {DATA_WORDS[data]}: accuracy from the papers, cost measured by nas-zoo", fontsize=11
    )
    lines = "dashed: what the papers of EDAS and DA2S report; upright: what the cells found here cost" * bool(marks)
    hollow = "hollow: the paper's network around the cells is another" * any(not p["same_network"] for p in points)
    size = f"C = {DATA[data].init_channels}, {DATA[data].num_cells} cells"
    own = [
        f"{p['label']}: C = {MODELS[p['name']]['init_channels']}"
        for p in points
        if "init_channels" in MODELS[p["name"]]
    ]
    size += f" ({', '.join(own)})" if own else ""
    figure.supxlabel(
        "\n".join(("; ".join((machine, size)), "; ".join(filter(None, (hollow, lines))))), fontsize=7, color="#666666"
    )
    return figure


def _timed_of(timed: list[Point], points: list[Point]) -> str:
    if len(timed) == len(points):
        return f"{len(timed)} models"
    return f"{len(timed)} of {len(points)} models, the others were not timed"


def save_figure(figure: Any, path: Path) -> None:
    """Writes a PNG or SVG that appears whole or not at all and is the same for the same figures.

    Raises:
        ValueError: For another suffix or a folder that does not exist.
    """
    suffix = path.suffix.lower()
    if suffix not in (".png", ".svg") or not path.parent.is_dir():
        raise ValueError(f"output {path.name!r}: the name must end in .png or .svg, in a folder that exists")
    metadata: dict[str, Any] = {"Date": None, "Creator": None} if suffix == ".svg" else {"Software": None}
    with replacing(path) as file:
        figure.savefig(file, format=suffix[1:], dpi=160, metadata=metadata)


@program("zoo_picture")
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=Path("zoo_latency.csv"), help="of zoo_latency.py")
    parser.add_argument("--data", default="c10", choices=[*DATA_WORDS])
    parser.add_argument("--runtime", default="onnx", help="which rows of the CSV")
    parser.add_argument("--batch", type=int, default=1, help="which rows of the CSV")
    parser.add_argument("--output", type=Path, nargs="+", default=[Path("zoo.png")], help="PNG or SVG files")
    options = parser.parse_args()
    latency, machine = read_latency(options.csv, options.runtime, options.batch)
    points = find_points(options.data)
    if not any(point["name"] in latency for point in points):
        raise ValueError(f"csv {options.csv.name!r}: none of its models has a paper's accuracy on {options.data}")
    figure = draw(points, latency, options.data, options.runtime, options.batch, machine)
    for path in options.output:
        save_figure(figure, path)
    print(", ".join(map(os.fspath, options.output)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
