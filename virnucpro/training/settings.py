"""What `prepare`, `train`, `evaluate` and `calibrate` are asked to do. Each option is one field
here: `commands.py` makes the command line from them.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from virnucpro.errors import UsageError
from virnucpro.options import argument, option
from virnucpro.settings import FRAME_POLICIES, SHORTEST_CHUNK, STRETCHES

SPLITS = ("train", "validation", "test")
SIZES = ("mini", "small", "tiny")


def check_word(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise UsageError unless the option's value is one of the allowed words."""
    if value not in allowed:
        raise UsageError(f"{name} {value}: choose one of {', '.join(allowed)}")


@dataclass(frozen=True)
class PrepareSettings:
    """Make training data of labelled genomes. Whole groups go to training, validation or test."""

    labels: Path = argument(
        "Table with the columns file and label (virus or others); if you like also record, group,"
        " category and split.",
        "LABELS.tsv",
    )
    output: Path = option(
        Path("prepared"), "Where the data go.", "-o", "--output-dir", metavar="DIR"
    )
    chunk_length: int = option(
        500, "Length of the chunks that frames.tsv describes.", metavar="BASES"
    )
    frame_policy: str = option(
        "open",
        "How frames.tsv takes frames; as the model does that will make the features: open (500,"
        " 300), longest, or stretches (mini, bundles of `train`).",
        metavar="POLICY",
    )
    validation: float = option(
        0.1, "Share of the groups that is kept for validation.", metavar="SHARE"
    )
    test: float = option(0.15, "Share of the groups that is kept for the test.", metavar="SHARE")
    genbank: list[Path] | None = option(
        None,
        "GenBank file with annotation: keep only frames within an annotated CDS. May be given more"
        " than once.",
        metavar="FILE",
    )
    most_shared: float = option(
        0.1,
        "Remove training records that share more than this part of their 21-mers with a held-out"
        " side.",
        metavar="SHARE",
        min=0,
        max=1,
    )
    seed: int = option(1, "Number that the split is drawn with.", metavar="N", min=0)

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
    """Train a small bundle, or a classifier. The first from PREPARED, the other on --features."""

    prepared: Path | None = argument(
        "Directory of `virnucpro prepare`; trains a whole small bundle.", "PREPARED", None
    )
    output: Path = option(
        Path("trained"),
        "Where the bundle or the classifier goes.",
        "-o",
        "--output-dir",
        metavar="DIR",
    )
    features: list[Path] | None = option(
        None,
        "merged_features.pt of a run on prepared sequences; trains a classifier. Give it once for"
        " each side.",
        metavar="FILE",
    )
    frames: Path | None = option(
        None, "frames.tsv of `prepare`, which has the labels of the features.", metavar="FILE"
    )
    epochs: int = option(200, "Classifier: passes over the data, at most.", metavar="N", min=1)
    batch_size: int = option(32, "Classifier: rows in a batch.", metavar="N", min=2)
    learning_rate: float | None = option(
        None,
        "Learning rate. Default: 2e-4 (classifier), 7e-4 (bundle).",
        metavar="RATE",
        min=1e-9,
        max=1,
    )
    balance: bool = option(True, "Viruses and others count the same, however many there are.")
    name: str = option("custom", "Bundle: the name that it states.", metavar="NAME")
    size: str = option("mini", "Bundle: size of its networks: mini, small or tiny.", metavar="SIZE")
    chunk_length: int = option(500, "Bundle: length of its chunks.", metavar="BASES", min=30)
    frame_policy: str = option(
        STRETCHES, "Bundle: how it takes frames: open, longest or stretches.", metavar="POLICY"
    )
    proteins: tuple[Path, Path] | None = option(
        None,
        "Bundle: two FASTA files of more proteins to learn from, viral and cellular.",
        metavar="VIRAL CELLULAR",
    )
    minutes: float = option(
        60.0, "Bundle: time for the training.", metavar="MINUTES", min=0.01, max=1e6
    )
    steps: int | None = option(None, "Bundle: steps of the training, at most.", metavar="N", min=1)
    pretrain: float = option(
        0.0,
        "Bundle: share of the time in which it learns to fill in masked tokens, without labels.",
        metavar="SHARE",
        min=0,
        max=1,
    )
    workers: int = option(4, "Bundle: processes that make batches.", metavar="N", min=0)
    compile: bool = option(False, "Bundle: compile the networks (needs a GPU).")
    resume: bool = option(
        False, "Continue the unfinished training in the output directory.", "--resume"
    )
    seed: int = option(1, "Number that everything random is drawn with.", metavar="N", min=0)

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
    """Measure a model on groups new to it. With intervals, beside simple methods."""

    prepared: Path = argument("Directory of `virnucpro prepare`.", "PREPARED")
    model: str | None = option(
        None,
        "500, 300, mini, or a bundle directory. Default: the best one that is installed.",
        "-m",
        "--model",
        metavar="MODEL",
    )
    output: Path = option(
        Path("evaluation"),
        "Where tables, plots and scores go.",
        "-o",
        "--output-dir",
        metavar="DIR",
    )
    side: str = option(
        "test", "Which side of the split: test, validation or train.", metavar="SIDE"
    )
    lengths: str = option(
        "300, 500, 1000, 3000, 10000", "Lengths of the contigs that are cut.", metavar="BASES"
    )
    per_group: int = option(
        100, "How many contigs of a length to cut from a group, at most.", metavar="N", min=1
    )
    baselines: bool = option(
        True, "Measure simple methods beside it: length and GC, 6-mers, a DIAMOND search."
    )
    draws: int = option(
        300, "How often groups are drawn again, for the intervals.", metavar="N", min=0
    )
    seed: int = option(1, "Number that everything random is drawn with.", metavar="N", min=0)

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
    """Make probabilities of a bundle's scores. By sequences that it was not trained on."""

    bundle: Path = argument("The bundle's directory; its bundle.json is changed.", "BUNDLE")
    labelled: Path = option(
        MISSING, "Directory of `virnucpro prepare`.", "--labelled", metavar="PREPARED"
    )
    output: Path | None = option(
        None,
        "Keep the contigs and their answers here, also to continue after an interruption.",
        "-o",
        "--output-dir",
        metavar="DIR",
    )
    side: str = option(
        "validation", "Which side of the split: validation, test or train.", metavar="SIDE"
    )
    per_group: int = option(
        100, "How many contigs of a length to cut from a group, at most.", metavar="N", min=1
    )
    seed: int = option(1, "Number that everything random is drawn with.", metavar="N", min=0)

    def __post_init__(self) -> None:
        check_word("--side", self.side, SPLITS)
