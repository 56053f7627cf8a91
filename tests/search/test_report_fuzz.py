"""A thousand logs in which one value is of another kind: the page is made, or the line is named in words."""

import copy
import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nas_zoo.runs.log import RunLog
from nas_zoo.search.report.history import read_run
from nas_zoo.search.report.page import page
from tests.fuzz import problems_of

RESULTS = Path(__file__).parents[2] / "search" / "results"
#: What stands where something else was meant.
ODD: list[Any] = [
    None, True, False, 0, -1, 3, 10**500, -(10**20), 0.5, 1e300, -1e308, float("nan"), float("inf"), "", "a", "1",
    "\x1b[31m", "\ud800", [], [[]], [1, "a"], [None], {}, {"a": 1}, {"normal": []}, "x" * 5000, [0] * 50, ["none"],
]  # fmt: skip


def lines_of(name: str) -> list[dict[str, Any]]:
    lines = RunLog.read(RESULTS / name)
    return [lines[0], lines[1], lines[-1]]


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of a line; of the numbers of alpha and beta and of the cells' edges only the first two."""
    found = [way] if way else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*way, key))
    elif isinstance(value, list):
        for key, inner in enumerate(value[:2]):
            found += places(inner, (*way, key))
    return found


def changed(rng: random.Random, record: dict[str, Any]) -> dict[str, Any]:
    """The record with one value another, or gone."""
    twin = copy.deepcopy(record)
    *way, last = rng.choice(places(twin))
    inner: Any = twin
    for key in way:
        inner = inner[key]
    if rng.random() < 0.1:
        del inner[last]
    else:
        inner[last] = rng.choice(ODD)
    return twin


def written(folder: Path, name: str, lines: list[dict[str, Any]]) -> None:
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def shown(folder: Path, name: str, case: tuple[bool, list[dict[str, Any]]]) -> None:
    with_page, lines = case
    written(folder, name, lines)
    run = read_run(folder)
    if with_page:
        try:
            page([run]).encode()
        except ValueError as error:  # what is shown has been read: nothing is refused any more
            raise AssertionError(str(error)) from error


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edas_small_c10", "da2s_e4_c16_c10"])
def test_a_log_with_one_wrong_value_is_shown_or_refused(name: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    good = lines_of(name)
    cases = []
    for number in range(500):
        lines = list(good)
        which = rng.randrange(len(lines))
        lines[which] = changed(rng, lines[which])
        cases.append((number % 4 == 0, lines))
    assert problems_of(partial(shown, tmp_path, "log.jsonl"), cases) == []


def test_a_gap_with_one_wrong_value_is_shown_or_refused(tmp_path: Path) -> None:
    rng = random.Random("gap")
    good = lines_of("da2s_e4_c16_c10")
    written(tmp_path, "log.jsonl", good)
    gap = good[-1]["gap"] | {"n": 5000, "method": "da2s", "epochs": 3}
    gaps = [(number % 4 == 0, [changed(rng, gap)]) for number in range(200)]
    assert problems_of(partial(shown, tmp_path, "gap.json"), gaps) == []


@pytest.mark.parametrize(
    ("key", "text"),
    [("settings", "[" * 100_000), ("settings", "[" * 600 + "]" * 600), ("epoch", "9" * 4000), ("epoch", "9" * 5000)],
)
def test_a_line_nested_too_deeply_or_with_an_endless_number_is_refused(key: str, text: str, tmp_path: Path) -> None:
    first, *others = lines_of("edas_small_c10")
    if key == "settings":
        first["settings"]["more"] = "X"
    else:
        others[0][key] = "X"
    written(tmp_path, "log.jsonl", [first, *others])
    path = tmp_path / "log.jsonl"
    path.write_text(path.read_text().replace('"X"', text))
    with pytest.raises(ValueError, match="line "):
        read_run(tmp_path)


@pytest.mark.parametrize("place", ["log.jsonl", "gap.json"])
def test_a_gap_without_a_figure_that_may_be_missing_is_shown(place: str, tmp_path: Path) -> None:
    good = lines_of("da2s_e4_c16_c10")
    gap = copy.deepcopy(good[-1]["gap"])
    for figures in (gap["before"], gap["after"][0]):
        del figures["running"], figures["reestimated"]
    last = good[-1] | {"gap": gap} if place == "log.jsonl" else good[-1]
    written(tmp_path, "log.jsonl", [*good[:-1], last])
    if place == "gap.json":
        written(tmp_path, place, [gap | {"n": 5000, "method": "da2s", "epochs": 3}])
        assert "<svg" in page([read_run(tmp_path)])
        written(tmp_path, place, [gap | {"n": None, "epochs": None}])
    assert "<svg" in page([read_run(tmp_path)])
