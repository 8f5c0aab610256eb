"""`predict`: options to settings, one process or several, and what is said at the end."""
from __future__ import annotations

import logging
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import UsageError
from virnucpro.launch import Processes, World, choose_processes, launch_processes, read_world, visible_devices
from virnucpro.sequences.reader import InputFile, find_inputs, spool_stdin
from virnucpro.settings import CONSERVATIVE, RELAXED, CallPoints, CallSettings, ModelSettings, PredictSettings

log = logging.getLogger("virnucpro")

STDIN_VARIABLE = "VIRNUCPRO_STDIN"  # where our own launch has put standard input for its processes


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """The options as given; see `virnucpro predict --help`."""

    inputs: list[str]
    output_dir: Path | None
    table_format: str
    features: str
    min_length: int
    model: str | None
    esm_model: str | None
    dna_model: str | None
    classifier: str | None
    chunk_length: int | None
    gpus: str | None
    num_processes: int | None
    precision: str
    batch_size: int | None
    compile: str
    resume: bool
    force: bool
    checkpoint_dir: Path | None
    cache_dir: Path | None
    partial_ok: bool
    min_score: float | None
    conservative: bool
    relaxed: bool
    allow_short: bool
    prevalence: float | None
    quiet: bool
    verbose: bool
    model_type: str | None
    model_path: str | None
    expected_length: int | None
    device: str | None
    obsolete: tuple[str, ...]


def run_predict(options: PredictOptions) -> int:
    """Check everything that can be checked without the model, then run here or in processes of our own."""
    from virnucpro.commands.console import console_logging

    world = read_world()
    console_logging(options.verbose, options.quiet, world.is_main)
    for name in options.obsolete if world.is_main and not world.self_launched else ():
        log.warning("%s is no longer needed and does nothing", name)
    call = CallSettings(points(options.min_score, options.conservative, options.relaxed), options.allow_short, options.prevalence,
                        options.table_format)
    if options.resume and options.force:
        raise UsageError("--resume continues and --force starts over; give one of them")
    output_dir = options.output_dir or _default_output(options.inputs)
    spool = output_dir / ".virnucpro-stdin"
    inputs = _inputs(options.inputs, spool, world)
    try:
        processes = choose_processes(_gpus(options), options.num_processes, world, visible_devices())
        settings = PredictSettings(
            inputs=inputs, output_dir=output_dir, model=_model(options), precision=options.precision,
            batch_tokens=None if options.model_type else options.batch_size, compile=options.compile, features=options.features,
            min_length=options.min_length, call=call, resume=options.resume, force=options.force,
            checkpoint_dir=options.checkpoint_dir, cache_dir=options.cache_dir, partial_ok=options.partial_ok,
        )  # fmt: skip
        if processes.spawn:
            return _launch(processes)
        return _run_here(settings, options, world, processes)
    finally:
        if spool.is_dir() and not world.launched:
            shutil.rmtree(spool, ignore_errors=True)


def points(min_score: float | None, conservative: bool, relaxed: bool) -> CallPoints:
    """The points of `--min-score`, `--conservative`, `--relaxed`, of which at most one may stand there."""
    if sum((min_score is not None, conservative, relaxed)) > 1:
        raise UsageError("--min-score, --conservative and --relaxed exclude each other; give one of them")
    virus = min_score if min_score is not None else CONSERVATIVE if conservative else RELAXED if relaxed else None
    return CallPoints() if virus is None else CallPoints(virus=virus, relaxed=min(virus, RELAXED))


def _launch(processes: Processes) -> int:
    log.info("%s", processes.choice)
    return launch_processes(processes, sys.argv[1:])


def _run_here(settings: PredictSettings, options: PredictOptions, world: World, processes: Processes) -> int:
    if processes.visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = processes.visible
    from virnucpro.pipeline import predict
    from virnucpro.reporting.console import show_outcome
    from virnucpro.reporting.progress import make_display

    display = make_display(options.quiet or not world.is_main, options.verbose)
    with display:
        outcome = predict(settings, world, processes.cpu, [processes.choice], display)
    if outcome is None:
        return 0
    if outcome.answers is not None:
        show_outcome(outcome, options.quiet)
    return outcome.exit_code


def _inputs(given: list[str], spool: Path, world: World) -> tuple[InputFile, ...]:
    if "-" not in given:
        return find_inputs(given)
    if given != ["-"]:
        raise UsageError("input -: standard input cannot be mixed with files; name files, or - alone")
    if os.environ.get(STDIN_VARIABLE):
        return (InputFile(Path(os.environ[STDIN_VARIABLE]), "stdin", "stdin"),)
    if world.launched:
        raise UsageError("input -: under a launcher one process would get it all; write it to a file, or use --gpus")
    file = spool_stdin(spool)
    os.environ[STDIN_VARIABLE] = str(file.path)
    return (file,)


def _default_output(inputs: list[str]) -> Path:
    from virnucpro.sequences.reader import stem_of

    if not inputs:
        raise UsageError("no input: name at least one FASTA or FASTQ file, a directory of them, or - for standard input")
    return Path(f"{'stdin' if inputs[0] == '-' else stem_of(Path(inputs[0]).resolve().name)}_virnucpro")


def _gpus(options: PredictOptions) -> str | None:
    """`--gpus`, or the original's `--device` (auto, cpu, cuda, cuda:1) in its words."""
    if options.gpus is not None or options.device in (None, "auto"):
        return options.gpus
    if options.device == "cpu":
        return "none"
    kind, _, number = options.device.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise UsageError(f"--device {options.device}: use --gpus all, none or numbers such as 0,2")
    return number or "all"


def _model(options: PredictOptions) -> ModelSettings:
    """The model options, those of the original's command line (`--model-type`, `--model-path`) taken up."""
    if options.model_type and options.model:
        raise UsageError("--model-type is the older name of --model; give one of them")
    if options.model_type == "custom" and not options.model_path:
        raise UsageError("--model-type custom: give the classifier with --model-path FILE.pth")
    model = options.model_type if options.model_type in ("300", "500") else options.model
    if options.model_type == "custom":
        model = "300" if options.expected_length == 300 else "500"
    length = options.chunk_length or (options.expected_length if options.model_type == "custom" else None)
    return ModelSettings(model, options.esm_model, options.dna_model, options.classifier or options.model_path, length)


