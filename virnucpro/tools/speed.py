"""Encoders alone, in turns with the ceiling of matrix products, and as the original runs them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from virnucpro.errors import UsageError
from virnucpro.models.choices import compute_dtype
from virnucpro.models.dnabert_s import DnabertEncoder
from virnucpro.models.esm2 import Esm2Encoder
from virnucpro.models.packing import PackedBatch, pack
from virnucpro.tools.random_models import (
    SHAPES,
    random_dnabert_s,
    random_esm2,
)

if TYPE_CHECKING:
    from virnucpro.tools.commands import BenchmarkSettings


# shortest and longest sequence, bases
LENGTHS = {"500bp": (500, 500), "reads": (150, 300), "mix": (150, 500)}
SQUARE = {"cuda": 8192, "cpu": 1024}
ORIGINAL_TOKENS = 2_048  # a batch of the original program


def random_encoder(name: str, settings: BenchmarkSettings, device: torch.device, precision: str):
    """An encoder of the shape asked for, with random weights."""
    make, encoder = {
        "esm2": (random_esm2, Esm2Encoder),
        "dnabert_s": (random_dnabert_s, DnabertEncoder),
    }[name]
    return encoder(
        make(settings.model_shape, device, compute_dtype(precision)),
        device,
        precision,
        settings.compile,
    )


def encoders_alone(
    settings: BenchmarkSettings, encoders: dict, tokens: dict[str, int], device: torch.device, say
) -> dict[str, Any]:
    """Each encoder on one full batch in turns with the ceiling, so that both meet the card at the
    same heat.
    """
    side = SQUARE[device.type]
    a, b = (
        torch.randn(side, side, device=device, dtype=compute_dtype(encoders["esm2"].precision))
        for _ in range(2)
    )
    batches = {
        "esm2": protein_batch(settings.lengths, tokens["esm2"]),
        "dnabert_s": dna_batch(settings.lengths, tokens["dnabert_s"]),
    }
    works = {
        name: lambda e=encoders[name], x=batch.to(device): e.embed(x)
        for name, batch in batches.items()
    }
    seconds = in_turns({"product": lambda: a @ b, **works}, device)
    ceiling = 2 * side**3 / seconds["product"] / 1e12
    say(
        f"ceiling: {ceiling:.3g} TFLOP/s ({side} x {side} x {side} in {encoders['esm2'].precision})"
    )
    found: dict[str, Any] = {"ceiling_tflops": ceiling}
    for name, batch in batches.items():
        flops = forward_flops(name, settings.model_shape, tokens[name], batch.lengths)
        found[name] = {
            "seconds_per_batch": seconds[name],
            "frames_per_batch": batch.rows,
            "frames_per_s": batch.rows / seconds[name],
            "tokens_per_s": sum(batch.lengths) / seconds[name],
            "tflops": flops / seconds[name] / 1e12,
            "share_of_ceiling": flops / seconds[name] / 1e12 / ceiling,
        }
        say(
            f"{name}: {found[name]['frames_per_s']:.0f} frames/s,"
            f" {found[name]['share_of_ceiling']:.0%} of the ceiling"
        )
    return found


def protein_batch(lengths: str, tokens: int, seed: int = 0) -> PackedBatch:
    """As many random proteins as fit: a third of a sequence's bases, and two special tokens."""
    return _batch([n // 3 + 2 for n in LENGTHS[lengths]], tokens, (0, 2), (4, 24), seed)


def dna_batch(lengths: str, tokens: int, seed: int = 0) -> PackedBatch:
    """As many random nucleotide sequences as fit, at five bases a token."""
    return _batch([n // 5 + 2 for n in LENGTHS[lengths]], tokens, (1, 2), (5, 256), seed)


def _batch(
    span, tokens: int, ends: tuple[int, int], ids: tuple[int, int], seed: int
) -> PackedBatch:
    numbers, used = np.random.default_rng(seed), 0
    sequences: list[np.ndarray] = []
    while (length := int(numbers.integers(span[0], span[1] + 1))) + used <= tokens and len(
        sequences
    ) < 1024:
        sequences.append(np.r_[ends[0], numbers.integers(*ids, length - 2), ends[1]])
        used += length
    if not sequences:
        raise UsageError(
            f"--batch-size {tokens}: holds no sequence of {span[0]} tokens; give a larger one"
        )
    return pack(sequences, tokens, 1)


def forward_flops(name: str, shape: str, tokens: int, lengths) -> float:
    """Multiplications and additions of the products and of attention; the gated layer of DNABERT-S
    has two halves.
    """
    layers, width, _, inner = getattr(SHAPES[shape], name)
    products = 2 * width * (4 * width + (2 if name == "esm2" else 3) * inner)
    return layers * (tokens * products + 4 * width * sum(length * length for length in lengths))


def in_turns(works: dict[str, Callable], device: torch.device, rounds: int = 4) -> dict[str, float]:
    """Median seconds of a call, each work for a while at a time; the first round warms up."""
    # seconds: long enough for a GPU to reach its power limit
    turn = 0.3 if device.type == "cuda" else 0.05
    repeats = {}
    for name, work in works.items():
        _seconds(work, 1, device)
        repeats[name] = max(2, int(turn / max(_seconds(work, 1, device)[0], 1e-6)))
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name, work in works.items():
            times = _seconds(work, min(repeats[name], 500), device)
            found[name] += times if number else []
    return {name: statistics.median(times) for name, times in found.items()}


def _seconds(work: Callable, repeats: int, device: torch.device) -> list[float]:
    if device.type != "cuda":
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        return times
    pairs = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(repeats)
    ]
    for first, last in pairs:
        first.record()
        work()
        last.record()
    torch.cuda.synchronize(device)
    return [first.elapsed_time(last) / 1e3 for first, last in pairs]


def against_original(settings: BenchmarkSettings, device: torch.device, say) -> dict[str, Any]:
    """fair-esm's ESM-2 of the same shape in fp32, padded batches of at most 2,048 tokens, as the
    original program runs it.
    """
    from esm import Alphabet
    from esm.model.esm2 import ESM2

    layers, width, heads, _ = SHAPES[settings.model_shape].esm2
    alphabet = Alphabet.from_architecture("ESM-1b")
    with torch.device(device):
        model = ESM2(layers, width, heads, alphabet).eval().requires_grad_(False)
    lengths = sorted(protein_batch(settings.lengths, 8 * ORIGINAL_TOKENS).lengths)
    count = max(1, ORIGINAL_TOKENS // lengths[-1])
    batches = [lengths[i : i + count] for i in range(0, len(lengths), count)]
    tokens = [
        torch.full((len(rows), max(rows)), alphabet.padding_idx, device=device) for rows in batches
    ]
    for rows, padded in zip(batches, tokens, strict=True):
        for line, length in zip(padded, rows, strict=True):
            line[:length] = torch.randint(4, 24, (length,), device=device)

    def work() -> None:
        for padded, rows in zip(tokens, batches, strict=True):
            hidden = model(padded, repr_layers=[layers])["representations"][layers]
            for line, length in zip(hidden, rows, strict=True):
                line[1 : length - 1].mean(0)

    _seconds(work, 1, device)
    seconds = statistics.median(_seconds(work, 3, device))
    say(
        f"original: {len(lengths) / seconds:.1f} frames/s (fair-esm in fp32, {ORIGINAL_TOKENS}"
        " tokens a batch)"
    )
    return {"frames_per_s": len(lengths) / seconds, "batch_rows": count}
