"""How fast this machine is, and against what: the matrix-product ceiling, each encoder alone, and a
whole run.

Weights are random (speed does not depend on them), made on the device; the sequences are random and
free of stops in their first frame. The run is the real one: `pipeline.predict` on a FASTA file, its
stages as `run.json` has them.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from virnucpro import __version__
from virnucpro.errors import UsageError
from virnucpro.models.choices import compute_dtype, preferred_tokens, resolve_precision
from virnucpro.models.dnabert_s import DnabertEncoder
from virnucpro.models.encoders import ENCODERS, as_listed
from virnucpro.models.esm2 import Esm2Encoder
from virnucpro.models.packing import PackedBatch, pack
from virnucpro.settings import Choice, ModelSettings, PredictSettings
from virnucpro.tools.random_models import (
    SHAPES,
    esm2_config,
    random_bundle,
    random_classifier,
    random_dnabert_s,
    random_esm2,
)

if TYPE_CHECKING:
    from virnucpro.tools.commands import BenchmarkSettings

# shortest and longest sequence, bases
LENGTHS = {"500bp": (500, 500), "reads": (150, 300), "mix": (150, 500)}
FRAMES = {"cuda": 20_000, "cpu": 300}  # of the whole run, by default
SQUARE = {"cuda": 8192, "cpu": 1024}
ORIGINAL_TOKENS = 2_048  # a batch of the original program
SENSE = [
    a + b + c
    for a in "ACGT"
    for b in "ACGT"
    for c in "ACGT"
    if a + b + c not in ("TAA", "TAG", "TGA")
]


def run_benchmark(
    settings: BenchmarkSettings, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure on one device; everything measured, as plain data. `say` hears of each choice and
    step.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and not settings.cpu else "cpu")
    precision = resolve_precision(settings.precision, device)
    batches = {
        entry.name: (
            Choice("batch", str(settings.batch_tokens), "as asked for")
            if settings.batch_tokens
            else preferred_tokens(device, entry.tiles)
        )
        for entry in as_listed(ENCODERS.values())
    }
    tokens = {name: int(batch.value) for name, batch in batches.items()}
    encoders = {name: random_encoder(name, settings, device, precision.value) for name in batches}
    choices = [
        precision,
        *(replace(batch, name=f"{name} batch") for name, batch in batches.items()),
        *(choice for encoder in encoders.values() for choice in encoder.choices),
    ]
    for choice in choices:
        say(str(choice))
    with torch.inference_mode():
        alone = encoders_alone(settings, encoders, tokens, device, say)
        original = against_original(settings, device, say) if settings.against else None
    run = whole_run(settings, encoders, device, precision.value, say)
    result = {
        "version": __version__,
        "torch": torch.__version__,
        "device": device_name(device),
        "model_shape": settings.model_shape,
        "lengths": settings.lengths,
        "precision": precision.value,
        "batch_tokens": tokens,
        "choices": [str(choice) for choice in choices],
        **alone,
        "original": original,
        "run": run,
        "peak_device_gib": (
            gib(torch.cuda.max_memory_allocated()) if device.type == "cuda" else None
        ),
        "peak_host_gib": gib(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024)
        ),
    }
    if original:
        result["times_original"] = alone["esm2"]["frames_per_s"] / original["frames_per_s"]
    result["run_share_of_esm2"] = (
        run["frames"] / alone["esm2"]["frames_per_s"] / run["seconds"]["total"]
    )
    return result


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


# ------------------------------------------------------------------------------------------------
# encoders alone
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


# ------------------------------------------------------------------------------------------------
# the original's way
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


# ------------------------------------------------------------------------------------------------ a
# whole run
def whole_run(
    settings: BenchmarkSettings, encoders: dict, device: torch.device, precision: str, say
) -> dict[str, Any]:
    """`predict` on random sequences: frames, and seconds a stage."""
    from virnucpro import pipeline
    from virnucpro.launch import World
    from virnucpro.reporting.progress import make_display
    from virnucpro.reporting.record import read_record
    from virnucpro.run.session import open_session
    from virnucpro.sequences.inputs import find_inputs

    frames = settings.frames or FRAMES[device.type]
    with tempfile.TemporaryDirectory(prefix="virnucpro-benchmark-") as folder:
        place = Path(folder)
        bundle = write_bundle(place / "bundle", settings.model_shape)
        write_sequences(place / "sequences.fna", frames, settings.lengths)
        say(f"run: predict on {frames} sequences")
        job = PredictSettings(
            inputs=find_inputs([str(place / "sequences.fna")]),
            output_dir=place / "out",
            model=ModelSettings(str(bundle)),
            precision=precision,
            batch_tokens=settings.batch_tokens,
            compile=settings.compile,
            cache_dir=place / "cache",
        )
        alone, on_cpu = World(launched=False), device.type == "cpu"
        with (
            make_display(True, False) as display,
            open_session(job, alone, on_cpu, [], display, own_process=False) as session,
        ):
            session.encoders = encoders
            outcome = pipeline.predict(job, session)
        record = read_record(outcome.outputs.run_json) if outcome else None
    assert record is not None  # of a run that is not resumed, on the main process
    return {"sequences": frames, "frames": record.counts["frames"], "seconds": record.seconds}


def write_bundle(directory: Path, shape: str) -> Path:
    """A bundle that says it is of `shape`: tokenizers and a classifier; its encoders' weights are
    small and never read.
    """
    import json

    # small, and with the vocabulary of `shape`
    random_bundle(directory, "tiny" if shape == "tiny" else "mini")
    sizes = SHAPES[shape]
    esm2_config(shape).for_transformers().save_pretrained(directory / "esm2")
    config = directory / "dnabert_s" / "config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"hidden_size": sizes.dnabert_s[1]})
    )
    random_classifier(sizes.dnabert_s[1] + sizes.esm2[1], sizes.classifier).save(
        directory / "classifier.safetensors"
    )
    return directory


def write_sequences(path: Path, count: int, lengths: str, seed: int = 0) -> None:
    """`count` records whose first frame is open."""
    numbers, codons = np.random.default_rng(seed), np.array(SENSE)
    with path.open("w") as file:
        for record in range(count):
            length = int(numbers.integers(LENGTHS[lengths][0], LENGTHS[lengths][1] + 1))
            bases = "".join(codons[numbers.integers(0, len(codons), length // 3 + 1)])[:length]
            file.write(f">r{record}\n{bases}\n")


# ------------------------------------------------------------------------------------------------
# words
def table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """The result as rows of a table, its header first."""
    rows: list[tuple[str, ...]] = [
        ("stage", "seconds", "frames/s", "tokens/s", "TFLOP/s", "of ceiling")
    ]
    rows.append(("ceiling", "", "", "", f"{result['ceiling_tflops']:.4g}", "100 %"))
    for name in ENCODERS:
        one = result[name]
        rows.append(
            (
                f"{name} alone",
                f"{one['seconds_per_batch']:.4f}",
                f"{one['frames_per_s']:.0f}",
                f"{one['tokens_per_s']:.0f}",
                f"{one['tflops']:.4g}",
                f"{one['share_of_ceiling']:.1%}",
            )
        )
    if result["original"]:
        rows.append(("original's way", "", f"{result['original']['frames_per_s']:.1f}", "", "", ""))
    frames = result["run"]["frames"]
    for stage, seconds in result["run"]["seconds"].items():
        rows.append(
            (
                f"run: {stage}",
                f"{seconds:.3f}",
                f"{frames / seconds:.0f}" if seconds else "",
                "",
                "",
                "",
            )
        )
    return rows


def closing_lines(result: dict[str, Any]) -> list[str]:
    """What is said after the table."""
    lines = [
        f"whole run at {result['run_share_of_esm2']:.1%} of ESM-2 alone ({result['run']['frames']}"
        " frames)"
    ]
    if result["original"]:
        lines.append(
            f"ESM-2 at {result['times_original']:.1f} times the original's way on this device"
        )
    device = (
        f"{result['peak_device_gib']} GiB on the device, "
        if result["peak_device_gib"] is not None
        else ""
    )
    return [*lines, f"peak memory: {device}{result['peak_host_gib']} GiB on the host"]


def device_name(device: torch.device) -> str:
    """For readers."""
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )


def gib(count: int) -> float:
    """Bytes as GiB."""
    return round(count / 2**30, 2)
