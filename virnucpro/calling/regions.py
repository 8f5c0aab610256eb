"""Virus-like regions: stretches of long sequences whose chunks score like a virus.

Chunk scores are smoothed over neighbouring chunks; a region opens where the smooth score reaches
`opens` and goes on while it stays at or over `stays` (hysteresis): a model's calibration may have
its own. They are not called proviruses: no gene and no attachment site was looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virnucpro.calling.columns import Call, ChunkColumns, ChunkStatus, Note, SequenceColumns

REACH = 2  # chunks to either side that enter a chunk's smooth score
FEWEST_SCORED = 3


@dataclass(frozen=True, slots=True)
class RegionLimits:
    """Smooth scores at which a region opens and down to which it goes on."""

    opens: float = 0.8
    stays: float = 0.5


@dataclass(frozen=True, slots=True)
class RegionColumns:
    """Every region, in input order. `start` and `end` are 1-based and inclusive; `region` counts
    from 1 in a sequence.

    `resolution`: bases within which either border is known: the distance from it to the nearest
    scored chunk outside, or to the end of the sequence where there is none, and never less than the
    step between chunks, nor than half a chunk: one that straddles a border may score either way.
    """

    record: NDArray[np.int64]
    region: NDArray[np.int32]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    n_chunks: NDArray[np.int32]
    n_scored: NDArray[np.int32]
    mean_score: NDArray[np.float64]
    max_score: NDArray[np.float64]
    resolution: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.record)


def fewest_scored(density: int) -> int:
    """Scored chunks, or windows `density` to a chunk, that a region must have."""
    return (FEWEST_SCORED - 1) * density + 1


def smooth_scores(chunks: ChunkColumns, reach: int = REACH) -> NDArray[np.float64]:
    """Mean of the scored chunks among each chunk and its `reach` neighbours to either side; NaN
    where none is scored.

    Added neighbour by neighbour, never as differences of running sums: a sequence's value must not
    depend on which sequences stand before it.
    """
    scored = chunks.scored
    value = np.where(scored, chunks.virus_score, 0.0)
    total, count = value.copy(), scored.astype(np.int32)
    for distance in range(1, min(reach, len(chunks) - 1) + 1):
        same = chunks.record[distance:] == chunks.record[:-distance]
        for here, there in (
            (slice(distance, None), slice(None, -distance)),
            (slice(None, -distance), slice(distance, None)),
        ):
            total[here] += np.where(same, value[there], 0.0)
            count[here] += same & scored[there]
    return np.divide(total, count, out=np.full(len(chunks), np.nan), where=count > 0)


def find_regions(
    chunks: ChunkColumns,
    sequences: SequenceColumns,
    lengths: NDArray[np.int64],
    density: int = 1,
    limits: RegionLimits = RegionLimits(),
) -> RegionColumns:
    """All regions of at least `FEWEST_SCORED` scored chunks, ends cut back to chunks that score at
    least `stays` themselves.

    Of a sequence called virus, which is in `virus.fna` as a whole, only a region of at most half of
    its scored chunks counts, and none where not all were looked at. `chunks` may be windows,
    `density` of them to a chunk: so many more are averaged and wanted, that the bases stay the
    same.
    """
    scored_before = np.concatenate([[0], np.cumsum(chunks.scored)])  # [chunks + 1]
    first, last = _stretches(chunks, smooth_scores(chunks, REACH * density), limits)
    record = chunks.record[first]  # [regions]
    n_scored = scored_before[last + 1] - scored_before[first]

    all_scored = np.bincount(chunks.record[chunks.scored], minlength=len(sequences))
    unseen = np.bincount(
        chunks.record[chunks.status == ChunkStatus.not_needed], minlength=len(sequences)
    )
    most = 2 * n_scored > all_scored[record]
    most |= unseen[record] > 0  # in a virus nothing is looked at for regions
    most &= sequences.call[record] == Call.virus
    kept = (n_scored >= fewest_scored(density)) & ~most
    first, last, record, n_scored = first[kept], last[kept], record[kept], n_scored[kept]

    scores = chunks.virus_score[chunks.scored]  # a region's are scores[a:b]
    mean, highest = np.empty(len(first)), np.empty(len(first))
    for i, (a, b) in enumerate(zip(scored_before[first], scored_before[last + 1], strict=True)):
        mean[i], highest[i] = scores[a:b].mean(), scores[a:b].max()  # regions are few
    return RegionColumns(
        record=record,
        region=_numbers_within(record),
        start=chunks.start[first],
        end=chunks.end[last],
        n_chunks=(last - first + 1).astype(np.int32),
        n_scored=n_scored.astype(np.int32),
        mean_score=mean,
        max_score=highest,
        resolution=_resolution(chunks, first, last, lengths),
    )


def _stretches(
    chunks: ChunkColumns, smooth: NDArray[np.float64], limits: RegionLimits
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(first, last) chunk of each stretch that stays at or over `limits.stays` and somewhere
    reaches `limits.opens`, cut back to chunks that score `limits.stays` themselves: int64 [n] each.
    """
    inside = smooth >= limits.stays  # [chunks], False where NaN
    # a run begins where the chunk before is not inside, or is another sequence's
    begins = inside.copy()
    begins[1:] &= ~(inside[:-1] & (chunks.record[1:] == chunks.record[:-1]))
    run = np.cumsum(begins) - 1  # [chunks] the number of its run, where inside
    n_runs = int(begins.sum())

    peak = np.zeros(n_runs)
    np.maximum.at(peak, run[inside], smooth[inside])
    # chunks that score high themselves: the first and the last of a run are its borders
    core = np.flatnonzero(inside & (np.nan_to_num(chunks.virus_score) >= limits.stays))
    first, last = np.full(n_runs, len(chunks)), np.full(n_runs, -1)
    np.minimum.at(first, run[core], core)
    np.maximum.at(last, run[core], core)
    kept = (peak >= limits.opens) & (last >= 0)  # last is -1 where a run has no such chunk
    return first[kept], last[kept]


def _numbers_within(record: NDArray[np.int64]) -> NDArray[np.int32]:
    """1, 2, 3 ... within each sequence; `record` [n] is ascending."""
    if not len(record):
        return np.zeros(0, np.int32)
    place = np.arange(len(record))
    is_first = np.concatenate([[True], record[1:] != record[:-1]])
    # the place of the first region of each one's sequence
    first = np.maximum.accumulate(np.where(is_first, place, 0))
    return (place - first + 1).astype(np.int32)


def note_regions(sequences: SequenceColumns, regions: RegionColumns) -> None:
    """Note a virus-like region at every sequence that has one and is not itself called virus."""
    rows = regions.record[sequences.call[regions.record] != Call.virus]
    sequences.notes[rows] |= Note.contains_virus_like_region.value


def _resolution(
    chunks: ChunkColumns,
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> NDArray[np.int64]:
    """See RegionColumns: the larger uncertainty of the two borders, in bases."""
    scored = np.flatnonzero(chunks.scored)
    record = chunks.record[first]

    def neighbour(place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        valid = (place >= 0) & (place < len(scored))
        row = (
            scored[np.clip(place, 0, max(len(scored) - 1, 0))]
            if len(scored)
            else np.zeros_like(place)
        )
        return row, valid & (chunks.record[row] == record)

    before, has_before = neighbour(np.searchsorted(scored, first) - 1)
    after, has_after = neighbour(np.searchsorted(scored, last) + 1)
    left = np.where(has_before, chunks.start[first] - chunks.start[before], chunks.start[first] - 1)
    right = np.where(
        has_after, chunks.end[after] - chunks.end[last], lengths[record] - chunks.end[last]
    )
    # first has a successor: >= 3 chunks
    step = chunks.start[np.minimum(first + 1, len(chunks) - 1)] - chunks.start[first]
    half = (chunks.end[first] - chunks.start[first] + 1) // 2
    return np.maximum(np.maximum(left, right), np.maximum(step, half))
