"""From what was read to what is answered: a record is a sequence of its own, or one of the two
mates of a pair, which get one answer.

A pair's chunks are those of both mates. Its bases are added up; what depends on a sequence's length
goes by its longer mate, since the chunks are no longer than that.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from virnucpro.calling.columns import ChunkColumns, RecordColumns
from virnucpro.sequences.mates import PAIR, SECOND_MATE


@dataclass(frozen=True, slots=True)
class Reads:
    """The records as they were read. sequence: int64 [records], the row of each among the
    sequences that are answered; first: int64 [sequences], the record that a sequence begins with.
    """

    names: pa.Array  # large_string [records], unique over the run
    columns: RecordColumns
    sequence: NDArray[np.int64]
    first: NDArray[np.int64]

    @classmethod
    def of(cls, names: pa.Array, notes: pa.Array, columns: RecordColumns) -> Reads:
        """The records with these notes, which say what is a mate of what."""
        second = _noted(notes, SECOND_MATE)
        first = np.flatnonzero(~second)
        sequence = np.cumsum(~second, dtype=np.int64) - 1
        # the mates of all pairs have the same order: see sequences.mates
        sequence[second] = sequence[_noted(notes, PAIR)]
        return cls(names, columns, sequence, first)

    @property
    def any_pair(self) -> bool:
        """Whether some sequence is a pair."""
        return len(self.first) < len(self.sequence)

    @property
    def is_mate(self) -> NDArray[np.bool_]:
        """bool [records]: those of a pair."""
        return np.bincount(self.sequence, minlength=len(self.first))[self.sequence] > 1

    def sequence_names(self) -> pa.Array:
        """The name of each sequence; of a pair that which both mates have."""
        if not self.any_pair:
            return self.names
        names = self.names.take(pa.array(self.first))
        shared = pc.utf8_slice_codeunits(names, 0, -2)  # mates end in /1 and /2
        return pc.if_else(pa.array(self.is_mate[self.first]), shared, names)

    def totals(self) -> RecordColumns:
        """The columns of the sequences, pairs added up."""
        if not self.any_pair:
            return self.columns
        read, n = self.columns, len(self.first)

        def total(values: NDArray) -> NDArray:
            return np.bincount(self.sequence, values, n)

        known = read.length - read.n_ambiguous
        with np.errstate(invalid="ignore"):
            gc = total(np.nan_to_num(read.gc) * known) / total(known)
        gc = np.where(self.is_mate[self.first], gc, read.gc[self.first])
        return RecordColumns(
            input=read.input[self.first],
            length=total(read.length).astype(np.int64),
            gc=gc,
            n_chunks=total(read.n_chunks).astype(np.int32),
            n_ambiguous=total(read.n_ambiguous).astype(np.int64),
            problem=total(read.problem) > 0,
            skipped=total(~read.skipped) == 0,
        )

    def by_longer_mate(self, totals: RecordColumns) -> RecordColumns:
        """`totals` with the length of a pair's longer mate."""
        if not self.any_pair:
            return totals
        longest = np.zeros(len(self.first), np.int64)
        np.maximum.at(longest, self.sequence, self.columns.length)
        return replace(totals, length=longest)

    def chunks_of_sequences(self, chunks: ChunkColumns) -> ChunkColumns:
        """`chunks` in the order of the sequences, of which `record` is then the row."""
        if not self.any_pair:
            return chunks
        order = np.argsort(self.sequence[chunks.record], kind="stable")
        sorted_ = [getattr(chunks, column.name)[order] for column in fields(chunks)]
        moved = ChunkColumns(*sorted_)
        return replace(moved, record=self.sequence[moved.record])

    def without_mates(self, chunks: ChunkColumns) -> ChunkColumns:
        """The same of all sequences but pairs, whose mates do not touch."""
        if not self.any_pair:
            return chunks
        alone = ~self.is_mate[chunks.record]
        kept = [getattr(chunks, column.name)[alone] for column in fields(chunks)]
        return self.chunks_of_sequences(ChunkColumns(*kept))

    def stronger(self, strength: NDArray[np.float64]) -> NDArray[np.int64]:
        """int64 [sequences]: the record of each whose `strength` [records] is greater."""
        order = np.lexsort((-np.nan_to_num(strength), self.sequence))
        return order[np.unique(self.sequence[order], return_index=True)[1]]


def _noted(notes: pa.Array, word: str) -> NDArray[np.bool_]:
    """bool [records]: those with this note."""
    found = pc.match_substring_regex(notes, f"(^|;){word}(;|$)")
    return found.to_numpy(zero_copy_only=False).astype(bool)
