"""A path -> records. FASTA or FASTQ, plain or compressed, one record in memory at a time.

Knows the letters of nucleotides and what a broken file looks like: damage costs the record it hits,
and every record that can be told is given out. Does not know of chunks, frames or tables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import VirNucProError, escaped
from virnucpro.sequences.compressed import Damaged, InputBytes, NotRegular
from virnucpro.sequences.inputs import InputFile
from virnucpro.sequences.lines import Broken, RawRecord, raw_records

IUPAC = b"ACGTRYSWKMBDHVN"
PEEK = 1 << 10  # bytes that tell FASTQ from FASTA
PROTEIN = b"ABCDEFGHIKLMNPQRSTVWXYZUOJ*"


class UnreadableInput(VirNucProError):
    """A file cannot be read, or not to its end; the records before the damage have been given out.

    passing: the environment failed and not the file's content, so that another try may succeed.
    """

    def __init__(self, message: str, passing: bool = False):
        super().__init__(message)
        self.passing = passing


@dataclass(frozen=True, slots=True)
class Record:
    """`sequence`: upper case, U as T, no white space. `problem`: "" or why this record cannot be
    answered.
    """

    name: str
    sequence: bytes
    notes: tuple[str, ...] = ()
    problem: str = ""


class RecordReader:
    """The records of one file, in order, by iterating once. Errors, also while iterating:
    UnreadableInput, after the intact records have been given out.

    When the data break off inside a compressed stream, the record being read is not given out: it
    may be cut.
    """

    def __init__(self, path: Path):
        self.is_fastq = False  # told when iterating begins
        try:
            self._bytes = InputBytes(path)
        except NotRegular as error:
            raise UnreadableInput(str(error), passing=True) from error
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            why = getattr(error, "strerror", None) or error
            raise UnreadableInput(f"cannot be opened: {why}", passing=True) from error

    def __iter__(self) -> Iterator[Record]:
        number = 0
        try:
            self.is_fastq = (
                self._bytes.stream.peek(PEEK).lstrip(b"\xef\xbb\xbf\0 \t\r\n")[:1] == b"@"
            )
            for number, raw in enumerate(raw_records(self._bytes.stream), start=1):
                yield make_record(raw, number)
            if self._bytes.left_out:
                records = f"{number} record{'' if number == 1 else 's'}"
                raise UnreadableInput(f"{self._bytes.left_out[0]}; {records} read")
        except Broken as error:
            raise UnreadableInput(str(error)) from error
        except Damaged as error:
            raise UnreadableInput(f"{error}; {_intact(number)} read before that") from error
        except MemoryError as error:
            what = f"not enough memory; {_intact(number)} read before that"
            raise UnreadableInput(what, passing=True) from error
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            what = f"reading failed: {why}; {_intact(number)} read before that"
            raise UnreadableInput(what, passing=True) from error

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the file but cost no record; whole after iterating."""
        return self._bytes.warnings

    def sha256(self) -> str:
        """Hex sha256 of the bytes on disk that were read, to the end of the file. Errors:
        UnreadableInput.
        """
        try:
            return self._bytes.sha256()
        except OSError as error:
            raise UnreadableInput(f"reading failed: {error.strerror}", passing=True) from error

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._bytes.__exit__()


def read_records(file: InputFile) -> Iterator[Record]:
    """The records of one file, in order. Errors: UnreadableInput, which names the file."""
    try:
        with RecordReader(file.path) as reader:
            yield from reader
    except UnreadableInput as error:
        raise UnreadableInput(f"{file.shown}: {error}", error.passing) from error


def make_record(raw: RawRecord, number: int) -> Record:
    """The record of a header line and its sequence; `number` (from 1, in its file) names it if the
    header does not.
    """
    words = raw.title.decode("utf-8", "surrogateescape").split(None, 1)
    word = words[0] if words else f"unnamed_{number}"
    name = escaped(word)
    notes = [] if name == word else ["name_escaped"]
    problem = raw.problem or ("its header holds NUL bytes" if b"\0" in raw.title else "")
    sequence = raw.sequence
    others = b"" if problem else sequence.translate(None, b"ACGT")
    if not others:
        return Record(name, sequence, tuple(notes), problem)
    if b"U" in others:
        notes.append("rna")
        sequence, others = sequence.replace(b"U", b"T"), others.replace(b"U", b"")
    if bad := others.translate(None, IUPAC):
        problem = _problem(bad)
    elif others:
        notes.append("ambiguous_bases")
    return Record(name, sequence, tuple(notes), problem)


def _problem(bad: bytes) -> str:
    """Why letters that are no IUPAC nucleotide codes make a record unanswerable, in one line."""
    found = [
        chr(letter) if 32 < letter < 127 else f"\\x{letter:02x}" for letter in sorted(set(bad))
    ]
    shown = " ".join(found[:12])
    codes = "is no nucleotide code" if len(found) == 1 else "are no nucleotide codes"
    letter = "letter" if len(found) == 1 else "letters"
    if not bad.isascii():
        return f"the sequence holds letters outside ASCII ({shown}); give nucleotides"
    if set(bad) <= set(b"-.~"):
        return f"the sequence holds gaps ({shown}), as in an alignment; remove them"
    if set(bad) <= set(PROTEIN) and bad.strip(b"X*"):
        return f"the {letter} {shown} {codes}, the sequence looks like protein; give nucleotides"
    return f"the {letter} {shown} {codes} (IUPAC); correct or remove the record"


def _intact(number: int) -> str:
    return f"{number} intact record{'' if number == 1 else 's'}"
