"""Ending in good order: SIGTERM, SIGINT and a vanished launcher flush finished work and end the process within seconds.

A Python signal handler runs only between two byte codes of the main thread, which may sit in a collective or a GPU
synchronization for minutes. So the signal wakes a thread of ours through a file descriptor.
"""
from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from types import TracebackType

POLL_SECONDS = 2.0


class Stopping:
    """While entered, the first SIGTERM or SIGINT calls `finish(signal number)` in a thread of its own and ends the process.

    The exit code is 128 + the signal's number. With `watch_parent`, the launcher's death counts as SIGTERM.
    """

    def __init__(self, finish: Callable[[int], None], watch_parent: bool):
        self._finish = finish
        self._watched = os.getppid() if watch_parent else None
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="stopping", daemon=True)

    def __enter__(self) -> Stopping:
        self._before = {number: signal.signal(number, _noted) for number in (signal.SIGTERM, signal.SIGINT)}
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
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
            if not ready and self._watched is not None and os.getppid() != self._watched:
                number = signal.SIGTERM
            if number in (signal.SIGTERM, signal.SIGINT):
                try:
                    self._finish(int(number))
                finally:
                    os._exit(128 + int(number))


def _noted(number: int, frame: object) -> None:
    """The thread acts; this handler only keeps Python from ending the process at once."""
