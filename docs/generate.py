"""Fill the parts of the pages that are made from the code.

    python docs/generate.py [--check]

A part lies between `<!-- made from NAME -->` and `<!-- end -->`; NAME is a key of `PARTS`. With
--check nothing is written, and pages that would change are named with exit status 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from virnucpro.reporting.columns import TABLES
from virnucpro.reporting.outputs import FILES
from virnucpro.reporting.values import Table
from virnucpro.settings import CALLS, DEVICES, INPUTS, MODEL, RUN, Options, flag, words

DOCS = Path(__file__).parent
PART = re.compile(r"(<!-- made from (.+?) -->\n).*?(<!-- end -->)", re.S)


def columns(table: Table) -> str:
    """The glossary of a table."""
    rows = [f"| `{column.name}` | {column.description} |" for column in table.columns]
    return "\n".join(["| column | meaning |", "|---|---|", *rows]) + "\n"


def files() -> str:
    """The files of an output directory."""
    rows = [f"| `{file.name.format(table='tsv')}` | {file.phrase} |" for file in FILES.values()]
    return "\n".join(["| file | content |", "|---|---|", *rows]) + "\n"


def options() -> str:
    """The options of `predict`, by the panels of its help."""
    rows = []
    panels: dict[str, list[str]] = {panel: [] for panel in (INPUTS, MODEL, DEVICES, RUN, CALLS)}
    known = words(Options)
    for one in fields(Options):
        meaning = one.metadata["option"]
        names = ", ".join(f"`{name}`" for name in meaning.names or [flag(one.name)])
        names += " " + " / ".join(known.get(one.name, [meaning.metavar or ""]))
        default = "" if one.default is None or one.default is False else f"`{one.default}`"
        panels[meaning.panel].append(f"| {names.strip()} | {default} | {meaning.help} |")
    for panel, lines in panels.items():
        rows += [f"| **{panel}** | | |", *lines]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *rows]) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "the files": files,
    "the options of predict": options,
} | {
    f"the columns of {table.name}": lambda table=table: columns(table)
    for table in TABLES
    if table.name != "virus_summary"
}


def filled(text: str) -> str:
    """The page with every part made anew. Raises KeyError for a part nobody makes."""
    return PART.sub(lambda found: found[1] + PARTS[found[2]]() + found[3], text)


def main() -> int:
    """Write or check all pages."""
    stale = [
        path for path in sorted(DOCS.glob("*.md")) if filled(path.read_text()) != path.read_text()
    ]
    for path in stale:
        if "--check" in sys.argv[1:]:
            print(f"{path.name}: not what the code says; run: python docs/generate.py")
        else:
            path.write_text(filled(path.read_text()))
    return int(bool(stale) and "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
