"""How files are written, locked, opened, hashed and read as JSON; no other module does it by hand.

A file appears whole or not at all: written under a temporary name in its directory, flushed to
disk, renamed. Links that this program did not make are not followed where others may have put them.
Knows files; does not know what they are for.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import xxhash

from virnucpro.errors import ModelError, OutputError, StoreError, VirNucProError

log = logging.getLogger(__name__)

Add = Callable[[int], object]  # told of bytes that are done
LEFTOVER = ".virnucpro-part-"  # how the name of an unfinished file begins
BLOCK = 1 << 20  # bytes hashed at once
LARGEST_JSON = 256 << 20  # bytes; run.json lists every record that failed
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = -1  # in the place of a file handle
A_LINK = "it is a link, and links are not followed here; remove it"


@dataclass(frozen=True, slots=True)
class Purpose:
    """What files are for: the error that a failure becomes, and the option that names another
    place.
    """

    error: type[VirNucProError]
    option: str


OUTPUT = Purpose(OutputError, "--output-dir")
WORK = Purpose(StoreError, "--checkpoint-dir")
CACHE = Purpose(StoreError, "--cache-dir")
MODELS = Purpose(ModelError, "VIRNUCPRO_HOME")


def refusal(path: Path, error: OSError, purpose: Purpose = OUTPUT) -> VirNucProError:
    """The one line for a file that cannot be written."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ELOOP, errno.ENOTDIR) and path.is_symlink():
        reason = A_LINK
    if error.errno == errno.ENXIO:  # a pipe that nobody reads
        reason = "it is not a regular file; remove it"
    if error.errno == errno.EEXIST:
        reason = "it is a link to nowhere" if path.is_symlink() else "there is a file of this name"
    more = "free some space and run the same command again, or " if error.errno in FULL else ""
    return purpose.error(
        f"{path}: cannot be written ({reason[:1].lower()}{reason[1:]}); {more}choose another"
        f" {purpose.option}"
    )


@contextlib.contextmanager
def explained(path: Path, purpose: Purpose = OUTPUT) -> Iterator[None]:
    """A failed write as one line that names the file and what to do; errors that name a file in
    another directory pass through.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and Path(error.filename).parent not in (path.parent, path):
            raise
        raise refusal(path, error, purpose) from error


@contextlib.contextmanager
def writing(
    path: Path, mode: str = "wb", purpose: Purpose = OUTPUT, below: Path | None = None
) -> Iterator[IO]:
    """A stream whose content appears at `path` when the block ends well, and leaves no trace when
    it does not.

    A link at `path` is replaced, not followed; nor is one between `below` and `path`. Raises
    `purpose.error` where the disk is full or the place cannot be written.
    """
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    name = LEFTOVER + secrets.token_hex(8)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(directory_handle(path.parent, below))
            handle = os.open(name, flags, 0o666, dir_fd=folder)
        except OSError as error:
            raise refusal(path, error, purpose) from error
        try:
            with (
                explained(path, purpose),
                open(handle, mode, encoding=encoding, newline=newline) as stream,
            ):
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            try:
                os.replace(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                raise refusal(path, error, purpose) from error
            _sync(folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise


def write_text(path: Path, lines: Sequence[str], purpose: Purpose = OUTPUT) -> None:
    """The lines as a file, whole or not at all."""
    with writing(path, "w", purpose) as stream:
        stream.writelines(f"{line}\n" for line in lines)


def put_in_place(part: Path, path: Path) -> None:
    """A file that a library has written at `part` becomes `path`, flushed to disk. Errors:
    OSError.
    """
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    sync_directory(path.parent)


def sync_directory(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut, where the file system can."""
    with contextlib.suppress(OSError), directory_handle(folder) as handle:
        _sync(handle)


def _sync(handle: int) -> None:
    with contextlib.suppress(OSError):  # some network disks refuse it for directories
        os.fsync(handle)


@contextlib.contextmanager
def directory_handle(path: Path, below: Path | None = None) -> Iterator[int]:
    """A handle of the directory `path`. Between `below`, which the user has named, and `path` no
    link is followed. Errors: OSError.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    handle = os.open(path if below is None else below, flags)
    try:
        for name in () if below is None else path.relative_to(below).parts:
            try:
                deeper = os.open(name, flags | os.O_NOFOLLOW, dir_fd=handle)
            except NotADirectoryError as error:
                raise OSError(error.errno, f"{name} is a link or a file, not a directory") from None
            os.close(handle)
            handle = deeper
        yield handle
    finally:
        os.close(handle)


def make_directory(path: Path) -> None:
    """Make the directory `path` in its parent where it is not there. Errors: OSError, also where
    it is a link, or another user's, who could replace what is written there.
    """
    try:
        os.mkdir(path)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            reason = A_LINK if path.is_symlink() else "there is a file of this name"
            raise OSError(errno.ENOTDIR, reason, str(path)) from None
        if not is_ours(path):
            raise OSError(errno.EPERM, "it belongs to another user", str(path)) from None


def remove_tree(name: str, parent: int) -> None:
    """Remove what has this name in the directory with the handle `parent`, links as links.

    Errors: OSError.
    """
    if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    for _, folders, files, handle in os.fwalk(name, topdown=False, dir_fd=parent):
        for file in files:
            os.unlink(file, dir_fd=handle)
        for folder in folders:
            try:
                os.rmdir(folder, dir_fd=handle)
            except NotADirectoryError:  # a link to one
                os.unlink(folder, dir_fd=handle)
    os.rmdir(name, dir_fd=parent)


def open_own(path: Path, flags: int, mode: int = 0o666) -> int:
    """A file handle of a regular file of one name; never of a link, and never waiting for a pipe.

    Errors: OSError.
    """
    try:
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(path, flags, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, A_LINK, str(path)) from None
        raise
    status = os.fstat(handle)
    writes = flags & (os.O_WRONLY | os.O_RDWR)
    if not stat.S_ISREG(status.st_mode) or (writes and status.st_nlink > 1):
        os.close(handle)
        kind = "a hard link" if stat.S_ISREG(status.st_mode) else "not a regular file"
        raise OSError(errno.ELOOP, f"it is {kind}; remove it", str(path))
    return handle


def open_regular(path: Path) -> int:
    """A handle of a regular file to be read, links followed; never waiting for a pipe. Errors:
    OSError.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def is_ours(path: Path) -> bool:
    """Whether this user or the administrator has made `path`, as far as its disk tells users apart.

    (Network disks may give all files of the administrator to nobody.)
    """
    owner = os.lstat(path).st_uid
    if owner in (os.geteuid(), 0):
        return True
    try:
        with tempfile.TemporaryFile(dir=path.parent) as new:
            return owner == os.fstat(new.fileno()).st_uid
    except OSError:
        return False


def is_plain_name(name: str) -> bool:
    """Whether `name` can be joined to a directory without leaving it."""
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON can hold
        return False
    plain = name not in (".", "..") and not any(letter in name for letter in "/\\\0")
    return 0 < length <= 255 and plain


def _ignore(_: int) -> None: ...


def sha256_of(path: Path, add: Add = _ignore) -> str:
    """Hex sha256 of a file's bytes; `add` is told of each block's length. Errors: OSError."""
    return _hash(path, hashlib.sha256(), add)


def git_blob_id(path: Path, add: Add = _ignore) -> str:
    """git's id of a file's content: sha1 of `blob SIZE\\0` and its bytes. Errors: OSError."""
    size = path.stat().st_size
    return _hash(path, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), add)


def xxh3_of(path: Path) -> str:
    """Hex xxh3 (128 bits) of a file's bytes: against damage, not against forgery. Errors:
    OSError.
    """
    return _hash(path, xxhash.xxh3_128())


def checksum(*parts: Any) -> str:
    """Hex xxh3 (128 bits) of contiguous arrays or bytes after each other."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def digest(content: Mapping[str, Any]) -> str:
    """Hex sha256 of what JSON can say, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(dict(content), sort_keys=True).encode()).hexdigest()


def _hash(path: Path, digest: Any, add: Add = _ignore) -> str:
    with open(open_regular(path), "rb", buffering=0) as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
            add(len(block))
    return digest.hexdigest()


def read_json(path: Path, advice: str, error: type[VirNucProError] = StoreError) -> dict | None:
    """The object in a JSON file; None where there is no such file.

    Raises `error` where it is a link, unreadable, or anything but a JSON object; `advice` ends its
    line.
    """
    try:
        with open(open_own(path, os.O_RDONLY), encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_size > LARGEST_JSON:
                raise ValueError(f"larger than {LARGEST_JSON >> 20} MB")
            content = json.load(file)
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
    except FileNotFoundError:
        return None
    except RecursionError:
        raise error(f"{path}: not readable (nested too deeply); {advice}") from None
    except (OSError, ValueError) as wrong:
        reason = getattr(wrong, "strerror", None) or wrong
        raise error(f"{path}: not readable ({reason}); {advice}") from wrong
    return content


def write_json(path: Path, content: Mapping[str, Any], purpose: Purpose = OUTPUT) -> None:
    """A JSON file, whole or not at all."""
    write_text(path, [json.dumps(content, indent=1)], purpose)


def check_length(path: Path, length: int) -> None:
    """Raise StoreError where a mapped file is no longer of `length` bytes: reading behind its new
    end would end the process (SIGBUS) without a word. One that was removed stays mapped, and whole.
    """
    advice = "run the same command again"
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise StoreError(f"{path}: cannot be read any more ({reason}); {advice}") from None
    if found != length:
        raise StoreError(
            f"{path}: has {found:,} of {length:,} bytes, as something else wrote there; {advice}"
        )
