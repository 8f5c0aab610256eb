"""How long calls, tables and the report take for a million sequences, and how much memory.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/tables.py [SEQUENCES]

The scores are random numbers: only time and memory are measured here. The input is written to a
temporary directory and read again for `virus.fna`, as in a run.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from virnucpro.calling.answers import assemble, frame_columns
from virnucpro.calling.calibration import Calibration
from virnucpro.calling.consensus import CallRules
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import ModelRecord, RunRecord
from virnucpro.reporting.write import write_results
from virnucpro.sequences.chunks import all_spans, n_chunks


@contextmanager
def timed(what: str):
    """Print the seconds of a block, and the peak of memory."""
    start = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what:<40} {time.perf_counter() - start:7.1f} s   peak {peak:.2f} GiB", flush=True)


class LoudClock:
    """Says what each stage took as soon as it ends."""

    stage = staticmethod(timed)

    def seconds(self) -> dict[str, float]:
        """Nothing is kept."""
        return {}


def made_up(n: int, folder: Path) -> tuple[Path, pa.Table, pa.Table, np.ndarray]:
    """A FASTA file of `n` sequences of 3 chunks on average, its record and frame tables, and
    scores.
    """
    rng = np.random.default_rng(0)
    lengths = np.minimum(300 + rng.exponential(900, n), 100_000).astype(np.int64)
    letters = rng.choice(np.frombuffer(b"ACGT", np.uint8), 1 << 20).tobytes()
    path = folder / "input.fna"
    with open(path, "wb") as file:
        for i, length in enumerate(lengths.tolist()):
            start = (i * 7919) % ((1 << 20) - 100_000)
            file.write(
                b">NODE_%d_length_%d_cov_12.3456\n%s\n"
                % (i, length, letters[start : start + length])
            )
    records = pa.table(
        {
            "input": np.zeros(n, np.int32),
            "name": [f"NODE_{i}_length_{length}_cov_12.3456" for i, length in enumerate(lengths)],
            "length": lengths,
            "gc": rng.random(n),
            "n_chunks": n_chunks(lengths, 500).astype(np.int32),
            "n_ambiguous": np.zeros(n, np.int64),
            "notes": np.where(rng.random(n) < 0.02, "ambiguous_bases", ""),
            "problem": np.full(n, ""),
            "skipped": np.zeros(n, bool),
        }
    )
    spans = all_spans(lengths, 500)
    open_frames = np.minimum(rng.poisson(1.3, len(spans.chunk)), 6)
    chunk = np.repeat(np.arange(len(spans.chunk)), open_frames)
    first = np.cumsum(open_frames) - open_frames
    frames = pa.table(
        {
            "record": spans.sequence[chunk],
            "chunk": spans.chunk[chunk].astype(np.int32),
            "frame": (np.arange(len(chunk)) - first[chunk]).astype(np.int8),
            "start": spans.start[chunk] + 1,
            "end": spans.end[chunk],
            "aa_length": ((spans.end - spans.start)[chunk] // 3).astype(np.int32),
        }
    )
    level = np.repeat(rng.random(n) < 0.3, np.bincount(spans.sequence, minlength=n))[chunk]
    virus = 1 / (1 + np.exp(-rng.normal(np.where(level, 3, -3), 3))).astype(np.float32)
    return path, records, frames, np.column_stack([1 - virus, virus]).astype(np.float32)


def main(n: int) -> None:
    """Print what the tables of `n` sequences take."""
    with tempfile.TemporaryDirectory() as folder:
        path, records, frames, scores = made_up(n, Path(folder))
        print(f"{n:,} sequences, {len(frames):,} frames, input {path.stat().st_size / 1e6:.0f} MB")
        calibration = Calibration(("intercept", "logit_score", "log_length"), (-0.5, 1.2, 0.3))
        outputs = Outputs(Path(folder) / "out", ("input",))
        outputs.prepare()
        inputs = [{"path": path, "source": path.name, "stem": "input"}]
        with timed("everything"):
            with timed("calls"):
                failed = np.zeros(len(frames), bool)
                answers = assemble(
                    inputs,
                    records,
                    frame_columns(frames, scores, failed),
                    CallRules(500),
                    "mini",
                    calibration,
                )
            print(
                f"{len(answers.chunks):,} chunks, {len(answers.regions):,} regions,"
                f" {int((answers.sequences.call == 0).sum()):,} virus"
            )
            record = RunRecord(
                identity={},
                call={},
                model=ModelRecord("mini", 500, "open"),
                inputs=(),
                failures=(),
                features="none",
                exit_code=0,
                retry=0,
            )
            write_results(outputs, answers, record, LoudClock())
        for name, _ in outputs.tree(existing_only=True):
            print(f"{name:<60} {(outputs.directory / name).stat().st_size / 1e6:9.2f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
