"""`models`, `doctor` and `citation`: what is installed, whether it is right, and what to cite."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from virnucpro.commands.console import console_logging

models = typer.Typer(help="List, download, import and verify models.")


@models.command("list")
def models_list() -> None:
    """What is installed, and where."""
    from virnucpro.models.library import list_models

    rows = [("model", "state", "chunk", "where", "what")]
    rows += [
        (row.name, row.state, str(row.chunk_length), row.where, row.what) for row in list_models()
    ]
    _print_columns(rows)


@models.command("download")
def models_download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="500 or 300.", show_default=False)],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Default: VIRNUCPRO_HOME, or ~/.cache/virnucpro."),
    ] = None,
) -> None:
    """Fetch a published model, checked and converted once (11.8 GB to download and to keep; 20 GB
    of disk in between). Continues where it was interrupted, and mends damaged files.
    """
    from virnucpro.models.library import download

    console_logging(False, False, True)
    print(download(name, to, _say))


@models.command("import")
def models_import(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            show_default=False,
            help="The original's .pth, a .safetensors, or an encoder's directory.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Of a classifier of your own; default: the file's.")
    ] = None,
) -> None:
    """Take a model that was brought by other means; nothing in it is executed."""
    from virnucpro.models.importing import import_model

    print(import_model(path, name, _say))


@models.command("verify")
def models_verify(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="500, 300, or any installed bundle.", show_default=False
        ),
    ],
) -> None:
    """Compare an installed model with the published figures on this machine, in every precision it
    has.
    """
    from virnucpro.tools.figures import PASSED, WRONG
    from virnucpro.tools.verify import verify_model

    found = verify_model(name, _say)
    for line in (*found.wrong_files, *(comparison.line() for comparison in found.comparisons)):
        print(line)
    if found.verdict != PASSED:
        print(f"{name}: {'not passed' if found.verdict == WRONG else 'a near miss'};", end=" ")
        print(found.advice(name))
        raise typer.Exit(1)
    if not found.comparisons:
        print(f"{name}: its files are whole; no figures of it were published to compare with")
    elif found.record is not None:
        print(f"{name}: passed, kept in {found.record}")
    else:
        print(f"{name}: passed; later runs will not know of it: {found.not_kept}")


def doctor(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Where results would go.", show_default=False),
    ] = None,
) -> None:
    """Look this machine over. A verdict a line, and a fix where one is needed."""
    from virnucpro.tools.doctor import PROBLEM, check_all, worst

    checks = check_all(directory)
    for check in checks:
        print(
            f"{check.verdict:8} {check.name:12} {check.found}"
            + (f" -> {check.fix}" if check.fix else "")
        )
    raise typer.Exit(1 if worst(checks) == PROBLEM else 0)


def citation(bibtex: Annotated[bool, typer.Option("--bibtex", help="As BibTeX.")] = False) -> None:
    """What to cite."""
    from virnucpro.tools import citation as works

    print(works.bibtex() if bibtex else works.text())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
