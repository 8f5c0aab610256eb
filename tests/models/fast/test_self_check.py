"""Fast kernels that fail or are wrong on a device are noticed at load, and the plain layers take
their place.
"""

from __future__ import annotations

import pytest
import torch

from virnucpro.errors import ModelError
from virnucpro.models import dnabert_s, esm2
from virnucpro.models.choices import FUSED, PLAIN
from virnucpro.models.fast.self_check import FastPathError, checked, witness
from virnucpro.models.packing import pack
from virnucpro.settings import Choice
from virnucpro.tools.random_models import random_bundle

CPU = torch.device("cpu")
TABLE = torch.randn(64, 8, generator=torch.Generator().manual_seed(3))


def plain(batch):
    return TABLE[batch.tokens]


def test_kernels_that_agree_are_taken():
    fast = checked(
        plain, lambda: lambda batch: plain(batch) * 1.0001, 1, CPU, skip=1, least_cosine=0.999
    )
    batch = witness(1)
    assert torch.allclose(fast(batch), plain(batch), rtol=1e-3)


@pytest.mark.parametrize(
    "wrong", [lambda h: h.flip(1), lambda h: h * float("nan"), lambda h: torch.zeros_like(h)]
)
def test_kernels_that_are_wrong_are_noticed(wrong):
    with pytest.raises(FastPathError, match="agree"):
        checked(
            plain, lambda: lambda batch: wrong(plain(batch)), 1, CPU, skip=1, least_cosine=0.999
        )


def test_kernels_that_are_wrong_for_one_length_are_noticed():
    def off(batch):
        hidden = plain(batch)
        hidden[: batch.lengths[0]] = 1.0
        return hidden

    with pytest.raises(FastPathError, match="agree"):
        checked(plain, lambda: off, 1, CPU, skip=0, least_cosine=0.999)


def test_kernels_that_raise_are_noticed():
    with pytest.raises(FastPathError, match="ZeroDivisionError"):
        checked(plain, lambda: lambda batch: 1 / 0, 1, CPU, skip=1, least_cosine=0.999)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bundle")
    random_bundle(directory, "tiny")
    return directory


@pytest.fixture
def no_gpu_for_the_kernels(monkeypatch):
    """The kernels are chosen, though this is a CPU: they cannot work here, whether triton is
    installed or not.
    """
    for module in (esm2, dnabert_s):
        monkeypatch.setattr(
            module,
            "choose_fast_path",
            lambda name, device, precision, width, compile: Choice(
                name, PLAIN if compile == "off" else FUSED, "test"
            ),
        )


@pytest.mark.parametrize(
    ("load", "part"), [(esm2.load_esm2, "esm2"), (dnabert_s.load_dnabert_s, "dnabert_s")]
)
def test_the_plain_layers_take_their_place(bundle, no_gpu_for_the_kernels, load, part):
    encoder = load(bundle / part, CPU, "bf16")
    wanted = load(bundle / part, CPU, "bf16", compile="off")
    batch = pack([TABLE.new_tensor([0, 5, 6, 7, 2]).long().numpy()], 64, encoder.pad_id)
    assert torch.equal(encoder.embed(batch), wanted.embed(batch))
    layers = [choice for choice in encoder.choices if choice.name.endswith("layers")]
    assert [choice.value for choice in layers] == [PLAIN] and "failed their check" in layers[
        0
    ].reason


def test_kernels_that_were_asked_for_are_an_error(bundle, no_gpu_for_the_kernels):
    with pytest.raises(ModelError, match="do not work on this device"):
        esm2.load_esm2(bundle / "esm2", CPU, "bf16", compile="on")
