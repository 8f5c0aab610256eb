"""Every column of every table: one entry each, with its name, type, meaning, and how it is made.

The tables, their Parquet schema, the schema they are read back with, and the glossary in
docs/OUTPUTS.md are all made from these entries. To add a column, add an entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from virnucpro.calling.answers import Answers
from virnucpro.calling.calibration import expit
from virnucpro.calling.columns import CALL_WORDS, ChunkStatus, Note
from virnucpro.calling.consensus import best_first
from virnucpro.homology.choice import LABELS
from virnucpro.reporting.text import TEXT, constant, join

if TYPE_CHECKING:
    from virnucpro.calling.evidence import EvidenceColumns, HitColumns

Rows = NDArray[np.int64]
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
    values: Callable[[Answers, Rows], pa.Array | NDArray]
    description: str
    nullable: bool = False  # of text: NA is missing and not a word

    def array(self, answers: Answers, rows: Rows) -> pa.Array:
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
    rows: Callable[[Answers], Rows]
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        """The types of the columns, as Parquet holds them."""
        return pa.schema([(column.name, column.kind) for column in self.columns])

    def batch(self, answers: Answers, rows: Rows) -> pa.RecordBatch:
        """The table's lines for `rows`, some of those that `self.rows` gives."""
        arrays = [column.array(answers, rows) for column in self.columns]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


# -- what several columns or files need -----------------------------------------------------------


def chunk_ids(answers: Answers, rows: Rows) -> pa.Array:
    """`{name}_chunk_{k}` of the chunks at `rows`."""
    names = _names(answers, answers.chunks.record[rows])
    return join(names, constant("_chunk_"), pa.array(answers.chunks.chunk[rows]).cast(TEXT))


def frame_ids(answers: Answers, rows: Rows) -> pa.Array:
    """`{name}_chunk_{k}{F|R}{1|2|3}` of the frames at `rows`."""
    frames = answers.frames
    names = _names(answers, frames.record[rows])
    labels = FRAME_LABELS.take(pa.array(frames.frame[rows]))
    return join(names, constant("_chunk_"), pa.array(frames.chunk[rows]).cast(TEXT), labels)


def frame_labels(answers: Answers, rows: Rows) -> pa.Array:
    """virus or others; a tie goes to others; missing without an embedding."""
    frames = answers.frames
    is_virus = pa.array(frames.virus[rows] > frames.others[rows], mask=~frames.scored[rows])
    return pc.if_else(is_virus, constant("virus"), constant("others"))


def region_ids(answers: Answers, rows: Rows) -> pa.Array:
    """`{name}_region_{k}`, k from 1 within a sequence."""
    names = _names(answers, answers.regions.record[rows])
    return join(names, constant("_region_"), pa.array(answers.regions.region[rows]).cast(TEXT))


def notes(answers: Answers, rows: Rows) -> pa.Array:
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


def _names(answers: Answers, records: NDArray) -> pa.Array:
    return answers.names.take(pa.array(records))


def _sources(answers: Answers, records: NDArray) -> pa.Array:
    sources = pa.array([source.source for source in answers.inputs], TEXT)
    return sources.take(pa.array(answers.records.input[records]))


def _calls(answers: Answers, records: NDArray) -> pa.Array:
    return pa.array(CALL_WORDS, TEXT).take(pa.array(answers.sequences.call[records]))


def _all(part: str) -> Callable[[Answers], Rows]:
    return lambda answers: np.arange(len(getattr(answers, part)))


def _of(part: str, name: str) -> Callable[[Answers, Rows], NDArray]:
    """Values of a numpy column of `answers.{part}`."""
    return lambda answers, rows: getattr(getattr(answers, part), name)[rows]


def _evidence(
    answers: Answers, rows: Rows, of: Callable[[EvidenceColumns], NDArray]
) -> NDArray[np.float64]:
    """Numbers of the evidence of the records at `rows`, NaN where they were not searched."""
    if answers.evidence is None:
        return np.full(len(rows), np.nan)
    searched = ~np.isnan(answers.evidence.log_odds[rows])
    return np.where(searched, of(answers.evidence)[rows], np.nan)


def _counted(answers: Answers, rows: Rows, of: Callable[[EvidenceColumns], NDArray]) -> pa.Array:
    values = _evidence(answers, rows, of)
    missing = np.isnan(values)
    return pa.array(np.where(missing, 0, values).astype(np.int32), mask=missing)


def _words(values: list[str | None]) -> pa.Array:
    """Texts, missing where there is none."""
    return pa.array([value or None for value in values], TEXT)


def _closest(answers: Answers, rows: Rows, field: str) -> pa.Array:
    """What is known of the closest viral proteins of the records at `rows`."""
    if answers.evidence is None:
        return pa.nulls(len(rows), TEXT)
    labels = answers.evidence.reference.labels
    proteins = answers.evidence.evidence.closest_virus[rows].tolist()
    return _words([getattr(labels[p], field) if p >= 0 else None for p in proteins])


def _cellular_like(answers: Answers, rows: Rows) -> pa.Array:
    if answers.evidence is None:
        return pa.nulls(len(rows), TEXT)
    kinds = answers.evidence.evidence.cellular_like[rows].tolist()
    return _words([LABELS[kind] if kind >= 0 else None for kind in kinds])


def _hits(answers: Answers) -> Rows:
    return np.arange(len(answers.evidence.hits) if answers.evidence else 0)


def _of_hits(of: Callable[[HitColumns], NDArray]) -> Callable[[Answers, Rows], NDArray]:
    """Values of the hits."""
    return lambda answers, rows: (
        of(answers.evidence.hits)[rows] if answers.evidence else np.zeros(0)
    )


def _of_proteins(field: str) -> Callable[[Answers, Rows], pa.Array]:
    """What is known of the proteins of the hits."""

    def values(answers: Answers, rows: Rows) -> pa.Array:
        if answers.evidence is None:
            return pa.nulls(len(rows), TEXT)
        labels = answers.evidence.reference.labels
        proteins = answers.evidence.hits.protein[rows].tolist()
        return _words([getattr(labels[p], field) for p in proteins])

    return values


# -- contigs.tsv and virus_summary.tsv ------------------------------------------------------------

_MODEL = Column(
    "model",
    TEXT,
    lambda answers, rows: pa.array([answers.model_label] * len(rows), TEXT),
    "the model that answered",
)

CONTIGS = Table(
    "contigs",
    _all("records"),
    (
        Column("seq_name", TEXT, _names, "the name up to the first white space, made unique"),
        Column("source", TEXT, _sources, "the input file; `stdin` for standard input"),
        Column("length", BASES, _of("records", "length"), "bases"),
        Column("gc", SCORE, _of("records", "gc"), "G and C among the letters A, C, G, T"),
        Column(
            "n_chunks",
            COUNT,
            _of("records", "n_chunks"),
            "overlapping chunks it was cut into; 0 where it was skipped",
        ),
        Column("n_scored", COUNT, _of("sequences", "n_scored"), "chunks with a score"),
        Column(
            "scored_fraction",
            SCORE,
            _of("sequences", "scored_fraction"),
            "`n_scored` of `n_chunks`",
        ),
        Column(
            "virus_score",
            SCORE,
            _of("sequences", "virus_score"),
            "mean of the scored chunks' scores, weighted by their length",
        ),
        Column(
            "virus_probability",
            SCORE,
            _of("sequences", "virus_probability"),
            "the calibrated score, see below; `NA` where the model has no calibration",
        ),
        Column(
            "max_chunk_score",
            SCORE,
            _of("sequences", "max_chunk_score"),
            "the highest score of a chunk",
        ),
        Column(
            "n_virus_chunks",
            COUNT,
            _of("sequences", "n_virus_chunks"),
            "chunks in which the best viral score is at least the best other one",
        ),
        Column("call", TEXT, _calls, "the answer, see below"),
        Column(
            "fdr",
            SCORE,
            _of("sequences", "fdr"),
            "expected share of false ones among all sequences of this source called at this score"
            " or a better one, see below",
        ),
        Column("note", TEXT, notes, "`;`-joined words, see below", nullable=True),
        Column(
            "model_probability",
            SCORE,
            _of("sequences", "model_probability"),
            "the network's own probability",
        ),
        Column(
            "homology_probability",
            SCORE,
            lambda answers, rows: expit(_evidence(answers, rows, lambda e: e.log_odds)),
            "the probability by the hits with known proteins alone, without the network; `NA`, as"
            " in the columns that follow, where no proteins were searched",
        ),
        Column(
            "homology_score",
            BITS,
            lambda answers, rows: _evidence(answers, rows, lambda e: e.evidence.lead),
            "bit score of the best hit with a viral protein less that of the best with another one;"
            " a missing or weak hit counts 30 bits",
        ),
        Column(
            "closest_virus",
            TEXT,
            lambda answers, rows: _closest(answers, rows, "name"),
            "the virus of the closest known viral protein (not the sequence's own taxonomy)",
            nullable=True,
        ),
        Column(
            "closest_family",
            TEXT,
            lambda answers, rows: _closest(answers, rows, "family"),
            "the family of that virus",
            nullable=True,
        ),
        Column(
            "closest_identity",
            SCORE,
            lambda answers, rows: _evidence(answers, rows, lambda e: e.evidence.closest_identity),
            "identical residues of the alignment with that protein",
        ),
        Column(
            "viral_hits",
            COUNT,
            lambda answers, rows: _counted(answers, rows, lambda e: e.evidence.viral_hits),
            "hits with viral proteins",
        ),
        Column(
            "cellular_hits",
            COUNT,
            lambda answers, rows: _counted(answers, rows, lambda e: e.evidence.cellular_hits),
            "hits with other proteins",
        ),
        Column(
            "cellular_like",
            TEXT,
            _cellular_like,
            "where most of the score of the other hits comes from: `bacteria`, `archaea`,"
            " `eukaryote` or `plasmid`",
            nullable=True,
        ),
        Column(
            "topology",
            TEXT,
            lambda answers, rows: _words(
                [answers.evidence.topology[r] if answers.evidence else None for r in rows.tolist()]
            ),
            "`direct_repeat_N` or `inverted_repeat_N`: the first N bases are the last N too, or"
            " their reverse complement",
            nullable=True,
        ),
        Column(
            "called_by",
            TEXT,
            lambda answers, rows: pa.array([answers.called_by] * len(rows), TEXT),
            "what `virus_probability` and the call are made of: `model`, or `both` model and hits",
        ),
    ),
)

VIRUS_SUMMARY = replace(
    CONTIGS,
    name="virus_summary",
    rows=lambda answers: best_first(answers.sequences, answers.records),
    columns=(*(column for column in CONTIGS.columns if column.name != "call"), _MODEL),
)

# -- chunks.tsv -----------------------------------------------------------------------------------

CHUNKS = Table(
    "chunks",
    _all("chunks"),
    (
        Column(
            "seq_name",
            TEXT,
            lambda answers, rows: _names(answers, answers.chunks.record[rows]),
            "the sequence",
        ),
        Column("chunk", COUNT, _of("chunks", "chunk"), "which of its chunks, from 1"),
        Column("start", BASES, _of("chunks", "start"), "its first base"),
        Column("end", BASES, _of("chunks", "end"), "its last base"),
        Column(
            "n_open_frames",
            COUNT,
            _of("chunks", "n_open_frames"),
            "how many of its six frames are open; with the frame policies `longest` and"
            " `stretches`, how many stop-free stretches were taken: one, or up to six of a"
            " sequence of one chunk, three of each of two chunks, two of each of more",
        ),
        Column(
            "max_others",
            FRAME_SCORE,
            _of("chunks", "max_others"),
            "the highest other score of its frames; `max_others` and `max_virus` need not sum to 1,"
            " and grow with the number of open frames",
        ),
        Column(
            "max_virus",
            FRAME_SCORE,
            _of("chunks", "max_virus"),
            "the highest viral score of its frames; with the frame policy `stretches` the chunk's"
            " score, and `max_others` is 1 less that",
        ),
        Column(
            "virus_score",
            SCORE,
            _of("chunks", "virus_score"),
            "`max_virus / (max_virus + max_others)`",
        ),
        Column(
            "is_virus",
            FLAG,
            lambda answers, rows: pa.array(
                answers.chunks.is_virus[rows], mask=~answers.chunks.scored[rows]
            ),
            "`True` where `virus_score` is 0.5 or more",
        ),
        Column(
            "status",
            TEXT,
            lambda answers, rows: STATUS_WORDS.take(pa.array(answers.chunks.status[rows])),
            "`scored`, or why not: `no_open_frame`, `invalid_characters`, `frame_too_long` (all its"
            " open frames are too long), `failed`",
        ),
    ),
)

# -- frames.tsv -----------------------------------------------------------------------------------

FRAMES = Table(
    "frames",
    _all("frames"),
    (
        Column(
            "frame_id",
            TEXT,
            frame_ids,
            "`{seq_name}_chunk_{chunk}{F or R}{1, 2 or 3}`, the id in `merged_features.pt` and in"
            " the original's tables",
        ),
        Column(
            "seq_name",
            TEXT,
            lambda answers, rows: _names(answers, answers.frames.record[rows]),
            "the sequence",
        ),
        Column("chunk", COUNT, _of("frames", "chunk"), "its chunk"),
        Column(
            "strand",
            TEXT,
            lambda answers, rows: pc.if_else(
                pa.array(answers.frames.frame[rows] > 2), constant("-"), constant("+")
            ),
            "`+` or `-`",
        ),
        Column(
            "frame", FRAME, lambda answers, rows: answers.frames.frame[rows] % 3 + 1, "1, 2 or 3"
        ),
        Column("start", BASES, _of("frames", "start"), "its first base on the forward strand"),
        Column("end", BASES, _of("frames", "end"), "its last base on the forward strand"),
        Column("aa_length", COUNT, _of("frames", "aa_length"), "residues of its protein"),
        Column(
            "others_score",
            FRAME_SCORE,
            _of("frames", "others"),
            "the classifier's score for others; `NA` where the frame has no embedding",
        ),
        Column(
            "virus_score",
            FRAME_SCORE,
            _of("frames", "virus"),
            "the classifier's score for virus; `NA` where the frame has no embedding",
        ),
        Column(
            "prediction",
            TEXT,
            frame_labels,
            "`virus` or `others`; a tie is `others`",
            nullable=True,
        ),
    ),
)

# -- regions.tsv ----------------------------------------------------------------------------------

REGIONS = Table(
    "regions",
    _all("regions"),
    (
        Column(
            "seq_name",
            TEXT,
            lambda answers, rows: _names(answers, answers.regions.record[rows]),
            "the sequence",
        ),
        Column(
            "source",
            TEXT,
            lambda answers, rows: _sources(answers, answers.regions.record[rows]),
            "its input file",
        ),
        Column(
            "region_id",
            TEXT,
            region_ids,
            "`{seq_name}_region_{number}`, the name in the BED file and in `regions.fna`",
        ),
        Column("start", BASES, _of("regions", "start"), "its first base"),
        Column("end", BASES, _of("regions", "end"), "its last base"),
        Column(
            "length",
            BASES,
            lambda answers, rows: answers.regions.end[rows] - answers.regions.start[rows] + 1,
            "bases",
        ),
        Column("n_chunks", COUNT, _of("regions", "n_chunks"), "its chunks"),
        Column("n_scored", COUNT, _of("regions", "n_scored"), "its chunks with a score"),
        Column("mean_score", SCORE, _of("regions", "mean_score"), "mean of its scored chunks"),
        Column("max_score", SCORE, _of("regions", "max_score"), "best of its scored chunks"),
        Column(
            "resolution",
            BASES,
            _of("regions", "resolution"),
            "bases within which both borders are known: as far as to the nearest scored chunk"
            " outside, at least the step between chunks and half a chunk",
        ),
        Column(
            "call",
            TEXT,
            lambda answers, rows: _calls(answers, answers.regions.record[rows]),
            "the call of the whole sequence",
        ),
    ),
)

# -- hits.tsv -------------------------------------------------------------------------------------

_hit_records = _of_hits(lambda hits: hits.record)

HITS = Table(
    "hits",
    _hits,
    (
        Column(
            "seq_name",
            TEXT,
            lambda answers, rows: _names(answers, _hit_records(answers, rows).astype(np.int64)),
            "the sequence",
        ),
        Column(
            "source",
            TEXT,
            lambda answers, rows: _sources(answers, _hit_records(answers, rows).astype(np.int64)),
            "its input file",
        ),
        Column("start", BASES, _of_hits(lambda hits: hits.start), "first base of the alignment"),
        Column("end", BASES, _of_hits(lambda hits: hits.end), "its last base"),
        Column(
            "strand",
            TEXT,
            lambda answers, rows: pc.if_else(
                pa.array(_of_hits(lambda hits: hits.reverse)(answers, rows), FLAG),
                constant("-"),
                constant("+"),
            ),
            "`+` or `-`",
        ),
        Column("protein", TEXT, _of_proteins("protein"), "the known protein", nullable=True),
        Column("name", TEXT, _of_proteins("name"), "what it is of", nullable=True),
        Column("family", TEXT, _of_proteins("family"), "the family of that", nullable=True),
        Column(
            "label",
            TEXT,
            _of_proteins("label"),
            "`viral`, `bacteria`, `archaea`, `eukaryote`, `plasmid`, or `cellular` where the kind"
            " of cell is not known",
            nullable=True,
        ),
        Column(
            "identity",
            SCORE,
            _of_hits(lambda hits: hits.identity),
            "identical residues of the alignment's columns",
        ),
        Column(
            "aligned_length", COUNT, _of_hits(lambda hits: hits.columns), "columns of the alignment"
        ),
        Column(
            "bit_score",
            BITS,
            _of_hits(lambda hits: hits.bits),
            "score of the alignment in bits",
        ),
        Column(
            "evalue",
            TEXT,
            lambda answers, rows: _words(
                [f"{e:.1e}" for e in _of_hits(lambda hits: hits.evalue)(answers, rows).tolist()]
            ),
            "chance hits as good as this expected of its stop-free stretch",
        ),
    ),
)

TABLES = (CONTIGS, VIRUS_SUMMARY, CHUNKS, FRAMES, REGIONS, HITS)
