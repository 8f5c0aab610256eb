"""One directory of the models directory: whole or absent, with a record of what came and from
where.

`checksums.json`: {"origin": ..., "date": ..., "files": {name: {"size", "sha256"}},
"converted_from": {...}}. Knows files; does not know which models there are.
"""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime, timezone
from pathlib import Path

from virnucpro.models.download import sha256_of

CHECKSUMS = "checksums.json"


def check_files(directory: Path) -> list[str]:
    """What is wrong with the files of a part or bundle by its checksums.json, a line each; none:
    all as they came.
    """
    try:
        recorded = json.loads((directory / CHECKSUMS).read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return [
            f"{directory / CHECKSUMS}: not readable ({type(error).__name__}); download or import"
            " again"
        ]
    wrong = []
    for name, entry in recorded.items():
        file = directory / name
        if not file.is_file():
            wrong.append(f"{file}: missing")
        elif file.stat().st_size != entry["size"] or sha256_of(file) != entry["sha256"]:
            wrong.append(f"{file}: changed since it came")
    return wrong


def origin_of(directory: Path) -> str:
    try:
        return str(json.loads((directory / CHECKSUMS).read_text())["origin"])
    except (OSError, ValueError, KeyError):
        return ""


def is_whole(directory: Path) -> bool:
    """Whether the files of `directory` are those that came, by name and size; `check_files` reads
    them all.
    """
    try:
        recorded = json.loads((directory / CHECKSUMS).read_text())["files"]
        return all(
            (directory / name).stat().st_size == entry["size"] for name, entry in recorded.items()
        )
    except (OSError, ValueError, KeyError):
        return False


def write_checksums(directory: Path, origin: str, more: dict) -> None:
    files = {
        file.name: entry_of(file)
        for file in sorted(directory.iterdir())
        if file.is_file() and file.name != CHECKSUMS
    }
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    (directory / CHECKSUMS).write_text(
        json.dumps({"origin": origin, "date": date, "files": files, **more}, indent=1) + "\n"
    )


def entry_of(file: Path) -> dict:
    return {"size": file.stat().st_size, "sha256": sha256_of(file)}


def put_in_place(beside: Path, target: Path) -> None:
    """Put a whole directory in the place of an older or damaged one."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(beside, target)
    shutil.rmtree(old, ignore_errors=True)
