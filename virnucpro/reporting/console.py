"""What a run says when it has ended: the calls, the best hits, what has no call and why, and where
the files are. Read from the files of the run, so that a finished run is shown as a new one.
"""

from __future__ import annotations

import logging
import shlex
from itertools import islice

from rich.console import Console
from rich.table import Table
from rich.text import Text

from virnucpro.calling.answers import FULL_MODEL, SMALL_MODEL, model_label
from virnucpro.calling.columns import CALL_WORDS
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.reasons import reasons, sequences_of, short_sequences
from virnucpro.reporting.record import RunRecord, read_record
from virnucpro.reporting.result import Result

log = logging.getLogger(__name__)

TOP = 10  # hits shown
NA = "NA"
KNOWN_WIDTH = 18  # characters of a family or virus
NUMBERS_WIDTH = 40  # of the columns with numbers
CALLS = ("virus", "ambiguous", "non-virus", "too_short", "not_scored")
CALL_STYLES = {"virus": "bold cyan", "ambiguous": "yellow", "too_short": "dim", "not_scored": "dim"}
assert set(CALLS) == set(CALL_WORDS)


def show_result(result: Result, quiet: bool = False, console: Console | None = None) -> None:
    """Print the summary of a finished run, and log what failed; quiet prints nothing."""
    outputs = result.outputs
    record = None if quiet else read_record(outputs.run_json)
    if record is not None:
        show_summary(outputs, record, console or Console(highlight=False))
    if result.failures:
        first, more = result.failures[0], len(result.failures) - 1
        log.warning(
            "failed: %s: %s%s; see %s",
            first.path,
            first.reason,
            f" ({more} more)" if more else "",
            outputs.failed_files,
        )


def show_summary(outputs: Outputs, record: RunRecord, console: Console) -> None:
    """Print the calls in one line, the best hits, what has no call, the files, and what next."""
    number = record.counts
    title = Text(sequences_of(number.get("sequences", 0)), "bold")
    title.append(f", model {model_label(record.model.name)}", "dim")
    calls = Text()
    for word in CALLS:
        n = number.get(word.replace("-", "_"), 0)
        calls.append(f"{n:,} {word}", CALL_STYLES.get(word, "") if n else "dim")
        calls.append("  ")
    console.print()
    console.print(title)
    console.print(calls, soft_wrap=True)
    for line in _remarks(record):
        console.print(Text(line))
    if number.get("virus"):
        console.print()
        console.print(_hits(outputs, record, console.width))
    console.print()
    console.print(Text(f"Results in {outputs.directory}:"), soft_wrap=True)
    console.print(_files(outputs, record))
    console.print()
    for line in _next(outputs, record):
        console.print(Text(line), soft_wrap=True)  # a path that is cut in two cannot be copied


def _remarks(record: RunRecord) -> list[str]:
    """What the counts of calls do not say: regions, failures, and why there is no call."""
    number, lines = record.counts, []
    regions, others = number.get("regions_not_virus", 0), number.get("sequences_with_regions", 0)
    if regions:
        plural = "" if regions == 1 else "s"
        lines.append(
            f"{regions:,} virus-like region{plural} in {sequences_of(others)} not called virus"
        )
    if number.get("too_short"):
        lines.append(short_sequences(number["too_short"], record.model.chunk_length))
    found = reasons(number)
    if found:
        lines.append("not_scored: " + ", ".join(f"{n:,} {phrase}" for phrase, n in found))
    if record.failures:
        lines.append(f"{len(record.failures):,} failed, listed in failed_files.txt")
    return lines


def _hits(outputs: Outputs, record: RunRecord, width: int) -> Table:
    """The best hits in `width` columns; names are data, so they are Text and never markup."""
    score = "virus_probability" if record.calibrated else "virus_score"
    with open(outputs.virus_summary, encoding="utf-8") as lines:
        columns = next(lines).rstrip("\n").split("\t")
        rows = [
            dict(zip(columns, line.rstrip("\n").split("\t"), strict=True))
            for line in islice(lines, TOP)
        ]
    searched = any(row.get("closest_virus", NA) != NA for row in rows)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    taken = NUMBERS_WIDTH + (KNOWN_WIDTH + 2 if searched else 0)
    whole = min(40, max(width - taken, 20))
    table.add_column("virus, best first", overflow="ellipsis", no_wrap=True, max_width=whole)
    for heading in ("length", score.removeprefix("virus_"), "scored"):
        table.add_column(heading, justify="right", no_wrap=True)
    if searched:
        table.add_column("closest known", overflow="ellipsis", no_wrap=True, max_width=KNOWN_WIDTH)
    for row in rows:
        family = row.get("closest_family", NA)
        known = [Text(row["closest_virus"] if family == NA else family)] if searched else []
        scored = f"{row['n_scored']} of {row['n_chunks']}"
        length = f"{int(row['length']):,}"
        table.add_row(Text(row["seq_name"]), length, row[score], scored, *known)
    if record.counts["virus"] > TOP:
        table.add_row(Text(f"and {record.counts['virus'] - TOP:,} more", "dim"))
    return table


def _files(outputs: Outputs, record: RunRecord) -> Table:
    wanted = [outputs.contigs]
    wanted += [outputs.virus_summary, outputs.virus_fasta] if record.counts.get("virus") else []
    wanted += [outputs.regions] if record.counts.get("regions") else []
    wanted += [outputs.failed_files] if record.failures else []
    phrases = dict(outputs.tree())
    table = Table.grid(padding=(0, 2, 0, 0))
    for path in wanted:
        if path.exists():
            table.add_row(Text(f"  {path.name}"), Text(phrases[path.name], "dim"))
    return table


def _next(outputs: Outputs, record: RunRecord) -> list[str]:
    """The report to open, and the commands that a user may want to give now."""
    directory = shlex.quote(str(outputs.directory))
    lines = [
        f"Open in a browser: {outputs.report.absolute()}",
        f"Other thresholds:  virnucpro summarize {directory} --min-score 0.7",
    ]
    if record.model.name == SMALL_MODEL:
        lines.append(f"The full model:    virnucpro models download {FULL_MODEL}")
    return lines
