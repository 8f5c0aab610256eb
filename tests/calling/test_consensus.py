"""Consensus against the rules of the original written out plainly, a record at a time, and the call
rules one by one.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from virnucpro.calling.calibration import Calibration
from virnucpro.calling.columns import CALL_WORDS, ChunkStatus, FrameColumns, Note, RecordColumns
from virnucpro.calling.consensus import (
    CallRules,
    best_first,
    call_chunks,
    call_sequences,
    call_windows,
)
from virnucpro.homology.weights import Points
from virnucpro.sequences.chunks import chunk_spans, n_chunks
from virnucpro.settings import CallPoints

C = 500


def records_of(lengths, problem=(), skipped=()):
    lengths = np.array(lengths, np.int64)
    n = len(lengths)
    flags = [np.isin(np.arange(n), list(rows)) for rows in (problem, skipped)]
    counts = np.where(flags[1], 0, n_chunks(lengths, C)).astype(np.int32)
    return RecordColumns(
        np.zeros(n, np.int32), lengths, np.full(n, 0.5), counts, np.zeros(n, np.int64), *flags
    )


def frames_of(rows):
    """rows: (record, chunk, frame, others, virus); others None = failed; a sixth value is
    aa_length.
    """
    columns = list(zip(*[(*row, 100)[:6] for row in rows], strict=True)) if rows else [()] * 6
    failed = np.array([o is None for o in columns[3]], bool)
    others, virus = (
        np.array([np.nan if v is None else v for v in columns[i]], np.float32) for i in (3, 4)
    )
    ones = np.ones(len(rows), np.int64)
    return FrameColumns(
        np.array(columns[0], np.int64),
        np.array(columns[1], np.int32),
        np.array(columns[2], np.int8),
        ones,
        ones,
        np.array(columns[5], np.int32),
        others,
        virus,
        failed,
        np.zeros(len(rows), bool),
    )


def call(lengths, rows, calibration=None, prevalence=None, problem=(), skipped=(), **rules):
    records = records_of(lengths, problem, skipped)
    rules = CallRules(C, **rules)
    chunks = call_chunks(frames_of(rows), records, rules)
    return chunks, call_sequences(chunks, records, rules, calibration, prevalence)


def words(sequences):
    return [CALL_WORDS[c] for c in sequences.call]


def notes(sequences, row=0):
    return {note.name for note in Note if sequences.notes[row] & note.value}


def test_random_runs_equal_the_rules_written_out_plainly():
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 6000, 300)
    records = records_of(lengths)
    rows = []
    for r, n in enumerate(records.n_chunks):
        for k in range(1, n + 1):
            for f in range(6):
                if rng.random() < 0.25:
                    v = np.float32(rng.random())
                    rows.append(
                        (r, k, f, None, None)
                        if rng.random() < 0.1
                        else (r, k, f, float(np.float32(1) - v), float(v))
                    )
    frames = frames_of(rows)
    chunks = call_chunks(frames, records, CallRules(C))
    sequences = call_sequences(chunks, records, CallRules(C))
    i = 0
    for r, length in enumerate(lengths.tolist()):
        total = weight = scored = 0
        for k, (start, end) in enumerate(chunk_spans(length, C), start=1):
            mine = [row for row in rows if row[0] == r and row[1] == k]
            good = [row for row in mine if row[3] is not None]
            assert (chunks.record[i], chunks.chunk[i], chunks.start[i] - 1, chunks.end[i]) == (
                r,
                k,
                start,
                end,
            )
            assert chunks.n_open_frames[i] == len(mine)
            if good:
                others, virus = max(row[3] for row in good), max(row[4] for row in good)
                assert chunks.virus_score[i] == pytest.approx(virus / (virus + others), abs=1e-12)
                assert chunks.is_virus[i] == (virus >= others) == (chunks.virus_score[i] >= 0.5)
                assert chunks.status[i] == ChunkStatus.scored
                total, weight, scored = (
                    total + chunks.virus_score[i] * (end - start),
                    weight + end - start,
                    scored + 1,
                )
            else:
                assert np.isnan(chunks.virus_score[i]) and not chunks.is_virus[i]
                assert chunks.status[i] == (
                    ChunkStatus.failed if mine else ChunkStatus.no_open_frame
                )
            i += 1
        assert sequences.n_scored[r] == scored
        if scored:
            assert sequences.virus_score[r] == pytest.approx(total / weight, abs=1e-12)
    assert i == len(chunks)


def test_the_order_of_the_frames_does_not_matter():
    rows = [(0, 1, 0, 0.9, 0.1), (0, 2, 3, 0.3, 0.7), (1, 1, 5, 0.2, 0.8), (0, 1, 4, 0.5, 0.5)]
    one, two = call([900, 400], rows), call([900, 400], rows[::-1])
    for a, b in zip(one, two, strict=True):
        for name in a.__slots__:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_tie_is_virus_for_a_chunk():
    chunks, _ = call([500], [(0, 1, 0, 0.5, 0.5)])
    assert chunks.is_virus[0] and chunks.virus_score[0] == 0.5


@pytest.mark.parametrize(
    ("score", "points", "word"),
    [
        (0.5, CallPoints(), "virus"),
        (0.49, CallPoints(), "ambiguous"),
        (0.31, CallPoints(), "ambiguous"),
        (0.29, CallPoints(), "non-virus"),
        (0.79, CallPoints(0.8), "ambiguous"),
        (0.81, CallPoints(0.8), "virus"),
        (0.31, CallPoints(0.3), "virus"),
        (0.2, CallPoints(0.1), "virus"),
        (0.05, CallPoints(0.1), "non-virus"),
    ],
)
def test_points(score, points, word):
    _, sequences = call([500], [(0, 1, 0, 1 - score, score)], points=points)
    assert words(sequences) == [word]


@pytest.mark.parametrize(("length", "short"), [(249, True), (250, False), (500, False)])
def test_shorter_than_half_a_chunk_is_scored_but_not_called(length, short):
    row = [(0, 1, 0, 0.1, 0.9)]
    _, sequences = call([length], row)
    assert words(sequences) == ["too_short" if short else "virus"]
    assert ("too_short" in notes(sequences)) == short
    assert ("below_model_length" in notes(sequences)) == (length < C)
    assert sequences.virus_score[0] == pytest.approx(0.9)
    assert words(call([length], row, allow_short=True)[1]) == ["virus"]


def test_little_evidence_never_calls_virus():
    one = [(0, 1, 0, 0.1, 0.9)]
    two = [*one, (0, 2, 0, 0.1, 0.9)]
    cases = [
        ([2999], one, "virus", False),
        ([3000], one, "ambiguous", True),
        ([3000], two, "virus", False),
        ([5000], two, "virus", False),
        ([5001], two, "ambiguous", True),
    ]
    for lengths, rows, word, little in cases:
        _, sequences = call(lengths, rows)
        assert words(sequences) == [word] and ("low_evidence" in notes(sequences)) == little
    _, sequences = call([3000], [(0, 1, 0, 0.9, 0.1)])
    assert words(sequences) == ["non-virus"] and "low_evidence" in notes(sequences)


def test_what_has_no_score_says_why():
    rows = [(2, 1, 0, None, None, 1023), (3, 1, 0, None, None)]
    chunks, sequences = call([500, 500, 500, 500, 500, 0], rows, problem=[1], skipped=[4])
    assert [ChunkStatus(s).name for s in chunks.status] == [
        "no_open_frame",
        "invalid_characters",
        "frame_too_long",
        "failed",
    ]
    assert words(sequences) == ["not_scored"] * 6
    expected = [
        {"no_open_frame"},
        {"invalid_characters"},
        {"frame_too_long"},
        {"failed"},
        {"below_min_length"},
    ]
    assert [notes(sequences, row) for row in range(5)] == expected
    assert {"too_short", "no_open_frame"} <= notes(sequences, 5)


def test_a_frame_too_long_leaves_the_chunk_to_its_other_frames():
    chunks, sequences = call([500], [(0, 1, 0, None, None, 1023), (0, 1, 1, 0.2, 0.8)])
    assert chunks.scored.all() and chunks.n_open_frames[0] == 2 and words(sequences) == ["virus"]


def test_with_a_calibration_the_probability_decides():
    flip = Calibration(("logit_score",), (-1.0,))
    _, sequences = call([500, 500], [(0, 1, 0, 0.1, 0.9), (1, 1, 0, 0.9, 0.1)], calibration=flip)
    assert words(sequences) == ["non-virus", "virus"] and not notes(sequences) & {"uncalibrated"}
    assert np.isnan(sequences.fdr).all()
    _, sequences = call([500], [(0, 1, 0, 0.1, 0.9)])
    assert notes(sequences) == {"uncalibrated"} and np.isnan(sequences.virus_probability[0])


def test_as_many_are_virus_as_keep_the_share_of_false_calls():
    as_is = Calibration(("logit_score",), (1.0,))
    values = [0.99, 0.9, 0.6, 0.2]  # the running means of 1 - p: 0.01, 0.055, 0.17, 0.3275
    rows = [(r, 1, 0, 1 - v, v) for r, v in enumerate(values)]
    for share, expected in ((0.06, 2), (0.2, 3), (0.001, 0)):
        _, found = call([500] * 4, rows, as_is, points=CallPoints(max_fdr=share))
        assert words(found) == ["virus"] * expected + ["ambiguous"] * (3 - expected) + ["non-virus"]
    assert found.fdr == pytest.approx([0.01, 0.055, 0.17, 0.3275], abs=1e-6)
    _, moved = call([500] * 4, rows, as_is, 0.01, points=CallPoints(max_fdr=0.06))
    assert words(moved) == [
        "ambiguous",
        *["non-virus"] * 3,
    ]  # 0.99 is 0.5 where a hundredth is viral
    assert np.isnan(call([500] * 4, rows, as_is)[1].fdr).all()


def test_the_points_of_a_share_of_false_positives_are_those_of_the_length():
    points = {"5%": (0.6, 0.4), "1%": (0.9, 0.6), "0.1%": (0.95, 0.8)}
    weighed = Calibration(("logit_score",), (1.0,), points=Points((500, 5000), points))
    rows = [(r, k, 0, 0.3, 0.7) for r, n in enumerate((1, 10)) for k in range(1, n + 1)]
    expected = {
        "5%": ["virus", "virus"],
        "1%": ["ambiguous", "virus"],
        "0.1%": ["ambiguous", "ambiguous"],
    }
    for share, calls in expected.items():
        for prevalence in (None, 0.9):
            _, found = call(
                [500, 5000], rows, weighed, prevalence, points=CallPoints(false_positives=share)
            )
            assert words(found) == calls


def test_hits_in_part_of_a_long_sequence_do_not_make_a_virus_of_it():
    records, rules = records_of([600, 600]), CallRules(C)
    chunks = call_chunks(frames_of([(r, 1, 0, 0.7, 0.3) for r in (0, 1)]), records, rules)
    hits = SimpleNamespace(in_part=np.array([True, False]))
    evidence = SimpleNamespace(evidence=hits, log_odds=np.array([9.0, 9.0]))
    plain = Calibration(("logit_score",), (1.0,))
    found = call_sequences(chunks, records, rules, plain, None, evidence)
    assert found.virus_probability == pytest.approx([0.3, 1.0], abs=1e-3)
    assert words(found) == ["ambiguous", "virus"]


def test_best_first():
    lengths = [500, 400, 500, 400, 500]
    rows = [(r, 1, 0, 1 - v, v) for r, v in enumerate([0.6, 0.9, 0.9, 0.9, 0.1])]
    _, sequences = call(lengths, rows)
    assert best_first(sequences, records_of(lengths)).tolist() == [2, 1, 3, 0]


def test_stretches_count_by_the_squares_of_their_residues():
    rows = [
        (0, 1, 0, 0.2, 0.8, 160),
        (0, 1, 4, 0.9, 0.1, 80),
        (0, 2, 1, 0.0, 1.0, 30),
        (0, 2, 2, None, None, 9),
        (1, 1, 3, None, None, 50),
    ]
    chunks, sequences = call([1000, 500], rows, frame_policy="stretches")
    odds = (4 * np.log(0.8 / 0.2) + np.log(0.1 / 0.9)) / 5
    assert chunks.virus_score[0] == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-6)
    assert chunks.max_virus[0] + chunks.max_others[0] == pytest.approx(1, abs=1e-6)
    assert chunks.virus_score[1] == pytest.approx(1, abs=1e-6) and chunks.is_virus.tolist() == [
        True,
        True,
        False,
    ]
    assert [ChunkStatus(s).name for s in chunks.status] == ["scored", "scored", "failed"]
    assert np.isnan(chunks.virus_score[2]) and sequences.n_open_frames.tolist() == [4, 1]


def test_a_single_stretch_has_the_score_of_its_frame():
    rows = [(0, 1, 0, 0.3, 0.7, 90), (1, 1, 5, 0.99, 0.01, 20)]
    plain, weighted = (
        call([500, 500], rows, frame_policy=policy)[0].virus_score
        for policy in ("longest", "stretches")
    )
    assert weighted == pytest.approx(plain, abs=1e-6)


def test_nothing_at_all():
    chunks, sequences = call([], [])
    assert len(chunks) == len(sequences) == 0


def test_windows_of_stretches_are_scored_as_chunks_are():
    # chunks 1-4, then windows
    rows = [(0, 5, 0, 0.2, 0.8, 90), (0, 5, 4, 0.6, 0.4, 60), (0, 6, 2, None, None, 90)]
    windows = call_windows(
        frames_of(rows), records_of([1600]), CallRules(C, stride=400, frame_policy="stretches")
    )
    odds = (90**2 * np.log(4) + 60**2 * np.log(0.4 / 0.6)) / (90**2 + 60**2)
    assert windows.virus_score[0] == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-6)
    assert [ChunkStatus(s).name for s in windows.status[:3]] == [
        "scored",
        "failed",
        "no_open_frame",
    ]


def test_windows_are_scored_by_the_same_rule_as_chunks():
    records = records_of([900, 1600, 1100, 2000], problem=[2], skipped=[3])
    # chunks 1-4, then windows
    rows = [(1, 5, 0, 0.2, 0.8), (1, 5, 4, 0.6, 0.4), (1, 8, 1, 0.9, 0.1), (1, 6, 2, None, None)]
    windows = call_windows(frames_of(rows), records, CallRules(C, stride=400))
    assert windows.record.tolist() == [1, 1, 1, 1, 2, 2, 2] and windows.chunk.tolist() == [
        1,
        2,
        3,
        4,
        1,
        2,
        3,
    ]
    assert windows.start.tolist()[:4] == [1, 401, 801, 1101] and windows.end.tolist()[:4] == [
        500,
        900,
        1300,
        1600,
    ]
    status = ["scored", "failed", "no_open_frame", "scored", *["invalid_characters"] * 3]
    assert [ChunkStatus(s).name for s in windows.status] == status
    assert windows.virus_score[[0, 3]] == pytest.approx([0.8 / 1.4, 0.1])
    assert windows.n_open_frames.tolist()[:4] == [2, 1, 0, 1]


@pytest.mark.parametrize("policy", ["open", "stretches"])
@pytest.mark.parametrize("wrong", [(np.nan, np.nan), (np.inf, 0.0), (0.0, -np.inf), (0.2, np.nan)])
def test_a_score_that_is_not_finite_is_never_a_call(policy, wrong):
    rows = [(0, 1, 0, *wrong), (1, 1, 0, *wrong), (1, 1, 1, 0.1, 0.9), (1, 2, 0, 0.1, 0.9)]
    chunks, sequences = call([500, 1000], rows, frame_policy=policy)
    assert [ChunkStatus(s).name for s in chunks.status] == ["failed", "failed", "scored"]
    assert not chunks.is_virus[:2].any() and np.isnan(chunks.virus_score[:2]).all()
    assert words(sequences) == ["not_scored", "virus"]
    assert "failed" in notes(sequences, 0) and "failed" in notes(sequences, 1)
    assert np.isnan(sequences.virus_score[0]) and sequences.virus_score[1] == pytest.approx(0.9)
