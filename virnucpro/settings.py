"""What a run is asked to do, as plain data, checked once.

An option is one field of `Options`: the command line, the Python interface and the table in
docs/reference/options.md are made from it. Does not know how options are parsed or carried out.
"""

from __future__ import annotations

import os
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from virnucpro.errors import UsageError

if TYPE_CHECKING:
    from virnucpro.sequences.inputs import InputFile

Precision = Literal["auto", "bf16", "fp16", "fp32", "int8"]
FeatureKind = Literal["float32", "float16", "none"]
Compile = Literal["auto", "on", "off"]
TableFormat = Literal["tsv", "tsv.gz", "parquet"]
CallBy = Literal["model", "both"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
FEATURE_KINDS: tuple[str, ...] = get_args(FeatureKind)
COMPILE: tuple[str, ...] = get_args(Compile)
TABLE_FORMATS: tuple[str, ...] = get_args(TableFormat)
STRETCHES = "stretches"  # the frame policy whose chunks have several frames of unequal weight
FRAME_POLICIES: tuple[str, ...] = ("open", "longest", STRETCHES)
SHORTEST_CHUNK, LONGEST_CHUNK = 30, 100_000  # bases

MOST_SHARDS = 100_000

RELAXED, DEFAULT, CONSERVATIVE = 0.3, 0.5, 0.8
NO_REFERENCE, SHIPPED = "none", "shipped"
REFERENCE_VARIABLE = "VIRNUCPRO_REFERENCE"  # what --reference is where it is not given


INPUTS, MODEL, DEVICES, RUN, CALLS = (
    "Input and output",
    "Model",
    "Devices and speed",
    "The run",
    "Calls",
)


@dataclass(frozen=True, slots=True)
class Option:
    """How an option stands on a command line and in its help."""

    help: str
    names: tuple[str, ...] = ()  # else it is called as its field is
    panel: str | None = None  # of the help
    metavar: str | None = None
    min: float | None = None
    max: float | None = None
    hidden: bool = False
    is_argument: bool = False  # given by its place


def option(default: Any, help: str, *names: str, **more: Any) -> Any:
    """A field that is an option. more: the other fields of `Option`."""
    return field(default=default, metadata={"option": Option(help, names, **more)})


def argument(help: str, metavar: str, default: Any = MISSING) -> Any:
    """A field that is given by its place."""
    meaning = Option(help, metavar=metavar, is_argument=True)
    return field(default=default, metadata={"option": meaning})


def words(options: type) -> dict[str, tuple[str, ...]]:
    """The words that an option may be, of those fields that are one of some words."""
    found = {}
    for name, kind in get_type_hints(options).items():
        for one in (kind, *get_args(kind)):  # the latter of `Literal[...] | None`
            if get_origin(one) is Literal:
                found[name] = get_args(one)
    return found


def check_words(options: Any) -> None:
    """Raise UsageError unless every option that is one of some words is one of these."""
    for name, known in words(type(options)).items():
        value = getattr(options, name)
        if value is not None and value not in known:
            raise UsageError(f"{flag(name)} {value}: choose one of {', '.join(known)}")


def flag(name: str) -> str:
    """The option of a field."""
    return "--" + name.replace("_", "-")


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
    ambiguous.
    """

    virus: float = DEFAULT
    relaxed: float = RELAXED

    def __post_init__(self) -> None:
        if not 0.0 <= self.virus <= 1.0:
            raise UsageError(
                f"--min-score {self.virus}: a score lies between 0 and 1; give a value in that"
                " range"
            )


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which bundle answers, and which of its parts are replaced."""

    model: str | None = None
    esm_model: str | None = None
    dna_model: str | None = None
    classifier: str | None = None
    chunk_length: int | None = None


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

    def of_model(self, weighs_evidence: bool) -> CallSettings:
        """The settings with nothing left to choose. A model that weighs evidence has the shipped
        proteins searched and its calls made by both, unless something else was said.
        """
        wanted = weighs_evidence or self.call_by == "both"
        reference = self.reference or os.environ.get(REFERENCE_VARIABLE)
        reference = reference or (SHIPPED if wanted else NO_REFERENCE)
        both = weighs_evidence and reference != NO_REFERENCE
        call_by = self.call_by or ("both" if both else "model")
        return replace(self, reference=reference, call_by=call_by)


@dataclass(frozen=True, slots=True)
class PredictSettings:
    """Everything `predict` needs, launcher apart."""

    inputs: tuple[InputFile, ...]
    output_dir: Path
    model: ModelSettings = ModelSettings()
    precision: str = "auto"
    batch_tokens: int | None = None
    compile: str = "auto"
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


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `virnucpro predict`."""

    output_dir: Path | str | None = option(
        None, "Default: {first input}_virnucpro.", "-o", "--output-dir", panel=INPUTS
    )
    samplesheet: Path | str | None = option(
        None,
        "Many samples, a directory each: a table with the columns sample, file and file2.",
        panel=INPUTS,
        metavar="TSV",
    )
    per_input: bool = option(
        False, "Every input is a sample with a directory of its own.", "--per-input", panel=INPUTS
    )
    table_format: TableFormat = option("tsv", "Of contigs, chunks and frames.", panel=INPUTS)
    features: FeatureKind = option("float32", "What merged_features.pt keeps.", panel=INPUTS)
    min_length: int = option(0, "Skip shorter sequences (they are listed).", panel=INPUTS, min=0)
    stride: int | None = option(
        None,
        "Search long sequences for regions in windows this many bases apart.",
        panel=INPUTS,
        metavar="BASES",
        min=1,
    )
    model: str | None = option(
        None,
        "500, 300, mini, or a bundle directory. Default: the best installed.",
        "-m",
        "--model",
        panel=MODEL,
    )
    esm_model: str | None = option(None, "Replace ESM-2: hub id or directory.", panel=MODEL)
    dna_model: str | None = option(None, "Replace DNABERT-S: hub id or directory.", panel=MODEL)
    classifier: str | None = option(
        None, "Replace the classifier: .safetensors or .pth.", panel=MODEL
    )
    chunk_length: int | None = option(
        None, "Default: the model's.", panel=MODEL, min=SHORTEST_CHUNK
    )
    gpus: str | None = option(None, "all, none, or numbers such as 0,2.", panel=DEVICES)
    num_processes: int | None = option(None, "Processes without GPUs.", panel=DEVICES)
    threads: int | None = option(
        None,
        "CPU threads of a process. Default: OMP_NUM_THREADS, else the cores it may use.",
        panel=DEVICES,
        min=1,
    )
    precision: Precision = option(
        "auto", f"Of the encoders: {', '.join(PRECISIONS)}.", panel=DEVICES, metavar="TYPE"
    )
    batch_size: int | None = option(
        None,
        "Tokens in a batch; lower it when memory is short.",
        panel=DEVICES,
        metavar="TOKENS",
        min=1,
    )
    compile: Compile = option("auto", "Own, faster encoder layers; off: plain ones.", panel=DEVICES)
    resume: bool = option(
        False,
        "Continue what is unfinished in the output directory, an older version's too. The default"
        " when it is the same run.",
        "--resume",
        panel=RUN,
    )
    force: bool = option(False, "Start over.", "--force", panel=RUN)
    checkpoint_dir: Path | str | None = option(
        None, "Keep unfinished work here, so that a retry elsewhere finds it.", panel=RUN
    )
    cache_dir: Path | str | None = option(
        None, "Where tokenized frames are cached (VIRNUCPRO_CACHE).", panel=RUN
    )
    no_cache: bool = option(
        False,
        "Keep tokenized frames in the output directory while the run lasts, and not after.",
        "--no-cache",
        panel=RUN,
    )
    shard: str | None = option(
        None,
        "Embed only the i-th of n shards of the sequences; virnucpro merge joins them.",
        panel=RUN,
        metavar="i/n",
    )
    partial_ok: bool = option(
        False, "Exit with 0 instead of 2 when some inputs failed.", "--partial-ok", panel=RUN
    )
    min_score: float | None = option(
        None, "Score at or over which a sequence is virus (0.5).", panel=CALLS
    )
    conservative: bool = option(
        False, "Virus from 0.8: fewer, surer.", "--conservative", panel=CALLS
    )
    relaxed: bool = option(False, "Virus from 0.3: more, less sure.", "--relaxed", panel=CALLS)
    allow_short: bool = option(
        False,
        "Call sequences shorter than half the model's length too.",
        "--allow-short",
        panel=CALLS,
    )
    prevalence: float | None = option(
        None, "Share of viral sequences you expect: moves probabilities and FDR.", panel=CALLS
    )
    reference: str | None = option(
        None,
        "Known proteins to search too: shipped, none, or a directory of `virnucpro reference"
        " build`. Default: shipped where the model weighs them (mini; takes half as long again),"
        " else none.",
        panel=CALLS,
        metavar="DIR",
    )
    call_by: CallBy | None = option(
        None,
        "What decides: the model, or both model and search. Default: both where the model weighs"
        " the search.",
        panel=CALLS,
    )
    quiet: bool = option(False, "No progress display.", "-q", "--quiet", panel=RUN)
    verbose: bool = option(
        False, "Debug log, GPU memory every 10 s, tracebacks.", "-v", "--verbose", panel=RUN
    )

    def __post_init__(self) -> None:
        check_words(self)
        for one in fields(self):
            value, least = getattr(self, one.name), one.metadata["option"].min
            if value is not None and least is not None and value < least:
                raise UsageError(f"{flag(one.name)} {value}: give {least} or more")
        if self.resume and self.force:
            raise UsageError("--resume continues and --force starts over; give one of them")
        if self.no_cache and self.cache_dir is not None:
            raise UsageError("--no-cache and --cache-dir exclude each other; give one of them")
        if self.shard is not None:
            parse_shard(self.shard)
        self.call_settings()

    def arguments(self) -> list[str]:
        """The command line that says the same, less what is as usual."""
        said: list[str] = []
        for option in fields(self):
            value = getattr(self, option.name)
            if value is True:
                said.append(flag(option.name))
            elif value is not None and value is not False and value != option.default:
                said.append(f"{flag(option.name)}={value}")
        return said

    def call_settings(self) -> CallSettings:
        """The part that decides calls and tables."""
        points = call_points(self.min_score, self.conservative, self.relaxed)
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
    number, _, of = word.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of) <= MOST_SHARDS):
        raise UsageError(
            f"--shard {word}: give i/n, the i-th of n shards, such as 1/8 (at most {MOST_SHARDS:,})"
        )
    return int(number), int(of)


def call_points(min_score: float | None, conservative: bool, relaxed: bool) -> CallPoints:
    """The points of `--min-score`, `--conservative`, `--relaxed`, of which at most one may stand
    there.
    """
    if sum((min_score is not None, conservative, relaxed)) > 1:
        raise UsageError(
            "--min-score, --conservative and --relaxed exclude each other; give one of them"
        )
    virus = (
        min_score
        if min_score is not None
        else CONSERVATIVE
        if conservative
        else RELAXED
        if relaxed
        else None
    )
    return CallPoints() if virus is None else CallPoints(virus=virus, relaxed=min(virus, RELAXED))


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)
