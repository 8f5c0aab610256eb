"""Lengths -> chunks. The original's overlapping cut (SPEC 2), in closed form, for any number of
sequences at once; and the denser windows of `--stride`, on which nothing but the regions of long
sequences rests.

Knows numbers only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FEWEST_CHUNKS = 3  # from which on a sequence can have a region, and so has windows


class Spans(NamedTuple):
    """Chunks of several sequences, in order; all int64 [n]. `start` and `end` are 0-based,
    half-open, in the sequence.
    """

    sequence: np.ndarray
    chunk: np.ndarray  # from 1
    start: np.ndarray
    end: np.ndarray


def n_chunks(lengths: np.ndarray, chunk_length: int) -> np.ndarray:
    """ceil(length / chunk_length), int64 [n]; an empty sequence has no chunk."""
    return -(-np.asarray(lengths, dtype=np.int64) // chunk_length)


def all_spans(lengths: np.ndarray, chunk_length: int) -> Spans:
    """The chunks of every sequence: n = ceil(L/C) of them, overlapping by q or q+1 with q, r =
    divmod(nC - L, n).

    start(k+1) = start(k) + C - (q+1 if k < q+r else q), so start(k) = k(C - q) - min(k, q + r).
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    counts = n_chunks(lengths, chunk_length)
    sequence = np.repeat(np.arange(len(lengths)), counts)
    k = np.arange(len(sequence)) - np.repeat(np.cumsum(counts) - counts, counts)
    q, r = np.divmod(counts * chunk_length - lengths, np.maximum(counts, 1))
    start = k * (chunk_length - q)[sequence] - np.minimum(k, (q + r)[sequence])
    return Spans(sequence, k + 1, start, np.minimum(start + chunk_length, lengths[sequence]))


def all_windows(lengths: np.ndarray, chunk_length: int, stride: int) -> Spans:
    """Windows of `chunk_length` every `stride` bases, and one at the end, of every sequence of
    `FEWEST_CHUNKS` chunks or more.

    Shorter ones have none. `chunk` counts on from the sequence's chunks: n_chunks + 1, n_chunks +
    2, ...
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    chunks = n_chunks(lengths, chunk_length)
    counts = np.where(chunks >= FEWEST_CHUNKS, -(-(lengths - chunk_length) // stride) + 1, 0)
    sequence = np.repeat(np.arange(len(lengths)), counts)
    k = np.arange(len(sequence)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = np.minimum(k * stride, (lengths - chunk_length)[sequence])
    return Spans(sequence, chunks[sequence] + k + 1, start, start + chunk_length)


def chunks_and_windows(lengths: np.ndarray, chunk_length: int, stride: int) -> Spans:
    """Of each sequence its chunks and then its windows; stride 0: its chunks alone."""
    spans = all_spans(lengths, chunk_length)
    if not stride:
        return spans
    both = [
        np.concatenate(pair)
        for pair in zip(spans, all_windows(lengths, chunk_length, stride), strict=True)
    ]
    order = np.argsort(both[0], kind="stable")
    return Spans(*(column[order] for column in both))


def chunk_spans(length: int, chunk_length: int) -> np.ndarray:
    """The (start, end) of one sequence's chunks, int64 [n, 2], 0-based, half-open."""
    spans = all_spans(np.array([length]), chunk_length)
    return np.stack([spans.start, spans.end], axis=1)
