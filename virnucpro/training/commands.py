"""The commands `prepare`, `train`, `evaluate`, `calibrate`: options to settings; everything heavy
is imported when called.

Plain functions with typer's annotations; `cli.py` registers them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from virnucpro.errors import Interrupted, UsageError
from virnucpro.settings import FRAME_POLICIES, STRETCHES


def say(text: str) -> None:
    """Progress goes to standard error."""
    print(text, file=sys.stderr, flush=True)


def prepare(
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="LABELS.tsv",
            show_default=False,
            help="Columns file, label (virus or others); also record, group, category, split.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output-dir", help="Where to write.")] = Path(
        "prepared"
    ),
    chunk_length: Annotated[int, typer.Option("--chunk-length", help="Of the frames.")] = 500,
    frame_policy: Annotated[
        str,
        typer.Option(
            "--frame-policy",
            help="Of frames.tsv: as of the model that makes the features: open (500, "
            "300), longest, stretches (mini, bundles of train).",
        ),
    ] = "open",
    validation: Annotated[float, typer.Option("--validation", help="Share of the groups.")] = 0.1,
    test: Annotated[float, typer.Option("--test", help="Share of the groups.")] = 0.15,
    genbank: Annotated[
        list[Path] | None,
        typer.Option("--genbank", help="Annotation: keep frames within a CDS. Repeatable."),
    ] = None,
    most_shared: Annotated[
        float,
        typer.Option(
            "--most-shared",
            min=0,
            max=1,
            help="Share of 21-mers that makes a record near-identical.",
        ),
    ] = 0.1,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
) -> None:
    """Labelled genomes to training data, split by group."""
    from virnucpro.training.prepare import PrepareSettings
    from virnucpro.training.prepare import prepare as run

    _one_of("--frame-policy", frame_policy, FRAME_POLICIES)
    _check_writable(output)
    settings = PrepareSettings(
        labels,
        output,
        chunk_length,
        frame_policy,
        validation,
        test,
        most_shared,
        tuple(genbank or ()),
        seed,
    )
    summary = run(settings, say)
    for side, counts in summary["sides"].items():
        say(
            f"{side}: "
            + ", ".join(
                f"{c['records']:,} {n} records of {c['groups']} groups" for n, c in counts.items()
            )
        )


def train(
    prepared: Annotated[
        Path | None,
        typer.Argument(
            metavar="PREPARED",
            show_default=False,
            help="Directory of prepare: trains a whole small bundle.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output-dir", help="The bundle, or the classifier.")
    ] = Path("trained"),
    features: Annotated[
        list[Path] | None,
        typer.Option(
            "--features",
            help="merged_features.pt of a run: trains a classifier on stored features. Repeatable.",
        ),
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option("--frames", help="frames.tsv of prepare: the labels of the features."),
    ] = None,
    epochs: Annotated[
        int, typer.Option("--epochs", min=1, help="Of the classifier, at most.")
    ] = 200,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=2, help="Rows, of the classifier.")
    ] = 32,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate", min=1e-9, max=1, help="Default: 2e-4 (classifier), 7e-4 (bundle)."
        ),
    ] = None,
    balance: Annotated[
        bool, typer.Option("--balance/--no-balance", help="Classes count the same.")
    ] = True,
    name: Annotated[str, typer.Option("--name", help="Of the bundle.")] = "custom",
    size: Annotated[
        str, typer.Option("--size", help="Of the bundle: mini, small or tiny.")
    ] = "mini",
    chunk_length: Annotated[
        int, typer.Option("--chunk-length", min=30, help="Of the bundle.")
    ] = 500,
    frame_policy: Annotated[
        str, typer.Option("--frame-policy", help="Of the bundle: open, longest or stretches.")
    ] = STRETCHES,
    proteins: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--proteins",
            metavar="VIRAL CELLULAR",
            help="FASTA of more proteins for ESM-2 to learn from.",
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.01, max=1e6, help="Of training the bundle, at most.")
    ] = 60.0,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Of training the bundle, at most.")
    ] = 10**9,
    pretrain: Annotated[
        float,
        typer.Option(
            "--pretrain",
            min=0,
            max=1,
            help="Share of the time in which only masked tokens are learned.",
        ),
    ] = 0.0,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that make batches.")
    ] = 4,
    compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Compiled encoders (GPU).")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the unfinished training in the output directory."
        ),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
) -> None:
    """Train a classifier on stored features, or a whole small bundle."""
    if (prepared is None) == (not features):
        raise UsageError(
            "train: name a directory of `prepare` for a whole bundle, or --features and --frames"
            " for a classifier"
        )
    _check_writable(output)
    if features:
        from virnucpro.training.classifier import RecipeSettings, train_classifier

        if frames is None:
            raise UsageError(
                "train --features: --frames is missing; give the frames.tsv that `virnucpro"
                " prepare` wrote"
            )
        for path in (*features, frames):
            if not path.is_file():
                raise UsageError(
                    f"{path}: no such file; --features takes merged_features.pt of a run, --frames"
                    " the frames.tsv of prepare"
                )
        settings = RecipeSettings(
            tuple(features),
            frames,
            output,
            learning_rate=learning_rate or 2e-4,
            epochs=epochs,
            batch_size=batch_size,
            balance=balance,
            seed=seed,
            resume=resume,
        )
        with _resumable():
            metrics = train_classifier(settings, say)
        for side in ("validation", "test"):
            if side in metrics:
                say(
                    f"{side}: "
                    + ", ".join(
                        f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}"
                        for k, v in metrics[side].items()
                    )
                )
        print(output / "classifier.safetensors")
        return
    from virnucpro.training.bundle.bundle import SIZES, BundleSettings, train_bundle

    _one_of("--size", size, SIZES)
    _one_of("--frame-policy", frame_policy, FRAME_POLICIES)
    settings = BundleSettings(
        prepared,
        output,
        name,
        size,
        chunk_length,
        frame_policy,
        tuple(proteins or ()),
        minutes * 60,
        steps,
        pretrain,
        learning_rate or 7e-4,
        workers=workers,
        seed=seed,
        resume=resume,
        compile=compile,
    )
    with _resumable():
        print(train_bundle(settings, say))


def evaluate(
    prepared: Annotated[
        Path, typer.Argument(metavar="PREPARED", help="Directory of prepare.", show_default=False)
    ],
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="500, 300, mini, or a bundle directory.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output-dir", help="Tables, plots and scores.")
    ] = Path("evaluation"),
    side: Annotated[str, typer.Option("--side", help="test, validation or train.")] = "test",
    lengths: Annotated[
        str, typer.Option("--lengths", help="Of the contigs that are cut.")
    ] = "300, 500, 1000, 3000, 10000",
    per_group: Annotated[
        int, typer.Option("--per-group", min=1, help="Contigs of a length from a group, at most.")
    ] = 100,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Length and GC, 6-mers, DIAMOND.")
    ] = True,
    draws: Annotated[
        int, typer.Option("--draws", min=0, help="Of groups, for the intervals.")
    ] = 300,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
) -> None:
    """How good a model is on groups it was not trained on."""
    from virnucpro.training.evaluate import EvaluateSettings, run_evaluation

    try:
        wanted = tuple(int(v) for v in lengths.split(","))
    except ValueError:
        wanted = ()
    if not wanted or min(wanted) < 1:
        raise UsageError(f"--lengths {lengths}: give numbers of bases, such as 500,3000")
    _check_writable(output)
    results = run_evaluation(
        EvaluateSettings(prepared, output, model, side, wanted, per_group, baselines, draws, seed),
        say,
    )
    for length, found in results["lengths"].items():
        a = found["all"]
        print(
            f"{length} bases: AUROC {_interval(a['auroc'])}, recall at 5 % false positives"
            f" {_interval(a['recall_at_5pct'])}, {a['viruses']} viral of {a['viral_groups']}"
            f" groups, {a['cellular']} others of {a['cellular_groups']}"
        )


def calibrate(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE",
            help="A bundle directory; its bundle.json is written.",
            show_default=False,
        ),
    ],
    labelled: Annotated[
        Path,
        typer.Option(
            "--labelled", metavar="PREPARED", help="Directory of prepare.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output-dir", help="Contigs and their answers.")
    ] = Path("calibration"),
    side: Annotated[str, typer.Option("--side", help="validation, test or train.")] = "validation",
    per_group: Annotated[
        int, typer.Option("--per-group", min=1, help="Contigs of a length from a group, at most.")
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
) -> None:
    """Make a bundle's scores probabilities. By sequences it was not trained on."""
    from virnucpro.training.evaluate import calibrate as run

    _one_of("--side", side, ("train", "validation", "test"))
    _check_writable(output)
    found = run(bundle, labelled, output, side, per_group, seed, say)
    for name, figures in found["crossvalidated"].items():
        say(f"{name}: " + ", ".join(f"{k.replace('_', ' ')} {v:.4f}" for k, v in figures.items()))
    print(
        f"{bundle / 'bundle.json'}: calibrated by {found['chosen']} on {found['sequences']:,}"
        " sequences"
    )


def _interval(v: list) -> str:
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
            code - 128,
        ) from stop


def _check_writable(output: Path) -> None:
    """Before hours of work, not after."""
    there = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "cannot be written" if there.is_dir() else f"{there} is no directory"
        raise UsageError(f"--output-dir {output}: {why}; choose another")


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{option} {value}: choose one of {', '.join(allowed)}")
