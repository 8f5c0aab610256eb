"""Where models are kept, and the sha256 of their files, computed once a file.

Knows the models directory and its cache of hashes; does not know formats.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from pathlib import Path

from virnucpro.errors import ModelError
from virnucpro.files import MODELS, read_json, sha256_of, write_json
from virnucpro.models.weights import weight_files

HEX = re.compile("[0-9a-f]{64}")
SETTLED = 2.0  # seconds after a change from which on another change shows in the times


def models_dir() -> Path:
    """VIRNUCPRO_HOME, else `virnucpro` in the user's cache directory."""
    home = os.environ.get("VIRNUCPRO_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "virnucpro"


def directory_digest(directory: Path, tokenizer: tuple[str, ...]) -> str:
    """sha256 over names and digests of what a model directory's results depend on: weights,
    config.json, tokenizer.
    """
    files = [
        *weight_files(directory),
        directory / "config.json",
        *(directory / name for name in tokenizer),
    ]
    lines = sorted(f"{file.name} {file_digest(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_digest(file: Path) -> str:
    """sha256 hex of a file's bytes, remembered while nothing shows that the file has changed.

    Size, inode, and the times of the content and of the inode have to be the same: a program can
    set the first of these times but not the second, so that a file put in another's place is hashed
    anew whatever its size and time.
    """
    try:
        stamp = _stamp(file)
        key = str(file.resolve())
        known = _read_cache().get(key)
        if isinstance(known, list) and known[:-1] == stamp and HEX.fullmatch(str(known[-1])):
            return known[-1]
        digest = sha256_of(file)
        settled = time.time() - max(stamp[1:3]) / 1e9 > SETTLED and _stamp(file) == stamp
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}; put the file there, or name another") from None
    if settled:
        _remember(key, [*stamp, digest])
    return digest


def _stamp(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _cache_file() -> Path:
    return models_dir() / "sha256.json"


def _read_cache() -> dict:
    with contextlib.suppress(ModelError):
        return read_json(_cache_file(), "", ModelError) or {}
    return {}


def _remember(key: str, entry: list) -> None:
    """Add to the cache; a directory that cannot be written costs only the time to hash again."""
    with contextlib.suppress(ModelError, OSError):
        models_dir().mkdir(parents=True, exist_ok=True)
        write_json(_cache_file(), _read_cache() | {key: entry}, MODELS)
