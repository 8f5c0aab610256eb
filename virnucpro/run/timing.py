"""Seconds and counts a stage, for `run.json`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Adds up wall seconds by stage, in the order in which the stages began."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        self._seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - start

    def seconds(self) -> dict[str, float]:
        """Rounded to milliseconds; `total` is since this clock was made."""
        return {name: round(s, 3) for name, s in self._seconds.items()} | {
            "total": round(time.monotonic() - self._began, 3)
        }
