"""A terminal sees a bar with the time that is left, a log a line now and then, and nobody anything of what is short."""

import os
import subprocess
import sys

import pytest

from nas_zoo.runs import progress

SLOW = """
import time
from nas_zoo.runs.progress import progressing
assert [x for x in progressing(range(8), "evaluating", 8) if time.sleep(0.4) is None] == list(range(8))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_a_terminal_sees_a_bar_with_the_time_that_is_left():
    import pty
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    env = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    shown = b""
    with subprocess.Popen([sys.executable, "-c", SLOW], stderr=theirs, env=env) as process:
        os.close(theirs)
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # the other end is closed
            pass
    assert process.returncode == 0
    assert b"evaluating" in shown
    assert b"<00:0" in shown  # tqdm: elapsed<left


def test_a_log_has_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    assert list(progress.progressing("abc", "calibrating", 3)) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("calibrating: 1 of 3, about 00:0")
    assert lines[0].endswith(" left")


def test_what_is_short_leaves_nothing_in_a_log(capsys):
    assert list(progress.progressing(iter("abc"), "evaluating", 3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
