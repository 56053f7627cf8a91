"""From a folder of pictures to a small network that keeps a stated latency on this machine, as a file and as a page.

    nas-zoo auto photos --max-latency 5 --time-budget 3600 --out runs/photos
    nas-zoo auto digits --max-latency 0.2 --time-budget 900 --out runs/digits
    nas-zoo auto --resume --out runs/photos --compare

It looks at the pictures, chooses a size, searches for cells under the latency, trains, exports, checks and measures.
Killed at any moment it goes on with --resume. The result is OUT/model.onnx, or OUT/model_int8.onnx where that is faster
here and as good (summary.json and the last line name the delivered file), of each a NAME_images.onnx, which takes
pictures of any size, OUT/page, which runs the delivered file in a browser, and OUT/report.html, which says how good it
is and, with --compare, beside what; the log has a line a stage. Exit codes: 0 when the measured latency keeps the
limit, 1 when it does not, 2 for a mistake.
"""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nas_zoo.auto.clock import Clock
from nas_zoo.auto.compare import compare
from nas_zoo.auto.report import write_report, write_wrong
from nas_zoo.auto.settings import COMPARISON, AutoSettings
from nas_zoo.auto.stages import STAGES, Auto
from nas_zoo.runs import outside
from nas_zoo.runs.distributed import start_accelerator
from nas_zoo.runs.ending import Finding, program
from nas_zoo.runs.facts import run_facts
from nas_zoo.runs.lock import only_run_in
from nas_zoo.runs.log import RunLog
from nas_zoo.runs.settings import (
    CHANGEABLE,
    Parser,
    add_flags,
    given_flags,
    resumed_settings,
    settings_from,
    to_dict,
)
from nas_zoo.search import load_method

__all__ = ["BudgetMissed", "auto", "main", "make_parser"]

#: What a run leaves before it has looked at the pictures.
_FIRST_FILES = (".lock", "log.jsonl", "clock.json", "console.log", "data_index.jsonl", "division.json", "look.json")


class BudgetMissed(Finding):
    """The delivered file takes longer than was allowed; everything is written all the same."""


def make_parser() -> Parser:
    parser = Parser(prog="nas-zoo auto", description=__doc__)
    parser.add_argument("pictures", nargs="?", metavar="DATA", help="the pictures, as --data names them")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    add_flags(parser, AutoSettings)
    return parser


def parse(argv: list[str]) -> tuple[AutoSettings, bool]:
    """Settings, and whether a run goes on. Every mistake is a ValueError.

    A folder in which nothing long has been begun, since the pictures or the budgets were refused, is begun anew, with
    --resume or without; with it what is not given again is as it was.
    """
    namespace = make_parser().parse_args(argv)
    flags = given_flags(namespace)
    if namespace.pictures is not None:
        if "data" in flags:
            raise ValueError(f"data is given twice: {namespace.pictures!r} and --data {flags['data']!r}")
        flags["data"] = namespace.pictures
    if "method" in flags:
        flags["method"] = load_method(flags["method"])
    out = Path(flags.get("out", AutoSettings.out))
    lines = RunLog.read(out) if (out / "log.jsonl").is_file() else []
    ours = bool(lines) and lines[0].get("program") == "auto" and isinstance(lines[0].get("settings"), dict)
    begun = any(line["kind"] == "stage" and line["name"] == "plan" for line in lines) if ours else bool(lines)
    if namespace.resume:
        if not ours:
            raise ValueError(f"there is nothing to resume in {out}: it holds no log.jsonl of `nas-zoo auto`")
        saved = dict(lines[0]["settings"])
        for line in lines:  # what a later start was given
            saved |= line["chosen"] if (line["kind"], line.get("name")) == ("choice", "settings") else {}
        if begun:
            flags["out"], may = out, (*CHANGEABLE, *COMPARISON)
            return resumed_settings(AutoSettings, saved, flags, changeable=may, forgotten=()), True
        flags = saved | flags
    elif (begun or not ours) and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"out={str(out)!r} holds something already; --resume goes on with a run, another --out begins one"
        )
    settings = settings_from(AutoSettings, flags)
    for name in ("data", "test_data"):
        place = getattr(settings, name)
        if place and Path(place).is_dir() and out.resolve().is_relative_to(Path(place).resolve()):
            raise ValueError(
                f"out={str(out)!r} lies in {name}={place!r}, where it would be taken for pictures; give another --out"
            )
    for name, example in (("data", "photos"), ("max_latency", "--max-latency 5"), ("time_budget", "--time-budget 900")):
        if getattr(settings, name) in (None, ""):  # which as a path would be the folder one stands in
            raise ValueError(f"{name} is needed, such as {example}")
    return settings, False


def auto(settings: AutoSettings, resume: bool = False) -> dict[str, Any]:
    """The summary, when everything is written; see the module. What the stages print goes to console.log.

    Raises:
        BudgetMissed: The delivered file takes longer than max_latency.
        ValueError: For whatever a user can mend, in one line.
    """
    accelerator = start_accelerator()
    out = settings.out
    assert settings.time_budget is not None
    with _whole_or_gone(out), only_run_in(out, accelerator), contextlib.nullcontext() if resume else _cleared(out):
        log = RunLog(out)
        if not resume:
            (out / "clock.json").unlink(missing_ok=True)
        clock = Clock(out, settings.time_budget)
        screen = sys.stdout, sys.stderr
        if resume:
            log.event("resumed", seconds=clock.spent)
            kept = {name: getattr(settings, name) for name in ("time_budget", *COMPARISON)}
            log.append({"kind": "choice", "name": "settings", "chosen": kept})
        else:
            log.start(to_dict(settings), run_facts("cpu"), overwrite=True, program="auto", stages=list(STAGES))
        with (
            _told_how_to_go_on(settings),
            open(out / "console.log", "a", encoding="utf-8", errors="backslashreplace") as console,
            contextlib.redirect_stdout(console),
            contextlib.redirect_stderr(console),
        ):
            run = Auto(settings, log, clock)
            with clock.running():
                found = run.run()
            if not (out / "wrong.json").exists():
                run.check_data()
                write_wrong(out, run.divided(found["image_size"])["test"])
            write_report(out)
            if settings.compare:
                compare(run, Clock(out / "compare", settings.compare_budget or math.inf, *screen))
                write_report(out)
    ms, most = found["measured_latency_ms"], found["max_latency_ms"]
    print(
        f"{out / found['file']}: {100 * found['top1']:.2f} % of {found['n']:,} test pictures right (balanced "
        f"{100 * found['balanced_accuracy']:.2f} %), {ms:.3f} ms a picture of {most:g} allowed, "
        f"{found['parameters']:,} parameters, {found['seconds']:.0f} of {settings.time_budget:g} s"
    )
    print(f"how good that is: {out / 'report.html'}")
    print(f"see it: python -m http.server --directory {shlex.quote(str(out / 'page'))}    then http://localhost:8000")
    if not found["within_budget"]:
        raise BudgetMissed(
            f"{out / found['file']} takes {ms:.3f} ms, {100 * (ms / most - 1):.0f} % more than the {most:g} ms allowed"
        )
    return found


@contextlib.contextmanager
def _whole_or_gone(out: Path) -> Iterator[None]:
    """Takes away the folders that the block has made and left empty."""
    made = [place for place in (out, *out.parents) if not place.exists()]
    try:
        yield
    finally:
        for place in made:
            with contextlib.suppress(OSError):  # there is something in it
                place.rmdir()


@contextlib.contextmanager
def _cleared(out: Path) -> Iterator[None]:
    """Of a run that was refused before it had looked at the pictures nothing stays, so that it can be begun again."""
    try:
        yield
    except Exception:
        if not (out / "log.jsonl").is_file() or not any(line["kind"] == "stage" for line in RunLog.read(out)):
            for name in _FIRST_FILES:
                with contextlib.suppress(OSError):  # Windows keeps the lock's file while it is held
                    (out / name).unlink()
        raise


@contextlib.contextmanager
def _told_how_to_go_on(settings: AutoSettings) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        words = ["nas-zoo", "auto", "--resume", "--out", str(settings.out)]
        if outside.is_outside(settings.method):
            words += ["--method", outside.place_of(settings.method, "method")]
        print(f"stopped; continue with: {shlex.join(words)}", flush=True)
        raise


@program("nas-zoo auto")
def main(argv: list[str] | None = None) -> int:
    """The program: exit codes as in the module."""
    settings, resume = parse(sys.argv[1:] if argv is None else argv)
    auto(settings, resume)
    return 0


if __name__ == "__main__":
    sys.exit(main())
