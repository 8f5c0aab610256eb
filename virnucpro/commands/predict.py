"""`predict` and `summarize`: the command line's words to the Python interface, and what is said at the end."""
from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from virnucpro import api
from virnucpro.commands.console import console_logging
from virnucpro.errors import UsageError
from virnucpro.launch import read_world

log = logging.getLogger("virnucpro")


def run_predict(inputs: list[str], options: api.Options, obsolete: tuple[str, ...]) -> int:
    """Carry out `predict`; the exit code."""
    world = read_world()
    console_logging(options.verbose, options.quiet, world.is_main)
    for name in obsolete if world.is_main and not world.self_launched else ():
        log.warning("%s is no longer needed and does nothing", name)
    result = api.run(inputs, options, own_process=True)
    if result is None:
        return 0
    if result.answers is not None:
        show(result, options.quiet)
    return result.exit_code


def run_summarize(directory: Path, classifier: Path | None, quiet: bool, verbose: bool, **options: object) -> int:
    """Carry out `summarize`; the exit code."""
    console_logging(verbose, quiet, True)
    result = api.summarize(directory, classifier, **options)
    show(result, quiet)
    return result.exit_code


def show(result: api.Result, quiet: bool) -> None:
    from virnucpro.reporting.console import show_outcome

    show_outcome(result, quiet)


def as_today(options: api.Options, model_type: str | None, model_path: str | None, expected_length: int | None,
             device: str | None) -> api.Options:
    """The options of the original's command line (`--model-type`, `--model-path`, `--device`) in today's words."""
    if model_type and options.model:
        raise UsageError("--model-type is the older name of --model; give one of them")
    if model_type == "custom" and not model_path:
        raise UsageError("--model-type custom: give the classifier with --model-path FILE.pth")
    if model_type is not None:  # beside it, --batch-size is the classifier's rows, which need no choice
        length = expected_length if model_type == "custom" else None
        base = model_type if model_type != "custom" else "300" if expected_length == 300 else "500"
        options = replace(options, model=base, chunk_length=options.chunk_length or length, batch_size=None)
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
