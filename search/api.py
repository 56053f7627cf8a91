"""A search from a Python program: the run that `nas-zoo search` makes, in the same folder, its outcome as values."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from nas_zoo.genotype import Genotype
from nas_zoo.runs.log import RunLog, settings_to_resume
from nas_zoo.runs.loop import Callback
from nas_zoo.runs.settings import check_call
from nas_zoo.runs.stop import Reason, hand_on
from nas_zoo.search import run
from nas_zoo.search.arguments import CHECKPOINT_KIND
from nas_zoo.search.method import SearchSettings, find_method

__all__ = ["SearchResult", "search"]


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search has found so far."""

    path: Path  # the run's folder, as every command takes it
    genotype: Genotype | None  # by the method's own rule; None where no epoch has ended, or 'none' has won everywhere
    history: list[dict[str, Any]]  # a table: one row of the same columns an epoch, `pandas.DataFrame(history)` takes it
    gap: dict[str, Any] | None  # accuracies before and after discretization: ``search.discretize.measure_gap``
    stopped: Reason | None = None  # "time budget" where that ended it before its last epoch

    @classmethod
    def read(cls, path: Path | str, stopped: Reason | None = None) -> "SearchResult":
        """That of a run's folder; ValueError where it holds none."""
        lines = [line for line in RunLog.read(path) if line.get("kind") == "epoch"]
        last = lines[-1] if lines else {}
        found = last.get("found")
        genotype = None if found is None else Genotype.from_json(found)
        return cls(Path(path), genotype, [_row(line) for line in lines], last.get("gap"), stopped)


def _row(line: dict[str, Any]) -> dict[str, Any]:
    """The figures of an epoch's line side by side; accuracies in [0, 1], None where there is none."""
    held, ranking = line["held_out"], line.get("ranking") or {}
    tau = ranking.get("kendall_tau") or {}
    return {
        "epoch": line["epoch"],
        "lr": line["lr"],
        "train_loss": line["train"]["loss"],
        "train_accuracy": line["train"]["accuracy"],
        "alpha_loss": line["alpha_loss"],
        "supernet": held["supernet"],
        "found": held["found"],
        "darts": held["derived"]["darts"],
        "argmax": held["derived"]["argmax"],
        "entropy_normal": line["entropy"]["normal"],
        "entropy_reduce": line["entropy"]["reduce"],
        "changed_edges": ranking.get("changed"),
        "tau_normal": tau.get("normal"),
        "tau_reduce": tau.get("reduce"),
        "seconds": line["seconds"],
        "peak_memory_gb": line["peak_memory_gb"],
    }


def search(
    settings: SearchSettings,
    *,
    resume: bool | Literal["auto"] | Path | str = False,
    callbacks: Iterable[Callback] = (),
) -> SearchResult:
    """Searches to the end of the last epoch, or to the time budget of the settings.

    Args:
        settings: Of the method, such as EdasSettings; ``data`` may be a map-style data set of (image, label).
        resume: Go on with the run in ``settings.out`` (True), if there is one ("auto"), or from that checkpoint.
        callbacks: Each is called with the log's line of an epoch when that has ended and its checkpoint is written. An
            exception of theirs ends the search, which can be resumed.

    Raises:
        ValueError: For whatever a user can mend, in one line.
        KeyboardInterrupt: After Ctrl-C, when the iteration has ended and a checkpoint is written. (SIGTERM is handed on
            to the program in the same way.)
    """
    called = check_call(settings, SearchSettings, callbacks)
    wanted = find_method(settings.method)[0]
    if not isinstance(settings, wanted):
        raise ValueError(f"method {settings.method!r} has {wanted.__name__}, got {type(settings).__name__}")
    settings, state = settings_to_resume(settings, resume, CHECKPOINT_KIND)
    reason = run.search(settings, state, callbacks=called)
    hand_on(reason)
    return SearchResult.read(settings.out, reason)
