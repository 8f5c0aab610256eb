"""Inputs -> their table of frames: the one in the cache, or a new one, which every process then
opens.

Knows where tables are kept, under whose lock they are built, which are never kept, and where a
table goes that no cache can take. A cache may be shared by users who do not trust each other: each
has a directory in it that nobody else can write to.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from virnucpro.errors import StoreError, limit_behind, one_line
from virnucpro.files import CACHE, FULL, OUTPUT, Purpose, make_directory
from virnucpro.locks import Lock
from virnucpro.sequences.cache import Hold, keep_below_limit
from virnucpro.sequences.compressed import sha256_on_disk
from virnucpro.sequences.frame_columns import FrameRules
from virnucpro.sequences.inputs import InputFile
from virnucpro.sequences.table import (
    FrameTable,
    build_table,
    fingerprint_of,
    open_table,
    private_directory,
)
from virnucpro.sequences.tokens import Tokenizers

PRIVATE_TABLES = ".virnucpro-frames"  # below the output directory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TablePlaces:
    """cache: the directory of tables that last, `None` for the usual one; private: a directory of
    this run, made where it is needed and removed by whoever gave its name.
    """

    cache: Path | str | None
    private: Path
    keep: bool = True  # False: in no cache


def cache_root(cache_dir: Path | str | None = None) -> Path:
    """Where tables are kept: `cache_dir`, else VIRNUCPRO_CACHE, else HF_DATASETS_CACHE, else the
    default of `datasets`; under `virnucpro/`.
    """
    # by the variables that `datasets` documents: building needs nothing else of it, and it takes
    # long to import
    if cache_dir is None:
        home = os.environ.get(
            "HF_HOME", Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
        )
        named = os.environ.get("VIRNUCPRO_CACHE") or os.environ.get("HF_DATASETS_CACHE")
        cache_dir = named or Path(home, "datasets")
    return Path(cache_dir).expanduser().absolute() / "virnucpro"


def build_or_open(
    inputs: Sequence[InputFile],
    rules: FrameRules,
    tokenizers: Tokenizers,
    places: TablePlaces,
    say: Callable[[str], object] = lambda _: None,
    builder: str | None = None,
) -> FrameTable:
    """The table of these inputs: the one in the cache, or a new one. Only one process builds;
    others wait for it.

    builder: what this run's `build_ahead` was called with; the table which that built is not a
    reused one. Files that cannot be read and records with letters that are no nucleotides are in
    `failures`; nothing else of them is lost. A table that would be another if its inputs were read
    again, as one could not be read, is not cached. Errors: StoreError when the disk is full, or a
    file changes while it is read; no half-written file is left.
    """
    hashes = [_sha256_or_none(file) for file in inputs]
    fingerprint = fingerprint_of(hashes, rules, tokenizers)
    place = _private(places) if None in hashes else _cache_or_private(places)
    with _locked(place / fingerprint, OUTPUT if place == places.private else CACHE):
        table = _reusable(place / fingerprint, inputs, builder)
        if table is None:
            built = build_table(place, places.private, inputs, hashes, rules, tokenizers)
            assert built is not None  # there is a private place
            table = replace(open_table(built, inputs), reused=False)
        table = replace(table, hold=Hold(table.directory))
    if not table.reused and place != places.private:
        keep_below_limit(place)
    where = f"{len(table):,} tokenized frames"
    if table.reused:
        say(f"frames: reused {where} from {table.directory}")
    else:
        say(f"frames: built {where} of {len(table.records):,} sequences in {table.directory}")
    for file, lines in zip(inputs, table.warnings, strict=True):
        for line in lines:
            log.warning("%s: %s", file.shown, line)
    return table


def build_ahead(
    inputs: Sequence[InputFile],
    rules: FrameRules,
    tokenizers: Tokenizers,
    cache_dir: Path | str | None,
    builder: str,
) -> None:
    """Build the table that `build_or_open` will ask for, where it can be cached and there is none,
    not even a damaged one. Errors: StoreError.
    """
    hashes = [_sha256_or_none(file) for file in inputs]
    if None in hashes:
        return
    try:
        place = own_directory(cache_root(cache_dir))
    except OSError:
        return
    directory = place / fingerprint_of(hashes, rules, tokenizers)
    with _locked(directory, CACHE):
        if not directory.exists():
            build_table(place, None, inputs, hashes, rules, tokenizers, builder)


def own_directory(root: Path) -> Path:
    """This user's directory in a cache that others may use too. Errors: OSError where it cannot be
    had.
    """
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        make_directory(root)
        _open_to_others(root)
    return private_directory(user_place(root))


def user_place(root: Path) -> Path:
    """This user's directory in a cache, whether it is there or not."""
    return root / f"user-{os.geteuid()}"


def _open_to_others(root: Path) -> None:
    """Whoever may write next to the new directory `root` may make a directory in it, but not remove
    another's.
    """
    parent = root.parent.stat()
    if parent.st_mode & 0o022:
        with suppress(OSError):
            os.chown(root, -1, parent.st_gid)
        with suppress(OSError):
            root.chmod(stat.S_IMODE(parent.st_mode) | stat.S_ISVTX)


def _cache_or_private(places: TablePlaces) -> Path:
    if not places.keep:
        return _private(places)
    try:
        return own_directory(cache_root(places.cache))
    except OSError as error:
        why = error.strerror or str(error)
        at = error.filename or places.cache or "the cache"
        log.warning(
            "%s: cannot keep tokenized frames (%s); this run keeps them in %s and later ones read"
            " the input again; have its owner open it to you (chmod 1777), or name another place"
            " with --cache-dir",
            *(at, why[:1].lower() + why[1:], places.private.parent),
        )
    return _private(places)


def _private(places: TablePlaces) -> Path:
    try:
        return private_directory(places.private)
    except OSError as error:
        raise StoreError(
            f"{places.private}: cannot be made ({error.strerror}); choose another --output-dir"
        ) from error


def _reusable(
    directory: Path, inputs: Sequence[InputFile], builder: str | None
) -> FrameTable | None:
    """The whole table at `directory`; None where there is none, and a damaged one is removed."""
    if not directory.exists():
        return None
    try:
        return open_table(directory, inputs, builder)
    except StoreError as error:
        if limit := limit_behind(error.__cause__ or error):
            raise StoreError(f"{directory}: cannot be read: {limit}") from error
        log.warning("frames: the cached table is damaged and is built again (%s)", error)
        shutil.rmtree(directory)
        return None


def _sha256_or_none(file: InputFile) -> str | None:
    try:
        return sha256_on_disk(file.path)
    except (OSError, ValueError):
        return None


@contextmanager
def _locked(directory: Path, purpose: Purpose) -> Iterator[None]:
    """Hold the lock file of the table `directory`; a failing disk is one line that says what to
    do. Errors: StoreError.
    """
    try:
        with Lock(
            directory.with_name(f"{directory.name}.lock"), directory.parent, purpose, wait=True
        ):
            yield
    except (OSError, pa.ArrowException) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in FULL:
            reason = "no space left for the table of frames; free some, or name another"
        else:
            why = one_line(str(getattr(error, "strerror", None) or error)).lower()
            reason = f"the table of frames cannot be written ({why}); name another"
        raise StoreError(f"{directory.parent}: {reason} {purpose.option}") from error
