from __future__ import annotations

import pytest
import torch
from golden_run import embed, protein_ids

from virnucpro.errors import UsageError
from virnucpro.models.choices import resolve_precision
from virnucpro.models.dnabert_s import DnabertEncoder, alibi_slopes, load_dnabert_s
from virnucpro.models.esm2 import Esm2Encoder, load_esm2
from virnucpro.models.packing import pack
from virnucpro.tools.random_models import random_bundle, random_dnabert_s, random_esm2


@pytest.mark.parametrize(
    ("requested", "launcher", "value"),
    [
        ("auto", None, "fp32"),
        ("auto", "no", "fp32"),
        ("auto", "bf16", "bf16"),
        ("auto", "fp16", "fp16"),
        ("fp16", "bf16", "fp16"),
    ],
)
def test_the_launcher_decides_for_auto_then_the_device(requested, launcher, value):
    assert resolve_precision(requested, "cpu", launcher).value == value


@pytest.mark.parametrize(
    ("requested", "allowed", "unit", "value"),
    [
        ("auto", "bf16", "avx512_bf16", "bf16"),
        ("auto", "bf16", "amx_bf16", "bf16"),
        ("auto", "bf16", "avx2", "fp32"),
        ("auto", "fp32", "avx512_bf16", "fp32"),
        ("fp32", "bf16", "avx512_bf16", "fp32"),
    ],
)
def test_bf16_on_a_cpu_that_has_it_for_a_model_that_allows_it(
    requested, allowed, unit, value, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True}, raising=False)
    choice = resolve_precision(requested, "cpu", cpu_precision=allowed)
    assert choice.value == value
    assert value == "fp32" or unit in choice.reason


def test_a_torch_that_does_not_say_what_the_cpu_can_computes_in_fp32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert resolve_precision("auto", "cpu", cpu_precision="bf16").value == "fp32"


@pytest.mark.parametrize("requested", ["int8", "fp8"])
def test_what_the_device_cannot_do_is_a_usage_error(requested):
    with pytest.raises(UsageError, match=requested):
        resolve_precision(requested, "cpu")


def test_slopes_are_the_published_ones():
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(12) == [2.0**-i for i in range(1, 9)] + [
        2.0**-i for i in (0.5, 1.5, 2.5, 3.5)
    ]
    assert alibi_slopes(4) == [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]
    assert [len(alibi_slopes(heads)) for heads in range(1, 20)] == list(range(1, 20))


@pytest.mark.parametrize(
    "make",
    [
        lambda precision, dtype: Esm2Encoder(
            random_esm2("mini", "cpu", dtype), torch.device("cpu"), precision
        ),
        lambda precision, dtype: DnabertEncoder(
            random_dnabert_s("mini", "cpu", dtype), torch.device("cpu"), precision
        ),
    ],
    ids=["esm2", "dnabert_s"],
)
def test_bf16_points_where_fp32_points(make):
    proteins = [protein_ids("MKVLAARTNDEQGHIPSWYVCF" * n) for n in (1, 3, 7)]
    wanted, found = (
        embed(make("fp32", torch.float32), proteins, 600),
        embed(make("bf16", torch.bfloat16), proteins, 600),
    )
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(wanted, found).min() > 0.999


@pytest.mark.parametrize(("load", "part"), [(load_esm2, "esm2"), (load_dnabert_s, "dnabert_s")])
def test_rows_can_be_computed_again_in_fp32(tmp_path, load, part):
    directory = random_bundle(tmp_path) / part
    batch = pack([protein_ids("MKVLA"), protein_ids("TTR")], 64, pad_id=1)
    wanted = load(directory, "cpu", "fp32").embed(batch)
    low = load(directory, "cpu", "bf16")
    assert torch.equal(low.recompute_fp32(batch), wanted)
    assert not torch.equal(low.embed(batch), wanted)
