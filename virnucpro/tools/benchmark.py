"""How fast this machine is, and against what: the matrix-product ceiling, each encoder alone, and a
whole run.

Weights are random (speed does not depend on them), made on the device; the sequences are random and
free of stops in their first frame. The run is the real one: `pipeline.predict` on a FASTA file, its
stages as `run.json` has them.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from virnucpro import __version__
from virnucpro.models.choices import preferred_tokens, resolve_precision
from virnucpro.models.encoders import ENCODERS, as_listed
from virnucpro.settings import Choice, ModelSettings, PredictSettings
from virnucpro.tools.random_models import (
    SHAPES,
    esm2_config,
    random_bundle,
    random_classifier,
)
from virnucpro.tools.speed import LENGTHS, against_original, encoders_alone, random_encoder

if TYPE_CHECKING:
    from virnucpro.tools.commands import BenchmarkSettings

FRAMES = {"cuda": 20_000, "cpu": 300}  # of the whole run, by default
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
