"""What the user names -> the files of a run, each with the names it has in tables and folders.

Knows directories, suffixes and what is not a regular file; does not know what is in the files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import UsageError, escaped
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
STDIN = "stdin"
RECORD, WRITTEN = "run.json", ("virus.fna", "regions.fna")  # of an output directory
MOST_STEM = 230  # bytes; with `_merged`, `_virnucpro` or a number a name of at most 255
NO_INPUT = (
    "no input: name at least one FASTA or FASTQ file, a directory of them, or - for standard input"
)


@dataclass(frozen=True, slots=True)
class InputFile:
    """`source`: how the tables call the file; `stem`: how its folder of results is called. Both
    unique in a run, and printable. `named`: how the user called it, where its data could be read
    only once and are kept at `path`.
    """

    path: Path
    source: str
    stem: str
    named: str = ""

    @property
    def shown(self) -> str:
        """The path that the user knows."""
        return self.named or str(self.path)


def find_inputs(
    paths: Iterable[Path | str], kept: Mapping[str, Path] | None = None
) -> tuple[InputFile, ...]:
    """The files of `paths`, in order; a directory stands for its sequence files, sorted by name.

    kept: where the data of a path lie that can be read only once. A path that does not exist stays
    in: it fails alone when it is read. The same file given twice is read twice. Errors: UsageError
    when there is no path at all, one is an empty word, or a directory holds no sequence file.
    """
    files: list[tuple[Path, Path | None]] = []  # as named, and where its data are kept
    for given in paths:
        path = Path(given)
        # of an unset variable of a shell, say; as a path it would be all of the current directory
        if str(given) == "":
            raise UsageError(
                "input '': the name is empty; name a FASTA or FASTQ file, or . for those in this"
                " directory"
            )
        if kept and str(given) in kept:
            files.append((Path(STDIN) if str(given) == "-" else path, kept[str(given)]))
        else:
            files += [(f, None) for f in (_sequence_files(path) if os.path.isdir(path) else [path])]
    if not files:
        raise UsageError(NO_INPUT)
    bases = Counter(path.name for path, _ in files)
    sources = _unique(
        [escaped(path.name if bases[path.name] == 1 else str(path)) for path, _ in files]
    )
    stems = _unique([stem_of(path.name) for path, _ in files])
    return tuple(
        InputFile(path, source, stem)
        if place is None
        else InputFile(place, source, stem, str(path))
        for (path, place), source, stem in zip(files, sources, stems, strict=True)
    )


def stem_of(name: str) -> str:
    """`name` without its compression and FASTA or FASTQ suffix (`a.b.fna.gz` -> `a.b`), printable
    and short enough for a name of a folder.
    """
    for suffixes in (compressed.SUFFIXES, FORMAT_SUFFIXES):
        suffix = next((s for s in suffixes if name.lower().endswith(s) and len(name) > len(s)), "")
        name = name[: len(name) - len(suffix)]
    return escaped(name).encode()[:MOST_STEM].decode(errors="ignore")


def _sequence_files(directory: Path) -> list[Path]:
    """Everything in it with the name of a sequence file but directories: what cannot be read is to
    be listed as failed.
    """
    try:
        with os.scandir(directory) as entries:
            files = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and _has_suffix(entry.name) and not _is_dir(entry)
            ]
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}; make the directory readable") from error
    if (directory / RECORD).is_file():  # what an earlier run wrote here is no input
        files = [name for name in files if name not in WRITTEN]
        if not files:
            raise UsageError(
                f"{directory}: is the output directory of an earlier run; for other thresholds"
                f" give: virnucpro summarize {directory}"
            )
    if not files:
        wanted = " ".join(FORMAT_SUFFIXES)
        raise UsageError(
            f"{directory}: no sequence file in this directory; wanted {wanted}, plain or .gz .bz2"
            " .xz .zst"
        )
    return [directory / name for name in sorted(files)]


def _is_dir(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or to where one may not look
        return False


def _has_suffix(name: str) -> bool:
    name = name.lower()
    name = next((name[: -len(s)] for s in compressed.SUFFIXES if name.endswith(s)), name)
    return name.endswith(FORMAT_SUFFIXES)


def _unique(names: list[str]) -> list[str]:
    """`names` with `_2`, `_3` ... at the end of later equal ones; all are then different."""
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
