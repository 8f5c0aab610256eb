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
from accelerate import Accelerator

from virnucpro.calling.answers import call
from virnucpro.embedding.coverage import Coverage, coverage, exit_code, scored
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
from virnucpro.embedding.work import TokenColumn, longest_tokens
from virnucpro.errors import StoreError, VirNucProError
from virnucpro.homology.choice import reference_choice
from virnucpro.launch import World, code_for_launcher, resume_hint, stopped
from virnucpro.models.bundle import Bundle, resolve_bundle
from virnucpro.models.classifier import Classifier
from virnucpro.models.encoder import Encoder
from virnucpro.models.encoders import EncoderEntry
from virnucpro.models.precision import resolve_precision
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.progress import Display
from virnucpro.reporting.record import RunRecord, read_record, write_failures, write_record
from virnucpro.reporting.result import Result
from virnucpro.reporting.write import dated, write_results
from virnucpro.run.ahead import check_stride
from virnucpro.run.job import Job, Run, join, load_ahead, load_encoder, prepare
from virnucpro.run.preload import LoadAhead
from virnucpro.run.records import calibration_of, run_record, with_files
from virnucpro.run.samples import Sample
from virnucpro.run.shards import write_shard
from virnucpro.run.state import WorkPlace
from virnucpro.run.stopping import Stopping
from virnucpro.run.timing import Clock
from virnucpro.sequences.table import FrameIds
from virnucpro.settings import Choice, PredictSettings

log = logging.getLogger(__name__)

SECONDS_FOR_THE_LAUNCHER = 5.0  # to find out which process died, and end the others


@dataclass(slots=True)
class Session:
    """What several runs of one process share: its place among the processes, the model, the
    device, and the encoders once they are loaded.

    stores: those of the run that is going on, which a signal has to flush. encoders: None where
    each is dropped after its use, as a single run does. computing: all processes are embedding
    together, and none can leave this without the others.
    """

    world: World
    bundle: Bundle
    accelerator: Accelerator
    precision: str
    choices: tuple[Choice, ...]
    display: Display
    stores: list[FeatureStore]
    encoders: dict[str, Encoder] | None = None
    computing: bool = False


def predict(
    settings: PredictSettings,
    world: World,
    cpu: bool,
    choices: Iterable[Choice],
    display: Display,
    own_process: bool = True,
    encoders: dict[str, Encoder] | None = None,
) -> Result | None:
    """Carry out a run in this process, one of `world.size`; the result on the main process, None
    on the others.

    own_process: signals may end this process, once finished work is on disk; False inside somebody
    else's program. encoders: those that are on the device already, by name; they stay there.
    """
    clock = Clock()
    with _session(settings, world, cpu, choices, display, own_process, clock) as session:
        session.encoders = encoders
        return _carry_out(settings, session, clock)


def predict_each(
    samples: Sequence[Sample],
    settings: PredictSettings,
    world: World,
    cpu: bool,
    choices: Iterable[Choice],
    display: Display,
    own_process: bool = True,
) -> Iterator[tuple[Sample, Result | BaseException | None]]:
    """Carry out the runs of `samples` with the same `settings`, inputs and directory apart, one
    after another: each sample with its result, or with the error that ended it. An error ends the
    others too only where it leaves processes that cannot go on together.
    """
    clock = Clock()
    with _session(settings, world, cpu, choices, display, own_process, clock) as session:
        session.encoders = {}
        for number, sample in enumerate(samples):
            outcome: Result | BaseException | None
            try:
                own = _settings_of(sample, settings, world, number)
                outcome = _carry_out(own, session, clock, number, len(samples))
            except (Exception, SystemExit) as error:
                if isinstance(error, PeerLostError) or (session.computing and world.size > 1):
                    raise
                if isinstance(error, SystemExit) and world.is_main:
                    raise
                outcome = error
            session.computing = False
            session.stores.clear()
            yield sample, outcome
            clock = Clock()


def _settings_of(
    sample: Sample, settings: PredictSettings, world: World, number: int
) -> PredictSettings:
    """The settings of a sample's run. Where it has none, the other processes are told."""
    try:
        return sample.settings(settings)
    except Exception as error:
        if world.is_main:
            note = {"error": getattr(error, "exit_code", 1)}
            Announcements(number).post("job", note)
        raise


@contextmanager
def _session(
    settings: PredictSettings,
    world: World,
    cpu: bool,
    choices: Iterable[Choice],
    display: Display,
    own_process: bool,
    clock: Clock,
) -> Iterator[Session]:
    """The model and the devices of `settings`, while entered; signals are obeyed."""
    stores: list[FeatureStore] = []
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
                bundle.cpu_precision,
            )
        stack.callback(abandon_group)
        yield Session(
            world,
            bundle,
            accelerator,
            precision.value,
            (chosen, *choices, precision),
            display,
            stores,
        )


def _carry_out(
    settings: PredictSettings, session: Session, clock: Clock, number: int = 0, of: int = 1
) -> Result | None:
    """The run `number` of `of` in this session."""
    world, accelerator = session.world, session.accelerator
    call_with = settings.call.of_model(session.bundle.weighs_evidence)
    settings = replace(settings, precision=session.precision, call=call_with)
    run = Run(
        settings,
        world,
        session.bundle,
        accelerator.device,
        WorkPlace(settings.output_dir, settings.checkpoint_dir),
        Announcements(number),
        session.display,
        clock,
        [*session.choices, *reference_choice(call_with)],
        session.stores,
    )
    ahead_of_time = LoadAhead({}, run.device) if session.encoders else load_ahead(run)
    with ExitStack() as stack, _finished_work_kept(run), ahead_of_time as ahead:
        job = prepare(run, stack) if world.is_main else join(run)
        session.computing = True
        done = None if job is None else _embed_all(job, run, session, ahead)
        session.computing = False
        if number + 1 == of:
            close_group(accelerator)
        if not world.is_main:
            return None
        if job is None or done is None:
            return _finished_before(settings)
        return _answer(job, done, run)


def _finished_before(settings: PredictSettings) -> Result:
    """An earlier run's results, with what failed then."""
    outputs = Outputs.of(settings)
    record = read_record(outputs.run_json)
    return Result(outputs, record.failures if record else (), 0)


def _embed_all(job: Job, run: Run, session: Session, ahead: LoadAhead) -> dict[str, Extraction]:
    """Frames to embeddings: every encoder over all that is missing of it. The weights are read
    only if something is, and once a session.
    """
    done = {}
    kept = session.encoders if session.encoders is not None else {}
    for entry in run.bundle.encoders:
        name = entry.name
        if len(job.plans[name]) == 0:
            ahead.take(name)
            done[name] = Extraction(0, 0, 0, 0, {})
            continue
        with run.clock.stage(f"load {name}"):
            encoder = kept.get(name) or load_encoder(entry, run, ahead)
        done[name] = _embed(entry, encoder, job, run, session.accelerator)
        if session.encoders is not None:
            kept[name] = encoder
            continue
        del encoder
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
    return done


def _embed(entry: EncoderEntry, encoder: Encoder, job: Job, run: Run, accelerator) -> Extraction:
    name = entry.name
    plan, store = job.plans[name], job.work[name].store if name in job.work else None
    run.choices.extend(encoder.choices)
    log.info("%s: %s", name, "; ".join(map(str, encoder.choices)))
    with run.clock.stage(name):
        run.display.embedding(entry.task, len(plan), accelerator.num_processes)
        token_ids = TokenColumn(job.table, entry)
        batches = PlannedBatches(plan, token_ids, encoder.pad_id, longest_tokens(job.table, entry))
        return extract(accelerator, encoder, batches, store, run.display.step)


def _answer(job: Job, done: dict[str, Extraction], run: Run) -> Result:
    """Embeddings to answers and files, on the main process alone."""
    covered = coverage(job.table, job.work, done)
    with run.clock.stage("store"):
        run.display.stage("joining features")
        rows = np.flatnonzero(covered.kept)
        features = FeatureRows(
            [
                Part(work.store, work.sharing.representative[rows])
                for work in map(job.work.__getitem__, run.bundle.widths)
            ]
        )
    with _matrix_written(job, rows, features, run) as saved:
        with run.clock.stage("classify"):
            run.display.stage("classifying")
            scores = np.full((len(job.table), 2), np.nan, dtype=np.float32)
            scores[rows] = Classifier.load(run.bundle.classifier).scores(features)
            answered = scored(job.table, covered.kept, scores)
        failures = (*job.table.failures, *covered.failures, *answered.failures)
        record = replace(
            run_record(job, done, run),
            failures=failures,
            exit_code=exit_code(job.table, answered, failures, run.settings.partial_ok),
        )
        if run.settings.shard:
            return _write_shard(job, record, scores, covered, run, saved)
        return _call_and_write(job, record, scores, ~covered.kept, run, saved)


def _call_and_write(
    job: Job,
    record: RunRecord,
    scores: np.ndarray,
    lost: np.ndarray,
    run: Run,
    saved: Callable[[], object] | None,
) -> Result:
    """Scores to calls to files; `lost` bool [frames] have none, `saved` waits for the matrix."""
    run.display.stage("writing tables and report")
    stores = [work.store for work in job.work.values()]
    job.work.clear()  # with the plans, 60 bytes a frame that calling may need
    job.plans.clear()
    settings, table = run.settings, with_files(job.table, run.settings.inputs)
    with run.clock.stage("call"):
        calibration = calibration_of(record.model)
        answers = call(table, scores, lost, settings.call, run.bundle.name, calibration)
    write_results(job.outputs, answers, record, run.clock, saved)
    _clear(record, stores, run)
    code = code_for_launcher(record.exit_code, run.world)
    return Result(job.outputs, record.failures, code, answers)


def _write_shard(
    job: Job,
    record: RunRecord,
    scores: np.ndarray,
    covered: Coverage,
    run: Run,
    saved: Callable[[], object] | None,
) -> Result:
    """What `merge` needs of a shard; no calls and no tables, which all shards together give."""
    stores = [work.store for work in job.work.values()]
    with job.outputs.replacing_results():
        files = write_shard(job.outputs.directory, job.table, scores, covered.reasons)
        write_failures(job.outputs, record.failures)
        if saved is not None:
            saved()
        write_record(job.outputs, replace(dated(record), scores=files, seconds=run.clock.seconds()))
    _clear(record, stores, run)
    log.info(
        "shard %s: %s frames embedded; join all with virnucpro merge",
        *(run.settings.shard, f"{len(job.table):,}"),
    )
    return Result(job.outputs, record.failures, code_for_launcher(record.exit_code, run.world))


def _clear(record: RunRecord, stores: Iterable[FeatureStore], run: Run) -> None:
    """Unfinished work goes; where rows failed it stays, as a later start tries them again."""
    if not record.retry:
        for store in stores:
            store.remove()
        run.place.clear()


@contextmanager
def _matrix_written(
    job: Job, rows: np.ndarray, features: FeatureRows, run: Run
) -> Iterator[Callable[[], object] | None]:
    """`merged_features.pt` of the frames `rows` is written by a thread while tables are made: it is
    the disk's work. Gives what waits for it; None where no features are kept.
    """
    if run.settings.features == "none":
        yield None
        return
    model = {"name": run.bundle.name, **run.bundle.identity()}
    with ThreadPoolExecutor(1, thread_name_prefix="features") as pool:
        saved = pool.submit(
            write_matrix, job.outputs.features, FrameIds(job.table, rows), features, model
        )
        try:
            yield saved.result
        except VirNucProError:
            error = saved.exception()
            if error is not None:  # a full disk stops both: said is what needs the room
                raise error from None
            raise


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
