"""How long joining the shards of an array job takes, and how much memory, for any number of frames.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/shards.py [FRAMES] [SHARDS]

The shards are made up: their tables have the columns and sizes of real ones, the scores are random.
What `merge` does after this, calls and tables, is what `tables.py` measures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from tables import timed

from virnucpro.reporting.record import ModelRecord, RunRecord
from virnucpro.run.shards import Shard, join_shards
from virnucpro.sequences.frame_columns import SHARD_SCHEMA

FRAMES_OF_A_RECORD = 4
RULES = {"chunk_length": 500, "frame_policy": "open", "min_length": 0, "stride": 0}


def made_up(number: int, of: int, frames: int) -> Shard:
    """The shard `number` (from 0) of `of`, with about `frames` frames."""
    n, rng = frames // FRAMES_OF_A_RECORD, np.random.default_rng(number)
    names = [f"NODE_{i}_length_1000_cov_12.3" for i in range(number, n * of, of)]
    columns = {
        "input": np.zeros(n, np.int32),
        "name": names,
        "original_name": names,
        "length": np.full(n, 1000),
        "gc": rng.random(n),
        "n_chunks": np.full(n, 2, np.int32),
        "n_frames": np.full(n, FRAMES_OF_A_RECORD, np.int32),
        "n_ambiguous": np.zeros(n, np.int64),
        "notes": [""] * n,
        "problem": [""] * n,
        "skipped": np.zeros(n, bool),
        "place": np.arange(number, n * of, of),
    }
    record = np.repeat(np.arange(n), FRAMES_OF_A_RECORD)
    rows = len(record)
    scores = rng.random(rows, dtype=np.float32)
    table = pa.table(
        {
            "record": record,
            "chunk": np.tile(np.array([1, 1, 2, 2], np.int32), n),
            "frame": np.tile(np.array([0, 3, 0, 3], np.int8), n),
            "start": np.tile(np.array([1, 1, 501, 501]), n),
            "end": np.tile(np.array([499, 499, 999, 999]), n),
            "aa_length": np.full(rows, 166, np.int32),
            "others": 1 - scores,
            "virus": scores,
            "reason": pa.nulls(rows, pa.string()),
        }
    )
    entry = {"n_records": n * of, "path": "a.fna", "source": "a.fna", "stem": "a"}
    about = {
        "inputs": [{**entry, "sha256": "0", "fastq": False}],
        "unreadable": [],
        "warnings": [[]],
        "rules": RULES,
    }
    model = ModelRecord("made up", 500, "open")
    run = RunRecord({"frames": "0"}, {}, model, (), (), "none", 0, 0)
    return Shard(Path(), run, table, pa.table(columns, schema=SHARD_SCHEMA), about)


def main(frames: int, of: int) -> None:
    """Print what joining takes."""
    with timed("making shards up"):
        shards = [made_up(number, of, frames // of) for number in range(of)]
    with timed(f"joining {frames:,} frames of {of} shards"):
        join_shards(shards)


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000,
        int(sys.argv[2]) if len(sys.argv) > 2 else 8,
    )
