"""A server on loopback that gives files as the hosts of weights do, with the faults that they and networks have.

    with FileServer({"weights.pt": data}) as server:
        server.link("weights.pt")                  # give it to a real client
        server.fault("cut", at=1000)               # the next answer ends there, the one after does not
        server.requests                            # what was asked: (path, headers)

Ranges and ETags are honoured as GitHub's hosts do. Nothing here knows of the client's code.
"""

from __future__ import annotations

import gzip
import hashlib
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import LoopbackServer

#: As Drive answers for a file that it has not looked through: a form that leads to the file.
DRIVE_PAGE = b"""<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<p>Google Drive can't scan this file for viruses.</p>
<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">
<input type="hidden" name="confirm" value="t"></form></body></html>"""
PAGE = b"<html><body><h1>Sign in to continue</h1></body></html>"


@dataclass
class Fault:
    #: "cut", "status", "page", "redirect", "slow", "stall", "no_length", "no_range", "claims" (a length), "packed" (by
    #: gzip, though it was not asked for), "elsewhere" (another part than was asked for)
    kind: str
    at: int = 0
    status: int = 0
    body: bytes = b""
    to: str = ""
    seconds: float = 0.0


#: 404 is for what the server does not have.
NO_FAULT = Fault("", status=404)


class FileServer(LoopbackServer):
    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.requests: list[tuple[str, dict[str, str]]] = []
        super().__init__()

    def link(self, name: str) -> str:
        return f"{self.endpoint}/{name}"

    def fault(self, kind: str, times: int = 1, **more: Any) -> None:
        self.faults += [Fault(kind, **more)] * times

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        served = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *words: object) -> None:
                pass

            def do_GET(self) -> None:
                served.requests.append((self.path, dict(self.headers)))
                fault = served.faults.pop(0) if served.faults else served.always or NO_FAULT
                name = self.path.partition("?")[0].strip("/")
                if fault.kind == "redirect":
                    self.send_response(302)
                    self.send_header("Location", fault.to)
                    self.end_headers()
                elif fault.kind == "packed":
                    self.answer(200, gzip.compress(served.files[name]), {"Content-Encoding": "gzip"})
                elif fault.kind == "elsewhere":
                    data = served.files[name][7:]
                    self.answer(206, data, {"Content-Range": f"bytes 7-{len(data) + 6}/{len(data) + 7}"})
                elif fault.kind == "page":
                    self.answer(200, fault.body, {"Content-Type": "text/html; charset=utf-8"})
                elif fault.kind == "status" or name not in served.files:
                    self.answer(fault.status, b"<html>no</html>", {"Content-Type": "text/html"})
                else:
                    self.give(served.files[name], fault)

            def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for key, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            def give(self, data: bytes, fault: Fault) -> None:
                etag = f'"{hashlib.sha256(data).hexdigest()}"'
                asked = self.headers.get("Range", "")
                same = self.headers.get("If-Range", etag) == etag
                start = (
                    int(asked.removeprefix("bytes=").rstrip("-")) if asked and same and fault.kind != "no_range" else 0
                )
                if start and start >= len(data):
                    self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                if fault.kind != "no_length":
                    self.send_header("Content-Length", str(fault.at if fault.kind == "claims" else len(data) - start))
                self.send_header("ETag", etag)
                self.send_header("Content-Type", "application/octet-stream")
                self.end_headers()
                part = data[start : fault.at if fault.kind in ("cut", "stall") else len(data)]
                if fault.kind == "slow":
                    for i in range(0, len(part), 1 << 14):
                        self.wfile.write(part[i : i + (1 << 14)])
                        self.wfile.flush()
                        time.sleep(fault.seconds)
                else:
                    self.wfile.write(part)
                    self.wfile.flush()
                    if fault.kind == "stall":
                        time.sleep(fault.seconds)
                self.close_connection = True

        return Handler
