"""The whole run of `predict`, in the order in which a sequence lives through it.

read -> chunks -> frames (the table) -> embeddings (all processes) -> one matrix -> scores -> calls -> files
"""
from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from virnucpro import __version__
from virnucpro.calling.calibration import Calibration
from virnucpro.clock import Clock
from virnucpro.embedding.board import Board, PeerLost
from virnucpro.embedding.coverage import Coverage, any_answered, coverage
from virnucpro.embedding.devices import drop_out, leave, make_accelerator
from virnucpro.embedding.extract import Extraction, PlannedBatches, extract
from virnucpro.embedding.feature_store import FeatureStore
from virnucpro.embedding.job import ENCODERS, Work, batch_tokens, longest_tokens, make_work
from virnucpro.embedding.matrix import Part, check_room, read_matrix, write_matrix
from virnucpro.embedding.plan import Plan
from virnucpro.embedding.token_column import TokenColumn
from virnucpro.errors import Failure, InputError, ModelError, StoreError, VirNucProError
from virnucpro.launch import World, how_to_go_on, leave_status, stopped
from virnucpro.models.bundle import Bundle, resolve_bundle
from virnucpro.models.classifier import Classifier
from virnucpro.models.dnabert_s import load_dnabert_s
from virnucpro.models.esm2 import load_esm2
from virnucpro.models.precision import resolve_precision
from virnucpro.models.verify import read_verification
from virnucpro.reporting.answers import Answers
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.progress import Display
from virnucpro.reporting.run_record import logging_to, write_failures
from virnucpro.results import call_identity, read_finished, write_results
from virnucpro.run_state import Identity, WorkPlace, is_finished
from virnucpro.sequences.frame_table import FrameRules, FrameTable, build_or_open, open_existing
from virnucpro.sequences.tokens import Tokenizers
from virnucpro.settings import Choice, PredictSettings
from virnucpro.stopping import Stopping

log = logging.getLogger(__name__)

LOADERS = {"dnabert_s": load_dnabert_s, "esm2": load_esm2}
BATCH_TOKENS = {"cuda": 16_384, "cpu": 4_096}  # measured: docs/PERFORMANCE.md
SECONDS_FOR_THE_LAUNCHER = 5.0  # to find out which process died, and end the others
SECONDS_FOR_THE_FILE_SYSTEM = 90.0  # until another machine sees a new file


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `predict` tells its caller. `answers` is None where an earlier run had finished already."""

    outputs: Outputs
    answers: Answers | None
    failures: tuple[Failure, ...]
    exit_code: int


@dataclass(frozen=True, slots=True)
class Run:
    """What every step of a run in this process needs to know."""

    settings: PredictSettings
    world: World
    bundle: Bundle
    device: torch.device
    place: WorkPlace
    board: Board
    display: Display
    clock: Clock
    choices: list[Choice]  # grows as choices are made
    stores: list[FeatureStore]  # on the main process: what a signal has to flush


@dataclass(frozen=True, slots=True)
class Job:
    """What the main process found out before the others could start. `work` and `identity` are its own."""

    table: FrameTable
    plans: dict[str, Plan]
    outputs: Outputs
    work: dict[str, Work]
    identity: Identity


def predict(settings: PredictSettings, world: World, cpu: bool, choices: Iterable[Choice], display: Display,
            own_process: bool = True) -> Outcome | None:
    """Carry out a run in this process, one of `world.size`; the outcome on the main process, None on the others.

    own_process: signals may end this process, once finished work is on disk; False inside somebody else's program.
    """
    stores: list[FeatureStore] = []
    clock = Clock()
    with ExitStack() as stack:
        if own_process:
            stack.enter_context(Stopping(lambda number: _stopped(number, stores, settings, world, display), world.parent))
        with clock.stage("start"):
            bundle, chosen = resolve_bundle(settings.model)
            accelerator = make_accelerator(world, cpu)
            precision = resolve_precision(settings.precision, accelerator.device, accelerator.mixed_precision if world.launched else None)
        run = Run(replace(settings, precision=precision.value), world, bundle, accelerator.device,
                  WorkPlace(settings.output_dir, settings.checkpoint_dir), Board(), display, clock, [chosen, *choices, precision], stores)
        with _finished_work_kept(run):
            job = _prepare(run, stack) if world.is_main else _join(run)
            if job is None:
                leave(accelerator)
                return Outcome(Outputs(settings.output_dir), None, (), 0) if world.is_main else None
            done = {name: _embed(name, job, run, accelerator) for name in ENCODERS}
            leave(accelerator)
            return _finish(job, done, run) if world.is_main else None


def _prepare(run: Run, stack: ExitStack) -> Job | None:
    """The main process finds out what is to be done, and tells the others. None: an earlier run had finished."""
    note: dict[str, Any] = {"error": 1}
    try:
        stack.enter_context(run.place.lock)
        stack.enter_context(logging_to(Outputs(run.settings.output_dir), logging.getLogger("virnucpro"), verbose=True))
        log.info("virnucpro %s; %s", __version__, "; ".join(map(str, run.choices)))
        job = _make_job(run, stack)
        note = {"error": None if job else 0}
        if job is not None:
            plans = run.place.new_plans()
            note |= {"table": job.table.fingerprint, "plans": {name: str(plan.save(plans, name)) for name, plan in job.plans.items()}}
    except VirNucProError as error:
        note = {"error": error.exit_code}
        raise
    except OSError as error:
        raise StoreError(f"{run.settings.output_dir}: cannot be written ({error.strerror or error}); make room or choose another "
                         "--output-dir") from error
    finally:
        run.board.post("job", note)
        if note["error"] is not None:
            run.board.wait_for_readers("job")
    return job


def _make_job(run: Run, stack: ExitStack) -> Job | None:
    """Read the inputs, compare with what is in the output directory, and plan."""
    settings, bundle, place, clock = run.settings, run.bundle, run.place, run.clock
    outputs = Outputs(settings.output_dir, tuple(file.stem for file in settings.inputs), settings.call.table_format)
    with clock.stage("read"):
        run.display.stage("reading and translating")
        table = _table(run)
        log.info("%d frames of %d sequences: %s", len(table), len(table.records), "from the cache" if table.reused else "built")
    if table.failures and not any_answered(table):
        if not outputs.run_json.exists():
            write_failures(outputs, table.failures)
        raise InputError(f"every input failed; first {table.failures[0].path}: {table.failures[0].reason}")
    bundle.check_classifier(Classifier.load(bundle.classifier).width)
    with clock.stage("plan"):
        run.display.stage("planning")
        identity, force = _identity(run, table), settings.force and run.world.restarts == 0
        if force:
            place.clear()
            outputs.remove()
        elif _is_finished(run, outputs, identity):
            return None
        outputs.prepare()
        place.write_identity(identity)
        work, dtype, hashes = {}, "float16" if settings.features == "float16" else "float32", bundle.identity()
        for name in ENCODERS:
            content = {"frames": table.fingerprint, "weights": hashes[name], "precision": settings.precision, "rows": dtype}
            directory = place.shards(name, content)
            stack.enter_context(place.shards_lock(directory))
            store = FeatureStore(directory, bundle.widths[name], dtype)
            if force:
                store.remove()
            run.stores.append(store)
            default = BATCH_TOKENS["cuda" if run.device.type == "cuda" else "cpu"]
            work[name] = make_work(table, name, store, batch_tokens(table, name, settings.batch_tokens, default))
        _check_room(run, len(table), work)
    return Job(table, {name: w.plan for name, w in work.items()}, outputs, work, identity)


def _join(run: Run) -> Job | None:
    """The same job, as another process sees it; None where the main process had none. Ends where it failed, and has said so."""
    note = run.board.read("job")
    if note["error"] is not None:
        if note["error"]:
            time.sleep(SECONDS_FOR_THE_LAUNCHER)  # the main process speaks first
            raise SystemExit(note["error"])
        return None
    try:
        table = open_existing(note["table"], run.settings.cache_dir)
    except StoreError:  # a machine with a cache of its own
        table = _table(run)
    if table.fingerprint != note["table"]:
        raise StoreError("the inputs changed while the run began; run the same command again")
    return Job(table, {name: _open_plan(Path(folder)) for name, folder in note["plans"].items()}, Outputs(run.settings.output_dir), {}, {})


def _open_plan(folder: Path) -> Plan:
    """The plan that the main process has written; a shared file system may take a while to show it."""
    patience = time.monotonic() + SECONDS_FOR_THE_FILE_SYSTEM
    while True:
        try:
            return Plan.open(folder)
        except (OSError, ValueError) as error:
            if time.monotonic() > patience:
                raise StoreError(f"{folder}: not visible from this machine ({error}); all machines must share --output-dir") from error
        time.sleep(1.0)


def _table(run: Run) -> FrameTable:
    rules = FrameRules(run.bundle.chunk_length, run.bundle.frame_policy, run.settings.min_length)
    tokenizers = Tokenizers(run.bundle.esm2, run.bundle.dnabert_s)
    return build_or_open(run.settings.inputs, rules, tokenizers, run.settings.cache_dir, log.info)


def _identity(run: Run, table: FrameTable) -> dict[str, str]:
    """All that decides the features, named for a reader."""
    hashes = run.bundle.identity()
    return {
        **{f"input {file['source']}": file["sha256"] or "unreadable" for file in table.inputs},
        "--chunk-length": str(run.bundle.chunk_length), "frame policy": run.bundle.frame_policy,
        "--min-length": str(run.settings.min_length), "ESM-2": hashes["esm2"], "DNABERT-S": hashes["dnabert_s"],
        "classifier": hashes["classifier"], "frames": table.fingerprint, "--precision": run.settings.precision,
        "--features": run.settings.features,
    }  # fmt: skip


def _is_finished(run: Run, outputs: Outputs, identity: Identity) -> bool:
    """Whether there is nothing left to do. Raises StoreError when the output directory holds another run."""
    unfinished, finished = run.place.read_identity(), read_finished(outputs)
    call, directory = call_identity(run.settings.call), run.settings.output_dir
    if is_finished(directory, identity, call, unfinished, finished and finished.identity, finished is not None and finished.complete):
        log.info("%s: this run has finished already; --force starts it again", directory)
        run.place.clear()
        return True
    if run.settings.resume and unfinished is None and finished is None:
        log.info("%s: nothing to resume here, starting anew", directory)
    return False


def _check_room(run: Run, frames: int, work: dict[str, Work]) -> None:
    """Before the first batch: is there room for the shards that are still to come, and for the matrix?"""
    itemsize = next(iter(work.values())).store.dtype.itemsize
    shards = sum(len(w.plan.rows) * w.store.width for w in work.values()) * itemsize
    matrix = frames * sum(w.store.width for w in work.values()) * itemsize
    if run.place.checkpoint_dir is None:
        check_room(run.place.hidden, shards + matrix, "--output-dir")
    else:
        check_room(run.place.checkpoint_dir, shards, "--checkpoint-dir")
        check_room(run.place.hidden, matrix, "--output-dir")


def _embed(name: str, job: Job, run: Run, accelerator) -> Extraction:
    """One encoder over all that is missing of it; the weights are read only if something is."""
    plan, store, settings = job.plans[name], job.work[name].store if name in job.work else None, run.settings
    if len(plan) == 0:
        return Extraction(0, 0, 0, {})
    with run.clock.stage(f"load {name}"):
        run.display.stage(f"loading {name}")
        try:
            encoder = LOADERS[name](getattr(run.bundle, name), run.device, settings.precision, settings.compile)
        except torch.OutOfMemoryError as error:
            raise ModelError(f"{name}: its weights do not fit the memory of {_device_name(run.device)}; free it, or choose another "
                             "device with --gpus") from error
        run.choices.extend(encoder.choices)
        log.info("%s: %s", name, "; ".join(map(str, encoder.choices)))
    with run.clock.stage(name):
        run.display.embedding(name, len(plan), accelerator.num_processes)
        token_ids = TokenColumn(job.table.frames.data.table[f"{name}_ids"])
        batches = PlannedBatches(plan, token_ids, encoder.pad_id, longest_tokens(job.table, name))
        result = extract(accelerator, encoder, batches, store, run.display.step)
    del encoder
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
    return result


def _finish(job: Job, done: dict[str, Extraction], run: Run) -> Outcome:
    """The main process alone: matrix, scores, calls, files."""
    settings, bundle, table = run.settings, run.bundle, job.table
    covered = coverage(table, job.work, done)
    failures = [*table.failures, *covered.failures]
    with run.clock.stage("store"):
        run.display.stage("joining features")
        rows = np.flatnonzero(covered.kept)
        ids = table.frame_ids()
        ids = ids if covered.kept.all() else [ids[row] for row in rows]
        parts = [Part(job.work[name].store, job.work[name].sharing.representative[rows]) for name in ENCODERS]
        features = job.outputs.features if settings.features != "none" else run.place.hidden / "features.pt"
        write_matrix(features, ids, parts, {"name": bundle.name, **bundle.identity()})
        del ids
    with run.clock.stage("classify"):
        run.display.stage("classifying")
        scores = np.full((len(table), 2), np.nan, dtype=np.float32)
        scores[rows] = Classifier.load(bundle.classifier).scores(read_matrix(features)[1])
    run.display.stage("writing tables and report")
    code = _exit_code(table, covered, failures, settings)
    retry = sum(len(extraction.failed) for extraction in done.values())
    facts = {
        "identity": job.identity, "exit_code": code, "retry": retry, "choices": [asdict(choice) for choice in run.choices],
        "device": _device_name(run.device), "processes": run.world.size, "precision": settings.precision, "features": settings.features,
        "batch_tokens": {name: plan.tokens for name, plan in job.plans.items()},
        "embedding": {name: {"unique": len(job.work[name].sharing.unique), "rows": e.rows, "split": e.split,
                             "recomputed": e.recomputed, "failed": len(e.failed)} for name, e in done.items()},
    }  # fmt: skip
    calibration = Calibration.from_json(bundle.calibration) if bundle.calibration else None
    answers = write_results(_with_files(table, settings), job.outputs, scores, ~covered.kept, failures, model_facts(bundle), calibration,
                            settings.call, facts, run.clock)  # fmt: skip
    if not retry:  # else a later start tries the failed rows again
        for work in job.work.values():
            work.store.remove()
        run.place.clear()
    return Outcome(job.outputs, answers, tuple(failures), _for_the_launcher(code, run.world))


def _with_files(table: FrameTable, settings: PredictSettings) -> FrameTable:
    """With the paths at which the inputs can be read once more: standard input has been kept in a file."""
    paths = [str(file.path) for file in settings.inputs]
    return replace(table, inputs=tuple({**entry, "path": path} for entry, path in zip(table.inputs, paths, strict=True)))


def _exit_code(table: FrameTable, covered: Coverage, failures: list[Failure], settings: PredictSettings) -> int:
    """0 all answered, 2 some failed, 1 none was answered."""
    if not failures:
        return 0
    if not any_answered(table, covered.kept):
        return 1
    return 0 if settings.partial_ok else 2


def _for_the_launcher(code: int, world: World) -> int:
    """Launchers other than ours would turn 2 into a failure with a traceback of theirs; `run.json` has the code."""
    return 0 if code == 2 and world.launched and not world.self_launched else code


def model_facts(bundle: Bundle) -> dict[str, Any]:
    """What is said of the model in `run.json` and the report."""
    identity = bundle.identity()
    return {
        "name": bundle.name, "chunk_length": bundle.chunk_length, "frame_policy": bundle.frame_policy, "sources": bundle.sources,
        "sha256": identity, "licence": bundle.licence, "accuracy": bundle.accuracy, "calibration": bundle.calibration,
        "verified": read_verification(identity),
        "classifier": str(bundle.classifier.resolve()),
        "directories": {name: str(getattr(bundle, name).resolve()) for name in ENCODERS},
    }  # fmt: skip


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


@contextmanager
def _finished_work_kept(run: Run) -> Iterator[None]:
    """Whatever goes wrong inside: embeddings that are there are written before the error goes on its way."""
    try:
        yield
    except BaseException as error:
        with suppress(StoreError):  # the disk may be what went wrong
            for store in run.stores:
                store.flush()
        if isinstance(error, PeerLost):
            time.sleep(SECONDS_FOR_THE_LAUNCHER)
            raise PeerLost(f"{error}; {how_to_go_on(run.settings.force)}") from error
        raise
    finally:
        drop_out()


def _stopped(number: int, stores: list[FeatureStore], settings: PredictSettings, world: World, display: Display) -> None:
    """A signal came: keep what is finished, say how to go on."""
    leave_status(128 + number, world)
    try:
        for store in stores:
            store.flush()
    except StoreError as error:
        log.error("%s", error)
    if world.is_main:
        display.__exit__(None, None, None)  # gives the terminal back
        if not world.self_launched:
            log.error("%s", stopped(number, settings.force))
