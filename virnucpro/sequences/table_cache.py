"""Where tables of frames are kept, under whose lock they are built, and what is said where neither
is to be had.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from virnucpro.errors import StoreError, one_line


def cache_root(cache_dir: Path | str | None = None) -> Path:
    """Where tables are kept: `cache_dir`, else HF_DATASETS_CACHE, else the default of `datasets`;
    under `virnucpro/`.
    """
    # by the variables that `datasets` documents: building needs nothing else of it, and it takes
    # long to import
    if cache_dir is None:
        home = os.environ.get(
            "HF_HOME", Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
        )
        cache_dir = os.environ.get("HF_DATASETS_CACHE") or Path(home, "datasets")
    return Path(cache_dir).expanduser().absolute() / "virnucpro"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock file of the table `directory`.

    Errors: StoreError for whatever goes wrong with the disk meanwhile.
    """
    with _explained(directory.parent):
        directory.parent.mkdir(parents=True, exist_ok=True)
        path = directory.with_name(f"{directory.name}.lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            if not path.exists():
                raise
            # another user's, or on a disk that is read-only: enough for flock
            descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    """A failing disk as one line that says what to do."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT):
            reason = "no space left for the table of frames; free some, or name another --cache-dir"
        else:
            why = one_line(getattr(error, "strerror", None) or error).lower()
            reason = f"the table of frames cannot be written ({why}); name another --cache-dir"
        raise StoreError(f"{root}: {reason}") from error
