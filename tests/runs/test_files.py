"""runs/files.py: whole or as it was before, whatever comes in between."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nas_zoo.runs.files import replacing, staged, write_bytes, write_json, write_text, write_weights


def run_program(text: str, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *map(str, words)], capture_output=True, text=True, timeout=120
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_writer_writes_its_kind(tmp_path):
    write_text(tmp_path / "text", "größer\n")
    write_json(tmp_path / "new" / "record.json", {"nan": float("nan"), "path": Path("a"), "tensor": torch.ones(2)})
    write_weights(tmp_path / "w.safetensors", {"x": torch.ones(2, 3).T}, {"b": "1", "a": "2"})
    assert (tmp_path / "text").read_bytes() == "größer\n".encode()
    assert json.loads((tmp_path / "new" / "record.json").read_text()) == {"nan": None, "path": "a", "tensor": [1, 1]}
    assert torch.equal(load_file(tmp_path / "w.safetensors")["x"], torch.ones(3, 2))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "text").stat().st_mode) == 0o666 & ~umask  # others can read it
    assert sorted(os.listdir(tmp_path)) == ["new", "text", "w.safetensors"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt(), SystemExit(143)])
@pytest.mark.parametrize("before", [None, b"before"])
def test_what_is_interrupted_leaves_what_was_there(tmp_path, error, before):
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"half of it")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert tree(tmp_path) == ({} if before is None else {"file": before})


FULL_DISK = """
    import os, resource, shutil, sys
    from nas_zoo.runs.files import staged, write_bytes
    write_bytes("source", bytes(5000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    def fill(folder):
        with staged(folder) as aside:
            write_bytes(aside / "small", b"x")
            write_bytes(aside / "large", bytes(5000))
    def copy(folder):
        with staged(folder) as aside:
            shutil.copyfile("source", aside / "copy")
    for attempt in (
        lambda: write_bytes("file", bytes(5000)), lambda: fill("a/b"), lambda: fill("old"), lambda: copy("c")
    ):
        try:
            attempt()
        except OSError as error:
            print(error)
    os.remove("source")
"""


def test_a_full_disk_is_told_with_the_name_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "file").write_bytes(b"before")
    (tmp_path / "old" / "small").write_bytes(b"before")
    before = tree(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"[Errno {errno.EFBIG}] cannot be written: File too large: {name!r}"
        for name in ("file", "a/b/large", "old/large")
    ] + [f"[Errno {errno.EFBIG}] File too large: 'c/copy'"]  # where it goes, not where it comes from
    assert tree(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == ["file", "old"]  # not even an empty folder


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_no_space_left_on_the_device(tmp_path):
    (tmp_path / ".file.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot be written: No space left on device: .*file'$"):
        write_bytes(tmp_path / "file", b"x")
    assert os.listdir(tmp_path) == []


def test_only_a_file_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place, kind in (
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "a device or a pipe"),
        (Path("/dev/null"), "a device"),
    ):
        with pytest.raises(ValueError, match=f"is {kind}.*; the name of a file is needed"):
            write_bytes(place, b"x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(FileNotFoundError, match=r"cannot be written: No such file or directory: .*none/file'"):
        write_bytes(tmp_path / "none" / "file", b"x")
    for place in (Path(__file__), Path(__file__) / "folder"):
        with pytest.raises(ValueError, match=r"files\.py' is a file; the name of a folder is needed"), staged(place):
            pass


KILL_AT_EACH_CALL = """
    import os, signal, sys
    from pathlib import Path
    from nas_zoo.runs.files import staged, write_text

    folder, left = Path(sys.argv[1]), 0

    def deadly(call):
        def wrapper(*args, **kwargs):
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return wrapper

    def write(number):
        with staged(folder, last="table", gone=["gone"]) as aside:
            for name in ("a", "b", "table"):
                write_text(aside / name, f"{name} {number}")

    expected = moments = 0
    while True:
        moments += 1
        child = os.fork()
        if child == 0:
            left = moments
            for name in ("open", "fsync", "link", "replace", "rename", "unlink", "close", "mkdir", "rmdir"):
                setattr(os, name, deadly(getattr(os, name)))
            write(expected + 1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if folder.exists():
            # each file is whole, and the one that speaks of the others never comes before them
            found = {name: int((folder / name).read_text().removeprefix(name)) for name in ("a", "b", "table")}
            assert found["table"] in (expected, expected + 1), found
            if found["table"] == expected + 1:
                assert set(found.values()) == {expected + 1}, found
            expected = found["table"]
        else:
            assert expected == 0
        if os.WIFEXITED(status):
            break
    print(moments, expected, *sorted(os.listdir(folder)), *sorted(os.listdir(folder.parent)))
"""


def test_a_kill_before_each_call_leaves_whole_files_and_nothing_in_the_end(tmp_path):
    done = run_program(KILL_AT_EACH_CALL, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    moments, number, *files = done.stdout.split()
    assert int(moments) > 30
    assert int(number) >= 2
    assert files == ["a", "b", "table", "out"]


TWO_WRITERS = """
    import os, sys
    from nas_zoo.runs.files import write_bytes
    for i in range(30):
        write_bytes(sys.argv[1], bytes([int(sys.argv[2])]) * (1 + 10_000 * (i % 5)))
"""


def test_two_processes_that_write_the_same_file_do_it_one_after_the_other(tmp_path):
    words = [sys.executable, "-c", textwrap.dedent(TWO_WRITERS), str(tmp_path / "file")]
    writers = [subprocess.Popen([*words, str(number)], stderr=subprocess.PIPE, text=True) for number in (1, 2)]
    while any(writer.poll() is None for writer in writers):
        assert not (tmp_path / "file").exists() or len(set((tmp_path / "file").read_bytes())) == 1
    assert [writer.communicate()[1] for writer in writers] == ["", ""]
    assert os.listdir(tmp_path) == ["file"]


def test_several_files_replace_files_only(tmp_path):
    """As root, a rename would put a file in the place of a device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a").write_text("before")

    def written() -> None:
        with staged(tmp_path) as aside:
            for name in ("a", "pipe"):
                write_text(aside / name, "after")

    with pytest.raises(ValueError, match="pipe' is a device or a pipe; the name of a file is needed"):
        written()
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "a").read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == ["a", "pipe"]
    with pytest.raises(OSError, match="cannot be written to: ") as caught, staged("/proc"):
        pass
    assert caught.value.filename == "/proc"


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):

    def interrupted() -> None:
        with staged(tmp_path / "a" / "b") as aside:
            write_text(aside / "one", "1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert os.listdir(tmp_path) == []
    with staged(tmp_path / "a" / "b") as aside:
        write_text(aside / "one", "1")
        (aside / "deep").mkdir()
        write_text(aside / "deep" / "two", "2")
        assert not (tmp_path / "a" / "b").exists()
    assert tree(tmp_path) == {"a/b/one": b"1", "a/b/deep/two": b"2"}


@pytest.mark.parametrize("call", ["replace", "unlink"])
def test_where_one_file_cannot_take_its_place_none_does(tmp_path, monkeypatch, call):
    folder = tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    before = dict.fromkeys(("a", "deep/b", "gone", "other", "table"), b"before")
    real, moment, calls, failed = getattr(os, call), 0, [0], 0
    while calls[0] >= moment:
        for name, data in before.items():
            (folder / name).write_bytes(data)
        moment, calls = moment + 1, [0]

        def fails(*args: object, limit: int = moment, calls: list[int] = calls, **kw: object) -> None:
            calls[0] += 1
            if calls[0] == limit:
                raise OSError(errno.EIO, "Input/output error", str(args[0]))
            real(*args, **kw)

        monkeypatch.setattr(os, call, fails)
        try:
            with staged(folder, last="table", gone=["gone"]) as aside:
                (aside / "deep").mkdir()
                (aside / "new").mkdir()
                for name in ("a", "deep/b", "new/c", "table"):
                    write_text(aside / name, "after")
        except OSError:
            assert tree(folder) == before
            assert sorted(os.listdir(folder)) == ["a", "deep", "gone", "other", "table"]
            failed += 1
        else:
            after = dict.fromkeys(("a", "deep/b", "new/c", "table"), b"after")
            shutil.rmtree(folder / ".files.partial", ignore_errors=True)  # could not be removed, and does no harm
            assert tree(folder) == after | {"other": b"before"}
        finally:
            monkeypatch.undo()
        shutil.rmtree(folder / "new", ignore_errors=True)
    assert failed >= (8 if call == "replace" else 1)
