import numpy as np
import pytest

from virnucpro.training.bundle.batches import (
    BatchMaker,
    BatchShape,
    balanced,
    place,
    rows_of,
    with_masks,
    with_token_dropout,
)
from virnucpro.training.bundle.sampling import WindowRules, WindowSampler
from virnucpro.training.bundle.vocabulary import ESM2_MASK, ESM2_PAD, ESM2_RESIDUES
from virnucpro.training.store import StoreBuilder

RNG = np.random.default_rng(7)


def test_sequences_never_overlap_and_what_does_not_fit_is_told():
    lengths = np.array([100, 60, 60, 40, 30, 101])
    row, column = place(lengths, rows=2, row_length=100)
    assert row[5] == -1 and row[0] >= 0
    used = np.zeros((2, 100), dtype=int)
    for r, c, n in zip(row, column, lengths, strict=True):
        if r >= 0:
            used[r, c : c + n] += 1
    assert used.max() == 1


def test_masks_follow_berts_shares_and_remember_the_truth():
    ids = [np.concatenate([[0], RNG.integers(4, 24, 150), [2]]) for _ in range(200)]
    rows, fit = rows_of(ids, 120, 384, ESM2_PAD, 1)
    masked = with_masks(rows, rows.pooled, ESM2_MASK, ESM2_RESIDUES, 0.5, 200, RNG)
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


def test_weights_make_classes_equal_and_skip_what_found_no_room():
    label = np.array([1, 1, 1, 0, 0, 1, 0])
    fits = np.array([True, True, True, True, False, True, True])
    weight = balanced(label, fits, 5)
    assert (
        weight[4] == 0
        and weight[:3].sum() == pytest.approx(weight[3])
        and weight[5] == weight[6] == 1
    )


def test_a_batch_holds_frames_of_the_drawn_windows(tokenizers):
    builder = StoreBuilder()
    for i in range(6):
        builder.add(
            bytes(RNG.choice(list(b"ACGT"), 2000).tolist()),
            f"r{i}",
            i % 2 == 0,
            "viral" if i % 2 == 0 else "fungi",
            f"g{i}",
            "",
            "train",
            "genome",
        )
    maker = BatchMaker(
        [(1.0, WindowSampler(builder.build(), WindowRules()))],
        None,
        tokenizers,
        BatchShape(64, 0, 384, 40, 40),
        128,
    )
    batch = maker.draw(np.random.default_rng(1))
    assert batch.n_frames == 64 and len(batch.virus) == 64 and (batch.weight > 0).all()
    assert 0.2 < batch.virus.mean() < 0.8
    for rows, edges in ((batch.esm2, 2), (batch.dnabert_s, 0)):
        length = np.bincount(rows.segment[rows.segment >= 0], minlength=64)
        assert (length - np.bincount(rows.segment[rows.pooled], minlength=64) == edges).all()
    again = maker.draw(np.random.default_rng(1))
    assert all(np.array_equal(a, b) for a, b in zip(again.esm2, batch.esm2, strict=True))
