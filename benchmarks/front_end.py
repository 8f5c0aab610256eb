"""Frames a second on one core, from a FASTA file to the Arrow table; each step, the whole, and the
original's way beside it.

    python benchmarks/front_end.py [--frames 100000] [--input FILE] [--chunk-length 500]
    [--reference 2000]

Without `--input` the data are 500-base reads cut from random open reading frames (no stop in frame
F1), so that a good share of frames is open. Real genomes have fewer open frames a chunk, so that
reading and translating weigh more in each. Times are CPU seconds of this process, which runs on one
thread; the memory is its peak. `--frames 1000000` is the memory test. The original's way is a plain
loop: Biopython translates each of six frames of a chunk, then Hugging Face tokenizers take one
sequence at a time.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from virnucpro.models.encoders import read_tokenizers
from virnucpro.sequences import frame_columns
from virnucpro.sequences.chunks import all_spans, chunk_spans
from virnucpro.sequences.frame_columns import FrameRules
from virnucpro.sequences.frames import open_frames
from virnucpro.sequences.inputs import find_inputs
from virnucpro.sequences.reader import read_records
from virnucpro.sequences.table_cache import TablePlaces, build_or_open
from virnucpro.sequences.tokens import BpeTokenizer, Tokenizers

SENSE = [
    a + b + c
    for a in "ACGT"
    for b in "ACGT"
    for c in "ACGT"
    if a + b + c not in ("TAA", "TAG", "TGA")
]
#: GC-rich codons are drawn more often, as in many phages: then other frames are open too
WEIGHTS = np.array([4.0 ** sum(base in "GC" for base in codon) for codon in SENSE])
READS = 10_000


def write_reads(path: Path, frames: int, chunk: int) -> int:
    """A FASTA file with at least `frames` open frames; returns how many it has."""
    rng, codons, done, n = np.random.default_rng(1), np.array(SENSE, dtype="S3"), 0, 0
    spans = all_spans(np.full(READS, chunk), chunk)
    starts = np.arange(READS) * chunk
    with open(path, "wb") as file:
        while done < frames:
            drawn = codons[
                rng.choice(len(SENSE), (READS, -(-chunk // 3)), p=WEIGHTS / WEIGHTS.sum())
            ]
            reads = drawn.view("S1").reshape(READS, -1)[:, :chunk]
            rows = [row.tobytes() for row in reads]
            file.write(b"".join(b">read_%d\n%s\n" % (n + i, row) for i, row in enumerate(rows)))
            done += len(open_frames(b"".join(rows), starts, starts + (spans.end - spans.start)))
            n += READS
    return done


def timed(function: Callable):
    """What the function returns, and its seconds of CPU."""
    begin = time.process_time()
    value = function()
    return value, time.process_time() - begin


def by_the_original(
    path: Path, chunk: int, dna: BpeTokenizer, esm2_dir: Path, chunks: int
) -> tuple[int, float]:
    """(frames, seconds) of a plain loop over the first `chunks` chunks."""
    from Bio.Seq import Seq
    from transformers import EsmTokenizer

    esm2 = EsmTokenizer.from_pretrained(esm2_dir)
    begin, frames = time.process_time(), 0
    for record in read_records(find_inputs([path])[0]):
        for start, end in chunk_spans(len(record.sequence), chunk)[:chunks].tolist():
            piece = Seq(record.sequence[start:end])
            for strand in (piece, piece.reverse_complement()):
                for f in range(3):
                    protein = str(strand[f : f + 3 * ((len(strand) - f) // 3)].translate())
                    if protein and "*" not in protein:
                        esm2(protein)["input_ids"]
                        dna.library.encode(str(strand[f : f + 3 * len(protein) + 1])).ids  # noqa: B018
                        frames += 1
            chunks -= 1
        if chunks <= 0:
            break
    return frames, time.process_time() - begin


def steps(path: Path, tokenizers: Tokenizers, chunk: int) -> None:
    """Each step alone, on what the step before gave."""
    records, seconds = timed(
        lambda: list(enumerate(r.sequence for r in read_records(find_inputs([path])[0])))
    )
    rows = [("read", seconds)]
    blocks, seconds = timed(lambda: list(frame_columns.blocks(records, chunk)))
    rows.append(("chunks", seconds))
    frames, seconds = timed(lambda: [open_frames(b.bases, b.start, b.end) for b in blocks])
    rows.append(("six frames", seconds))
    _, seconds = timed(lambda: [tokenizers["esm2"](f.proteins) for f in frames])
    rows.append(("ESM-2 ids", seconds))
    _, seconds = timed(lambda: [tokenizers["dnabert_s"](f.nucleotides) for f in frames])
    rows.append(("DNABERT-S ids", seconds))
    n = sum(map(len, frames))
    for name, seconds in rows:
        print(f"{name:<28}{n / seconds:>12,.0f} frames/s{1e6 * seconds / n:>10.2f} us/frame")


def main() -> None:
    """Print the rates of both programs."""
    golden = Path(__file__).parents[1] / "tests" / "data" / "golden"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--input", type=Path, help="a sequence file in place of generated reads")
    parser.add_argument("--chunk-length", type=int, default=500)
    parser.add_argument(
        "--reference", type=int, default=2_000, help="chunks for the original's way"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=50_000,
        help="generated frames on which the steps alone are timed",
    )
    parser.add_argument("--esm-model", type=Path, default=golden / "esm2")
    parser.add_argument("--dna-model", type=Path, default=golden / "dnabert_s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        reads, few = Path(directory) / "reads.fa", Path(directory) / "few.fa"
        if arguments.input:
            reads = few = arguments.input
        else:
            write_reads(reads, arguments.frames, arguments.chunk_length)
            write_reads(few, arguments.steps, arguments.chunk_length)
        tokenizers, seconds = timed(
            lambda: read_tokenizers({"esm2": arguments.esm_model, "dnabert_s": arguments.dna_model})
        )
        dna = BpeTokenizer(arguments.dna_model)
        way, more = timed(lambda: dna.way)
        print(f"{way}; made in {seconds + more:.2f} s")
        rules = FrameRules(arguments.chunk_length)
        places = TablePlaces(directory, Path(directory))
        table, seconds = timed(
            lambda: build_or_open(find_inputs([reads]), rules, tokenizers, places)
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        n = len(table)
        print(
            f"{'file to Arrow table, whole':<28}{n / seconds:>12,.0f}"
            f" frames/s{1e6 * seconds / n:>10.2f} us/frame, {n:,} open frames of"
            f" {len(table.records):,} sequences, peak memory {peak:.2f} GiB"
        )
        _, seconds = timed(lambda: build_or_open(find_inputs([reads]), rules, tokenizers, places))
        print(f"{'the same again, reused':<28}{seconds:>12.2f} s")
        steps(few, tokenizers, arguments.chunk_length)
        frames, seconds = by_the_original(
            reads, arguments.chunk_length, dna, arguments.esm_model, arguments.reference
        )
        print(
            f"{'the original, without files':<28}{frames / seconds:>12,.0f}"
            f" frames/s{1e6 * seconds / frames:>10.2f} us/frame"
        )


if __name__ == "__main__":
    main()
