"""What can go wrong, in the user's terms. Every message is one line: what, where, what to do.

Knows the exit codes of the program; does not print and does not exit.
"""

from __future__ import annotations

from dataclasses import dataclass


class VirNucProError(Exception):
    """A failure the user can act on; ends the program with `exit_code` and one line."""

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(one_line(message))


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
        return f"{self.path}|{self.stage}|{one_line(self.reason).replace('|', '/')}"


def one_line(text: str) -> str:
    """`text` with every run of white space as one blank, so that it stays one line of a log or
    table.
    """
    return " ".join(str(text).split())
