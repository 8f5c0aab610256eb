"""`summarize`: calls again from stored features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from virnucpro.commands.console import console_logging, show
from virnucpro.commands.options import (
    AllowShort,
    CacheDir,
    Conservative,
    Format,
    MinScore,
    Prevalence,
    Quiet,
    Relaxed,
    TableFormat,
    Verbose,
)


def summarize(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Output directory of a finished predict.", show_default=False
        ),
    ],
    classifier: Annotated[
        Path | None, typer.Option("--classifier", help="Another classifier: .safetensors or .pth.")
    ] = None,
    min_score: MinScore = None,
    conservative: Conservative = False,
    relaxed: Relaxed = False,
    allow_short: AllowShort = False,
    prevalence: Prevalence = None,
    table_format: Format = TableFormat.tsv,
    cache_dir: CacheDir = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Call again from stored features.

    Other thresholds, another classifier; nothing is embedded again.
    """
    from virnucpro import api

    console_logging(verbose, quiet, True)
    result = api.summarize(
        directory,
        classifier,
        min_score=min_score,
        conservative=conservative,
        relaxed=relaxed,
        allow_short=allow_short,
        prevalence=prevalence,
        table_format=table_format.value,
        cache_dir=cache_dir,
    )
    show(result, quiet)
    raise typer.Exit(result.exit_code)
