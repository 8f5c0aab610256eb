"""The tables of the output directory, written a slice of rows at a time.

Which columns they have stands in `columns`; the digits in `text`, the paths in `outputs`.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnucpro.calling.answers import Answers
from virnucpro.calling.columns import CALL_WORDS, Call, ChunkStatus, Note
from virnucpro.errors import StoreError, one_line
from virnucpro.files import writing
from virnucpro.reporting.columns import TABLES
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.reasons import count_reasons
from virnucpro.reporting.text import MISSING, TEXT, write_lines, write_table
from virnucpro.reporting.values import Table, region_ids

SLICE = 200_000  # rows held as text at once
LONGEST_LINE = 1 << 26  # bytes of a table that are read at once


def write_tables(outputs: Outputs, answers: Answers) -> None:
    """All tables and the BED file; not the FASTA files and the original's tables."""
    outputs.discard_stale()
    for table in TABLES:
        _write(getattr(outputs, table.name), table, answers)
    write_bed(outputs.regions_bed, answers)


def _write(path: Path, table: Table, answers: Answers) -> None:
    """One table, as text, compressed text or Parquet by its ending; an empty one still has its
    columns.
    """
    listed = table.rows(answers)

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(listed), SLICE):
            yield table.batch(answers, listed[start : start + SLICE])

    with writing(path) as stream:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetWriter(stream, table.schema, compression="zstd") as writer:
                for batch in batches():
                    writer.write_batch(batch)
        elif path.suffix == ".gz":  # without a name and a time: equal runs give equal bytes
            with gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed:
                write_table(packed, table.schema.names, batches())
        else:
            write_table(stream, table.schema.names, batches())


def read_table(path: Path) -> pa.Table:
    """A table as it was written, by the types of its columns: ids are text, whatever they look
    like. Raises StoreError where it is not one.
    """
    import pyarrow.parquet as pq
    from pyarrow import csv

    table = next(table for table in TABLES if table.name == path.name.split(".")[0])
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        found = csv.read_csv(
            path,
            csv.ReadOptions(block_size=LONGEST_LINE),
            csv.ParseOptions(delimiter="\t", quote_char=False),
            csv.ConvertOptions(
                column_types=table.schema, null_values=["NA"], strings_can_be_null=False
            ),
        )
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{path}: cannot be read ({one_line(str(error))}); run predict or summarize again"
        ) from None
    for i, column in enumerate(table.columns):
        if column.nullable:
            words = found[column.name]
            words = pc.if_else(pc.equal(words, MISSING), pa.scalar(None, TEXT), words)
            found = found.set_column(i, column.name, words)
    return found


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


def counts(answers: Answers) -> Mapping[str, int]:
    """What was read, answered and called: the numbers of `run.json`, the report and MultiQC,
    counted once here.
    """
    sequences, records = answers.sequences, answers.records
    in_others = answers.regions.record[sequences.call[answers.regions.record] != Call.virus]
    by_call = np.bincount(sequences.call, minlength=len(Call))
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
        "frames_failed": int((~answers.frames.scored & ~answers.frames.left_out).sum()),
        "frames_not_needed": int(answers.frames.left_out.sum()),
        **{f"note_{note.name}": int((sequences.notes & note.value > 0).sum()) for note in Note},
        **count_reasons(sequences),
        "regions": len(answers.regions),
        "regions_not_virus": len(in_others),
        "sequences_with_regions": len(np.unique(in_others)),
    }
