"""The cells of a search by another rule, for another number of edges, or as they were after another epoch.

    nas-zoo genotype runs/edas                                   # those of genotype.json
    nas-zoo genotype runs/edas --rule darts --to edas_e8.json
    nas-zoo genotype runs/da2s --edges 4/14 --epoch 12
    nas-zoo genotype runs/edas --epoch 1,5,10,25 --draw cells.svg     # how they changed, below one another
    nas-zoo train --genotype edas_e8.json ...                    # what it writes is taken wherever cells are

Needs the run's log.jsonl and nothing else, and works while the run goes on. Rules: argmax (every edge keeps its
strongest operation, 'none' drops the edge), darts (two edges a node), or the method's own. Edges: 8/14 to 3/14, or
groups of nodes with the number of edges that they keep, such as 2+3:1,4:1,5:1.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas_zoo.genotype import KINDS, Genotype
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import write_json
from nas_zoo.runs.log import RunLog
from nas_zoo.runs.outside import check_marks, is_outside, marks_of
from nas_zoo.runs.settings import CHANGEABLE, Parser, settings_from, whole
from nas_zoo.search.arguments import add_code_flags, load_code
from nas_zoo.search.discretize import DERIVATIONS
from nas_zoo.search.found import need_folder
from nas_zoo.search.method import find_method
from nas_zoo.search.picture import draw_rows
from nas_zoo.text import plain

__all__ = ["cells_of_run", "main"]


def cells_of_run(folder: Path, rule: str | None = None, epoch: int | None = None) -> tuple[Genotype, dict[str, Any]]:
    """The cells, and where they come from as a genotype file tells it.

    Args:
        folder: Of a search that has ended an epoch.
        rule: "argmax", "darts", a configuration of edges such as "4/14"; None: the method's own.
        epoch: After which one, from 1; None: the last.

    Raises:
        ValueError: For a folder without such a log, an epoch that it does not hold, a rule that is none, or cells of
            which nothing would be left.
    """
    need_folder(folder)
    first, *others = RunLog.read(folder) or [{}]
    lines = {line["epoch"]: line for line in others if line.get("kind") == "epoch" and "alpha" in line}
    if first.get("kind") != "run" or not lines:
        raise ValueError(f"{folder}: its log.jsonl is not that of a search that has ended an epoch")
    line = lines.get(max(lines) if epoch is None else epoch)
    if line is None:
        raise ValueError(f"epoch must be one that {folder} has ended, {min(lines)} to {max(lines)}, got {epoch}")
    settings_class, make = find_method(first["settings"]["method"], first.get("code"))
    known = {name: first["settings"][name] for name in first["settings"].keys() & settings_class.__dataclass_fields__}
    settings = settings_from(settings_class, known)
    method: Any = make(settings)
    if is_outside(settings.method):  # the rule is the method's own; of operations the names do
        check_marks(first.get("code", {}), marks_of({settings.method: "method"}))
    for name in ("alpha", "beta"):
        if name in line:
            _take_up(getattr(method, name), line[name], f"{folder}, epoch {line['epoch']}: {name}")
    come_from = {
        "method": first["settings"]["method"],
        "data": first.get("data", {}).get("name"),
        "epochs": line["epoch"],
        "rule": rule or "the method's own",
        "settings": {k: v for k, v in first["settings"].items() if k not in ("data", *CHANGEABLE)},
        "by": "nas-zoo",
        "facts": {key: first[key] for key in ("versions", "device", "commit") if key in first},
    }
    try:
        return method.genotype(rule), come_from
    except ValueError as error:
        raise ValueError(f"{folder}, epoch {line['epoch']}: {error}") from None


def _take_up(parameters: Any, logged: dict[str, Any], where: str) -> None:
    """Puts the logits of a log line, (E, O) or (E,) a cell kind, in the place of a new method's."""
    with torch.no_grad():
        for kind in KINDS:
            held, values = parameters[kind], torch.tensor(logged[kind])
            rows = list(held) if isinstance(held, nn.ParameterList) else [held]
            new = list(values) if isinstance(held, nn.ParameterList) else [values]
            if [row.shape for row in rows] != [value.shape for value in new]:
                raise ValueError(f"{where} is of another search space than the method's")
            for row, value in zip(rows, new, strict=True):
                row.copy_(value)


def _epochs(text: str) -> list[int | None]:
    """Of "5" or "1,5,10"."""
    return [whole(1)(word) for word in text.split(",")]


def make_parser() -> Parser:
    parser = Parser(prog="nas-zoo genotype", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a search")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--rule", choices=tuple(DERIVATIONS), help="rule of derivation (default: the method's own)")
    how.add_argument("--edges", help="configuration of edges instead: 8/14 to 3/14, or groups such as 2+3:1,4:1,5:1")
    parser.add_argument(
        "--epoch",
        type=_epochs,
        default=[None],
        help="after which epoch, from 1 (default: the last); with --draw several, with commas",
    )
    parser.add_argument("--to", type=Path, metavar="FILE", help="genotype file to write (default: print it)")
    parser.add_argument(
        "--draw", type=Path, metavar="FILE", help="draw the cells instead, .svg, .png or .pdf: a row for each epoch"
    )
    add_code_flags(parser)
    return parser


@program("nas-zoo genotype")
def main(argv: list[str] | None = None) -> int:
    """The program: 0, or 2 for a mistake of the user's."""
    options = make_parser().parse_args(argv)
    load_code(options)
    if len(options.epoch) > 1 and (options.draw is None or options.to is not None):
        raise ValueError(f"--epoch takes one number, or several with --draw and without --to, got {options.epoch}")
    rule = options.edges if options.rule is None else options.rule
    found = [cells_of_run(options.run, rule, epoch) for epoch in options.epoch]
    if options.draw is not None:
        draw_rows([(f"epoch {come_from['epochs']}", genotype) for genotype, come_from in found], options.draw)
        print(plain(options.draw))
    ((genotype, come_from), *_) = found
    if options.to is not None:
        write_json(options.to, json.loads(genotype.to_json()) | {"provenance": come_from})
        print(plain(options.to))
    elif options.draw is None:
        print(genotype.to_json(2), end="")
    return 0
