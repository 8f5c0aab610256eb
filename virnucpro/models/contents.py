"""What a directory of the models directory was filled with (checksums.json), and whether it still
holds that.

    {"origin": ..., "date": ..., "files": {name: {"size", "sha256"}}, "converted_from": {...}}

Knows files and their record; does not know which models there are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from virnucpro.errors import ModelError
from virnucpro.files import (
    MODELS,
    Add,
    is_plain_name,
    read_json,
    sha256_of,
    sync_directory,
    write_json,
)

CHECKSUMS = "checksums.json"
LARGE = 100_000_000  # bytes; what is done with more of them is announced
SECONDS_BETWEEN_LINES = 10.0

Log = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file's size in bytes and the sha256 of its content."""

    size: int
    sha256: str

    @classmethod
    def of(cls, file: Path, add: Add = lambda _: None) -> Entry:
        """The entry of a file as it is now."""
        return cls(file.stat().st_size, sha256_of(file, add))


@dataclass(frozen=True, slots=True)
class Contents:
    """Where a directory's files came from, what they are, and what they were converted from."""

    origin: str
    files: Mapping[str, Entry] = field(default_factory=dict)
    converted_from: Mapping[str, Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Contents | None:
        """The record of `directory`; None where there is none that can be read."""
        try:
            stored = read_json(directory / CHECKSUMS, "", ModelError) or {}
            return cls(
                str(stored["origin"]),
                _entries(stored["files"]),
                _entries(stored.get("converted_from", {})),
            )
        except (ModelError, LookupError, TypeError, ValueError, AttributeError, OverflowError):
            return None

    def write(self, directory: Path) -> None:
        """Write checksums.json into `directory`."""
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_json(directory / CHECKSUMS, asdict(self) | {"date": date}, MODELS)

    def adding(
        self,
        file: Path,
        converted_from: Mapping[str, Entry] | None = None,
        add: Add = lambda _: None,
    ) -> Contents:
        """The record with `file` as it is now."""
        return replace(
            self,
            files={**self.files, file.name: Entry.of(file, add)},
            converted_from={**self.converted_from, **(converted_from or {})},
        )

    def only(self, names: set[str]) -> Contents:
        """The record of some of the files."""
        return replace(self, files={k: v for k, v in self.files.items() if k in names})

    def changed(
        self, directory: Path, content: bool = True, log: Log = lambda _: None
    ) -> Iterator[str]:
        """Names of the files that are missing or not as they came; by size alone without
        `content`.
        """
        for name, entry in self.files.items():
            file = directory / name
            if not file.is_file() or file.stat().st_size != entry.size:
                yield name
            elif content:
                what = f"{file}: reading it, to check its content"
                with announced(what, entry.size, log) as add:
                    good = sha256_of(file, add) == entry.sha256
                if not good:
                    yield name


@contextlib.contextmanager
def announced(what: str, size: int, log: Log, written: Path | None = None) -> Iterator[Add]:
    """Say what is done with `size` bytes where they are many, and now and then how many are done:
    those that the function given out is told of, or those that `written` has grown to.
    """
    parts: list[int] = []
    if size < LARGE:
        yield parts.append
        return
    log(f"{what} ({size / 1e9:.2f} GB)")
    finished = threading.Event()

    def tell() -> None:
        while not finished.wait(SECONDS_BETWEEN_LINES):
            done = sum(parts)
            with contextlib.suppress(OSError):
                done += written.stat().st_size if written else 0
            log(f"{what}: {done / 1e9:.2f} of {size / 1e9:.2f} GB")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield parts.append
    finally:
        finished.set()
        thread.join()


def is_whole(directory: Path) -> bool:
    """Whether the files of `directory` are those that came, by name and size."""
    contents = Contents.read(directory)
    return contents is not None and not any(contents.changed(directory, content=False))


def check_files(directory: Path, log: Log = lambda _: None) -> list[str]:
    """What is wrong with the files of a part or bundle by its record, a line each; all are read.

    Empty: all are as they came.
    """
    contents = Contents.read(directory)
    if contents is None:
        return [f"{directory / CHECKSUMS}: not readable"]
    wrong = [directory / name for name in contents.changed(directory, log=log)]
    return [f"{file}: {'changed since it came' if file.exists() else 'missing'}" for file in wrong]


def put_directory_in_place(unfinished: Path, target: Path) -> None:
    """A whole directory takes the place of an older or damaged one. Errors: OSError."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(unfinished, target)
    sync_directory(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _entries(stored: Mapping[str, Any]) -> dict[str, Entry]:
    entries = {
        name: Entry(int(entry["size"]), str(entry["sha256"])) for name, entry in stored.items()
    }
    if not all(map(is_plain_name, entries)):
        raise ValueError("names a file of another directory")
    return entries
