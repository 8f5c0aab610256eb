"""What a run says when it has ended: the calls, the best hits, and where the files are.

`summary` makes it, `show_outcome` prints it to standard output for the command line.
"""

from __future__ import annotations

import logging

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from virnucpro.calling.answers import Answers
from virnucpro.calling.consensus import best_first
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.result import Result
from virnucpro.reporting.tables import counts

log = logging.getLogger(__name__)

TOP = 10  # hits shown
CALL_PHRASES = {
    "virus": "virus",
    "non_virus": "non-virus",
    "ambiguous": "ambiguous",
    "not_scored": "not scored",
}
CALL_STYLES = {"virus": "bold cyan", "non_virus": "", "ambiguous": "yellow", "not_scored": "dim"}


def show_result(result: Result, quiet: bool = False, console: Console | None = None) -> None:
    """Print the summary of a finished run, and log what failed; quiet prints nothing."""
    if result.answers is None:
        return
    if not quiet:
        (console or Console(highlight=False, soft_wrap=False)).print(
            summary(result.outputs, result.answers)
        )
    if result.failures:
        first, more = result.failures[0], len(result.failures) - 1
        log.warning(
            "failed: %s: %s%s; see %s",
            first.path,
            first.reason,
            f" ({more} more)" if more else "",
            result.outputs.failed_files,
        )


def summary(outputs: Outputs, answers: Answers) -> RenderableType:
    """The calls in one line, the best hits as a table, the files to open next."""
    number = counts(answers)
    calls = Text("\n")
    calls.append(
        f"{number['sequences']:,} sequence{'' if number['sequences'] == 1 else 's'}", "bold"
    )
    for key, phrase in CALL_PHRASES.items():
        calls.append("   ")
        calls.append(f"{number[key]:,} {phrase}", CALL_STYLES[key] if number[key] else "dim")
    parts: list[RenderableType] = [calls, Text(f"model {answers.model_label}", "dim")]
    if number["virus"]:
        parts += [Text(""), _hits(answers)]
    parts += [Text(""), _files(outputs, bool(number["virus"]), bool(number["regions"]))]
    return Group(*parts)


def _hits(answers: Answers) -> Table:
    """The best hits; names are data, so they are Text and never markup."""
    best = best_first(answers.sequences, answers.records)
    calibrated = bool(np.isfinite(answers.sequences.virus_probability).any())
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("virus, best first", overflow="ellipsis", no_wrap=True, max_width=44)
    for heading in ("length", "probability" if calibrated else "score", "scored chunks"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in best[:TOP].tolist():
        table.add_row(
            Text(answers.names[row].as_py()),
            f"{answers.records.length[row]:,}",
            f"{answers.sequences.deciding_score[row]:.4f}",
            f"{answers.sequences.n_scored[row]} of {answers.records.n_chunks[row]}",
        )
    if len(best) > TOP:
        table.add_row(Text(f"and {len(best) - TOP:,} more", "dim"))
    return table


def _files(outputs: Outputs, any_virus: bool, any_region: bool) -> Table:
    wanted = ["report.html", outputs.contigs.name]
    wanted += ["virus_summary.tsv", "virus.fna"] if any_virus else []
    wanted += ["regions.tsv"] if any_region else []
    phrases = dict(outputs.tree())
    table = Table.grid(padding=(0, 2, 0, 0))
    for name in wanted:
        if (outputs.directory / name).exists():
            table.add_row(
                Text(str(outputs.directory / name), overflow="fold"), Text(phrases[name], "dim")
            )
    return table
