"""Files from the network into a directory: resumed, checked by content, whole or absent.

Knows HTTP, the Hugging Face hub and git's content ids; does not know which models there are.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import ModelError, one_line

BLOCK = 1 << 20
TIMEOUT = 60  # seconds without a byte
PART = ".part"

Log = Callable[[str], object]


class NotToBeHad(Exception):
    """The network, the server or the file's content says no; the message says which."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a hub repository and what its content must be: git's id of a blob, or the sha256 of
    a large file.
    """

    name: str
    size: int
    blob_id: str | None
    sha256: str | None


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold `file` as a lock: a second process waits, and then finds what the first one brought."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ModelError(
            f"{file.parent}: models cannot be kept here ({error.strerror}); set VIRNUCPRO_HOME to a"
            " place that can be written to"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def git_blob_id(file: Path) -> str:
    """git's id of a file's content: sha1 of `blob SIZE\\0` and its bytes."""
    return _hash(file, hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False))


def sha256_of(file: Path) -> str:
    return _hash(file, hashlib.sha256())


def fetch(urls: Sequence[str], target: Path, blob_id: str, log: Log = lambda line: None) -> None:
    """Bring the file with this git id to `target`, from the first of `urls` that has it.

    What an interrupted call brought lies beside it and is taken up. Raises NotToBeHad when no
    address has the content.
    """
    part = target.with_name(target.name + PART)
    reasons = []
    for url in urls:
        try:
            _continue(url, part)
            if git_blob_id(part) != blob_id:
                part.unlink()
                raise NotToBeHad(
                    f"{url}: another content than the published one (git id is not"
                    f" {blob_id[:12]}...)"
                )
            os.replace(part, target)
            log(f"{target.name}: {target.stat().st_size:,} bytes, git id as published")
            return
        except urllib.error.HTTPError as error:
            reasons.append(f"{url}: {error.code} {error.reason}")
        except (OSError, NotToBeHad) as error:  # URLError and timeouts are OSErrors
            reasons.append(
                one_line(error)
                if isinstance(error, NotToBeHad)
                else f"{url}: {one_line(getattr(error, 'reason', error))}"
            )
    raise NotToBeHad("; ".join(reasons))


def hub_files(hub: str, revision: str | None) -> tuple[str, tuple[HubFile, ...]]:
    """The commit that `revision` (None: the newest) is, and its files. Raises NotToBeHad."""
    from huggingface_hub import HfApi

    with _hub_says():
        info = HfApi().model_info(hub, revision=revision, files_metadata=True, timeout=TIMEOUT)
    files = tuple(
        HubFile(f.rfilename, f.size or 0, f.blob_id, f.lfs.sha256 if f.lfs else None)
        for f in info.siblings or ()
    )
    return info.sha or "", files


def fetch_hub(hub: str, commit: str, files: Sequence[HubFile], directory: Path) -> None:
    """Bring `files` of a hub repository at `commit` into `directory` (the hub's client resumes);
    check each by content.
    """
    from huggingface_hub import snapshot_download

    with _hub_says():
        snapshot_download(
            hub, revision=commit, local_dir=directory, allow_patterns=[file.name for file in files]
        )
    for file in files:
        path = directory / file.name
        if not path.is_file():
            raise NotToBeHad(f"{hub}: {file.name} did not arrive")
        good = (
            sha256_of(path) == file.sha256
            if file.sha256
            else file.blob_id in (None, git_blob_id(path))
        )
        if not good:
            path.unlink()
            raise NotToBeHad(f"{hub}: {file.name} arrived damaged; try again")


def _continue(url: str, part: Path) -> None:
    """Append to `part` what is missing of `url`; a server that cannot continue sends it all
    again.
    """
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "virnucpro", "Accept": "application/vnd.github.raw+json, */*"}
    request = urllib.request.Request(
        url, headers=headers | ({"Range": f"bytes={have}-"} if have else {})
    )
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        # nothing is missing, or `part` is of something else: its id will tell
        if error.code == 416 and have:
            return
        raise
    missing = int(answer.headers.get("Content-Length", 0))
    with answer, part.open("ab" if answer.status == 206 else "wb") as out:
        while block := answer.read(BLOCK):
            missing -= len(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    if missing > 0:  # read() does not say that a connection was cut
        raise ConnectionError(f"the connection ended {missing:,} bytes early")


@contextlib.contextmanager
def _hub_says() -> Iterator[None]:
    """Whatever the hub's client raises, as one reason."""
    try:
        yield
    except NotToBeHad:
        raise
    except Exception as error:
        text = one_line(error)
        raise NotToBeHad(
            f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
        ) from None


def _hash(file: Path, digest) -> str:
    with file.open("rb") as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
