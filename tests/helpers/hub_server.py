"""The Hugging Face hub and GitHub, played on the loopback as far as a download sees them.

The hub: revisions by its API, `resolve` with a redirect to another path for large files (as to its
CDN), X-Linked-Etag, X-Linked-Size, xet headers, ranges, 401 for what is private. GitHub: raw
files, blobs by id, a mirror. Faults are given by order: the next answers of a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEWEST = "fedcba9876543210fedcba9876543210fedcba98"
LARGE = (".bin", ".safetensors")
TOKEN = "hf_right"


@dataclass(frozen=True)
class Fault:
    """What goes wrong with an answer. status: an error instead of it; cut: bytes after which the
    connection ends; chunked: no length is said; flip: a bit of the first byte is another; stall:
    seconds without a byte.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    chunked: bool = False
    flip: bool = False
    stall: float = 0.0


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Hub:
    """What is served: `repositories` owner/name -> directory, `files` path -> bytes; `requests` is
    the log, `faults` file name (or API path) -> what its next answers suffer.
    """

    repositories: dict[str, Path]
    files: dict[str, bytes] = field(default_factory=dict)
    commit: str = COMMIT  # what the repositories have; NEWEST where the pinned one is gone
    private: bool = False
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    pause: float = 0.0  # seconds after each 4 kB
    requests: list[Request] = field(default_factory=list)
    address: str = ""

    @property
    def other_server(self) -> str:
        """The same by another name: GitHub, and the hub's CDN."""
        return self.address.replace("127.0.0.1", "localhost")

    def asked(self, name: str) -> list[str | None]:
        """The ranges in which the content of a file was asked for, in order."""
        return [
            request.range
            for request in self.requests
            if request.path.endswith(f"/{name}") and not request.path.startswith("/cdn/")
        ]

    def metadata(self, name: str) -> dict:
        siblings = []
        for file in sorted(self.repositories[name].iterdir()):
            data = file.read_bytes()
            entry = {"rfilename": file.name, "size": len(data), "blobId": blob_id(data)}
            if file.suffix in LARGE:
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        return {"id": name, "modelId": name, "sha": self.commit, "siblings": siblings}


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(self.path.split("?")[0])
        token = self.headers.get("Authorization")
        self.hub.requests.append(Request(self.command, path, self.headers.get("Range"), token))
        name = path.rsplit("/", 1)[1]
        waiting = self.hub.faults.get(name, [])
        fault = waiting.pop(0) if waiting else Fault()
        if fault.status:
            self.send(fault.status, b"fault", fault.headers)
        elif path.startswith("/api/models/"):
            self.listing(path, fault)
        elif path.startswith("/cdn/"):
            _, _, owner, repository, file = path.split("/")
            data = (self.hub.repositories[f"{owner}/{repository}"] / file).read_bytes()
            self.content(data, hashlib.sha256(data).hexdigest(), {}, fault)
        elif "/resolve/" in path:
            self.resolve(path, fault)
        elif path.lstrip("/") in self.hub.files:
            data = self.hub.files[path.lstrip("/")]
            self.content(data, blob_id(data), {}, fault)
        else:
            self.send(404, b"not there")

    def refused(self) -> bool:
        """Whether a private repository is asked for without the right token."""
        token = self.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            self.send(401, b"Invalid credentials")
        elif self.hub.private and token is None:
            self.send(401, b"", {"X-Error-Code": "RepoNotFound"})
        else:
            return False
        return True

    def listing(self, path: str, fault: Fault) -> None:
        parts = path.split("/")
        name, revision = "/".join(parts[3:5]), parts[6] if len(parts) > 6 else "main"
        if self.refused():
            return
        if name not in self.hub.repositories:
            self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in (self.hub.commit, "main"):
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            self.content(json.dumps(self.hub.metadata(name)).encode(), "listing", {}, fault)

    def resolve(self, path: str, fault: Fault) -> None:
        owner, repository, _, revision, name = path.lstrip("/").split("/")
        file = self.hub.repositories.get(f"{owner}/{repository}", Path("/none")) / name
        if self.refused():
            return
        if revision not in (self.hub.commit, "main") or not file.is_file():
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = file.read_bytes()
        headers = {"X-Repo-Commit": self.hub.commit}
        if file.suffix not in LARGE:
            self.content(data, blob_id(data), headers, fault)
            return
        if fault != Fault():  # it strikes where the bytes come from
            self.hub.faults[name] = [fault, *self.hub.faults.get(name, [])]
        headers |= {
            "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Linked-Size": str(len(data)),
            "X-Xet-Hash": hashlib.sha256(data).hexdigest(),
            "Link": f'<{self.hub.address}/no-xet-here>; rel="xet-auth"',
            "Location": f"{self.hub.other_server}/cdn/{owner}/{repository}/{name}",
        }
        self.send(302, b"", headers)

    def content(self, data: bytes, etag: str, headers: dict[str, str], fault: Fault) -> None:
        headers = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"} | headers
        if fault.flip:
            data = bytes([data[0] ^ 1]) + data[1:]
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        if start and start >= len(data):
            self.send(416, b"")
            return
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send(206 if start else 200, data[start:], headers, fault)

    def send(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        fault: Fault = Fault(),
    ) -> None:
        self.send_response(status)
        length = {"Transfer-Encoding": "chunked"}
        if not fault.chunked:
            length = {"Content-Length": str(len(data))}
        for key, value in {**length, **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        time.sleep(fault.stall)
        whole = len(data)
        if fault.cut is not None:
            data, self.close_connection = data[: fault.cut], True
        with contextlib.suppress(ConnectionError):  # the client was killed
            if fault.chunked:  # cut within the chunk, or whole
                end = b"\r\n0\r\n\r\n" if fault.cut is None else b""
                data = b"%x\r\n" % whole + data + end
            for start in range(0, len(data), 4096):
                self.wfile.write(data[start : start + 4096])
                time.sleep(self.hub.pause)

    def log_message(self, *_: object) -> None:
        return


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.daemon = True
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
