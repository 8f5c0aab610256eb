"""The whole run of `predict`, in the order in which a sequence lives through it.

read -> chunks -> frames (the table) -> embeddings (all processes) -> one matrix -> scores -> calls
-> files
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator

from virnucpro.calling.answers import Answers, Known, call
from virnucpro.embedding.batches import PlannedBatches
from virnucpro.embedding.coverage import Coverage, coverage
from virnucpro.embedding.extract import Extraction, extract
from virnucpro.embedding.group import close_group
from virnucpro.embedding.matrix import MatrixRows, writing_matrix
from virnucpro.embedding.store import EncoderRows, FeatureRows
from virnucpro.embedding.work import TokenColumn, longest_tokens
from virnucpro.homology.choice import find_reference
from virnucpro.launch import code_for_launcher
from virnucpro.models.classifier import Classifier
from virnucpro.models.encoder import Encoder
from virnucpro.models.encoders import EncoderEntry
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import ModelRecord, RunRecord, read_record
from virnucpro.reporting.result import Result
from virnucpro.reporting.write import write_results
from virnucpro.run.job import Job, join, prepare
from virnucpro.run.preload import Preloader, load_encoder, preload
from virnucpro.run.records import calibration_of, run_record, with_failures, with_files
from virnucpro.run.rounds import Rounds, add, next_job
from virnucpro.run.screen import screen_session, screen_settings
from virnucpro.run.session import Run, Session, finished_work_kept
from virnucpro.run.shards import write_shard
from virnucpro.run.timing import Clock
from virnucpro.sequences.table import FrameIds, FrameTable
from virnucpro.settings import CallSettings, PredictSettings

log = logging.getLogger(__name__)


def predict(
    settings: PredictSettings, session: Session, number: int = 0, of: int = 1
) -> Result | None:
    """Carry out the run `number` of `of` of a session in this process, one of `world.size`; the
    result on the main process, None on the others.
    """
    if settings.screen is not None:
        first = screen_session(settings, session)
        with session.clock.stage("screen"):
            predict(screen_settings(settings), first, number, number + 2)  # not the last of all
        first.end_run()
    run = session.new_run(settings, number)
    preloader = Preloader({}, run.device) if session.encoders else preload(run)
    with ExitStack() as stack, finished_work_kept(run), preloader as ahead:
        job = prepare(run, stack) if run.world.is_main else join(run)
        session.computing = True
        rounds = Rounds(job, run) if job and job.work and not settings.embeds_all else None
        done = None if job is None else _embed_rounds(job, run, session, ahead, rounds)
        session.computing = False
        if number + 1 == of:
            close_group(session.accelerator)
        if not run.world.is_main:
            return None
        if job is None or done is None:
            return _finished_before(settings)
        return _answer(job, done, run, rounds)


def _finished_before(settings: PredictSettings) -> Result:
    """An earlier run's results, with what failed then."""
    outputs = Outputs.of(settings)
    record = read_record(outputs.run_json)
    return Result(outputs, record.failures if record else (), 0)


def _embed_rounds(
    job: Job, run: Run, session: Session, ahead: Preloader, rounds: Rounds | None
) -> dict[str, Extraction]:
    """Frames to embeddings: all of them, or a round after the other as long as a call needs more;
    the encoders stay loaded meanwhile. rounds: the main process's.
    """
    if run.settings.embeds_all:
        return _embed_all(job, run, session, ahead)
    session = replace(session, encoders=session.encoders if session.encoders is not None else {})
    done = {entry.name: Extraction(0, 0, 0, 0, {}) for entry in run.bundle.encoders}
    number = 0
    while (planned := next_job(job, run, number, rounds, done)) is not None:
        more = _embed_all(planned, run, session, ahead)
        done = {name: add(done[name], more[name]) for name in done}
        number += 1
    return done


def _embed_all(job: Job, run: Run, session: Session, ahead: Preloader) -> dict[str, Extraction]:
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


def _embed(
    entry: EncoderEntry, encoder: Encoder, job: Job, run: Run, accelerator: Accelerator
) -> Extraction:
    name = entry.name
    plan, store = job.plans[name], job.work[name].store if name in job.work else None
    if not set(encoder.choices) <= set(run.choices):  # else said in an earlier round
        run.choices.extend(encoder.choices)
        log.info("%s: %s", name, "; ".join(map(str, encoder.choices)))
    with run.clock.stage(name):
        run.display.embedding(entry.task, len(plan), accelerator.num_processes)
        token_ids = TokenColumn(job.table, entry)
        batches = PlannedBatches(plan, token_ids, encoder.pad_id, longest_tokens(job.table, entry))
        return extract(accelerator, encoder, batches, store, run.display.step)


def _answer(
    job: Job, done: dict[str, Extraction], run: Run, rounds: Rounds | None = None
) -> Result:
    """Embeddings to answers and files, on the main process alone."""
    covered = coverage(job.table, job.work, done, rounds.left_out if rounds else None)
    with run.clock.stage("store"):
        run.display.stage("joining features")
        rows = np.flatnonzero(covered.kept)
        works = [job.work[name] for name in run.bundle.widths]
        features = FeatureRows(
            [EncoderRows(w.store, w.duplicates.representative[rows]) for w in works]
        )
    record = run_record(job, done, run)
    stored = None if run.settings.features == "none" else features
    with matrix_written(job.outputs, job.table, rows, stored, record.model) as saved:
        with run.clock.stage("classify"):
            run.display.stage("classifying")
            scores = np.full((len(job.table), 2), np.nan, dtype=np.float32)
            scores[rows] = Classifier.load(run.bundle.classifier).scores(features)
        record = with_failures(record, job.table, covered, scores, run.settings.partial_ok)
        if run.settings.shard:
            write_shard(job.outputs, job.table, scores, covered, record, run.clock, saved)
            return _finished(job, record, run)
        job.forget_plans()
        table, call_with = with_files(job.table, run.settings.inputs), run.settings.call
        searched = find_reference(call_with.reference) is not None
        run.display.stage("searching known proteins" if searched else "calling")
        known = rounds.known if rounds else Known()
        answers = called(table, scores, covered, call_with, record, run.clock, known)
        run.display.stage("writing tables and report")
        write_results(job.outputs, answers, record, run.clock, saved)
        return replace(_finished(job, record, run), answers=answers)


def matrix_written(
    outputs: Outputs,
    table: FrameTable,
    rows: np.ndarray,
    features: MatrixRows | None,
    model: ModelRecord,
) -> AbstractContextManager[Callable[[], object] | None]:
    """While entered, `merged_features.pt` of the frames `rows` is written, unless `features` is
    None; gives what waits for it.
    """
    if features is None:
        return nullcontext()
    made_by = {"name": model.name, **model.sha256}
    return writing_matrix(outputs.features, FrameIds(table, rows), features, made_by)


def called(
    table: FrameTable,
    scores: np.ndarray,
    covered: Coverage,
    settings: CallSettings,
    record: RunRecord,
    clock: Clock,
    known: Known | None = None,
) -> Answers:
    """Scores float32 [frames, 2] to calls, by the model of the record."""
    model, lost = record.model, ~covered.kept
    with clock.stage("call"):
        calibration = calibration_of(model)
        return call(
            *(table, scores, lost, settings, model.name, calibration, covered.left_out, known)
        )


def _finished(job: Job, record: RunRecord, run: Run) -> Result:
    """The result. Unfinished work goes; where rows failed it stays, as a later start tries them
    again.
    """
    if not record.retry:
        run.clear()
    return Result(job.outputs, record.failures, code_for_launcher(record.exit_code, run.world))
