import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from nas_zoo.runs.stop import StopRequest


def run_program(text: str, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(text), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_a_signal_asks_and_the_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    for number in (signal.SIGTERM, signal.SIGINT):
        with StopRequest() as stop:
            assert stop.reason() is None
            assert stop.agree() is None
            os.kill(os.getpid(), number)
            assert stop.reason() == stop.agree() == signal.Signals(number).name
            os.kill(os.getpid(), number)  # at once, as torchrun doubles a Ctrl-C
            assert stop.reason() == signal.Signals(number).name
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_the_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError), StopRequest():
        raise KeyError
    assert signal.getsignal(signal.SIGINT) is before


def test_a_time_budget_counts_from_the_start_of_the_program():
    with StopRequest(1000) as stop:
        assert stop.reason() is None
    with StopRequest(1000, started=time.monotonic() - 1001) as stop:
        assert stop.reason() == "time budget"
    with StopRequest(0) as stop:
        assert stop.reason() == "time budget"
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason() == "SIGTERM"
    for budget in (-1, math.nan):
        with pytest.raises(ValueError, match=r"time budget .* s: has to be 0 or more"):
            StopRequest(budget)


def test_outside_the_main_thread_signals_stay_as_they_are():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter() -> None:
        with StopRequest(0) as stop:
            seen.append((stop.reason(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [("time budget", before)]


SIGNALS = """
    import os, signal, sys, time
    from nas_zoo.runs.stop import StopRequest

    with StopRequest() as stop:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            print("the worker goes on", flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        print("the worker ended by", -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        print(stop.reason(), flush=True)
        time.sleep(0.6)
        os.kill(os.getpid(), signal.SIGINT)
        print("not reached", flush=True)
"""


def test_a_second_ctrl_c_kills_at_once_and_a_forked_worker_ends_with_its_parent_only():
    done = run_program(SIGNALS)
    assert done.stdout.splitlines() == ["the worker goes on", "the worker ended by 15", "SIGINT"], done.stderr
    assert done.returncode == -signal.SIGINT
    assert "\nSIGINT: stopping after this step; Ctrl-C again stops at once\n" in done.stderr
