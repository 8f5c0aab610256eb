"""What commands say: log lines on standard error, results on standard output."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virnucpro import api


def console_logging(verbose: bool, quiet: bool, speaks: bool) -> None:
    """Send the package's log to standard error; a process that does not speak says warnings
    only.
    """
    from virnucpro.reporting.record import PrintableFormatter

    logger = logging.getLogger("virnucpro")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for old in [h for h in logger.handlers if getattr(h, "virnucpro_console", False)]:
        logger.removeHandler(old)
    handler = logging.StreamHandler(sys.stderr)
    handler.virnucpro_console = True  # type: ignore[attr-defined]
    handler.setFormatter(PrintableFormatter("%(message)s"))
    handler.setLevel(
        logging.WARNING if quiet or not speaks else logging.DEBUG if verbose else logging.INFO
    )
    logger.addHandler(handler)


def show(result: api.Result, quiet: bool) -> None:
    """The calls, the best hits and where the files are, on standard output."""
    from virnucpro.reporting.console import show_result

    show_result(result, quiet)
