"""One process at a time in a directory."""

from __future__ import annotations

import errno
import fcntl
import functools
import logging
import os
from pathlib import Path

from virnucpro.errors import StoreError
from virnucpro.files import OUTPUT, Purpose, make_directory, open_own, refusal

log = logging.getLogger(__name__)

CLOSED = -1  # in the place of a file handle


class Lock:
    """One process at a time; the kernel drops the lock when the process dies.

    path: the lock's file, in `what` or a directory there; what: the directory it stands for, as the
    user knows it; wait: until it is free, else StoreError. A disk without locks costs a warning,
    once.
    """

    def __init__(self, path: Path, what: Path, purpose: Purpose = OUTPUT, wait: bool = False):
        self._path, self._what, self._purpose, self._wait = path, what, purpose, wait
        self._handle = CLOSED

    def __enter__(self) -> Lock:
        try:
            self._what.mkdir(parents=True, exist_ok=True)
            if self._path.parent != self._what:
                make_directory(self._path.parent)
            writable = self._open()
        except OSError as error:
            raise refusal(Path(error.filename or self._what), error, self._purpose) from error
        try:
            self._take()
        except OSError as error:
            _warn_once(self._what, error.strerror or str(error))
            return self
        except BaseException:
            self.__exit__()
            raise
        if writable:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        return self

    def _open(self) -> bool:
        """Open the file; False where only to be read: another user's, which is enough to lock."""
        try:
            # whoever can read a lock can hold it: only one that users share is for others too
            mode = 0o666 if self._wait else 0o600
            self._handle = open_own(self._path, os.O_RDWR | os.O_CREAT, mode)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS) or not self._path.exists():
                raise
            self._handle = open_own(self._path, os.O_RDONLY)
            return False
        return True

    def _take(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            found = os.pread(self._handle, 100, 0).decode("ascii", "replace")
            owner = "".join(filter(str.isprintable, found)) or "another process"
            if not self._wait:
                raise StoreError(
                    f"{self._what}: another run is writing here ({owner}); wait for it or choose"
                    f" another {self._purpose.option}"
                ) from None
            log.info("%s: waiting for %s, which is working here", self._what, owner)
            fcntl.flock(self._handle, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if self._handle != CLOSED:
            os.close(self._handle)
            self._handle = CLOSED


@functools.cache
def _warn_once(what: Path, reason: str) -> None:
    log.warning("%s: cannot be locked (%s); see to it that no other run uses it", what, reason)
