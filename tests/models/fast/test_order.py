"""What the fast path computes is what the plain path computes, with its kernels played by torch."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from virnucpro.models.dnabert_s import alibi_slopes
from virnucpro.models.esm2 import Esm2Encoder
from virnucpro.models.packing import pack, pool
from virnucpro.tools.random_models import random_dnabert_s, random_esm2

LENGTHS = (3, 17, 64, 130, 200)
TOKENS = 512


@pytest.fixture
def fast():
    """The modules of the fast path, imported anew with the played kernels."""
    import played_kernels

    import virnucpro.models.fast as package

    names = ("kernels", "esm2", "esm2_int8", "dnabert_s")
    before = {name: sys.modules.pop(f"{package.__name__}.{name}", None) for name in names}
    for name in names:  # `from package import name` takes the attribute where there is one
        vars(package).pop(name, None)
    sys.modules[f"{package.__name__}.kernels"] = played_kernels
    package.kernels = played_kernels
    from virnucpro.models.fast import dnabert_s, esm2, esm2_int8

    yield esm2, esm2_int8, dnabert_s
    for name, module in before.items():
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)
        if module is not None:
            sys.modules[f"{package.__name__}.{name}"] = module
            setattr(package, name, module)


def batch(pad_id: int):
    numbers = np.random.default_rng(3)
    return pack([numbers.integers(5, 24, length) for length in LENGTHS], TOKENS, pad_id)


def cosines(found: torch.Tensor, expected: torch.Tensor, packed, skip: int) -> torch.Tensor:
    return torch.cosine_similarity(pool(found, packed, skip), pool(expected, packed, skip))


@pytest.fixture
def plain_esm2():
    """(a network, its hidden states by the stock layers)."""
    packed = batch(1)
    model = random_esm2("mini", "cpu", torch.float32)
    encoder = Esm2Encoder(model, torch.device("cpu"), "fp32")
    with torch.inference_mode():
        return random_esm2("mini", "cpu", torch.float32), encoder.hidden(packed), packed


def test_esm2(fast, plain_esm2):
    model, expected, packed = plain_esm2
    with torch.inference_mode():
        found = fast[0].FusedEsm2(model, 1024)(packed)
    assert cosines(found, expected, packed, skip=1).min() > 0.999999


def test_esm2_in_8_bits_and_its_16_bit_way(fast, plain_esm2):
    model, expected, packed = plain_esm2
    with torch.inference_mode():
        forward = fast[1].Int8Esm2(model, 1024)
        found, precise = forward(packed).clone(), forward.in_16_bits(packed)
    assert cosines(precise, expected, packed, skip=1).min() > 0.999999
    assert 0.9999999 > cosines(found, expected, packed, skip=1)[2:].min() > 0.999


def test_dnabert_s(fast):
    packed, slopes = batch(3), torch.tensor(alibi_slopes(4))
    with torch.inference_mode():
        expected = random_dnabert_s("mini", "cpu", torch.float32)(packed, slopes)
        forward = fast[2].FusedDnabert(random_dnabert_s("mini", "cpu", torch.float32), slopes)
        found = [forward(packed).clone() for _ in range(2)]  # launched; where it can, recorded
    for hidden in found:
        assert cosines(hidden, expected, packed, skip=0).min() > 0.999999
