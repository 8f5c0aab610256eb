"""`merge`: the shards of an array job as the results of one run; nothing is embedded again."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from virnucpro.embedding.coverage import check_any_answered
from virnucpro.embedding.matrix import check_room
from virnucpro.errors import StoreError, UsageError
from virnucpro.pipeline import called, matrix_written
from virnucpro.reporting.log import logging_to
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import EncoderRecord, RunRecord, call_settings
from virnucpro.reporting.result import Result
from virnucpro.reporting.write import write_results
from virnucpro.run.identity import SHARD
from virnucpro.run.records import with_failures, with_files
from virnucpro.run.shards import Shard, ShardRows, join_shards, read_shards
from virnucpro.run.state import WorkPlace
from virnucpro.run.timing import Clock
from virnucpro.summary import run_inputs_of

log = logging.getLogger(__name__)


def merge(
    directories: Sequence[Path],
    output_dir: Path,
    partial_ok: bool = False,
    force: bool = False,
    reference: str | None = None,
) -> Result:
    """Write to `output_dir` what one run over all the shards in `directories` would have written.
    reference: the proteins that the shards were started with, where those are no shipped ones.

    Errors: UsageError; StoreError where the shards are not whole, not all, or not of one run.
    """
    if not directories:
        raise UsageError("merge: name the directories of all shards")
    clock = Clock()
    with ExitStack() as stack:
        with clock.stage("read"):
            shards = read_shards(directories)
            inputs = run_inputs_of(shards[0].record, shards[0].directory)
        call_with = call_settings(shards[0].record.call, reference)
        stems = tuple(file.stem for file in inputs)
        outputs = Outputs(output_dir, stems, call_with.table_format)
        _check_place(outputs, shards, force)
        outputs.refuse_inputs(file.path for file in inputs)
        stack.enter_context(WorkPlace(output_dir).lock)
        if force:
            outputs.remove()
        stack.enter_context(logging_to(outputs, logging.getLogger("virnucpro")))
        with clock.stage("join"):
            joined = join_shards(shards)
        table, scores = joined.table, joined.scores
        check_any_answered(table)
        outputs.prepare()
        covered = joined.covered
        record = with_failures(_record(shards), table, covered, scores, partial_ok)
        rows, features = np.flatnonzero(covered.kept), None
        if record.features != "none":
            features = ShardRows(shards, joined.source[rows])
            check_room(output_dir, len(rows) * features.shape[1] * features.dtype.itemsize)
        with matrix_written(outputs, table, rows, features, record.model) as saved:
            kept = with_files(table, inputs)
            answers = called(kept, scores, covered, call_with, record, clock)
            write_results(outputs, answers, record, clock, saved)
    return Result(outputs, record.failures, record.exit_code, answers)


def _check_place(outputs: Outputs, shards: Sequence[Shard], force: bool) -> None:
    """Raise where results lie in the way, or the shards themselves."""
    here = os.path.realpath(outputs.directory)
    if any(os.path.realpath(shard.directory) == here for shard in shards):
        raise UsageError(f"{outputs.directory}: is one of the shards; choose another --output-dir")
    if force:
        return
    if outputs.run_json.exists():
        raise StoreError(
            f"{outputs.directory}: holds a run; --force replaces it, or choose another --output-dir"
        )
    outputs.refuse_foreign_files()


def _record(shards: Sequence[Shard]) -> RunRecord:
    """The record of the first shard, with what all of them did."""
    first = shards[0].record
    return replace(
        first,
        identity={key: value for key, value in first.identity.items() if key != SHARD},
        retry=sum(shard.record.retry for shard in shards),
        embedding={
            name: _sum([shard.record.embedding[name] for shard in shards])
            for name in first.embedding
        },
    )


def _sum(entries: Sequence[EncoderRecord]) -> EncoderRecord:
    names = [one.name for one in fields(EncoderRecord) if one.type in (int, "int")]
    sums = {name: sum(getattr(entry, name) for entry in entries) for name in names}
    processes = tuple(one for entry in entries for one in entry.processes)
    return replace(entries[0], **sums, processes=processes)
