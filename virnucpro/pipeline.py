"""The whole run of `predict`, in the order in which a sequence lives through it.

read -> chunks -> frames (the table) -> embeddings (all processes) -> one matrix -> scores -> calls
-> files
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
import torch

from virnucpro.calling.answers import Answers, call
from virnucpro.calling.calibration import Calibration
from virnucpro.embedding.coverage import Coverage, any_answered, coverage, scored
from virnucpro.embedding.extract import Extraction, PlannedBatches, extract
from virnucpro.embedding.group import (
    Announcements,
    PeerLostError,
    abandon_group,
    close_group,
    make_accelerator,
)
from virnucpro.embedding.matrix import write_matrix
from virnucpro.embedding.store import FeatureRows, FeatureStore, Part
from virnucpro.embedding.work import ENCODERS, TokenColumn, Work, longest_tokens
from virnucpro.errors import Failure, StoreError, VirNucProError
from virnucpro.launch import World, resume_hint, stopped
from virnucpro.models.bundle import Bundle, resolve_bundle
from virnucpro.models.classifier import Classifier
from virnucpro.models.encoder import Encoder
from virnucpro.models.files import read_verification
from virnucpro.models.precision import resolve_precision
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.progress import Display
from virnucpro.reporting.record import (
    EncoderRecord,
    InputRecord,
    ModelRecord,
    RunRecord,
    call_identity,
    read_record,
    typed,
)
from virnucpro.reporting.write import write_results
from virnucpro.run.ahead import check_stride
from virnucpro.run.job import Job, Run, device_name, join, load_ahead, load_encoder, prepare
from virnucpro.run.preload import LoadAhead
from virnucpro.run.state import WorkPlace
from virnucpro.run.stopping import Stopping
from virnucpro.run.timing import Clock
from virnucpro.sequences.inputs import InputFile
from virnucpro.sequences.table import FrameIds, FrameTable
from virnucpro.settings import Choice, PredictSettings

log = logging.getLogger(__name__)

SECONDS_FOR_THE_LAUNCHER = 5.0  # to find out which process died, and end the others


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `predict` tells its caller.

    `answers` is None where an earlier run had finished already.
    """

    outputs: Outputs
    answers: Answers | None
    failures: tuple[Failure, ...]
    exit_code: int


def predict(
    settings: PredictSettings,
    world: World,
    cpu: bool,
    choices: Iterable[Choice],
    display: Display,
    own_process: bool = True,
) -> Outcome | None:
    """Carry out a run in this process, one of `world.size`; the outcome on the main process, None
    on the others.

    own_process: signals may end this process, once finished work is on disk; False inside somebody
    else's program.
    """
    stores: list[FeatureStore] = []
    clock = Clock()
    with ExitStack() as stack:
        if own_process:
            stack.enter_context(
                Stopping(
                    lambda number: _stopped(number, stores, settings, world, display), world.parent
                )
            )
        with clock.stage("start"):
            bundle, chosen = resolve_bundle(settings.model)
            check_stride(settings, bundle)  # before anything is written
            accelerator = make_accelerator(world, cpu)
            precision = resolve_precision(
                settings.precision,
                accelerator.device,
                accelerator.mixed_precision if world.launched else None,
            )
        run = Run(
            replace(settings, precision=precision.value),
            world,
            bundle,
            accelerator.device,
            WorkPlace(settings.output_dir, settings.checkpoint_dir),
            Announcements(),
            display,
            clock,
            [chosen, *choices, precision],
            stores,
        )
        with _finished_work_kept(run), load_ahead(run) as ahead:
            job = prepare(run, stack) if world.is_main else join(run)
            if job is None:
                close_group(accelerator)
                return _finished_before(Outputs.of(settings)) if world.is_main else None
            done = _embed_all(job, run, accelerator, ahead)
            close_group(accelerator)
            return _finish(job, done, run) if world.is_main else None


def _finished_before(outputs: Outputs) -> Outcome:
    """An earlier run's results, with what failed then."""
    record = read_record(outputs.run_json)
    return Outcome(outputs, None, record.failures if record else (), 0)


def _embed_all(job: Job, run: Run, accelerator, ahead: LoadAhead) -> dict[str, Extraction]:
    """Every encoder over all that is missing of it; the weights are read only if something is."""
    done = {}
    for name in ENCODERS:
        if len(job.plans[name]) == 0:
            ahead.take(name)
            done[name] = Extraction(0, 0, 0, 0, {})
            continue
        with run.clock.stage(f"load {name}"):
            encoder = load_encoder(name, run, ahead)
        done[name] = _embed(name, encoder, job, run, accelerator)
        del encoder
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
    return done


def _embed(name: str, encoder: Encoder, job: Job, run: Run, accelerator) -> Extraction:
    plan, store = job.plans[name], job.work[name].store if name in job.work else None
    run.choices.extend(encoder.choices)
    log.info("%s: %s", name, "; ".join(map(str, encoder.choices)))
    with run.clock.stage(name):
        run.display.embedding(name, len(plan), accelerator.num_processes)
        token_ids = TokenColumn(job.table, name)
        batches = PlannedBatches(plan, token_ids, encoder.pad_id, longest_tokens(job.table, name))
        return extract(accelerator, encoder, batches, store, run.display.step)


def _finish(job: Job, done: dict[str, Extraction], run: Run) -> Outcome:
    """The main process alone: matrix, scores, calls, files. The matrix is the disk's work, and is
    written beside the others.
    """
    covered = coverage(job.table, job.work, done)
    with run.clock.stage("store"):
        run.display.stage("joining features")
        rows = np.flatnonzero(covered.kept)
        features = FeatureRows(
            [
                Part(job.work[name].store, job.work[name].sharing.representative[rows])
                for name in ENCODERS
            ]
        )
    with ThreadPoolExecutor(1, thread_name_prefix="features") as beside:
        saved = (
            beside.submit(_write_features, job, rows, features, run.bundle)
            if run.settings.features != "none"
            else None
        )
        try:
            return _answer(job, done, covered, rows, features, saved.result if saved else None, run)
        except VirNucProError:
            if saved and saved.exception():  # a full disk stops both: said is what needs the room
                raise saved.exception() from None
            raise


def _answer(
    job: Job,
    done: dict[str, Extraction],
    covered: Coverage,
    rows: np.ndarray,
    features: FeatureRows,
    saved: Callable[[], object] | None,
    run: Run,
) -> Outcome:
    """Scores, calls and files of the frames `rows`, those with features.

    `saved` waits for the matrix.
    """
    settings, bundle, table = run.settings, run.bundle, job.table
    failures = [*table.failures, *covered.failures]
    with run.clock.stage("classify"):
        run.display.stage("classifying")
        scores = np.full((len(table), 2), np.nan, dtype=np.float32)
        scores[rows] = Classifier.load(bundle.classifier).scores(features)
        answered = scored(table, covered.kept, scores)
        failures += answered.failures
    run.display.stage("writing tables and report")
    code = _exit_code(table, answered, failures, settings)
    retry = sum(len(extraction.failed) for extraction in done.values())
    model = model_record(bundle)
    record = RunRecord(
        identity=job.identity,
        call=call_identity(settings.call),
        model=model,
        inputs=input_records(table, settings),
        failures=tuple(failures),
        features=settings.features,
        exit_code=code,
        retry=retry,
        choices=tuple(run.choices),
        device=device_name(run.device),
        processes=run.world.size,
        precision=settings.precision,
        batch_tokens={name: plan.tokens for name, plan in job.plans.items()},
        embedding={name: encoder_record(job.work[name], e) for name, e in done.items()},
        calibrated=model.calibration is not None,
    )
    stores = [work.store for work in job.work.values()]
    job.work.clear()  # with the plans, 60 bytes a frame that calling may need
    job.plans.clear()
    calibration = Calibration.from_json(model.calibration) if model.calibration else None
    with run.clock.stage("call"):
        answers = call(
            with_files(table, settings.inputs),
            scores,
            ~covered.kept,
            settings.call,
            bundle.name,
            calibration,
        )
    write_results(job.outputs, answers, record, run.clock, saved)
    if not retry:  # else a later start tries the failed rows again
        for store in stores:
            store.remove()
        run.place.clear()
    return Outcome(job.outputs, answers, tuple(failures), _for_the_launcher(code, run.world))


def _write_features(job: Job, rows: np.ndarray, features: FeatureRows, bundle: Bundle) -> None:
    """`merged_features.pt` of the frames `rows`."""
    write_matrix(
        job.outputs.features,
        FrameIds(job.table, rows),
        features,
        {"name": bundle.name, **bundle.identity()},
    )


def with_files(table: FrameTable, inputs: Sequence[InputFile]) -> FrameTable:
    """With the paths at which the inputs can be read once more: what came through a pipe has been
    kept in a file.
    """
    paths = [str(file.path) for file in inputs]
    return replace(
        table,
        inputs=tuple(
            {**entry, "path": path} for entry, path in zip(table.inputs, paths, strict=True)
        ),
    )


def _exit_code(
    table: FrameTable, covered: Coverage, failures: list[Failure], settings: PredictSettings
) -> int:
    """0 all answered, 2 some failed, 1 none was answered."""
    if not failures:
        return 0
    if not any_answered(table, covered.kept):
        return 1
    return 0 if settings.partial_ok else 2


def _for_the_launcher(code: int, world: World) -> int:
    """Launchers other than ours would turn 2 into a failure with a traceback of theirs; `run.json`
    has the code.
    """
    return 0 if code == 2 and world.launched and not world.self_launched else code


def model_record(bundle: Bundle) -> ModelRecord:
    """What is said of the model in `run.json` and the report."""
    identity = bundle.identity()
    return ModelRecord(
        name=bundle.name,
        chunk_length=bundle.chunk_length,
        frame_policy=bundle.frame_policy,
        sources=bundle.sources,
        sha256=identity,
        licence=bundle.licence,
        accuracy=bundle.accuracy,
        calibration=bundle.calibration,
        verified=read_verification(identity),
        classifier=str(bundle.classifier.resolve()),
        directories={name: str(getattr(bundle, name).resolve()) for name in ENCODERS},
    )


def input_records(table: FrameTable, settings: PredictSettings) -> tuple[InputRecord, ...]:
    """The inputs as `run.json` says them."""
    return tuple(
        replace(typed(InputRecord, entry, "inputs"), kept=file.path.name if file.named else None)
        for entry, file in zip(table.inputs, settings.inputs, strict=True)
    )


def encoder_record(work: Work, done: Extraction) -> EncoderRecord:
    """What `run.json` says of an encoder's embeddings."""
    return EncoderRecord(
        unique=len(work.sharing.unique),
        rows=done.rows,
        split=done.split,
        recomputed=done.recomputed,
        in_16_bits=done.in_16_bits,
        failed=len(done.failed),
        taken_up=work.taken_up,
        processes=tuple(seconds.rounded() for seconds in done.processes),
    )


@contextmanager
def _finished_work_kept(run: Run) -> Iterator[None]:
    """Whatever goes wrong inside: embeddings that are there are written before the error goes on
    its way.
    """
    try:
        yield
    except BaseException as error:
        with suppress(StoreError):  # the disk may be what went wrong
            for store in run.stores:
                store.flush()
        if isinstance(error, PeerLostError):
            time.sleep(SECONDS_FOR_THE_LAUNCHER)
            raise PeerLostError(f"{error}; {resume_hint(run.settings.force)}") from error
        raise
    finally:
        abandon_group()


def _stopped(
    number: int,
    stores: list[FeatureStore],
    settings: PredictSettings,
    world: World,
    display: Display,
) -> None:
    """A signal came: keep what is finished, say how to go on."""
    try:
        for store in stores:
            store.flush()
    except StoreError as error:
        log.error("%s", error)
    if world.is_main:
        display.__exit__(None, None, None)  # gives the terminal back
        if not world.self_launched:
            log.error("%s", stopped(number, settings.force))
