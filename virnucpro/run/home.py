"""A home directory for users without one, as in many containers: caches, ours and those of the
libraries, lie below it.
"""

from __future__ import annotations

import getpass
import os
import stat
import tempfile
from pathlib import Path

from virnucpro.errors import VirNucProError


def ensure_home() -> None:
    """Where the user has no home directory, or one that holds no cache and cannot take one: set
    HOME to a private directory below TMPDIR; USER too, where the user id has no name.

    Raises VirNucProError, which names the variable to set, where no directory is to be had.
    """
    if not _is_usable(os.path.expanduser("~")):
        os.environ["HOME"] = str(_private_directory())
    try:
        getpass.getuser()
    except (KeyError, OSError):  # KeyError up to Python 3.12
        os.environ["USER"] = str(os.getuid())


def _is_usable(home: str) -> bool:
    if not os.path.isabs(home):  # the user id is unknown
        return False
    return os.path.exists(f"{home}/.cache") or os.access(home, os.W_OK | os.X_OK)


def _private_directory() -> Path:
    """A directory of this user alone, the same in every run: caches stay useful."""
    try:
        place = Path(tempfile.gettempdir(), f"virnucpro-{os.getuid()}")
        place.mkdir(mode=0o700, exist_ok=True)
        status = place.lstat()
    except OSError as error:
        raise VirNucProError(
            f"there is no home directory, and no temporary one can be made ({error}); set HOME or"
            " TMPDIR to a directory that can be written"
        ) from None
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or others:
        raise VirNucProError(
            f"there is no home directory, and {place} is not this user's alone; set HOME to a"
            " directory that can be written"
        )
    return place
