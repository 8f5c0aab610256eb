"""Inputs -> the table of all tokenized frames: a `datasets` Arrow cache, built once and
memory-mapped by every process.

Knows a table's fingerprint (input bytes, rules, tokenizers, format; no paths, no weights), and how
to tell a whole table from a damaged one. `manifest.json` is written last; a table without a
matching one is built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnucpro.errors import Failure, StoreError, one_line
from virnucpro.files import check_length
from virnucpro.sequences import compressed
from virnucpro.sequences.build import FRAMES, RECORDS, build
from virnucpro.sequences.frame_columns import FrameRules
from virnucpro.sequences.frames import (
    FRAME_NAMES,
    LEAST_OF_THE_LONGEST,
    MOST_OF_A_CHUNK,
    MOST_OF_A_SEQUENCE,
)
from virnucpro.sequences.reader import InputFile
from virnucpro.sequences.table_cache import cache_root, locked
from virnucpro.sequences.tokens import Tokenizers
from virnucpro.settings import STRETCHES

if TYPE_CHECKING:
    import datasets

FORMAT = 1  # raise it when the columns or their meaning change
MANIFEST = "manifest.json"

__all__ = [
    "FrameIds",
    "FrameRules",
    "FrameTable",
    "build_ahead",
    "build_or_open",
    "fingerprint_of",
    "open_existing",
]


@dataclass(frozen=True)
class FrameTable:
    """All frames and records of a run, memory-mapped. `len(table)` is the number of frames."""

    directory: Path
    fingerprint: str
    frames: datasets.Dataset
    records: pa.Table
    inputs: tuple[dict, ...]  # path, source, stem, sha256 (None: unreadable), n_records
    failures: tuple[Failure, ...]
    reused: bool
    rules: FrameRules
    sizes: dict[str, int]  # file -> bytes

    def __len__(self) -> int:
        return len(self.frames)

    def check(self) -> None:
        """Raise StoreError where the mapped files are no longer as long as they were: to be called
        before reading from them.
        """
        for name, size in self.sizes.items():
            check_length(self.directory / name, size)

    def frame_ids(self, start: int = 0, stop: int | None = None) -> list[str]:
        """`{name}_chunk_{k}{F|R}{1|2|3}` of the frames start..stop (SPEC 2); of those of windows
        `{name}_window_{k}...`.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        if start >= stop:
            return []
        self.check()
        rows = self.frames.data.table.slice(start, stop - start)
        record = rows["record"].to_numpy()
        first, final = int(record.min()), int(record.max())
        names = (
            self.records["name"]
            .slice(first, final - first + 1)
            .take(pa.array(record - first))
            .to_pylist()
        )
        chunks, frames = rows["chunk"].to_pylist(), rows["frame"].to_pylist()
        own = (
            self.records["n_chunks"].take(rows["record"]).to_pylist()
            if self.rules.stride
            else chunks
        )
        return [
            (
                f"{n}_chunk_{c}{FRAME_NAMES[f]}"
                if c <= last
                else f"{n}_window_{c - last}{FRAME_NAMES[f]}"
            )
            for n, c, f, last in zip(names, chunks, frames, own, strict=True)
        ]


@dataclass(frozen=True)
class FrameIds:
    """The ids of the frames `rows` (int64, ascending) of a table, made as slices of them are asked
    for.
    """

    table: FrameTable
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> list[str]:
        rows = self.rows[part]
        if len(rows) == 0:
            return []
        first = int(rows[0])
        ids = self.table.frame_ids(first, int(rows[-1]) + 1)
        return ids if len(ids) == len(rows) else [ids[row - first] for row in rows.tolist()]


def build_or_open(
    inputs: Sequence[InputFile],
    rules: FrameRules,
    tokenizers: Tokenizers,
    cache_dir: Path | str | None = None,
    log: Callable[[str], object] = lambda line: None,
    builder: str | None = None,
) -> FrameTable:
    """The table of these inputs: the one in the cache, or a new one. Only one process builds;
    others wait for it.

    builder: what this run's `build_ahead` was called with; the table which that built is not a
    reused one. Files that cannot be read and records with letters that are no nucleotides are in
    `failures`; nothing else of them is lost. Errors: StoreError when the cache cannot be written
    (its disk is full, say); no half-written file is left.
    """
    import datasets  # noqa: F401 (while another process may be building)

    directory, states, hashes = _asked_for(inputs, rules, tokenizers, cache_dir)
    with locked(directory):
        if directory.exists():
            try:
                table = _open(directory, inputs, hashes, builder)
            except StoreError as error:
                log(f"frames: the cached table is damaged and is built again ({error})")
                shutil.rmtree(directory)
            else:
                what = f"frames: reused {len(table):,} tokenized frames from {directory}"
                log(what if table.reused else _built(len(table), len(table.records), directory))
                return table
        manifest = _build_beside(directory, inputs, hashes, states, rules, tokenizers)
    log(_built(manifest["n_frames"], manifest["n_records"], directory))
    return replace(_open(directory, inputs, hashes), reused=False)


def build_ahead(
    inputs: Sequence[InputFile],
    rules: FrameRules,
    tokenizers: Tokenizers,
    cache_dir: Path | str | None,
    builder: str,
) -> None:
    """Build the table that `build_or_open` will ask for, where there is none, not even a damaged
    one. Errors: as there.
    """
    directory, states, hashes = _asked_for(inputs, rules, tokenizers, cache_dir)
    with locked(directory):
        if not directory.exists():
            _build_beside(directory, inputs, hashes, states, rules, tokenizers, builder)


def _asked_for(
    inputs: Sequence[InputFile],
    rules: FrameRules,
    tokenizers: Tokenizers,
    cache_dir: Path | str | None,
):
    """The directory of the table of these inputs, and each input's state and sha256."""
    states, hashes = (
        [_state(file.path) for file in inputs],
        [_sha256_or_none(file.path) for file in inputs],
    )
    return cache_root(cache_dir) / fingerprint_of(hashes, rules, tokenizers), states, hashes


def open_existing(fingerprint: str, cache_dir: Path | str | None = None) -> FrameTable:
    """The table that another process has built.

    Errors: StoreError when it is missing or damaged.
    """
    return _open(cache_root(cache_dir) / fingerprint, None, None)


def fingerprint_of(hashes: Sequence[str | None], rules: FrameRules, tokenizers: Tokenizers) -> str:
    """Hex sha256 over all that decides the table's content."""
    identity = {
        "format": FORMAT,
        "inputs": list(hashes),
        "rules": asdict(rules),
        "tokenizers": tokenizers.identity,
    }
    if rules.frame_policy == STRETCHES:
        identity["stretches"] = [MOST_OF_A_SEQUENCE, MOST_OF_A_CHUNK, *LEAST_OF_THE_LONGEST]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _sha256_or_none(path: Path) -> str | None:
    try:
        return compressed.sha256_of(path)
    except OSError:
        return None


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of change, by which a file that changes while it is read is noticed."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _build_beside(
    directory: Path,
    inputs,
    hashes,
    states,
    rules: FrameRules,
    tokenizers: Tokenizers,
    builder: str | None = None,
) -> dict:
    """Build in a directory beside, then rename it. The lock is held, so what lies there is a dead
    builder's; not another user's, which could not be removed.
    """
    beside = directory.with_name(f"{directory.name}.{os.getuid()}.building")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        contents = build(beside, [file.path for file in inputs], rules, tokenizers)
        changed = [
            str(f.path) for f, state in zip(inputs, states, strict=True) if _state(f.path) != state
        ]
        if changed:
            raise StoreError(
                f"{changed[0]}: the file changed while it was read; start again when it is complete"
            )
        manifest = {
            "format": FORMAT,
            "rules": asdict(rules),
            "builder": builder,
            **contents,
            "inputs": [
                {"path": _shown(f), "source": f.source, "stem": f.stem, "sha256": h, "n_records": n}
                for f, h, n in zip(inputs, hashes, contents["records_per_input"], strict=True)
            ],
            "sizes": {name: (beside / name).stat().st_size for name in (FRAMES, RECORDS)},
        }
        _write_synced(beside / MANIFEST, json.dumps(manifest, indent=1))
        os.rename(beside, directory)
        return manifest
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _open(
    directory: Path, inputs: Sequence[InputFile] | None, hashes, builder: str | None = None
) -> FrameTable:
    import datasets

    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        for name, size in manifest["sizes"].items():
            if (directory / name).stat().st_size != size:
                raise StoreError(f"{directory / name}: is not as long as when it was written")
        # with a fingerprint of our own: to make one, `datasets` asks for classes of transformers,
        # which a thread may just be importing
        frames = datasets.Dataset(
            datasets.table.MemoryMappedTable.from_file(str(directory / FRAMES)),
            fingerprint=directory.name,
        )
        records = pa.ipc.open_stream(pa.memory_map(str(directory / RECORDS))).read_all()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise StoreError(
            f"{directory}: no whole table of frames ({one_line(error)}); run predict again"
        ) from error
    if manifest["format"] != FORMAT or (len(frames), len(records)) != (
        manifest["n_frames"],
        manifest["n_records"],
    ):
        raise StoreError(
            f"{directory}: the table of frames is not the one its manifest describes; run predict"
            " again"
        )
    described = (
        manifest["inputs"]
        if inputs is None
        else [
            {"path": _shown(f), "source": f.source, "stem": f.stem, "sha256": h, "n_records": n}
            for f, h, n in zip(inputs, hashes, manifest["records_per_input"], strict=True)
        ]
    )
    failures = _failures(described, records, dict(manifest["unreadable"]))
    reused = builder is None or manifest.get("builder") != builder
    return FrameTable(
        directory,
        directory.name,
        frames,
        records,
        tuple(described),
        failures,
        reused,
        FrameRules(**manifest["rules"]),
        manifest["sizes"],
    )


def _failures(
    inputs: list[dict], records: pa.Table, unreadable: dict[int, str]
) -> tuple[Failure, ...]:
    """In input order: each file's bad records, then what went wrong with the file itself."""
    bad = (
        records.filter(pc.not_equal(records["problem"], ""))
        .select(["input", "name", "problem"])
        .to_pylist()
    )
    found = [(row["input"], 0, f"record {row['name']}: {row['problem']}") for row in bad]
    found += [(i, 1, reason) for i, reason in unreadable.items()]
    return tuple(
        Failure(inputs[i]["path"], "read", reason)
        for i, _, reason in sorted(found, key=lambda f: f[:2])
    )


def _shown(file: InputFile) -> str:
    return "stdin" if file.source == "stdin" else str(file.path)


def _write_synced(path: Path, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _built(frames: int, records: int, directory: Path) -> str:
    return f"frames: built {frames:,} tokenized frames of {records:,} sequences in {directory}"
