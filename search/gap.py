"""What discretization costs a finished search, for any number of edges (as Table 4 of DA2S).

    nas-zoo gap runs/darts --edges 3/14 4/14 5/14 6/14 8/14
    nas-zoo gap runs/darts --edges 2+3:1,4:1,5:1 argmax --json
    nas-zoo gap runs/darts --data photos.tar.xz --images 5000
    nas-zoo gap runs/darts --save && nas-zoo report runs/darts

Cuts the supernet of a run's checkpoint to each configuration with the method's own ranking of edges and prints the
held-out accuracy before and after, with running and with re-estimated BatchNorm statistics (``search.discretize``).
Configurations: 8/14 to 3/14, groups of nodes with the number of edges they keep, the rules darts and argmax, or found:
the method's own. The held-out images are those of a search's last epoch, so of one that has ended "found" repeats the
log with none of these flags.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from nas_zoo.runs.checkpoint import check_place, taking_up
from nas_zoo.runs.distributed import start_accelerator
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import write_json
from nas_zoo.runs.log import run_to_resume
from nas_zoo.runs.settings import Parser, settings_from, whole
from nas_zoo.search.arguments import CHECKPOINT_KIND, add_code_flags, load_code
from nas_zoo.search.discretize import configurations, gap_table
from nas_zoo.search.found import need_folder
from nas_zoo.search.method import LATENCY_MARK, find_method
from nas_zoo.search.report.history import GAP_FILE
from nas_zoo.search.run import Search
from nas_zoo.text import counted

__all__ = ["main", "make_parser", "measure"]


def measure(
    folder: Path,
    edges: list[str] | None = None,
    data: str | None = None,
    data_root: Path | None = None,
    images: int = 0,
    batches: int | None = None,
    test_data: str | None = None,
    division: Path | None = None,
) -> dict[str, Any]:
    """``discretize.measure_gap`` of the run in a folder, with "n" images, "method" and "epochs".

    Args:
        folder: Of a run that has ended an epoch; its settings say all else.
        edges: Configurations, rules of derivation, "found"; None: "found" and every named configuration of the space.
        data: Where the run's data set lies now, if not where it was.
        data_root: The same for cifar10 and cifar100.
        images: Held-out images; 0: all of them.
        batches: Training batches that statistics are re-estimated over; default: as in the run.
        test_data: Where the images lie now that the run was given as test data (which leaves all of `data` to it).
        division: Where the file of the run's division lies now.

    Raises:
        ValueError: For a folder without a run, other data, a configuration that no cell can have.
    """
    need_folder(folder)
    path = folder / "checkpoint.pt"
    if not path.exists():
        raise ValueError(f"{folder}: holds no checkpoint.pt of a search")
    saved, state = run_to_resume(folder, str(path), CHECKPOINT_KIND)
    assert saved is not None
    assert state is not None
    settings = settings_from(find_method(str(saved.get("method")), state.get("code"))[0], saved)
    changes: dict[str, Any] = {"eval_size": images, "out": folder}
    changes |= {"data": data} if data is not None else {}
    changes |= {"test_data": test_data} if test_data is not None else {}
    changes |= {"data_root": data_root} if data_root is not None else {}
    changes |= {"gap_batches": batches} if batches is not None else {}
    changes |= {"division": division} if division is not None else {}
    changes |= {"max_latency": None, "latency_table": None}  # which no accuracy depends on; the file may be gone
    state = state | {"code": {name: mark for name, mark in state.get("code", {}).items() if name != LATENCY_MARK}}
    settings = dataclasses.replace(settings, **changes)
    run = Search(settings, start_accelerator())
    with taking_up("search"):
        check_place(state, settings.epochs, run.steps, len(run.counted))
        run.load(state)
    # between two epochs: the one whose log line tells of this state
    epoch = state["epoch"] - 1 if state["step"] == 0 and state["epoch"] > 0 else state["epoch"]
    edges = ["found", *configurations(run.method.space)] if edges is None else edges
    genotypes = {}
    for name in edges:
        try:
            genotypes[name] = run.method.genotype(None if name == "found" else name)
        except ValueError as error:  # of a rule: 'none' on every edge of a cell
            raise ValueError(f"{name}: {error}; --edges takes those that there are") from None
    gap = run.gap(epoch, genotypes, run.eval_batches)
    return gap | {"n": run.eval_batches.num_samples, "method": settings.method, "epochs": state["epoch"],
                  "iterations": state["step"]}  # fmt: skip


def make_parser() -> Parser:
    parser = Parser(prog="nas-zoo gap", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a search")
    parser.add_argument("--edges", nargs="+", metavar="EDGES", help="configurations (default: found and 8/14 to 3/14)")
    parser.add_argument("--data", help="where the run's data set lies now (default: where it was)")
    parser.add_argument("--test-data", help="the same for its --test-data")
    parser.add_argument("--data-root", type=Path, help="the same for cifar10 and cifar100")
    parser.add_argument("--division", type=Path, help="the same for its --division")
    parser.add_argument("--images", type=whole(0), default=0, help="held-out images (default: all)")
    parser.add_argument(
        "--batches", type=whole(0), help="batches to re-estimate statistics over (default: as in the run)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line instead of the table")
    parser.add_argument("--save", action="store_true", help=f"keep it as {GAP_FILE} in the run's folder too, for "
                                                            "nas-zoo report")  # fmt: skip
    add_code_flags(parser)
    return parser


@program("nas-zoo gap")
def main(argv: list[str] | None = None) -> int:
    """The program: 0, or 2 for a mistake of the user's."""
    options = make_parser().parse_args(argv)
    load_code(options)
    gap = measure(options.run, options.edges, options.data, options.data_root, options.images, options.batches,
                  options.test_data, options.division)  # fmt: skip
    if options.save:
        write_json(options.run / GAP_FILE, gap)
    print(json.dumps(gap) if options.json else gap_table(gap, gap["n"]))
    if gap["iterations"] and not options.json:
        print(
            f"weights and cells of epoch {gap['epochs'] + 1}, which has not ended, after "
            f"{counted(gap['iterations'], 'iteration')}"
        )
    return 0
