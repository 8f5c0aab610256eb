"""Which chunks a call needs: the order, the test, what is near a virus, and the errors."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from virnucpro.calling.columns import Call, ChunkColumns, ChunkStatus, RecordColumns
from virnucpro.calling.consensus import CallRules
from virnucpro.calling.regions import find_regions
from virnucpro.calling.sample import NEVER, in_sample, ranks
from virnucpro.calling.sequential import (
    EFFORTS,
    CallInputs,
    HitPlaces,
    call_sequences,
    next_chunks,
    virus_like,
)
from virnucpro.sequences.chunks import all_spans

C = 500
RULES = CallRules(C)


def chunks_of(*scores) -> ChunkColumns:
    """The chunks of sequences that are as many whole chunks long; NaN: no open frame."""
    spans = all_spans(np.array([C * len(s) for s in scores]), C)
    score = np.concatenate([np.asarray(s, float) for s in scores])
    scored = np.isfinite(score)
    return ChunkColumns(
        record=spans.sequence,
        chunk=spans.chunk.astype(np.int32),
        start=spans.start + 1,
        end=spans.end,
        n_open_frames=scored.astype(np.int32),
        max_others=(1 - score).astype(np.float32),
        max_virus=score.astype(np.float32),
        virus_score=score,
        is_virus=score >= 0.5,
        status=np.where(scored, ChunkStatus.scored, ChunkStatus.no_open_frame).astype(np.uint8),
    )


def unseen(chunks: ChunkColumns, but=()) -> ChunkColumns:
    """The same before any was looked at, but for the rows `but`."""
    hidden = chunks.scored & ~np.isin(np.arange(len(chunks)), list(but))
    return replace(
        chunks,
        status=np.where(hidden, ChunkStatus.not_needed, chunks.status).astype(np.uint8),
        virus_score=np.where(hidden, np.nan, chunks.virus_score),
        is_virus=chunks.is_virus & ~hidden,
    )


def records_of(lengths) -> RecordColumns:
    n, no = len(lengths), np.zeros(len(lengths), bool)
    counts = (np.array(lengths) // C).astype(np.int32)
    zeros = np.zeros(n, np.int64)
    return RecordColumns(
        zeros.astype(np.int32), np.array(lengths), zeros + 0.5, counts, zeros, no, no
    )


def inputs_of(*scores, **more) -> CallInputs:
    return CallInputs(records_of([C * len(s) for s in scores]), RULES, **more)


def played(*scores, effort="balanced", **more) -> ChunkColumns:
    """What was looked at when every call is clear."""
    whole, inputs = chunks_of(*scores), inputs_of(*scores, **more)
    seen: set[int] = set()
    for _ in range(100):
        chunks = unseen(whole, seen)
        rows = np.flatnonzero(next_chunks(chunks, inputs, EFFORTS[effort])).tolist()
        if not rows:
            return chunks
        assert not seen & set(rows)
        seen |= set(rows)
    raise AssertionError("the rounds do not end")


def test_any_first_part_of_the_order_is_spread_evenly():
    whole = chunks_of([0.5] * 20, [0.5], [np.nan, 0.5, 0.5, np.nan, 0.5], [np.nan] * 3)
    rank = ranks(whole)
    assert np.argsort(rank[:20]).tolist() == [
        *(0, 16, 8, 4, 12, 2, 18, 10, 6, 14),
        *(1, 17, 9, 5, 13, 3, 19, 11, 7, 15),
    ]
    assert rank[20] == 0
    assert rank[21:26].tolist() == [NEVER, 0, 2, NEVER, 1] and (rank[26:] == NEVER).all()
    for length in (64, 1000):
        for power in range(6):  # the first are those at every 2^power-th place
            first = np.flatnonzero(ranks(chunks_of([0.5] * length)) < -(-length // 2**power))
            assert (first % 2**power == 0).all()


def test_the_order_of_a_sequence_does_not_depend_on_its_company():
    one, other = [0.1] * 37, [0.9] * 5 + [np.nan] + [0.4] * 12
    both = ranks(chunks_of(one, other))
    assert both[:37].tolist() == ranks(chunks_of(one)).tolist()
    assert both[37:].tolist() == ranks(chunks_of(other)).tolist()


@pytest.mark.parametrize("value, call", [(0.02, Call.non_virus), (0.98, Call.virus)])
def test_a_clear_sequence_leaves_after_its_first_chunks(value, call):
    chunks = played([value] * 200)
    assert chunks.scored.sum() == 200 // 8
    assert inputs_of([value] * 200).calls(chunks)[0] == call
    assert played([value] * 200, effort="quick").scored.sum() == 13
    assert played([value] * 20).scored.sum() == 3
    assert played([value] * 3).scored.all() and played([value]).scored.all()


def test_a_sequence_at_a_point_is_looked_at_whole():
    assert played([0.5] * 40).scored.all()
    assert played([0.3] * 40).scored.all()  # below this it is not ambiguous any more


def test_chunks_that_cannot_be_scored_are_not_waited_for():
    scores = [np.nan] * 30 + [0.01] * 10 + [np.nan] * 30
    chunks = played(scores)
    assert chunks.scored.sum() == 3
    full, few = (
        call_sequences(c, records_of([C * 70]), RULES) for c in (chunks_of(scores), chunks)
    )
    assert few.scored_fraction == full.scored_fraction == 10 / 70
    assert (few.n_looked_at, full.n_looked_at) == (63, 70) and few.call == full.call


def test_a_virus_inside_a_long_sequence_is_found_whole_and_does_not_tip_the_mean():
    scores = np.full(400, 0.03)
    scores[200:260] = 0.97
    chunks = played(scores)
    assert chunks.scored[198:262].all() and chunks.scored.sum() < 140
    inputs = inputs_of(scores)
    assert inputs.calls(chunks)[0] == Call.non_virus
    regions = [
        find_regions(c, call_sequences(c, inputs.records, RULES), inputs.records.length)
        for c in (chunks, chunks_of(scores))
    ]
    assert len(regions[0]) == 1
    assert [(r.start[0], r.end[0]) for r in regions] == 2 * [(200 * C + 1, 260 * C)]
    sequences = call_sequences(chunks, inputs.records, RULES)
    assert sequences.n_scored == chunks.scored.sum()
    assert sequences.virus_score == pytest.approx(
        chunks.virus_score[in_sample(chunks) & chunks.scored].mean()
    )
    assert sequences.virus_score < 0.25


def test_a_virus_is_not_searched_for_regions():
    scores = np.where(np.arange(100) % 10 < 8, 0.99, 0.6)
    chunks = played(scores)
    assert not chunks.scored.all()
    records = records_of([C * 100])
    assert len(find_regions(chunks, call_sequences(chunks, records, RULES), records.length)) == 0


def test_chunks_at_hits_of_viral_proteins_are_looked_at():
    scores = [0.02] * 100
    hits = HitPlaces(
        record=np.zeros(3, np.int64),
        start=np.array([20_100, 30_100, 30_100]),
        end=np.array([21_300, 30_400, 30_400]),
        bits=np.array([90.0, 60.0, 80.0]),
        viral=np.array([True, True, False]),
    )
    assert np.flatnonzero(virus_like(chunks_of(scores), hits)).tolist() == [40, 41, 42]
    chunks = played(scores, hits=hits)
    assert chunks.scored[40:43].all() and not chunks.scored[60:64].all()


def test_known_proteins_can_settle_a_call():
    scores = [0.5] * 40
    hits = SimpleNamespace(in_part=np.array([False]))
    evidence = SimpleNamespace(evidence=hits, log_odds=np.array([8.0]))  # of the search
    chunks = played(scores, evidence=evidence)
    assert chunks.scored.sum() < 10
    assert inputs_of(scores, evidence=evidence).calls(chunks)[0] == Call.virus


@pytest.mark.parametrize("effort", ["balanced", "quick"])
def test_the_promised_error_is_kept_where_chunks_vary_widely(effort):
    draw = np.random.default_rng(5)
    means = draw.beta(0.5, 0.5, 600)
    sequences = [draw.beta(2 * m + 0.02, 2 * (1 - m) + 0.02, 40) for m in means]
    chunks, inputs = played(*sequences, effort=effort), inputs_of(*sequences)
    differing = (inputs.calls(chunks) != inputs.calls(chunks_of(*sequences))).mean()
    assert differing <= EFFORTS[effort].error
    assert chunks.scored.mean() < 0.6
