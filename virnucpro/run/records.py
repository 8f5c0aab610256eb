"""What `run.json` says of a run: its inputs, its model, its embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from virnucpro.calling.calibration import Calibration
from virnucpro.embedding.coverage import Coverage, exit_code, scored
from virnucpro.embedding.work import Work
from virnucpro.models.bundle import Bundle
from virnucpro.models.files import read_verification
from virnucpro.reporting.record import (
    EncoderRecord,
    InputRecord,
    ModelRecord,
    RunRecord,
    call_identity,
)
from virnucpro.reporting.typed import typed
from virnucpro.run.job import Job
from virnucpro.run.preload import device_name
from virnucpro.run.session import Run
from virnucpro.sequences.inputs import InputFile
from virnucpro.sequences.table import FrameTable
from virnucpro.settings import PredictSettings

if TYPE_CHECKING:
    import numpy as np

    from virnucpro.embedding.extract import Extraction


def run_record(job: Job, done: Mapping[str, Extraction], run: Run) -> RunRecord:
    """What is known of a run once everything is embedded; nothing failed and all is answered, as
    far as this knows.
    """
    model = model_record(run.bundle)
    return RunRecord(
        identity=job.identity,
        call=call_identity(run.settings.call),
        model=model,
        inputs=input_records(job.table, run.settings),
        failures=(),
        features=run.settings.features,
        exit_code=0,
        retry=sum(len(extraction.failed) for extraction in done.values()),
        choices=tuple(run.choices),
        device=device_name(run.device),
        processes=run.world.size,
        precision=run.settings.precision,
        batch_tokens={name: work.plan.tokens for name, work in job.work.items()},
        embedding={name: encoder_record(job.work[name], e) for name, e in done.items()},
        calibrated=model.calibration is not None,
    )


def with_failures(
    record: RunRecord, table: FrameTable, covered: Coverage, scores: np.ndarray, partial_ok: bool
) -> RunRecord:
    """The record with all that failed, reading, embedding or classifying, and the exit code of
    that. scores: float32 [frames, 2].
    """
    answered = scored(table, covered.kept, scores, covered.left_out)
    failures = (*table.failures, *covered.failures, *answered.failures)
    code = exit_code(table, answered, failures, partial_ok)
    return replace(record, failures=failures, exit_code=code)


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
        directories={e.name: str(bundle.directories[e.name].resolve()) for e in bundle.encoders},
    )


def calibration_of(model: ModelRecord) -> Calibration | None:
    """How the model's scores become probabilities, where it has that."""
    return Calibration.from_json(model.calibration) if model.calibration else None


def input_records(table: FrameTable, settings: PredictSettings) -> tuple[InputRecord, ...]:
    """The inputs as `run.json` says them."""
    return tuple(
        replace(typed(InputRecord, entry, "inputs"), kept=file.path.name if file.named else None)
        for entry, file in zip(table.inputs, settings.inputs, strict=True)
    )


def encoder_record(work: Work, done: Extraction) -> EncoderRecord:
    """What `run.json` says of an encoder's embeddings."""
    return EncoderRecord(
        unique=len(work.duplicates.unique),
        rows=done.rows,
        split=done.split,
        recomputed=done.recomputed,
        in_16_bits=done.in_16_bits,
        failed=len(done.failed),
        taken_up=work.taken_up,
        processes=tuple(seconds.rounded() for seconds in done.processes),
    )


def with_files(table: FrameTable, inputs: Sequence[InputFile]) -> FrameTable:
    """With the paths at which the inputs can be read again: what came through a pipe is kept in a
    file.
    """
    paths = [str(file.path) for file in inputs]
    entries = ({**entry, "path": path} for entry, path in zip(table.inputs, paths, strict=True))
    return replace(table, inputs=tuple(entries))
