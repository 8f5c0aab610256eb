"""Standard output and standard error as streams that never fail: what a run has written to files
counts, not whether a terminal, a pipe or a full disk took what was printed.

Knows file descriptors; does not know what is printed.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TextIO


class UnfailingOutput(io.RawIOBase):
    """The file descriptor `number`, to be written to; after its first error all is dropped.

    `failure` is that error.
    """

    def __init__(self, number: int):
        self._number = number
        self.failure: OSError | None = None

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """Of the file below."""
        return self._number

    def isatty(self) -> bool:
        """Whether the file below is a terminal."""
        return os.isatty(self._number)

    def write(self, data) -> int:  # type: ignore[override]
        """How many bytes were taken; a failure is remembered and never raised."""
        while self.failure is None:
            try:
                return os.write(self._number, data)
            except BlockingIOError:
                select.select([], [self._number], [])
            except OSError as error:
                self.failure = error
        return len(data)


def open_standard_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` such streams, and open what was closed at the start: else
    the first files of a run would get its number, and what is printed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    sys.stdout, sys.stderr = _unfailing(sys.stdout, 1), _unfailing(sys.stderr, 2)


def _unfailing(stream: TextIO | None, number: int) -> TextIO:
    """Names that the terminal's encoding lacks are written as escapes."""
    raw = UnfailingOutput(number)
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace")
    stream.flush()
    lines = bool(stream.line_buffering or getattr(stream, "write_through", False) or number == 2)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=lines
    )


def close_standard_streams() -> None:
    """Flush them, and say where standard output could not be written; a reader that has gone, as
    `head` does, wanted no more.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, UnfailingOutput) else None
    if failure is not None and failure.errno != errno.EPIPE:
        reason = (failure.strerror or "").lower()
        print(f"virnucpro: warning: standard output cannot be written ({reason})", file=sys.stderr)
    sys.stderr.flush()
