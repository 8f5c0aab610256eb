"""`predict`: its options, those of the original's command line among them, to the Python
interface.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from virnucpro.commands.console import console_logging, show
from virnucpro.commands.options import (
    DEVICES,
    INPUTS,
    MODEL,
    RUN,
    AllowShort,
    CacheDir,
    Compile,
    Conservative,
    Format,
    MinScore,
    Precision,
    Prevalence,
    Quiet,
    Relaxed,
    TableFormat,
    Verbose,
    one_of,
)
from virnucpro.errors import UsageError
from virnucpro.settings import FEATURE_KINDS, PRECISIONS, SHORTEST_CHUNK

if TYPE_CHECKING:
    from virnucpro.api import Options

log = logging.getLogger("virnucpro")

Features = one_of("Features", FEATURE_KINDS)
ModelType = one_of("ModelType", ("300", "500", "custom"))
OBSOLETE = (
    "esm_batch_size",
    "dnabert_batch_size",
    "threads",
    "parallel",
    "persistent_models",
    "v1_fallback",
    "v1_attention",
)


def predict(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            show_default=False,
            help=(
                "FASTA or FASTQ, also gz, bz2, xz, zst; a directory of such; - for standard input."
            ),
        ),
    ] = None,
    more_inputs: Annotated[
        list[str] | None,
        typer.Option("-i", "--input", help="The same, repeatable.", rich_help_panel=INPUTS),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output-dir", help="Default: {first input}_virnucpro.", rich_help_panel=INPUTS
        ),
    ] = None,
    table_format: Format = TableFormat.tsv,
    features: Annotated[
        Features,
        typer.Option("--features", rich_help_panel=INPUTS, help="What merged_features.pt keeps."),
    ] = Features.float32,
    min_length: Annotated[
        int,
        typer.Option(
            "--min-length",
            min=0,
            help="Skip shorter sequences (they are listed).",
            rich_help_panel=INPUTS,
        ),
    ] = 0,
    stride: Annotated[
        int | None,
        typer.Option(
            "--stride",
            min=1,
            metavar="BASES",
            rich_help_panel=INPUTS,
            help="Search long sequences for regions in windows that lie so close.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            help="500, 300, mini, or a bundle directory. Default: the best installed.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    esm_model: Annotated[
        str | None,
        typer.Option(
            "--esm-model", help="Replace ESM-2: hub id or directory.", rich_help_panel=MODEL
        ),
    ] = None,
    dna_model: Annotated[
        str | None,
        typer.Option(
            "--dna-model", help="Replace DNABERT-S: hub id or directory.", rich_help_panel=MODEL
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            "--classifier",
            help="Replace the classifier: .safetensors or .pth.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    chunk_length: Annotated[
        int | None,
        typer.Option(
            "--chunk-length",
            min=SHORTEST_CHUNK,
            help="Default: the model's.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", help="all, none, or numbers such as 0,2.", rich_help_panel=DEVICES),
    ] = None,
    num_processes: Annotated[
        int | None,
        typer.Option("--num-processes", help="Processes without GPUs.", rich_help_panel=DEVICES),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            "--precision",
            metavar="TYPE",
            rich_help_panel=DEVICES,
            help=f"Of the encoders: {', '.join(PRECISIONS)}.",
        ),
    ] = Precision.auto,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            metavar="TOKENS",
            rich_help_panel=DEVICES,
            help="Tokens in a batch; lower it when memory is short.",
        ),
    ] = None,
    compile: Annotated[
        Compile,
        typer.Option(
            "--compile",
            rich_help_panel=DEVICES,
            help="Own, faster encoder layers; off: plain ones.",
        ),
    ] = Compile.auto,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue what is unfinished in the output directory, an older version's "
            "too. The default when it is the same run.",
            rich_help_panel=RUN,
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Start over.", rich_help_panel=RUN)
    ] = False,
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint-dir",
            rich_help_panel=RUN,
            help="Keep unfinished work here, so that a retry elsewhere finds it.",
        ),
    ] = None,
    cache_dir: CacheDir = None,
    partial_ok: Annotated[
        bool,
        typer.Option(
            "--partial-ok",
            help="Exit with 0 instead of 2 when some inputs failed.",
            rich_help_panel=RUN,
        ),
    ] = False,
    min_score: MinScore = None,
    conservative: Conservative = False,
    relaxed: Relaxed = False,
    allow_short: AllowShort = False,
    prevalence: Prevalence = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    model_type: Annotated[ModelType | None, typer.Option("--model-type", hidden=True)] = None,
    model_path: Annotated[str | None, typer.Option("--model-path", hidden=True)] = None,
    expected_length: Annotated[int | None, typer.Option("--expected-length", hidden=True)] = None,
    no_progress: Annotated[bool, typer.Option("--no-progress", hidden=True)] = False,
    device: Annotated[str | None, typer.Option("--device", hidden=True)] = None,
    esm_batch_size: Annotated[int | None, typer.Option("--esm-batch-size", hidden=True)] = None,
    dnabert_batch_size: Annotated[
        int | None, typer.Option("--dnabert-batch-size", hidden=True)
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", hidden=True)] = None,
    parallel: Annotated[bool, typer.Option("--parallel", hidden=True)] = False,
    persistent_models: Annotated[bool, typer.Option("--persistent-models", hidden=True)] = False,
    v1_fallback: Annotated[bool, typer.Option("--v1-fallback", hidden=True)] = False,
    v1_attention: Annotated[bool, typer.Option("--v1-attention", hidden=True)] = False,
) -> None:
    """Say for every sequence whether it is viral."""
    given = dict(locals())
    raise typer.Exit(
        run_predict(
            {name: word.value if isinstance(word, Enum) else word for name, word in given.items()}
        )
    )


def run_predict(given: dict[str, Any]) -> int:
    """Carry out `predict`; the exit code. given: what stands on the command line, by the names of
    its parameters.
    """
    from virnucpro import api
    from virnucpro.launch import read_world

    def take(*names: str) -> list[Any]:
        return [given.pop(name) for name in names]

    inputs, more_inputs, model_type, model_path, expected_length, no_progress, device = take(
        "inputs",
        "more_inputs",
        "model_type",
        "model_path",
        "expected_length",
        "no_progress",
        "device",
    )
    obsolete = [
        f"--{name.replace('_', '-')}"
        for name, value in zip(OBSOLETE, take(*OBSOLETE), strict=True)
        if value
    ]
    options = api.Options(**{**given, "quiet": given["quiet"] or no_progress})
    options = as_today(options, model_type, model_path, expected_length, device)
    world = read_world()
    console_logging(options.verbose, options.quiet, world.is_main)
    for name in obsolete if world.is_main and not world.self_launched else ():
        log.warning("%s is no longer needed and does nothing", name)
    result = api.run([*(inputs or []), *(more_inputs or [])], options, own_process=True)
    if result is None:
        return 0
    if result.answers is not None:
        show(result, options.quiet)
    return result.exit_code


def as_today(
    options: Options,
    model_type: str | None,
    model_path: str | None,
    expected_length: int | None,
    device: str | None,
) -> Options:
    """The options of the original's command line (`--model-type`, `--model-path`, `--device`) in
    today's words.
    """
    if model_type and options.model:
        raise UsageError("--model-type is the older name of --model; give one of them")
    if model_type == "custom" and not model_path:
        raise UsageError("--model-type custom: give the classifier with --model-path FILE.pth")
    # beside it, --batch-size is the classifier's rows, which need no choice
    if model_type is not None:
        length = expected_length if model_type == "custom" else None
        base = model_type if model_type != "custom" else "300" if expected_length == 300 else "500"
        options = replace(
            options, model=base, chunk_length=options.chunk_length or length, batch_size=None
        )
    if model_path is not None:
        options = replace(options, classifier=options.classifier or model_path)
    return replace(options, gpus=_gpus(options.gpus, device))


def _gpus(gpus: str | None, device: str | None) -> str | None:
    """`--gpus`, or what `--device auto|cpu|cuda|cuda:1` means."""
    if gpus is not None or device in (None, "auto"):
        return gpus
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise UsageError(f"--device {device}: use --gpus all, none or numbers such as 0,2")
    return "none" if kind == "cpu" else number or "all"
