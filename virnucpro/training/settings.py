"""What `prepare`, `train`, `evaluate` and `calibrate` are asked to do. A field with an option is
declared here once: `commands.py` makes the command line from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from virnucpro.errors import UsageError
from virnucpro.settings import FRAME_POLICIES, SHORTEST_CHUNK, STRETCHES

SPLITS = ("train", "validation", "test")
SIZES = ("mini", "small", "tiny")


def check_word(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise UsageError unless the option's value is one of the allowed words."""
    if value not in allowed:
        raise UsageError(f"{option} {value}: choose one of {', '.join(allowed)}")


@dataclass(frozen=True)
class PrepareSettings:
    """Labelled genomes to training data, split by group."""

    labels: Annotated[
        Path,
        typer.Argument(
            metavar="LABELS.tsv",
            show_default=False,
            help="Columns file, label (virus or others); also record, group, category, split.",
        ),
    ]
    output: Annotated[Path, typer.Option("-o", "--output-dir", help="Where to write.")] = Path(
        "prepared"
    )
    chunk_length: Annotated[int, typer.Option("--chunk-length", help="Of the frames.")] = 500
    frame_policy: Annotated[
        str,
        typer.Option(
            "--frame-policy",
            help="Of frames.tsv: as of the model that makes the features: open (500, "
            "300), longest, stretches (mini, bundles of train).",
        ),
    ] = "open"
    validation: Annotated[float, typer.Option("--validation", help="Share of the groups.")] = 0.1
    test: Annotated[float, typer.Option("--test", help="Share of the groups.")] = 0.15
    genbank: Annotated[
        list[Path] | None,
        typer.Option("--genbank", help="Annotation: keep frames within a CDS. Repeatable."),
    ] = None
    most_shared: Annotated[
        float,
        typer.Option(
            "--most-shared",
            min=0,
            max=1,
            help="Share of 21-mers that makes a record near-identical.",
        ),
    ] = 0.1
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1

    def __post_init__(self) -> None:
        check_word("--frame-policy", self.frame_policy, FRAME_POLICIES)
        shares = self.validation, self.test
        if not all(0 <= share < 1 for share in shares) or sum(shares) >= 1:
            raise UsageError(
                "--validation and --test are shares that leave some groups for training"
            )
        if self.chunk_length < SHORTEST_CHUNK:
            raise UsageError(f"--chunk-length {self.chunk_length}: at least {SHORTEST_CHUNK} bases")


@dataclass(frozen=True)
class TrainSettings:
    """Train a classifier on stored features, or a whole small bundle."""

    prepared: Annotated[
        Path | None,
        typer.Argument(
            metavar="PREPARED",
            show_default=False,
            help="Directory of prepare: trains a whole small bundle.",
        ),
    ] = None
    output: Annotated[
        Path, typer.Option("-o", "--output-dir", help="The bundle, or the classifier.")
    ] = Path("trained")
    features: Annotated[
        list[Path] | None,
        typer.Option(
            "--features",
            help="merged_features.pt of a run: trains a classifier on stored features. Repeatable.",
        ),
    ] = None
    frames: Annotated[
        Path | None,
        typer.Option("--frames", help="frames.tsv of prepare: the labels of the features."),
    ] = None
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of the classifier, at most.")] = (
        200
    )
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=2, help="Rows, of the classifier.")
    ] = 32
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate", min=1e-9, max=1, help="Default: 2e-4 (classifier), 7e-4 (bundle)."
        ),
    ] = None
    balance: Annotated[
        bool, typer.Option("--balance/--no-balance", help="Classes count the same.")
    ] = True
    name: Annotated[str, typer.Option("--name", help="Of the bundle.")] = "custom"
    size: Annotated[str, typer.Option("--size", help="Of the bundle: mini, small or tiny.")] = (
        "mini"
    )
    chunk_length: Annotated[int, typer.Option("--chunk-length", min=30, help="Of the bundle.")] = (
        500
    )
    frame_policy: Annotated[
        str, typer.Option("--frame-policy", help="Of the bundle: open, longest or stretches.")
    ] = STRETCHES
    proteins: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--proteins",
            metavar="VIRAL CELLULAR",
            help="FASTA of more proteins for ESM-2 to learn from.",
        ),
    ] = None
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.01, max=1e6, help="Of training the bundle, at most.")
    ] = 60.0
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Of training the bundle, at most.")
    ] = 10**9
    pretrain: Annotated[
        float,
        typer.Option(
            "--pretrain",
            min=0,
            max=1,
            help="Share of the time in which only masked tokens are learned.",
        ),
    ] = 0.0
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that make batches.")
    ] = 4
    compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Compiled encoders (GPU).")
    ] = False
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the unfinished training in the output directory."
        ),
    ] = False
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1

    def __post_init__(self) -> None:
        if (self.prepared is None) == (not self.features):
            raise UsageError(
                "train: name a directory of `prepare` for a whole bundle, or --features and"
                " --frames for a classifier"
            )
        check_word("--size", self.size, SIZES)
        check_word("--frame-policy", self.frame_policy, FRAME_POLICIES)
        if self.features and self.frames is None:
            raise UsageError(
                "train --features: --frames is missing; give the frames.tsv that `virnucpro"
                " prepare` wrote"
            )


@dataclass(frozen=True)
class EvaluateSettings:
    """How good a model is on groups it was not trained on."""

    prepared: Annotated[
        Path, typer.Argument(metavar="PREPARED", help="Directory of prepare.", show_default=False)
    ]
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="500, 300, mini, or a bundle directory.")
    ] = None
    output: Annotated[
        Path, typer.Option("-o", "--output-dir", help="Tables, plots and scores.")
    ] = Path("evaluation")
    side: Annotated[str, typer.Option("--side", help="test, validation or train.")] = "test"
    lengths: Annotated[str, typer.Option("--lengths", help="Of the contigs that are cut.")] = (
        "300, 500, 1000, 3000, 10000"
    )
    per_group: Annotated[
        int, typer.Option("--per-group", min=1, help="Contigs of a length from a group, at most.")
    ] = 100
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Length and GC, 6-mers, DIAMOND.")
    ] = True
    draws: Annotated[int, typer.Option("--draws", min=0, help="Of groups, for the intervals.")] = (
        300
    )
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1

    def __post_init__(self) -> None:
        check_word("--side", self.side, SPLITS)
        words = [word.strip() for word in self.lengths.split(",")]
        if not all(word.isdecimal() and int(word) > 0 for word in words):
            raise UsageError(f"--lengths {self.lengths}: give numbers of bases, such as 500,3000")

    @property
    def contig_lengths(self) -> tuple[int, ...]:
        """The lengths as numbers of bases."""
        return tuple(int(word) for word in self.lengths.split(","))


@dataclass(frozen=True)
class CalibrateSettings:
    """Make a bundle's scores probabilities. By sequences it was not trained on."""

    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE",
            help="A bundle directory; its bundle.json is written.",
            show_default=False,
        ),
    ]
    labelled: Annotated[
        Path,
        typer.Option(
            "--labelled", metavar="PREPARED", help="Directory of prepare.", show_default=False
        ),
    ]
    output: Annotated[
        Path, typer.Option("-o", "--output-dir", help="Contigs and their answers.")
    ] = Path("calibration")
    side: Annotated[str, typer.Option("--side", help="validation, test or train.")] = "validation"
    per_group: Annotated[
        int, typer.Option("--per-group", min=1, help="Contigs of a length from a group, at most.")
    ] = 100
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1

    def __post_init__(self) -> None:
        check_word("--side", self.side, SPLITS)
