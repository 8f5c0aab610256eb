"""The run of the small model that looks first (`--screen`): a whole run of its own in a directory
below the output directory, and what it says of the sequences.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from virnucpro.calling.columns import CALL_WORDS, Call
from virnucpro.calling.mates import Reads
from virnucpro.calling.screen import POINT, Screen
from virnucpro.errors import StoreError, UsageError
from virnucpro.models.bundle import resolve_bundle
from virnucpro.models.choices import resolve_precision
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.tables import read_table
from virnucpro.run.session import Session
from virnucpro.run.timing import Clock
from virnucpro.settings import (
    NO_REFERENCE,
    CallPoints,
    CallSettings,
    ModelSettings,
    PredictSettings,
)

DIRECTORY = "screen"


def screen_session(settings: PredictSettings, session: Session) -> Session:
    """The session's counterpart for the screen, on the same device."""
    if session.screen is None:
        bundle, choice = resolve_bundle(ModelSettings(settings.screen))
        if bundle.identity() == session.bundle.identity():
            raise UsageError(
                f"--screen {settings.screen}: is the model that is screened for; leave it out, or"
                " name a larger --model"
            )
        accelerator = session.accelerator
        precision = resolve_precision(
            settings.precision,
            accelerator.device,
            accelerator.mixed_precision if session.world.launched else None,
            bundle.cpu_precision,
        )
        session.screen = replace(
            session,
            bundle=bundle,
            precision=precision.value,
            choices=(choice, precision),
            clock=Clock(),
            encoders=None if session.encoders is None else {},
            name="screen",
        )
    return session.screen


def screen_settings(settings: PredictSettings) -> PredictSettings:
    """The settings of the screen's run: every sequence at or over POINT is called virus there."""
    points = CallPoints(POINT, POINT, preset=None)
    call = CallSettings(
        points, allow_short=True, table_format="tsv", reference=NO_REFERENCE, call_by="model"
    )
    return replace(
        settings,
        output_dir=settings.output_dir / DIRECTORY,
        model=ModelSettings(settings.screen),
        call=call,
        features="none",
        screen=None,
        batch_tokens=None,
        partial_ok=True,
        resume=False,
    )


def screen_files(directory: Path) -> tuple[Path, Path]:
    """What `read_screen` reads."""
    outputs = Outputs(directory / DIRECTORY)
    return outputs.contigs, outputs.regions


def read_screen(directory: Path, reads: Reads) -> Screen:
    """What the screen of the run in `directory` says of its sequences. Raises StoreError where it
    is not there, or of others.
    """
    contigs, regions = map(read_table, screen_files(directory))
    names = contigs["seq_name"].to_pylist()
    if names != reads.sequence_names().to_pylist():
        raise StoreError(
            f"{directory / DIRECTORY}: is not of these inputs; start over with predict --force"
        )
    row = {name: number for number, name in enumerate(names)}
    numbers = ("virus_score", "virus_probability")
    score, probability = (np.array(contigs[n].to_pylist(), np.float64) for n in numbers)
    called = contigs["call"].to_pylist()
    start, end = (np.array(regions[n].to_pylist(), np.int64) for n in ("start", "end"))
    return Screen(
        out=np.array([word == CALL_WORDS[Call.non_virus] for word in called], bool),
        score=score,
        probability=probability,
        record=np.array([row[name] for name in regions["seq_name"].to_pylist()], np.int64),
        start=start,
        end=end,
    )
