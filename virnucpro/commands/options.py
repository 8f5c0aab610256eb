"""Options that several commands share, and how a tuple of words becomes the values of an option."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from virnucpro.settings import COMPILE, PRECISIONS, TABLE_FORMATS

INPUTS, MODEL, DEVICES, RUN, CALLS = (
    "Input and output",
    "Model",
    "Devices and speed",
    "The run",
    "Calls",
)


def one_of(name: str, words: Iterable[str]) -> type[Enum]:
    """What typer needs in order to check, list and complete the words of an option; each member's
    `value` is its word.
    """
    return Enum(name, {word: word for word in words}, type=str)


Precision = one_of("Precision", PRECISIONS)
Compile = one_of("Compile", COMPILE)
TableFormat = one_of("TableFormat", TABLE_FORMATS)

MinScore = Annotated[
    float | None,
    typer.Option(
        "--min-score",
        help="Score at or over which a sequence is virus (0.5).",
        rich_help_panel=CALLS,
    ),
]
Conservative = Annotated[
    bool,
    typer.Option("--conservative", help="Virus from 0.8: fewer, surer.", rich_help_panel=CALLS),
]
Relaxed = Annotated[
    bool, typer.Option("--relaxed", help="Virus from 0.3: more, less sure.", rich_help_panel=CALLS)
]
AllowShort = Annotated[
    bool,
    typer.Option(
        "--allow-short",
        help="Call sequences shorter than half the model's length too.",
        rich_help_panel=CALLS,
    ),
]
Prevalence = Annotated[
    float | None,
    typer.Option(
        "--prevalence",
        help="Share of viral sequences you expect: moves probabilities and FDR.",
        rich_help_panel=CALLS,
    ),
]
Format = Annotated[
    TableFormat,
    typer.Option("--table-format", help="Of contigs, chunks and frames.", rich_help_panel=INPUTS),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        help="Where tokenized frames are cached (HF_DATASETS_CACHE).",
        rich_help_panel=RUN,
    ),
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="No progress display.", rich_help_panel=RUN)
]
Verbose = Annotated[
    bool,
    typer.Option(
        "-v", "--verbose", help="Debug log, GPU memory every 10 s, tracebacks.", rich_help_panel=RUN
    ),
]
