"""Where models are kept, and the sha256 of their files, computed once a file.

Knows the models directory and its cache of hashes (by path, size and time of change); does not know
formats.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from virnucpro.errors import ModelError
from virnucpro.models.weights import weight_files

BLOCK = 1 << 22


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
    """sha256 hex of a file's bytes, remembered while its size and time of change stay."""
    try:
        stat = file.stat()
        key, stamp = str(file.resolve()), [stat.st_size, stat.st_mtime_ns]
        known = _read_cache().get(key)
        if isinstance(known, list) and len(known) == 3 and known[:2] == stamp:
            return known[2]
        digest = hashlib.sha256()
        with file.open("rb") as opened:
            while block := opened.read(BLOCK):
                digest.update(block)
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}; put the file there, or name another") from None
    _remember(key, [*stamp, digest.hexdigest()])
    return digest.hexdigest()


def _cache_file() -> Path:
    return models_dir() / "sha256.json"


def _read_cache() -> dict:
    try:
        stored = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _remember(key: str, entry: list) -> None:
    """Add to the cache; a directory that cannot be written costs only the time to hash again."""
    try:
        models_dir().mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=models_dir(), prefix=".sha256")
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            json.dump(_read_cache() | {key: entry}, opened, indent=0)
        os.replace(name, _cache_file())
    except OSError:
        return
