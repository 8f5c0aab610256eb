"""Where models are kept, the sha256 of their files, computed once a file, and what `models verify`
found.

Knows the models directory and its cache of hashes; does not know formats.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from virnucpro.errors import ModelError
from virnucpro.files import MODELS, digest, read_json, sha256_of, write_json
from virnucpro.models.contents import announced
from virnucpro.models.weights import weight_files

log = logging.getLogger(__name__)

SETTLED = 2.0  # seconds after a change from which on another change shows in the times


def models_dir() -> Path:
    """VIRNUCPRO_HOME, else `virnucpro` in the user's cache directory."""
    home = os.environ.get("VIRNUCPRO_HOME")
    return Path(home).expanduser() if home else _own_dir()


def _own_dir() -> Path:
    # as platformdirs says for Linux; on other systems models would have to be fetched again
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
        if isinstance(known, list) and known[:-2] == stamp and known == _sealed(key, known[:-1]):
            return known[-2]
        with announced(f"{file}: computing its sha256", stamp[0], log.info) as add:
            found = sha256_of(file, add)
        settled = time.time() - max(stamp[1:3]) / 1e9 > SETTLED and _stamp(file) == stamp
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}; put the file there, or name another") from None
    if settled:
        _remember(key, _sealed(key, [*stamp, found]))
    return found


def _stamp(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _sealed(key: str, entry: list[Any]) -> list[Any]:
    """An entry of the cache with its own checksum: a damaged one is not believed."""
    return [*entry, digest({key: entry})[:16]]


def verification_file(identity: Mapping[str, str]) -> Path:
    """Where the result of `models verify` for a bundle of this content is kept."""
    return models_dir() / "verified" / f"{digest(identity)[:24]}.json"


def read_verification(identity: Mapping[str, str]) -> dict[str, Any] | None:
    """What is known of a bundle of this content: for `run.json`. None where it was never verified
    here.
    """
    found = _read(verification_file(identity))
    return found if found.get("identity") == dict(identity) and "passed" in found else None


def _caches() -> list[Path]:
    """Where hashes are kept: beside the models, or with the user where others own these."""
    return [place / "sha256.json" for place in dict.fromkeys([models_dir(), _own_dir()])]


def _read_cache() -> dict[str, Any]:
    return {key: entry for file in reversed(_caches()) for key, entry in _read(file).items()}


def _read(file: Path) -> dict[str, Any]:
    with contextlib.suppress(ModelError):
        return read_json(file, "", ModelError) or {}
    return {}


def _remember(key: str, entry: list[Any]) -> None:
    """Add to the cache; where none can be written, it costs only the time to hash again."""
    for file in _caches():
        with contextlib.suppress(ModelError, OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, _read(file) | {key: entry}, MODELS)
            return
