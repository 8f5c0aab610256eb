"""Options -> one process or several that carry out a run.

Checks what can be checked without a model, and imports torch only then. Does not know what a run
computes.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.errors import InputError, UsageError
from virnucpro.launch import World, check_network, read_world
from virnucpro.reporting.outputs import SPOOL, Outputs
from virnucpro.reporting.result import Result
from virnucpro.reporting.samples import SamplesResult, read_samples
from virnucpro.run.ahead import reading_ahead
from virnucpro.run.hints import input_hint
from virnucpro.run.home import ensure_home
from virnucpro.run.processes import (
    Processes,
    allow_for_fork,
    choose_processes,
    use_threads,
    visible_devices,
)
from virnucpro.run.samples import check_places, note_each, predict_each, samples_of
from virnucpro.run.spool import keep_inputs, run_inputs
from virnucpro.run.stopping import signals_held
from virnucpro.run.workers import launch_processes
from virnucpro.sequences.inputs import NO_INPUT, STDIN, stem_of
from virnucpro.settings import Options, PredictSettings

if TYPE_CHECKING:
    from virnucpro.run.session import Session

log = logging.getLogger(__name__)


def run(given: list[str], options: Options, own_process: bool) -> Result | None:
    """Check what can be checked without a model, then run here or in processes of our own.

    own_process: signals may flush finished work and end this process; in somebody else's they go
    their usual way.
    """
    ensure_home()
    world = read_world()
    check_network(world)
    if world.remark:
        log.warning("%s", world.remark)
    output_dir = (
        Path(options.output_dir) if options.output_dir is not None else default_output(given)
    )
    if options.shard is not None and "-" in given:
        raise UsageError("--shard: every job reads all inputs; write standard input to a file")
    with ExitStack() as stack:
        inputs = run_inputs(given, output_dir, world, stack)
        settings = options.settings(inputs, output_dir)
        _refuse_overwriting(given, settings)
        if own_process:
            stack.enter_context(reading_ahead(settings, world))
        # torch is imported here
        processes = choose_processes(options.gpus, options.num_processes, world, visible_devices())
        _check_inputs(given, world)  # before anything is begun
        if not any(os.path.exists(file.path) for file in inputs):
            more = f" (nor can {len(inputs) - 1} more)" if len(inputs) > 1 else ""
            raise InputError(
                f"{inputs[0].shown}: cannot be opened: {_why_not(inputs[0].path)}{more}; give the"
                " path of a FASTA or FASTQ file"
            )
        outputs = Outputs.of(settings)
        before = _file_state(outputs.run_json)
        if processes.spawn:
            words = ["predict", *replace(options, output_dir=output_dir).arguments()]
            code = launch_processes(processes, words, given)
            result: Result | None = _launched_result(settings, code)
        else:
            with _session(options, settings, processes, world, own_process) as session:
                from virnucpro.pipeline import predict

                result = predict(settings, session)
        if not world.launched and _file_state(outputs.run_json) not in (None, before):
            keep_inputs(output_dir)
        return result


def run_samples(given: list[str], options: Options, own_process: bool) -> SamplesResult | None:
    """As `run`, for the samples of `--samplesheet` or `--per-input`, each in a directory of its
    own; the models are loaded once.
    """
    ensure_home()
    world = read_world()
    check_network(world)
    sheet = None if options.samplesheet is None else Path(options.samplesheet)
    named = given if sheet is None else [str(sheet)]
    output_dir = Path(options.output_dir or default_output(named))
    samples = samples_of(given, sheet, options.per_input, output_dir)
    settings = options.settings((), output_dir)
    if not world.self_launched:  # else the process that launched this one has looked
        # only the main process writes: to another, its results may look like somebody's files
        check_places(samples, sheet, output_dir, options.force or not world.is_main)
    processes = choose_processes(options.gpus, options.num_processes, world, visible_devices())
    if processes.spawn:
        words = ["predict", *replace(options, output_dir=output_dir).arguments()]
        code = launch_processes(processes, words, given)
        return read_samples(output_dir, [sample.name for sample in samples], code)
    with _session(options, settings, processes, world, own_process) as session:
        return note_each(predict_each(samples, settings, session), samples, output_dir, world)


def _check_inputs(given: Sequence[str], world: World) -> None:
    """Say before anything is begun which inputs hold no sequences. Raises InputError where all do;
    else the others are answered, and these are listed as failed.
    """
    found = [(name, hint) for name in given if (hint := input_hint(name))]
    if found and len(found) == len(given):
        more = f" ({len(found) - 1} more inputs like it)" if len(found) > 1 else ""
        raise InputError(f"{found[0][0]}: {found[0][1]}{more}")
    for name, hint in found if world.is_main and not world.self_launched else ():
        log.warning("%s: %s; the run goes on with the other inputs", name, hint)


def _file_state(path: Path) -> tuple[int, int] | None:
    """What tells a file from the one that replaces it."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def default_output(given: list[str]) -> Path:
    """`{stem of the first input}_virnucpro`."""
    if not given:
        raise UsageError(NO_INPUT)
    first = Path(given[0])
    if given[0] == "-":
        name = STDIN
    elif os.path.isfile(first) or os.path.isdir(first):
        name = first.resolve().name
    else:
        name = first.name  # a pipe, or nothing
    return Path(f"{stem_of(name)}_virnucpro")


@contextmanager
def _session(
    options: Options,
    settings: PredictSettings,
    processes: Processes,
    world: World,
    own_process: bool,
) -> Iterator[Session]:
    """A session on this process's devices, with what was chosen for it so far."""
    if processes.visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = processes.visible
    with signals_held():
        import virnucpro.pipeline  # noqa: F401 (all that a run needs)
        from virnucpro.embedding.group import GpuMemory
        from virnucpro.reporting.progress import make_display
        from virnucpro.run.session import open_session

    allow_for_fork(processes.cpu)
    choices = [processes.choice, use_threads(options.threads, processes.cpu, world)]
    quiet = options.quiet or not world.is_main
    with (
        make_display(quiet, options.verbose, memory=GpuMemory()) as display,
        open_session(settings, world, processes.cpu, choices, display, own_process) as session,
    ):
        yield session


def _why_not(path: Path) -> str:
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return os.strerror(errno.ENOENT)


def _launched_result(settings: PredictSettings, code: int) -> Result:
    """What the processes of our own launch left; they have said themselves why, where they
    failed.
    """
    from virnucpro.reporting.record import read_record

    outputs = Outputs.of(settings)
    record = read_record(outputs.run_json) if code in (0, 2) else None
    if record is None:
        raise SystemExit(code)
    return Result(outputs, record.failures, code, is_shown=True)


def _refuse_overwriting(given: list[str], settings: PredictSettings) -> None:
    """Raise UsageError where an input or a part of the model is in the way of the outputs."""
    outputs = Outputs.of(settings)
    spool = outputs.directory / SPOOL
    paths = [file.path for file in settings.inputs if spool not in file.path.parents]
    model = settings.model
    parts = (model.model, model.esm_model, model.dna_model, model.classifier)
    outputs.refuse_inputs([*paths, *map(Path, given), *(Path(part) for part in parts if part)])
