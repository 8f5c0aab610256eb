"""Inputs that can be read only once (standard input, pipes, what a shell substitutes) -> files in
the output directory, which every process can read while the run lasts.

Knows which inputs those are and when not to go on copying; does not know records.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from virnucpro.errors import InputError, StoreError, UsageError
from virnucpro.files import (
    OUTPUT,
    directory_handle,
    explained,
    open_own,
    refusal,
    remove_tree,
)
from virnucpro.launch import World
from virnucpro.locks import Lock
from virnucpro.reporting.outputs import KEPT, SPOOL
from virnucpro.sequences.compressed import compression_of
from virnucpro.sequences.inputs import InputFile, find_inputs

# where our own launch has put such inputs for its processes: each by its number on the command line
SPOOL_VARIABLE = "VIRNUCPRO_SPOOL"
BLOCK = 1 << 20
MOST_BLANK = 16 << 20  # bytes at the beginning without a letter; no file begins so
ROOM_LEFT = 1 << 30  # bytes of disk that a pipe without an end leaves free


def run_inputs(
    given: Sequence[str], output_dir: Path, world: World, stack: ExitStack
) -> tuple[InputFile, ...]:
    """The files of a run; what can be read only once is kept until `stack` closes. Errors:
    UsageError, also for a terminal or a device; StoreError where nothing can be kept.
    """
    if "-" in given and list(given) != ["-"]:
        raise UsageError(
            "input -: standard input cannot be mixed with files; name files, or - alone"
        )
    if not world.self_launched:  # left over from elsewhere
        os.environ.pop(SPOOL_VARIABLE, None)
    spool = os.environ.get(SPOOL_VARIABLE)
    if spool is None:
        once = {name: str(place) for place, name in enumerate(given) if is_read_once(name)}
        if not once:
            return find_inputs(given)
        if world.launched:
            raise UsageError(
                f"input {next(iter(once))}: under a launcher one process would get it all; write it"
                " to a file, or use --gpus"
            )
        spool = stack.enter_context(_spooled(once, output_dir))
    places = [Path(spool, str(place)) for place in range(len(given))]
    return find_inputs(
        given, {name: place for name, place in zip(given, places, strict=True) if place.exists()}
    )


def keep_inputs(output_dir: Path) -> None:
    """What a finished run has read through pipes stays for `summarize`, in the place of what an
    earlier run has read so.
    """
    spool = os.environ.get(SPOOL_VARIABLE)
    kept = output_dir / KEPT
    with explained(kept), directory_handle(output_dir) as handle:
        with suppress(FileNotFoundError):
            remove_tree(KEPT, handle)
        if spool is not None:
            os.mkdir(KEPT, dir_fd=handle)
            for path in Path(spool).iterdir():
                if path.name != "lock":
                    os.replace(path, kept / path.name)


def is_read_once(name: str) -> bool:
    """Whether `name` is standard input, a pipe, or a descriptor, which other processes know by
    another number.
    """
    if name == "-":
        return True
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return False  # it fails alone when it is read
    if stat.S_ISREG(mode):
        return name.startswith(("/dev/", "/proc/"))
    return not stat.S_ISDIR(mode)


@contextmanager
def _spooled(names: Mapping[str, str], output_dir: Path) -> Iterator[str]:
    """The directory that holds the data of `names`, in files of the names they map to, while
    entered. An output directory that was made for it and holds nothing else is removed too.
    """
    for name in names:
        _check_kind(name)
    spool, is_new = output_dir / SPOOL, not os.path.exists(output_dir)
    # else a second run would overwrite it, long before it asks for the run's own lock
    with Lock(spool / "lock", output_dir):
        try:
            for name, place in names.items():
                _keep(name, spool / place)
            os.environ[SPOOL_VARIABLE] = str(spool)
            yield str(spool)
        finally:
            os.environ.pop(SPOOL_VARIABLE, None)
            shutil.rmtree(spool, ignore_errors=True)
            if is_new:
                with suppress(OSError):
                    output_dir.rmdir()


def _check_kind(name: str) -> None:
    """Raise UsageError for a terminal, a device or a socket's name, before anything is written."""
    if name == "-":
        if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
            raise UsageError(
                "input -: standard input is a terminal; pipe sequences into it or name a file"
            )
        with suppress(OSError, ValueError):  # of a program that has put something else there
            _check_status(name, os.fstat(sys.stdin.fileno()))
    else:
        _check_status(name, os.stat(name))


def _check_status(name: str, status: os.stat_result) -> None:
    nothing = stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev
    is_socket = stat.S_ISSOCK(status.st_mode) and name != "-"
    if (stat.S_ISCHR(status.st_mode) and not nothing) or stat.S_ISBLK(status.st_mode) or is_socket:
        kind = "a socket" if is_socket else "a terminal or another device"
        raise UsageError(f"input {name}: is {kind}; name a FASTA or FASTQ file, or a pipe")


def _keep(name: str, place: Path) -> None:
    """Copy what `name` gives to the file `place`."""
    try:
        source = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise InputError(
            f"{name}: cannot be opened: {error.strerror}; name another file"
        ) from error
    try:
        with open(open_own(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            for block in _blocks(name, source, place.parent):
                file.write(block)
    except OSError as error:
        raise refusal(place.parent, error, OUTPUT) from error
    finally:
        if name != "-":
            source.close()


def _blocks(name: str, source: IO[bytes], spool: Path) -> Iterator[bytes]:
    """The data of `source` in blocks; only the first where that is no sequence file, which its
    reader says. Errors: UsageError, InputError, StoreError.
    """
    blank = size = 0
    while block := _read(name, source):
        yield block
        size += len(block)
        start = block.lstrip(b" \t\r\n\v\f\0\xef\xbb\xbf")
        if blank == size - len(block):  # nothing but blanks before
            blank += len(block) - len(start)
            if start and start[:1] not in b">@" and compression_of(block) == "plain":
                return
            if blank >= MOST_BLANK:
                raise UsageError(
                    f"input {name}: its first {blank >> 20} MB hold no letter, as of a device"
                    " without an end; give FASTA or FASTQ"
                )
        if shutil.disk_usage(spool).free < ROOM_LEFT:
            raise StoreError(
                f"{spool}: {size:,} bytes of {name} are kept here and the disk is nearly full; free"
                " some space, choose another --output-dir, or see whether the pipe has an end"
            )


def _read(name: str, source: IO[bytes]) -> bytes:
    try:
        return source.read(BLOCK)
    except OSError as error:
        raise InputError(f"{name}: reading failed: {error.strerror}; run again") from error
