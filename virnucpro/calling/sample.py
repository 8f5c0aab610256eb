"""In which order the chunks of a sequence are looked at where not all are needed, and which of
those looked at are a fair sample of it.

The order depends on nothing but how many chunks could have a score: any first part of it is spread
evenly over the sequence. Knows no scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from virnucpro.calling.columns import ChunkColumns, ChunkStatus

NEVER = np.iinfo(np.int64).max  # the rank of a chunk that cannot have a score


def ranks(chunks: ChunkColumns) -> NDArray[np.int64]:
    """int64 [chunks]: the place of each in the order in which its sequence is looked at, from 0:
    that of the bit-reversed places 0, 1/2, 1/4, 3/4, 1/8 ... along the sequence.
    """
    rows = np.flatnonzero(chunks.scorable)
    record = chunks.record[rows]
    place = _within(record)
    count = np.bincount(record, minlength=1)[record]  # of the sequence's, at every chunk
    reversed_place = np.zeros(len(rows), np.int64)
    bits = np.ceil(np.log2(np.maximum(count, 1))).astype(np.int64)
    for bit in range(int(bits.max(initial=0))):
        shift = np.maximum(bits - 1 - bit, 0)
        reversed_place |= np.where(bit < bits, ((place >> bit) & 1) << shift, 0)
    order = np.lexsort((reversed_place, record))
    out = np.full(len(chunks), NEVER)
    out[rows[order]] = _within(record[order])
    return out


def in_sample(chunks: ChunkColumns) -> NDArray[np.bool_]:
    """bool [chunks]: those looked at before the first that was not. What was looked at beyond, as
    it lies near something viral, would tip a mean.
    """
    unseen = chunks.status == ChunkStatus.not_needed
    if not unseen.any():
        return chunks.scorable
    rank = ranks(chunks)
    first = np.full(int(chunks.record.max()) + 1, NEVER)
    np.minimum.at(first, chunks.record[unseen], rank[unseen])
    return rank < first[chunks.record]


def _within(record: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2 ... within each sequence; `record` is ascending."""
    place = np.arange(len(record))
    begins = np.concatenate([np.ones(min(len(record), 1), bool), record[1:] != record[:-1]])
    return place - np.maximum.accumulate(np.where(begins, place, 0))
