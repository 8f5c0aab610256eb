"""A path -> its bytes, whatever compressed them, in bounded memory.

Knows gzip, bzip2, xz and zstd by their magic bytes, and notices when a stream ends early or when
something else follows it. Does not know what the bytes mean.
"""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import io
import lzma
import os
import stat
import zlib
from pathlib import Path
from typing import Any, Protocol

GZIP, BZIP2, XZ, ZSTD = "gzip", "bzip2", "xz", "zstd"
MAGIC = (
    (b"\x1f\x8b", GZIP),
    (b"BZh", BZIP2),
    (b"\xfd7zXZ\x00", XZ),
    (b"\x28\xb5\x2f\xfd", ZSTD),
)
# how streams begin, with what is the same in all of them; and the fewest bytes that one has
STREAMS = (b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
LEAST_STREAM = 8
SUFFIXES = (".gz", ".bgz", ".bz2", ".xz", ".zst", ".zstd")

MOST_MEMORY = 1 << 28  # bytes of a decompressor's window; xz -9 asks for 65 MB, zstd -22 for 128 MB
# Compressed bytes given to a decompressor at once. That of zstd cannot be told how much to give
# back; a block of 4 bytes can stand for 128 kB, so these are at most 32 MB.
FEED, FEED_ZSTD = 1 << 17, 1 << 10


class Damaged(Exception):
    """Compressed data are cut short, wrong, or need too much memory; the message says which."""


class NotRegular(OSError):
    """What is to be read is not a regular file; the message says what it is."""


def compression_of(head: bytes) -> str:
    """`gzip`, `bzip2`, `xz`, `zstd` or `plain`, from the first bytes of a file."""
    if head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5:  # a skippable frame, as pzstd writes
        return ZSTD
    return next((name for magic, name in MAGIC if head.startswith(magic)), "plain")


class InputBytes:
    """The uncompressed bytes of a regular file, as `stream`; the file is opened once.

    While reading grow `warnings`, what is wrong with the file but cost nothing, and `left_out`,
    why its data may have held more or other sequences than were read. Errors: OSError;
    while reading, Damaged, OSError or MemoryError.
    """

    def __init__(self, path: Path):
        self._raw = _HashedFile(_open_regular(path))
        self._file = io.BufferedReader(self._raw, 1 << 18)
        self.warnings: list[str] = []
        self.left_out: list[str] = []
        kind = compression_of(self._file.peek(8)[:8])
        self.stream: io.BufferedReader[Any] = self._file
        if kind != "plain":
            self.stream = io.BufferedReader(
                _Streams(self._file, kind, self.warnings, self.left_out), 1 << 18
            )

    def sha256(self) -> str:
        """Hex sha256 of all bytes of the file as they lie on disk. Errors: OSError."""
        while self._file.read1(1 << 20):
            pass
        return self._raw.digest.hexdigest()

    def __enter__(self) -> InputBytes:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def sha256_on_disk(path: Path) -> str:
    """Hex sha256 of the file's bytes as they lie on disk. Errors: OSError."""
    with InputBytes(path) as file:
        return file.sha256()


def _open_regular(path: Path) -> int:
    """A descriptor. Never waits, as opening a pipe would. Errors: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise NotRegular("is a directory; name its files")
    raise NotRegular("is not a regular file but a pipe or device; copy its data to a file")


class _HashedFile(io.FileIO):
    """A file that hashes what is read from it."""

    def __init__(self, descriptor: int):
        super().__init__(descriptor, "rb")
        self.digest = hashlib.sha256()

    def readinto(self, buffer: Any) -> int:
        n = super().readinto(buffer)
        self.digest.update(memoryview(buffer)[:n])
        return n


class _Decompressor(Protocol):
    """One compressed stream, as `bz2` and `lzma` have it."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """A member of a gzip file. Its checksum and length are compared here and not by zlib, which
    would keep back the letters before a wrong one.
    """

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(-zlib.MAX_WBITS)
        self._head: bytes | None = b""  # None: it has been read
        self._crc = self._size = 0
        self._tail = b""  # what follows the deflated data

    @property
    def all_out(self) -> bool:
        """Whether the deflated data have come to their end."""
        return self._inner.eof

    @property
    def is_sound(self) -> bool:
        """Whether data and end mark agree."""
        mark = self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little")
        return self._tail[:8] == mark

    @property
    def eof(self) -> bool:
        return self._inner.eof and len(self._tail) >= 8

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._tail[8:]

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if self._inner.eof:
            self._tail += data
            return b""
        if self._head is not None:
            self._head += data
            length = _gzip_head(self._head)
            if length is None:
                return b""
            data, self._head = self._head[length:], None
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._crc, self._size = zlib.crc32(out, self._crc), self._size + len(out)
        self._tail = self._inner.unused_data
        return out


def _gzip_head(head: bytes) -> int | None:
    """Length of the header at the begin of a member; None where more of it is to come (RFC 1952).
    Errors: zlib.error.
    """
    if len(head) > 3 and head[2] != 8:
        raise zlib.error("no header of gzip")
    if len(head) < 12:  # with the length of a field; no member is that short
        return None
    flags, at = head[3], 10
    if flags & 4:
        at += 2 + int.from_bytes(head[10:12], "little")
    for text in (8, 16):
        if flags & text:
            end = head.find(b"\0", at)
            at = end + 1 if end >= 0 else len(head) + 1
    at += 2 if flags & 2 else 0
    if at <= len(head):
        return at
    if len(head) > FEED:
        raise zlib.error("a header without an end")
    return None


class _Zstd:
    """A zstd frame. Not the library's stream reader: that takes a frame cut short for a whole
    one.
    """

    def __init__(self) -> None:
        import zstandard

        self._inner = zstandard.ZstdDecompressor(max_window_size=MOST_MEMORY).decompressobj()
        self._pending = memoryview(b"")

    @property
    def eof(self) -> bool:
        return self._inner.eof and not self._pending

    @property
    def needs_input(self) -> bool:
        return not self._pending

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._pending = memoryview(self._inner.decompress(data))
        out, self._pending = self._pending[:max_length], self._pending[max_length:]
        return bytes(out)


def _decompressor(kind: str) -> _Decompressor:
    if kind == GZIP:
        return _Gzip()
    if kind == BZIP2:
        return bz2.BZ2Decompressor()
    if kind == XZ:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY)
    return _Zstd()


class _Streams(io.RawIOBase):
    """Any number of streams of one kind, one after the other. Gives out what it has before it
    fails.
    """

    def __init__(
        self,
        file: io.BufferedReader[Any],
        kind: str,
        warnings: list[str],
        left_out: list[str],
    ):
        self._file, self._kind, self._warnings = file, kind, warnings
        self._left_out = left_out
        self._feed = FEED_ZSTD if kind == ZSTD else FEED
        self._stream: _Decompressor | None = _decompressor(kind)
        self._left = b""  # read from the file, but not part of the stream before
        self._start = self._given = 0  # of the stream: where it begins in the file; bytes given out
        self._fed_at = 0  # where what was fed last begins
        self._failure: Damaged | None = None
        self._rescued = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._failure is None and (self._stream is not None or self._begin()):
            try:
                out = self._step(len(buffer))
            except Damaged as error:
                self._failure, self._rescued = error, self._rescue()
                break
            if out:
                self._given += len(out)
                buffer[: len(out)] = out
                return len(out)
        if self._failure is not None and not self._rescued:
            raise self._failure
        rescued, self._rescued = self._rescued[: len(buffer)], self._rescued[len(buffer) :]
        buffer[: len(rescued)] = rescued
        return len(rescued)

    def _step(self, most: int) -> bytes:
        """What comes next of the stream, perhaps nothing. Errors: Damaged."""
        stream, data = self._stream, b""
        assert stream is not None
        if stream.needs_input:
            data, self._left = self._left or self._file.read1(self._feed), b""
            self._fed_at = self._file.tell() - len(data)
        out = _decompress(stream, data, most)
        if stream.eof:
            self._left, self._stream = stream.unused_data, None
            if isinstance(stream, _Gzip) and not stream.is_sound:
                self._left_out.append(
                    "the checksum at the end of the gzip data is not that of the data, which may"
                    " hold wrong letters; get the file again"
                )
        elif not out and not data and stream.needs_input:
            if not (isinstance(stream, _Gzip) and stream.all_out):
                raise Damaged("the compressed data are cut short")
            self._left_out.append("the compressed data are cut short at their very end")
            self._stream, self._ended = None, True
        return out

    def _rescue(self) -> memoryview:
        """What the step that failed had decompressed before it failed: the stream is read again,
        what was fed last byte by byte.
        """
        stream, at, skip = _decompressor(self._kind), self._start, self._given
        out = bytearray()
        with contextlib.suppress(Damaged):
            while not stream.eof:
                feed = min(self._feed, self._fed_at - at) if at < self._fed_at else 1
                data = os.pread(self._file.fileno(), feed, at) if stream.needs_input else b""
                at += len(data)
                more = _decompress(stream, data, io.DEFAULT_BUFFER_SIZE)
                if not more and not data and stream.needs_input:
                    break
                out += more[skip:]
                skip -= min(skip, len(more))
        return memoryview(out)

    def _begin(self) -> bool:
        """Begin the next stream; False where there is none."""
        if self._ended:
            return False
        head = self._left
        while len(head := head.lstrip(b"\0")) < 8:  # padding with NUL bytes is usual
            more = self._file.read1(self._feed)
            if not more:
                break
            head += more
        self._left = head
        if head and compression_of(head) == self._kind:
            self._stream = _decompressor(self._kind)
            self._start, self._given = self._file.tell() - len(head), 0
            return True
        if head and self._may_hold_more(head):
            self._left_out.append(
                f"other data follow the end of the {self._kind} data and may hold more sequences,"
                " which were not read; join files of one kind"
            )
        elif head:
            self._warnings.append(
                f"other data follow the end of the {self._kind} data and were ignored"
            )
        self._ended = True
        return False

    def _may_hold_more(self, head: bytes) -> bool:
        """Whether what follows the compressed data, from `head` to the end of the file, looks like
        sequences: plain ones, or the begin of compressed data anywhere.
        """
        block = head
        found = head[:1] in (b">", b"@")
        while block and not found:
            found = any(0 <= block.find(magic) < len(block) - LEAST_STREAM for magic in STREAMS)
            more = self._file.read1(self._feed)
            block = block[-LEAST_STREAM:] + more if more else b""
        return found


def _decompress(stream: _Decompressor, data: bytes, most: int) -> bytes:
    """Errors: Damaged; MemoryError where the machine has too little."""
    try:
        return stream.decompress(data, most)
    except (OSError, MemoryError, zlib.error, lzma.LZMAError) as error:
        raise _explained(error) from error
    except Exception as error:  # zstandard's own kind, which is not imported for other files
        if type(error).__name__ != "ZstdError":
            raise
        raise _explained(error) from error


def _explained(error: Exception) -> Exception:
    said = str(error).lower()
    if isinstance(error, MemoryError) or "not enough memory" in said or "allocate" in said:
        return MemoryError("not enough memory to decompress it")
    if "memory" in said:
        return Damaged(
            f"decompressing it takes more than {MOST_MEMORY >> 20} MB of memory; compress it again"
            " with a smaller window or dictionary"
        )
    return Damaged(f"the compressed data are damaged ({said})")
