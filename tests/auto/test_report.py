"""auto/report.py: what must be said stands on the page exactly when it is so, and names from files are only text."""

import base64
import io
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas_zoo.auto.report import MOST_WRONG, page, verdict, write_report, write_wrong
from nas_zoo.data.sources import ImageSource
from nas_zoo.genotype import load_genotype
from nas_zoo.models.results import standard_error

EVIL = '<img src=x onerror="alert(1)">'
RANDOM_AS_GOOD = "Random cells are as good at the same width and depth"


def row(kind: str, top1: float, ms: float = 0.15, n: int = 400, **more: Any) -> dict[str, Any]:
    names = {"found": "found", "random": "random cells", "catalogue": "darts_v2"}
    return {
        "kind": kind, "name": names.get(kind, "mobilenetv3_small_100"), "what": kind, "top1": top1, "n": n,
        "balanced_accuracy": top1, "measured_latency_ms": ms, "predicted_latency_ms": None, "parameters": 1234,
        "epochs": 3, "epochs_wanted": 3, "train_seconds": 12.5, **more,
    }  # fmt: skip


def made(folder: Path, rivals: list[dict[str, Any]] | None = None, *, classes: tuple[str, ...] = ("cat", "dog"),
         ms: float = 0.15, left_out: tuple[str, ...] = (), epochs: int = 12) -> Path:  # fmt: skip
    """A run's folder as the program leaves it, 400 test pictures of which 380 are right."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % len(classes)
    given = labels.copy()
    given[:20] = (given[:20] + 1) % len(classes)
    rows = [[f"{i:03d}.png", int(a), int(b), round(float(p), 4)]
            for i, (a, b, p) in enumerate(zip(labels, given, rng.uniform(0.5, 1, 400), strict=True))]  # fmt: skip
    look = {"data": EVIL, "sentences": [f"{EVIL}: 400 pictures."],
            "counts": {part: dict.fromkeys(classes, 9) for part in ("train", "val", "test")}}  # fmt: skip
    summary = {
        "file": "model.onnx", "max_latency_ms": 0.2, "predicted_latency_ms": 0.14, "measured_latency_ms": ms,
        "top1": 0.95, "balanced_accuracy": 0.95, "n": 400, "parameters": 1234, "macs": 56789, "num_cells": 5,
        "init_channels": 8, "image_size": 8, "device": EVIL, "runtime": "onnxruntime 1.31.1", "threads": 1,
        "seconds": 300.0, "method": "edas", "train_epochs": epochs, "time_budget": 900.0, "measured_on": {"busy": None},
    }  # fmt: skip
    fit = {"networks": 12, "mean_error": 0.03, "largest_error": 0.08}
    log = [{"kind": "start"}, {"kind": "stage", "name": "table", "seconds": 60.0, "result": fit},
           {"kind": "stage", "name": "train", "seconds": 200.0, "result": {}}]  # fmt: skip
    files = {"look": look, "summary": summary, "predictions": {"classes": classes, "test": rows}}
    if rivals is not None:
        files["compare"] = {"rows": [row("found", 0.95), *rivals], "left_out": left_out, "budget": 600, "seconds": 500}
    for name, record in files.items():
        (folder / f"{name}.json").write_text(json.dumps(record))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (folder / "genotype.json").write_text(load_genotype("darts_v2").to_json())
    images = rng.integers(0, 256, (400, 8, 8, 3), dtype=np.uint8)
    write_wrong(folder, ImageSource("photos", classes, labels, (0.5,) * 3, (0.5,) * 3, 3, 8, images))
    return folder


def words(folder: Path) -> str:
    """The page's text, without its tags."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page(folder).partition("</style>")[2])).split())


@pytest.mark.parametrize("top1", [0.5, 0.90, 0.913, 0.915, 0.93, 0.95, 0.978, 0.98, 1.0])
def test_random_cells_are_called_as_good_exactly_within_two_standard_errors(tmp_path, top1):
    within = abs(top1 - 0.95) <= 2 * np.hypot(standard_error(top1, 400), standard_error(0.95, 400))
    text = words(made(tmp_path, [row("random", top1)]))
    assert (RANDOM_AS_GOOD in text) is bool(within)
    assert ("the search has paid off" in text) is bool(not within and top1 < 0.95)
    assert ("The search has not paid off" in text) is bool(not within and top1 > 0.95)


def test_the_standard_error_is_the_binomials_for_many_pictures_and_never_nothing():
    assert standard_error(0.5, 100) == pytest.approx(0.5 / 104**0.5)
    assert standard_error(0.9, 100_000) == pytest.approx((0.9 * 0.1 / 100_000) ** 0.5, rel=1e-3)
    assert standard_error(1.0, 24) == pytest.approx(0.0487, abs=1e-4)  # 26 of 28
    assert verdict({"top1": 0.9, "n": 1000}, {"top1": 0.88, "n": 1000}) == "as good"
    assert verdict({"top1": 0.9, "n": 10000}, {"top1": 0.88, "n": 10000}) == "worse"
    assert verdict({"top1": 0.5, "n": 10000}, {"top1": 0.52, "n": 10000}) == "better"


@pytest.mark.parametrize(
    ("top1", "ms", "said"),
    [
        (0.99, 0.1, "is better: 99.0 % against 95.0 %"),
        (0.99, 0.1, "within the 0.2 ms that are allowed: take it"),
        (0.99, 0.3, "It takes 0.3 ms, more than the 0.2 ms that are allowed."),
        (0.95, 0.1, "is as good and faster"),
        (0.95, 0.19, "is as good: "),
        (0.5, 0.1, "is worse: "),
    ],
)
def test_what_a_network_of_timm_is_worth_is_said(tmp_path, top1, ms, said):
    text = words(made(tmp_path, [row("timm", top1, ms)]))
    assert said in text
    assert ("take it" in text) is (top1 > 0.9 and ms < 0.15)


@pytest.mark.parametrize("kind", ["random", "timm"])
def test_a_rival_that_was_trained_for_less_time_decides_nothing_where_it_is_worse(tmp_path, kind):
    text = words(made(tmp_path, [row(kind, 0.5, epochs_wanted=12)]))
    assert "it had 3 of the 12 epochs that would be as long a training, so this decides nothing" in text
    assert "has paid off" not in text
    assert "decides nothing" not in words(made(tmp_path, [row(kind, 0.95, epochs_wanted=12)]))


def test_random_cells_that_miss_the_limit_are_told_so(tmp_path):
    text = words(made(tmp_path, [row("random", 0.95, 0.3)]))
    assert RANDOM_AS_GOOD in text
    assert "it has kept the limit, which they miss" in text


def test_others_are_held_against_the_file_that_is_delivered(tmp_path):
    """A network between the times of its float32 and its int8 form was called faster."""
    folder = made(tmp_path, [row("found_int8", 0.95, 0.1, file="model_int8.onnx"), row("timm", 0.95, 0.15)], ms=0.1)
    compared = json.loads((folder / "compare.json").read_text())
    compared["rows"][0] |= {"file": "model.onnx", "measured_latency_ms": 0.3}
    (folder / "compare.json").write_text(json.dumps(compared))
    assert "as good and faster" in words(folder)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"file": "model_int8.onnx"}))
    assert "is as good: " in words(folder)
    assert "as good and faster" not in words(folder)


def test_cells_of_others_are_held_against_the_found_ones_in_the_same_form(tmp_path):
    """What eight bits had gained was put down to the search."""
    folder = made(tmp_path, [row("found_int8", 0.95, 0.1, file="model_int8.onnx"), row("random", 0.95, 0.3)], ms=0.1)
    compared, summary = (json.loads((folder / name).read_text()) for name in ("compare.json", "summary.json"))
    compared["rows"][0] |= {"file": "model.onnx", "measured_latency_ms": 0.3}
    (folder / "compare.json").write_text(json.dumps(compared))
    (folder / "summary.json").write_text(json.dumps(summary | {"file": "model_int8.onnx"}))
    text = words(folder)
    assert RANDOM_AS_GOOD in text
    assert "They take 0.3 ms where those found take 0.3 ms" in text
    assert "which they miss" not in text


def test_time_is_said_to_have_bound_the_size_only_where_it_has(tmp_path):
    folder = made(tmp_path, ms=0.05)
    assert "It is far below the limit." in words(folder)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"bound_by": "time"}))
    assert "It is far below the limit: the time budget, not the limit, has bound its size." in words(folder)


def test_without_a_comparison_the_page_says_that_nothing_is_known_of_the_search(tmp_path):
    text = words(made(tmp_path))
    assert "compared with nothing" in text
    assert "--compare" in text
    assert "random cells are" not in text.lower()


def test_a_limit_that_is_missed_stands_on_top(tmp_path):
    assert "The limit is missed: 0.25 ms measured, 0.2 ms allowed, 25 % more." in words(made(tmp_path, ms=0.25))
    assert "The limit is missed" not in words(made(tmp_path, ms=0.2))


def test_a_training_that_had_no_time_and_an_answer_that_is_chance_are_told(tmp_path):
    words_of_time, words_of_chance = (
        "It was trained for 1 epoch only: these figures say nothing",
        "It is no better than always",
    )
    assert words_of_time in words(made(tmp_path, epochs=1))
    text = words(made(tmp_path))
    assert words_of_time not in text
    assert words_of_chance not in text
    summary = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"top1": 0.54}))
    assert words_of_chance in words(tmp_path)


def test_what_was_left_out_of_the_comparison_is_told(tmp_path):
    text = words(made(tmp_path, [row("random", 0.95)], left_out=(f"{EVIL}, it could not be fine-tuned: offline",)))
    assert f"Left out of the comparison: {EVIL}, it could not be fine-tuned: offline." in text


def test_names_from_files_are_text_and_nothing_is_loaded(tmp_path):
    text = page(made(tmp_path, [row("random", 0.9, name=EVIL)], classes=(EVIL, "</style><script>alert(1)</script>")))
    assert "<script" not in text
    assert "<img src=x" not in text
    assert EVIL in unescape(text)
    for url in re.findall(r'(?:src|href)="([^"]*)"', text):
        assert url.startswith(("#", "data:")) or url in ("page/index.html", "model.onnx")
    assert "url(" not in text
    assert "@import" not in text


def test_the_same_files_give_the_same_page(tmp_path):
    folder = made(tmp_path, [row("random", 0.9)])
    assert write_report(folder).read_text() == page(folder)


def test_the_confusion_matrix_counts_every_test_picture(tmp_path):
    text = page(made(tmp_path))
    table = re.search(r'<table class="confusion">.*?</table>', text, re.S)
    assert table is not None
    counts = [int(n) for n in re.findall(r"<td[^>]*>(\d+)</td>", table[0])]
    assert sum(counts) == 400
    assert sorted(counts) == [10, 10, 190, 190]


def test_a_class_that_is_named_by_a_wordnet_id_is_shown_in_words(tmp_path):
    ids = ("n01440764", "n02102040", "other")
    text = words(made(tmp_path, classes=ids))
    shown = "tench (n01440764)"
    assert text.count(shown) >= 3  # the matrix, the pictures that it gets wrong, the pictures of each class
    assert text.count("n01440764") == text.count(shown)
    assert "other" in text
    report = page(tmp_path)
    assert f'aria-label="taken for {shown}"' in report
    assert "English springer (n02102040)" in report


def test_of_many_classes_the_confusions_are_listed(tmp_path):
    text = page(made(tmp_path, classes=tuple(f"class {i}" for i in range(30))))
    assert '<table class="confusion">' not in text
    assert "taken for <bdi>class 1</bdi>: 1 of 14" in text


def test_the_pictures_that_it_is_surest_of_and_wrong_about_are_shown(tmp_path):
    folder = made(tmp_path)
    predictions = json.loads((folder / "predictions.json").read_text())
    wrong = json.loads((folder / "wrong.json").read_text())["pictures"]
    all_wrong = [r for r in predictions["test"] if r[1] != r[2]]
    assert len(wrong) == min(MOST_WRONG, len(all_wrong)) == 20
    assert [one["probability"] for one in wrong] == sorted((r[3] for r in all_wrong), reverse=True)
    for one in wrong:
        assert one["true"] != one["given"]
        kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", one["uri"]).groups()  # type: ignore[union-attr]
        assert kind == "png"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (8, 8)
    assert page(folder).count('class="small"') == 20


def test_large_pictures_become_small_ones_and_no_more_than_24(tmp_path):
    predictions = {"classes": ["a", "b"], "test": [[str(i), 0, 1, 0.5] for i in range(30)]}
    (tmp_path / "predictions.json").write_text(json.dumps(predictions))
    images = np.zeros((30, 200, 200, 1), np.uint8)
    source = ImageSource("grey", ("a", "b"), np.zeros(30, np.int64), (0.5,), (0.5,), 1, 200, images)
    wrong = json.loads(write_wrong(tmp_path, source).read_text())["pictures"]
    assert len(wrong) == MOST_WRONG
    data = base64.b64decode(wrong[0]["uri"].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (112, 112)
    assert len(data) < 6000


def test_a_folder_without_the_files_of_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"summary\.json.*nas-zoo auto"):
        page(tmp_path)
    made(tmp_path)
    (tmp_path / "look.json").write_text("{")
    with pytest.raises(ValueError, match=r"look\.json"):
        page(tmp_path)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_horizontal_scrolling(width, scheme, browser, tmp_path):
    rivals = [row("random", 0.94, 0.16), row("catalogue", 0.96, 0.25), row("timm", 0.7, 0.31)]
    names = (*(f"a class with a long name {i}" for i in range(9)), "averyveryverylongclassname" * 3)
    report = write_report(made(tmp_path, rivals, classes=names))
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True)
    tab, said, asked = context.new_page(), list[str](), list[str]()
    tab.on("console", lambda message: said.append(message.text))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(report.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.get_by_text("Pictures of each class").click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    # the matrix is wider than a phone: it scrolls by itself, and by keyboard
    matrix = tab.locator("#confusion .wrap")
    matrix.focus()
    assert matrix.evaluate("element => element === document.activeElement")
    for image in tab.locator("#wrong img").all():
        assert image.get_attribute("alt")
        assert image.evaluate("element => element.naturalWidth") == 8
    # letters of the notices stand out enough, in both schemes: WCAG's ratio of 4.5
    ratio = tab.evaluate(_CONTRAST, "ul.told li")
    assert ratio >= 4.5
    context.close()


@pytest.mark.parametrize("classes", [10, 20])
def test_a_phone_shows_the_whole_matrix_or_says_that_there_is_more_of_it(classes, browser, tmp_path):
    report = write_report(made(tmp_path, classes=tuple(f"a class with a long name {i}" for i in range(classes))))
    for width in (390, 1280):
        tab = browser.new_page(viewport={"width": width, "height": 844})
        tab.goto(report.as_uri())
        matrix, note = tab.locator("#confusion .wrap"), tab.get_by_text("move it sideways")
        hidden = matrix.evaluate("element => element.scrollWidth - element.clientWidth")
        assert (hidden > 0) is (note.count() == 1 and note.is_visible()) is (classes == 20 and width == 390)
        if hidden:
            matrix.evaluate("element => { element.scrollLeft = 1000 }")
            assert tab.locator("#confusion tbody th").first.bounding_box()["x"] >= 0  # the names stay in sight
        tab.close()


_CONTRAST = """(selector) => {
  const style = getComputedStyle(document.querySelector(selector));
  const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).map(Number).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const [a, b] = [light(style.color), light(style.backgroundColor)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""
