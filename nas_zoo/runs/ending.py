"""The one place that ends a program.

    @program("nas-zoo check")
    def main(argv: list[str] | None = None) -> int: ...

What comes out, and how:

    a mistake of the user, or of the machine         one line on stderr                          2
      (ValueError, OSError, FloatingPointError, and
      too little memory)
    a finding: what was to be found out, and is so   one line on stderr with the error's name    1
    SIGTERM, SIGHUP, Ctrl-C                          files half written are removed              128 + n
    the reader of stdout has gone (`| head`)         nothing                                     141
    everything else                                  a traceback, because it is our fault        1

ValueError stays the user's, without a class of our own: whoever imports a function is told of a wrong value as Python
does it. So that no bug of ours hides behind it, the line says where it comes from if no `raise` of ours made it, and
NAS_ZOO_TRACEBACK=1 shows the whole traceback before the line.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, ParamSpec

from nas_zoo.text import plain

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Agreed", "Finding", "end_run", "program", "run_program", "stopped"]

P = ParamSpec("P")
_NO_MEMORY = re.compile("out of memory|allocate memory|not enough memory|[Ff]ailed to allocate")


class Agreed(ValueError):
    """A mistake that every process of a run raises at the same place, so that they can still save its state."""


class Finding(ValueError):
    """What a program was to find out, and has found: its exit code is 1, and the line begins with the class's name."""


def program(name: str) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Makes a `main` end as above; `name` begins the line."""

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def ending(*args: P.args, **kwargs: P.kwargs) -> int:
            return run_program(name, lambda: main(*args, **kwargs))

        return ending

    return decorate


def run_program(name: str, work: Callable[[], int]) -> int:
    """The exit code of what `work` does, which is the one that it returns, or as the table above says."""
    _open_closed()
    with contextlib.suppress(AttributeError):  # names of files and classes may be more than stdout's encoding holds
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        with _signals():
            code = work()
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        _leave_stdout()
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        _tell(f"{name}: stopped")
        return 128 + signal.SIGINT
    except Finding as error:
        _tell(f"{name}: {type(error).__name__}: {error}")
        return 1
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("NAS_ZOO_TRACEBACK"):
            import traceback

            traceback.print_exception(error)
        if not isinstance(error, Agreed) or os.environ.get("LOCAL_RANK", "0") == "0":  # one line a machine is enough
            _tell(f"{name}: {_words(error)}")
        if isinstance(error, OSError):
            _leave_stdout()  # it may be the disk that stdout goes to that is full
        return 2
    except (MemoryError, RuntimeError) as error:  # torch says it with the latter
        if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        _tell(f"{name}: there is not enough memory ({(str(error).splitlines() or ['MemoryError'])[0]})")
        return 2


def stopped(reason: str | None, how: str) -> int:
    """The exit code of a run that ended (None) or was stopped; `how` is the command that goes on with it."""
    if reason is None:
        return 0
    from nas_zoo.runs.distributed import is_first  # slow to import

    if is_first():
        print(f"stopped ({reason}); continue with: {how}")
    return 128 + signal.Signals[reason] if reason.startswith("SIG") else 0


def end_run(accelerator: Accelerator) -> None:
    """Waits for what the first process writes, since the others may read it next.

    The processes stay together, for the next run of the program, until that ends itself.
    """
    accelerator.wait_for_everyone()
    _part_at_exit()


@functools.cache
def _part_at_exit() -> None:
    import atexit

    import torch.distributed as dist

    def part() -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    if dist.is_initialized():
        atexit.register(part)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP as an exception, so that every `finally` on the way is run."""
    pid, old = os.getpid(), {}

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != pid:  # a forked worker ends with its parent, and has nothing of its own to put in order
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup's stays
                old[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{os.fsdecode(error.filename)!r}: {error.strerror}"
    text = str(error) or type(error).__name__
    return text + _origin(error) if isinstance(error, ValueError) else text


def _origin(error: ValueError) -> str:
    """Where an error comes from that no `raise` of ours made, " (...)"; "" for one that was made for the user."""
    import opcode

    place, last, tb = "", None, error.__traceback__
    while tb is not None:
        module, last = str(tb.tb_frame.f_globals.get("__name__")), tb
        ours = module == "__main__" or module.partition(".")[0] == "nas_zoo"
        if ours and module != __name__:
            place = f"{module}, line {tb.tb_lineno}"
        tb = tb.tb_next
    if last is None or not place:
        return ""
    raised = opcode.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
    return "" if ours and raised else f" ({type(error).__name__} in {place})"


def _tell(line: str) -> None:
    """One line on stderr, of whatever a file's name or content has put into it."""
    line = " ".join(part.strip() for part in line.splitlines() if part.strip())
    with contextlib.suppress(OSError):  # stderr may be closed too
        print(plain(line), file=sys.stderr, flush=True)


def _open_closed() -> None:
    """Nowhere, in the place of what the shell has closed (`>&-`): else the next file that is opened would have it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def _leave_stdout() -> None:
    """What is still to be written to stdout goes nowhere, so that Python does not complain of it at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):  # a stdout without a descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
