"""Which run an output directory belongs to: identity, lock, and what a new start may do there.

Identity is everything that decides the features; the number of processes, the batch size and the device are provenance.
Knows JSON and file locks; does not know how a run is carried out.
"""
from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import StoreError

HIDDEN = ".virnucpro"

Identity = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class WorkPlace:
    """Where a run keeps unfinished work: in its output directory, or keyed by content in `--checkpoint-dir`."""

    output_dir: Path
    checkpoint_dir: Path | None = None

    @property
    def hidden(self) -> Path:
        return self.output_dir / HIDDEN

    @property
    def state_file(self) -> Path:
        return self.hidden / "run.json"

    def shards(self, encoder: str, content: Mapping[str, str]) -> Path:
        """Directory of an encoder's finished rows, named by all that decides their values."""
        return (self.checkpoint_dir or self.hidden) / f"{encoder}-{digest(content)[:24]}"

    def plans(self) -> Path:
        return self.hidden / "plans"

    def read_identity(self) -> Identity | None:
        """The identity of the unfinished run in here; None where there is none."""
        return _read_json(self.state_file)

    def write_identity(self, identity: Identity) -> None:
        _write_json(self.state_file, dict(identity))

    def clear(self, keep_lock: bool = True) -> None:
        """Drop unfinished work, but not the lock that is being held."""
        if self.hidden.is_dir():
            for path in self.hidden.iterdir():
                if keep_lock and path.name == "lock":
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class RunLock:
    """One run at a time in a directory, also across users; the kernel drops it when the process dies."""

    def __init__(self, directory: Path, what: str):
        self._directory, self._what = directory, what
        self._handle: int | None = None

    def __enter__(self) -> RunLock:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            reason = error.strerror.lower()
            raise StoreError(f"{self._what}: cannot be written ({reason}); choose another --output-dir") from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._handle, 100, 0).decode(errors="replace").strip() or "another process"
            os.close(self._handle)
            self._handle = None
            raise StoreError(
                f"{self._what}: another run is writing here ({owner}); wait for it or choose another --output-dir"
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def digest(content: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(content), sort_keys=True).encode()).hexdigest()


def difference(before: Identity, now: Identity) -> str:
    """What differs between two identities, in words, for one line."""
    changed = []
    for key in [*now, *(key for key in before if key not in now)]:
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if old is None or new is None:
            changed.append(f"{key} was {'not there' if old is None else 'there'} before")
        elif len(old) == len(new) == 64:  # hashes tell a reader nothing
            changed.append(f"{key} has other content")
        else:
            changed.append(f"{key} was {old}, now {new}")
    return "; ".join(changed)


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: not readable ({error}); start over with --force") from error


def _write_json(path: Path, content: Mapping) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    with open(beside, "w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
