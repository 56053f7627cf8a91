"""Fetching weights of others: every fault of a network, a host and a disk, against a real server on loopback.

The faults and what each gives are one table (FAULTS) that a reader can go through.
"""

import dataclasses
import errno
import hashlib
import http.client
import io
import json
import logging
import multiprocessing
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_zoo.models import download
from nas_zoo.models.download import cache_folder, fetch_public
from nas_zoo.models.public import PublicWeights, find_public
from nas_zoo.models.results import hub_is_away
from tests.file_server import DRIVE_PAGE, PAGE, FileServer


def torch_file(seed: int = 0) -> bytes:
    """What torch.save makes of 300,000 bytes of weights."""
    file = io.BytesIO()
    torch.save({"w": torch.randn(75_000, generator=torch.Generator().manual_seed(seed))}, file)
    return file.getvalue()


DATA = torch_file()
OTHER = torch_file(1)


def blob_id(data: bytes) -> str:
    """git's own word for it, where git is there."""
    done = subprocess.run(["git", "hash-object", "--stdin"], input=data, capture_output=True, check=True)
    return done.stdout.decode().strip()


def row(link: str, **more: Any) -> PublicWeights:
    found = find_public("relativenas_c10.emi")
    assert found is not None
    return dataclasses.replace(found, **{"link": link, "git_blob": blob_id(DATA)} | more)


@pytest.fixture
def server():
    with FileServer({"w.pt": DATA}) as one:
        yield one


def test_a_file_is_fetched_checked_and_then_had_without_a_network(server, tmp_path):
    wanted = row(server.link("w.pt"))
    path = fetch_public(wanted, folder=tmp_path)
    assert path.read_bytes() == DATA
    assert path.name == "relativenas_c10.emi.pt"
    asked = len(server.requests)
    assert fetch_public(wanted, folder=tmp_path) == path
    assert fetch_public(wanted, folder=tmp_path, local_only=True) == path
    assert len(server.requests) == asked == 1
    kept = json.loads((tmp_path / f"{path.name}.json").read_text())
    assert kept == {"link": wanted.link, "sha256": hashlib.sha256(DATA).hexdigest(), "size": len(DATA)}
    assert not list(tmp_path.glob("*.partial"))


def test_every_kind_of_hash_is_compared(server, tmp_path):
    right = {
        "git_blob": blob_id(DATA),
        "sha256": hashlib.sha256(DATA).hexdigest(),
        "md5": hashlib.md5(DATA).hexdigest(),
    }
    none = dict.fromkeys(right, "")
    for name, value in right.items():
        fetch_public(row(server.link("w.pt"), **none | {name: value}), folder=tmp_path / name)
        wrong = value.replace(value[0], "0" if value[0] != "0" else "1")
        with pytest.raises(ValueError, match="another file came") as caught:
            fetch_public(row(server.link("w.pt"), **none | {name: wrong}), folder=tmp_path / f"{name}_wrong")
        assert wrong[:16] in str(caught.value)
    # the first digits, as NNI has them in its file names
    fetch_public(row(server.link("w.pt"), **none | {"sha256": right["sha256"][:8]}), folder=tmp_path / "short")


def test_without_a_published_hash_the_first_is_kept_said_and_compared(server, tmp_path, caplog):
    wanted = row(server.link("w.pt"), git_blob="")
    with caplog.at_level(logging.WARNING):
        path = fetch_public(wanted, folder=tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"relativenas_c10.emi: no hash is published for this file; its SHA-256 {hashlib.sha256(DATA).hexdigest()} is "
        "kept and compared from now on"
    ]
    caplog.clear()
    fetch_public(wanted, folder=tmp_path)
    assert not caplog.records
    damaged = bytearray(DATA)
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(
        ValueError, match=r"is no longer what was fetched.*remove it and relativenas_c10\.emi\.pt\.json"
    ):
        fetch_public(wanted, folder=tmp_path)


def test_a_file_put_into_the_cache_by_hand_is_taken_and_checked(server, tmp_path):
    wanted = row(server.link("w.pt"))
    (tmp_path / wanted.file_name).write_bytes(DATA)
    assert fetch_public(wanted, folder=tmp_path, local_only=True).read_bytes() == DATA
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / wanted.file_name).write_bytes(OTHER)
    with pytest.raises(ValueError, match=r"is not the published file .its git blob id is .*; remove it"):
        fetch_public(wanted, folder=tmp_path / "b")
    assert not server.requests


def test_the_cache_is_torchs(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hub" / "checkpoints" / "nas-zoo"


def test_a_user_without_a_home_is_told_and_no_folder_is_called_tilde(monkeypatch, tmp_path):
    for name in ("HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it answers for a user of no account
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"there is no home folder to keep fetched weights in .*: set TORCH_HOME"):
        fetch_public(row("http://nowhere.invalid/w.pt"))
    assert not list(tmp_path.iterdir())


def test_what_a_server_says_cannot_order_a_terminal_about(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as connection:
                connection.recv(1 << 16)
                connection.sendall(b"\x1b[2J\x1b]0;mine\x07\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ValueError, match="the connection broke") as caught:
            fetch_public(row(f"http://127.0.0.1:{listening.getsockname()[1]}/w.pt"), folder=tmp_path)
    assert str(caught.value).isprintable()


# ------------------------------------------------------------------------------------------------- broken connections


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server, tmp_path):
    server.fault("cut", at=100_000)
    server.fault("cut", at=200_000)
    assert fetch_public(row(server.link("w.pt")), folder=tmp_path).read_bytes() == DATA
    assert [headers.get("Range") for _, headers in server.requests] == [None, "bytes=100000-", "bytes=200000-"]


def test_a_later_command_goes_on_where_the_last_one_stopped(server, tmp_path):
    wanted = row(server.link("w.pt"))
    server.fault("cut", at=100_000)
    server.fault("status", status=503)
    with pytest.raises(ValueError, match="the server answered 503: try again later; the same command goes on"):
        fetch_public(wanted, folder=tmp_path)
    assert (tmp_path / f"{wanted.file_name}.partial").stat().st_size == 100_000
    assert fetch_public(wanted, folder=tmp_path).read_bytes() == DATA
    assert server.requests[-1][1]["Range"] == "bytes=100000-"


def test_a_download_that_was_whole_already_is_not_a_fault(server, tmp_path):
    """The process ended between the last byte and the file's name; the server then has nothing to go on with (416)."""
    wanted = row(server.link("w.pt"))
    (tmp_path / f"{wanted.file_name}.partial").write_bytes(DATA)
    assert fetch_public(wanted, folder=tmp_path).read_bytes() == DATA
    assert [headers.get("Range") for _, headers in server.requests] == [f"bytes={len(DATA)}-", None]


@pytest.mark.parametrize(
    "notes", ['{"etag": 5}', '{"etag": "a\\nb: c"}', '{"etag": "\\u20ac"}', '{"sha256": 5}', "[1]", "{"]
)
def test_damaged_notes_are_passed_over(notes, server, tmp_path):
    wanted = row(server.link("w.pt"), git_blob="")
    (tmp_path / f"{wanted.file_name}.partial").write_bytes(DATA[:100])
    (tmp_path / f"{wanted.file_name}.json").write_text(notes)
    assert fetch_public(wanted, folder=tmp_path).read_bytes() == DATA
    (tmp_path / f"{wanted.file_name}.json").write_text(notes)
    assert fetch_public(wanted, folder=tmp_path, local_only=True).read_bytes() == DATA


@pytest.mark.slow
def test_ctrl_c_keeps_what_came_and_the_next_command_goes_on(server, tmp_path):
    server.fault("slow", seconds=2)  # so that a busy machine does not miss its middle
    # of its own, since a shell that starts the tests in the background has it ignored by all that they start
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "import sys; from tests.models.test_download import row; from pathlib import Path; "
    code += "from nas_zoo.models.download import fetch_public; fetch_public(row(sys.argv[1]), folder=Path(sys.argv[2]))"
    root = Path(__file__).parents[2]
    partial = tmp_path / "relativenas_c10.emi.pt.partial"
    process = subprocess.Popen(
        [sys.executable, "-c", code, server.link("w.pt"), str(tmp_path)], cwd=root, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    while process.poll() is None and not (partial.is_file() and partial.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    had = partial.stat().st_size
    assert 0 < had < len(DATA)
    assert fetch_public(row(server.link("w.pt")), folder=tmp_path).read_bytes() == DATA
    assert server.requests[-1][1]["Range"] == f"bytes={had}-"


def test_bytes_of_two_files_are_never_joined(server, tmp_path):
    """The file behind the link changed while the download rested; no hash would tell."""
    wanted = row(server.link("w.pt"), git_blob="")
    server.fault("cut", at=100_000)
    server.fault("status", status=503)
    with pytest.raises(ValueError, match="503"):
        fetch_public(wanted, folder=tmp_path)
    server.files["w.pt"] = OTHER
    assert fetch_public(wanted, folder=tmp_path).read_bytes() == OTHER


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.fault("cut", at=100_000)
    server.fault("no_range")
    assert fetch_public(row(server.link("w.pt")), folder=tmp_path).read_bytes() == DATA


def test_a_slow_server_is_waited_for_and_a_silent_one_is_not(server, tmp_path):
    server.fault("slow", seconds=0.05)
    assert fetch_public(row(server.link("w.pt")), folder=tmp_path / "slow", timeout=0.5).read_bytes() == DATA
    server.fault("stall", times=2, at=50_000, seconds=1.0)
    with pytest.raises(ValueError, match=r"the server sent nothing for 0\.2 seconds; the same command goes on"):
        fetch_public(row(server.link("w.pt")), folder=tmp_path / "silent", timeout=0.2)


def test_an_answer_without_a_length_is_whole_or_told_by_its_hash(server, tmp_path):
    server.fault("no_length")
    assert fetch_public(row(server.link("w.pt")), folder=tmp_path).read_bytes() == DATA


def test_redirects_are_followed(server, tmp_path):
    server.fault("redirect", to=server.link("w.pt"))
    assert fetch_public(row(server.link("old.pt")), folder=tmp_path).read_bytes() == DATA


# ------------------------------------------------------------------------------------------ faults and what each gives

Break = Callable[[FileServer], None]
FAULTS: dict[str, tuple[Break, str]] = {
    "moved": (lambda s: s.files.clear(), "the file is not there any more (the server answered 404)"),
    "forbidden": (lambda s: s.fault("status", status=403), "the server does not give it to everybody"),
    "busy": (lambda s: s.fault("status", status=500), "the server answered 500: try again later"),
    "circle": (lambda s: setattr(s, "always", _to_itself(s)), "the link leads in a circle"),
    "to no web": (lambda s: s.fault("redirect", to="file:///etc/passwd"), "in a circle or to no web address"),
    "to no host": (lambda s: s.fault("redirect", to=f"http://{'a' * 70}/w.pt"), "the link leads to what is no address"),
    "packed": (lambda s: s.fault("packed"), "the server sent it packed (gzip), which was not asked for"),
    "another part": (lambda s: s.fault("elsewhere"), "the server sent another part of the file than was asked for"),
    "a page with a comment": (
        lambda s: s.fault("page", body=b"<!-- a -->" + PAGE),
        "a web page came instead of a file",
    ),
    "a page": (lambda s: s.fault("page", body=PAGE), "a web page came instead of a file"),
    "Drive": (lambda s: s.fault("page", body=DRIVE_PAGE), "Google Drive answered with a page"),
    "LFS": (
        lambda s: s.files.update({"w.pt": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"}),
        "a pointer of Git LFS came instead of a file",
    ),
    "text": (lambda s: s.files.update({"w.pt": b"quota exceeded"}), "no torch file came: it begins with b'quota ex'"),
    "empty": (lambda s: s.files.update({"w.pt": b""}), "an empty file came"),
    "another file": (lambda s: s.files.update({"w.pt": OTHER}), "another file came: its git blob id is"),
    "cut for good": (lambda s: s.fault("cut", times=9, at=10), "the connection broke after 10 of"),
}


def _to_itself(server: FileServer) -> Any:
    from tests.file_server import Fault

    return Fault("redirect", to=server.link("w.pt"))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_with_the_link_and_what_to_do(name, server, tmp_path):
    break_it, words = FAULTS[name]
    wanted = row(server.link("w.pt"))
    break_it(server)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        fetch_public(wanted, folder=tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("weights of relativenas_c10.emi: ")
    assert wanted.link in text
    assert "`nas-zoo convert FILE --model relativenas_c10.emi OUT.safetensors`" in text
    assert str(tmp_path / wanted.file_name) in text
    assert not (tmp_path / wanted.file_name).exists()
    # and once the fault is mended, the file is had
    server.faults.clear()
    server.always, server.files["w.pt"] = None, DATA
    assert fetch_public(wanted, folder=tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("error", [ssl.SSLError(1, "record layer failure"), OSError(errno.ENETUNREACH, "no route")])
def test_what_came_is_kept_where_the_network_fails_in_another_way(error, server, tmp_path, monkeypatch):
    """It was told as a disk that cannot be written to, and thrown away."""
    read1 = http.client.HTTPResponse.read1

    def read_ten(self, size=-1):
        if self.fp is not None and (data := read1(self, 10)) and not hasattr(self, "began"):
            self.began = True
            return data
        raise error

    monkeypatch.setattr(http.client.HTTPResponse, "read1", read_ten)
    with pytest.raises(ValueError, match=r"the connection broke \(.+\); the same command goes on from there"):
        fetch_public(row(server.link("w.pt")), folder=tmp_path)
    (partial,) = tmp_path.glob("**/*.partial")
    assert DATA.startswith(partial.read_bytes())
    monkeypatch.setattr(http.client.HTTPResponse, "read1", read1)
    assert fetch_public(row(server.link("w.pt")), folder=tmp_path).read_bytes() == DATA


def test_no_network_is_one_line(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ValueError, match=r"the server cannot be reached \(Connection refused\); fetch http"):
        fetch_public(row(f"http://127.0.0.1:{port}/w.pt"), folder=tmp_path)
    with pytest.raises(ValueError, match=r"the server cannot be reached \(.+\); fetch http://nowhere\.invalid/w\.pt"):
        fetch_public(row("http://nowhere.invalid/w.pt"), folder=tmp_path)
    with pytest.raises(ValueError, match=r"relativenas_c10\.emi\.pt is not in the cache"):
        fetch_public(row("http://nowhere.invalid/w.pt"), folder=tmp_path, local_only=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing(server, tmp_path):
    """A process that may write 100,000 bytes a file meets the error that a full disk gives, in the middle."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.models.test_download import row\n"
        "from nas_zoo.models.download import fetch_public\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    fetch_public(row(sys.argv[1]), folder=Path(sys.argv[2]))\n"
        "except ValueError as error:\n    print(error)\n"
    )
    words = [sys.executable, "-c", code, server.link("w.pt"), str(tmp_path)]
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": f"{root}"}
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=root, check=True)
    assert f"it cannot be written to {tmp_path}: the disk is full; fetch {server.link('w.pt')}" in done.stdout
    assert not list(tmp_path.glob("*.pt*.partial"))
    assert not (tmp_path / "relativenas_c10.emi.pt").exists()


def test_too_little_room_is_told_before_anything_is_written(server, tmp_path, monkeypatch):
    server.fault("claims", at=1 << 50)
    with pytest.raises(ValueError, match="the link leads to 1,073,741,824 MiB, which is no file of the table"):
        fetch_public(row(server.link("w.pt")), folder=tmp_path)
    monkeypatch.setattr(download, "MAX_BYTES", 1 << 60)
    server.fault("claims", at=1 << 50)
    with pytest.raises(ValueError, match=r"1,073,741,824 MiB are needed in .*, [0-9,]+ MiB are free"):
        fetch_public(row(server.link("w.pt")), folder=tmp_path)
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    server.fault("no_length")
    with pytest.raises(ValueError, match="which is no file of the table"):
        fetch_public(row(server.link("w.pt")), folder=tmp_path)


def test_a_cache_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match=r"it cannot be written to .*file/cache: Not a directory"):
        fetch_public(row(server.link("w.pt")), folder=tmp_path / "file" / "cache")


def _fetch_in_a_process(link: str, folder: str) -> None:
    fetch_public(row(link), folder=Path(folder))


@pytest.mark.slow
def test_two_processes_fetch_a_file_once(server, tmp_path):
    server.fault("slow", seconds=0.02)
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_fetch_in_a_process, args=(server.link("w.pt"), str(tmp_path))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(120)
    assert [one.exitcode for one in both] == [0, 0]
    assert len(server.requests) == 1
    assert (tmp_path / "relativenas_c10.emi.pt").read_bytes() == DATA


def test_where_the_hub_cannot_be_reached_its_client_is_not_asked(tmp_path, monkeypatch):
    """It would try for 23 seconds; what is in its cache, or may still come, is left to it."""
    from huggingface_hub import constants

    from nas_zoo.models.load import load_model
    from nas_zoo.train.model import make_model
    from nas_zoo.train.recipes import TrainSettings

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        assert hub_is_away("zoo/net", "config.json") is None
    told = rf"{endpoint[7:]} cannot be reached \(Connection refused\), and config\.json of zoo/net"
    begin = time.monotonic()
    with pytest.raises(ValueError, match=f"model 'hf-hub:zoo/net': {told} is not in the Hub's cache"):
        load_model("hf-hub:zoo/net")
    assert time.monotonic() - begin < 10
    with pytest.raises(ValueError, match=r"'resnet18': .* and model\.safetensors of timm/resnet18\.a1_in1k is not"):
        load_model("resnet18")
    with pytest.raises(ValueError, match=r"model='resnet18': |model 'resnet18': "):
        make_model(TrainSettings(model="resnet18"), 10, 3, {}, pretrained=True)
    for name, told in (("hf-hub:", "hf-hub:ORG/NAME is needed"), ("hf-hub:a/b/c", "'a/b/c'")):
        with pytest.raises(ValueError, match=f"^model '{name}': .*{told}"):
            load_model(name)
    monkeypatch.setattr(constants, "ENDPOINT", "http://nobody.invalid")
    assert "nobody.invalid cannot be reached" in (hub_is_away("zoo/net@v1", "config.json") or "")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # it is for the proxy to know the name
    assert hub_is_away("zoo/net", "config.json") is None
    monkeypatch.delenv("http_proxy")
    snapshot = tmp_path / "models--zoo--net" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "models--zoo--net" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0")
    assert hub_is_away("zoo/net", "config.json") is None
    assert hub_is_away("zoo/net", "model.safetensors") is not None
