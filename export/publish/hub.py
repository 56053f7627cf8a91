"""Publishes a model on the Hugging Face Hub: stages a folder, shows what would be sent, sends it in one commit.

    nas-zoo publish edas_e8_c10_s --repo owner/edas_e8_c10_s --dry-run
    nas-zoo publish runs/net --repo owner/net --private
    nas-zoo publish edas_e8_c10_s --repo owner/edas_e8_c10_s --revision v2 --float16

The folder: config.json and model.safetensors (which `timm.create_model('hf-hub:owner/name', pretrained=True)` reads,
once nas_zoo is imported), model.onnx and its checked forms, genotype.json, reference.safetensors, training_log.jsonl,
the card with the picture of the cells, LICENSE, and manifest.json with the SHA-256 of every file. Weights of others
are published where their licence allows it, or where you say which does (--license); the card names their authors.

Everything becomes visible with the commit, or nothing does; publishing again sends what has changed. The token is that
of `hf auth login` or HF_TOKEN; it is neither taken from the command line nor shown nor written anywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import logging
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any, TypeVar

import nas_zoo
from nas_zoo.data.listing import PLACES
from nas_zoo.export.graph.deliver import Forms, deliver
from nas_zoo.export.graph.onnx_file import images_of
from nas_zoo.export.graph.real_images import real_images
from nas_zoo.export.publish.card import write_card
from nas_zoo.export.publish.published import Checkpoint, add_choices, open_chosen
from nas_zoo.models.config import write_config
from nas_zoo.models.results import HUB_FILE, file_sha256, network_errors
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import staged, write_json, write_text, write_weights
from nas_zoo.runs.settings import Parser, whole
from nas_zoo.text import counted

__all__ = ["Outcome", "Plan", "main", "plan", "publish", "stage"]

MANIFEST = "manifest.json"
#: Longest that the Hub may ask to wait before the next try, in seconds, and how often.
PATIENCE_S, TRIES = 120, 4

#: How the client begins to tell that the Hub does not take the card.
_CARD_REFUSED = "Invalid metadata in README.md"

T = TypeVar("T")


# -------------------------------------------------------------------------------------------------------------- stage


def stage(
    checkpoint: Checkpoint,
    folder: Path | str,
    *,
    repo: str,
    forms: Forms | None = None,
    onnx: bool = True,
    images: str | None = None,
    calibration: str | None = None,
    check_images: int = 256,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """The files of a repository in that folder, which has to be empty or new; the same bytes each time.

    Args:
        checkpoint: What is published.
        repo: ORG/NAME, for the card's code.
        forms: Of the ONNX file beside float32.
        onnx: False leaves ONNX out.
        images: Real ones that the ONNX files are compared with PyTorch on: a folder, tar or zip, all of it, or a data
            set's name, of which the test split; noise if None, which tells nothing of accuracy.
        calibration: Real ones for an int8 file: as for images, of a split data set the training images.
        check_images: How many of `images`, at most.
        say: Is told what is done.

    Raises:
        ValueError: The folder holds something, or a file could not be made; a checked ONNX file that is not the model.
    """
    place, row = Path(folder), checkpoint.row
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"folder {str(folder)!r}: is not empty")
    model = checkpoint.model()
    with staged(place) as aside:
        checkpoint.write_weights(aside / HUB_FILE)
        if checkpoint.folder is not None:  # a run of before has the tag of weights that it is not
            model.pretrained_cfg.pop("tag", None)
        write_config(model, aside / "config.json", model.pretrained_cfg.get("label_names"))
        write_json(aside / "genotype.json", {"name": row.cell or None, **json.loads(model.genotype.to_json())})
        write_weights(aside / "reference.safetensors", checkpoint.reference(), {"model": checkpoint.name})
        if checkpoint.measured:
            write_text(aside / "training_log.jsonl", checkpoint.log)
        if onnx:
            _, of_model = images_of(model)
            real = {"limit": check_images, **of_model}
            training = {"split": "train", "limit": 256, **of_model}
            deliver(
                model, aside, forms or Forms(), say=say,
                images=None if images is None else real_images(images, split=None, **real),
                calibration=None if calibration is None else real_images(calibration, **training),
            )  # fmt: skip
        write_card(checkpoint, aside, repo=repo, onnx=onnx)
        if row.license == "apache-2.0":
            write_text(aside / "LICENSE", _license_text())
        files = sorted(path for path in aside.iterdir() if path.is_file())
        listed = {path.name: {"sha256": file_sha256(path), "size": path.stat().st_size} for path in files}
        write_json(aside / MANIFEST, {"nas_zoo": nas_zoo.__version__, "model": checkpoint.name, "files": listed})
    return [place / name for name in (*listed, MANIFEST)]


def _license_text() -> str:
    """The licence as it lies in the checkout or in the installed package."""
    beside = Path(nas_zoo.__file__).parents[1] / "LICENSE"
    if beside.is_file():
        return beside.read_text("utf-8")
    for file in importlib.metadata.files("nas-zoo") or []:
        if file.name == "LICENSE":
            return file.read_text("utf-8")
    raise ValueError("LICENSE is missing from the installation; install nas-zoo again")


# --------------------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class Plan:
    """What a publication would do to a repository."""

    repo: str
    revision: str
    exists: bool
    private: bool | None  # None: not known
    head: str | None  # the commit it would follow
    branch_exists: bool
    states: Mapping[str, str]  # of each file: new, changed, unchanged, deleted
    sizes: Mapping[str, int]

    @property
    def to_send(self) -> list[str]:
        return [name for name, state in self.states.items() if state in ("new", "changed")]

    @property
    def to_delete(self) -> list[str]:
        return [name for name, state in self.states.items() if state == "deleted"]

    def __str__(self) -> str:
        seen = {None: "", True: ", private", False: ", public"}[self.private]
        state = "exists" if self.exists else "new"
        lines = [f"repository {self.repo} ({state}{seen}), revision {self.revision}"]
        width = max(map(len, self.states), default=0)
        lines += [f"  {self.states[n]:<10}{n:<{width}}  {self.sizes.get(n, 0):>12,} bytes" for n in sorted(self.states)]
        total = sum(self.sizes[name] for name in self.to_send)
        lines.append(f"{len(self.to_send)} of {counted(len(self.sizes), 'file')} to send, {total:,} bytes")
        return "\n".join(lines)


def plan(folder: Path | str, repo: str, *, revision: str = "main", private: bool = False, api: Any = None) -> Plan:
    """What publishing that folder would send; asks the Hub, changes nothing.

    Files that an earlier publication sent (by its manifest) and this one has not are deleted; others are left alone.

    Raises:
        ValueError: See ``publish``.
    """
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    _check_names(repo, revision)
    api = api or _api()
    local = {path.name: path for path in sorted(Path(folder).iterdir()) if path.is_file()}
    sizes = {name: path.stat().st_size for name, path in local.items()}
    fresh = dict.fromkeys(local, "new")
    with _told(repo, "nothing was sent"):
        try:
            about = _patiently(lambda: api.model_info(repo))
        except RepositoryNotFoundError:
            return Plan(repo, revision, False, private, None, False, fresh, sizes)
        branch_exists = True
        try:
            about = _patiently(lambda: api.model_info(repo, revision=revision))
        except RevisionNotFoundError:
            branch_exists = False  # it will begin where the main branch is
        head = about.sha
        if not isinstance(head, str):
            raise _NoAnswer("what answers is not a Hub, or out of order (no commit)")
        remote = {
            entry.path: entry
            for entry in _patiently(lambda: list(api.list_repo_tree(repo, recursive=True, revision=head)))
            if hasattr(entry, "blob_id")
        }
        states = {}
        for name, path in local.items():
            there = remote.get(name)
            same = there is not None and (
                there.lfs.sha256 == file_sha256(path) if there.lfs else there.blob_id == _git_oid(path)
            )
            states[name] = "new" if there is None else "unchanged" if same else "changed"
        for name in _published_before(api, repo, head, remote):
            if name in remote and name not in local:
                states[name] = "deleted"
    return Plan(repo, revision, True, bool(about.private), head, branch_exists, states, sizes)


def _git_oid(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _published_before(api: Any, repo: str, head: str, remote: Mapping[str, Any]) -> list[str]:
    """The files that the manifest at that commit lists."""
    if MANIFEST not in remote:
        return []
    try:
        with tempfile.TemporaryDirectory() as cache:
            path = _patiently(lambda: api.hf_hub_download(repo, MANIFEST, revision=head, cache_dir=cache))
            return list(json.loads(Path(path).read_text("utf-8"))["files"])
    except (ValueError, KeyError, TypeError, AttributeError):  # somebody else's file of that name
        return []


# ------------------------------------------------------------------------------------------------------------ publish


@dataclass(frozen=True)
class Outcome:
    """What has been done."""

    plan: Plan
    commit: str  # of the repository, as it is now
    sent: bool


def publish(
    folder: Path | str,
    repo: str,
    *,
    revision: str = "main",
    private: bool = False,
    message: str = "Published by nas-zoo",
    api: Any = None,
    say: Callable[[str], None] | None = None,
) -> Outcome:
    """Sends a staged folder in one commit; afterwards the repository has been compared with it, file by file.

    Args:
        folder: As ``stage`` leaves it.
        repo: ORG/NAME; made where it does not exist.
        revision: Branch; made where it does not exist.
        private: Of a repository that is made; for one that exists, an error where it is public.
        message: Of the commit.
        api: An HfApi; the user's own if None.
        say: Is told the plan before anything is sent.

    Raises:
        ValueError: No token, no rights, a wrong name, network or Hub at fault: one line that says which, and what has
            become of the repository. Unless it says otherwise nothing has been published.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError

    api = api or _api()
    _check_names(repo, revision)
    with _told(repo, "nothing was sent"):
        _patiently(api.whoami)
    intended = plan(folder, repo, revision=revision, private=private, api=api)
    if private and intended.private is False:
        raise ValueError(f"repo={repo!r}: is public already, so nothing was sent; make it private there first")
    if say:
        say(str(intended))
    if intended.exists and intended.branch_exists and not intended.to_send and not intended.to_delete:
        return Outcome(intended, str(intended.head), False)

    made = ""
    with _told(repo, lambda: f"nothing was published{made}"):
        if not intended.exists:
            _patiently(lambda: api.create_repo(repo, private=private, exist_ok=True))
            made = "; the repository has been made and is empty"
            # As it is made: it holds a .gitattributes of the Hub's.
            intended = plan(folder, repo, revision=revision, private=private, api=api)
        if not intended.branch_exists:
            _patiently(lambda: api.create_branch(repo, branch=revision, exist_ok=True))
            made = made or f"; the branch {revision} has been made, a copy of main"
        if not intended.to_send and not intended.to_delete:
            return Outcome(intended, str(intended.head), False)
        operations: list[Any] = [
            *(CommitOperationAdd(name, str(Path(folder) / name)) for name in intended.to_send),
            *(CommitOperationDelete(name) for name in intended.to_delete),
        ]
        failed: tuple[type[BaseException], ...] = (HfHubHTTPError, OSError, RuntimeError, _NoAnswer, *network_errors())
        try:
            commit = _patiently(
                lambda: api.create_commit(
                    repo, operations, commit_message=message, revision=revision, parent_commit=intended.head
                )
            ).oid
            if not isinstance(commit, str):
                raise _NoAnswer("what answers is not a Hub, or out of order (no commit)")
        except failed:
            # The answer may have been lost and not the commit.
            after = _head(api, repo, revision)
            if after is None:
                made = " that we know of; look with --dry-run" + made
                raise
            if after == intended.head or not _is_there(folder, repo, revision, api):
                raise
            commit = after
    if not _is_there(folder, repo, revision, api):
        raise ValueError(f"repo={repo!r}: was published as {commit[:12]}, but holds other files now than were sent")
    return Outcome(intended, commit, True)


def _head(api: Any, repo: str, revision: str) -> str | None:
    try:
        return str(api.model_info(repo, revision=revision).sha)
    except Exception:  # whatever kept the commit from being answered may keep this from it too
        return None


def _is_there(folder: Path | str, repo: str, revision: str, api: Any) -> bool:
    now = plan(folder, repo, revision=revision, api=api)
    return now.branch_exists and not now.to_send


def check_repo(repo: str) -> None:
    """ValueError for what is no name of a repository, ORG/NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if repo.count("/") != 1:
        raise ValueError(f"repo must be ORG/NAME, got {repo!r}")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"repo={repo!r}: {str(error).splitlines()[0]}") from None


def _check_names(repo: str, revision: str) -> None:
    check_repo(repo)
    if not re.fullmatch(r"[\w][\w./-]*", revision) or ".." in revision:
        raise ValueError(f"revision must be the name of a branch, got {revision!r}")


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(library_name="nas-zoo", library_version=nas_zoo.__version__)


# ------------------------------------------------------------------------------------------------------------- errors


class _NoAnswer(ValueError):
    """The Hub, or what stands in its place, has sent something that its client cannot read."""


def _patiently(call: Callable[[], T]) -> T:
    """The call's value; where the Hub says "too many requests", after the time it asks for."""
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except HfHubHTTPError as error:
            wait = _retry_after(error)
            if _status(error) != 429 or attempt == TRIES or wait is None or wait > PATIENCE_S:
                raise
            time.sleep(wait)
        except (JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError, RecursionError) as error:
            # the client takes for granted what an answer holds
            raise _NoAnswer(f"what answers is not a Hub, or out of order ({type(error).__name__})") from error
        except ValueError as error:
            if type(error) is not ValueError or str(error).startswith(_CARD_REFUSED):
                raise
            raise _NoAnswer(f"what answers is not a Hub, or out of order ({str(error).splitlines()[0]})") from error
    raise AssertionError


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _retry_after(error: BaseException) -> int | None:
    text = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return int(text) if text.isdigit() else None


@contextmanager
def _told(repo: str, state: str | Callable[[], str]) -> Iterator[None]:
    """Turns what the Hub's client raises into a ValueError of one line that ends with the state of the repository."""
    from huggingface_hub.errors import HfHubHTTPError

    failed: tuple[type[BaseException], ...] = (HfHubHTTPError, OSError, RuntimeError, ValueError, *network_errors())
    try:
        yield
    except failed as error:
        # An upload's error is wrapped in one that says which file it was.
        chain = [error]
        while (cause := chain[-1].__cause__) is not None:
            chain.append(cause)
        words = next(filter(None, (_in_words(each, repo) for each in chain)), None)
        if words is None and isinstance(error, RuntimeError):
            words = f"{type(chain[-1]).__name__}: {(str(chain[-1]).splitlines() or [''])[0]}"
        if words is None:
            raise
        file = re.search(r"Error while uploading '(.+?)'", str(error))
        after = state if isinstance(state, str) else state()
        raise ValueError(_without_token(f"repo={repo!r}: {f'{file[1]}: ' if file else ''}{words}; {after}")) from None


def _in_words(error: BaseException, repo: str) -> str | None:
    """What has happened, in half a line; None for what is not the Hub's or the network's doing."""
    from huggingface_hub.errors import FileMetadataError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if isinstance(error, _NoAnswer):
        return str(error)
    if isinstance(error, FileMetadataError):
        return "what answers is not a Hub, or out of order (FileMetadataError)"
    log_in = "`hf auth login`, or HF_TOKEN, with a token that may write"
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no token: {log_in} is needed"
    status = _status(error)
    response: Any = getattr(error, "response", None)
    said = (response.headers.get("X-Error-Message") or "") if response is not None else ""
    said = f" ({said.strip().rstrip('.')})" if said else ""
    if status is not None:
        wait = _retry_after(error)
        known = {
            401: f"the Hub does not accept the token (401): {log_in} is needed",
            403: f"the token may not write there (403{said}): one with write access to {repo.split('/')[0]} is needed",
            404: f"not found, or not for this token (404{said})",
            409: f"the Hub reports a conflict (409{said}): try again",
            412: "somebody else has published there in the meantime (412): try again",
            422: f"what arrived is not what was sent (422{said}): try again",
            429: f"too many requests (429): try again {f'after {wait} s' if wait else 'later'}",
        }
        other = (
            f"the Hub answers {status}{said}: try again later"
            if status >= 500
            else f"the Hub refuses it ({status}{said})"
        )
        return known.get(status, other)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if type(error).__name__ == "TooManyRedirects":
        return "what answers is not a Hub, or out of order (it redirects in a circle)"
    if isinstance(error, (*network_errors(), ConnectionError)):
        kind = "the connection was lost" if "Connect" not in type(error).__name__ else "the Hub cannot be reached"
        return f"{kind} ({type(error).__name__})"
    if isinstance(error, ValueError) and str(error).startswith(_CARD_REFUSED):
        return f"the Hub does not accept the card: {' '.join(str(error).split(chr(10))[1:])}".rstrip(": ")
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return "a download ended early"
    return None


def _without_token(text: str) -> str:
    """The text with every token in it blotted out; there should be none."""
    from huggingface_hub import get_token

    token = get_token()
    return re.sub(r"hf_[A-Za-z0-9]{10,}", "hf_***", text.replace(token, "***") if token else text)


# ------------------------------------------------------------------------------------------------------------ program


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="nas-zoo publish", description=__doc__)
    parser.add_argument("model", help="MODEL or MODEL.TAG with weights, or the folder of a run that has ended")
    parser.add_argument("--repo", required=True, metavar="ORG/NAME", help="repository; made where it does not exist")
    parser.add_argument("--dry-run", action="store_true", help="stage, compare with what is there, send nothing")
    parser.add_argument("--private", action="store_true", help="make the repository a private one")
    parser.add_argument("--revision", default="main", help="branch; made where it does not exist (default: main)")
    parser.add_argument("--to", type=Path, help="stage in this folder and keep it (default: a temporary one)")
    parser.add_argument("--float16", action="store_true", help="with a float16 ONNX file too")
    parser.add_argument(
        "--with-preprocessing",
        action="store_true",
        help="of each ONNX file a second one that takes uint8 images of any size",
    )
    parser.add_argument(
        "--calibration", metavar="DATA", help="with an int8 ONNX file too, calibrated on 256 of these training images"
    )
    parser.add_argument(
        "--images",
        metavar="DATA",
        help="real images to compare the ONNX files with PyTorch on, so "
        f"that accuracy stands beside each: a {PLACES}, or the name of a data set",
    )
    parser.add_argument("--check-images", type=whole(1), default=256, help="how many of them, at most (default: 256)")
    parser.add_argument("--no-onnx", action="store_true", help="without ONNX files")
    add_choices(parser)
    return parser


@program("nas-zoo publish")
def main(argv: list[str] | None = None) -> int:
    """The program: 0 when it is published (or was already), 2 where not, said in one line."""
    given = make_parser().parse_args(argv)
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging

    level = hub_logging.get_verbosity()
    # Its warnings repeat what the one line says, with addresses that may carry a signature.
    hub_logging.set_verbosity(logging.ERROR)
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        _check_names(given.repo, given.revision)
        checkpoint = open_chosen(given)
        for flag in ("float16", "with_preprocessing", "calibration", "images"):
            if given.no_onnx and getattr(given, flag):
                raise ValueError(f"--{flag.replace('_', '-')} makes no sense with --no-onnx")
        with tempfile.TemporaryDirectory(prefix="nas-zoo-publish-") as aside:
            folder = given.to or Path(aside) / "staged"
            files = stage(
                checkpoint,
                folder,
                repo=given.repo,
                forms=Forms(
                    float16=given.float16,
                    int8=given.calibration is not None,
                    layout="NHWC" if given.with_preprocessing else None,
                ),
                onnx=not given.no_onnx,
                images=given.images,
                calibration=given.calibration,
                check_images=given.check_images,
                say=print,
            )
            if given.dry_run:
                try:
                    print(plan(folder, given.repo, revision=given.revision, private=given.private))
                except ValueError as error:
                    print("\n".join(f"  {path.name}  {path.stat().st_size:,} bytes" for path in files))
                    print(f"not compared with the Hub: {error}")
                print("dry run: nothing was sent" + (f"; staged in {folder}" if given.to else ""))
                return 0
            outcome = publish(
                folder, given.repo, revision=given.revision, private=given.private, say=print,
                message=f"{checkpoint.name}, published by nas-zoo {nas_zoo.__version__}",
            )  # fmt: skip
    except (ValueError, OSError) as error:
        raise ValueError(_without_token(str(error))) from None
    finally:
        hub_logging.set_verbosity(level)
    if outcome.sent:
        print(f"published {given.repo} at {outcome.commit}")
    else:
        print(f"nothing has changed: {given.repo} is as it was published, at {outcome.commit}")
    print(f"  timm.create_model('hf-hub:{given.repo}{'' if given.revision == 'main' else '@' + given.revision}', "
          "pretrained=True)  # after import nas_zoo")  # fmt: skip
    return 0
