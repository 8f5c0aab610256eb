from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.sequences.chunks import (
    all_spans,
    all_windows,
    chunk_spans,
    chunks_and_windows,
    n_chunks,
)


def by_recurrence(length: int, chunk: int) -> list[tuple[int, int]]:
    """SPEC 2 word for word."""
    n = -(-length // chunk)
    if n == 0:
        return []
    q, r = divmod(n * chunk - length, n)
    start, spans = 0, []
    for k in range(n):
        spans.append((start, start + min(chunk, length - start)))
        start += chunk - (q + 1 if k < q + r else q)
    return spans


def test_spans_of_the_original(golden):
    cases = json.loads((golden / "chunks_and_frames.json").read_text())["chunk_spans_start_length"]
    for chunk, by_length in cases.items():
        for length, expected in by_length.items():
            spans = chunk_spans(int(length), int(chunk))
            assert [[a, b - a] for a, b in spans.tolist()] == expected, (chunk, length)


def test_chunks_file_of_the_original(golden, fasta):
    got = []
    for title, sequence in fasta(golden / "input.fa"):
        name = title.split()[0]
        spans = chunk_spans(len(sequence), 500).tolist()
        got += [
            (f"{name}_chunk_{k}", sequence[a:b].upper()) for k, (a, b) in enumerate(spans, start=1)
        ]
    assert got == [
        (name, sequence.upper()) for name, sequence in fasta(golden / "expected" / "chunks.fa")
    ]


@given(st.integers(0, 20_000), st.integers(1, 700))
def test_closed_form_is_the_recurrence(length, chunk):
    assert list(map(tuple, chunk_spans(length, chunk).tolist())) == by_recurrence(length, chunk)


@given(st.lists(st.integers(0, 3_000), max_size=8), st.sampled_from([300, 500]))
def test_many_sequences_at_once_are_each_alone(lengths, chunk):
    spans = all_spans(np.array(lengths, dtype=np.int64), chunk)
    expected = [
        (i, k, a, b)
        for i, n in enumerate(lengths)
        for k, (a, b) in enumerate(by_recurrence(n, chunk), start=1)
    ]
    assert list(zip(*(column.tolist() for column in spans), strict=True)) == expected
    assert n_chunks(np.array(lengths, dtype=np.int64), chunk).tolist() == [
        -(-n // chunk) for n in lengths
    ]


@given(
    st.lists(st.integers(0, 3_000), max_size=6),
    st.sampled_from([300, 500]),
    st.sampled_from([1, 70, 100, 299]),
)
def test_windows_of_long_sequences_lie_a_stride_apart_and_reach_the_end(lengths, chunk, stride):
    expected = []
    for i, length in enumerate(lengths):
        starts = [*range(0, length - chunk, stride), length - chunk] if length > 2 * chunk else []
        n = len(by_recurrence(length, chunk))
        expected += [(i, n + k, start, start + chunk) for k, start in enumerate(starts, start=1)]
    spans = all_windows(np.array(lengths, dtype=np.int64), chunk, stride)
    assert list(zip(*(column.tolist() for column in spans), strict=True)) == expected
    both = chunks_and_windows(np.array(lengths, dtype=np.int64), chunk, stride)
    chunks = all_spans(np.array(lengths, dtype=np.int64), chunk)
    # by sequence, then by number
    together = sorted([*zip(*(c.tolist() for c in chunks), strict=True), *expected])
    assert list(zip(*(column.tolist() for column in both), strict=True)) == together
