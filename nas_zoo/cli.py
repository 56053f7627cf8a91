"""nas-zoo: architecture search, cell networks and their export, from the command line.

Thin: each command parses, calls the room that does the work, and prints.
"""

import argparse
import dataclasses
import importlib
import itertools
import json
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nas_zoo.runs.ending import run_program
from nas_zoo.text import near_names, plain, terminal_width, wrapped
from nas_zoo.text import table as in_columns

#: Commands that are programs of their own: module, what they do.
PROGRAMS = {
    "search": ("nas_zoo.search.run", "find cells with EDAS and its relatives (the same as search/run.py)"),
    "gap": ("nas_zoo.search.gap", "what cutting a search's supernet down to so many edges costs"),
    "genotype": ("nas_zoo.search.rederive", "a search's cells by another rule, number of edges or epoch"),
    "paper": ("nas_zoo.search.papers.run", "a table or figure of the papers: its runs, its page, a verdict"),
    "report": ("nas_zoo.search.report.page", "one HTML page of a search, or of several side by side"),
    "train": ("nas_zoo.train.run", "train a network: the papers' recipes or a quick one"),
    "adopt": ("nas_zoo.release.adopt", "publish a finished training run into the package: weights, table, references"),
    "evaluate": ("nas_zoo.train.evaluation", "accuracy of a trained model on a data set, as a JSON line"),
    "export": ("nas_zoo.export.graph.to_onnx", "write a model as a checked ONNX file"),
    "check": ("nas_zoo.export.graph.check", "compare an ONNX file with its model"),
    "card": ("nas_zoo.export.publish.card", "write the model card of a checkpoint from its row of results.csv"),
    "publish": ("nas_zoo.export.publish.hub", "send a checkpoint to the Hugging Face Hub, in one commit"),
    "page": ("nas_zoo.export.publish.page", "write a page that runs a network in the browser"),
    "space": ("nas_zoo.export.publish.space", "the same as the folder of a Hugging Face Space"),
    "latency": ("nas_zoo.export.runtime.latency", "what a network takes here, estimated from its measured pieces"),
    "auto": ("nas_zoo.auto.run", "own pictures to a served network that keeps a latency on this machine"),
    "timm": ("nas_zoo.models.timm_script", "run one of timm's own scripts (train.py, validate.py ...) with our models"),
    "bench": ("nas_zoo.export.runtime.bench", "time a model here: PyTorch, torch.compile, ONNX Runtime"),
}


def list_(options: argparse.Namespace) -> int:
    from nas_zoo.genotype import describe_cells, list_records
    from nas_zoo.models import table
    from nas_zoo.models.catalog import MODELS

    if options.cells and options.pretrained:
        raise ValueError("--cells and --pretrained are two lists: give one of them")
    if options.tier is not None and not options.cells:
        raise ValueError("--tier goes with --cells: models have no tier")
    about, first = "", list[str]()
    if options.pretrained:
        rows = table.pretrained_rows()
        by_name = _matching([row["name"] for row in rows if row["name"]], options.names, "weights")
        unnamed = 0 if options.names else sum(row["not_by_name"] is not None for row in rows)
        rows = [row for row in rows if not options.names or row["name"] in by_name]
        shown = [
            {"name": row["name"], "reported": _reported(row),
             "ours": None if row["err"] is None else f"{row['err']:.2f}",
             "licence": table.license_in_short(row["license"]), "by": row["source"].split("/")[0]}
            for row in rows if not row["not_by_name"]
        ]  # fmt: skip
        about = _ABOUT_PRETRAINED + (_ABOUT_UNNAMED.format(unnamed) if unnamed else "")
    elif options.cells:
        names = _matching(list_records(), options.names, "cells")
        rows = [row for row in table.cell_rows(options.tier) if row["name"] in names]
        shown = [
            {"name": row["name"], "tier": row["tier"], "builds": row["builds"]}
            | {words: row[key] for words, key in _PAPER_ERRORS.items()}
            | {"method": row["method"], "paper": _whose(row)}
            for row in rows
        ]
        first = ["paper: c10 %", "method"]
        about = describe_cells() if options.tier is None and not options.names else ""
    else:
        rows = table.model_rows(_matching(sorted(MODELS), options.names, "model"))
        shown = [
            {"name": row["name"], "cell": row["cell"], "input": row["input_size"], "classes": row["num_classes"],
             "params": f"{row['params'] / 1e6:.2f}M", "macs": f"{row['macs'] / 1e6:.1f}M",
             "paper: error %": row["paper_err"], "paper: params M": row["paper_params_m"],
             "paper: network": row["paper_network"],
             "ours: top-1 %": _our_figure(row)}
            for row in rows
        ]  # fmt: skip
        first = ["params", "macs", "paper: error %", "ours: top-1 %"]
    if options.json:
        print(json.dumps(rows, indent=1))
    elif options.csv:
        print(table.in_csv(rows), end="")
    else:
        width = terminal_width()
        print(in_columns(shown, width, first))
        if about:
            print(f"\n{wrapped(about, width)}")
    return 0


def _matching(names: Sequence[str], patterns: Sequence[str], what: str) -> list[str]:
    """Those of the names that a pattern is of, by themselves or without their tag; all without patterns."""
    found: dict[str, None] = {}
    for pattern in patterns:
        of_it = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name.partition(".")[0], pattern)]
        if not of_it:
            alike = {f"{name[: len(pattern) - 1]}*" for name in names} if pattern.endswith("*") else names
            hint = near_names(pattern, alike) or "; without a name `nas-zoo list` shows all"
            raise ValueError(f"no {what} of the name or pattern {pattern!r}{hint}")
        found |= dict.fromkeys(of_it)
    return [name for name in names if name in found] if patterns else list(names)


def _whose(row: dict[str, Any]) -> str | None:
    if row["found_here"]:
        return f"found here: {row['found_here']}"
    return f"({row['cannot_build']})" if row["cannot_build"] else row["paper"]


_ABOUT_PRETRAINED = """\
reported: wrong answers in percent as the authors report them, of the best or
last epoch where they say so; ours: as this package measured its own weights,
on the sets that their cards name. The two are not of the same images.
timm.create_model(NAME, pretrained=True) fetches what is not in the package.
Links, hashes, sources and cautions are in --csv and --json."""
_ABOUT_UNNAMED = """
{} more files are known and not had by name; --csv has them with the reasons."""


def _reported(row: dict[str, Any]) -> str | None:
    if row["reported_err"] is None:
        return None
    epoch = {"best epoch": " best", "last epoch": " last"}.get(row["reported_of"], "")
    return f"{row['reported_err']:.2f}{epoch}"


def _our_figure(row: dict[str, Any]) -> str | None:
    if row["top1"] is None:
        return None
    name = "" if row["pretrained"] else f": {row['name']}.{row['tag']}"
    return f"{row['top1']:.2f} ({row['top1_dataset']}{name})"


_PAPER_ERRORS = {
    "paper: c10 %": "paper_c10_err",
    "paper: c100 %": "paper_c100_err",
    "paper: in1k %": "paper_in1k_err",
}


def info(options: argparse.Namespace) -> int:
    import timm

    from nas_zoo.genotype import list_genotypes, load_genotype
    from nas_zoo.models.catalog import MODELS, hint_for_model, network_named, settings_of, words_for_cells
    from nas_zoo.models.count import CONVENTION, count, count_stages
    from nas_zoo.models.table import figures_beside

    name, cells = network_named(options.model)
    known_names = {*MODELS, *timm.list_models(module="nas_zoo", include_tags=True)}
    if name not in known_names:
        raise ValueError(f"unknown model {name!r}{hint_for_model(name, {*known_names, *list_genotypes()})}")
    if cells:
        print(f"nas-zoo info: {words_for_cells(options.model)}", file=sys.stderr)
    given = {key: getattr(options, key) for key in ("genotype", "init_channels", "num_cells", "num_classes")}
    own = {
        **settings_of(name.split(".")[0]),
        "num_classes": getattr(timm.get_pretrained_cfg(name), "num_classes", None),
    }
    kwargs = cells | {key: value for key, value in given.items() if value not in (None, own.get(key))}
    model: Any = timm.create_model(name, device="meta", **kwargs)
    cfg = model.pretrained_cfg
    size = options.input_size
    input_size = cfg["input_size"] if size is None else (cfg["input_size"][0], size, size)
    counts, stages = count(model, input_size), count_stages(model, input_size)
    known = name.split(".")[0]
    # The paper's figures are of its own cells only.
    its_own = model.genotype == load_genotype(MODELS[known]["cell"])
    paper = figures_beside(known, model.init_channels, model.num_cells) if its_own else {}
    facts = {
        "name": name,
        "genotype": model.genotype.digest,
        "layout": model.layout,
        "init_channels": model.init_channels,
        "num_cells": model.num_cells,
        "num_classes": model.num_classes,
        "input_size": list(counts.input_size),
        "params": counts.params,
        "macs": counts.macs,
        "activations": counts.activations,
        "convention": CONVENTION,
        **paper,
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "features": [{"channels": level["num_chs"], "reduction": level["reduction"]} for level in model.feature_info],
        "pretrained": not kwargs and bool(cfg.get("hf_hub_id") or cfg.get("file") or cfg.get("url")),
        "license": cfg.get("license"),
        **({} if kwargs else _as_measured(name) | _as_reported(name)),
    }
    if options.json:
        print(json.dumps(facts, indent=1))
        return 0
    features = ", ".join(f"{level['channels']} at 1/{level['reduction']}" for level in facts["features"])
    shown = facts | {
        "params": f"{counts.params:,}",
        "macs": f"{counts.macs / 1e6:,.2f}M",
        "activations": f"{counts.activations / 1e6:,.2f}M",
        "input_size": "x".join(map(str, counts.input_size)),
        "features": features,
        "pretrained": "yes" if facts["pretrained"] else "no" if kwargs else f"no ({_where_weights_are(name)})",
    }
    shown.pop("stages")
    width = max(map(len, shown))
    print("\n".join(f"{key:<{width}}  {value}" for key, value in shown.items() if value is not None))
    rows = [
        {"stage": stage.name, "output": "x".join(map(str, stage.output_size)), "params": f"{stage.params:,}",
         "macs": f"{stage.macs / 1e6:,.2f}M", "activations": f"{stage.activations / 1e6:,.2f}M"}
        for stage in stages
    ]  # fmt: skip
    print(f"\n{in_columns(rows, terminal_width())}")
    print(f"\n{model.genotype.to_json(2)}", end="")
    return 0


def _as_measured(name: str) -> dict[str, Any]:
    """Of weights of ours: their accuracy in percent, and on which images."""
    from nas_zoo.models.registry import find_result

    row = find_result(name)
    return {} if row is None else {"top1": row.top1, "top1_dataset": row.dataset, "top1_images": row.test_images}


def _as_reported(name: str) -> dict[str, Any]:
    """Of weights of others: whose they are and what their authors report of them."""
    from nas_zoo.models.public import find_public

    row = find_public(name)
    if row is None:
        return {}
    said = ("reported_err", "reported_top5_err", "reported_of", "reported_source", "cautions")
    facts = {key: getattr(row, key) or None for key in said}
    return {"weights_by": row.authors, "weights_from": f"{row.source}, {row.path}", "weights_link": row.link} | facts


def _where_weights_are(name: str) -> str:
    """Of a model whose name alone has none: by which tags there are some, or how to make them."""
    from nas_zoo.models.public import public_of
    from nas_zoo.models.results import package_results

    tagged = [f"{row.dataset}: {row.name}" for row in package_results() if row.model == name]
    tagged += [f"by {row.authors}: {row.name}" for row in public_of(name)]
    return ", ".join(tagged) or f"nas-zoo train --model {name}"


def predict(options: argparse.Namespace) -> int:
    from nas_zoo.export.runtime.classifier import OnnxClassifier
    from nas_zoo.export.runtime.providers import gpu_options

    if "" in (options.model, *options.images):  # which would be the folder that the program runs in
        raise ValueError("the name of a file or folder is empty; a file of a model and images are needed")
    classifier = OnnxClassifier(
        options.model, options.provider, options.threads, options.batch_size, device_id=options.device_id,
        **gpu_options(options),
    )  # fmt: skip
    if options.provider == "auto":
        print(plain(f"nas-zoo predict: {classifier.path.name} runs on {classifier.provider}"), file=sys.stderr)
    if random := classifier.metadata.get("random_weights"):
        print(plain(f"nas-zoo predict: {classifier.path.name}: RANDOM WEIGHTS: {random}"), file=sys.stderr)
    failed = 0
    for are_folders, group in itertools.groupby(map(Path, options.images), Path.is_dir):
        paths = list(group)
        if are_folders:
            found = [classifier.predict_folder(path, top_k=options.top_k) for path in paths]
        else:
            found = [classifier.predict_files(paths, top_k=options.top_k)]
        for predictions in found:
            for file, prediction in predictions:
                _print_prediction(file, prediction, classifier.label_descriptions, options.json)
            for _, reason in predictions.errors:  # which names the file
                print(plain(f"nas-zoo predict: {reason}"), file=sys.stderr)
                failed += 1
    return 2 if failed else 0


def _print_prediction(path: Path, prediction: Any, meant: dict[str, str], as_json: bool) -> None:
    pairs = list(zip(prediction.labels, prediction.probabilities, strict=True))
    if as_json:
        top = [
            {"label": label}
            | ({"description": meant[label]} if label in meant else {})
            | {"probability": round(float(p), 6)}
            for label, p in pairs
        ]
        print(json.dumps({"image": str(path), "top": top}))
    else:
        names = {label: f"{label} ({meant[label].split(',')[0]})" if label in meant else label for label, _ in pairs}
        print(plain(f"{path}  " + "  ".join(f"{names[label]} {100 * p:.1f}%" for label, p in pairs)))


def draw(options: argparse.Namespace) -> int:
    from nas_zoo.export.cells.draw import draw_genotype
    from nas_zoo.models.catalog import cells_named, words_for_model

    cells = cells_named(options.genotype)
    if words := words_for_model(options.genotype):
        print(f"nas-zoo draw: {words}", file=sys.stderr)
    for output in options.output or [f"{Path(options.genotype).stem or 'cells'}.svg"]:
        print(plain(draw_genotype(cells, output, title=options.title)))
    return 0


def convert(options: argparse.Namespace) -> int:
    from nas_zoo.models.convert import convert_checkpoint

    given = {key: getattr(options, key) for key in ("genotype", "layout", "init_channels", "num_cells")}
    if (options.model is None) == (options.genotype is None):
        raise ValueError("--genotype or --model must be given, and not both")
    if options.model is not None:
        given = _settings_of_model(options.model) | {key: value for key, value in given.items() if value is not None}
    print(plain(convert_checkpoint(options.checkpoint, options.output, **given)))
    return 0


def _settings_of_model(name: str) -> dict[str, Any]:
    """What the weights of MODEL or MODEL.TAG are converted with."""
    from nas_zoo.models.catalog import MODELS, hint_for_model, settings_of
    from nas_zoo.models.public import find_public, public_weights

    if name.split(".")[0] not in MODELS:
        raise ValueError(f"unknown model {name!r}{hint_for_model(name, MODELS)}")
    row = find_public(name)
    if row is None and "." in name:
        near = near_names(name, [one.name for one in public_weights() if one.name])
        raise ValueError(f"no weights of others are called {name!r}{near}; `nas-zoo list --pretrained` shows them")
    return settings_of(name.split(".")[0]) | ({"numbering": row.numbering} if row else {})


def export_model(options: argparse.Namespace) -> int:
    from nas_zoo.export.cells.to_timm import export_model as export
    from nas_zoo.models.catalog import words_for_model

    if words := words_for_model(options.genotype):
        print(f"nas-zoo export-model: {words}", file=sys.stderr)
    sizes = {key: getattr(options, key) for key in ("layout", "init_channels", "num_cells", "num_classes")}
    text = export(options.genotype, options.to, options.output, name=options.name, **sizes)
    print(text if options.output is None else plain(options.output), end="" if options.output is None else "\n")
    return 0


def demo(options: argparse.Namespace) -> int:
    from nas_zoo.demo import run_demo

    table = run_demo(options.out, seed=options.seed, overwrite=options.overwrite)
    if options.json:
        print(json.dumps(table))
    return 0 if table["search"]["moved"] else 1


def doctor(options: argparse.Namespace) -> int:
    from nas_zoo.doctor import as_json, examine, report

    findings = examine(models=options.models)
    print(json.dumps(as_json(findings), indent=1) if options.json else report(findings))
    return 1 if any(finding.state == "wrong" for finding in findings) else 0


#: Shells that shtab writes for.
_SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
#: Arguments that are files, besides those whose type says so.
_FILES = ("model", "images", "output", "checkpoint", "script", "runs", "run", "file")


def completion(options: argparse.Namespace) -> int:
    import shtab

    from nas_zoo.genotype import list_genotypes
    from nas_zoo.models.catalog import MODELS

    parser = make_parser(whole_programs=True)
    names = {"model": sorted(MODELS), "genotype": sorted({*list_genotypes(), *MODELS})}
    for name, command in _commands_of(parser).items():
        for action in command._actions:
            what = action.dest.rpartition(":")[2]
            if action.choices is None and what in names and name != "predict":
                action.choices = names[what]  # offered, not checked: this parser reads no words
            elif action.type is Path or what in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, options.shell))
    return 0


def _commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def program_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one of PROGRAMS, whose module is imported."""
    # the flags of a search depend on its method, so they are not its program's but of a module of theirs
    module = "nas_zoo.search.arguments" if name == "search" else PROGRAMS[name][0]
    parser: argparse.ArgumentParser = importlib.import_module(module).make_parser()
    return parser


_CELLS = "a name of `nas-zoo list --cells` or of a model, a file, a search's folder"


def make_parser(whole_programs: bool = False) -> argparse.ArgumentParser:
    """Of all commands; with `whole_programs` those that are programs of their own have their flags too (slow)."""
    from nas_zoo.runs.settings import Parser, whole

    words = "Architecture search, cell networks and their export. `nas-zoo COMMAND --help` tells more of each."
    parser = Parser(prog="nas-zoo", description=words)
    parser.add_argument("--version", action="store_true", help="print the version and end")
    # taken out before anything is parsed, with every command
    words = "operations from files that a network is made of, with every command (docs/extending.md)"
    parser.add_argument("--operations", metavar="FILE.py:NAME", help=words)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (_, words) in PROGRAMS.items():
        parents: list[Any] = [program_parser(name)] if whole_programs else []
        commands.add_parser(name, help=words, parents=parents, add_help=False)

    def command(name: str, run: Any, words: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=words, description=words, epilog=f"example: nas-zoo {name} {example}")
        sub.set_defaults(run=run)
        return sub

    def sizes(sub: argparse.ArgumentParser, default: str) -> None:
        words = f"channels of a node in the first cells (default: {default})"
        sub.add_argument("--init-channels", type=whole(2), help=words)
        sub.add_argument("--num-cells", type=whole(1), help=f"cells in all (default: {default})")

    sub = command("list", list_, "models registered with timm, their weights, or the cells", "'edas*' --pretrained")
    sub.add_argument("names", nargs="*", metavar="PATTERN", help="names to show, as 'edas*' (default: all)")
    sub.add_argument("--cells", action="store_true", help="published and found cells")
    sub.add_argument("--pretrained", action="store_true", help="trained weights, ours and those that others publish")
    sub.add_argument("--tier", type=int, choices=(1, 2), help="of cells: 1 a paper's result, 2 other published ones")
    sub.add_argument("--json", action="store_true", help="all columns, as JSON")
    sub.add_argument(
        "--csv", action="store_true", help="all columns; those that begin with paper_ are the papers' figures"
    )
    sub = command("info", info, "a model's sizes, cells and features, and the accuracy of its weights", "da2s_in1k")
    sub.add_argument("model", help="a name of `nas-zoo list`, with or without a tag, or of cells")
    sub.add_argument("--genotype", help=f"other cells: {_CELLS}")
    sizes(sub, "the model's")
    sub.add_argument("--num-classes", type=whole(1), help="classes (default: the model's)")
    sub.add_argument("--input-size", type=whole(1), help="side of the image in pixels")
    sub.add_argument("--json", action="store_true", help="as JSON")
    sub = command("predict", predict, "classify images with an exported ONNX file", "model.onnx photos/ --top-k 1")
    sub.add_argument("model", help="ONNX file")
    sub.add_argument("images", nargs="+", help="image files or folders of them")
    sub.add_argument("--provider", default="auto", help="cpu, cuda, tensorrt, or auto: the GPU if it works (default)")
    sub.add_argument("--top-k", type=whole(1), default=3, help="classes to show (default: 3)")
    sub.add_argument("--threads", type=whole(1), help="of the CPU provider; default: one a core")
    sub.add_argument(
        "--batch-size", type=whole(1), default=64, help="images of a folder that run at once (default: 64)"
    )
    sub.add_argument("--device-id", type=whole(0), default=0, help="which GPU (default: 0)")
    sub.add_argument("--json", action="store_true", help="one JSON line an image")
    # the fields of GpuOptions, whose import takes numpy
    sub.add_argument("--cuda-graphs", action="store_true", help="of cuda: record launches once and replay them")
    sub.add_argument("--cudnn-search", default="exhaustive", help="exhaustive (default), heuristic or default")
    sub.add_argument(
        "--tensorrt-cache", type=Path, help="of tensorrt: folder where it keeps engines for the next start"
    )
    sub.add_argument("--tensorrt-fp16", action="store_true", help="of tensorrt: calculate a float32 file in float16")
    sub = command("draw", draw, "draw a genotype's cells as SVG or PNG", "edas_c10 cells.svg")
    sub.add_argument("genotype", help=_CELLS)
    sub.add_argument("output", nargs="*", help=".svg and .png files to write (default: the genotype's name as .svg)")
    sub.add_argument("--title", help="above the cells (default: none)")
    words = "their.pt ours.safetensors --genotype darts_v2"
    sub = command("convert", convert, "turn a checkpoint of DARTS' code, or of one like it, into a state dict", words)
    sub.add_argument("checkpoint", help="a .pt or .pth.tar of theirs; read as tensors only")
    sub.add_argument("output", help="a .safetensors file to write")
    sub.add_argument("--genotype", help=f"its cells: {_CELLS}")
    sub.add_argument("--model", help="instead of them: whose weights it is, of `nas-zoo list --pretrained` or `list`")
    sub.add_argument("--layout", help="cifar or imagenet; this and the two below: checked if given, else read from it")
    sizes(sub, "read from the checkpoint")
    sub = command(
        "export-model", export_model, "write a genotype as a timm module of one file, or as text", "edas_c10 --to darts"
    )
    sub.add_argument("genotype", help=_CELLS)
    sub.add_argument("--to", required=True, help="timm-module, darts, json or dot")
    sub.add_argument("--output", help="file to write (default: print)")
    sub.add_argument("--name", help="of the model (default: the genotype's or the file's)")
    sub.add_argument("--layout", help="of a timm-module: cifar (default) or imagenet; with the three below")
    sizes(sub, "the layout's")
    sub.add_argument("--num-classes", type=whole(1), help="classes (default: the layout's)")
    words = "a script that completes commands, flags and names on pressing Tab"
    sub = command("completion", completion, words, "bash > ~/.local/share/bash-completion/completions/nas-zoo")
    sub.add_argument("shell", choices=_SHELLS)
    sub = command("demo", demo, "search, retrain, export, predict and write pages, on digits", "--out runs/demo")
    sub.add_argument("--out", type=Path, default=Path("nas-zoo-demo"), help="folder (default: nas-zoo-demo)")
    sub.add_argument("--seed", type=whole(0), default=0, help="of both runs (default: 0)")
    sub.add_argument("--overwrite", action="store_true", help="replace an earlier demo there")
    sub.add_argument("--json", action="store_true", help="print the table as JSON too")
    sub = command("doctor", doctor, "what this machine can do, and what is wrong (exit code 1 then)", "--models")
    sub.add_argument("--models", action="store_true", help="compare every published checkpoint with its references too")
    sub.add_argument("--json", action="store_true", help="as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 1 where doctor finds something wrong, else those of ``nas_zoo.runs.ending``."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_program(" ".join(["nas-zoo", *words[:1]]), lambda: _run(words))


def _load_operations(words: list[str]) -> list[str]:
    """The words without ``--operations FILE.py:NAME,...``, whose files are run."""
    rest, following = [], iter(words)
    for word in following:
        flag, equals, value = word.partition("=")
        if flag != "--operations":
            rest.append(word)
            continue
        from nas_zoo.models.operations import load_operation

        value = value if equals else next(following, "")
        if not value:
            raise ValueError("--operations: the operations are missing, such as my_ops.py:my_op")
        for name in value.split(","):
            load_operation(name)
    return rest


def _run(words: list[str]) -> int:
    if not words or words[0] not in ("search", "gap", "genotype", "train"):  # those have the flag themselves
        words = _load_operations(words)
    if words and words[0] in PROGRAMS:
        module = importlib.import_module(PROGRAMS[words[0]][0])
        code: int = module.main(words[1:])
        return code
    parser = make_parser()
    options = parser.parse_args(words)
    if options.version:
        import nas_zoo

        print(f"nas-zoo {nas_zoo.__version__}")
        return 0
    if options.command is None:
        parser.print_help()
        return 2
    result: int = options.run(options)
    return result


if __name__ == "__main__":
    sys.exit(main())
