from collections import Counter

import numpy as np

from recipes.mini.shuffling import shuffled
from virnucpro.training.store import decode


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
