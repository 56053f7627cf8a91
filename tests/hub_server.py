"""A Hugging Face Hub on loopback, as far as publishing and loading needs one; real clients talk to it.

    with HubServer() as hub:                     # HF_ENDPOINT=hub.endpoint, HF_TOKEN=hub.token, HF_HUB_DISABLE_XET=1
        ...
        hub.fail("commit", status=500)           # the next request of that kind fails, the one after does not
        hub.files("zoo/edas_c10")                # {path: bytes} of the branch main

Repositories with branches and commits, the LFS batch API with verification, ETags and ranges; and the faults a network
has: any status with any headers, a connection cut in the middle of an upload, content that arrives damaged, a download
that ends early. What it answers where is as huggingface_hub 2.4 asks and reads; Xet storage is not there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ruamel.yaml import YAML, YAMLError

from tests.loopback import LoopbackServer

#: Suffixes that go to LFS, as in the .gitattributes of a new repository; so does what is larger than 10 MB.
LFS_SUFFIXES = (".safetensors", ".onnx", ".bin", ".pt", ".png")
LFS_BYTES = 10_000_000


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """git's name of the file, of the pointer for one in LFS."""
        data = self.data
        if self.lfs:
            data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(data)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    files: dict[str, Blob]
    title: str


@dataclass
class Repo:
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, Blob], title: str) -> Commit:
        listing = json.dumps([len(self.commits), title, *((path, blob.oid) for path, blob in sorted(files.items()))])
        made = Commit(hashlib.sha1(listing.encode()).hexdigest(), files, title)
        self.commits[made.oid] = made
        self.branches[branch] = made.oid
        return made

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision, revision))


@dataclass
class Fault:
    """What happens to requests of a kind: see `HubServer.fail`."""

    kind: str
    status: int | None
    headers: dict[str, str]
    message: str
    cut: bool
    damage: bool
    body: bytes | None
    times: int
    skip: int


@dataclass(frozen=True)
class Request:
    """What the server has seen."""

    kind: str
    method: str
    path: str
    headers: dict[str, str]
    size: int


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more


class HubServer(LoopbackServer):
    """The server; `endpoint` is its address, `token` may write to `user` and `organization`, `reader` may only read."""

    user, organization = "tester", "zoo"
    token, reader = "hf_" + "w" * 34, "hf_" + "r" * 34

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        super().__init__()

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to take this for the Hub."""
        return {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": self.token, "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip

    def fail(
        self,
        kind: str,
        *,
        status: int | None = None,
        headers: dict[str, str] | None = None,
        message: str = "the server says no",
        cut: bool = False,
        damage: bool = False,
        body: bytes | None = None,
        times: int = 1,
        skip: int = 0,
    ) -> None:
        """The next `times` requests of a kind fail, after `skip` that do not.

        Args:
            kind: whoami, create, branch, yaml, preupload, batch, upload, verify, commit, info, tree, resolve.
            status, headers, message: Answer so.
            cut: Close the connection: of an upload after half of it has been read, of a download after half is sent.
            damage: An upload is stored, a download sent, with one byte changed.
            body: Answer so, with `status` or 200, and with these headers alone.
        """
        self.faults.append(Fault(kind, status, headers or {}, message, cut, damage, body, times, skip))

    def fault(self, kind: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.kind == kind and fault.skip > 0:
                    fault.skip -= 1
                elif fault.kind == kind and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """What a visitor of the repository finds; {} where it has none."""
        commit = self.repos[repo].at(revision) if repo in self.repos else None
        return {path: blob.data for path, blob in commit.files.items()} if commit else {}

    def seen(self, *kinds: str) -> list[Request]:
        return [request for request in self.requests if request.kind in kinds]

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def handle_any(self) -> None:
                url = urlsplit(self.path)
                self.query, path = parse_qs(url.query), url.path
                kind, match, answer = route(self.command, path)
                length = int(self.headers.get("Content-Length") or 0)
                with hub.lock:
                    hub.requests.append(Request(kind, self.command, self.path, dict(self.headers), length))
                self.trouble = hub.fault(kind)
                if self.trouble and self.trouble.cut and self.command != "GET":
                    self.rfile.read(length // 2)
                    self.hang_up()
                    return
                self.body = self.rfile.read(length)
                if self.trouble and self.trouble.body is not None:
                    self.send(self.trouble.body, self.trouble.status or 200, self.trouble.headers)
                    return
                try:
                    if self.trouble and self.trouble.status:
                        raise _Refused(self.trouble.status, self.trouble.message)
                    if answer is None or match is None:
                        raise _Refused(404, f"no such address: {self.command} {path}")
                    with hub.lock:
                        answer(hub, self, *map(unquote, match.groups("")))
                except _Refused as no:
                    headers = {"X-Error-Message": no.message} | ({"X-Error-Code": no.code} if no.code else {})
                    if self.trouble:
                        headers |= self.trouble.headers
                    self.send({"error": no.message, **no.more}, no.status, headers)

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_any

            def hang_up(self) -> None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def send(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                given = {"Content-Type": "application/json", "Content-Length": str(len(data))} | (headers or {})
                for name, text in given.items():
                    self.send_header(name, text)
                self.end_headers()
                if self.command == "HEAD":
                    return
                if self.trouble and self.trouble.cut:
                    self.wfile.write(data[: len(data) // 2])
                    self.hang_up()
                    return
                if self.trouble and self.trouble.damage:
                    data = damaged(data)
                self.wfile.write(data)

            def json(self) -> dict[str, Any]:
                return dict(json.loads(self.body))

            # Who asks, and for what.

            def who(self) -> str | None:
                token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                if not token:
                    return None
                if token not in (hub.token, hub.reader):
                    raise _Refused(401, "Invalid credentials in Authorization header")
                return "writer" if token == hub.token else "reader"

            def may_write(self, repo: str) -> None:
                who = self.who()
                if who is None:
                    raise _Refused(401, "Invalid username or password.")
                if who == "reader" or repo.split("/")[0] not in (hub.user, hub.organization):
                    raise _Refused(403, f"You don't have the rights to write to {repo}")

            def repo(self, name: str) -> Repo:
                found = hub.repos.get(name)
                if found is None or (found.private and self.who() is None):
                    raise _Refused(404 if self.who() else 401, "Repository not found", "RepoNotFound")
                return found

            def commit_of(self, name: str, revision: str) -> Commit:
                commit = self.repo(name).at(revision)
                if commit is None:
                    raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
                return commit

        return Handler


def damaged(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


# ------------------------------------------------------------------------------------------------------------ answers


def whoami(hub: HubServer, ask: Any) -> None:
    who = ask.who()
    if who is None:
        raise _Refused(401, "Invalid credentials in Authorization header")
    role = "write" if who == "writer" else "read"
    ask.send(
        {
            "type": "user", "name": hub.user, "fullname": hub.user,
            "orgs": [{"type": "org", "name": hub.organization, "roleInOrg": role}],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role}},
        }
    )  # fmt: skip


def validate_yaml(hub: HubServer, ask: Any) -> None:
    match = re.match(r"---\n(.*?)\n---\n", ask.json()["content"], re.DOTALL)
    try:
        metadata = YAML(typ="safe").load(match[1]) if match else None
    except YAMLError as error:
        return ask.send({"errors": [{"message": str(error)}], "warnings": []}, 400)
    if not isinstance(metadata, dict):
        return ask.send({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    wrong = [
        f'"{key}" must be {kind.__name__}'
        for key, kind in (("license", str), ("library_name", str), ("pipeline_tag", str), ("tags", list),
                          ("datasets", list), ("metrics", list), ("model-index", list))
        if key in metadata and not isinstance(metadata[key], kind)
    ]  # fmt: skip
    return ask.send({"errors": [{"message": text} for text in wrong], "warnings": []}, 400 if wrong else 200)


def create(hub: HubServer, ask: Any) -> None:
    wish = ask.json()
    name = f"{wish.get('organization') or hub.user}/{wish['name']}"
    ask.may_write(name)
    url = f"{hub.endpoint}/{name}"
    if name in hub.repos:
        raise _Refused(409, "You already created this model repo", url=url)
    repo = hub.repos[name] = Repo(wish.get("private", False) or wish.get("visibility") == "private")
    repo.commit("main", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}, "initial commit")
    ask.send({"url": url, "name": name, "id": name})


def branch(hub: HubServer, ask: Any, name: str, made: str) -> None:
    ask.may_write(name)
    repo = ask.repo(name)
    if made in repo.branches:
        raise _Refused(409, "Reference already exists")
    repo.branches[made] = ask.commit_of(name, ask.json().get("startingPoint", "main")).oid
    ask.send({})


def preupload(hub: HubServer, ask: Any, name: str, revision: str) -> None:
    ask.may_write(name)
    there = ask.commit_of(name, revision).files
    files = []
    for file in ask.json()["files"]:
        path = file["path"]
        lfs = path.endswith(LFS_SUFFIXES) or file["size"] > LFS_BYTES
        blob = there.get(path)
        oid = None if blob is None else blob.sha256 if blob.lfs else blob.oid
        files.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid})
    ask.send({"files": files})


def batch(hub: HubServer, ask: Any, name: str) -> None:
    ask.may_write(name)
    objects = []
    for wanted in ask.json()["objects"]:
        actions = {
            "upload": {"href": f"{hub.endpoint}/lfs/{wanted['oid']}"},
            "verify": {"href": f"{hub.endpoint}/{name}.git/info/lfs/verify"},
        }
        have = {} if wanted["oid"] in hub.lfs else {"actions": actions}
        objects.append({"oid": wanted["oid"], "size": wanted["size"], **have})
    ask.send({"transfer": "basic", "objects": objects})


def upload(hub: HubServer, ask: Any, oid: str) -> None:
    """The address itself is the permission, as on the real Hub's storage: a token does not belong here."""
    if ask.headers.get("Authorization"):
        raise _Refused(400, "a token was sent to the storage")
    hub.lfs[oid] = damaged(ask.body) if ask.trouble and ask.trouble.damage else ask.body
    ask.send(b"")


def verify(hub: HubServer, ask: Any, name: str) -> None:
    ask.may_write(name)
    wish = ask.json()
    data = hub.lfs.get(wish["oid"])
    if data is None or len(data) != wish["size"] or hashlib.sha256(data).hexdigest() != wish["oid"]:
        hub.lfs.pop(wish["oid"], None)
        raise _Refused(422, "the uploaded content does not match its checksum")
    ask.send({})


def commit(hub: HubServer, ask: Any, name: str, revision: str) -> None:
    ask.may_write(name)
    repo = ask.repo(name)
    if revision not in repo.branches:
        raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    before = repo.commits[repo.branches[revision]]
    files, title = dict(before.files), ""
    for line in ask.body.splitlines():
        item = json.loads(line)
        value = item["value"]
        match item["key"]:
            case "header":
                title = value["summary"]
                if value.get("parentCommit", before.oid) != before.oid:
                    raise _Refused(412, "A commit has happened since. Please refresh and try again.")
            case "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            case "lfsFile":
                data = hub.lfs.get(value["oid"])
                if data is None or hashlib.sha256(data).hexdigest() != value["oid"]:
                    raise _Refused(400, f"LFS object {value['oid']} of {value['path']} has not been uploaded")
                files[value["path"]] = Blob(data, True)
            case "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise _Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            case other:
                raise _Refused(400, f"unknown operation {other}")
    made = repo.commit(revision, files, title)
    ask.send(
        {
            "success": True,
            "commitOid": made.oid,
            "commitUrl": f"{hub.endpoint}/{name}/commit/{made.oid}",
            "hookOutput": "",
        }
    )


def info(hub: HubServer, ask: Any, name: str, revision: str = "main") -> None:
    found = ask.commit_of(name, revision)
    files = [{"rfilename": path} for path in sorted(found.files)]
    private = ask.repo(name).private
    ask.send({"_id": "0" * 24, "id": name, "modelId": name, "sha": found.oid, "private": private, "siblings": files,
              "tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False})  # fmt: skip


def refs(hub: HubServer, ask: Any, name: str) -> None:
    branches = ask.repo(name).branches.items()
    listed = [{"name": made, "ref": f"refs/heads/{made}", "targetCommit": oid} for made, oid in branches]
    ask.send({"branches": listed, "tags": [], "converts": []})


def tree(hub: HubServer, ask: Any, name: str, revision: str, folder: str = "") -> None:
    entries: list[dict[str, Any]] = []
    above = f"{folder}/" if folder else ""
    within = [item for item in sorted(ask.commit_of(name, revision).files.items()) if item[0].startswith(above)]
    if above and not within:
        raise _Refused(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    recursive = ask.query.get("recursive", ["true"]) == ["true"]
    for path, blob in within:
        inner, *deeper = path[len(above) :].split("/", 1)
        if deeper and not recursive:
            entry = {"type": "directory", "path": above + inner, "size": 0, "oid": "0" * 40}
            entries += [] if entry in entries else [entry]
            continue
        lfs = {"lfs": {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 130}} if blob.lfs else {}
        entries.append({"type": "file", "path": path, "size": len(blob.data), "oid": blob.oid, **lfs})
    ask.send(entries)


def resolve(hub: HubServer, ask: Any, name: str, revision: str, path: str) -> None:
    found = ask.commit_of(name, revision)
    blob = found.files.get(path)
    if blob is None:
        raise _Refused(404, "Entry not found", "EntryNotFound")
    headers = {"ETag": f'"{blob.sha256 if blob.lfs else blob.oid}"', "X-Repo-Commit": found.oid,
               "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}  # fmt: skip
    if blob.lfs:
        headers |= {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
    match = re.fullmatch(r"bytes=(\d+)-", ask.headers.get("Range") or "")
    if match:
        start, size = int(match[1]), len(blob.data)
        ask.send(blob.data[start:], 206, headers | {"Content-Range": f"bytes {start}-{size - 1}/{size}"})
    else:
        ask.send(blob.data, 200, headers)


_KIND = r"(?:models|datasets)"
_ID = r"([\w.-]+/[\w.-]+)"
ROUTES: list[tuple[str, str, str, Callable[..., None]]] = [
    ("whoami", "GET", r"/api/whoami-v2", whoami),
    ("yaml", "POST", r"/api/validate-yaml", validate_yaml),
    ("create", "POST", r"/api/repos/create", create),
    ("branch", "POST", rf"/api/models/{_ID}/branch/([^/]+)", branch),
    ("preupload", "POST", rf"/api/models/{_ID}/preupload/([^/]+)", preupload),
    ("commit", "POST", rf"/api/models/{_ID}/commit/([^/]+)", commit),
    ("tree", "GET", rf"/api/{_KIND}/{_ID}/tree/([^/]+)(?:/(.+))?", tree),
    ("refs", "GET", rf"/api/models/{_ID}/refs", refs),
    ("info", "GET", rf"/api/{_KIND}/{_ID}/revision/([^/]+)", info),
    ("info", "GET", rf"/api/{_KIND}/{_ID}", info),
    ("batch", "POST", rf"/{_ID}\.git/info/lfs/objects/batch", batch),
    ("verify", "POST", rf"/{_ID}\.git/info/lfs/verify", verify),
    ("upload", "PUT", r"/lfs/([0-9a-f]{64})", upload),
    ("resolve", "GET|HEAD", rf"/(?:datasets/)?{_ID}/resolve/([^/]+)/(.+)", resolve),
]


def route(command: str, path: str) -> tuple[str, re.Match[str] | None, Callable[..., None] | None]:
    """What kind of request it is, its parts, and who answers."""
    for kind, methods, pattern, answer in ROUTES:
        match = re.fullmatch(pattern, path)
        if match and command in methods.split("|"):
            return kind, match, answer
    return "other", None, None


def started() -> Iterator[HubServer]:
    """For a pytest fixture."""
    with HubServer() as hub:
        yield hub
