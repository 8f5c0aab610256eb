"""A path -> its bytes, whatever compressed them.

Knows gzip, bzip2, xz and zstd by their magic bytes, and notices when a stream ends early. Does not
know what the bytes mean.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import zlib
from pathlib import Path
from typing import BinaryIO

MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
SUFFIXES = (".gz", ".bgz", ".bz2", ".xz", ".zst", ".zstd")

#: What a damaged or truncated stream raises while it is read.
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError)


def compression_of(head: bytes) -> str:
    """`gzip`, `bzip2`, `xz`, `zstd` or `plain`, from the first bytes of a file."""
    return next((name for magic, name in MAGIC if head.startswith(magic)), "plain")


def open_bytes(path: Path) -> BinaryIO:
    """The uncompressed bytes of `path`. Errors: OSError; while reading, one of DAMAGE."""
    file = open(path, "rb", buffering=1 << 20)  # noqa: SIM115 (closed by the reader that wraps it, or here)
    try:
        kind = compression_of(file.peek(8)[:8])
        if kind == "gzip":
            return io.BufferedReader(_Owner(gzip.GzipFile(fileobj=file), file), 1 << 18)
        if kind == "bzip2":
            return io.BufferedReader(_Owner(bz2.BZ2File(file), file), 1 << 18)
        if kind == "xz":
            return io.BufferedReader(_Owner(lzma.LZMAFile(file), file), 1 << 18)
        if kind == "zstd":
            return io.BufferedReader(_Zstd(file), 1 << 18)
        return file
    except BaseException:
        file.close()
        raise


def sha256_of(path: Path) -> str:
    """Hex sha256 of the file's bytes as they lie on disk. Errors: OSError."""
    with open(path, "rb", buffering=0) as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _sha256(file)
        )


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


class _Owner(io.RawIOBase):
    """`inner` as a raw stream that gives out what it has before it fails, and closes `file` with
    itself.
    """

    def __init__(self, inner, file: BinaryIO):
        self.inner, self.file = inner, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self.inner.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.inner.close()
        self.file.close()
        super().close()


class _Zstd(io.RawIOBase):
    """Any number of zstd frames; the library's own stream reader takes a truncated frame for a
    complete one.
    """

    def __init__(self, file: BinaryIO):
        import zstandard

        self.file = file
        self.new = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
        self.error = zstandard.ZstdError
        self.frame, self.pending = None, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.pending:
            data = self.file.read(1 << 16)
            if not data and self.frame is None:
                return 0
            if not data:
                raise EOFError("the last zstd frame is cut short")
            self.pending = self._decompress(data)
        n = min(len(buffer), len(self.pending))
        buffer[:n], self.pending = self.pending[:n], self.pending[n:]
        return n

    def _decompress(self, data: bytes) -> bytes:
        parts = []
        try:
            while data:
                self.frame = self.frame or self.new()
                parts.append(self.frame.decompress(data))
                if not self.frame.eof:
                    break
                data, self.frame = self.frame.unused_data, None
        except self.error as error:
            raise OSError(f"damaged zstd data: {error}") from error
        return b"".join(parts)

    def close(self) -> None:
        self.file.close()
        super().close()
