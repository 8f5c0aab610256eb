"""Regions against a plain reference that walks chunk by chunk, and the cases a reader will meet."""

from __future__ import annotations

import numpy as np
import pytest

from virnucpro.calling.columns import Call, ChunkColumns, ChunkStatus, Note, SequenceColumns
from virnucpro.calling.regions import (
    FEWEST_SCORED,
    REACH,
    RegionLimits,
    find_regions,
    note_regions,
    smooth_scores,
)

NAN = np.nan


def columns(*score_lists, calls=None, step=400, width=500):
    """Chunks of several sequences from their scores (NaN: not scored), and the sequences with the
    given calls.
    """
    record = np.repeat(np.arange(len(score_lists)), [len(s) for s in score_lists])
    k = np.concatenate([np.arange(len(s)) for s in score_lists]).astype(np.int64)
    score = np.concatenate([np.asarray(s, float) for s in score_lists])
    scored = ~np.isnan(score)
    status = np.where(scored, ChunkStatus.scored, ChunkStatus.no_open_frame).astype(np.uint8)
    halves = (1 - score).astype(np.float32), score.astype(np.float32)
    chunks = ChunkColumns(
        record,
        (k + 1).astype(np.int32),
        k * step + 1,
        k * step + width,
        scored.astype(np.int32),
        *halves,
        score,
        score >= 0.5,
        status,
    )
    n = len(score_lists)
    blank = np.full(n, NAN)
    calls = np.array(calls or [Call.non_virus] * n, np.uint8)
    n_scored = np.bincount(record[scored], minlength=n).astype(np.int32)
    sequences = SequenceColumns(
        n_scored,
        blank,
        blank,
        blank,
        blank,
        n_scored,
        n_scored,
        calls,
        blank,
        np.zeros(n, np.uint16),
        blank,
        n_scored,
    )
    lengths = np.array([(len(s) - 1) * step + width for s in score_lists])
    return chunks, sequences, lengths


def reference(scores, density, limits):
    """(first, last) chunk of every region of one sequence, by walking it."""
    reach, fewest = REACH * density, (FEWEST_SCORED - 1) * density + 1
    n = len(scores)
    smooth = []
    for i in range(n):
        near = [s for s in scores[max(0, i - reach) : i + reach + 1] if s == s]
        smooth.append(sum(near) / len(near) if near else -1)
    found, i = [], 0
    while i < n:
        j = i
        while j < n and smooth[j] >= limits.stays:
            j += 1
        if j > i and max(smooth[i:j]) >= limits.opens:
            core = [k for k in range(i, j) if scores[k] >= limits.stays]
            if core:
                inside = [s for s in scores[core[0] : core[-1] + 1] if s == s]
                if len(inside) >= fewest:
                    found.append((core[0], core[-1], len(inside), np.mean(inside), max(inside)))
        i = max(j, i + 1)
    return found


@pytest.mark.parametrize(
    ("density", "limits"),
    [(1, RegionLimits(0.8, 0.5)), (3, RegionLimits()), (1, RegionLimits(0.65, 0.45))],
)
def test_random_sequences_equal_the_walk(density, limits):
    rng = np.random.default_rng(0)
    lists = []
    for _ in range(400):
        level = np.repeat(rng.random(8), density * rng.integers(1, 12, 8))
        scores = np.clip(level + rng.normal(0, 0.1, len(level)), 0, 1)
        scores[rng.random(len(scores)) < 0.4] = NAN
        lists.append(scores[: rng.integers(0, len(scores) + 1)])
    chunks, sequences, lengths = columns(*lists)
    regions = find_regions(chunks, sequences, lengths, density, limits)
    expected = [
        (r, number, *region)
        for r, s in enumerate(lists)
        for number, region in enumerate(reference(list(s), density, limits), start=1)
    ]
    assert len(expected) > 100
    ours = zip(
        regions.record,
        regions.region,
        (regions.start - 1) // 400,
        (regions.end - 500) // 400,
        regions.n_scored,
        regions.mean_score,
        regions.max_score,
        strict=True,
    )
    for mine, wanted in zip(ours, expected, strict=True):
        assert mine == pytest.approx(wanted)


def test_a_prophage_like_stretch():
    scores = [0.1] * 10 + [0.9, NAN, 0.95, 0.97, 0.9] + [0.1] * 10
    chunks, sequences, lengths = columns(scores, [0.1] * 5)
    regions = find_regions(chunks, sequences, lengths)
    assert (regions.start[0], regions.end[0]) == (4001, 14 * 400 + 500)
    assert (len(regions), regions.n_chunks[0], regions.n_scored[0], regions.resolution[0]) == (
        1,
        5,
        4,
        400,
    )
    note_regions(sequences, regions)
    assert sequences.notes.tolist() == [Note.contains_virus_like_region, 0]


def test_windows_know_a_border_to_half_their_length_at_best():
    chunks, sequences, lengths = columns([0.1] * 20 + [0.9] * 30 + [0.1] * 20, step=100)
    regions = find_regions(chunks, sequences, lengths, density=5)
    assert (regions.start.tolist(), regions.end.tolist(), regions.resolution.tolist()) == (
        [2001],
        [4900 + 500],
        [250],
    )


def test_gaps_beside_a_region_widen_its_resolution():
    scores = [0.1] * 5 + [NAN] * 3 + [0.9] * 5 + [NAN] * 7
    chunks, sequences, lengths = columns(scores)
    assert find_regions(chunks, sequences, lengths).resolution.tolist() == [7 * 400]
    chunks, sequences, lengths = columns(scores[:13])
    assert find_regions(chunks, sequences, lengths).resolution.tolist() == [4 * 400]


def test_two_scored_chunks_are_no_region():
    chunks, sequences, lengths = columns([NAN, 0.99, 0.99, NAN, NAN, NAN])
    assert len(find_regions(chunks, sequences, lengths)) == 0


def test_most_of_a_virus_is_not_listed_again_but_a_part_is():
    most, part = [0.9] * 6 + [0.05] * 4, [0.9] * 6 + [0.05] * 6
    chunks, sequences, lengths = columns(
        most, part, most, calls=[Call.virus, Call.virus, Call.ambiguous]
    )
    regions = find_regions(chunks, sequences, lengths)
    assert regions.record.tolist() == [1, 2]
    note_regions(sequences, regions)
    assert sequences.notes.tolist() == [0, 0, Note.contains_virus_like_region]


def test_a_smooth_score_does_not_depend_on_its_company():
    rng = np.random.default_rng(0)
    mine = rng.random(9)
    alone = smooth_scores(columns(mine)[0])
    beside = smooth_scores(columns(rng.random(1000), mine, rng.random(50))[0])
    np.testing.assert_array_equal(beside[1000:1009], alone)


def test_nothing():
    chunks, sequences, lengths = columns([], [NAN], [NAN, NAN])
    regions = find_regions(chunks, sequences, lengths)
    assert len(regions) == 0
    note_regions(sequences, regions)
