from collections import Counter

import numpy as np

from virnucpro.training.bases import INVALID, blur, decode
from virnucpro.training.bundle.batches import Augmentation, harder
from virnucpro.training.bundle.sampling import Windows
from virnucpro.training.shuffling import shuffled


def pairs(codes):
    text = decode(codes).decode()
    return Counter(text[i : i + 2] for i in range(len(text) - 1))


def test_a_shuffle_has_the_same_dinucleotides_in_another_order():
    rng = np.random.default_rng(3)
    for length in (2, 3, 60, 500, 3000):
        codes = rng.choice(4, length, p=(0.5, 0.1, 0.1, 0.3)).astype(np.uint8)
        out = shuffled(codes, rng)
        assert pairs(out) == pairs(codes) and out[0] == codes[0] and out[-1] == codes[-1]
        assert length < 60 or (out != codes).mean() > 0.3


def test_all_orders_of_a_short_sequence_come_equally_often():
    rng = np.random.default_rng(4)
    # A-A with C, G and T between: six orders
    codes = np.array([0, 1, 0, 2, 0, 3, 0], dtype=np.uint8)
    seen = Counter(shuffled(codes, rng).tobytes() for _ in range(6000))
    assert len(seen) == 6 and max(seen.values()) < 1150 and min(seen.values()) > 850


def test_n_are_as_many_as_asked_and_a_run_is_one():
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 4, 500).astype(np.uint8)
    single, run = (
        np.flatnonzero(blur(codes, 0.05, as_run, rng) == INVALID) for as_run in (False, True)
    )
    assert len(single) == len(run) == 25 and run[-1] - run[0] == 24 and single[-1] - single[0] > 24
    assert decode(blur(codes, 0.05, True, rng)).count(b"N") == 25 and not (codes == INVALID).any()


def test_shuffled_windows_are_no_virus_and_the_others_stay():
    rng = np.random.default_rng(6)
    end = np.arange(1, 201) * 100
    codes, virus = rng.integers(0, 4, 20_000).astype(np.uint8), np.ones(200, np.uint8)
    out = harder(
        Windows(codes.copy(), end - 100, end, virus, np.arange(200)),
        Augmentation(shuffled_share=0.3, blurred_share=0.2),
        rng,
    )
    changed = (out.codes.reshape(200, 100) != codes.reshape(200, 100)) & (
        out.codes.reshape(200, 100) != INVALID
    )
    assert np.array_equal(changed.any(axis=1), out.virus == 0) and 30 < (out.virus == 0).sum() < 90
    assert 15 < (out.codes.reshape(200, 100) == INVALID).any(axis=1).sum() < 60 and virus.all()
