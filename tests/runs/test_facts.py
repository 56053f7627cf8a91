import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch

from nas_zoo.runs import facts as facts_module
from nas_zoo.runs.checkpoint import load_checkpoint, save_checkpoint
from nas_zoo.runs.facts import cautions, peak_memory_gb, published, published_log, run_facts
from nas_zoo.search.method import METHODS, SearchSettings, find_method
from nas_zoo.train.recipes import TrainSettings


def test_run_facts_are_json_and_tell_nothing_of_the_machine(monkeypatch):
    words = ["/home/me/search/run.py", "--data", "/home/me/flowers/", "--out=/home/me/run", "--url", "https://a/b", "x"]
    monkeypatch.setattr(sys, "argv", words)
    facts = run_facts("cpu")
    text = json.dumps(facts, allow_nan=False)
    assert facts["command"] == "run.py --data flowers --out=run --url https://a/b x"
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"python", "timm", "accelerate", "nas-zoo"} <= facts["versions"].keys()
    assert facts["device"] == "cpu"
    assert facts["processes"] == 1
    for private in (os.uname().nodename, str(Path.home()), "/home/me", str(Path(facts_module.__file__).parent)):
        assert private not in text


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_commit_is_that_of_the_package_and_says_dirty(tmp_path, monkeypatch):
    package = tmp_path / "nas_zoo"
    package.mkdir()
    file = package / "facts.py"
    file.write_text("1")
    monkeypatch.setattr(facts_module, "__file__", str(file))
    assert run_facts("cpu")["commit"] is None
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "somebody else's")
    assert run_facts("cpu")["commit"] is None  # an install inside another checkout
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "ours")
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert run_facts("cpu")["commit"] == head
    monkeypatch.delenv("GIT_DIR")
    (tmp_path / "new").touch()
    assert run_facts("cpu")["commit"] == head
    file.write_text("2")
    assert run_facts("cpu")["commit"] == f"{head}-dirty"
    monkeypatch.setenv("PATH", "")
    assert run_facts("cpu")["commit"] is None


def test_peak_memory_of_this_process():
    assert 0.05 < peak_memory_gb("cpu") < 100


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_peak_memory_and_name_of_a_gpu(tmp_path):
    kept = torch.zeros(250_000_000, device="cuda")
    assert peak_memory_gb("cuda") >= 1.0
    assert run_facts()["device_name"] == torch.cuda.get_device_name()
    save_checkpoint(tmp_path / "last.pt", {"kept": kept[:10].clone()}, "search")
    assert load_checkpoint(tmp_path / "last.pt", "search")["kept"].device.type == "cpu"


def test_of_what_is_published_no_folder_is_left():
    provenance = {
        "method": "edas", "n": 3,
        "data": "/home/me/images.tar.xz", "test_data": "../there/test.tar", "out": "runs/one/",
        "command": "run.py --data /home/me/images.tar.xz --out=runs/one/ --model hf-hub:zoo/net --note a/b",
    }  # fmt: skip
    assert published({"name": "a/b", "nodes": [["max_pool_3x3", 0]], "provenance": provenance}) == {
        "name": "a/b",  # no path: the name of the cells
        "nodes": [["max_pool_3x3", 0]],
        "provenance": {
            "method": "edas", "data": "images.tar.xz", "test_data": "test.tar", "out": "one", "n": 3,
            "command": "run.py --data images.tar.xz --out=one --model hf-hub:zoo/net --note b",
        },
    }  # fmt: skip
    lines: list[dict[str, Any]] = [
        {"kind": "run", "data": {"name": "/home/me/digits", "images": 9}},
        {"kind": "epoch", "loss": 1.5},
    ]
    assert published_log(lines) == (
        '{"kind": "run", "data": {"name": "digits", "images": 9}}\n{"kind": "epoch", "loss": 1.5}\n'
    )


def test_of_a_command_of_windows_no_folder_is_left(monkeypatch):
    words = ["run.py", "--data", "C:\\Users\\me\\photos.tar", "--out=D:/me/runs/one", "--method", "my.py:Mine"]
    monkeypatch.setattr(sys, "argv", words)
    assert run_facts("cpu")["command"] == "run.py --data photos.tar --out=one --method my.py:Mine"


@pytest.mark.parametrize("kind", [TrainSettings, *(find_method(name)[0] for name in METHODS)])
def test_no_path_among_the_settings_keeps_its_folder(kind):
    paths = [name for name, hint in get_type_hints(kind).items() if Path in (hint, *get_args(hint))]
    assert {"out", "division", "data_root"} <= set(paths)
    settings = {"settings": dict.fromkeys(paths, "/home/me/somewhere/file")}
    assert published(settings) == {"settings": dict.fromkeys(paths, "file")}


def test_several_archives_lose_their_folders_and_a_set_on_the_hub_keeps_its_owner(monkeypatch):
    words = ["run.py", "--data", "a.tar,/home/me/b.tar", "--test-data=/home/me/c.tar,/home/me/d.tar"]
    monkeypatch.setattr(sys, "argv", words)
    assert run_facts("cpu")["command"] == "run.py --data a.tar,b.tar --test-data=c.tar,d.tar"
    record = {"data": "hf:zoo/photos@main", "command": "run.py --data hf:zoo/photos@main"}
    assert published(record) == record


def test_what_is_slower_on_a_cpu_and_how_float32_runs_part_is_said_once_where_it_is_chosen():
    cpu, cuda, usual = torch.device("cpu"), torch.device("cuda"), TrainSettings()
    both = TrainSettings(precision="bf16", compile=True)
    assert cautions(usual, cpu, 2) == cautions(both, cuda, 1) == cautions(SearchSettings(sync_bn=True), cpu, 1) == []
    assert [text.split()[1] for text in cautions(both, cpu, 1)] == ["precision", "compile"]
    assert [text.split()[1] for text in cautions(SearchSettings(precision="bf16"), cpu, 1)] == ["precision"]
    (text,) = cautions(SearchSettings(sync_bn=True), cpu, 2)
    assert "part after some ten iterations" in text


def test_files_of_operations_in_the_command_line_lose_their_folders(monkeypatch):
    words = ["/usr/bin/nas-zoo", "search", "--method", "/home/me/my.py:Mine", "--operations", "none,/home/me/a.py:op,b"]
    monkeypatch.setattr("sys.argv", words)
    assert run_facts("cpu")["command"] == "nas-zoo search --method my.py:Mine --operations none,a.py:op,b"
