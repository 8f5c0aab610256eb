"""What a run is asked to do, as plain data, checked once.

An option is one field of `Options`: the command line, the Python interface and the table in
docs/reference/options.md are made from it. Does not know how options are parsed or carried out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from virnucpro.errors import UsageError
from virnucpro.options import check_words, flag, option

if TYPE_CHECKING:
    from virnucpro.sequences.inputs import InputFile

Precision = Literal["auto", "bf16", "fp16", "fp32", "int8"]
FeatureKind = Literal["float32", "float16", "none"]
Compile = Literal["auto", "on", "off"]
FalsePositives = Literal["5%", "1%", "0.1%"]
TableFormat = Literal["tsv", "tsv.gz", "parquet"]
CallBy = Literal["model", "both"]
Effort = Literal["full", "balanced", "quick"]
Screen = Literal["mini"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
FEATURE_KINDS: tuple[str, ...] = get_args(FeatureKind)
COMPILE: tuple[str, ...] = get_args(Compile)
TABLE_FORMATS: tuple[str, ...] = get_args(TableFormat)
STRETCHES = "stretches"  # the frame policy whose chunks have several frames of unequal weight
FRAME_POLICIES: tuple[str, ...] = ("open", "longest", STRETCHES)
SHORTEST_CHUNK, LONGEST_CHUNK = 30, 100_000  # bases

MOST_SHARDS = 100_000
MOST_BASES = 999_999_999  # of a length
MOST_PROCESSES = 4096  # or threads; more is a slip of the pen
MOST_TOKENS = 1 << 24  # of a batch

RELAXED, DEFAULT, CONSERVATIVE = 0.3, 0.5, 0.8
PRESETS = {"relaxed": RELAXED, "default": DEFAULT, "conservative": CONSERVATIVE}
# shares of cellular sequences that are called virus by the presets of a model with such points
PROMISED = {"relaxed": "5%", "default": "1%", "conservative": "0.1%"}
AMBIGUOUS = PROMISED["relaxed"]
NO_REFERENCE, SHIPPED = "none", "shipped"
REFERENCE_VARIABLE = "VIRNUCPRO_REFERENCE"  # what --reference is where it is not given
FULL = "full"  # the effort that scores every chunk


INPUTS, MODEL, DEVICES, RUN, CALLS = (
    "Input and output",
    "Model",
    "Devices and speed",
    "The run",
    "Calls",
)


@dataclass(frozen=True, slots=True)
class Choice:
    """An automatic choice: what was chosen, and why. Printed once, kept in `run.json`."""

    name: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.value} ({self.reason})"


@dataclass(frozen=True, slots=True)
class CallPoints:
    """Thresholds on a sequence's score: at or over `virus` it is called virus, at or over `relaxed`
    ambiguous. Instead of `virus`: the fdr of a sequence that is called virus is at most `max_fdr`,
    or as many cells as `false_positives` says are called virus, by points of the model, which a
    `preset` stands for where the model has them.
    """

    virus: float = DEFAULT
    relaxed: float = RELAXED
    max_fdr: float | None = None
    false_positives: str | None = None
    preset: str | None = "default"

    def __post_init__(self) -> None:
        if not 0.0 <= self.virus <= 1.0:
            raise UsageError(
                f"--min-score {self.virus}: a score lies between 0 and 1; give a value in that"
                " range"
            )
        if self.max_fdr is not None and not 0.0 < self.max_fdr < 1.0:
            raise UsageError(
                f"--max-fdr {self.max_fdr}: a share of false calls lies between 0 and 1; give a"
                " value such as 0.05"
            )

    def of_model(self, measured: Collection[str]) -> CallPoints:
        """The points for a model that has some for the `measured` shares of false positives."""
        share = self.false_positives or PROMISED.get(self.preset or "")
        return replace(self, false_positives=share if share in measured else None)

    @property
    def rule(self) -> str:
        """What is called virus and what ambiguous, in words."""
        if self.max_fdr is not None:
            return f"virus where fdr is at most {self.max_fdr}, ambiguous from {self.relaxed}"
        if self.false_positives is not None:
            return (
                f"virus from the value that {self.false_positives} of cellular sequences of its"
                f" length reach, ambiguous from that of {AMBIGUOUS}"
            )
        return f"virus from {self.virus}, ambiguous from {self.relaxed}"


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which bundle answers, and which of its parts are replaced."""

    model: str | None = None
    esm_model: str | None = None
    dna_model: str | None = None
    classifier: str | None = None
    chunk_length: int | None = None


def _measured_shares(calibration: Mapping[str, Any], call_by: str) -> Collection[str]:
    """The shares of false positives for which the model has points."""
    if call_by == "both":
        return calibration.get("evidence", {}).get("points", ())
    return calibration.get("points", {}).get("shares", ())


@dataclass(frozen=True, slots=True)
class CallSettings:
    """How scores become calls, and in which format the tables are; nothing here touches an
    embedding.
    """

    points: CallPoints = CallPoints()
    allow_short: bool = False
    prevalence: float | None = None
    table_format: str = "tsv"
    reference: str | None = None  # NO_REFERENCE, SHIPPED, or a directory; None: by the model
    call_by: str | None = None

    def __post_init__(self) -> None:
        if self.prevalence is not None and not 0.0 < self.prevalence < 1.0:
            raise UsageError(
                f"--prevalence {self.prevalence}: the expected share of viral sequences lies"
                " between 0 and 1"
            )
        if self.call_by == "both" and self.reference == NO_REFERENCE:
            raise UsageError("--call-by both: needs proteins to search; leave out --reference none")

    def of_model(self, calibration: Mapping[str, Any] | None) -> CallSettings:
        """The settings with nothing left to choose, for a model of this calibration. One that
        weighs known proteins has the shipped ones searched and its calls made by both, unless
        something else was said. Raises UsageError where it cannot be called so.
        """
        weighs = "evidence" in (calibration or {})
        wanted = weighs or self.call_by == "both"
        reference = self.reference or os.environ.get(REFERENCE_VARIABLE)
        reference = reference or (SHIPPED if wanted else NO_REFERENCE)
        call_by = self.call_by or ("both" if weighs and reference != NO_REFERENCE else "model")
        if self.points.max_fdr is not None and not calibration and call_by != "both":
            raise UsageError("--max-fdr: this model has no probabilities; add --call-by both")
        points = self.points.of_model(_measured_shares(calibration or {}, call_by))
        if points.false_positives is None and self.points.false_positives is not None:
            raise UsageError(
                "--false-positives: this model has no points that were measured; give --min-score"
            )
        return replace(self, points=points, reference=reference, call_by=call_by)


@dataclass(frozen=True, slots=True)
class PredictSettings:
    """Everything `predict` needs, launcher apart."""

    inputs: tuple[InputFile, ...]
    output_dir: Path
    model: ModelSettings = ModelSettings()
    precision: str = "auto"
    batch_tokens: int | None = None
    compile: str = "auto"
    effort: str = FULL
    screen: str | None = None
    features: str = "float32"
    min_length: int = 0
    stride: int = 0
    call: CallSettings = CallSettings()
    resume: bool = False
    force: bool = False
    checkpoint_dir: Path | None = None
    cache_dir: Path | None = None
    partial_ok: bool = False
    no_cache: bool = False
    shard: str = ""  # i/n: only the sequences of this one of n shards

    @property
    def embeds_all(self) -> bool:
        """Whether every chunk is embedded, whatever the scores of others."""
        return self.effort == FULL and self.screen is None


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `virnucpro predict`."""

    output_dir: Path | str | None = option(
        None,
        "Where the results go. Default: {first input}_virnucpro in the current directory.",
        "-o",
        "--output-dir",
        panel=INPUTS,
        metavar="DIR",
    )
    samplesheet: Path | str | None = option(
        None,
        "Many samples, each with a directory of its own: a table with the columns sample, file and,"
        " for a second file, file2.",
        panel=INPUTS,
        metavar="TABLE",
    )
    per_input: bool = option(
        False,
        "Take every input as a sample with a directory of its own.",
        "--per-input",
        panel=INPUTS,
    )
    table_format: TableFormat = option(
        "tsv", "Format of the tables contigs, chunks and frames.", panel=INPUTS
    )
    features: FeatureKind = option(
        "float32",
        "How merged_features.pt keeps the embeddings: in full, in half the space, or not at all."
        " Scores are always kept.",
        panel=INPUTS,
    )
    min_length: int = option(
        0,
        "Skip sequences shorter than this; they are listed as skipped.",
        panel=INPUTS,
        metavar="BASES",
        min=0,
        max=MOST_BASES,
    )
    stride: int | None = option(
        None,
        "Look for virus-like regions of long sequences in windows that begin this many bases apart:"
        " finer borders, more time. Default: chunk by chunk.",
        panel=INPUTS,
        metavar="BASES",
        min=1,
    )
    model: str | None = option(
        None,
        "500 or 300 (the published models, after `virnucpro models download`), mini (part of the"
        " package), or a bundle directory. Default: the best one that is installed.",
        "-m",
        "--model",
        panel=MODEL,
        metavar="MODEL",
    )
    esm_model: str | None = option(
        None,
        "Use this ESM-2 instead of the model's: an id on the Hugging Face hub, or a directory.",
        panel=MODEL,
        metavar="MODEL",
    )
    dna_model: str | None = option(
        None,
        "Use this DNABERT-S instead of the model's: an id on the Hugging Face hub, or a directory.",
        panel=MODEL,
        metavar="MODEL",
    )
    classifier: str | None = option(
        None,
        "Use this classifier instead of the model's: .safetensors, or the original program's .pth.",
        panel=MODEL,
        metavar="FILE",
    )
    chunk_length: int | None = option(
        None,
        "Cut sequences into chunks of this length. Default: what the model was trained with.",
        panel=MODEL,
        metavar="BASES",
        min=SHORTEST_CHUNK,
    )
    gpus: str | None = option(
        None,
        "The GPUs to use: all, none, or numbers such as 0,2. Default: all.",
        panel=DEVICES,
        metavar="GPUS",
    )
    num_processes: int | None = option(
        None,
        "How many processes to start where no GPU is used. Default: 1.",
        panel=DEVICES,
        metavar="N",
        max=MOST_PROCESSES,
    )
    threads: int | None = option(
        None,
        "CPU threads of each process. Default: OMP_NUM_THREADS, else all cores it may use.",
        panel=DEVICES,
        metavar="N",
        min=1,
        max=MOST_PROCESSES,
    )
    precision: Precision = option(
        "auto",
        "Number format of the models: auto (bf16 or fp16 where the device computes it natively,"
        " else fp32), bf16, fp16, fp32, or int8 (Hopper GPUs).",
        panel=DEVICES,
        metavar="FORMAT",
    )
    batch_size: int | None = option(
        None,
        "How many tokens (residues, or short words of bases) are computed at once. Give less, such"
        " as 4096, when memory is short. Default: by device.",
        panel=DEVICES,
        metavar="TOKENS",
        min=1,
        max=MOST_TOKENS,
    )
    compile: Compile = option(
        "auto", "The program's own, faster model code; off: plain PyTorch.", panel=DEVICES
    )
    effort: Effort = option(
        FULL,
        "Chunks of long sequences to score: all (full), or as many as the call needs (balanced:"
        " at most 1 % of the calls differ; quick: 5 %).",
        panel=DEVICES,
    )
    screen: Screen | None = option(
        None,
        "Let mini look at everything first; the model then embeds only what could be viral, the"
        " rest is called by mini.",
        panel=DEVICES,
    )
    resume: bool = option(
        False,
        "Continue the unfinished run in the output directory, as the same command does by itself,"
        " and import finished work of the original program from there.",
        "--resume",
        panel=RUN,
    )
    force: bool = option(
        False,
        "Remove results and unfinished work of the output directory first.",
        "--force",
        panel=RUN,
    )
    checkpoint_dir: Path | str | None = option(
        None,
        "Keep unfinished work here and not in the output directory, so that a retry with another"
        " output directory continues it.",
        panel=RUN,
        metavar="DIR",
    )
    cache_dir: Path | str | None = option(
        None,
        "Keep prepared sequences here, for later runs on the same input. Default: VIRNUCPRO_CACHE,"
        " else the cache of Hugging Face datasets.",
        panel=RUN,
        metavar="DIR",
    )
    no_cache: bool = option(
        False,
        "Leave nothing in the cache: prepared sequences stay in the output directory, and go when"
        " the run ends.",
        "--no-cache",
        panel=RUN,
    )
    shard: str | None = option(
        None,
        "For array jobs: compute the i-th of n shares of the sequences; `virnucpro merge` joins"
        " them.",
        panel=RUN,
        metavar="i/n",
    )
    partial_ok: bool = option(
        False, "Exit with 0 instead of 2 when some inputs failed.", "--partial-ok", panel=RUN
    )
    min_score: float | None = option(
        None,
        "Call a sequence virus from this score on, between 0 and 1. Default: 0.5, or the model's"
        " points at which 1 % of cellular sequences are called so (mini).",
        panel=CALLS,
        metavar="SCORE",
    )
    conservative: bool = option(
        False,
        "Fewer false positives, fewer viruses: virus from 0.8 on, or, by models with measured"
        " points (mini), where 0.1 % of cellular sequences are called so.",
        "--conservative",
        panel=CALLS,
    )
    relaxed: bool = option(
        False,
        "More viruses, more false positives: virus from 0.3 on, or, by models with measured points,"
        " where 5 % of cellular sequences are called so.",
        "--relaxed",
        panel=CALLS,
    )
    max_fdr: float | None = option(
        None,
        "Call as many sequences of each input virus as keep the expected share of false calls (fdr)"
        " at this, such as 0.05.",
        panel=CALLS,
        metavar="SHARE",
    )
    false_positives: FalsePositives | None = option(
        None,
        "Call virus from the value that this share of cellular sequences reaches, as measured on"
        " groups that were not trained on. For mini with its protein search.",
        panel=CALLS,
    )
    allow_short: bool = option(
        False,
        "Also call sequences shorter than half the model's chunk length: many false positives.",
        "--allow-short",
        panel=CALLS,
    )
    prevalence: float | None = option(
        None,
        "The share of viral sequences that you expect, such as 0.05. Probabilities, and fdr (the"
        " expected share of false calls), are computed for it.",
        panel=CALLS,
        metavar="SHARE",
    )
    reference: str | None = option(
        None,
        "Search known proteins too: shipped (those of the package), none, or a directory of"
        " `virnucpro reference build`. Default: shipped where the model weighs them (mini, whose"
        " runs take about a fifth longer by it), else none.",
        panel=CALLS,
        metavar="DIR",
    )
    call_by: CallBy | None = option(
        None,
        "What decides: the model alone, or model and protein search. Default: both where the model"
        " weighs the search.",
        panel=CALLS,
    )
    quiet: bool = option(False, "Show no progress and no summary.", "-q", "--quiet", panel=RUN)
    verbose: bool = option(
        False,
        "Log everything, GPU memory every 10 seconds, and tracebacks of errors.",
        "-v",
        "--verbose",
        panel=RUN,
    )

    def __post_init__(self) -> None:
        check_words(self)
        for one in fields(self):
            value, meaning = getattr(self, one.name), one.metadata["option"]
            if value is None:
                continue
            if meaning.min is not None and value < meaning.min:
                raise UsageError(f"{flag(one.name)} {value}: give {meaning.min} or more")
            if meaning.max is not None and value > meaning.max:
                raise UsageError(f"{flag(one.name)} {value}: give {meaning.max:,} or less")
        if self.resume and self.force:
            raise UsageError("--resume continues and --force starts over; give one of them")
        if self.no_cache and self.cache_dir is not None:
            raise UsageError("--no-cache and --cache-dir exclude each other; give one of them")
        self._check_left_out()
        if self.shard is not None:
            parse_shard(self.shard)
        self.call_settings()

    def _check_left_out(self) -> None:
        """Raise UsageError where what is asked for needs chunks that are not embedded."""
        saving = f"--effort {self.effort}" if self.effort != FULL else f"--screen {self.screen}"
        if self.effort == FULL and self.screen is None:
            return
        if self.stride is not None:
            raise UsageError(
                f"--stride searches all of a sequence and {saving} leaves some of it out; give one"
                " of them"
            )
        if self.max_fdr is not None:
            raise UsageError(
                f"--max-fdr compares all sequences and {saving} looks at each only until its own"
                " call is clear; give one of them"
            )
        if self.screen is not None and self.shard is not None:
            raise UsageError("--screen cannot be divided into shards yet; give --effort instead")

    def arguments(self) -> list[str]:
        """The command line that says the same, less what is as usual."""
        said: list[str] = []
        for one in fields(self):
            value = getattr(self, one.name)
            if value is True:
                said.append(flag(one.name))
            elif value is not None and value is not False and value != one.default:
                said.append(f"{flag(one.name)}={value}")
        return said

    def call_settings(self) -> CallSettings:
        """The part that decides calls and tables."""
        points = call_points(
            *(self.min_score, self.conservative, self.relaxed, self.max_fdr, self.false_positives)
        )
        return CallSettings(
            points,
            self.allow_short,
            self.prevalence,
            self.table_format,
            self.reference,
            self.call_by,
        )

    def settings(self, inputs: tuple[InputFile, ...], output_dir: Path) -> PredictSettings:
        """All that a run needs, for these inputs."""
        return PredictSettings(
            inputs=inputs,
            output_dir=output_dir,
            model=ModelSettings(
                self.model, self.esm_model, self.dna_model, self.classifier, self.chunk_length
            ),
            precision=self.precision,
            batch_tokens=self.batch_size,
            compile=self.compile,
            effort=self.effort,
            screen=self.screen,
            features=self.features,
            min_length=self.min_length,
            stride=self.stride or 0,
            call=self.call_settings(),
            resume=self.resume,
            force=self.force,
            checkpoint_dir=_path(self.checkpoint_dir),
            cache_dir=_path(self.cache_dir),
            partial_ok=self.partial_ok,
            no_cache=self.no_cache,
            shard=self.shard or "",
        )


def parse_shard(word: str) -> tuple[int, int]:
    """(i, n) of `i/n`, one of n shards, counted from 1. Errors: UsageError."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", word)
    number, of = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= of <= MOST_SHARDS:
        raise UsageError(
            f"--shard {word}: give i/n, the i-th of n shards, such as 1/8 (at most {MOST_SHARDS:,})"
        )
    return number, of


def call_points(
    min_score: float | None,
    conservative: bool,
    relaxed: bool,
    max_fdr: float | None = None,
    false_positives: str | None = None,
) -> CallPoints:
    """The points of `--min-score`, `--conservative`, `--relaxed`, `--max-fdr` and
    `--false-positives`, of which at most one may be given.
    """
    given = (min_score is not None, conservative, relaxed, max_fdr is not None, false_positives)
    if sum(map(bool, given)) > 1:
        raise UsageError(
            "--min-score, --conservative, --relaxed, --max-fdr and --false-positives exclude each"
            " other; give one of them"
        )
    name = "conservative" if conservative else "relaxed" if relaxed else "default"
    virus = PRESETS[name] if min_score is None else min_score
    preset = name if min_score is None and max_fdr is None else None
    return CallPoints(virus, min(virus, RELAXED), max_fdr, false_positives, preset)


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)
