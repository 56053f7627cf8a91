"""Publishing: what is staged, what is sent, and what is left of it when the Hub or the network is at fault.

The real client of huggingface_hub talks to the Hub of tests/hub_server.py on loopback.
"""

import dataclasses
import json
import random
import shutil
import socket
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData, constants
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from nas_zoo.export.publish.hub import main, plan, publish, stage
from nas_zoo.export.publish.published import open_checkpoint
from nas_zoo.models import results
from nas_zoo.models.load import load_model
from nas_zoo.release.adopt import result_of_run
from tests.hub_server import HubServer
from tests.weights import ROOT, copy_package, python, shell, train_tiny, write_images

pytestmark = [
    pytest.mark.hub,
    # huggingface_hub 2.4 sends files in a way that its own HTTP library warns of.
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content:DeprecationWarning"),
]
REPO = f"{HubServer.organization}/blobs"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return train_tiny(write_images(folder / "images"), folder / "run")


@pytest.fixture(scope="module")
def staged(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("staged") / "blobs"
    stage(open_checkpoint(str(run)), folder, repo=REPO)
    return folder


def at(endpoint: str, monkeypatch) -> None:
    """What HF_ENDPOINT does when it is set before the client is imported."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    assert template.startswith(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + template[len(constants.ENDPOINT) :])
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with HubServer() as server:
        at(server.endpoint, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server
    huggingface_hub.close_session()


@pytest.fixture
def naps(monkeypatch):
    """Waiting takes no time; how long it would have is listed."""
    taken: list[float] = []
    monkeypatch.setattr("time.sleep", taken.append)
    return taken


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def sent(hub: HubServer, revision: str = "main") -> dict[str, bytes]:
    return {name: data for name, data in hub.files(REPO, revision).items() if name != ".gitattributes"}


# -------------------------------------------------------------------------------------------------------------- stage


def test_the_staged_folder_holds_a_whole_model(staged, run):
    files = contents(staged)
    assert {"config.json", "model.safetensors", "model.onnx", "genotype.json", "reference.safetensors", "README.md",
            "cells.png", "LICENSE", "training_log.jsonl", "manifest.json"} <= files.keys()  # fmt: skip
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    manifest = json.loads(files["manifest.json"])["files"]
    assert manifest.keys() == files.keys() - {"manifest.json"}
    for name, facts in manifest.items():
        assert facts == {"sha256": results.file_sha256(staged / name), "size": len(files[name])}
    model: Any = timm.create_model(f"local-dir:{staged}", pretrained=True).eval()
    reference = load_file(staged / "reference.safetensors")
    with torch.no_grad():
        assert torch.equal(model(reference["pixel_values"]), reference["logits"])
    assert json.loads(files["genotype.json"])["normal"] == json.loads(model.genotype.to_json())["normal"]


def test_nothing_staged_names_a_token_or_a_folder_of_this_machine(staged, run):
    for name, data in contents(staged).items():
        for secret in (HubServer.token, str(run), str(run.parent), str(Path.home()), str(staged.parent)):
            assert secret.encode() not in data, name


@pytest.mark.slow
def test_staging_twice_gives_the_same_bytes(staged, run, tmp_path):
    stage(open_checkpoint(str(run)), tmp_path / "again", repo=REPO)
    assert contents(tmp_path / "again") == contents(staged)
    with pytest.raises(ValueError, match="is not empty"):
        stage(open_checkpoint(str(run)), tmp_path / "again", repo=REPO)


# ------------------------------------------------------------------------------------------------------------ publish


def test_everything_arrives_in_one_commit(hub, staged):
    outcome = publish(staged, REPO)
    assert outcome.sent
    assert sent(hub) == contents(staged)
    repo = hub.repos[REPO]
    assert [commit.title for commit in repo.commits.values()] == ["initial commit", "Published by nas-zoo"]
    assert outcome.commit == repo.branches["main"]
    assert len(hub.seen("commit")) == 1
    assert not repo.private
    assert hub.seen("verify")  # LFS went its whole way


def test_publishing_again_sends_only_what_has_changed(hub, staged, tmp_path):
    first = publish(staged, REPO)
    hub.requests.clear()
    again = publish(staged, REPO)
    assert (again.sent, again.commit) == (False, first.commit)
    assert not hub.seen("commit", "upload", "preupload", "create", "batch")

    changed = tmp_path / "changed"
    shutil.copytree(staged, changed)
    (changed / "README.md").write_text((changed / "README.md").read_text() + "\nMore words.\n")
    (changed / "LICENSE").unlink()
    (changed / "new.txt").write_text("new")
    hub.requests.clear()
    outcome = publish(changed, REPO)
    states = outcome.plan.states
    assert {name: state for name, state in states.items() if state != "unchanged"} == {
        "README.md": "changed", "LICENSE": "deleted", "new.txt": "new"}  # fmt: skip
    assert sent(hub) == contents(changed)
    assert len(hub.seen("commit")) == 1
    assert not hub.seen("upload")
    (body,) = hub.seen("preupload")
    assert body.size < 3000  # two small files, not all of them


def test_files_of_others_are_left_alone(hub, staged):
    publish(staged, REPO)
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=REPO)
    assert publish(staged, REPO).sent is False
    assert sent(hub)["notes.txt"] == b"mine"


def test_a_branch_of_its_own_leaves_main_as_it_is(hub, staged, tmp_path):
    publish(staged, REPO)
    main_files = sent(hub)
    changed = tmp_path / "changed"
    shutil.copytree(staged, changed)
    (changed / "genotype.json").write_text("{}")
    publish(changed, REPO, revision="v2")
    assert sent(hub) == main_files
    assert sent(hub, "v2") == contents(changed)


def test_a_new_repository_is_private_where_that_is_asked_for(hub, staged):
    publish(staged, REPO, private=True)
    assert hub.repos[REPO].private
    assert publish(staged, REPO, private=True).sent is False
    hub.repos[REPO].private = False
    with pytest.raises(ValueError, match="is public already, so nothing was sent"):
        publish(staged, REPO, private=True)


def test_a_dry_run_sends_nothing(hub, run, capsys):
    assert main([str(run), "--repo", REPO, "--dry-run", "--no-onnx"]) == 0
    text = capsys.readouterr().out
    assert f"repository {REPO} (new, public), revision main" in text
    assert "new       model.safetensors" in text
    assert text.rstrip().endswith("dry run: nothing was sent")
    assert hub.repos == {}
    assert {request.method for request in hub.requests} <= {"GET", "HEAD"}


def test_a_dry_run_works_without_a_network_too(hub, run, capsys, tmp_path, monkeypatch, naps):
    at(f"http://127.0.0.1:{free_port()}", monkeypatch)
    words = [str(run), "--repo", REPO, "--dry-run", "--no-onnx", "--to", str(tmp_path / "staged")]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "not compared with the Hub" in text
    assert "cannot be reached" in text
    assert (tmp_path / "staged" / "README.md").is_file()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
def test_onnx_files_in_every_form_are_checked_on_real_images(hub, run, tmp_path, capsys):
    images, staged = run.parent / "images", tmp_path / "staged"
    words = ["--float16", "--with-preprocessing", "--calibration", images, "--images", images / "test",
             "--check-images", 20, "--dry-run", "--to", staged]  # fmt: skip
    assert main([str(run), "--repo", REPO, *map(str, words)]) == 0
    assert "noise" not in capsys.readouterr().out
    forms = [f"model{kind}{images}" for kind in ("", "_fp16", "_int8") for images in ("", "_images")]
    assert sorted(path.stem for path in staged.glob("*.onnx")) == sorted(forms)
    for form in forms:
        figures = json.loads((staged / f"{form}.check.json").read_text())
        assert (figures["images"], figures["n"]) == ("test", 20)
        assert figures["top1"]["onnx"] >= figures["top1"]["pytorch"] - 0.1
    assert main([str(run), "--repo", REPO, "--no-onnx", "--images", str(images)]) == 2
    assert "--images makes no sense with --no-onnx" in capsys.readouterr().err


def test_the_command_publishes_and_says_what_it_did(hub, run, capsys):
    assert main([str(run), "--repo", REPO, "--no-onnx"]) == 0
    text = capsys.readouterr().out
    assert f"published {REPO} at {hub.repos[REPO].branches['main']}" in text
    assert f"hf-hub:{REPO}" in text
    assert main([str(run), "--repo", REPO, "--no-onnx"]) == 0
    assert "nothing has changed" in capsys.readouterr().out


def test_the_card_is_read_by_the_hubs_own_library(hub, staged):
    publish(staged, REPO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HfApi()._validate_yaml(sent(hub)["README.md"].decode())
    card = ModelCard(sent(hub)["README.md"].decode())
    assert isinstance(card.data, ModelCardData)
    assert card.data.library_name == "timm"


LOAD = """
import sys, torch, timm, nas_zoo
from safetensors.torch import load_file, save_file
from nas_zoo.models.load import load_model
repo, run = sys.argv[1:]
reference = load_file(run + "/reference.safetensors")
x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
here = timm.create_model("local-dir:" + run, pretrained=True).eval()
there = timm.create_model("hf-hub:" + repo, pretrained=True).eval()
assert torch.equal(there(x), here(x))
assert torch.equal(there(reference["pixel_values"]), reference["logits"])
assert torch.equal(load_model("hf-hub:" + repo)(x), here(x))
assert there.pretrained_cfg["label_names"][3] == "cat"
assert torch.equal(timm.create_model("hf-hub:" + repo, pretrained=True, num_classes=3).eval().forward_features(x),
                   here.forward_features(x))
print("all of it")
"""


OVERLAY = """
import sys, torch, timm, nas_zoo
from safetensors.torch import load_file
theirs = load_file(sys.argv[2] + "/model.safetensors")
model = timm.create_model("edas_e8_c10_s", pretrained=True, pretrained_cfg_overlay={"hf_hub_id": sys.argv[1]})
assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())
assert "tag" not in model.pretrained_cfg
ours = timm.create_model("edas_e8_c10_s", pretrained=True)
assert not torch.equal(ours.classifier.weight, model.classifier.weight)
print("all of it")
"""


@pytest.mark.slow
def test_weights_that_a_user_names_on_the_hub_win_over_the_packages_file(hub, tmp_path):
    folder = tmp_path / "mine"
    save_for_hf(timm.create_model("edas_e8_c10_s"), str(folder), safe_serialization=True)
    publish(folder, REPO)
    done = python(ROOT, "-c", OVERLAY, REPO, folder, HF_HOME=str(tmp_path / "home"), **hub.environment)
    assert done.stdout.strip() == "all of it", done.stderr


def test_a_card_that_the_hub_does_not_take_is_told_with_its_reason(hub, staged, tmp_path):
    folder, before, _ = published_before(hub, staged, tmp_path / "changed")
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(text.replace("license: apache-2.0", "license: [1, 2]"))
    with pytest.raises(ValueError, match=r"does not accept the card: - \"license\" must be str; nothing was published"):
        publish(folder, REPO)
    assert sent(hub) == before
    assert not hub.seen("upload")


@pytest.mark.slow
def test_timm_loads_it_from_the_hub_with_equal_logits(hub, staged, tmp_path):
    publish(staged, REPO)
    done = python(tmp_path, "-c", LOAD, REPO, staged, HF_HOME=str(tmp_path / "home"), **hub.environment)
    assert done.stdout.strip() == "all of it", done.stderr


# ------------------------------------------------------------------------------------------------------------- faults


def test_without_a_token_nothing_is_sent(hub, staged, run, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match=r"there is no token: `hf auth login`.*nothing was sent"):
        publish(staged, REPO)
    assert main([str(run), "--repo", REPO, "--no-onnx"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nas-zoo publish: repo='zoo/blobs': there is no token")
    assert error.count("\n") == 1
    assert hub.repos == {}


def test_a_wrong_token_is_refused_and_not_shown(hub, run, capsys, monkeypatch):
    secret = "hf_" + "x" * 34
    monkeypatch.setenv("HF_TOKEN", secret)
    assert main([str(run), "--repo", REPO, "--no-onnx"]) == 2
    shown = capsys.readouterr()
    assert "does not accept the token (401)" in shown.err
    assert secret not in shown.out + shown.err
    assert shown.err.count("\n") == 1


def test_a_token_that_may_not_write_there_is_told_so(hub, staged, monkeypatch):
    with pytest.raises(ValueError, match=r"may not write there \(403.*write access to other is needed; nothing"):
        publish(staged, "other/blobs")
    monkeypatch.setenv("HF_TOKEN", hub.reader)
    with pytest.raises(ValueError, match=r"repo='zoo/blobs': the token may not write there \(403"):
        publish(staged, REPO)
    assert hub.repos == {}


@pytest.mark.parametrize("name", ["blobs", "a/b/c", "zoo/", "zoo/two words", "zoo/-x", "zoo/a..b"])
def test_a_wrong_name_is_refused_before_anything_is_asked(hub, name, run, capsys):
    assert main([str(run), "--repo", name, "--no-onnx"]) == 2
    error = capsys.readouterr().err
    assert repr(name) in error
    assert error.count("\n") == 1
    assert hub.requests == []


def published_before(hub: HubServer, staged: Path, folder: Path) -> tuple[Path, dict[str, bytes], str]:
    """A repository as it was published once, and a folder in which weights and card are other ones."""
    publish(staged, REPO)
    shutil.copytree(staged, folder)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nMore words.\n")
    hub.requests.clear()
    return folder, sent(hub), hub.repos[REPO].branches["main"]


FAULTS = [
    ("whoami", {"status": 401}, "does not accept the token"),
    ("whoami", {"status": 500}, "answers 500"),
    ("info", {"status": 500}, "answers 500"),
    ("tree", {"status": 403}, "may not write there"),
    ("yaml", {"status": 400}, "does not accept the card; nothing was published"),
    ("preupload", {"status": 403, "message": "token is read-only"}, "token is read-only"),
    ("preupload", {"status": 500, "times": 9}, "answers 500"),
    ("batch", {"status": 401}, "(401)"),
    ("batch", {"status": 500, "times": 9}, "answers 500"),
    ("upload", {"status": 403}, "model.safetensors: the token may not write there"),
    ("upload", {"status": 500, "times": 9}, "model.safetensors: the Hub answers 500"),
    ("upload", {"cut": True, "times": 9}, "model.safetensors: the connection was lost"),
    ("upload", {"damage": True}, "model.safetensors: what arrived is not what was sent (422"),
    ("verify", {"status": 500, "times": 9}, "model.safetensors: the Hub answers 500"),
    ("commit", {"status": 401}, "(401)"),
    ("commit", {"status": 403}, "may not write there"),
    ("commit", {"status": 409, "message": "another operation"}, "conflict (409 (another operation)"),
    ("commit", {"status": 412}, "somebody else has published"),
    ("commit", {"status": 429, "times": 9}, "too many requests (429): try again later"),
    ("commit", {"status": 500}, "answers 500"),
    ("commit", {"cut": True}, "the connection was lost"),
]


@pytest.mark.parametrize(("kind", "fault", "told"), FAULTS, ids=lambda value: str(value)[:30])
def test_after_a_fault_the_repository_is_as_it_was(kind, fault, told, hub, staged, tmp_path, naps):
    """And it is told in one line; afterwards publishing works."""
    folder, before, head = published_before(hub, staged, tmp_path / "changed")
    hub.fail(kind, **fault)
    with pytest.raises(ValueError, match="repo='zoo/blobs'") as error:
        publish(folder, REPO)
    text = str(error.value)
    assert told in text
    assert "\n" not in text
    assert "nothing was" in text
    assert hub.token not in text
    assert sent(hub) == before
    assert hub.repos[REPO].branches == {"main": head}
    hub.faults.clear()
    assert publish(folder, REPO).sent
    assert sent(hub) == contents(folder)


ODD_ANSWERS = (
    b"", b"<html>busy</html>", b"[", b"{}", b"[]", b"null", b"5", b'"x"', b'{"files": 5}', b'{"sha": null}',
    b'{"objects": [{}]}', b'{"commitOid": 7}', b'[{"type": "file"}]', b'{"id": 3, "sha": 5, "siblings": {}}',
    b"\xff\xfe", b"[" * 5000,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whoami", "create", "yaml", "preupload", "batch", "verify", "commit", "info", "tree",
                                  "resolve"])  # fmt: skip
def test_an_answer_that_is_none_is_told_in_a_line_and_nothing_is_half_published(kind, hub, tmp_path, naps):
    """Half a JSON, other JSON than is due, a page of HTML, a conflict without an address, an endless redirection."""
    chance = random.Random(kind)
    folder = tmp_path / "staged"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "config.json").write_text("{}")
    answers: list[dict[str, Any]] = [{"body": body} for body in ODD_ANSWERS]
    answers += [{"body": chance.choice(ODD_ANSWERS), "status": chance.choice((201, 204, 400, 409, 418, 500, 503))}
                for _ in range(6)]  # fmt: skip
    answers += [{"cut": True}, {"status": 302, "headers": {"Location": f"{hub.endpoint}/api/whoami-v2"}, "body": b""},
                {"status": 307, "headers": {"Location": "/api/models/zoo/blobs"}, "body": b""}]  # fmt: skip
    publish(folder, REPO)
    for number, answer in enumerate(answers):
        if number % 2 == 0 or kind == "create":
            hub.repos.clear()
        before = sent(hub)
        (folder / "model.safetensors").write_bytes(b"%d" % number)
        (folder / "manifest.json").write_text(json.dumps({"files": {}, "number": number}))
        hub.lfs.clear()
        hub.fail(kind, **answer, times=99, skip=chance.randrange(2))
        try:
            publish(folder, REPO)
        except ValueError as error:
            told = str(error)
            assert told.startswith("repo='zoo/blobs': "), (answer, told)
            assert told.isprintable(), (answer, told)
            # a commit whose answer is lost is there, and whole
            assert sent(hub) in (before, contents(folder)), answer
        else:
            assert sent(hub) == contents(folder), answer
        hub.faults.clear()
    assert publish(folder, REPO).plan is not None
    assert sent(hub) == contents(folder)


@pytest.mark.parametrize(
    ("kind", "fault", "waited"),
    [
        ("whoami", {"status": 429, "headers": {"Retry-After": "7"}}, 7),
        ("commit", {"status": 429, "headers": {"Retry-After": "11"}, "times": 2}, 11),
        ("preupload", {"status": 429, "headers": {"Retry-After": "5"}}, 6),  # the client adds a second
        ("upload", {"status": 500}, 1),
        ("upload", {"cut": True}, 1),
        ("batch", {"status": 429, "headers": {"Retry-After": "3"}}, 4),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_passes_is_waited_for(kind, fault, waited, hub, staged, naps):
    """A busy Hub says how long; an upload that is cut off or meets a server's error is sent again."""
    hub.fail(kind, **fault)
    assert publish(staged, REPO).sent
    assert sent(hub) == contents(staged)
    assert waited in naps


def test_a_wait_of_an_hour_is_told_and_not_slept(hub, staged, naps):
    hub.fail("whoami", status=429, headers={"Retry-After": "3600"})
    with pytest.raises(ValueError, match=r"\(429\): try again after 3600 s; nothing was sent"):
        publish(staged, REPO)
    assert naps == []


def test_a_commit_whose_answer_is_lost_counts_as_published(hub, staged, naps, monkeypatch):
    """The Hub has taken it and the connection breaks before it says so."""
    from tests import hub_server

    def take_and_hang_up(server, ask, name, revision):
        hub_server.commit(server, SilentAsk(ask), name, revision)
        ask.hang_up()

    class SilentAsk:
        def __init__(self, ask):
            self.ask = ask

        def __getattr__(self, name):
            return getattr(self.ask, name)

        def send(self, *args):
            pass

    routes = [
        (kind, method, path, take_and_hang_up if kind == "commit" else answer)
        for kind, method, path, answer in hub_server.ROUTES
    ]
    monkeypatch.setattr(hub_server, "ROUTES", routes)
    outcome = publish(staged, REPO)
    assert outcome.sent
    assert outcome.commit == hub.repos[REPO].branches["main"]
    assert sent(hub) == contents(staged)
    assert len(hub.seen("commit")) == 1


def test_somebody_elses_commit_in_between_is_not_overwritten(hub, staged, tmp_path, monkeypatch):
    folder, _, _ = published_before(hub, staged, tmp_path / "changed")
    real = HfApi.create_commit
    others = HfApi()

    def meanwhile(self, *args, **kwargs):
        monkeypatch.setattr(HfApi, "create_commit", real)
        others.upload_file(path_or_fileobj=b"theirs", path_in_repo="config.json", repo_id=REPO)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", meanwhile)
    with pytest.raises(ValueError, match=r"somebody else has published.*\(412\).*nothing was published"):
        publish(folder, REPO)
    assert sent(hub)["config.json"] == b"theirs"


def test_a_repository_that_had_to_be_made_first_is_left_empty_and_told_of(hub, staged, naps):
    hub.fail("commit", status=500)
    with pytest.raises(ValueError, match="nothing was published; the repository has been made and is empty"):
        publish(staged, REPO)
    assert sent(hub) == {}
    assert publish(staged, REPO).sent
    hub.fail("create", status=409)  # somebody made it a moment ago
    hub.repos.clear()


def test_a_lost_network_is_told_in_a_line(hub, staged, naps, monkeypatch):
    at(f"http://127.0.0.1:{free_port()}", monkeypatch)
    with pytest.raises(ValueError, match=r"the Hub cannot be reached \(ConnectError\); nothing was sent"):
        publish(staged, REPO)


def test_the_token_goes_to_the_hub_alone_and_is_kept_nowhere(hub, staged, run, tmp_path, capfd, monkeypatch, naps):
    """Not in what is printed, staged or sent; not to the storage, whose addresses carry their own permission."""
    hub.fail("upload", status=500)
    hub.fail("commit", status=403, message=f"no rights for {hub.token}")
    assert main([str(run), "--repo", REPO, "--no-onnx", "--to", str(tmp_path / "staged")]) == 2
    shown = capfd.readouterr()
    assert "hf_***" in shown.err or "***" in shown.err
    assert shown.err.count("\n") == 1
    assert hub.token not in shown.out + shown.err
    for data in [*contents(tmp_path / "staged").values(), *sent(hub).values(), *hub.lfs.values()]:
        assert hub.token.encode() not in data
    assert [request for request in hub.seen("upload") if "Authorization" in request.headers] == []
    assert not any(path.read_bytes().find(hub.token.encode()) >= 0 for path in tmp_path.rglob("*") if path.is_file())


# ----------------------------------------------------------------------------------- weights that lie on the Hub only

FROM_THE_HUB = """
import sys, torch, timm, nas_zoo
from nas_zoo.models.registry import find_result
from nas_zoo.doctor import _weights
run = sys.argv[1]
row = find_result("tiny_c10")
assert row.hub_id == "zoo/blobs" and not row.weights and len(row.hub_revision) == 40
assert [finding.state for finding in _weights()] == ["missing"]  # not asked for yet
here = timm.create_model("local-dir:" + run, pretrained=True).eval()
x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
assert torch.equal(timm.create_model("tiny_c10", pretrained=True).eval()(x), here(x))
assert torch.equal(timm.create_model("tiny_c10.far", pretrained=True).eval()(x), here(x))
assert [finding.state for finding in _weights()] == ["ok"]
print("all of it")
"""


@pytest.mark.slow
def test_a_row_may_say_that_its_weights_lie_on_the_hub(hub, run, staged, tmp_path):
    """Published, adopted from there at a commit, loaded by name; a later commit does not change what the name means."""
    publish(staged, REPO)
    commit = hub.repos[REPO].branches["main"]
    package = copy_package(tmp_path / "package")
    home = {"HF_HOME": str(tmp_path / "home"), **hub.environment}
    words = ["adopt", run, "--model", "tiny_c10", "--tag", "far", "--hub"]
    done = shell(package, *words, f"{REPO}@{commit}", **home)
    assert done.returncode == 0, done.stderr
    (row,) = results.read_results(package / "nas_zoo" / "models" / "results.csv")
    assert (row.hub_id, row.hub_revision, row.dtype) == (REPO, commit, "float32")
    assert row.sha256 == results.file_sha256(run / "model.safetensors")
    assert {path.name for path in (package / "nas_zoo" / "models" / "weights").iterdir()} == {
        "tiny_c10.far.reference.safetensors", "tiny_c10.far.log.jsonl"}  # fmt: skip
    folder = tmp_path / "changed"
    shutil.copytree(staged, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"] += 1
    save_file(tensors, folder / "model.safetensors")
    later = publish(folder, REPO).commit
    done = python(package, "-c", FROM_THE_HUB, run, **home | {"HF_HOME": str(tmp_path / "home2")})
    assert done.stdout.strip() == "all of it", done.stderr
    done = shell(package, *words, f"{REPO}@{later}", "--replace", **home)
    assert done.returncode == 2
    assert "holds other weights than the run" in done.stderr


def test_a_download_that_is_cut_changed_or_not_to_be_had_is_no_model(hub, run, staged, tmp_path, naps, monkeypatch):
    commit = publish(staged, REPO).commit
    row = dataclasses.replace(result_of_run(run), weights="", hub_id=REPO, hub_revision=commit)

    def told(cache: str, **how: Any) -> str:
        with pytest.raises(ValueError, match=r"weights of cell_net_cifar\.run") as error:
            results.fetch_weights(row, cache_dir=tmp_path / cache, **how)
        assert "\n" not in str(error.value)
        assert not list((tmp_path / cache).rglob("*.incomplete"))
        return str(error.value)

    whole = (run / "model.safetensors").read_bytes()
    assert "cannot be had" in told("nothing", local_only=True)
    assert results.fetch_weights(row, cache_dir=tmp_path / "whole").read_bytes() == whole
    assert results.fetch_weights(row, cache_dir=tmp_path / "whole", local_only=True).read_bytes() == whole
    # Cut once in the middle, it is asked for again; cut each time, it is not there.
    hub.fail("resolve", cut=True, skip=1)
    hub.requests.clear()
    assert results.fetch_weights(row, cache_dir=tmp_path / "resumed").read_bytes() == whole
    assert [request.method for request in hub.seen("resolve")] == ["HEAD", "GET", "GET"]
    hub.fail("resolve", cut=True, times=99)
    assert "cannot be had" in told("cut")
    assert not list((tmp_path / "cut").rglob("model.safetensors"))
    hub.faults.clear()
    # One changed byte, which the client does not look for.
    hub.fail("resolve", damage=True, times=99)
    assert "SHA-256" in told("changed")
    hub.faults.clear()
    for status, words in (500, "500"), (403, "403"), (404, "404"):
        hub.fail("resolve", status=status, times=99)
        assert words in told(f"status{status}")
        hub.faults.clear()
    row = dataclasses.replace(row, hub_revision="0" * 40)
    assert "cannot be had" in told("revision")
    at(f"http://127.0.0.1:{free_port()}", monkeypatch)
    assert "cannot be had" in told("network")


def test_plan_of_a_repository_that_is_not_there(hub, staged):
    found = plan(staged, REPO)
    assert not found.exists
    assert set(found.states.values()) == {"new"}
    assert load_model(f"local-dir:{staged}").num_classes == 10
