"""The fast path: weights rearranged without changing the network, when it is chosen, and on a GPU
agreement with fp32.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional

from virnucpro.errors import UsageError
from virnucpro.models.choices import PLAIN, choose_fast_path, preferred_tokens
from virnucpro.models.dnabert_s import alibi_slopes
from virnucpro.models.encoders import DNABERT_S
from virnucpro.models.esm2 import Esm2Encoder, short_apart
from virnucpro.models.esm2_model import to_stock
from virnucpro.models.fast.cuda_graphs import GRAPHS, Graphs, Recorder
from virnucpro.models.fast.layer_weights import (
    correction,
    esm_layer_weights,
    quantize_weight,
    rope_tables,
    take_layers,
)
from virnucpro.models.packing import pack, pool
from virnucpro.tools.random_models import random_dnabert_s, random_esm2

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
CPU = torch.device("cpu")


def uneven_esm2(shape: str, device, dtype: torch.dtype) -> torch.nn.Module:
    """A random model whose biases and norms are random too: zeros and ones would hide a wrong
    order.
    """
    model = random_esm2(shape, device, torch.float32)
    generator = torch.Generator(device).manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, device=device)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def some_batch(tokens: int, pad_id: int = 1):
    numbers = np.random.default_rng(4)
    lengths = [
        3,
        3,
        4,
        6,
        12,
        22,
        31,
        32,
        33,
        40,
        64,
        65,
        90,
        128,
        150,
        168,
        168,
        168,
        190,
        300,
        512,
    ]
    return pack(
        [np.r_[0, numbers.integers(4, 24, length - 2), 2] for length in lengths], tokens, pad_id
    )


def test_rearranged_weights_are_the_same_network():
    """One layer after another in plain torch, as the kernels do it, against the stock model."""
    model, length = to_stock(uneven_esm2("mini", CPU, torch.float32)), 30
    heads, width = model.config.num_attention_heads, model.config.hidden_size
    ids = torch.from_numpy(np.random.default_rng(1).integers(4, 24, length))
    stock = model(input_ids=ids[None], attention_mask=torch.ones(1, length)).last_hidden_state[0]
    cos, sin = (
        table[:length, None] for table in rope_tables(model.rotary_embeddings.inv_freq, 1024)
    )
    x, shift = model.embeddings.word_embeddings(ids) * 0.88, torch.zeros(width)
    for layer in take_layers(model.encoder):
        w = esm_layer_weights(layer, heads, shift)
        query, key, value = (
            (norm(x + w.shift, w.norm) @ w.qkv.t() + w.qkv_bias)
            .view(length, 3, heads, -1)
            .unbind(1)
        )
        score = torch.einsum(
            "ihd,jhd->hij", neighbours_turned(query, cos, sin), neighbours_turned(key, cos, sin)
        )
        mixed = torch.einsum("hij,jhd->ihd", (score * query.shape[-1] ** -0.5).softmax(-1), value)
        x = x + mixed.flatten(1) @ w.out.t()
        x = (
            x
            + functional.gelu(norm(x + w.ffn_shift, w.ffn_norm) @ w.up.t() + w.up_bias) @ w.down.t()
        )
        shift = w.end_shift
    last = model.encoder.emb_layer_norm_after
    torch.testing.assert_close(norm(x + shift, (last.weight, last.bias)), stock, atol=2e-5, rtol=0)
    assert len(model.encoder.layer) == 0  # nothing keeps a second copy alive


def norm(x: torch.Tensor, parts) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], *parts, 1e-5)


def neighbours_turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


def test_correction_makes_the_mean_input_exact():
    generator = torch.Generator().manual_seed(0)
    weight, mean = torch.randn(40, 64, generator=generator), torch.randn(64, generator=generator)
    weight[7] = 0
    found = quantize_weight(weight)
    assert (
        found.values * found.step[:, None] - weight
    ).abs().max() <= 0.5 * found.step.max() + 1e-6
    rounded = found.values.float() * found.step[:, None]
    torch.testing.assert_close(
        rounded @ mean + correction(weight, found, mean), weight @ mean, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    "lengths", [(5, 9, 32, 3, 31, 40), (31, 3), (32, 200, 33)], ids=["both", "short", "long"]
)
def test_only_short_proteins_go_the_precise_way(lengths):
    numbers = np.random.default_rng(6)
    batch = pack([numbers.integers(4, 24, length) for length in lengths], 512, 1)
    ways = []

    def way(name: str, value: float):
        def forward(batch):
            ways.append(name)
            return torch.full((len(batch.tokens), 2), value)

        return forward

    found = pool(short_apart(way("8", 8.0), way("16", 16.0), 32)(batch), batch, 1)[:, 0]
    assert found.tolist() == [16.0 if length < 32 else 8.0 for length in lengths]
    assert set(ways) == {f"{value:.0f}" for value in found.tolist()} and len(ways) == len(set(ways))


@pytest.mark.parametrize(
    "device, precision, compile",
    [("cpu", "fp32", "auto"), ("cpu", "bf16", "auto"), ("cpu", "fp32", "off")],
)
def test_plain_where_the_kernels_cannot_run(device, precision, compile):
    choice = choose_fast_path("ESM-2 layers", torch.device(device), precision, 64, compile)
    assert choice.value == PLAIN
    assert choice.reason


@pytest.mark.parametrize(
    "precision, compile, option",
    [("fp32", "on", "--compile on"), ("int8", "auto", "--precision int8")],
)
def test_asked_for_and_impossible_is_said_in_one_line(precision, compile, option):
    with pytest.raises(UsageError, match=r"needs? an NVIDIA GPU") as raised:
        choose_fast_path("ESM-2 layers", CPU, precision, 64, compile)
    assert str(raised.value).startswith(option)


def test_a_cpu_batch_is_small():
    assert preferred_tokens(CPU).value == preferred_tokens(CPU, DNABERT_S.tiles).value == "4096"


@cuda
def test_batch_fills_the_multiprocessors_on_cuda():
    tokens = int(preferred_tokens(torch.device("cuda")).value)
    assert tokens % (128 * torch.cuda.get_device_properties("cuda").multi_processor_count) == 0
    assert 8_192 <= tokens <= 33_792
    assert int(preferred_tokens(torch.device("cuda"), DNABERT_S.tiles).value) == 4 * tokens


@cuda
@pytest.mark.parametrize("precision, least", [("bf16", 0.999), ("fp16", 0.99999), ("int8", 0.9995)])
def test_agrees_with_fp32_on_cuda(precision, least):
    device, batch = torch.device("cuda"), some_batch(4096).to("cuda")
    if precision == "int8" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("8 bits are for Hopper GPUs")
    wanted = Esm2Encoder(uneven_esm2("650M", device, torch.float32), device, "fp32", "off").embed(
        batch
    )
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    encoder = Esm2Encoder(uneven_esm2("650M", device, dtype), device, precision)
    assert encoder.choices[0].value != PLAIN
    found = encoder.embed(batch)
    assert torch.cosine_similarity(found.double(), wanted.double()).min() >= least
    assert torch.equal(encoder.embed(batch), found)


@cuda
@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_two_encoders_give_the_same_bits_in_any_company_on_cuda(precision):
    if precision == "int8" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("8 bits are for Hopper GPUs")
    device, numbers = torch.device("cuda"), np.random.default_rng(5)
    sequences = [numbers.integers(4, 24, numbers.integers(3, 260)) for _ in range(60)]
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    rows = []
    for part in (slice(0, 40), slice(20, 60)):
        encoder = Esm2Encoder(uneven_esm2("mini", device, dtype), device, precision)
        rows.append(encoder.embed(pack(sequences[part], 16_384, 1).to(device)))
    moved = [a.ne(b).any().item() for a, b in zip(rows[0][20:], rows[1][:20], strict=True)]
    assert not any(moved), f"{sum(moved)} of 20 sequences moved"


@cuda
def test_no_weight_is_kept_twice_on_cuda():
    device = torch.device("cuda")
    before = torch.cuda.memory_allocated()
    model = uneven_esm2("650M", device, torch.bfloat16)
    plain = torch.cuda.memory_allocated() - before
    encoder = Esm2Encoder(model, device, "bf16")
    torch.cuda.synchronize()
    sizes = [before, before + plain, torch.cuda.memory_allocated()]
    assert encoder.choices[0].value != PLAIN
    assert all(b > a for a, b in pairwise(sizes[:2]))
    assert sizes[2] < before + 1.05 * plain


KINDS_OF_BATCHES = (
    [40] * 90,
    [100] * 38,
    [20] * 150,
    [170] * 20,
    [300] * 12,
    [3, 30, 64, 65, 128, 129, 192, 193, 400, 1000, 5, 5, 5],
)
assert len(KINDS_OF_BATCHES) > GRAPHS  # so that graphs are thrown away, and recorded again


def dnabert_batches():
    """Batches of every kind in turn, each kind several times in a row and with other tokens; of one
    size, of another, and of the first.
    """
    numbers = np.random.default_rng(7)
    for tokens, rounds in ((4096, 2), (8192, 1), (4096, 1)):
        for _ in range(rounds):
            for lengths in KINDS_OF_BATCHES:
                for missing in range(4):
                    some = lengths[: len(lengths) - missing]
                    yield pack(
                        [numbers.integers(5, 24, length) for length in some],
                        tokens,
                        3,
                        max_length=1024,
                    ).to("cuda")


def dnabert_states(record) -> list[torch.Tensor]:
    """The hidden states of the sequences of all `dnabert_batches`, by graphs of `record`."""
    from virnucpro.models.fast.dnabert_s import FusedDnabert

    device, found = torch.device("cuda"), []
    forward = FusedDnabert(
        random_dnabert_s("mini", device, torch.bfloat16),
        torch.tensor(alibi_slopes(4), device=device),
    )
    forward.graphs = Graphs(record)
    with torch.inference_mode():
        for batch in dnabert_batches():
            hidden = forward(batch)
            assert torch.isfinite(hidden).all()
            found.append(hidden[: sum(batch.lengths)].cpu())
    return found


def launched_states() -> list[torch.Tensor]:
    def refuse(launches, beside):
        raise RuntimeError("no graphs")

    return dnabert_states(refuse)


def replayed_states() -> list[torch.Tensor]:
    recorded, recorder = [], Recorder(torch.device("cuda"))

    def record(launches, beside):
        graph = recorder(launches, beside)
        recorded.append(launches)
        return graph

    found = dnabert_states(record)
    # none failed: every kind was recorded in each round
    assert len(recorded) == 4 * len(KINDS_OF_BATCHES)
    return found


@cuda
def test_replayed_bits_are_the_launched_ones_on_cuda():
    assert all(map(torch.equal, replayed_states(), launched_states()))


@cuda
def test_replayed_bits_stay_beside_a_busy_thread_on_cuda():
    wanted = launched_states()
    with busy_gpu():
        found = replayed_states()
    assert all(map(torch.equal, found, wanted))


@contextmanager
def busy_gpu():
    """Meanwhile a thread takes new memory, copies there and back, and launches: on the same stream,
    as one that loads, and on its own.
    """
    device, begun, stop, errors, rounds = (
        torch.cuda.current_device(),
        threading.Event(),
        threading.Event(),
        [],
        [],
    )

    def work():
        try:
            torch.cuda.set_device(device)
            held, streams = [], (torch.cuda.current_stream(), torch.cuda.Stream())
            while not stop.is_set():
                number = len(rounds)
                with torch.cuda.stream(streams[number % 2]):
                    values = torch.full((256, 256), 1.0 + number % 3)
                    product = values.to("cuda") @ values.pin_memory().to("cuda", non_blocking=True)
                    assert product.sum().item() == 256**3 * (1.0 + number % 3) ** 2
                    # each of another size, so none is found in the allocator's cache
                    if number < 60:
                        held.append(
                            torch.empty((2 + number) << 20, dtype=torch.uint8, device="cuda")
                        )
                rounds.append(number)
                begun.set()
        except Exception as error:
            errors.append(error)
        finally:
            begun.set()

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert len(rounds) > 10
