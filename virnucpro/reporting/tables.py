"""The tables of the output directory: which columns they have and how they are written, a slice of
rows at a time.

Knows SPEC 4's columns; the rules behind the numbers are in `calling`, the digits in `text`, the
paths in `outputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from virnucpro.calling.answers import Answers
from virnucpro.calling.columns import CALL_WORDS, ChunkStatus, Note
from virnucpro.calling.consensus import best_first
from virnucpro.reporting.outputs import Outputs, writing
from virnucpro.reporting.text import TEXT, constant, join, write_lines, write_table

SLICE = 200_000  # rows held as text at once
FRAME_LABELS = pa.array(["F1", "F2", "F3", "R1", "R2", "R3"], TEXT)
STATUS_WORDS = pa.array([status.name for status in ChunkStatus], TEXT)
Columns = dict[str, pa.Array]


def write_tables(outputs: Outputs, answers: Answers) -> None:
    """All tables but the FASTA files: the new ones, and the original's two for every input file."""
    outputs.discard_stale()
    _write(outputs.contigs, contig_columns, len(answers.records), answers)
    _write(outputs.chunks, chunk_columns, len(answers.chunks), answers)
    _write(outputs.frames, frame_columns, len(answers.frames), answers)
    _write(outputs.regions, region_columns, len(answers.regions), answers)
    best = best_first(answers.sequences, answers.records)
    _write(
        outputs.virus_summary, lambda a, rows: summary_columns(a, best[rows]), len(best), answers
    )
    write_bed(outputs.regions_bed, answers)


def _write(
    path: Path,
    columns: Callable[[Answers, NDArray[np.int64]], Columns],
    n_rows: int,
    answers: Answers,
) -> None:
    """One table, as text or Parquet by its suffix; an empty one still has its columns."""

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, n_rows, SLICE):
            yield pa.RecordBatch.from_pydict(
                columns(answers, np.arange(start, min(start + SLICE, n_rows)))
            )

    schema = pa.RecordBatch.from_pydict(columns(answers, np.arange(0))).schema
    with writing(path) as stream:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
                for batch in batches():
                    writer.write_batch(batch)
        else:
            write_table(stream, schema.names, batches())


def contig_columns(answers: Answers, rows: NDArray[np.int64]) -> Columns:
    """`contigs.tsv`: the sequences at `rows` of the input order."""
    records, sequences = answers.records, answers.sequences
    sources = pa.array([source.source for source in answers.inputs], TEXT)
    return {
        "seq_name": answers.names.take(pa.array(rows)),
        "source": sources.take(pa.array(records.input[rows])),
        "length": pa.array(records.length[rows]),
        "gc": _nullable(records.gc[rows]),
        "n_chunks": pa.array(records.n_chunks[rows]),
        "n_scored": pa.array(sequences.n_scored[rows]),
        "scored_fraction": _nullable(sequences.scored_fraction[rows]),
        "virus_score": _nullable(sequences.virus_score[rows]),
        "virus_probability": _nullable(sequences.virus_probability[rows]),
        "max_chunk_score": _nullable(sequences.max_chunk_score[rows]),
        "n_virus_chunks": pa.array(sequences.n_virus_chunks[rows]),
        "call": pa.array(CALL_WORDS, TEXT).take(pa.array(sequences.call[rows])),
        "fdr": _nullable(sequences.fdr[rows]),
        "note": notes(answers, rows),
    }


def summary_columns(answers: Answers, rows: NDArray[np.int64]) -> Columns:
    """`virus_summary.tsv`: the columns of `contigs.tsv` with the model in place of the call."""
    columns = contig_columns(answers, rows)
    columns.pop("call")
    return {**columns, "model": pa.array([answers.model_label] * len(rows), TEXT)}


def chunk_columns(answers: Answers, rows: NDArray[np.int64]) -> Columns:
    """`chunks.tsv`: the chunks at `rows`, scored or not."""
    chunks = answers.chunks
    missing = ~chunks.scored[rows]
    return {
        "seq_name": answers.names.take(pa.array(chunks.record[rows])),
        "chunk": pa.array(chunks.chunk[rows]),
        "start": pa.array(chunks.start[rows]),
        "end": pa.array(chunks.end[rows]),
        "n_open_frames": pa.array(chunks.n_open_frames[rows]),
        "max_others": _nullable(chunks.max_others[rows]),
        "max_virus": _nullable(chunks.max_virus[rows]),
        "virus_score": _nullable(chunks.virus_score[rows]),
        "is_virus": pa.array(chunks.is_virus[rows], mask=missing),
        "status": STATUS_WORDS.take(pa.array(chunks.status[rows])),
    }


def frame_columns(answers: Answers, rows: NDArray[np.int64]) -> Columns:
    """`frames.tsv`: the frames at `rows`, those without an embedding with NA for scores."""
    frames = answers.frames
    names = answers.names.take(pa.array(frames.record[rows]))
    reverse = frames.frame[rows] > 2
    return {
        "frame_id": frame_ids(answers, rows),
        "seq_name": names,
        "chunk": pa.array(frames.chunk[rows]),
        "strand": pc.if_else(pa.array(reverse), constant("-"), constant("+")),
        "frame": pa.array(frames.frame[rows] % 3 + 1),
        "start": pa.array(frames.start[rows]),
        "end": pa.array(frames.end[rows]),
        "aa_length": pa.array(frames.aa_length[rows]),
        "others_score": _nullable(frames.others[rows]),
        "virus_score": _nullable(frames.virus[rows]),
        "prediction": frame_labels(answers, rows),
    }


def region_columns(answers: Answers, rows: NDArray[np.int64]) -> Columns:
    """`regions.tsv`: the virus-like regions at `rows`."""
    regions, sequences = answers.regions, answers.sequences
    record = regions.record[rows]
    sources = pa.array([source.source for source in answers.inputs], TEXT)
    return {
        "seq_name": answers.names.take(pa.array(record)),
        "source": sources.take(pa.array(answers.records.input[record])),
        "region_id": region_ids(answers, rows),
        "start": pa.array(regions.start[rows]),
        "end": pa.array(regions.end[rows]),
        "length": pa.array(regions.end[rows] - regions.start[rows] + 1),
        "n_chunks": pa.array(regions.n_chunks[rows]),
        "n_scored": pa.array(regions.n_scored[rows]),
        "mean_score": _nullable(regions.mean_score[rows]),
        "max_score": _nullable(regions.max_score[rows]),
        "resolution": pa.array(regions.resolution[rows]),
        "call": pa.array(CALL_WORDS, TEXT).take(pa.array(sequences.call[record])),
    }


def write_bed(path: Path, answers: Answers) -> None:
    """`regions.bed`: 0-based, half-open; the score column is the mean score times 1,000, as
    browsers shade by it.
    """
    regions = answers.regions
    with writing(path) as stream:
        for start in range(0, len(regions), SLICE):
            rows = np.arange(start, min(start + SLICE, len(regions)))
            shade = np.rint(regions.mean_score[rows] * 1000).astype(np.int64)
            numbers = (regions.start[rows] - 1, regions.end[rows], shade)
            begin, end, shade_text = (pa.array(n).cast(TEXT) for n in numbers)
            names = answers.names.take(pa.array(regions.record[rows]))
            write_lines(stream, [names, begin, end, region_ids(answers, rows), shade_text])


def chunk_ids(answers: Answers, rows: NDArray[np.int64]) -> pa.Array:
    """`{name}_chunk_{k}` of the chunks at `rows`."""
    names = answers.names.take(pa.array(answers.chunks.record[rows]))
    return join(names, constant("_chunk_"), pa.array(answers.chunks.chunk[rows]).cast(TEXT))


def frame_ids(answers: Answers, rows: NDArray[np.int64]) -> pa.Array:
    """`{name}_chunk_{k}{F|R}{1|2|3}` of the frames at `rows`."""
    frames = answers.frames
    names = answers.names.take(pa.array(frames.record[rows]))
    labels = FRAME_LABELS.take(pa.array(frames.frame[rows]))
    return join(names, constant("_chunk_"), pa.array(frames.chunk[rows]).cast(TEXT), labels)


def frame_labels(answers: Answers, rows: NDArray[np.int64]) -> pa.Array:
    """virus or others; a tie goes to others; missing without an embedding."""
    frames = answers.frames
    is_virus = pa.array(frames.virus[rows] > frames.others[rows], mask=frames.failed[rows])
    return pc.if_else(is_virus, constant("virus"), constant("others"))


def region_ids(answers: Answers, rows: NDArray[np.int64]) -> pa.Array:
    """`{name}_region_{k}`, k from 1 within a sequence."""
    names = answers.names.take(pa.array(answers.regions.record[rows]))
    return join(names, constant("_region_"), pa.array(answers.regions.region[rows]).cast(TEXT))


def notes(answers: Answers, rows: NDArray[np.int64]) -> pa.Array:
    """The notes of calling and of reading, `;`-joined; missing where there is none."""
    values, index = np.unique(answers.sequences.notes[rows], return_inverse=True)
    texts = [
        ";".join(note.name for note in Note if value & note.value) for value in values.tolist()
    ]
    calling = pa.array(texts, TEXT).take(pa.array(index.astype(np.int32)))
    reading = answers.record_notes.take(pa.array(rows))
    both = pc.and_(pc.not_equal(calling, ""), pc.not_equal(reading, ""))
    glue = pc.if_else(both, constant(";"), constant(""))
    joined = join(calling, glue, reading)
    return pc.if_else(pc.equal(joined, ""), pa.scalar(None, TEXT), joined)


def _nullable(values: NDArray[np.floating]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def counts(answers: Answers) -> Mapping[str, int]:
    """What was read, answered and called: the numbers of `run.json`, the report and MultiQC,
    counted once here.
    """
    sequences, records = answers.sequences, answers.records
    by_call = np.bincount(sequences.call, minlength=4)
    return {
        "sequences": len(records),
        "scored": int((sequences.n_scored > 0).sum()),
        **{word.replace("-", "_"): int(n) for word, n in zip(CALL_WORDS, by_call, strict=True)},
        "bases": int(records.length.sum()),
        "chunks": len(answers.chunks),
        **{
            f"chunks_{status.name}": int((answers.chunks.status == status).sum())
            for status in ChunkStatus
        },
        "frames": len(answers.frames),
        "frames_failed": int(answers.frames.failed.sum()),
        **{f"note_{note.name}": int((sequences.notes & note.value > 0).sum()) for note in Note},
        "regions": len(answers.regions),
    }
