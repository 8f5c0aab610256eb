import random

import pytest

from virnucpro.homology.topology import LONGEST, SHORTEST, topology

COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")


def random_bases(n: int, seed: int = 1) -> bytes:
    return "".join(random.Random(seed).choices("ACGT", k=n)).encode()


@pytest.mark.parametrize("n", [SHORTEST, 127, LONGEST])
def test_repeats_are_measured(n):
    end, middle = random_bases(n), b"A" + random_bases(3 * n, 2) + b"C"
    assert topology(end + middle + end) == f"direct_repeat_{n}"
    inverted = end + middle + end.translate(COMPLEMENT)[::-1]
    assert topology(inverted) == f"inverted_repeat_{n}"


def test_what_is_no_repeat():
    end, middle = random_bases(SHORTEST - 1), random_bases(300, 2)
    assert topology(end + b"A" + middle + b"C" + end) is None
    assert topology(random_bases(500)) is None
    assert topology(b"") is None
    assert topology(b"A" * 30 + middle + b"A" * 30) is None
    assert topology(b"ACGT" * 4) is None
