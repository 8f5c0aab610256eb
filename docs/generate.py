"""Fill the parts of the pages that are made from the code.

    python docs/generate.py [--check]

A part lies between `<!-- made from NAME -->` and `<!-- end -->`; NAME is a key of `PARTS`. With
--check nothing is written, and pages that would change are named with exit status 1.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from typer.models import ArgumentInfo

from virnucpro import cli
from virnucpro.options import flag
from virnucpro.reporting.columns import TABLES
from virnucpro.reporting.outputs import FILES
from virnucpro.reporting.values import Table

DOCS = Path(__file__).parent
PART = re.compile(r"(<!-- made from (.+?) -->\n).*?(<!-- end -->)", re.S)


def columns(table: Table) -> str:
    """The glossary of a table."""
    lines = [f"- `{column.name}`: {column.description}" for column in table.columns]
    return "\n" + "\n".join(_wrapped(line, "  ") for line in lines) + "\n\n"


def files() -> str:
    """The files of an output directory."""
    rows = [f"| `{file.name.format(table='tsv')}` | {file.phrase} |" for file in FILES.values()]
    return "\n".join(["| file | content |", "|---|---|", *rows]) + "\n"


def options() -> str:
    """Every command with its arguments and options, in the words of its help."""
    return "\n" + "\n".join(_commands(cli.app, ("virnucpro",)))


def _commands(app: typer.Typer, words: tuple[str, ...]) -> Iterator[str]:
    for one in app.registered_commands:
        name = one.name or one.callback.__name__
        said = (one.help or one.callback.__doc__ or "").partition("\b")[0]
        yield f"## {' '.join((*words, name))}\n\n{_wrapped(_plain(said))}\n"
        yield from _parameters(one.callback)
    for group in app.registered_groups:
        yield from _commands(group.typer_instance, (*words, group.name))


def _parameters(callback: Callable[..., None]) -> Iterator[str]:
    """A list for each panel of the command's help."""
    panels: dict[str, list[str]] = {}
    for one in inspect.signature(callback, eval_str=True).parameters.values():
        kind, info = get_args(one.annotation)
        if info.help and not info.hidden:
            panels.setdefault(info.rich_help_panel or "", []).append(_entry(one, kind, info))
    for panel, lines in panels.items():
        yield (f"**{panel}**\n\n" if panel else "") + "\n".join(lines) + "\n"


def _entry(one: inspect.Parameter, kind: Any, info: Any) -> str:
    """The line of an option. info: typer's OptionInfo or ArgumentInfo."""
    if isinstance(info, ArgumentInfo):
        shown = f"`{info.metavar}`"
    else:
        # of `Option("-o", "--output-dir")` typer takes the first word for a default
        names = [info.default] if isinstance(info.default, str) else []
        names += info.param_decls or ([] if names else [flag(one.name)])
        shown = ", ".join(f"`{name}`" for name in names)
        known = [k for k in (kind, *get_args(kind)) if get_origin(k) is Literal]
        shown += f" {' / '.join(get_args(known[0])) if known else info.metavar or ''}".rstrip()
    default = one.default
    usual = default not in (None, False, "", inspect.Parameter.empty) and default is not True
    more = f" Default: `{default}`." if usual and "Default" not in info.help else ""
    return _wrapped(f"- {shown}: {_plain(info.help)}{more}", "  ")


def _plain(text: str) -> str:
    return " ".join(text.split())


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, 116, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def by_length(name: str) -> str:
    """The figures of a plot by length, with their intervals."""
    data = json.loads((DOCS / "pictures" / f"{name}.json").read_text())
    rows = [f"| length | {' | '.join(data['series'])} |", "|---|" + "---:|" * len(data["series"])]
    for number, length in enumerate(data["lengths"]):
        points = [points[number] for points in data["series"].values()]
        rows.append(f"| {length:,} | {' | '.join(_with_interval(*point) for point in points)} |")
    return "\n".join(rows) + "\n"


def by_class(name: str) -> str:
    """The counts of a plot by class."""
    data = json.loads((DOCS / "pictures" / f"{name}.json").read_text())
    rows = [f"| class | {' | '.join(data['series'])} |", "|---|" + "---:|" * len(data["series"])]
    for number, group in enumerate(data["classes"]):
        counts = [counts[number] for counts in data["series"].values()]
        rows.append(f"| {group} | {' | '.join(f'{n} of {of}' for n, of in counts)} |")
    return "\n".join(rows) + "\n"


def _with_interval(value: float, low: float | None, high: float | None, digits: int = 3) -> str:
    interval = "" if low is None else f" ({low:.{digits}f}-{high:.{digits}f})"
    return f"{value:.{digits}f}{interval}"


PARTS: dict[str, Callable[[], str]] = {
    "the files": files,
    "the options of all commands": options,
    "the figures of accuracy": lambda: by_length("accuracy"),
    "the figures of calibration": lambda: by_length("calibration"),
    "the false positives by class": lambda: by_class("false_positives"),
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
        path for path in sorted(DOCS.rglob("*.md")) if filled(path.read_text()) != path.read_text()
    ]
    for path in stale:
        if "--check" in sys.argv[1:]:
            print(f"{path.relative_to(DOCS)}: not what the code says; run: python docs/generate.py")
        else:
            path.write_text(filled(path.read_text()))
    return int(bool(stale) and "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
