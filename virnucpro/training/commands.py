"""The commands `prepare`, `train`, `evaluate`, `calibrate`: settings in, what was found said;
everything heavy is imported when called. `cli.py` registers them.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from virnucpro.errors import Interrupted, UsageError
from virnucpro.options import command
from virnucpro.training.settings import (
    CalibrateSettings,
    EvaluateSettings,
    PrepareSettings,
    TrainSettings,
)


def say(text: str) -> None:
    """Progress goes to standard error."""
    print(text, file=sys.stderr, flush=True)


def _checked(settings: type, run: Callable[[Any], None]) -> Callable[..., None]:
    """The command; its output directory is checked before the work, not after."""

    def call(given: Any) -> None:
        if given.output is not None:
            _check_writable(given.output)
        run(given)

    call.__name__, call.__doc__ = run.__name__, settings.__doc__
    return command(call, settings)


def _prepare(settings: PrepareSettings) -> None:
    from virnucpro.training.prepare import prepare

    sides = prepare(settings, say)["sides"]
    for side, counts in sides.items():
        found = [
            f"{c['records']:,} {name} records of {c['groups']} groups" for name, c in counts.items()
        ]
        say(f"{side}: {', '.join(found)}")
    for remark in _remarks(sides):
        say(f"note: {remark}")
    say(f"next: virnucpro train {settings.output} -o my_bundle")


def _remarks(sides: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Iterator[str]:
    """What later steps will miss in the data or on this machine."""
    for side, missed, share in (
        ("validation", "`virnucpro calibrate` needs at least 2", "--validation"),
        ("test", "`virnucpro evaluate` gives intervals from 2", "--test"),
    ):
        fewest = min(sides[side].get(n, {}).get("groups", 0) for n in ("virus", "others"))
        if fewest < 2:
            groups = "1 group" if fewest == 1 else f"{fewest} groups"
            yield (
                f"the {side} side has {groups} of a label, and {missed} of each: label more"
                f" groups, or raise {share}"
            )
    if find_spec("sklearn") is None:
        yield "`virnucpro evaluate` needs scikit-learn: pip install scikit-learn"
    if shutil.which("diamond") is None:
        yield "without DIAMOND, `virnucpro evaluate` leaves out its protein search"


def _train(settings: TrainSettings) -> None:
    if settings.prepared is not None:
        from virnucpro.training.bundle.bundle import train_bundle

        with _resumable():
            print(train_bundle(settings, say))
        say(f"next: virnucpro calibrate {settings.output} --labelled {settings.prepared}")
        return
    from virnucpro.training.classifier import train_classifier

    with _resumable():
        metrics = train_classifier(settings, say)
    for side in ("validation", "test"):
        if side in metrics:
            say(f"{side}: {_listed(metrics[side])}")
    classifier = settings.output / "classifier.safetensors"
    print(classifier)
    say(f"next: virnucpro predict contigs.fna --classifier {classifier}, and --model as before")


def _evaluate(settings: EvaluateSettings) -> None:
    from virnucpro.training.evaluate import run_evaluation

    for length, found in run_evaluation(settings, say)["lengths"].items():
        a = found["all"]
        print(
            f"{length} bases: AUROC {_interval(a['auroc'])}, recall at 5 % false positives"
            f" {_interval(a['recall_at_5pct'])}, {a['viruses']} viral of {a['viral_groups']}"
            f" groups, {a['cellular']} others of {a['cellular_groups']}"
        )
    say(f"tables and plots: {settings.output}")
    model = f" --model {settings.model}" if settings.model else ""
    say(f"next: virnucpro predict contigs.fna{model}")


def _calibrate(settings: CalibrateSettings) -> None:
    from virnucpro.training.calibrate import calibrate

    found = calibrate(settings, say)
    for name, figures in found["crossvalidated"].items():
        say(f"{name}: {_listed({k.replace('_', ' '): v for k, v in figures.items()})}")
    print(
        f"{settings.bundle / 'bundle.json'}: calibrated by {found['chosen']} on"
        f" {found['sequences']:,} sequences"
    )
    say(f"next: virnucpro evaluate {settings.labelled} --model {settings.bundle}")


COMMANDS = {
    "prepare": _checked(PrepareSettings, _prepare),
    "train": _checked(TrainSettings, _train),
    "evaluate": _checked(EvaluateSettings, _evaluate),
    "calibrate": _checked(CalibrateSettings, _calibrate),
}


def _listed(figures: Mapping[str, float]) -> str:
    return ", ".join(
        f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()
    )


def _interval(v: list[float | None]) -> str:
    return f"{v[0]:.3f} ({v[1]:.3f} to {v[2]:.3f})" if None not in v else str(v[0])


@contextmanager
def _resumable() -> Iterator[None]:
    """An interrupted training says how to go on; the same command alone would start over."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        code = stop.code if isinstance(stop, SystemExit) else 130
        if code not in (130, 143):
            raise
        name = "SIGINT" if code == 130 else "SIGTERM"
        raise Interrupted(
            f"stopped by {name}; what is trained is kept: give the same command with --resume to"
            " go on",
            int(code) - 128,
        ) from stop


def _check_writable(output: Path) -> None:
    found = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not found.is_dir() or not os.access(found, os.W_OK):
        why = "cannot be written" if found.is_dir() else f"{found} is not a directory"
        raise UsageError(f"--output-dir {output}: {why}; choose another")
