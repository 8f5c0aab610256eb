"""Ending in good order: SIGTERM, SIGINT, a closed terminal and a vanished launcher flush finished
work and end the process within seconds.

A Python signal handler runs only between two byte codes of the main thread, which may sit in a
collective or a GPU synchronization for minutes. So the signal wakes a thread of ours through a file
descriptor.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

POLL_SECONDS = 2.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def signals_held() -> Iterator[None]:
    """SIGNALS that come meanwhile act when this is left: while a large library is imported, an
    exception out of a handler may be lost in it, or meet code that ends the process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Stopping:
    """While entered, the first of SIGNALS calls `finish(signal number)` in a thread of its own and
    ends the process.

    The exit code is 128 + the signal's number. The end of the process `parent`, the launcher,
    counts as SIGTERM. To be entered by the main thread, as Python wants it for signals.
    """

    def __init__(self, finish: Callable[[int], None], parent: int | None = None):
        self._finish = finish
        self._parent = parent
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="stopping", daemon=True)

    def __enter__(self) -> Stopping:
        # nohup keeps its word
        taken = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, _noted) for number in taken}
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def _wait(self) -> None:
        while not self._done.is_set():
            ready, _, _ = select.select([self._reader], [], [], POLL_SECONDS)
            if self._done.is_set():
                return
            received = self._reader.recv(1) if ready else b""
            number = received[0] if received else 0
            if not ready and self._parent is not None and os.getppid() != self._parent:
                number = signal.SIGTERM
            if number in self._before:
                try:
                    self._finish(int(number))
                finally:
                    os._exit(128 + int(number))


def _noted(number: int, frame: object) -> None:
    """The thread acts; this handler only keeps Python from ending the process at once."""
