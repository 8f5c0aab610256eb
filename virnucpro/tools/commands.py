"""The commands `reference`, `models`, `cache`, `doctor`, `citation` and `benchmark`; everything
heavy is imported when called.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from virnucpro.errors import UsageError, escaped
from virnucpro.options import check_words, command, option
from virnucpro.reporting.log import console_logging
from virnucpro.settings import Compile, Precision

reference = typer.Typer(help="Known proteins that sequences are searched against.")


@reference.command("build")
def _reference_build(
    proteins: Annotated[
        Path, typer.Argument(metavar="FASTA", help="Proteins; may be gzipped.", show_default=False)
    ],
    labels: Annotated[
        Path,
        typer.Option(
            "--labels",
            metavar="TABLE",
            help="Table with tabs: the columns protein and label; also name, family, group.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="DIR", help="The new reference.", show_default=False
        ),
    ],
) -> None:
    """Make a reference for `predict --reference DIR` of your own proteins."""
    from virnucpro.homology.build import build_from_files

    print(f"{output}: {build_from_files(proteins, labels, output)} proteins")


models = typer.Typer(help="List, download, import and verify models.")


@models.command("list")
def models_list() -> None:
    """List the models that are installed, and where."""
    from virnucpro.models.library import list_models

    rows = [("model", "state", "chunk", "where", "what")]
    rows += [
        (row.name, row.state, str(row.chunk_length or "-"), row.where, row.what)
        for row in list_models()
    ]
    _print_columns(rows)


@models.command("download")
def models_download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="500 or 300.", show_default=False)],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="DIR",
            help="Where the models are kept. Default: VIRNUCPRO_HOME, else ~/.cache/virnucpro.",
        ),
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
            help="A classifier (.safetensors or .pth), or an encoder's directory.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="Name for a classifier of your own. Default: that of the file."
        ),
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


cache = typer.Typer(help="List and clear the cache of tokenized frames.")
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        metavar="DIR",
        help="The cache. Default: that of predict.",
        show_default=False,
    ),
]


@cache.command("list")
def cache_list(cache_dir: CacheOption = None) -> None:
    """List what runs have left in the cache, the longest unused first."""
    from virnucpro.sequences.cache import cached_tables
    from virnucpro.sequences.table_cache import cache_root, user_place

    place = user_place(cache_root(cache_dir))
    tables = cached_tables(place)
    rows = [("table", "size", "frames", "last used", "inputs")]
    for table in tables:
        inputs = table.inputs[0] if table.inputs else "not whole"
        more = f" and {len(table.inputs) - 1} more" if len(table.inputs) > 1 else ""
        size, name = f"{table.size / 1e6:,.1f} MB", table.directory.name[:12]
        rows.append((name, size, f"{table.frames:,}", f"{table.days:.1f} d ago", inputs + more))
    _print_columns(rows)
    print(f"{len(tables)} tables, {sum(t.size for t in tables) / 1e6:,.1f} MB in {place}")


@cache.command("clear")
def cache_clear(
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            help="Only what was not used for 30m, 12h, 7d ...",
            show_default=False,
        ),
    ] = None,
    cache_dir: CacheOption = None,
) -> None:
    """Remove what runs have left in the cache, but nothing that a run is reading."""
    from virnucpro.sequences.cache import UNITS, cached_tables, remove_tables, seconds_of
    from virnucpro.sequences.table_cache import cache_root, user_place

    least = 0.0 if older_than is None else seconds_of(older_than) / UNITS["d"]
    tables = cached_tables(user_place(cache_root(cache_dir)))
    removed, kept = remove_tables(table for table in tables if table.days >= least)
    print(f"{len(removed)} tables removed, {sum(t.size for t in removed) / 1e6:,.1f} MB")
    if kept:
        print(f"{len(kept)} tables are in use and stay")


def doctor(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            help="Directory for results, to look at its disk. Default: the current one.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check this machine. Python, GPU, memory, disk, models; and how to mend what is wrong."""
    from virnucpro.tools.doctor import check_all, worst
    from virnucpro.tools.machine import PROBLEM

    checks = check_all(directory)
    for check in checks:
        print(
            f"{check.verdict:8} {check.name:12} {check.found}"
            + (f" -> {check.fix}" if check.fix else "")
        )
    raise typer.Exit(1 if worst(checks) == PROBLEM else 0)


def citation(
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Print BibTeX entries.")] = False,
) -> None:
    """Say what to cite."""
    from virnucpro.reporting import citation as works

    print(works.bibtex() if bibtex else works.text())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    rows = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


@dataclass(frozen=True)
class BenchmarkSettings:
    """What to measure. `frames`, `batch_tokens`: None is the device's default."""

    model_shape: Literal["3B", "650M", "mini", "tiny"] = option(
        "3B", "Random weights of this shape."
    )
    lengths: Literal["500bp", "reads", "mix"] = option(
        "500bp", "Lengths of the random sequences: 500 bases, as reads, or mixed."
    )
    precision: Precision = option(
        "auto", "Number format of the models, as for predict.", metavar="FORMAT"
    )
    compile: Compile = option("auto", "The program's own, faster model code; off: plain PyTorch.")
    against: Literal["original"] | None = option(
        None, "Run fair-esm in fp32 at 2,048 tokens a batch beside it."
    )
    frames: int | None = option(
        None, "How many sequences the whole run has. Default: by device.", metavar="N", min=1
    )
    batch_tokens: int | None = option(
        None, "Tokens in a batch.", "--batch-size", metavar="TOKENS", min=512
    )
    cpu: bool = option(False, "Measure the CPU, also where there is a GPU.", "--cpu")
    output: Path | None = option(
        None, "Write the figures as JSON too.", "-o", "--output", metavar="FILE"
    )

    def __post_init__(self) -> None:
        check_words(self)
        if self.against and find_spec("esm") is None:
            raise UsageError("--against original: needs fair-esm; run `pip install fair-esm` first")


def _benchmark(settings: BenchmarkSettings) -> None:
    """Measure this machine. Its matrix products, each encoder, and a whole run."""
    from virnucpro.tools.benchmark import closing_lines, run_benchmark, table

    output = settings.output
    # before minutes of work, not after
    if output is not None and (output.is_dir() or not os.access(output.parent, os.W_OK)):
        raise UsageError(f"--output {output}: cannot be written; choose another")
    result = run_benchmark(settings, _say)
    rows = table(result)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for name, *cells in rows:
        print(
            name.ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)),
            sep="  ",
        )
    for line in closing_lines(result):
        print(line)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")


benchmark = command(_benchmark, BenchmarkSettings)


def ro_crate(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Of a finished predict.", show_default=False),
    ],
) -> None:
    """Describe a finished run as an RO-Crate. Writes ro-crate-metadata.json into its directory."""
    from virnucpro.tools.crate import write_crate

    print(write_crate(directory))
