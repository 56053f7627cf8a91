"""Words from files on their way to a reader: seen as text, obeyed by nobody."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from nas_zoo.cli import main
from nas_zoo.doctor import Finding, report
from nas_zoo.search.report.page import write_report
from nas_zoo.text import counted, fill, markdown, plain
from tests.export.test_runtime import foreign


def test_what_a_terminal_would_obey_is_shown_and_not_sent():
    assert plain("\x1b[31mred\x1b[0m") == r"\x1b[31mred\x1b[0m"
    assert plain("two\nlines\r") == r"two\nlines\r"
    assert plain("cat\x9b2J \u202eabc \u2028") == r"cat\x9b2J \u202eabc \u2028"
    assert plain("caf\udce9").encode() == rb"caf\udce9"  # a file name that is no UTF-8
    assert plain("Löwe, 狮子, می‌خواهم 👩‍🌾") == "Löwe, 狮子, می‌خواهم 👩‍🌾"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("<img src=x onerror=alert(1)>", r"\<img src=x onerror=alert(1)>"),
        ("[free](http://example.org)", r"\[free\](http://example.org)"),
        ("a | b", r"a \| b"),
        ("**b** _i_ `c`", r"\*\*b\*\* \_i\_ \`c\`"),
        ("# head", r"\# head"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("&lt;b&gt;", r"\&lt;b\&gt;"),
        ("a\n\n# b", r"a\\n\\n# b"),
        ("edas_c10_s", "edas_c10_s"),
        ("0.39 points", "0.39 points"),
        ("CIFAR-10 (JPEG), quality 75, 4:2:0", "CIFAR-10 (JPEG), quality 75, 4:2:0"),
        ("cats & dogs", "cats & dogs"),
    ],
)
def test_markdown_shows_the_text_as_it_is(text, escaped):
    assert markdown(text) == escaped


def test_counts_are_in_the_singular_where_there_is_one():
    assert [counted(n, "epoch") for n in (0, 1, 6000)] == ["0 epochs", "1 epoch", "6,000 epochs"]
    assert counted(1, "class", "classes") == "1 class"
    assert counted(60000) == "60,000"


def test_a_template_that_is_missing_is_told():
    with pytest.raises(ValueError, match="install nas-zoo again"):
        fill("nas_zoo.hub_cards", "nonesuch.md")


# Everywhere names are printed -----------------------------------------------------------------------------------------

EVIL = "\x1b]0;owned\x07\x1b[2Jcat"


def test_predict_prints_labels_and_file_names_as_text(tmp_path, capsys):
    labels = json.dumps([EVIL, "dog\nfrog", "\x9b31mred"])
    path = foreign(tmp_path / "\x1b[31mm.onnx", channels=3, labels=labels, input_size="[3, 4, 4]", mean="[0, 0, 0]",
                   std="[1, 1, 1]")  # fmt: skip
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (4, 4), (9, 200, 9)).save(folder / f"{EVIL}.png")
    (folder / "\x1b[31mbroken.png").write_bytes(b"no image")
    assert main(["predict", str(path), str(folder), "--top-k", "3"]) == 2
    printed, told = (text.splitlines() for text in capsys.readouterr())
    assert len(printed) == 1  # the picture
    assert len(told) == 2  # where the model runs, and what cannot be read
    assert all(line.isprintable() and r"\x1b" in line for line in printed + told)


def test_doctor_and_errors_print_them_as_text_too(capsys):
    assert report([Finding("cache", "wrong", f"{EVIL} cannot be written")]).isprintable()
    for words in (["draw", EVIL], ["export-model", EVIL, "--to", "json"], ["predict", EVIL, "a.png"]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.rstrip("\n").isprintable()
        assert error.count("\n") == 1


def test_a_report_of_a_folder_whose_name_is_no_text_is_written(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9\x1b[31m")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    log = Path(__file__).parents[1] / "search" / "results" / "edas_small_c10" / "log.jsonl"
    (folder / "log.jsonl").write_bytes(log.read_bytes())
    text = write_report([folder], tmp_path / "page.html").read_text("utf-8")
    assert r"caf\udce9\x1b[31m" in text
    assert "\x1b" not in text
