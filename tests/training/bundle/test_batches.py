import numpy as np
import pytest

from virnucpro.training.bundle.batches import (
    BatchMaker,
    BatchShape,
    balanced_weights,
)
from virnucpro.training.bundle.sampling import WindowRules, WindowSampler
from virnucpro.training.store import StoreBuilder

RNG = np.random.default_rng(7)


def test_weights_make_classes_equal_and_skip_what_found_no_room():
    label = np.array([1, 1, 1, 0, 0, 1, 0])
    fits = np.array([True, True, True, True, False, True, True])
    weight = balanced_weights(label, fits, 5)
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
