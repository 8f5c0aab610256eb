"""How the values of a column are made of the answers, and what a column and a table are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from virnucpro.calling.answers import Answers
from virnucpro.calling.columns import CALL_WORDS, ChunkStatus, Note
from virnucpro.homology.choice import LABELS
from virnucpro.reporting.text import TEXT, constant, join

if TYPE_CHECKING:
    from virnucpro.calling.evidence import EvidenceColumns, HitColumns

RowNumbers = NDArray[np.int64]
FRAME_LABELS = pa.array(["F1", "F2", "F3", "R1", "R2", "R3"], TEXT)
STATUS_WORDS = pa.array([status.name for status in ChunkStatus], TEXT)
SCORE, FRAME_SCORE = pa.float64(), pa.float32()  # 4 decimals as text
BASES, COUNT, FRAME = pa.int64(), pa.int32(), pa.int8()
FLAG = pa.bool_()
BITS = pa.decimal128(9, 1)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    `values(answers, rows)` gives its values at `rows` of what the table lists, as an Arrow array
    that can be cast to `kind`; missing values are null, or NaN in floats.
    """

    name: str
    kind: pa.DataType
    values: Callable[[Answers, RowNumbers], pa.Array | NDArray]
    description: str
    nullable: bool = False  # of text: NA is missing and not a word

    def array(self, answers: Answers, rows: RowNumbers) -> pa.Array:
        """The values at `rows`, of the column's own type, null where missing."""
        values = self.values(answers, rows)
        if isinstance(values, np.ndarray):
            missing = np.isnan(values) if values.dtype.kind == "f" else None
            values = pa.array(values, mask=missing)
        return values.cast(self.kind)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the output directory: its columns, and which rows of the answers it lists."""

    name: str
    rows: Callable[[Answers], RowNumbers]
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        """The types of the columns, as Parquet holds them."""
        return pa.schema([(column.name, column.kind) for column in self.columns])

    def batch(self, answers: Answers, rows: RowNumbers) -> pa.RecordBatch:
        """The table's lines for `rows`, some of those that `self.rows` gives."""
        arrays = [column.array(answers, rows) for column in self.columns]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


# -- what several columns or files need -----------------------------------------------------------


def chunk_ids(answers: Answers, rows: RowNumbers) -> pa.Array:
    """`{name}_chunk_{k}` of the chunks at `rows`."""
    names = read_names(answers, answers.chunks.record[rows])
    return join(names, constant("_chunk_"), pa.array(answers.chunks.chunk[rows]).cast(TEXT))


def frame_ids(answers: Answers, rows: RowNumbers) -> pa.Array:
    """`{name}_chunk_{k}{F|R}{1|2|3}` of the frames at `rows`."""
    frames = answers.frames
    names = read_names(answers, frames.record[rows])
    labels = FRAME_LABELS.take(pa.array(frames.frame[rows]))
    return join(names, constant("_chunk_"), pa.array(frames.chunk[rows]).cast(TEXT), labels)


def frame_labels(answers: Answers, rows: RowNumbers) -> pa.Array:
    """virus or others; a tie goes to others; missing without an embedding."""
    frames = answers.frames
    is_virus = pa.array(frames.virus[rows] > frames.others[rows], mask=~frames.scored[rows])
    return pc.if_else(is_virus, constant("virus"), constant("others"))


def region_ids(answers: Answers, rows: RowNumbers) -> pa.Array:
    """`{name}_region_{k}`, k from 1 within a sequence."""
    names = names_of(answers, answers.regions.record[rows])
    return join(names, constant("_region_"), pa.array(answers.regions.region[rows]).cast(TEXT))


def notes(answers: Answers, rows: RowNumbers) -> pa.Array:
    """The notes of calling and of reading, `;`-joined; missing where there is none."""
    values, index = np.unique(answers.sequences.notes[rows], return_inverse=True)
    texts = [
        ";".join(note.name or "" for note in Note if value & note.value)
        for value in values.tolist()
    ]
    calling = pa.array(texts, TEXT).take(pa.array(index.astype(np.int32)))
    reading = answers.record_notes.take(pa.array(rows))
    both = pc.and_(pc.not_equal(calling, ""), pc.not_equal(reading, ""))
    glue = pc.if_else(both, constant(";"), constant(""))
    joined = join(calling, glue, reading)
    return pc.if_else(pc.equal(joined, ""), pa.scalar(None, TEXT), joined)


def names_of(answers: Answers, records: NDArray) -> pa.Array:
    """The names of the sequences `records`."""
    return answers.names.take(pa.array(records))


def read_names(answers: Answers, records: NDArray) -> pa.Array:
    """The names of `records` as they were read: of the mates of a pair each has its own."""
    return answers.reads.names.take(pa.array(records))


def sources_of(answers: Answers, records: NDArray) -> pa.Array:
    """The inputs that the sequences `records` came from."""
    return _sources(answers, answers.records.input[records])


def read_sources(answers: Answers, records: NDArray) -> pa.Array:
    """The inputs that `records` were read from."""
    return _sources(answers, answers.reads.columns.input[records])


def _sources(answers: Answers, inputs: NDArray) -> pa.Array:
    return pa.array([source.source for source in answers.inputs], TEXT).take(pa.array(inputs))


def calls_of(answers: Answers, records: NDArray) -> pa.Array:
    """The calls of the sequences `records`, as words."""
    return pa.array(CALL_WORDS, TEXT).take(pa.array(answers.sequences.call[records]))


def called_by(answers: Answers, rows: RowNumbers) -> pa.Array:
    """What the calls of the sequences at `rows` are made of."""
    by_screen = np.zeros(len(rows), bool) if answers.screen is None else answers.screen.out[rows]
    return pc.if_else(pa.array(by_screen), constant("screen"), constant(answers.called_by))


def all_rows(part: str) -> Callable[[Answers], RowNumbers]:
    """All rows of `answers.{part}`."""
    return lambda answers: np.arange(len(getattr(answers, part)))


def values_of(part: str, name: str) -> Callable[[Answers, RowNumbers], NDArray]:
    """Values of a numpy column of `answers.{part}`."""
    return lambda answers, rows: getattr(getattr(answers, part), name)[rows]


def evidence_of(
    answers: Answers, rows: RowNumbers, of: Callable[[EvidenceColumns], NDArray]
) -> NDArray[np.float64]:
    """Numbers of the evidence of the records at `rows`, NaN where they were not searched."""
    if answers.evidence is None:
        return np.full(len(rows), np.nan)
    searched = ~np.isnan(answers.evidence.log_odds[rows])
    return np.where(searched, of(answers.evidence)[rows], np.nan)


def counted(
    answers: Answers, rows: RowNumbers, of: Callable[[EvidenceColumns], NDArray]
) -> pa.Array:
    """Numbers of hits; missing where no proteins were searched."""
    values = evidence_of(answers, rows, of)
    missing = np.isnan(values)
    return pa.array(np.where(missing, 0, values).astype(np.int32), mask=missing)


def words(values: list[str | None]) -> pa.Array:
    """Texts, missing where there is none."""
    return pa.array([value or None for value in values], TEXT)


def closest(answers: Answers, rows: RowNumbers, *known: str) -> pa.Array:
    """What is known of the closest viral proteins of the records at `rows`: the first of the fields
    that is.
    """
    if answers.evidence is None:
        return pa.nulls(len(rows), TEXT)
    labels = answers.evidence.reference.labels
    proteins = answers.evidence.evidence.closest_virus[rows].tolist()
    return words(
        [
            next(filter(None, (getattr(labels[p], f) for f in known)), "") if p >= 0 else None
            for p in proteins
        ]
    )


def cellular_like(answers: Answers, rows: RowNumbers) -> pa.Array:
    """Which kind of cell the closest cellular protein comes from; missing where there is none."""
    if answers.evidence is None:
        return pa.nulls(len(rows), TEXT)
    kinds = answers.evidence.evidence.cellular_like[rows].tolist()
    return words([LABELS[kind] if kind >= 0 else None for kind in kinds])


def hit_rows(answers: Answers) -> RowNumbers:
    """All hits; none where no proteins were searched."""
    return np.arange(len(answers.evidence.hits) if answers.evidence else 0)


def of_hits(of: Callable[[HitColumns], NDArray]) -> Callable[[Answers, RowNumbers], NDArray]:
    """Values of the hits."""
    return lambda answers, rows: (
        of(answers.evidence.hits)[rows] if answers.evidence else np.zeros(0)
    )


def of_proteins(field: str) -> Callable[[Answers, RowNumbers], pa.Array]:
    """What is known of the proteins of the hits."""

    def values(answers: Answers, rows: RowNumbers) -> pa.Array:
        if answers.evidence is None:
            return pa.nulls(len(rows), TEXT)
        labels = answers.evidence.reference.labels
        proteins = answers.evidence.hits.protein[rows].tolist()
        return words([getattr(labels[p], field) for p in proteins])

    return values
