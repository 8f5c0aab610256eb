"""Every file that is written from the answers, in one call: what `predict` and `summarize`
share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from virnucpro.calling.answers import Answers
from virnucpro.errors import Failure
from virnucpro.reporting.fasta import write_fastas
from virnucpro.reporting.multiqc import write_multiqc
from virnucpro.reporting.original import write_original_tables
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import write_failures
from virnucpro.reporting.report import write_report
from virnucpro.reporting.tables import write_tables


def write_results(
    outputs: Outputs,
    answers: Answers,
    failures: Sequence[Failure],
    facts: Mapping[str, Any],
    stage: Callable[[str], AbstractContextManager] = lambda _: nullcontext(),
) -> None:
    """Tables, FASTA files, report and the list of failures. `facts`: what `run.json` will say, for
    the report.

    `run.json` itself is written by the caller, last, so that it means a whole result.
    """
    with stage("tables"):
        write_tables(outputs, answers)
    with stage("the original's tables"):
        write_original_tables(outputs, answers)
    with stage("sequences"):
        write_fastas(outputs, answers)
    write_failures(outputs, failures)
    with stage("report"):
        write_report(outputs, answers, facts)
        write_multiqc(outputs, answers, facts)
