"""The messages of a run: on the terminal, and in `run.log`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from virnucpro.errors import escaped
from virnucpro.files import explained, open_own
from virnucpro.reporting.outputs import Outputs


class PrintableFormatter(logging.Formatter):
    """Messages with whatever cannot be printed escaped: names of files and records come in them."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name of logging)
        """The message with control characters escaped."""
        record.message = escaped(record.message)
        return super().formatMessage(record)


LOG_FORMAT = PrintableFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")


class _LogFile(logging.FileHandler):
    """A log that cannot be written any more, as on a full disk, is no reason to disturb a run or
    its last words.
    """

    def _open(self) -> TextIOWrapper:
        handle = open_own(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return open(handle, "a", encoding=self.encoding, errors=self.errors)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass

    def close(self) -> None:
        # closing writes what the file's buffer still holds
        with contextlib.suppress(OSError):
            super().close()


class _ToParent(logging.Handler):
    """Hands records on to the handlers above a logger."""

    def __init__(self, logger: logging.Logger, level: int):
        super().__init__(level)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        if self._logger.parent is not None:
            self._logger.parent.callHandlers(record)


@contextlib.contextmanager
def _heard(logger: logging.Logger, level: int) -> Iterator[None]:
    """While entered, `logger` takes records from `level` on, and all handlers that it has, and
    those above it, still get what they got before: a Python program has set up its own logging.
    """
    before, own_level, propagate = logger.getEffectiveLevel(), logger.level, logger.propagate
    if before <= level:
        yield
        return

    def is_wanted(record: logging.LogRecord) -> bool:
        return record.levelno >= before

    others, parent = list(logger.handlers), _ToParent(logger, before)
    for other in others:
        other.addFilter(is_wanted)
    if propagate:
        logger.addHandler(parent)
    logger.propagate = False
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(own_level)
        logger.propagate = propagate
        logger.removeHandler(parent)
        for other in others:
            other.removeFilter(is_wanted)


@contextlib.contextmanager
def logging_to(outputs: Outputs, logger: logging.Logger, verbose: bool = False) -> Iterator[None]:
    """`logger`'s messages also go to `run.log`, appended, while the block runs."""
    with explained(outputs.run_log):
        handler = _LogFile(outputs.run_log, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(LOG_FORMAT)
    handler.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        with _heard(logger, handler.level):
            logger.addHandler(handler)
            try:
                yield
            finally:
                logger.removeHandler(handler)
    finally:
        handler.close()


def console_logging(verbose: bool, quiet: bool, speaks: bool) -> None:
    """Send the package's log to standard error; a process that does not speak says warnings
    only.
    """
    from virnucpro.reporting.log import PrintableFormatter

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
