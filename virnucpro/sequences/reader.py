"""Paths -> records. FASTA or FASTQ, plain or compressed, one record in memory at a time.

Knows the letters of nucleotides and what a broken file looks like; does not know of chunks, frames
or tables.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from Bio.SeqIO.FastaIO import SimpleFastaParser
from Bio.SeqIO.QualityIO import FastqGeneralIterator

from virnucpro.errors import UsageError, VirNucProError, one_line
from virnucpro.sequences import compressed

FORMAT_SUFFIXES = (
    ".fasta",
    ".fa",
    ".fna",
    ".ffn",
    ".fas",
    ".fsa",
    ".frn",
    ".mpfa",
    ".fastq",
    ".fq",
    ".seq",
)
IUPAC = b"ACGTRYSWKMBDHVN"
PROTEIN = b"ABCDEFGHIKLMNPQRSTVWXYZUOJ*"
_WHITE = b" \t\r\n\v\f"


class UnreadableInput(VirNucProError):
    """A file cannot be read, or not to its end; the records before the damage have been
    given out.
    """


@dataclass(frozen=True, slots=True)
class InputFile:
    """`source`: how the tables call the file; `stem`: how its folder of results is called. Both
    unique in a run.
    """

    path: Path
    source: str
    stem: str


@dataclass(frozen=True, slots=True)
class Record:
    """`sequence`: upper case, U as T, no white space. `problem`: "" or why this record cannot be
    answered.
    """

    name: str
    sequence: bytes
    notes: tuple[str, ...] = ()
    problem: str = ""


# --- which files
# ------------------------------------------------------------------------------------------


def find_inputs(paths: Iterable[Path | str]) -> tuple[InputFile, ...]:
    """The files of `paths`, in order; a directory stands for its sequence files, sorted by name.

    A path that does not exist stays in: it fails alone when it is read. The same file given twice
    is read twice. Errors: UsageError when there is no path at all, one is an empty word, or a
    directory holds no sequence file.
    """
    files: list[Path] = []
    for given in paths:
        path = Path(given)
        # of an unset variable of a shell, say; as a path it would be all of the current directory
        if str(given) == "":
            raise UsageError(
                "input '': the name is empty; name a FASTA or FASTQ file, or . for those in this"
                " directory"
            )
        files += _sequence_files(path) if path.is_dir() else [path]
    if not files:
        raise UsageError(
            "no input: name at least one FASTA or FASTQ file, a directory of them, or - for"
            " standard input"
        )
    bases = Counter(path.name for path in files)
    sources = _unique([path.name if bases[path.name] == 1 else str(path) for path in files])
    stems = _unique([stem_of(path.name) for path in files])
    return tuple(InputFile(*triple) for triple in zip(files, sources, stems, strict=True))


def stem_of(name: str) -> str:
    """`name` without its compression and FASTA or FASTQ suffix: `a.b.fna.gz` -> `a.b`."""
    for suffixes in (compressed.SUFFIXES, FORMAT_SUFFIXES):
        suffix = next((s for s in suffixes if name.lower().endswith(s) and len(name) > len(s)), "")
        name = name[: len(name) - len(suffix)]
    return name


def spool_stdin(directory: Path) -> InputFile:
    """Standard input as a file in `directory`, so that every process can read it.

    Errors: UsageError at a terminal.
    """
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise UsageError(
            "input -: standard input is a terminal; pipe sequences into it or name a file"
        )
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "stdin"
    with open(path, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return InputFile(path, "stdin", "stdin")


def _sequence_files(directory: Path) -> list[Path]:
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}; make the directory readable") from error
    files = [
        path
        for path in entries
        if path.is_file() and not path.name.startswith(".") and _has_suffix(path.name)
    ]
    if not files:
        wanted = " ".join(FORMAT_SUFFIXES)
        raise UsageError(
            f"{directory}: no sequence file in this directory; wanted {wanted}, plain or .gz .bz2"
            " .xz .zst"
        )
    return files


def _has_suffix(name: str) -> bool:
    name = name.lower()
    name = next((name[: -len(s)] for s in compressed.SUFFIXES if name.endswith(s)), name)
    return name.endswith(FORMAT_SUFFIXES)


def _unique(names: list[str]) -> list[str]:
    """`names` with `_2`, `_3` ...

    behind the later of equal ones, never meeting a name that is there already.
    """
    taken, given = set(names), set()
    out = []
    for name in names:
        new, n = name, 1
        while new in given or (n > 1 and new in taken):
            n += 1
            new = f"{name}_{n}"
        given.add(new)
        out.append(new)
    return out


# --- what is in them
# ------------------------------------------------------------------------------------------


def read_records(file: InputFile) -> Iterator[Record]:
    """The records of one file, in order. Errors: UnreadableInput, after the intact records have
    been given out.

    When the data break off inside a compressed stream, the record being read is not given out: it
    may be cut.
    """
    number = 0
    try:
        with _text(file.path) as text:
            for number, (title, letters) in enumerate(_parse(text), start=1):
                yield make_record(title, letters, number)
    except compressed.DAMAGE as error:
        raise UnreadableInput(_explain(error, number)) from error


def make_record(title: str, letters: str, number: int) -> Record:
    """The record of a header line and its sequence; `number` (from 1, in its file) names it if the
    header does not.
    """
    name = next(iter(title.split(None, 1)), f"unnamed_{number}")
    sequence = letters.encode("ascii", "replace").upper()
    others = sequence.translate(None, b"ACGT")
    if not others:
        return Record(name, sequence)
    if others.translate(None, b"U" + IUPAC):
        sequence = sequence.translate(None, _WHITE)
        others = others.translate(None, _WHITE)
    notes = []
    if b"U" in others:
        notes.append("rna")
        sequence, others = sequence.replace(b"U", b"T"), others.replace(b"U", b"")
    if bad := others.translate(None, IUPAC):
        return Record(name, sequence, tuple(notes), _problem(letters, bad))
    if others:
        notes.append("ambiguous_bases")
    return Record(name, sequence, tuple(notes))


def _problem(letters: str, bad: bytes) -> str:
    """Why letters that are no IUPAC nucleotide codes make a record unanswerable, in one line."""
    found = sorted({chr(letter) if letter > 32 else f"\\x{letter:02x}" for letter in bad})[:12]
    shown, codes = (
        " ".join(found),
        "is no nucleotide code" if len(found) == 1 else "are no nucleotide codes",
    )
    letter = "letter" if len(found) == 1 else "letters"
    if not letters.isascii():
        return f"the sequence holds letters outside ASCII ({shown}); give nucleotides"
    if set(bad) <= set(b"-.~"):
        return f"the sequence holds gaps ({shown}), as in an alignment; remove them"
    if set(bad) <= set(PROTEIN) and bad.strip(b"X*"):
        return f"the {letter} {shown} {codes}, the sequence looks like protein; give nucleotides"
    return f"the {letter} {shown} {codes} (IUPAC); correct or remove the record"


def _text(path: Path) -> TextIO:
    """`path` as text, lines ended by \\n whatever ended them. Errors: UnreadableInput."""
    if path.is_dir():
        raise UnreadableInput("is a directory; name its files")
    try:
        data = compressed.open_bytes(path)
    except OSError as error:
        raise UnreadableInput(f"cannot be opened: {error.strerror or error}") from error
    return io.TextIOWrapper(data, encoding="utf-8", errors="backslashreplace", newline=None)


def _parse(text: TextIO) -> Iterator[tuple[str, str]]:
    """(header, sequence) of FASTA or FASTQ, told by the first letter that is not white space."""
    data: io.BufferedReader = text.buffer  # type: ignore[assignment]  # nothing has been read through `text` yet
    while (head := data.peek(1 << 12)) and not (
        start := head.removeprefix(b"\xef\xbb\xbf").lstrip()
    ):
        data.read(len(head))
    if not head:
        return
    data.read(len(head) - len(start))
    if b"\0" in start or start.startswith((b"PK\x03\x04", b"Rar!", b"7z\xbc\xaf", b"%PDF")):
        raise UnreadableInput("is a binary file; give FASTA or FASTQ, plain or gz, bz2, xz, zst")
    if start[:1] == b">":
        yield from _fasta(text)
    elif start[:1] == b"@":
        yield from _fastq(text)
    elif not start[:1].isascii():
        raise UnreadableInput("is a binary file; give FASTA or FASTQ, plain or gz, bz2, xz, zst")
    else:
        raise UnreadableInput(
            f"starts with {start[:1].decode()!r}: neither FASTA ('>') nor FASTQ ('@')"
        )


def _fasta(text: TextIO) -> Iterator[tuple[str, str]]:
    for title, letters in SimpleFastaParser(text):
        if "\0" in letters[:64]:
            raise UnreadableInput(
                f"binary data after record {title.split(None, 1)[0] if title else ''}"
            )
        yield title, letters


def _fastq(text: TextIO) -> Iterator[tuple[str, str]]:
    number = 0
    try:
        for number, (title, letters, _) in enumerate(FastqGeneralIterator(text), start=1):  # noqa: B007
            yield title, letters
    except ValueError as error:
        raise UnreadableInput(
            f"FASTQ broken or cut short after {_intact(number)}: {one_line(error)}"
        ) from error


def _explain(error: BaseException, intact: int) -> str:
    what = {EOFError: "the compressed data are cut short"}.get(
        type(error), f"the data are damaged ({one_line(error)})"
    )
    if isinstance(error, OSError) and error.errno:
        what = f"reading failed: {os.strerror(error.errno)}"
    return f"{what}; {_intact(intact)} read before that"


def _intact(number: int) -> str:
    return f"{number} intact record{'' if number == 1 else 's'}"
