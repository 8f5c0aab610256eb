"""Token ids of many sequences -> rows of a constant length, some tokens masked.

Sequences lie end to end, so a batch has one shape whatever it holds: `segment` says which sequence
a token belongs to (-1: none). Masking for the language-model loss happens here. No torch: batches
are made in worker processes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from virnucpro.training.bundle.vocabulary import ESM2_MASK

# ESM-2's constant: it scales embeddings as if this share of the tokens were masked
EXPECTED_MASKED = 0.15 * 0.8


class PackedTokens(NamedTuple):
    """Sequences packed into rows; all [R, L] but the last two, [M], which say what is to be
    predicted.
    """

    tokens: np.ndarray  # int16
    segment: np.ndarray  # int16, index of the sequence, -1 where there is none
    pooled: np.ndarray  # bool: tokens that enter the mean
    # float32, ESM-2's token-dropout factor of each token (0 at a mask); ones for DNABERT-S
    scale: np.ndarray
    # int32, places in the flattened rows, found here so that a GPU need not be waited for
    masked: np.ndarray
    target: np.ndarray  # int16, the true tokens there


class Masking(NamedTuple):
    """Which tokens are hidden, by what."""

    token: int  # the mask
    random_ids: tuple[int, int]  # half-open: a tenth of the tokens become one of these
    share: float  # of the sequences
    rate: float  # of the tokens of those


def split_ids(flat: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Sequences that lie end to end, one by one."""
    return np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []


def first_fit(lengths: np.ndarray, rows: int, row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Longest first: (row, column) of each sequence, int64 [n]; row -1 where it did not fit."""
    room = np.full(rows, row_length)
    row, column = np.full(len(lengths), -1), np.zeros(len(lengths), dtype=np.int64)
    for i in np.argsort(-lengths, kind="stable"):
        r = int(np.argmax(room >= lengths[i]))  # the first with room, or 0
        if room[r] >= lengths[i]:
            row[i], column[i] = r, row_length - room[r]
            room[r] -= lengths[i]
    return row, column


def pack_rows(
    ids: list[np.ndarray], rows: int, row_length: int, pad: int, edges: int
) -> tuple[PackedTokens, np.ndarray]:
    """Sequences in rows, and bool [n]: which of them found room. `edges` special tokens at each end
    of a sequence stay out of the mean.
    """
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    row, column = first_fit(lengths, rows, row_length)
    tokens = np.full((rows, row_length), pad, dtype=np.int16)
    segment = np.full((rows, row_length), -1, dtype=np.int16)
    pooled = np.zeros((rows, row_length), dtype=bool)
    for i, (r, c, sequence) in enumerate(zip(row.tolist(), column.tolist(), ids, strict=True)):
        if r >= 0:
            tokens[r, c : c + len(sequence)] = sequence
            segment[r, c : c + len(sequence)] = i
            pooled[r, c + edges : c + len(sequence) - edges] = True
    scale = np.ones((rows, row_length), dtype=np.float32)
    nothing = np.zeros(0, np.int32), np.zeros(0, np.int16)
    return PackedTokens(tokens, segment, pooled, scale, *nothing), row >= 0


def with_masks(
    packed: PackedTokens,
    maskable: np.ndarray,
    masking: Masking,
    n_sequences: int,
    rng: np.random.Generator,
) -> PackedTokens:
    """BERT's masking: of the chosen tokens 80 % masked, 10 % random, 10 % kept. `maskable` bool
    [R, L]: tokens that may be chosen.
    """
    chosen = rng.random(n_sequences + 1) < masking.share  # the last stands for segment -1
    chosen[-1] = False
    drawn = rng.random(maskable.shape, dtype=np.float32)
    hit = maskable & chosen[packed.segment] & (drawn < masking.rate)
    fate = rng.random(maskable.shape, dtype=np.float32)
    tokens = np.where(hit & (fate < 0.8), masking.token, packed.tokens)
    random_tokens = rng.integers(*masking.random_ids, size=maskable.shape)
    tokens = np.where(hit & (fate >= 0.9), random_tokens, tokens).astype(np.int16)
    return packed._replace(
        tokens=tokens, masked=np.flatnonzero(hit).astype(np.int32), target=packed.tokens[hit]
    )


def with_token_dropout(packed: PackedTokens, n_sequences: int) -> PackedTokens:
    """ESM-2's rescaling: masks embed as zero, the rest by (1 - EXPECTED_MASKED) / (1 - share of
    masks in the sequence).
    """
    inside = packed.segment >= 0
    masked = packed.tokens == ESM2_MASK
    length = np.bincount(packed.segment[inside], minlength=n_sequences)
    masks = np.bincount(packed.segment[inside & masked], minlength=n_sequences)
    factor = (1 - EXPECTED_MASKED) / (1 - masks / np.maximum(length, 1))
    factor = np.append(factor, 0.0)  # of segment -1
    return packed._replace(scale=np.where(masked, 0, factor[packed.segment]).astype(np.float32))
