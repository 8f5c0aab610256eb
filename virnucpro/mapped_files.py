"""Files that a run has mapped into memory: those that someone else may cut short meanwhile, and
those larger than it.

To read a mapped file behind its new end ends the process (SIGBUS) without a word. So its length is
looked at right before.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import numpy as np

from virnucpro.errors import StoreError


def read_here_and_there(values: np.ndarray) -> None:
    """Tell the system that rows of a mapped array will be read in any order, so that none brings a
    neighbourhood in with it.

    (60,000 rows of 13 kB in 512 MiB of memory: 1.7 GB read instead of 52.)
    """
    if not hasattr(mmap, "MADV_RANDOM") or not values.nbytes:
        return
    place = values.ctypes.data
    start = place - place % mmap.PAGESIZE
    ctypes.CDLL(None).madvise(
        ctypes.c_void_p(start), ctypes.c_size_t(place + values.nbytes - start), mmap.MADV_RANDOM
    )


def check_length(path: Path, length: int) -> None:
    """Raise StoreError where the file at `path` is no longer of `length` bytes.

    One that was removed stays mapped, and whole.
    """
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read any more ({(error.strerror or '').lower()}); run the same"
            " command again"
        ) from None
    if found != length:
        raise StoreError(
            f"{path}: has {found:,} of {length:,} bytes, as something else wrote there; run the"
            " same command again"
        )
