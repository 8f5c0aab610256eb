"""What the cache of tokenized frames holds: its tables, their size, and which of them may go.

A table that a run reads is held by a shared lock on its manifest and is never removed. Knows
directories and locks; does not know what is in a table.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import StoreError, UsageError
from virnucpro.files import CACHE, open_own, read_json
from virnucpro.locks import Lock

MANIFEST = "manifest.json"
BUILDING = ".building"  # how the name of a half-built table ends
LIMIT_VARIABLE = "VIRNUCPRO_CACHE_GB"
USUAL_LIMIT = 100.0  # GB
UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachedTable:
    """A table on disk; of a half-built one nothing but the size is known."""

    directory: Path
    size: int  # bytes
    used: float  # when it was last opened, in seconds since 1970
    frames: int = 0
    inputs: tuple[str, ...] = ()

    @property
    def days(self) -> float:
        """Since it was last used."""
        return max(0.0, time.time() - self.used) / UNITS["d"]


class Hold:
    """A shared lock on the manifest of a table in use, until this object is gone."""

    def __init__(self, directory: Path):
        self._handle = -1
        with suppress(OSError):
            os.utime(directory / MANIFEST)  # when it was last used
        with suppress(OSError):
            self._handle = open_own(directory / MANIFEST, os.O_RDONLY)
            fcntl.flock(self._handle, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def __del__(self) -> None:
        if self._handle != -1:
            os.close(self._handle)


def cached_tables(place: Path) -> list[CachedTable]:
    """The tables in a user's directory of the cache, the longest unused first."""
    found = []
    with suppress(OSError):
        for directory in place.iterdir():
            if directory.is_dir() and not directory.is_symlink():
                with suppress(OSError):  # it has just gone
                    found.append(_described(directory))
    return sorted(found, key=lambda table: table.used)


def _described(directory: Path) -> CachedTable:
    size = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    manifest_file = directory / MANIFEST
    used = (manifest_file if manifest_file.exists() else directory).stat().st_mtime
    try:
        manifest = read_json(manifest_file, "virnucpro cache clear removes it") or {}
        inputs = tuple(str(entry["source"]) for entry in manifest.get("inputs", ()))
        return CachedTable(directory, size, used, int(manifest.get("n_frames", 0)), inputs)
    except (StoreError, KeyError, TypeError, ValueError):
        return CachedTable(directory, size, used)


def remove_tables(tables: Iterable[CachedTable]) -> tuple[list[CachedTable], list[CachedTable]]:
    """(removed, in use): what no run reads or builds is removed."""
    removed: list[CachedTable] = []
    kept: list[CachedTable] = []
    for table in tables:
        (removed if _remove(table) else kept).append(table)
    return removed, kept


def _remove(table: CachedTable) -> bool:
    name = table.directory.name.removesuffix(BUILDING)
    try:
        with (
            Lock(table.directory.with_name(f"{name}.lock"), table.directory.parent, CACHE),
            _alone(table.directory),
        ):
            shutil.rmtree(table.directory)
    except (OSError, StoreError):  # another run builds, reads, or has removed it
        return False
    return True


@contextmanager
def _alone(directory: Path):
    """Errors: OSError while a run reads the table."""
    try:
        handle = open_own(directory / MANIFEST, os.O_RDONLY)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def keep_below_limit(place: Path) -> None:
    """Remove what was not used for longest until the tables in `place` take no more than
    VIRNUCPRO_CACHE_GB. Errors: UsageError where that is no size.
    """
    limit = size_limit()
    tables = cached_tables(place)
    total = sum(table.size for table in tables)
    for table in tables:
        if total <= limit:
            return
        if _remove(table):
            total -= table.size
            log.info("frames: removed %s, unused for %.1f days", table.directory, table.days)


def size_limit() -> float:
    """Bytes that the tables of a user may take. Errors: UsageError."""
    given = os.environ.get(LIMIT_VARIABLE) or str(USUAL_LIMIT)
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", given):
        raise UsageError(f"{LIMIT_VARIABLE}={given}: give a size in GB, such as 50")
    return float(given) * 1e9


def seconds_of(age: str) -> float:
    """Seconds of an age such as 7d, 12h or 30m. Errors: UsageError."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]+)?)([mhdw])", age)
    if found is None:
        raise UsageError(f"--older-than {age}: give a number and m, h, d or w, such as 7d")
    return float(found[1]) * UNITS[found[2]]
