"""runs/ending.py: how a program ends, told by its exit code and the one line on stderr."""

import errno
import importlib
import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas_zoo.cli import PROGRAMS
from nas_zoo.runs.ending import Agreed, Finding, program, run_program, stopped

ROOT = Path(__file__).parents[2]


class Differs(Finding):
    pass


def fails(error: BaseException) -> int:
    @program("nas-zoo test")
    def main() -> int:
        raise error

    return main()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("lr must be greater than 0"), 2, "nas-zoo test: lr must be greater than 0"),
        (ValueError("two\n  lines"), 2, "nas-zoo test: two lines"),
        (ValueError("a\x1b[31mred\u202e name"), 2, r"nas-zoo test: a\x1b[31mred\u202e name"),
        (ValueError(), 2, "nas-zoo test: ValueError"),
        (FloatingPointError("the loss is not finite"), 2, "nas-zoo test: the loss is not finite"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"), 2,
         "nas-zoo test: 'a/b': No such file or directory"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "nas-zoo test: No space left on device"),
        (OSError("cannot identify image"), 2, "nas-zoo test: cannot identify image"),
        (Differs("logits differ by 1"), 1, "nas-zoo test: Differs: logits differ by 1"),
        (KeyboardInterrupt(), 130, "nas-zoo test: stopped"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_one_line(error, code, line, capsys):
    assert fails(error) == code
    assert capsys.readouterr() == ("", line and f"{line}\n")


@pytest.mark.parametrize(("rank", "agreed", "own"), [("0", 1, 1), ("1", 0, 1)])
def test_what_all_processes_agree_on_is_told_by_one_and_what_one_alone_meets_by_it(
    rank, agreed, own, monkeypatch, capsys
):
    monkeypatch.setenv("LOCAL_RANK", rank)
    for error, lines in ((Agreed("2 images cannot be read"), agreed), (ValueError("no such file"), own)):
        assert fails(error) == 2
        assert len(capsys.readouterr().err.splitlines()) == lines


@pytest.mark.parametrize("module", ["torch", "numpy"])
def test_a_machine_without_enough_memory_is_told_in_one_line(module, capsys):
    @program("nas-zoo test")
    def main() -> int:
        return len(importlib.import_module(module).ones(2**55))

    assert main() == 2
    error = capsys.readouterr().err
    assert error.startswith("nas-zoo test: there is not enough memory (")
    assert error.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("x"), TypeError("x"), KeyError("x"), AssertionError(), SystemExit(3)])
def test_all_else_is_our_fault_and_passes(error):
    with pytest.raises(type(error)):
        fails(error)


def test_a_valueerror_that_no_line_of_ours_raised_says_where_it_comes_from(capsys, monkeypatch):
    ours: dict[str, object] = {"np": np, "__name__": "nas_zoo.somewhere"}
    exec(
        "def foreign(): return np.zeros(3).reshape(2)\ndef builtin(): return int('x')\n"
        "def meant(): raise ValueError('for the user')\n",
        ours,
    )
    told = {}
    for name in ("foreign", "builtin", "meant"):
        assert run_program("test", ours[name]) == 2  # type: ignore[arg-type]
        told[name] = capsys.readouterr().err
    assert told["foreign"] == (
        "test: cannot reshape array of size 3 into shape (2,) (ValueError in nas_zoo.somewhere, line 1)\n"
    )
    assert told["builtin"].endswith("'x' (ValueError in nas_zoo.somewhere, line 2)\n")
    assert told["meant"] == "test: for the user\n"
    monkeypatch.setenv("NAS_ZOO_TRACEBACK", "1")
    assert run_program("test", ours["meant"]) == 2  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == "test: for the user"


def test_a_stopped_run_says_how_it_goes_on(capsys):
    assert [stopped(reason, "X --resume") for reason in (None, "time budget", "SIGTERM", "SIGINT")] == [0, 0, 143, 130]
    assert capsys.readouterr().out.splitlines() == [
        f"stopped ({reason}); continue with: X --resume" for reason in ("time budget", "SIGTERM", "SIGINT")
    ]


STOPPED = """
    import os, signal, sys, time
    from nas_zoo.runs.ending import program
    from nas_zoo.runs.files import replacing

    @program("test")
    def main():
        if os.fork() == 0:  # as a loader process: dies of it, and puts nothing in order
            time.sleep(60)
        with replacing("file") as file:
            file.write(b"half")
            print("ready", flush=True)
            time.sleep(60)
        return 0

    sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing_half_written_and_is_128_and_its_number(tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STOPPED)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        start_new_session=True,
        # nohup, under which the tests may run, leaves SIGHUP ignored in all that it starts
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.killpg(process.pid, number)
        assert process.wait(60) == 128 + number
    assert os.listdir(tmp_path) == []


def nas_zoo(*words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "nas_zoo", *words], cwd=ROOT, text=True, timeout=120, **how)


def test_a_closed_pipe_is_quiet():
    reading, writing = os.pipe()
    os.close(reading)
    done = nas_zoo("list", "--csv", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_name_that_stdout_has_no_letters_for_is_shown_all_the_same(monkeypatch):
    for encoding in ("ascii", "utf-8"):
        stdout = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", stdout)
        assert run_program("test", lambda: print("\u00e9 \udcff") or 0) == 0
        monkeypatch.undo()
        assert stdout.buffer.getvalue() in (b"\\xe9 \\udcff\n", b"\xc3\xa9 \\udcff\n")


@pytest.mark.skipif(os.name == "nt", reason="a shell that closes streams")
def test_a_closed_stdout_is_nowhere_and_no_file_takes_its_place(tmp_path):
    command = f'exec "{sys.executable}" -m nas_zoo draw darts_v2 "{tmp_path / "cells.svg"}"'
    how: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True, "check": False}
    for closed in (">&-", "<&- >&-", "<&- >&- 2>&-"):
        done = subprocess.run(["sh", "-c", f"{command} {closed}"], **how)
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "cells.svg").read_text().endswith("</svg>\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_stdout_is_one_line():
    with open("/dev/full", "w") as full:
        done = nas_zoo("list", "--csv", stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (2, "nas-zoo list: No space left on device\n")


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_ends_here(name):
    import importlib

    main = importlib.import_module(PROGRAMS[name][0]).main
    assert main.__wrapped__.__name__ == "main"
