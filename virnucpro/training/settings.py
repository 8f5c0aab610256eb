"""What `prepare`, `train`, `evaluate` and `calibrate` are asked to do. Each option is one field
here: `commands.py` makes the command line from them.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from virnucpro.errors import UsageError
from virnucpro.settings import FRAME_POLICIES, SHORTEST_CHUNK, STRETCHES, argument, option

SPLITS = ("train", "validation", "test")
SIZES = ("mini", "small", "tiny")


def check_word(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise UsageError unless the option's value is one of the allowed words."""
    if value not in allowed:
        raise UsageError(f"{name} {value}: choose one of {', '.join(allowed)}")


@dataclass(frozen=True)
class PrepareSettings:
    """Labelled genomes to training data, split by group."""

    labels: Path = argument(
        "Columns file, label (virus or others); also record, group, category, split.", "LABELS.tsv"
    )
    output: Path = option(Path("prepared"), "Where to write.", "-o", "--output-dir")
    chunk_length: int = option(500, "Of the frames.")
    frame_policy: str = option(
        "open",
        "Of frames.tsv: as of the model that makes the features: open (500, 300), longest,"
        " stretches (mini, bundles of train).",
    )
    validation: float = option(0.1, "Share of the groups.")
    test: float = option(0.15, "Share of the groups.")
    genbank: list[Path] | None = option(None, "Annotation: keep frames within a CDS. Repeatable.")
    most_shared: float = option(
        0.1, "Share of 21-mers that makes a record near-identical.", min=0, max=1
    )
    seed: int = option(1, "", min=0)

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

    prepared: Path | None = argument(
        "Directory of prepare: trains a whole small bundle.", "PREPARED", None
    )
    output: Path = option(Path("trained"), "The bundle, or the classifier.", "-o", "--output-dir")
    features: list[Path] | None = option(
        None, "merged_features.pt of a run: trains a classifier on stored features. Repeatable."
    )
    frames: Path | None = option(None, "frames.tsv of prepare: the labels of the features.")
    epochs: int = option(200, "Of the classifier, at most.", min=1)
    batch_size: int = option(32, "Rows, of the classifier.", min=2)
    learning_rate: float | None = option(
        None, "Default: 2e-4 (classifier), 7e-4 (bundle).", min=1e-9, max=1
    )
    balance: bool = option(True, "Classes count the same.")
    name: str = option("custom", "Of the bundle.")
    size: str = option("mini", "Of the bundle: mini, small or tiny.")
    chunk_length: int = option(500, "Of the bundle.", min=30)
    frame_policy: str = option(STRETCHES, "Of the bundle: open, longest or stretches.")
    proteins: tuple[Path, Path] | None = option(
        None, "FASTA of more proteins for ESM-2 to learn from.", metavar="VIRAL CELLULAR"
    )
    minutes: float = option(60.0, "Of training the bundle, at most.", min=0.01, max=1e6)
    steps: int = option(10**9, "Of training the bundle, at most.", min=1)
    pretrain: float = option(
        0.0, "Share of the time in which only masked tokens are learned.", min=0, max=1
    )
    workers: int = option(4, "Processes that make batches.", min=0)
    compile: bool = option(False, "Compiled encoders (GPU).")
    resume: bool = option(
        False, "Go on with the unfinished training in the output directory.", "--resume"
    )
    seed: int = option(1, "", min=0)

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

    prepared: Path = argument("Directory of prepare.", "PREPARED")
    model: str | None = option(None, "500, 300, mini, or a bundle directory.", "-m", "--model")
    output: Path = option(Path("evaluation"), "Tables, plots and scores.", "-o", "--output-dir")
    side: str = option("test", "test, validation or train.")
    lengths: str = option("300, 500, 1000, 3000, 10000", "Of the contigs that are cut.")
    per_group: int = option(100, "Contigs of a length from a group, at most.", min=1)
    baselines: bool = option(True, "Length and GC, 6-mers, DIAMOND.")
    draws: int = option(300, "Of groups, for the intervals.", min=0)
    seed: int = option(1, "", min=0)

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

    bundle: Path = argument("A bundle directory; its bundle.json is written.", "BUNDLE")
    labelled: Path = option(MISSING, "Directory of prepare.", "--labelled", metavar="PREPARED")
    output: Path = option(Path("calibration"), "Contigs and their answers.", "-o", "--output-dir")
    side: str = option("validation", "validation, test or train.")
    per_group: int = option(100, "Contigs of a length from a group, at most.", min=1)
    seed: int = option(1, "", min=0)

    def __post_init__(self) -> None:
        check_word("--side", self.side, SPLITS)
