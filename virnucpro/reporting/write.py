"""Every file that is written from the answers, in one call: what `predict` and `summarize`
share.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from typing import Protocol

from virnucpro import __version__
from virnucpro.calling.answers import Answers
from virnucpro.reporting.fasta import write_fastas
from virnucpro.reporting.multiqc import write_multiqc
from virnucpro.reporting.original import scores_digest, write_original_tables
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import RunRecord, write_failures, write_record
from virnucpro.reporting.report import write_report
from virnucpro.reporting.tables import counts, write_tables
from virnucpro.reporting.typed import plain

LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "numpy", "pyarrow", "numba")
UNITS = {
    "read": "frames",
    "classify": "frames",
    "call": "sequences",
    "tables": "sequences",
    "sequences": "sequences",
    "report": "sequences",
}  # of the stages that `run.json` times


class Clock(Protocol):
    """See `run.timing.Clock`."""

    def stage(self, name: str) -> AbstractContextManager:
        """Times what is done while it is entered."""

    def seconds(self) -> Mapping[str, float]:
        """Of each stage so far."""


def write_results(
    outputs: Outputs,
    answers: Answers,
    record: RunRecord,
    clock: Clock,
    rest: Callable[[], object] | None = None,
) -> RunRecord:
    """Tables, FASTA files, report and the list of failures; `run.json`, last, as it means a whole
    result. The record as it was written.

    record: what is known of the run before its results are; rest: waits for what else belongs to a
    whole result.
    """
    record = replace(dated(record), counts=counts(answers), prevalence=dict(answers.prevalence))
    with outputs.replacing_results():
        with clock.stage("tables"):
            write_tables(outputs, answers)
        with clock.stage("the original's tables"):
            write_original_tables(outputs, answers)
        with clock.stage("sequences"):
            write_fastas(outputs, answers)
        write_failures(outputs, record.failures)
        with clock.stage("report"):
            shown = plain(replace(record, seconds=clock.seconds()))
            write_report(outputs, answers, shown)
            write_multiqc(outputs, answers)
        if rest is not None:
            with clock.stage("store"):
                rest()
        seconds = clock.seconds()
        record = replace(
            record,
            scores=scores_digest(outputs),
            seconds=seconds,
            throughput=throughput(seconds, record),
        )
        write_record(outputs, record)
    return record


def dated(record: RunRecord) -> RunRecord:
    """The record with when, where and by what it is written."""
    return replace(
        record,
        version=__version__,
        command=tuple(sys.argv),
        working_directory=os.getcwd(),
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        python=platform.python_version(),
        libraries=versions_of_libraries(),
    )


@cache
def versions_of_libraries() -> Mapping[str, str]:
    """Of those that decide a digit of the result."""
    return {name: metadata.version(name) for name in LIBRARIES}


def throughput(seconds: Mapping[str, float], record: RunRecord) -> dict[str, dict[str, float]]:
    """What each stage did in a second: frames or sequences, or embeddings where it made them."""
    work = {stage: (unit, record.counts[unit]) for stage, unit in UNITS.items()}
    work |= {name: ("embeddings", entry.rows) for name, entry in record.embedding.items()}
    return {
        stage: {f"{unit}_per_second": round(n / seconds[stage], 1)}
        for stage, (unit, n) in work.items()
        if seconds.get(stage)
    }
