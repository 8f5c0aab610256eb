import numpy as np
import pytest

from virnucpro.training.bundle.packing import (
    Masking,
    first_fit,
    pack_rows,
    with_masks,
    with_token_dropout,
)
from virnucpro.training.bundle.vocabulary import ESM2_MASK, ESM2_PAD, ESM2_RESIDUES

RNG = np.random.default_rng(7)


def test_sequences_never_overlap_and_what_does_not_fit_is_told():
    lengths = np.array([100, 60, 60, 40, 30, 101])
    row, column = first_fit(lengths, rows=2, row_length=100)
    assert row[5] == -1 and row[0] >= 0
    used = np.zeros((2, 100), dtype=int)
    for r, c, n in zip(row, column, lengths, strict=True):
        if r >= 0:
            used[r, c : c + n] += 1
    assert used.max() == 1


def test_masks_follow_berts_shares_and_remember_the_truth():
    ids = [np.concatenate([[0], RNG.integers(4, 24, 150), [2]]) for _ in range(200)]
    rows, fit = pack_rows(ids, 120, 384, ESM2_PAD, 1)
    masked = with_masks(rows, rows.pooled, Masking(ESM2_MASK, ESM2_RESIDUES, 0.5, 0.15), 200, RNG)
    hit = np.zeros(rows.tokens.shape, bool)
    hit.flat[masked.masked] = True
    # half of the sequences, 15 %
    assert fit.all() and hit[rows.pooled].mean() == pytest.approx(0.075, abs=0.01)
    assert np.array_equal(masked.target, rows.tokens[hit]) and not hit[~rows.pooled].any()
    assert (masked.tokens[hit] == ESM2_MASK).mean() == pytest.approx(0.8, abs=0.03)
    assert np.array_equal(masked.tokens[~hit], rows.tokens[~hit])
    scaled = with_token_dropout(masked, 200)
    for i in range(200):
        mine = masked.segment == i
        share = (masked.tokens[mine] == ESM2_MASK).mean()
        plain = mine & (masked.tokens != ESM2_MASK)
        assert (
            np.allclose(scaled.scale[plain], 0.88 / (1 - share))
            and not scaled.scale[mine & ~plain].any()
        )
