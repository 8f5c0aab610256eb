"""The original's golden run as answers: real records, real frames, the original's own scores."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from virnucpro.calling.answers import Answers, assemble, frame_columns
from virnucpro.calling.consensus import CallRules
from virnucpro.sequences.chunks import chunk_spans, n_chunks
from virnucpro.sequences.compressed import sha256_on_disk
from virnucpro.sequences.inputs import find_inputs
from virnucpro.sequences.reader import read_records

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
FRAMES = ["F1", "F2", "F3", "R1", "R2", "R3"]


def record_table(paths: list[Path], chunk_length: int = 500) -> pa.Table:
    """The record table of these files, as the frame table keeps it."""
    rows = [
        (i, record) for i, file in enumerate(find_inputs(paths)) for record in read_records(file)
    ]
    lengths = np.array([len(record.sequence) for _, record in rows], np.int64)
    gc = [
        sum(map(record.sequence.count, (b"G", b"C"))) / max(len(record.sequence), 1)
        for _, record in rows
    ]
    return pa.table(
        {
            "input": pa.array([i for i, _ in rows], pa.int32()),
            "name": pa.array([record.name for _, record in rows], pa.string()),
            "length": lengths,
            "gc": pa.array(gc, pa.float64()),
            "n_chunks": n_chunks(lengths, chunk_length).astype(np.int32),
            "n_ambiguous": np.zeros(len(rows), np.int64),
            "notes": pa.array([";".join(record.notes) for _, record in rows], pa.string()),
            "problem": pa.array([record.problem for _, record in rows], pa.string()),
            "skipped": np.zeros(len(rows), bool),
        }
    )


def answers_of(path: Path, results: Path, **options) -> Answers:
    """Answers for `path` with the scores of one of the original's `prediction_results.txt`."""
    records = record_table([path])
    row_of = {name: row for row, name in enumerate(records["name"].to_pylist())}
    lengths = records["length"].to_numpy()
    with open(results, newline="") as file:
        lines = list(csv.reader(file, delimiter="\t"))[1:]
    parts = [re.fullmatch(r"(.*)_chunk_(\d+)([FR][123])", line[0]).groups() for line in lines]
    spans = [chunk_spans(int(lengths[row_of[name]]), 500)[int(k) - 1] for name, k, _ in parts]
    frames = pa.table(
        {
            "record": pa.array([row_of[name] for name, _, _ in parts], pa.int64()),
            "chunk": pa.array([int(k) for _, k, _ in parts], pa.int32()),
            "frame": pa.array([FRAMES.index(frame) for _, _, frame in parts], pa.int8()),
            "start": pa.array([int(start) + 1 for start, _ in spans], pa.int64()),
            "end": pa.array([int(end) for _, end in spans], pa.int64()),
            "aa_length": pa.array([int(end - start) // 3 for start, end in spans], pa.int32()),
        }
    )
    scores = np.array([line[2:4] for line in lines], np.float32).reshape(-1, 2)
    inputs = [
        {
            "path": file.path,
            "source": file.source,
            "stem": file.stem,
            "sha256": sha256_on_disk(file.path),
        }
        for file in find_inputs([path])
    ]
    options = {
        "rules": CallRules(500),
        "model": "mini",
    } | options
    failed = options.pop("failed", np.zeros(len(lines), bool))
    return assemble(inputs, records, frame_columns(frames, scores, failed), **options)
