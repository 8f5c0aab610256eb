"""What can go wrong, in the user's terms. Every message is one line: what, where, what to do.

Knows the exit codes of the program; does not print and does not exit.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass


class VirNucProError(Exception):
    """A failure the user can act on; ends the program with `exit_code` and one line."""

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(escaped(one_line(message)))


NO_MEMORY = ("failed to map segment", "annot allocate memory", "can't allocate memory")


def limit_behind(error: BaseException) -> str:
    """The limit of the machine or the job that an error comes from, and what to do; "" for others.

    Errors of libraries without a type of their own are known by their words.
    """
    number, text = getattr(error, "errno", None), str(error)
    if "can't start new thread" in text or isinstance(error, BlockingIOError):
        return (
            "no further thread or process can be started; raise the limit of processes or of memory"
            " (ulimit -u, -v)"
        )
    if (
        isinstance(error, MemoryError)
        or number == errno.ENOMEM
        or any(w in text for w in NO_MEMORY)
    ):
        return (
            "not enough memory; free some, raise its limit (ulimit -v, or the job's), or give a"
            " smaller --batch-size"
        )
    if number in (errno.EMFILE, errno.ENFILE):
        return "too many files are open; raise the limit of open files (ulimit -n)"
    if number in (errno.ENOSPC, errno.EDQUOT):
        where = getattr(error, "filename", None) or "the disk"
        return f"{where}: no space left; free some and run the same command again"
    return ""


class UsageError(VirNucProError):
    """The command line asks for something impossible or contradictory."""

    exit_code = 64


class InputError(VirNucProError):
    """No input could be read at all."""


class ModelError(VirNucProError):
    """A part of the model is missing, unreadable, unsafe or does not fit the others."""


class StoreError(VirNucProError):
    """Finished work on disk is damaged, locked, or belongs to another run."""


class OutputError(VirNucProError):
    """A file of the output directory cannot be written."""


class Interrupted(VirNucProError):
    """SIGINT or SIGTERM arrived; everything finished so far is on disk."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


@dataclass(frozen=True, slots=True)
class Failure:
    """One line of `failed_files.txt`: `path|stage|reason`; the reason names the record where it is
    one.
    """

    path: str
    stage: str
    reason: str

    def line(self) -> str:
        """The line; a `|` inside a part is written as `\\x7c`, as control characters are."""
        parts = self.path, self.stage, one_line(self.reason)
        return "|".join(escaped(part).replace("|", r"\x7c") for part in parts)


def one_line(text: str) -> str:
    """`text` with every run of white space as one blank, so that it stays one line of a log or
    table.
    """
    return " ".join(str(text).split())


def escaped(text: str) -> str:
    """`text` with whatever cannot be printed as `\\xNN`: control characters and bytes that are not
    UTF-8 (as Python keeps those of file names); `\\uNNNN` beyond the first 256 characters.
    """
    if text.isprintable():
        return text
    return "".join(map(_escaped_letter, text))


def _escaped_letter(letter: str) -> str:
    code = ord(letter)
    if letter.isprintable():
        return letter
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
