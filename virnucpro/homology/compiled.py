"""The decorator of compiled functions. Machine code is kept beside the package, or in the user's
cache where that cannot be written; where neither can, it is made again by every run.
"""

from __future__ import annotations

import logging

from numba import njit

log = logging.getLogger(__name__)


def _probe() -> None:
    """Nothing: what numba is asked about."""


def _can_be_kept() -> bool:
    try:
        njit(cache=True)(_probe)
    except RuntimeError:  # numba found no directory for its cache
        log.warning(
            "no directory for compiled code can be written, so the search of known proteins takes"
            " about 10 s longer to start; set NUMBA_CACHE_DIR to one that can"
        )
        return False
    return True


_kept = _can_be_kept()
compiled = njit(cache=_kept, nogil=True)
inlined = njit(cache=_kept, nogil=True, inline="always")
