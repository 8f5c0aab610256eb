"""Files that a run has mapped into memory, and that someone else may cut short meanwhile.

To read a mapped file behind its new end ends the process (SIGBUS) without a word. So its length is looked at right before.
"""
from __future__ import annotations

from pathlib import Path

from virnucpro.errors import StoreError


def check_length(path: Path, length: int) -> None:
    """Raise StoreError where the file at `path` is no longer of `length` bytes. One that was removed stays mapped, and whole."""
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path}: cannot be read any more ({(error.strerror or '').lower()}); run the same command again") from None
    if found != length:
        raise StoreError(f"{path}: has {found:,} of {length:,} bytes, as something else wrote there; run the same command again")
