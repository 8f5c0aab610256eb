"""Files -> `frames.arrow` and `records.arrow` in a directory, streaming.

Knows the order of work; memory does not grow with the input, eight bytes a record (names) apart.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from virnucpro.errors import StoreError
from virnucpro.sequences.frame_columns import (
    RECORD_SCHEMA,
    SHARD_SCHEMA,
    FrameRules,
    blocks,
    frame_batch,
    frame_schema,
    record_row,
)
from virnucpro.sequences.mates import NOTES, Fragments, InputReads, mate_names
from virnucpro.sequences.reader import Record, RecordReader, UnreadableInput
from virnucpro.sequences.tokens import Tokenizers

FRAMES, RECORDS = "frames.arrow", "records.arrow"
_FLUSH = 1 << 15  # rows of records written at once


@dataclass
class InputReadings:
    """What reading the inputs found, a value an input: how many records, the sha256 of the bytes
    that were parsed (None where the environment failed), what was wrong without cost.
    """

    n_records: list[int] = field(default_factory=list)
    sha256: list[str | None] = field(default_factory=list)
    warnings: list[list[str]] = field(default_factory=list)
    unreadable: list[tuple[int, str]] = field(default_factory=list)  # (input, reason)
    fastq: list[bool] = field(default_factory=list)

    def read(self, path: Path) -> Iterator[Record]:
        """The records of the next input."""
        number = len(self.n_records)
        self.n_records.append(0)
        self.sha256.append(None)
        self.warnings.append([])
        self.fastq.append(False)
        passing = False
        try:
            with RecordReader(path) as reader:
                try:
                    for record in reader:
                        self.n_records[number] += 1
                        self.fastq[number] = reader.is_fastq
                        yield record
                except UnreadableInput as error:
                    self.unreadable.append((number, str(error)))
                    passing = error.passing
                self.warnings[number] = reader.warnings
                self.sha256[number] = None if passing else reader.sha256()
        except UnreadableInput as error:
            self.unreadable.append((number, str(error)))

    def reads(self) -> list[InputReads]:
        """What tells mates."""
        damaged = {number for number, _ in self.unreadable}
        return [
            InputReads(n, fastq, sha256, number not in damaged)
            for number, (n, fastq, sha256) in enumerate(
                zip(self.n_records, self.fastq, self.sha256, strict=True)
            )
        ]


def build(
    directory: Path, paths: Sequence[Path], rules: FrameRules, tokenizers: Tokenizers
) -> dict:
    """Write both tables; returns n_frames, n_records, `checksums` of both files, and what
    `InputReadings` has. Errors: OSError of the disk that is written to; StoreError without memory.
    """
    rows = _RecordRows(directory / RECORDS, SHARD_SCHEMA if rules.shard else RECORD_SCHEMA)
    found = InputReadings()
    n_frames = 0

    def sequences() -> Iterator[tuple[int, bytes]]:
        place = -1
        for i, path in enumerate(paths):
            for record in found.read(path):
                place += 1
                if not rules.takes(record.sequence):
                    continue
                row = record_row(i, record, rules) | ({"place": place} if rules.shard else {})
                number = rows.add(row)
                yield number, b"" if row["problem"] or row["skipped"] else record.sequence

    frames = _Stream(directory / FRAMES, frame_schema(tokenizers))
    try:
        with rows, frames:
            for block in blocks(sequences(), rules.chunk_length, rules.stride):
                batch = frame_batch(block, rules.frame_policy, tokenizers)
                if len(batch):
                    frames.write(batch)
                    rows.count_frames(np.asarray(batch["record"]))
                n_frames += len(batch)
                rows.flush(before=block.complete)
    except MemoryError as error:
        number = max(len(found.n_records), 1)
        raise StoreError(
            f"{paths[number - 1]}: not enough memory to translate its sequences; free some, or"
            " split the longest ones"
        ) from error
    checksum = rows.finish(found)
    return {
        "n_frames": n_frames,
        "n_records": rows.total,
        "n_records_per_input": found.n_records,
        "sha256": found.sha256,
        "warnings": found.warnings,
        "unreadable": found.unreadable,
        "fastq": found.fastq,
        "checksums": {FRAMES: frames.checksum, RECORDS: checksum},
    }


class _Stream:
    """An Arrow IPC stream on disk, synced when it is closed; `checksum` is that of what was to be
    written, so that it tells what the disk made of it.
    """

    def __init__(self, path: Path, schema: pa.Schema):
        self.schema = schema
        self.file = open(path, "wb", buffering=1 << 20)  # noqa: SIM115 (closed in __exit__)
        self._digest = xxhash.xxh3_128()
        self.writer = pa.ipc.new_stream(pa.PythonFile(_Both(self.file, self._digest), "w"), schema)

    @property
    def checksum(self) -> str:
        return self._digest.hexdigest()

    def __enter__(self) -> _Stream:
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        self.writer.write_batch(batch.cast(self.schema) if batch.schema != self.schema else batch)

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self.writer.close()
                self.file.flush()
                os.fsync(self.file.fileno())
        finally:
            self.file.close()


class _Both:
    """A file as Arrow writes it, whose bytes are also hashed."""

    closed = False

    def __init__(self, file, digest):
        self._file, self._digest = file, digest

    def write(self, data) -> int:
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self._file.tell()


class _RecordRows:
    """The table of records while it grows: rows wait until their frames are counted; names are made
    unique at the end.
    """

    def __init__(self, path: Path, schema: pa.Schema):
        self.path, self.draft, self.schema = path, path.with_suffix(".draft"), schema
        self.names, self.fragments = NameBook(), Fragments()
        self.waiting: list[dict] = []
        self.total = 0
        self.stream: _Stream

    def __enter__(self) -> _RecordRows:
        self.stream = _Stream(self.draft, self.schema)
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self._write(len(self.waiting))
        finally:
            self.stream.__exit__(kind, error, trace)

    def add(self, row: dict) -> int:
        """Append a row; returns its number."""
        self.names.add(row["name"])
        self.fragments.add(row["name"])
        self.waiting.append(row)
        self.total += 1
        return self.total - 1

    def count_frames(self, records: np.ndarray) -> None:
        first = self.total - len(self.waiting)
        for record, count in zip(*np.unique(records, return_counts=True), strict=True):
            self.waiting[record - first]["n_frames"] += int(count)

    def flush(self, before: int) -> None:
        """Write the rows whose frames are all counted: those before row `before`."""
        ready = before - (self.total - len(self.waiting))
        if ready >= _FLUSH:
            self._write(ready)

    def _write(self, n: int) -> None:
        self.stream.write(pa.RecordBatch.from_pylist(self.waiting[:n], schema=self.schema))
        del self.waiting[:n]

    def finish(self, found: InputReadings) -> str:
        """The draft, with the names of mates and the later ones of equal names numbered, becomes
        the table; its checksum. A shard's records keep their names, which are numbered over all
        shards.
        """
        is_shard = self.schema is SHARD_SCHEMA
        mates = None if is_shard else self.fragments.mates(found.reads())
        if mates is not None:
            with pa.OSFile(str(self.draft)) as source:
                self.names = book_of(pa.ipc.open_stream(source), mates)
        if is_shard or (mates is None and not self.names.any_repeated):
            os.rename(self.draft, self.path)
            return self.stream.checksum
        with pa.OSFile(str(self.draft)) as source, _Stream(self.path, RECORD_SCHEMA) as out:
            for batch in renamed(pa.ipc.open_stream(source), self.names, mates):
                out.write(batch)
        os.unlink(self.draft)
        return out.checksum


def renamed(
    batches: Iterable[pa.RecordBatch], names: NameBook, mates: np.ndarray | None
) -> Iterator[pa.RecordBatch]:
    """The records with the names that `names` resolves; mates: int8 of all records, see
    `Fragments`.
    """
    at = 0
    for batch in batches:
        old = batch["original_name"].to_pylist()
        numbers = np.zeros(len(batch), np.int8) if mates is None else mates[at : at + len(batch)]
        at += len(batch)
        new = list(names.resolve(mate_names(old, numbers)))
        if new == old and not numbers.any():
            yield batch
            continue
        said = [
            NOTES.get(number, f"renamed_from={a}" if a != b else "")
            for number, a, b in zip(numbers.tolist(), old, new, strict=True)
        ]
        notes = [
            ";".join(filter(None, both))
            for both in zip(batch["notes"].to_pylist(), said, strict=True)
        ]
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        columns |= {"name": pa.array(new, pa.string()), "notes": pa.array(notes, pa.string())}
        yield pa.RecordBatch.from_arrays(
            [columns[name] for name in RECORD_SCHEMA.names], schema=RECORD_SCHEMA
        )


def book_of(batches: Iterable[pa.RecordBatch], mates: np.ndarray | None) -> NameBook:
    """The names of all records, of the mates with their numbers."""
    book, at = NameBook(), 0
    for batch in batches:
        old = batch["original_name"].to_pylist()
        numbers = np.zeros(len(batch), np.int8) if mates is None else mates[at : at + len(batch)]
        at += len(batch)
        for name in mate_names(old, numbers):
            book.add(name)
    return book


class NameBook:
    """Unique names over a whole run, eight bytes each: first `add` every name, then `resolve` them
    in the same order; later ones of equal names get `__2`, `__3` ... (SPEC 4).
    """

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._sorted: np.ndarray | None = None
        self._repeated: frozenset[int] = frozenset()
        self._seen: dict[str, int] = {}  # repeated names only: the last number given
        self._given: set[str] = set()

    def add(self, name: str) -> None:
        """Add the next name."""
        self._hashes.append(xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass")))

    @property
    def any_repeated(self) -> bool:
        """Whether any two names added are equal; call when all have been added."""
        if self._sorted is None:
            self._sorted = (
                np.sort(np.frombuffer(self._hashes, dtype=np.uint64))
                if self._hashes
                else np.zeros(0, np.uint64)
            )
            again = self._sorted[1:][self._sorted[1:] == self._sorted[:-1]]
            self._repeated = frozenset(again.tolist())
        return bool(self._repeated)

    def resolve(self, names: Iterable[str]) -> Iterator[str]:
        """The names, the later ones of equal ones with a number that makes a name no record has."""
        if not self.any_repeated:
            yield from names
            return
        for name in names:
            if (
                xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))
                not in self._repeated
            ):
                yield name
                continue
            number = self._seen.get(name, 0) + 1
            new = name
            while number > 1 and self._taken(new := f"{name}__{number}"):
                number += 1
            self._seen[name] = number
            self._given.add(new)
            yield new

    def _taken(self, name: str) -> bool:
        assert self._sorted is not None  # any_repeated has been asked
        value = np.uint64(xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass")))
        place = int(np.searchsorted(self._sorted, value))
        return name in self._given or (place < len(self._sorted) and self._sorted[place] == value)
