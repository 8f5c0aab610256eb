"""`models`, `doctor` and `citation`: what is installed, whether it is right, and what to cite."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from virnucpro.commands.console import console_logging


def run_list() -> int:
    from virnucpro.models.published import list_models

    rows = [("model", "state", "chunk", "where", "what")]
    rows += [(row.name, row.state, str(row.chunk_length), row.where, row.what) for row in list_models()]
    _print_columns(rows)
    return 0


def run_download(name: str, to: Path | None) -> int:
    from virnucpro.models.published import download

    console_logging(False, False, True)
    print(download(name, to, _say))
    return 0


def run_import(path: Path, name: str | None) -> int:
    from virnucpro.models.published import import_model

    print(import_model(path, name, _say))
    return 0


def run_verify(name: str) -> int:
    """0 when the model gives the published figures, 1 when it does not."""
    from virnucpro.models.verify import verify_model

    verification = verify_model(name, _say)
    for line in (*verification.wrong_files, *(comparison.line() for comparison in verification.comparisons)):
        print(line)
    if not verification.passed:
        print(f"{name}: not passed")
    elif verification.record is None:
        print(f"{name}: its files are whole; no figures of it were published to compare with")
    else:
        print(f"{name}: passed, signed off in {verification.record}")
    return 0 if verification.passed else 1


def run_doctor(directory: Path | None) -> int:
    """1 when something keeps VirNucPro from working."""
    from virnucpro.doctor import PROBLEM, check_all, worst

    checks = check_all(directory)
    for check in checks:
        print(f"{check.verdict:8} {check.name:12} {check.found}" + (f" -> {check.fix}" if check.fix else ""))
    return 1 if worst(checks) == PROBLEM else 0


def run_citation(as_bibtex: bool) -> int:
    from virnucpro import citation

    print(citation.bibtex() if as_bibtex else citation.text())
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
