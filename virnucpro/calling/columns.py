"""What calling takes and gives: plain numpy columns, one entry a frame, a chunk, or a sequence.

`record` is always the row of the sequence among all records in input order, `chunk` counts from 1
within a sequence, and positions are 1-based and inclusive on the forward strand, as in the tables.
Knows no names, files or weights.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray


class ChunkStatus(IntEnum):
    """Why a chunk has a score or has none; the names are the words of `chunks.tsv`."""

    scored = 0
    no_open_frame = 1
    invalid_characters = 2
    frame_too_long = 3
    failed = 4
    not_needed = 5  # the call was clear without it


class Call(IntEnum):
    """The answer for a sequence; `CALL_WORDS` are the words of `contigs.tsv`."""

    virus = 0
    non_virus = 1
    ambiguous = 2
    too_short = 3  # has scores, but is too short to be called by them
    not_scored = 4


CALL_WORDS: tuple[str, ...] = ("virus", "non-virus", "ambiguous", "too_short", "not_scored")


class Note(IntFlag):
    """What a reader of a call should know; the names are the words of `contigs.tsv`, in
    this order.
    """

    too_short = 1
    below_model_length = 2
    below_min_length = 4
    invalid_characters = 8
    no_open_frame = 16
    frame_too_long = 32
    failed = 64
    low_evidence = 128
    contains_virus_like_region = 256
    uncalibrated = 512
    plasmid_like = 1024


@dataclass(frozen=True, slots=True)
class FrameColumns:
    """Every open frame with its scores, NaN where it has none. `failed`: it got no embedding;
    `left_out`: as its chunk was not needed.
    """

    record: NDArray[np.int64]
    chunk: NDArray[np.int32]
    frame: NDArray[np.int8]  # 0..5 = F1 F2 F3 R1 R2 R3
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    aa_length: NDArray[np.int32]
    others: NDArray[np.float32]
    virus: NDArray[np.float32]
    failed: NDArray[np.bool_]
    left_out: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.record)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Whether both scores are numbers; a model whose values overflow gives others."""
        return ~self.failed & np.isfinite(self.others) & np.isfinite(self.virus)

    def take(self, rows: NDArray[np.bool_]) -> FrameColumns:
        """The frames at `rows`, bool [frames]."""
        return FrameColumns(*(getattr(self, column.name)[rows] for column in fields(self)))


@dataclass(frozen=True, slots=True)
class RecordColumns:
    """Every input sequence, in input order, answered or not.

    `n_chunks` is 0 where it was never cut.
    """

    input: NDArray[np.int32]
    length: NDArray[np.int64]
    gc: NDArray[np.float64]
    n_chunks: NDArray[np.int32]
    n_ambiguous: NDArray[np.int64]
    problem: NDArray[np.bool_]
    skipped: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.length)


@dataclass(frozen=True, slots=True)
class ChunkColumns:
    """Every chunk of every sequence, in input order.

    The scores are NaN where `status` is not scored.
    """

    record: NDArray[np.int64]
    chunk: NDArray[np.int32]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    n_open_frames: NDArray[np.int32]
    max_others: NDArray[np.float32]
    max_virus: NDArray[np.float32]
    virus_score: NDArray[np.float64]
    is_virus: NDArray[np.bool_]
    status: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.record)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """bool [chunks]: those with a score."""
        return self.status == ChunkStatus.scored

    @property
    def scorable(self) -> NDArray[np.bool_]:
        """bool [chunks]: those with a frame that an encoder takes, looked at or not."""
        return self.scored | (self.status >= ChunkStatus.failed)


@dataclass(frozen=True, slots=True)
class SequenceColumns:
    """The answer for every record. Scores, probability and fdr are NaN where there is none."""

    n_scored: NDArray[np.int32]
    scored_fraction: NDArray[np.float64]
    virus_score: NDArray[np.float64]
    virus_probability: NDArray[np.float64]
    max_chunk_score: NDArray[np.float64]
    n_virus_chunks: NDArray[np.int32]
    n_open_frames: NDArray[np.int64]
    call: NDArray[np.uint8]
    fdr: NDArray[np.float64]
    notes: NDArray[np.uint16]
    model_probability: NDArray[np.float64]  # of the network alone
    n_looked_at: NDArray[np.int32]  # chunks, less those that were not needed

    def __len__(self) -> int:
        return len(self.call)

    @property
    def called(self) -> NDArray[np.bool_]:
        """Whether the call is virus, non-virus or ambiguous."""
        return self.call < Call.too_short

    @property
    def deciding_score(self) -> NDArray[np.float64]:
        """What the call was made by: the probability where there is one, else the score."""
        return np.where(np.isnan(self.virus_probability), self.virus_score, self.virus_probability)
