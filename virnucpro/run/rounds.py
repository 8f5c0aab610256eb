"""Sequences looked at chunk by chunk until their calls are clear (`--effort`), and those alone that
could be viral (`--screen`): rounds of embedding, of which each plans the next.

What a round holds follows from the scores of those before it, so that a run which was killed, or
has other processes, goes through the same rounds. The main process scores and plans, the others
read what is planned.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.calling.answers import (
    Known,
    call_inputs,
    frame_columns,
    of_sequences,
    reads_of,
)
from virnucpro.calling.columns import ChunkColumns, ChunkStatus
from virnucpro.calling.consensus import call_chunks, chunk_offsets
from virnucpro.calling.mates import Reads
from virnucpro.calling.screen import Screen
from virnucpro.calling.sequential import EFFORTS, CallInputs, next_chunks
from virnucpro.embedding.coverage import coverage
from virnucpro.embedding.extract import Extraction
from virnucpro.embedding.plan import Plan, make_plan
from virnucpro.embedding.store import EncoderRows, FeatureRows
from virnucpro.embedding.work import Work, column, embeddable
from virnucpro.errors import VirNucProError
from virnucpro.models.classifier import Classifier
from virnucpro.run.job import Job, check_disk, open_plans, read_note
from virnucpro.run.records import calibration_of, model_record, with_files
from virnucpro.run.screen import read_screen
from virnucpro.run.session import Run

log = logging.getLogger(__name__)


class Rounds:
    """The state of the rounds, on the main process. left_out: bool [frames], those that an encoder
    takes and that were not needed so far.
    """

    def __init__(self, job: Job, run: Run):
        self._job, self._run = job, run
        self._effort = EFFORTS.get(run.settings.effort)
        self._classifier = Classifier.load(run.bundle.classifier)
        self._scores = np.full((len(job.table), 2), np.nan, np.float32)
        self._planned = {name: np.zeros(len(job.table), bool) for name in job.work}
        self._inputs: CallInputs | None = None
        self.left_out = embeddable(job.table)
        self._reads: Reads
        self._screen: Screen | None = None  # of every record
        self.known = Known()

    def next(self, done: Mapping[str, Extraction]) -> dict[str, Plan] | None:
        """The plans of what is needed next; None when every call is clear. done: what was
        embedded so far.
        """
        covered = coverage(self._job.table, self._job.work, done, self.left_out)
        self._score(np.flatnonzero(covered.kept & np.isnan(self._scores[:, 0])))
        table, inputs = self._job.table.frames, self._call_inputs()
        frames = frame_columns(table, self._scores, ~covered.kept, self.left_out)
        chunks = call_chunks(frames, inputs.records, inputs.rules)
        wanted = self._wanted(chunks, inputs)
        seen = (chunks.status != ChunkStatus.not_needed).sum() + wanted.sum()
        log.info("%s of %s chunks looked at", f"{seen:,}", f"{len(wanted):,}")
        row = chunk_offsets(inputs.records)[frames.record] + (frames.chunk - 1)
        now = self.left_out & wanted[row]
        if not now.any():
            return None
        self.left_out &= ~now
        plans = {name: self._plan(name, work, now) for name, work in self._job.work.items()}
        check_disk(self._run, int((~self.left_out).sum()), self._job.work, plans)
        return plans

    def _call_inputs(self) -> CallInputs:
        """What calls are made of beside scores; known proteins are searched the first time."""
        if self._inputs is None:
            with self._run.clock.stage("call"):
                calibration = calibration_of(model_record(self._run.bundle))
                table = with_files(self._job.table, self._run.settings.inputs)
                settings = self._run.settings
                evidence, self._inputs = call_inputs(table, settings.call, calibration)
                self._reads, screen = reads_of(table.records), None
                if settings.screen is not None:
                    screen = read_screen(settings.output_dir, self._reads)
                    of_all = screen.beside(of_sequences(evidence, self._reads))
                    self._screen = of_all.of_records(self._reads.sequence, self._reads.first)
                self.known = Known(evidence, screen)
        return self._inputs

    def _wanted(self, chunks: ChunkColumns, inputs: CallInputs) -> NDArray[np.bool_]:
        """bool [chunks]: those to look at next."""
        unseen = chunks.status == ChunkStatus.not_needed
        wanted = next_chunks(chunks, inputs, self._effort) if self._effort else unseen
        wanted |= unseen & self._reads.is_mate[chunks.record]  # a pair has one call
        if self._screen is None:
            return wanted
        by_screen = self._screen.out[chunks.record]
        return np.where(by_screen, unseen & self._screen.needed(chunks), wanted)

    def _score(self, rows: NDArray[np.int64]) -> None:
        """Scores of the frames `rows`, which are embedded."""
        if len(rows) == 0:
            return
        works = map(self._job.work.__getitem__, self._run.bundle.widths)
        parts = [EncoderRows(work.store, work.duplicates.representative[rows]) for work in works]
        self._scores[rows] = self._classifier.scores(FeatureRows(parts))

    def _plan(self, name: str, work: Work, frames: NDArray[np.bool_]) -> Plan:
        """Of the sequences of `frames` those that are in no store and no earlier plan."""
        fresh = np.zeros(len(frames), bool)
        fresh[work.duplicates.representative[frames]] = True
        fresh &= ~self._planned[name]
        self._planned[name] |= fresh
        rows = np.sort(work.plan.rows[fresh[work.plan.rows]])
        lengths = column(self._job.table, f"{name}_length")[rows]
        return make_plan(rows, lengths, work.plan.tokens)


def next_job(
    job: Job, run: Run, number: int, rounds: Rounds | None, done: Mapping[str, Extraction]
) -> Job | None:
    """The job of the round `number`; None where there is none. rounds: the main process's."""
    name = f"round {number}"
    if rounds is None:
        found = read_note(run, name)["plans"]
        return None if found is None else replace(job, plans=open_plans(found))
    note: dict[str, Any] = {"error": 1}
    try:
        with run.clock.stage("plan"):
            run.display.stage("planning")
            plans = rounds.next(done)
            place = run.place.new_plans()
            saved = {key: str(plan.save(place, key)) for key, plan in (plans or {}).items()}
            note = {"error": None, "plans": saved or None}
    except VirNucProError as error:
        note = {"error": error.exit_code}
        raise
    finally:
        run.board.post(name, note)
        if note["error"] is not None:
            run.board.wait_for_readers(name)
    return None if plans is None else replace(job, plans=plans)


def add(one: Extraction, two: Extraction) -> Extraction:
    """What happened in two rounds."""
    processes = [a + b for a, b in zip(one.processes, two.processes, strict=False)]
    return Extraction(
        one.rows + two.rows,
        one.split + two.split,
        one.recomputed + two.recomputed,
        one.in_16_bits + two.in_16_bits,
        one.failed | two.failed,
        tuple(processes) or one.processes or two.processes,
    )
