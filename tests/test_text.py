"""Words from files on their way to a reader: seen as text, obeyed by nobody."""

import pytest

from nas_zoo.text import counted, fill, markdown, plain


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
