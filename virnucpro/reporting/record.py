"""What is kept of the run itself: `run.json`, `run.log` and `failed_files.txt`.

Knows how they are written; what they say is collected where it happens.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TextIO

from virnucpro.errors import Failure
from virnucpro.files import explained, open_own, write_text
from virnucpro.reporting.outputs import Outputs

LOG_FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")


def write_run_json(outputs: Outputs, facts: Mapping[str, Any]) -> None:
    """`run.json`: keys sorted; paths and dataclasses as plain values, numbers that are no number as
    null.
    """
    text = json.dumps(plain(facts), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(outputs.run_json, [text.encode("utf-8", "backslashreplace").decode()])


def read_run_json(path: Path) -> dict[str, Any] | None:
    """What an earlier run wrote, or None where there is nothing readable."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def plain(value: Any) -> Any:
    """`value` as JSON knows it. Raises TypeError for what has no plain form."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [plain(item) for item in items]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()  # a numpy scalar
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{type(value).__name__} has no place in run.json")


def write_failures(outputs: Outputs, failures: Sequence[Failure]) -> None:
    """`failed_files.txt`, a line a failure; no file, and none left from before, where nothing
    failed.
    """
    if failures:
        lines = [failure.line() for failure in failures]
        write_text(
            outputs.failed_files,
            [line.encode("utf-8", "backslashreplace").decode() for line in lines],
        )
    else:
        outputs.failed_files.unlink(missing_ok=True)


class _LogFile(logging.FileHandler):
    """A log that cannot be written any more, as on a full disk, is no reason to disturb a run or
    its last words.
    """

    def _open(self) -> TextIO:
        handle = open_own(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return open(handle, "a", encoding=self.encoding, errors=self.errors)

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextlib.contextmanager
def logging_to(outputs: Outputs, logger: logging.Logger, verbose: bool = False) -> Iterator[None]:
    """`logger`'s messages also go to `run.log`, appended, while the block runs."""
    with explained(outputs.run_log):
        handler = _LogFile(outputs.run_log, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(LOG_FORMAT)
    handler.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
