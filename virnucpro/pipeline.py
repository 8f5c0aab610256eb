"""The whole run of `predict`, in the order in which a sequence lives through it.

read -> chunks -> frames (the table) -> embeddings (all processes) -> one matrix -> scores -> calls -> files
"""
from __future__ import annotations

import logging
import signal
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch

from virnucpro import __version__
from virnucpro.calling.calibration import Calibration
from virnucpro.clock import Clock
from virnucpro.embedding.board import Board
from virnucpro.embedding.devices import leave, make_accelerator
from virnucpro.embedding.extract import Extraction, PlannedBatches, extract
from virnucpro.embedding.job import ENCODERS, Work, batch_tokens, column, embeddable, longest_tokens, make_work
from virnucpro.embedding.matrix import Part, bytes_needed, check_room, read_matrix, write_matrix
from virnucpro.embedding.plan import Plan
from virnucpro.embedding.token_column import TokenColumn
from virnucpro.errors import Failure, InputError, StoreError, VirNucProError
from virnucpro.launch import STOPPED, World, leave_status
from virnucpro.models.bundle import Bundle, resolve_bundle
from virnucpro.models.classifier import Classifier
from virnucpro.models.dnabert_s import load_dnabert_s
from virnucpro.models.esm2 import load_esm2
from virnucpro.models.precision import resolve_precision
from virnucpro.reporting.answers import Answers
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.progress import Display
from virnucpro.reporting.run_record import logging_to
from virnucpro.results import call_identity, read_finished, write_results
from virnucpro.run_state import Identity, RunLock, WorkPlace, difference
from virnucpro.sequences.frame_table import FrameRules, FrameTable, build_or_open
from virnucpro.sequences.tokens import Tokenizers
from virnucpro.settings import Choice, PredictSettings
from virnucpro.stopping import Stopping

log = logging.getLogger(__name__)

LOADERS = {"dnabert_s": load_dnabert_s, "esm2": load_esm2}
BATCH_TOKENS = {"cuda": 16_384, "cpu": 4_096}  # measured: docs/PERFORMANCE.md


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `predict` tells its caller. `answers` is None where an earlier run had finished already."""

    outputs: Outputs
    answers: Answers | None
    failures: tuple[Failure, ...]
    exit_code: int


@dataclass(frozen=True, slots=True)
class Job:
    """What the main process found out before the others could start. `work` and `identity` are its own."""

    table: FrameTable
    plans: dict[str, Plan]
    work: dict[str, Work]
    identity: Identity
    outputs: Outputs


def predict(settings: PredictSettings, world: World, cpu: bool, choices: Iterable[Choice], display: Display) -> Outcome | None:
    """Carry out a run in this process, one of `world.size`; the outcome on the main process, None on the others."""
    clock = Clock()
    with clock.stage("start"):
        bundle, chosen = resolve_bundle(settings.model)
        accelerator = make_accelerator(world, cpu)
        launcher_precision = accelerator.mixed_precision if world.launched else None
        precision = resolve_precision(settings.precision, accelerator.device, launcher_precision)
        settings = replace(settings, precision=precision.value)
        choices = [chosen, *choices, precision]
        board, place = Board(), WorkPlace(settings.output_dir, settings.checkpoint_dir)
        log.debug("process %d of %d on %s", world.rank, world.size, accelerator.device)
    stores: list = []
    with ExitStack() as stack:
        if world.is_main:
            stack.enter_context(RunLock(place.hidden, str(settings.output_dir)))
            stack.enter_context(logging_to(Outputs(settings.output_dir), logging.getLogger("virnucpro"), verbose=True))
            log.info("virnucpro %s; %s", __version__, "; ".join(map(str, choices)))
        stack.enter_context(Stopping(lambda number: _stopped(number, stores, world), watch_parent=world.launched))
        if world.is_main:
            try:
                job = _prepare(settings, bundle, place, accelerator.device, world, clock, display)
            except VirNucProError as error:
                board.post("job", {"error": error.exit_code})
                raise
            board.post("job", {"error": None if job else 0})
            if job is None:
                return Outcome(Outputs(settings.output_dir), None, (), 0)
            stores += [work.store for work in job.work.values()]
        else:
            job = _join(board.read("job"), settings, bundle, place)
            if job is None:
                return None
        done: dict[str, Extraction] = {}
        for name in ENCODERS:
            done[name] = _embed(name, job, bundle, accelerator, settings, clock, display, choices)
        leave(accelerator)
        if not world.is_main:
            return None
        return _finish(settings, bundle, place, job, done, choices, accelerator.device, clock, display, world)


def _prepare(settings: PredictSettings, bundle: Bundle, place: WorkPlace, device: torch.device, world: World,
             clock: Clock, display: Display) -> Job | None:
    """Read the inputs, compare with what is in the output directory, and plan. None: an earlier run had finished."""
    outputs = Outputs(settings.output_dir, tuple(file.stem for file in settings.inputs), settings.call.table_format)
    with clock.stage("read"):
        display.stage("reading and translating")
        table = _table(settings, bundle)
        log.info("%d frames of %d sequences: %s", len(table), len(table.records), "from the cache" if table.reused else "built")
    if table.failures and not any(_intact(table)):
        raise InputError(f"every input failed; first {table.failures[0].path}: {table.failures[0].reason}")
    with clock.stage("plan"):
        display.stage("planning")
        identity = _identity(settings, bundle, table)
        if _already_finished(settings, place, outputs, identity, world):
            return None
        outputs.prepare()
        place.write_identity(identity)
        work, dtype = {}, "float16" if settings.features == "float16" else "float32"
        hashes = bundle.identity()
        for name in ENCODERS:
            content = {"frames": table.fingerprint, "weights": hashes[name], "precision": settings.precision, "rows": dtype}
            default = BATCH_TOKENS["cuda" if device.type == "cuda" else "cpu"]
            tokens = batch_tokens(table, name, settings.batch_tokens, default)
            work[name] = make_work(table, name, place.shards(name, content), bundle.widths[name], dtype, tokens)
            work[name].plan.save(place.plans() / name)
        check_room(place.hidden, bytes_needed(len(table), sum(bundle.widths.values()), np.dtype(dtype).itemsize))
    return Job(table, {name: w.plan for name, w in work.items()}, work, identity, outputs)


def _join(note: dict, settings: PredictSettings, bundle: Bundle, place: WorkPlace) -> Job | None:
    """The same job, as another process sees it; None where the main process had none or failed and has said so."""
    if note["error"] is not None:
        if note["error"]:
            raise SystemExit(note["error"])
        return None
    table = _table(settings, bundle)
    try:
        plans = {name: Plan.open(place.plans() / name) for name in ENCODERS}
    except OSError as error:
        raise StoreError(
            f"{place.plans()}: not visible from this machine ({error.strerror}); all machines must share the storage of --output-dir"
        ) from error
    return Job(table, plans, {}, {}, Outputs(settings.output_dir))


def _table(settings: PredictSettings, bundle: Bundle) -> FrameTable:
    rules = FrameRules(bundle.chunk_length, bundle.frame_policy, settings.min_length)
    return build_or_open(settings.inputs, rules, Tokenizers(bundle.esm2, bundle.dnabert_s), settings.cache_dir, log.info)


def _intact(table: FrameTable) -> list[bool]:
    """By input: was it read without a failure, or has it at least one record that was."""
    good = np.zeros(len(table.inputs), dtype=bool)
    owner = table.records["input"].to_numpy()
    good[owner[pc.equal(table.records["problem"], "").to_numpy()]] = True
    failed = {failure.path for failure in table.failures}
    return [bool(g) or str(file["path"]) not in failed for g, file in zip(good, table.inputs, strict=True)]


def _identity(settings: PredictSettings, bundle: Bundle, table: FrameTable) -> dict[str, str]:
    """All that decides the features and the calls, named for a reader."""
    hashes = bundle.identity()
    return {
        **{f"input {file['source']}": file["sha256"] or "unreadable" for file in table.inputs},
        "--chunk-length": str(bundle.chunk_length), "frame policy": bundle.frame_policy, "--min-length": str(settings.min_length),
        "ESM-2": hashes["esm2"], "DNABERT-S": hashes["dnabert_s"], "classifier": hashes["classifier"],
        "frames": table.fingerprint, "--precision": settings.precision, "--features": settings.features,
    }  # fmt: skip


def _already_finished(settings: PredictSettings, place: WorkPlace, outputs: Outputs, identity: Identity, world: World) -> bool:
    """Whether the output directory holds this very run, finished. Raises StoreError when it holds another one."""
    if settings.force and world.restarts == 0:
        place.clear()
        outputs.remove()
        return False
    before = place.read_identity()
    finished = read_finished(outputs)
    if before is None and finished is not None:
        now = identity | call_identity(settings.call)
        changed = difference(finished.identity, now)
        if not changed:
            if finished.complete:
                log.info("%s: this run has finished already; --force starts it again", settings.output_dir)
                return True
            return False
        if not difference({k: v for k, v in finished.identity.items() if k in identity}, identity):
            raise StoreError(
                f"{settings.output_dir}: holds this run with other settings ({changed}); "
                "`virnucpro summarize` calls again from its features, --force starts over"
            )
        before = finished.identity
        identity = now
    changed = difference(before, identity) if before is not None else ""
    if changed:
        raise StoreError(f"{settings.output_dir}: holds another run ({changed}); --force starts over, or choose another --output-dir")
    if before is None and settings.resume:
        log.info("%s: nothing to resume here, starting anew", settings.output_dir)
    return False


def _embed(name: str, job: Job, bundle: Bundle, accelerator, settings: PredictSettings, clock: Clock, display: Display,
           choices: list[Choice]) -> Extraction:
    """One encoder over all that is missing of it; the weights are read only if something is."""
    plan, store = job.plans[name], job.work[name].store if name in job.work else None
    if len(plan) == 0:
        return Extraction(0, 0, 0, {})
    with clock.stage(f"load {name}"):
        display.stage(f"loading {name}")
        encoder = LOADERS[name](getattr(bundle, name), accelerator.device, settings.precision, settings.compile)
        choices += encoder.choices
        log.info("%s: %s", name, "; ".join(map(str, encoder.choices)))
    with clock.stage(name):
        display.embedding(name, len(plan), accelerator.num_processes)
        token_ids = TokenColumn(job.table.frames.data.table[f"{name}_ids"])
        batches = PlannedBatches(plan, token_ids, encoder.pad_id, longest_tokens(job.table, name))
        result = extract(accelerator, encoder, batches, store, display.step)
    del encoder
    if accelerator.device.type == "cuda":
        torch.cuda.empty_cache()
    return result


def _finish(settings: PredictSettings, bundle: Bundle, place: WorkPlace, job: Job, done: dict[str, Extraction],
            choices: list[Choice], device: torch.device, clock: Clock, display: Display, world: World) -> Outcome:
    """The main process alone: matrix, scores, calls, files."""
    table = job.table
    kept, failures = _kept(job, done)
    failures = [*table.failures, *failures]
    with clock.stage("store"):
        display.stage("joining features")
        rows = np.flatnonzero(kept)
        ids = table.frame_ids()
        ids = ids if kept.all() else [ids[row] for row in rows]
        parts = [Part(job.work[name].store, job.work[name].sharing.representative[rows]) for name in ENCODERS]
        features = job.outputs.features if settings.features != "none" else place.hidden / "features.pt"
        write_matrix(features, ids, parts, {"name": bundle.name, **bundle.identity()})
    with clock.stage("classify"):
        display.stage("classifying")
        scores = np.full((len(table), 2), np.nan, dtype=np.float32)
        scores[rows] = Classifier.load(bundle.classifier).scores(read_matrix(features)[1])
    display.stage("writing tables and report")
    code = _exit_code(table, failures, settings, world)
    retry = sum(len(extraction.failed) for extraction in done.values())
    facts = {
        "identity": job.identity, "exit_code": code, "retry": retry, "choices": [asdict(choice) for choice in choices],
        "device": _device_name(device), "processes": world.size, "precision": settings.precision, "features": settings.features,
        "batch_tokens": {name: plan.tokens for name, plan in job.plans.items()},
        "embedding": {name: {"unique": len(job.work[name].sharing.unique), "rows": e.rows, "split": e.split,
                             "recomputed": e.recomputed, "failed": len(e.failed)} for name, e in done.items()},
    }  # fmt: skip
    calibration = Calibration.from_json(bundle.calibration) if bundle.calibration else None
    answers = write_results(
        table, job.outputs, scores, ~kept, failures, model_facts(bundle), calibration, settings.call, facts, clock
    )  # fmt: skip
    if not retry:  # else a later start tries the failed rows again
        for work in job.work.values():
            work.store.remove()
        place.clear()
    return Outcome(job.outputs, answers, tuple(failures), code)


def model_facts(bundle: Bundle) -> dict[str, Any]:
    """What is said of the model in `run.json` and the report."""
    return {
        "name": bundle.name, "chunk_length": bundle.chunk_length, "frame_policy": bundle.frame_policy, "sources": bundle.sources,
        "sha256": bundle.identity(), "licence": bundle.licence, "accuracy": bundle.accuracy, "calibration": bundle.calibration,
        "classifier": str(bundle.classifier.resolve()),
        "directories": {name: str(getattr(bundle, name).resolve()) for name in ENCODERS},
    }  # fmt: skip


def _exit_code(table: FrameTable, failures: list[Failure], settings: PredictSettings, world: World) -> int:
    """0 all answered, 2 some failed; launchers other than ours would turn 2 into a traceback of theirs."""
    lenient = settings.partial_ok or (world.launched and not world.self_launched)
    return 2 if failures and not lenient else 0


def device_memory() -> list[tuple[int, int]]:
    """(used, total) bytes of each device this process sees; for the display."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    both = [torch.cuda.mem_get_info(index) for index in range(torch.cuda.device_count())]
    return [(total - free, total) for free, total in both]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _kept(job: Job, done: dict[str, Extraction]) -> tuple[np.ndarray, list[Failure]]:
    """bool [frames]: has all its embeddings; and a failure for each record that has a frame without."""
    table = job.table
    kept = embeddable(table)
    reasons = dict.fromkeys(np.flatnonzero(~kept).tolist(), "is longer than ESM-2's 1,022 residues; a shorter --chunk-length avoids that")
    for name in ENCODERS:
        representative = job.work[name].sharing.representative
        for lost, reason in done[name].failed.items():
            for row in np.flatnonzero(representative == lost):
                kept[row] = False
                reasons.setdefault(int(row), reason)
    record = column(table, "record")
    first: dict[int, list[int]] = {}
    for row in sorted(reasons):
        first.setdefault(int(record[row]), []).append(row)
    failures = []
    for owner, lost in first.items():
        source = table.inputs[table.records["input"][owner].as_py()]
        more = f" and {len(lost) - 1} more of its frames" if len(lost) > 1 else ""
        name = table.records["name"][owner].as_py()
        frame = table.frame_ids(lost[0], lost[0] + 1)[0]
        failures.append(Failure(str(source["path"]), "embed", f"record {name}: frame {frame} {reasons[lost[0]]}{more}"))
    return kept, failures


def _stopped(number: int, stores: list, world: World) -> None:
    """A signal came: keep what is finished, say how to go on."""
    for store in stores:
        store.flush()
    leave_status(128 + number, world)
    if world.is_main and not world.self_launched:
        log.error(STOPPED.format(name=signal.Signals(number).name))
