"""Bytes of FASTA or FASTQ -> header lines with their letters, in bounded memory.

Knows the lines of both formats and where the next record begins after damage. Does not know what
the letters mean. `>` and `@` are no letters of a sequence, so a file joined of both formats is read
whole, and a `>` inside a line tells that a newline is missing before it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MOST_BASES = 1 << 29  # of one record; the longest human chromosome has half as many
MOST_TITLE = 1 << 16  # bytes of a header line that are kept; only its first word is used
MOST_WORD = 1 << 8  # bytes of a name in a message
BLOCK = 1 << 18
_WHITE = b" \t\n\v\f"
_UPPER = bytes(range(256)).upper()
_NUCLEOTIDES = b"ACGTURYSWKMBDHVNacgturyswkmbdhvn\0"  # and what a damaged disk leaves
_REST_OF_FOUR_LINES = re.compile(rb"\n*([A-Za-z]+)\n+\+[^\n]*\n+([!-~]+)\n")
_TOO_LONG = f"longer than {MOST_BASES:,} bases; split it into shorter records"
_BINARY = "is a binary file; give FASTA or FASTQ, plain or gz, bz2, xz, zst"


class Broken(Exception):
    """The file is not FASTA or FASTQ, or holds lines that belong to no record; raised after its
    records.
    """


@dataclass(frozen=True, slots=True)
class RawRecord:
    """`title`: the header line behind its first letter; `sequence`: upper case, no white space;
    `problem`: "" or why the record is not whole.
    """

    title: bytes
    sequence: bytes
    problem: str = ""


def raw_records(stream: BinaryIO) -> Iterator[RawRecord]:
    """The records in order. Errors: Broken; those of reading `stream`."""
    text = _Text(stream)
    damage = _skip_to_first(text)
    number = 0
    record: RawRecord | None
    while line := text.line(MOST_TITLE):
        if line[:1] == b">":
            record = _fasta(text, line[1:].rstrip())
        elif line[:1] == b"@":
            record = _fastq(text, line[1:].rstrip())
            if record is None:
                raise Broken(f"FASTQ broken or cut short after {_intact(number)}")
        else:
            damage = damage or f"lines that belong to no record follow {_intact(number)}"
            continue
        yield record
        number += not record.problem
    if damage:
        raise Broken(damage)


def _intact(number: int) -> str:
    return f"{number} intact record{'' if number == 1 else 's'}"


def _skip_to_first(text: _Text) -> str:
    """Go to the first record; the damage before it, or "". Errors: Broken where the file is no
    FASTA or FASTQ at all.
    """
    damage = ""
    if text.rest().startswith(b"\xef\xbb\xbf"):  # the mark of UTF-8
        text.at += 3
    while not (start := text.rest().lstrip(_WHITE + b"\0")):
        damage = damage or ("NUL bytes lie before its first record" if b"\0" in text.rest() else "")
        text.at = len(text.block)
        if not text.more():
            if damage:
                raise Broken(_BINARY)
            return ""
    skipped = text.rest()[: len(text.rest()) - len(start)]
    text.at += len(skipped)
    if start[:1] in (b">", b"@"):
        return damage or ("NUL bytes lie before its first record" if b"\0" in skipped else "")
    if b"\0" in start or not start[:1].isascii() or start[:1] < b" ":
        raise Broken(_BINARY)
    if start.startswith((b"PK\x03\x04", b"Rar!", b"7z\xbc\xaf", b"%PDF")):
        raise Broken(_BINARY)
    raise Broken(f"starts with {start[:1].decode()!r}: neither FASTA ('>') nor FASTQ ('@')")


class _Text:
    """The text in blocks, with line feeds for all line ends, and a place in the block."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._waiting: deque[bytes] = deque()  # lines that were put back
        self.block, self.at = b"", 0
        self.more()

    def more(self) -> bool:
        """Read another block, after what is left of this one; False at the end."""
        data = self._stream.read1(BLOCK)  # type: ignore[attr-defined]  # a buffered reader
        # \r\n becomes two line ends: blank lines mean nothing
        self.block, self.at = self.rest() + data.replace(b"\r", b"\n"), 0
        return bool(data)

    def rest(self) -> bytes:
        return self.block[self.at :]

    def line(self, keep: int) -> bytes:
        """The next line that is not blank, without its end, and of a longer one than `keep` only so
        much; b"" at the end.
        """
        if self._waiting:
            return self._waiting.popleft()
        while True:
            line = self._any_line(keep)
            if line is None or (line and not line.isspace()):
                return line or b""

    def match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """What of the block matches here, where no line waits."""
        return None if self._waiting else pattern.match(self.block, self.at)

    def put_back(self, *lines: bytes) -> None:
        """Have these lines come next, before those that were put back earlier."""
        self._waiting.extendleft(reversed([line for line in lines if line]))

    def as_block(self) -> None:
        """Have lines that were put back in the block, for who reads that."""
        if self._waiting:
            self.block, self.at = b"\n".join([*self._waiting, self.rest()]), 0
            self._waiting.clear()

    def peek(self, n: int) -> bytes:
        """The next `n` bytes, fewer at the end, which come again."""
        while len(self.block) - self.at < n and self.more():
            pass
        return self.block[self.at : self.at + n]

    def _any_line(self, keep: int) -> bytes | None:
        parts: list[bytes] = []
        size = 0
        while True:
            end = self.block.find(b"\n", self.at)
            if 0 <= end <= self.at + keep and not parts:  # as a rule
                self.at, line = end + 1, self.block[self.at : end]
                return line
            part = self.block[self.at : end] if end >= 0 else self.rest()
            parts.append(part[: keep - size])
            size += len(parts[-1])
            if end >= 0:
                self.at = end + 1
                return b"".join(parts)
            self.at = len(self.block)
            if not self.more():
                return b"".join(parts) if size else None


class _Letters:
    """The letters of a record as they come, bounded."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0
        # of the line so far: whether it has no letter; none but nucleotides and NUL bytes
        self.line_is_blank = self.line_is_clean = True

    def add(self, text: bytes) -> None:
        letters = text.translate(_UPPER, _WHITE)
        self.size += len(letters)
        if self.size > MOST_BASES:
            self._parts.clear()
        elif letters:
            self._parts.append(letters)
        if at := text.rfind(b"\n") + 1:
            letters = text[at:].translate(None, _WHITE)
            self.line_is_blank = self.line_is_clean = True
        self.line_is_blank &= not letters
        self.line_is_clean &= not letters.translate(None, _NUCLEOTIDES)

    def record(self, title: bytes, problem: str = "") -> RawRecord:
        if self.size > MOST_BASES:
            return RawRecord(title, b"", _TOO_LONG)
        return RawRecord(title, b"".join(self._parts), problem)


def _fasta(text: _Text, title: bytes) -> RawRecord:
    """The record whose header line has just been read; `text` is then at the next one."""
    text.as_block()
    stop = _next_mark(text)
    if text.at < stop < len(text.block) and text.block[stop - 1 : stop] == b"\n":  # as a rule
        sequence = text.block[text.at : stop].translate(_UPPER, _WHITE)
        text.at = stop
        return RawRecord(title, sequence)
    letters = _Letters()
    while True:
        stop = _next_mark(text)
        letters.add(text.block[text.at : stop])
        text.at = stop
        if stop == len(text.block):
            if not text.more():
                return letters.record(title)
            continue
        if letters.line_is_blank:
            return letters.record(title)
        if letters.line_is_clean and (word := _word_of_header(text)):
            return letters.record(title, _glued(word))
        # a letter that is no nucleotide: the rest of the line belongs to it
        end = text.block.find(b"\n", text.at)
        end = end if end >= 0 else len(text.block)
        letters.add(text.block[text.at : end])
        text.at = end


def _word_of_header(text: _Text) -> str:
    """The first word of the header that begins here, inside a line; "" where none does."""
    header = text.peek(MOST_WORD).partition(b"\n")[0]
    if header[:1] != b">" or not header[1:2].strip(_WHITE + b"\0"):
        return ""
    return header[1:].split(None, 1)[0].decode("utf-8", "backslashreplace")


def _next_mark(text: _Text) -> int:
    """Where the next `>` or `@` of the block is, or its end."""
    stop = text.block.find(b">", text.at)
    stop = stop if stop >= 0 else len(text.block)
    other = text.block.find(b"@", text.at, stop)
    return other if other >= 0 else stop


def _glued(word: str) -> str:
    return (
        f"the header of {word} follows inside a line: perhaps a newline is missing where two files"
        f" were joined; {word} is read as a record of its own"
    )


def _fastq(text: _Text, title: bytes) -> RawRecord | None:
    """The record whose header line has just been read; None where the file ends inside it.

    Where the record is broken, `text` is then at the next line that can be a header.
    """
    if four := text.match(_REST_OF_FOUR_LINES):  # as a rule
        sequence, quality = four.groups()
        if len(sequence) == len(quality):
            text.at = four.end()
            return RawRecord(title, sequence.upper())
    letters, n_lines = _Letters(), 0
    while (line := text.line(MOST_BASES + 1))[:1] not in (b"+", b"@", b">", b""):
        letters.add(line)
        n_lines += 1
    if not line:
        return None
    if line[:1] != b"+":
        text.put_back(line)
        return letters.record(title, "FASTQ broken: its line with '+' is missing")
    n_quality = 0
    while n_quality < letters.size:
        line = text.line(MOST_BASES + 1)
        if not line:
            return None
        n_quality += len(line.strip(_WHITE))
        if n_quality < letters.size and n_lines == 1:
            break
    if n_quality == letters.size:
        return letters.record(title)
    return _broken(text, letters, title, line, n_quality)


def _broken(
    text: _Text, letters: _Letters, title: bytes, line: bytes, quality: int
) -> RawRecord | None:
    """A FASTQ record whose `quality` letters, those of `line` the last, are not as many as its
    letters.
    """
    at = len(line) - (quality - letters.size)
    if quality > letters.size and line[at : at + 1] == b"@":
        text.put_back(line[at:])
        word = line[at + 1 : at + MOST_WORD].split(None, 1)[:1]
        return letters.record(title, _glued(b"".join(word).decode("utf-8", "backslashreplace")))
    text.put_back(line)  # of too short a quality it may be the next header
    while line := text.line(MOST_BASES + 1):
        if line[:1] == b">":
            text.put_back(line)
            break
        if line[:1] == b"@":
            sequence, plus = text.line(MOST_BASES + 1), text.line(MOST_BASES + 1)
            text.put_back(sequence, plus)
            if plus[:1] == b"+" and sequence[:1] not in (b"+", b"@", b">"):
                text.put_back(line)
                break
    else:
        return None
    return letters.record(
        title, f"FASTQ broken: {letters.size:,} letters but {quality:,} of quality"
    )
