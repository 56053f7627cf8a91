"""The page that runs a network in the browser: its folder, and the page itself in a real one against `predict`."""

import contextlib
import functools
import http.server
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from nas_zoo.export.publish import page, space
from nas_zoo.export.runtime.classifier import OnnxClassifier
from tests.weights import train_tiny, write_images

FILES = {"index.html", "page.js", "page.css", "model_images.onnx", "cells.svg"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Images, and the run on them; its classes are bytes that a page must not obey."""
    folder = tmp_path_factory.mktemp("page")
    return write_images(folder / "images"), train_tiny(folder / "images", folder / "run")


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """A Space with two examples."""
    images, trained = run
    folder = tmp_path_factory.mktemp("made") / "space"
    examples = [str(images / "test" / name / "00.png") for name in ("cat", "ship")]
    assert space.main([str(trained), "--to", str(folder), "--repo", "zoo/blobs", "--examples", *examples]) == 0
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def facts_of(html: str) -> Any:
    found = re.search(r'<script id="facts" type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_a_space_is_the_page_and_what_the_hub_reads(made, run):
    assert files(made) == FILES | {"README.md", "examples/0_00.png", "examples/1_00.png"}
    head = YAML(typ="safe").load((made / "README.md").read_text().split("---\n")[1])
    assert (head["sdk"], head["app_file"], head["models"]) == ("static", "index.html", ["zoo/blobs"])
    assert len(head["title"]) <= 60
    for path in made.rglob("*"):
        if path.is_file():
            assert str(run[1].parent).encode() not in path.read_bytes()


def test_the_page_names_one_version_of_the_runtime_with_its_hashes(made):
    html = (made / "index.html").read_text()
    runtime = facts_of(html)["runtime"]
    assert runtime["base"] == f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{page.ORT_VERSION}/dist/"
    assert {file["name"]: file["integrity"] for file in (runtime["script"], runtime["wasm"])} == page.ORT_FILES
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy
    assert "connect-src 'self' blob: https://cdn.jsdelivr.net;" in policy[1]  # and pictures are sent nowhere
    assert "default-src 'none'" in policy[1]


def test_the_runtime_can_be_carried(run, tmp_path):
    (tmp_path / "npm" / "dist").mkdir(parents=True)
    for name in page.ORT_FILES:
        (tmp_path / "npm" / "dist" / name).write_bytes(name.encode())
    words = [str(run[1]), "--to", str(tmp_path / "page"), "--runtime", str(tmp_path / "npm")]
    assert page.main(words) == 0
    assert files(tmp_path / "page") == FILES | {f"runtime/{name}" for name in page.ORT_FILES}
    html = (tmp_path / "page" / "index.html").read_text()
    runtime = facts_of(html)["runtime"]
    assert runtime["base"] == "runtime/"
    assert runtime["script"]["integrity"] != page.ORT_FILES[runtime["script"]["name"]]  # that of the file there
    assert "https://" not in html.replace("https://arxiv.org", "")


def test_a_class_name_is_text_on_the_page(run, tmp_path):
    """Whatever it is called: it neither ends the script element nor becomes one."""
    from nas_zoo.export.publish.published import open_checkpoint

    checkpoint = open_checkpoint(str(run[1]))
    model: Any = checkpoint.model()
    model.pretrained_cfg["label_names"] = ["</script><script>alert(1)</script>", *map(str, range(9))]
    html = page._html(checkpoint, model, [], None)
    assert html.count("<script") == 2
    assert facts_of(html)["classes"][0] == "</script><script>alert(1)</script>"


def test_mistakes_are_told_in_a_line_and_leave_nothing(run, tmp_path, capsys):
    trained = str(run[1])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "none").mkdir()
    for words, told in (
        ([trained, "--to", str(tmp_path / "full")], "the folder must be new or empty"),
        ([trained, "--to", str(tmp_path / "s"), "--examples", str(tmp_path / "text.png")], "not readable as an image"),
        ([trained, "--to", str(tmp_path / "s"), "--examples", str(tmp_path / "none")], "no images in"),
        ([trained, "--to", str(tmp_path / "s"), "--examples", str(tmp_path / "gone.png")], "gone.png"),
        ([trained, "--to", str(tmp_path / "s"), "--runtime", str(tmp_path / "none")], "npm pack onnxruntime-web@"),
        (["edas_in1k", "--to", str(tmp_path / "s")], "without weights"),
    ):
        for program in (page, space):
            assert program.main(words) == 2
            error = capsys.readouterr().err
            assert told in error
            assert error.count("\n") == 1
    assert not (tmp_path / "s").exists()
    assert [path.name for path in Path(tmp_path / "full").iterdir()] == ["mine.txt"]


# In a browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runtime():
    """The files of ONNX Runtime for browsers, from npm (`make test-interop` fetches them)."""
    given = os.environ.get("NAS_ZOO_ORT_WEB")
    if given is None and not os.environ.get("NAS_ZOO_INTEROP"):
        pytest.skip("NAS_ZOO_ORT_WEB names no folder with onnxruntime-web's files")
    assert given is not None
    return given


@pytest.fixture(scope="module")
def carried(run, runtime, tmp_path_factory):
    """The address of a page that carries its runtime, and its folder."""
    folder = tmp_path_factory.mktemp("carried") / "page"
    example = str(run[0] / "test" / "cat" / "00.png")
    assert page.main([str(run[1]), "--to", str(folder), "--runtime", runtime, "--examples", example]) == 0
    with served(folder) as address:
        yield address, folder


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of its files."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def pictures_in(folder: Path) -> list[Path]:
    """Twenty pictures of all kinds, none of a format or shape of another."""
    random = np.random.default_rng(0)
    rough = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((320, 240), 3)
    fine = Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize((161, 243), 3)
    both = {"rough": rough, "fine": fine}
    for name, picture in both.items():
        picture.save(folder / f"{name}.png")
        picture.save(folder / f"{name}.jpg", quality=90)
        picture.save(folder / f"{name}_progressive.jpg", quality=85, progressive=True)
        picture.save(folder / f"{name}.webp", lossless=True)
        picture.save(folder / f"{name}.bmp")
    rough.convert("L").save(folder / "grey.png")
    rough.convert("L").save(folder / "grey.jpg")
    rough.convert("P").save(folder / "palette.png")
    fine.convert("P").save(folder / "palette.gif")
    for turn in (2, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = turn
        fine.save(folder / f"turned_{turn}.jpg", exif=exif, quality=95)
    rough.resize((700, 30)).save(folder / "long.png")
    rough.resize((3, 5)).save(folder / "small.png")
    return sorted(folder.iterdir())


def opened(browser: Any, address: str, **settings: Any) -> tuple[Any, list[str], list[str]]:
    """A page that is ready, what it says on its console, what it asks for."""
    from playwright.sync_api import expect

    tab = browser.new_page(**settings)
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    expect(tab.locator("#state")).not_to_have_text(re.compile("^Loading"), timeout=120_000)
    assert tab.inner_text("#state") == "Ready for a picture."
    return tab, said, asked


def answer(tab: Any, act: Any) -> Any:
    """What the page finds after an act of its user."""
    tab.evaluate("() => { window.found = undefined }")
    act()
    until = time.monotonic() + 60
    while tab.evaluate("() => window.found === undefined"):
        assert time.monotonic() < until
        time.sleep(0.02)
    return tab.evaluate("() => window.found")


def test_the_browser_says_what_predict_says(carried, browser, tmp_path):
    address, folder = carried
    tab, said, asked = opened(browser, address)
    classifier = OnnxClassifier(folder / "model_images.onnx")
    paths = pictures_in(tmp_path)
    assert len(paths) == 20
    for path in paths:
        found = answer(tab, lambda path=path: tab.set_input_files("#file", str(path)))
        expected = classifier.predict([path], top_k=10)[0]
        probabilities = np.zeros(10)
        probabilities[expected.indices] = expected.probabilities
        assert np.abs(probabilities - found["probabilities"]).max() < 1e-3, path.name
        assert tab.inner_text("#answer li:first-child span:first-child") == expected.labels[0], path.name
    assert said == []
    assert all(url.startswith((address, "blob:", "data:")) for url in asked)  # nothing goes anywhere else
    tab.close()


def test_the_browser_runs_a_file_of_eight_bits_as_onnx_runtime_does(run, runtime, browser, tmp_path):
    from nas_zoo.export.graph.deliver import Forms, deliver
    from nas_zoo.export.graph.real_images import RealImages
    from nas_zoo.export.publish.published import open_checkpoint

    checkpoint = open_checkpoint(str(run[1]))
    real = RealImages("test pictures", sorted((run[0] / "test").rglob("*.png"))[:8], None)
    deliver(checkpoint.model(), tmp_path, Forms(int8=True, layout="NHWC"), images=real, calibration=real)
    file, folder = tmp_path / "model_int8_images.onnx", tmp_path / "page"
    page.write_page(checkpoint, folder, runtime=runtime, file=file, words="As it is delivered.")
    (tmp_path / "pictures").mkdir()
    classifier = OnnxClassifier(file)
    with served(folder) as address:
        tab, said, _ = opened(browser, address)
        assert tab.get_by_text("As it is delivered.").count() == 1
        for path in pictures_in(tmp_path / "pictures"):
            found = answer(tab, lambda path=path: tab.set_input_files("#file", str(path)))
            expected = classifier.predict([path], top_k=10)[0]
            off = np.abs(np.array(found["probabilities"])[expected.indices] - expected.probabilities).max()
            assert off < 1e-3, path.name
        assert said == []
        tab.close()


def test_transparent_and_wide_gamut_pictures_are_told_apart(carried, browser, tmp_path):
    """Those that browsers decode in their own way: CMYK and 16 bits agree, transparency does not have to."""
    address, folder = carried
    tab, *_ = opened(browser, address)
    classifier = OnnxClassifier(folder / "model_images.onnx")
    picture = Image.open(pictures_in(tmp_path)[2]).convert("RGB")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    layers = np.dstack([np.asarray(picture), np.full((picture.height, picture.width), 255, np.uint8)])
    layers[:, ::2, 3] = 40
    Image.fromarray(layers).save(tmp_path / "transparent.png")
    off = {}
    for name in ("cmyk.jpg", "sixteen.png", "transparent.png"):
        found = answer(tab, lambda name=name: tab.set_input_files("#file", str(tmp_path / name)))
        expected = classifier.predict([tmp_path / name], top_k=10)[0]
        off[name] = max(
            abs(found["probabilities"][i] - p) for i, p in zip(expected.indices, expected.probabilities, strict=True)
        )
    assert off["cmyk.jpg"] < 0.02
    assert off["sixteen.png"] < 0.02
    assert off["transparent.png"] < 0.2
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_and_a_keyboard_can_use_it(carried, browser, scheme):
    address, _ = carried
    tab, said, _ = opened(browser, address, viewport={"width": 390, "height": 667}, color_scheme=scheme)
    assert tab.evaluate("() => document.documentElement.scrollWidth") == 390
    tab.keyboard.press("Tab")
    assert tab.evaluate("() => document.activeElement.id") == "file"
    tab.focus("[data-example]")
    found = answer(tab, lambda: tab.keyboard.press("Enter"))
    assert sum(found["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert tab.get_attribute("#state", "aria-live") == "polite"
    assert tab.locator("#answer li").count() == 5
    box = tab.locator("#answer").bounding_box()
    assert box["y"] > 0  # it has come into sight
    assert box["y"] + box["height"] <= 667
    assert tab.evaluate("() => [...document.images].every((image) => image.hasAttribute('alt'))")
    assert said == []
    tab.close()


def test_what_cannot_be_read_is_told_and_the_next_picture_is(carried, browser, tmp_path, run):
    address, _ = carried
    tab, *_ = opened(browser, address)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert "error" in answer(tab, lambda: tab.set_input_files("#file", str(tmp_path / "broken.png")))
    assert tab.inner_text("#state").startswith("This picture can't be read here")
    good = str(run[0] / "test" / "cat" / "01.png")
    assert "probabilities" in answer(tab, lambda: tab.set_input_files("#file", good))
    tab.close()


def test_a_runtime_with_another_hash_is_not_run(carried, browser, tmp_path):
    address, folder = carried
    name = next(iter(page.ORT_FILES))
    right = (folder / "runtime" / name).read_bytes()
    try:
        (folder / "runtime" / name).write_bytes(right + b"\nwindow.foreign = true;")
        tab = browser.new_page()
        tab.goto(address)
        from playwright.sync_api import expect

        expect(tab.locator("#state")).to_have_class("wrong", timeout=60_000)
        assert "could not be loaded" in tab.inner_text("#state")
        assert not tab.evaluate("() => window.foreign")
        tab.close()
    finally:
        (folder / "runtime" / name).write_bytes(right)
