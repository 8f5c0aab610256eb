"""Scores to files: what `predict` does last, and what `summarize` does again alone.

Knows which files a result consists of and what `run.json` says; the rules are in `calling`, the
formats in `reporting`.
"""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from virnucpro import __version__
from virnucpro.calling.answers import Answers, assemble, frame_columns
from virnucpro.calling.calibration import Calibration
from virnucpro.calling.consensus import CallRules
from virnucpro.errors import Failure
from virnucpro.reporting import write
from virnucpro.reporting.original import scores_digest
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import read_run_json, write_run_json
from virnucpro.reporting.tables import counts
from virnucpro.run.state import Identity
from virnucpro.run.timing import Clock
from virnucpro.sequences.table import FrameTable
from virnucpro.settings import CallSettings

log = logging.getLogger(__name__)

UNITS = {
    "read": "frames",
    "classify": "frames",
    "call": "sequences",
    "tables": "sequences",
    "sequences": "sequences",
    "report": "sequences",
}  # of the stages that `run.json` times


@dataclass(frozen=True, slots=True)
class Finished:
    """An earlier run that ended: its identity with the call settings, and whether nothing is left
    to try again.
    """

    identity: Identity
    complete: bool


def read_finished(outputs: Outputs) -> Finished | None:
    """What `run.json` says of a finished run whose files are there."""
    facts = read_run_json(outputs.run_json)
    if not facts or "identity" not in facts or not outputs.contigs.exists():
        return None
    identity = {**facts["identity"], **facts["call"]}
    missing = facts["features"] != "none" and not outputs.features.exists()
    return Finished(identity, facts["retry"] == 0 and not missing)


def call_identity(call: CallSettings) -> dict[str, str]:
    """The call settings as words, as `run.json` keeps them and a refusal quotes them."""
    return {
        "--min-score": str(call.points.virus),
        "--relaxed": str(call.points.relaxed),
        "--allow-short": str(call.allow_short),
        "--prevalence": str(call.prevalence),
        "--table-format": call.table_format,
    }


def write_results(
    table: FrameTable,
    outputs: Outputs,
    scores: np.ndarray,
    lost: np.ndarray,
    failures: Sequence[Failure],
    model: Mapping[str, Any],
    calibration: Calibration | None,
    call: CallSettings,
    facts: Mapping[str, Any],
    clock: Clock,
    rest: Callable[[], object] | None = None,
) -> Answers:
    """Every table, FASTA, report and record of a run. scores: float32 [frames, 2]; lost: bool
    [frames], no embedding.

    `model` is what is said of the model, `facts` what else `run.json` is to keep; `rest` waits for
    what else belongs to a whole result, which `run.json` stands for.
    """
    with clock.stage("call"):
        rules = CallRules(
            table.rules.chunk_length,
            call.points,
            call.allow_short,
            table.rules.stride,
            table.rules.frame_policy,
        )
        table.check()
        arrow = table.frames.data.table
        answers = assemble(
            table.inputs,
            table.records,
            frame_columns(arrow, scores, lost),
            rules,
            model["name"],
            calibration,
            call.prevalence,
        )
    record = {
        "version": __version__,
        "command": sys.argv,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "inputs": list(table.inputs),
        "model": dict(model),
        "call": call_identity(call),
        "counts": counts(answers),
        "failures": [asdict(failure) for failure in failures],
        "prevalence": dict(answers.prevalence),
        "calibrated": calibration is not None,
        **facts,
    }
    write.write_results(
        outputs, answers, failures, {**record, "seconds": clock.seconds()}, clock.stage
    )
    record["scores"] = scores_digest(outputs)
    if rest is not None:
        with clock.stage("store"):
            rest()
    seconds = clock.seconds()
    write_run_json(
        outputs,
        {
            **record,
            "seconds": seconds,
            "throughput": throughput(seconds, len(scores), len(answers.records), facts),
        },
    )
    return answers


def throughput(
    seconds: Mapping[str, float], frames: int, sequences: int, facts: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """What each stage did in a second: frames or sequences, or embeddings where it made them."""
    done = {"frames": frames, "sequences": sequences}
    work = {stage: (unit, done[unit]) for stage, unit in UNITS.items()}
    work |= {
        name: ("embeddings", entry["rows"]) for name, entry in facts.get("embedding", {}).items()
    }
    return {
        stage: {f"{unit}_per_second": round(n / seconds[stage], 1)}
        for stage, (unit, n) in work.items()
        if seconds.get(stage)
    }
