"""A hub and a file server on the loopback, as far as the real clients ask them: metadata, ranges,
one cut connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What is served: `repositories` owner/name -> directory, `files` path -> bytes; `requests` is
    the log.
    """

    repositories: dict[str, Path]
    files: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)  # file names whose first answer ends half-way
    corrupt: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    address: str = ""

    def content(self, path: str) -> tuple[bytes, bool] | None:
        """The bytes at `path`, and whether they are a large file's."""
        if path.lstrip("/") in self.files:
            return self.files[path.lstrip("/")], False
        parts = path.lstrip("/").split("/")
        if len(parts) != 5 or parts[2] != "resolve":
            return None
        file = self.repositories.get("/".join(parts[:2]), Path("/none")) / parts[4]
        return (
            (file.read_bytes(), file.suffix in (".bin", ".safetensors")) if file.is_file() else None
        )

    def tree(self, name: str) -> list[dict] | None:
        """The listing the hub's client asks for beside the metadata."""
        found = self.metadata(name)
        return found and [
            {
                "type": "file",
                "path": f["rfilename"],
                "size": f["size"],
                "oid": f["blobId"],
                **(
                    {"lfs": {"oid": f["lfs"]["sha256"], "size": f["size"], "pointerSize": 134}}
                    if "lfs" in f
                    else {}
                ),
            }
            for f in found["siblings"]
        ]

    def metadata(self, name: str) -> dict | None:
        directory = self.repositories.get(name)
        if directory is None:
            return None
        siblings = []
        for file in sorted(directory.iterdir()):
            data = file.read_bytes()
            entry = {"rfilename": file.name, "size": len(data), "blobId": blob_id(data)}
            if file.suffix in (".bin", ".safetensors"):
                entry["lfs"] = {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 134,
                }
            siblings.append(entry)
        return {
            "id": name,
            "modelId": name,
            "sha": COMMIT,
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": siblings,
        }


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            hub.requests.append((self.command, path, self.headers.get("Range")))
            if path.startswith("/api/models/"):
                name = "/".join(path.split("/")[3:5])
                found = hub.tree(name) if "/tree/" in path else hub.metadata(name)
                self.send(
                    200 if found else 404,
                    json.dumps(found or {"error": "no such repository"}).encode(),
                    body,
                )
                return
            content = hub.content(path)
            if content is None:
                self.send(404, b"not there", body)
                return
            data, large = content
            name = path.rsplit("/", 1)[1]
            etag = hashlib.sha256(data).hexdigest() if large else blob_id(data)
            if name in hub.corrupt:
                data = bytes([data[0] ^ 1]) + data[1:]
            start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if large:
                headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            if start and start >= len(data):
                self.send(416, b"", body)
            elif name in hub.cut and body:
                hub.cut.discard(name)
                self.send(200, data, body, headers, stop=len(data) // 2)
            elif start:
                self.send(
                    206,
                    data[start:],
                    body,
                    headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"},
                )
            else:
                self.send(200, data, body, headers)

        def send(
            self,
            status: int,
            data: bytes,
            body: bool,
            headers: dict[str, str] | None = None,
            stop: int | None = None,
        ) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data[:stop])
            if stop is not None:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
