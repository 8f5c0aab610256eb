"""What a run is asked to do: the settings of `predict` as plain data, checked once.

Knows the options and their limits (SPEC: command line); does not know how they are parsed or
carried out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.errors import UsageError

if TYPE_CHECKING:
    from virnucpro.sequences.inputs import InputFile

PRECISIONS: tuple[str, ...] = ("auto", "bf16", "fp16", "fp32", "int8")
FEATURE_KINDS: tuple[str, ...] = ("float32", "float16", "none")
COMPILE: tuple[str, ...] = ("auto", "on", "off")
TABLE_FORMATS: tuple[str, ...] = ("tsv", "parquet")
STRETCHES = "stretches"  # the frame policy whose chunks have several frames of unequal weight
FRAME_POLICIES: tuple[str, ...] = ("open", "longest", STRETCHES)
SHORTEST_CHUNK, LONGEST_CHUNK = 30, 100_000  # bases

RELAXED, DEFAULT, CONSERVATIVE = 0.3, 0.5, 0.8


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

    def __post_init__(self) -> None:
        if self.prevalence is not None and not 0.0 < self.prevalence < 1.0:
            raise UsageError(
                f"--prevalence {self.prevalence}: the expected share of viral sequences lies"
                " between 0 and 1"
            )


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
