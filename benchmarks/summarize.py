"""How long `summarize` takes with features as wide as ESM-2 3B's, and what it spends the time on.

    python benchmarks/summarize.py [FRAMES]

The sequences, the features and the classifier are random: only time is measured here. 1,000,000
frames take 14 GB of disk.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from virnucpro import api
from virnucpro.embedding.matrix import write_matrix
from virnucpro.embedding.store import EncoderRows, FeatureRows, FeatureStore
from virnucpro.files import sha256_of
from virnucpro.models.bundle import MINI
from virnucpro.models.encoders import read_tokenizers
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import (
    InputRecord,
    ModelRecord,
    RunRecord,
    read_record,
    write_record,
)
from virnucpro.reporting.typed import typed
from virnucpro.sequences.frame_columns import FrameRules
from virnucpro.sequences.inputs import find_inputs
from virnucpro.sequences.table import FrameTable
from virnucpro.sequences.table_cache import TablePlaces, build_or_open
from virnucpro.tools.random_models import random_classifier

CHUNK = 500
WIDTHS = (768, 2560)
HIDDEN = 512  # units of the published classifiers
DIFFERENT = 2000  # rows; the others repeat them


def made_up(frames: int, folder: Path) -> tuple[FrameTable, Outputs]:
    """A finished run of about `frames` frames (two chunks a sequence, one frame a chunk), but for
    its tables.
    """
    rng = np.random.default_rng(0)
    fasta = folder / "input.fna"
    letters = rng.choice(np.frombuffer(b"ACGT", np.uint8), 1 << 20).tobytes()
    with open(fasta, "wb") as file:
        for i in range(frames // 2):
            start = (i * 7919) % ((1 << 20) - 1000)
            file.write(b">s%d\n%s\n" % (i, letters[start : start + 1000]))
    inputs = find_inputs([fasta])
    table = build_or_open(
        inputs,
        FrameRules(CHUNK, "longest"),
        read_tokenizers({name: MINI / name for name in ("esm2", "dnabert_s")}),
        TablePlaces(folder / "cache", folder / "private"),
    )
    outputs = Outputs(folder / "out", ("input",))
    outputs.prepare()
    parts = []
    for width in WIDTHS:
        store = FeatureStore(folder / f"rows{width}", width)
        store.load()
        store.add(np.arange(DIFFERENT), rng.normal(size=(DIFFERENT, width)).astype(np.float32))
        # sorted: written from first to last
        parts.append(EncoderRows(store, np.sort(rng.integers(0, DIFFERENT, len(table)))))
    write_matrix(outputs.features, table.frame_ids(), FeatureRows(parts), {})
    random_classifier(sum(WIDTHS), HIDDEN).save(folder / "classifier.safetensors")
    classifier = folder / "classifier.safetensors"
    model = ModelRecord(
        "random",
        CHUNK,
        "longest",
        sha256={"classifier": sha256_of(classifier)},
        classifier=str(classifier),
        directories={name: str(MINI / name) for name in ("esm2", "dnabert_s")},
    )
    record = RunRecord(
        identity={"--min-length": "0", "--stride": "0", "frames": table.fingerprint},
        call={},
        model=model,
        inputs=tuple(typed(InputRecord, entry, "inputs") for entry in table.inputs),
        failures=(),
        features="float32",
        exit_code=0,
        retry=0,
        seconds={"total": 1.0},
    )
    write_record(outputs, record)
    return table, outputs


def main(frames: int) -> None:
    """Print what `summarize` of so many frames takes."""
    with tempfile.TemporaryDirectory() as folder:
        table, outputs = made_up(frames, Path(folder))
        size = outputs.features.stat().st_size / 1e9
        print(
            f"{len(table):,} frames of {len(table.records):,} sequences, features {size:.1f} GB",
            flush=True,
        )
        for what, options in (
            ("another classifier", {"classifier": Path(folder) / "classifier.safetensors"}),
            ("other thresholds", {}),
        ):
            start, cpu = time.perf_counter(), time.process_time()
            api.summarize(
                outputs.directory, min_score=0.7, cache_dir=Path(folder) / "cache", **options
            )
            print(
                f"{what}: {time.perf_counter() - start:.1f} s, {time.process_time() - cpu:.1f} s of"
                " one core"
            )
            record = read_record(outputs.run_json)
            print(dict(record.seconds) if record else "no run.json", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
