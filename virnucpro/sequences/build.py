"""Files -> `frames.arrow` and `records.arrow` in a directory, streaming.

Knows the order of work; memory does not grow with the input, eight bytes a record (names) apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from virnucpro.sequences.frame_columns import (
    FRAME_SCHEMA,
    RECORD_SCHEMA,
    FrameRules,
    blocks,
    frame_batch,
    record_row,
)
from virnucpro.sequences.names import NameBook
from virnucpro.sequences.reader import InputFile, UnreadableInput, read_records
from virnucpro.sequences.tokens import Tokenizers

FRAMES, RECORDS = "frames.arrow", "records.arrow"
_FLUSH = 1 << 15  # rows of records written at once


def build(
    directory: Path, paths: Sequence[Path], rules: FrameRules, tokenizers: Tokenizers
) -> dict:
    """Write both tables; returns n_frames, n_records, records_per_input and `unreadable` ([input,
    reason]).

    Errors: OSError of the disk that is written to.
    """
    rows = _RecordRows(directory / RECORDS)
    unreadable: list[tuple[int, str]] = []
    per_input = [0] * len(paths)
    n_frames = 0

    def sequences() -> Iterator[tuple[int, bytes]]:
        for i, path in enumerate(paths):
            try:
                for record in read_records(InputFile(path, path.name, path.name)):
                    row = record_row(i, record, rules)
                    number = rows.add(row)
                    per_input[i] += 1
                    yield number, b"" if row["problem"] or row["skipped"] else record.sequence
            except UnreadableInput as error:
                unreadable.append((i, str(error)))

    with rows, _Stream(directory / FRAMES, FRAME_SCHEMA) as frames:
        for block in blocks(sequences(), rules.chunk_length, rules.stride):
            batch = frame_batch(block, rules.frame_policy, tokenizers)
            if len(batch):
                frames.write(batch)
                rows.count_frames(np.asarray(batch["record"]))
            n_frames += len(batch)
            rows.flush(before=block.complete)
    rows.finish()
    return {
        "n_frames": n_frames,
        "n_records": rows.total,
        "records_per_input": per_input,
        "unreadable": unreadable,
    }


class _Stream:
    """An Arrow IPC stream on disk, synced when it is closed."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.schema = schema
        self.file = open(path, "wb", buffering=1 << 20)  # noqa: SIM115 (closed in __exit__)
        self.writer = pa.ipc.new_stream(self.file, schema)

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


class _RecordRows:
    """The table of records while it grows: rows wait until their frames are counted; names are made
    unique at the end.
    """

    def __init__(self, path: Path):
        self.path, self.draft = path, path.with_suffix(".draft")
        self.names = NameBook()
        self.waiting: list[dict] = []
        self.total = 0
        self.stream: _Stream

    def __enter__(self) -> _RecordRows:
        self.stream = _Stream(self.draft, RECORD_SCHEMA)
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
        self.stream.write(pa.RecordBatch.from_pylist(self.waiting[:n], schema=RECORD_SCHEMA))
        del self.waiting[:n]

    def finish(self) -> None:
        """The draft, with the later ones of equal names numbered, becomes the table."""
        if not self.names.any_repeated:
            os.rename(self.draft, self.path)
            return
        with pa.OSFile(str(self.draft)) as source, _Stream(self.path, RECORD_SCHEMA) as out:
            for batch in pa.ipc.open_stream(source):
                out.write(_renamed(batch, self.names))
        os.unlink(self.draft)


def _renamed(batch: pa.RecordBatch, names: NameBook) -> pa.RecordBatch:
    old = batch["original_name"].to_pylist()
    new = list(names.resolve(old))
    if new == old:
        return batch
    notes = [
        ";".join(filter(None, (note, f"renamed_from={a}" if a != b else "")))
        for note, a, b in zip(batch["notes"].to_pylist(), old, new, strict=True)
    ]
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns |= {"name": pa.array(new, pa.string()), "notes": pa.array(notes, pa.string())}
    return pa.RecordBatch.from_arrays(
        [columns[name] for name in RECORD_SCHEMA.names], schema=RECORD_SCHEMA
    )
