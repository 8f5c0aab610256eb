"""How many chunks of a long sequence its call needs: a sequential test, of which `--effort` names
the strictness.

A sequence is settled when the mean score of the chunks looked at so far is so many standard errors
from every point at which its call would be another one. Which chunks are needed follows from the
scores alone, never from how or when they were computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virnucpro.calling.calibration import Calibration
from virnucpro.calling.columns import Call, ChunkColumns, ChunkStatus, RecordColumns
from virnucpro.calling.consensus import CallRules, call_sequences
from virnucpro.calling.regions import RegionLimits, smooth_scores
from virnucpro.calling.sample import in_sample, ranks
from virnucpro.settings import FULL, Choice

if TYPE_CHECKING:
    from virnucpro.calling.evidence import EvidenceColumns

# chunks of a sequence looked at before each test: two tests to a doubling
LOOKS = np.array([3 * 2**k for k in range(40)] + [4 * 2**k for k in range(40)])
LOOKS.sort()
# Few chunks may agree by chance: their variance is drawn to this one, which counts as so many more.
USUAL_SPREAD, WEIGHT_OF_USUAL = 0.2, 2


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is looked at. margin: standard errors from the mean to the nearest point; grid: of
    so many neighbouring chunks at least one is always looked at; error: the share of calls that may
    differ from those of all chunks.
    """

    margin: float
    grid: int
    error: float


# The errors are promises, kept on contigs never seen: docs/PERFORMANCE.md has what was measured.
EFFORTS = {"balanced": Effort(2.75, 8, 0.01), "quick": Effort(1.5, 16, 0.05)}


def effort_choice(name: str) -> tuple[Choice, ...]:
    """What is said of an effort that leaves chunks out."""
    if name == FULL:
        return ()
    error = f"at most {EFFORTS[name].error:.0%} of the calls differ from those of all chunks"
    return (Choice("effort", name, f"{error}; --effort full looks at all"),)


class HitPlaces(NamedTuple):
    """Where known proteins have their hits, [hits] each; positions are 1-based and inclusive."""

    record: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    bits: NDArray[np.float64]
    viral: NDArray[np.bool_]  # whether the protein is


@dataclass(frozen=True)
class CallInputs:
    """What calls are made of beside the chunks: see `call_sequences`. hits: of known proteins."""

    records: RecordColumns
    rules: CallRules
    calibration: Calibration | None = None
    prevalence: float | None = None
    evidence: EvidenceColumns | None = None  # where it decides too
    hits: HitPlaces | None = None

    @property
    def limits(self) -> RegionLimits:
        """Of virus-like regions."""
        return RegionLimits() if self.calibration is None else self.calibration.regions

    def calls(self, chunks: ChunkColumns) -> NDArray[np.uint8]:
        """The call of every sequence."""
        return call_sequences(
            chunks,
            self.records,
            self.rules,
            self.calibration,
            self.prevalence,
            self.evidence,
        ).call


def next_chunks(chunks: ChunkColumns, inputs: CallInputs, effort: Effort) -> NDArray[np.bool_]:
    """bool [chunks]: those to look at next; none when every call is clear."""
    unseen = chunks.status == ChunkStatus.not_needed
    if not unseen.any():
        return unseen
    rank = ranks(chunks)
    settled, is_virus = _settled(chunks, inputs, effort.margin)
    open_, aim = chunks.record[unseen], _aim(chunks, effort.grid)
    wanted = np.zeros(len(chunks), bool)
    wanted[unseen] = ~settled[open_] & (rank[unseen] < aim[open_])
    if settled.any():
        suspect = smooth_scores(chunks) >= inputs.limits.stays
        if inputs.hits is not None:
            suspect |= virus_like(chunks, inputs.hits)
        wanted |= unseen & suspect & (settled & ~is_virus)[chunks.record]
    return wanted


def _aim(chunks: ChunkColumns, grid: int) -> NDArray[np.int64]:
    """int64 [sequences]: how many chunks are looked at before the next test."""
    n = int(chunks.record.max()) + 1
    count = np.bincount(chunks.record[chunks.scorable], minlength=n)
    seen = np.bincount(chunks.record[in_sample(chunks)], minlength=n)
    return np.maximum(LOOKS[np.searchsorted(LOOKS, seen, "right")], -(-count // grid))


def _settled(
    chunks: ChunkColumns, inputs: CallInputs, margin: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(whether the call is clear, whether it is virus), bool [sequences] each."""
    n = len(inputs.records)
    drawn = chunks.scored & in_sample(chunks)
    owner, score = chunks.record[drawn], chunks.virus_score[drawn]
    bases = (chunks.end - chunks.start + 1)[drawn].astype(np.float64)
    seen = np.bincount(owner, minlength=n)
    count = np.maximum(np.bincount(chunks.record[chunks.scorable], minlength=n), 1)
    weights = np.bincount(owner, bases, n)
    mean = np.divide(np.bincount(owner, score * bases, n), weights, out=np.zeros(n), where=seen > 0)
    square = np.bincount(owner, (score - mean[owner]) ** 2, n)
    freedom = np.maximum(WEIGHT_OF_USUAL + seen - 1, 1)
    variance = (WEIGHT_OF_USUAL * USUAL_SPREAD**2 + square) / freedom
    left = np.maximum(1 - seen / count, 0)  # of a finite number of chunks
    step = margin * np.sqrt(variance / np.maximum(seen, 1) * left)
    low, high = (_call_at(np.clip(mean + d, 0, 1), chunks, inputs) for d in (-step, step))
    enough = seen >= np.minimum(LOOKS[0], count)
    return enough & (low == high), low == Call.virus


def _call_at(
    score: NDArray[np.float64], chunks: ChunkColumns, inputs: CallInputs
) -> NDArray[np.uint8]:
    """The calls, had every chunk of a sequence its `score`, [sequences]."""
    scorable = chunks.scorable
    same = replace(
        chunks,
        virus_score=np.where(scorable, score[chunks.record], np.nan),
        status=np.where(scorable, ChunkStatus.scored, chunks.status).astype(np.uint8),
    )
    return inputs.calls(same)


def virus_like(chunks: ChunkColumns, hits: HitPlaces) -> NDArray[np.bool_]:
    """bool [chunks]: those where the best hit is with a viral protein."""
    hit, row = overlapped(chunks, hits.record, hits.start, hits.end)
    best = np.zeros((2, len(chunks)))
    np.maximum.at(best, (hits.viral[hit].astype(np.int64), row), hits.bits[hit])
    return best[1] > best[0]


def overlapped(
    chunks: ChunkColumns,
    record: NDArray[np.int64],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(which stretch, which chunk) of every pair that overlaps; the stretches start..end lie in the
    sequences `record`.
    """
    last_base = chunks.end.max(initial=0)
    span = int(last_base) + 2
    start, end = np.clip(start, 1, span - 1), np.clip(end, 0, last_base)
    first = np.searchsorted(chunks.record * span + chunks.end, record * span + start)
    last = np.searchsorted(chunks.record * span + chunks.start, record * span + end, "right")
    count = np.maximum(last - first, 0)
    stretch = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(stretch)) - np.repeat(np.cumsum(count) - count, count) + first[stretch]
    return stretch, row
