"""Which run an output directory belongs to: identity, lock, and what a new start may do there.

Identity is everything that decides the features; the number of processes, the batch size and the
device are provenance. Knows JSON and file locks; does not know how a run is carried out.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import StoreError

log = logging.getLogger(__name__)

HIDDEN = ".virnucpro"
MOST_DIFFERENCES = 3  # named in one line

Identity = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class WorkPlace:
    """Where a run keeps unfinished work: in its output directory, or keyed by content in
    `--checkpoint-dir`.
    """

    output_dir: Path
    checkpoint_dir: Path | None = None

    @property
    def hidden(self) -> Path:
        return self.output_dir / HIDDEN

    @property
    def state_file(self) -> Path:
        return self.hidden / "run.json"

    @property
    def lock(self) -> RunLock:
        return RunLock(self.hidden / "lock", self.output_dir)

    def shards_lock(self, shards: Path) -> AbstractContextManager:
        """Two runs with the same content, in two output directories, may meet in one
        `--checkpoint-dir`.
        """
        if self.checkpoint_dir is None:
            return nullcontext()
        return RunLock(shards.with_suffix(".lock"), self.checkpoint_dir, "--checkpoint-dir")

    def shards(self, encoder: str, content: Mapping[str, str]) -> Path:
        """Directory of an encoder's finished rows, named by all that decides their values."""
        return (self.checkpoint_dir or self.hidden) / f"{encoder}-{digest(content)[:24]}"

    def new_plans(self) -> Path:
        """An empty directory for this start's plans."""
        plans = self.hidden / "plans"
        shutil.rmtree(plans, ignore_errors=True)
        plans.mkdir(parents=True)
        return plans

    def read_identity(self) -> Identity | None:
        """The identity of the unfinished run in here; None where there is none."""
        return _read_json(self.state_file)

    def write_identity(self, identity: Identity) -> None:
        _write_json(self.state_file, dict(identity))

    def clear(self) -> None:
        """Drop unfinished work, but not the lock that is being held.

        The identity goes last: what is left without it is nobody's.
        """
        for path in sorted(self.hidden.iterdir(), key=lambda path: path == self.state_file):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != "lock":
                path.unlink(missing_ok=True)


class RunLock:
    """One run at a time, also across users; the kernel drops the lock when the process dies.

    path: the lock's file; what: the directory it stands for, as the user knows it; option: which
    one names another.
    """

    def __init__(self, path: Path, what: Path, option: str = "--output-dir"):
        self._path, self._what, self._option = path, what, option
        self._handle: int | None = None

    def __enter__(self) -> RunLock:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StoreError(
                f"{self._what}: cannot be written ({reason}); choose another {self._option}"
            ) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):  # a file system without locks
                log.warning(
                    "%s: cannot be locked (%s); see to it that no other run uses it",
                    self._what,
                    error.strerror,
                )
                return self
            owner = (
                os.pread(self._handle, 100, 0).decode(errors="replace").strip() or "another process"
            )
            self.__exit__()
            raise StoreError(
                f"{self._what}: another run is writing here ({owner}); wait for it or choose"
                f" another {self._option}"
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def is_finished(
    directory: Path,
    now: Identity,
    call: Identity,
    unfinished: Identity | None,
    finished: Identity | None,
    complete: bool,
) -> bool:
    """Whether `directory` holds this very run, finished; else it may start there or go on.

    now, call: this run's identity and its call settings; unfinished: what the state in the
    directory says; finished: what the results there say, call settings included; complete: nothing
    failed that a new start could mend. Raises StoreError where the directory holds another run,
    whose results are not to be mixed with these or lost.
    """
    if finished is not None and complete and dict(finished) == {**now, **call}:
        return True
    held = unfinished if unfinished is not None else finished
    if held is None:
        return False
    changed = difference({key: value for key, value in held.items() if key not in call}, now)
    if changed:
        raise StoreError(
            f"{directory}: holds another run ({changed}); --force starts over, or choose another"
            " --output-dir"
        )
    changed = (
        difference({key: value for key, value in held.items() if key in call}, call)
        if unfinished is None
        else ""
    )
    if changed:
        raise StoreError(
            f"{directory}: holds this run with other settings ({changed}); "
            "`virnucpro summarize` calls again from its features, --force starts over"
        )
    return False


def digest(content: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(content), sort_keys=True).encode()).hexdigest()


def difference(before: Identity, now: Identity) -> str:
    """What differs between two identities, in words, for one line."""
    changed = []
    keys = [*now, *(key for key in before if key not in now)]
    differing = [key for key in keys if before.get(key) != now.get(key)]
    # those follow from the others
    for key in [key for key in differing if key != "frames"] or differing:
        old, new = before.get(key), now.get(key)
        if old is None or new is None:
            changed.append(f"{key} was {'not there' if old is None else 'there'} before")
        elif len(old) == len(new) == 64:  # hashes tell a reader nothing
            changed.append(f"{key} has other content")
        else:
            changed.append(f"{key} was {old}, now {new}")
    more = f" and {len(changed) - MOST_DIFFERENCES} more" if len(changed) > MOST_DIFFERENCES else ""
    return "; ".join(changed[:MOST_DIFFERENCES]) + more


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: not readable ({error}); start over with --force") from error


def _write_json(path: Path, content: Mapping) -> None:
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise StoreError(
            f"{path.parent}: cannot be written ({(error.strerror or str(error)).lower()}); make"
            " room and try again"
        ) from error
