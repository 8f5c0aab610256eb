"""One object owns every path of the output directory, and the only way a file gets there: whole or
not at all.

Knows names, phrases and how to write safely; does not know what is inside the files.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.errors import StoreError, UsageError
from virnucpro.files import LEFTOVER, directory_handle, explained, make_directory, remove_tree
from virnucpro.settings import TABLE_FORMATS

if TYPE_CHECKING:
    from virnucpro.settings import PredictSettings

HIDDEN = ".virnucpro"  # the directory of unfinished work
SPOOL = ".virnucpro-stdin"  # the directory of what came through standard input or a pipe
KEPT = ".virnucpro-input"  # the same of a finished run, for `summarize`


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file of the output directory: a class attribute of `Outputs` that gives its path.

    name: with `{table}` where the ending is that of the tables; phrase: for the tree of files on
    the terminal and in the docs.
    """

    name: str
    phrase: str

    def __get__(self, outputs: Outputs, owner: type[Outputs]) -> Path:
        return outputs.directory / self.name.format(table=outputs.table_format)

    def in_every_format(self, directory: Path) -> list[Path]:
        """Its path in each format of the tables: one path where its ending is always the same."""
        names = dict.fromkeys(self.name.format(table=one) for one in TABLE_FORMATS)
        return [directory / name for name in names]


@dataclass(frozen=True)
class Outputs:
    """Paths of one run.

    `stems`: one an input file, unique, as the original's tables are named by them.
    """

    directory: Path
    stems: tuple[str, ...] = ()
    table_format: str = "tsv"  # or another of TABLE_FORMATS: the ending of contigs, chunks, frames

    @classmethod
    def of(cls, settings: PredictSettings) -> Outputs:
        """The paths of a run with these settings."""
        return cls(
            settings.output_dir,
            tuple(file.stem for file in settings.inputs),
            settings.call.table_format,
        )

    contigs = OutputFile("contigs.{table}", "every sequence: its score, call, and why")
    virus_summary = OutputFile("virus_summary.tsv", "what was called virus, best first")
    virus_fasta = OutputFile("virus.fna", "the sequences called virus, best first")
    regions = OutputFile("regions.tsv", "virus-like regions of long sequences")
    regions_bed = OutputFile(
        "regions.bed", "the same regions for genome browsers (0-based, half-open)"
    )
    regions_fasta = OutputFile("regions.fna", "the sequences of these regions")
    hits = OutputFile("hits.tsv", "hits with known proteins, where these were searched")
    report = OutputFile("report.html", "the result as one page")
    multiqc = OutputFile("multiqc_mqc.json", "the counts for MultiQC")
    chunks = OutputFile("chunks.{table}", "every chunk, scored or not")
    frames = OutputFile("frames.{table}", "every frame that was taken, and its scores")
    features = OutputFile("merged_features.pt", "ids and one feature row a frame (torch.load)")
    run_json = OutputFile("run.json", "what ran on what: versions, hashes, counts, seconds")
    run_log = OutputFile("run.log", "the log")
    failed_files = OutputFile("failed_files.txt", "what failed, where and why")

    def merged_directory(self, stem: str) -> Path:
        """The folder of an input's tables as the original program writes them."""
        return self.directory / f"{stem}_merged"

    def prediction_results(self, stem: str) -> Path:
        """Every frame of an input."""
        return self.merged_directory(stem) / "prediction_results.txt"

    def highest_scores(self, stem: str) -> Path:
        """Every scored chunk of an input."""
        return self.merged_directory(stem) / "prediction_results_highestscore.csv"

    def prepare(self) -> None:
        """Make the directories and clear unfinished files of a run that was killed.

        Raises OutputError, also where one of them is a link that somebody has prepared.
        """
        with explained(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        for stem in self.stems:
            with explained(self.merged_directory(stem)):
                make_directory(self.merged_directory(stem))
        refuse_one_directory(map(self.merged_directory, self.stems))
        for folder in (self.directory, *map(self.merged_directory, self.stems)):
            with explained(folder), directory_handle(folder, self.directory) as handle:
                for name in os.listdir(handle):
                    if name.startswith(LEFTOVER):
                        with contextlib.suppress(OSError):  # another user's
                            remove_tree(name, handle)
        with explained(self.directory), tempfile.TemporaryFile(dir=self.directory):
            pass

    def discard_stale(self) -> None:
        """Remove the tables an earlier run wrote in another format, so that no old answer lies
        beside a new one.
        """
        for key, file in FILES.items():
            for path in file.in_every_format(self.directory):
                if path != getattr(self, key):
                    path.unlink(missing_ok=True)

    def names(self) -> list[Path]:
        """Every path that a run may write or `--force` may remove: tables in every format, and the
        original's files.

        Those of other stems too where a `run.json` says that the directory is ours: else they may
        be the original program's.
        """
        formats = (file.in_every_format(self.directory) for file in FILES.values())
        return [*chain.from_iterable(formats), *self._originals()]

    def _originals(self) -> list[Path]:
        stems = list(self.stems)
        if self.run_json.exists():
            stems += [
                folder.name.removesuffix("_merged") for folder in self.directory.glob("*_merged")
            ]
        files = (self.prediction_results, self.highest_scores)
        return [file(stem) for stem in dict.fromkeys(stems) for file in files]

    def refuse_inputs(self, given: Iterable[Path]) -> None:
        """Raise UsageError where what a run is to read would be overwritten or removed by it."""
        refuse_inputs(given, [self])

    def refuse_foreign_files(self) -> None:
        """Raise StoreError where files that are not of a run in here would be overwritten."""
        if self.run_json.exists():
            return
        written_early = (self.run_log, self.failed_files)
        for path in self.names():
            if path not in written_early and os.path.lexists(path):
                raise StoreError(
                    f"{path}: is there already and is not of a run in this directory; choose"
                    " another --output-dir, or replace it with --force (--resume continues what"
                    " an older version has begun)"
                )

    def remove(self) -> None:
        """Remove every file that an earlier run may have left but the log; links are removed, not
        followed. `run.json` goes last: it says that the others are ours.
        """
        names = [path for path in self.names() if path not in (self.run_json, self.run_log)]
        for path in [*names, self.run_json]:
            with (
                explained(path),
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                directory_handle(path.parent, self.directory) as handle,
            ):
                os.unlink(path.name, dir_fd=handle)
        with (
            contextlib.suppress(OSError),
            directory_handle(self.directory) as handle,
        ):
            remove_tree(KEPT, handle)
        for folder in {path.parent for path in names} - {self.directory}:
            # not there, or something of somebody else's is in it
            with contextlib.suppress(OSError):
                folder.rmdir()

    @property
    def set_aside(self) -> Path:
        """The record of the results that are being replaced."""
        return self.directory / HIDDEN / "before.json"

    @contextlib.contextmanager
    def replacing_results(self) -> Iterator[None]:
        """While entered, and after it was left by an error, the directory holds no whole result:
        `run.json` is set aside. The block writes a new one, last.
        """
        if self.run_json.exists():
            with explained(self.run_json):
                make_directory(self.set_aside.parent)
                os.replace(self.run_json, self.set_aside)
        yield
        self.set_aside.unlink(missing_ok=True)

    def tree(self, existing_only: bool = False) -> list[tuple[str, str]]:
        """(path below the directory, phrase) of every file a run writes, in reading order."""
        rows = [(getattr(self, key), file.phrase) for key, file in FILES.items()]
        for stem in self.stems:
            rows.append((self.prediction_results(stem), "the original program's table of frames"))
            rows.append((self.highest_scores(stem), "the original program's table of chunks"))
        chosen = [row for row in rows if not existing_only or row[0].exists()]
        return [(path.relative_to(self.directory).as_posix(), phrase) for path, phrase in chosen]


def refuse_inputs(
    given: Iterable[Path], runs: Iterable[Outputs], more: Iterable[Path] = ()
) -> None:
    """Raise UsageError where one of `given` would be overwritten or removed by one of the runs, or
    is one of the files `more`, which are written too.
    """
    ours: dict[tuple[int, int], Path] = {}
    hidden: set[Path] = set()
    for outputs in runs:
        hidden |= {_real(outputs.directory / name) for name in (HIDDEN, SPOOL, KEPT)}
        ours |= _numbered(outputs.names())
    ours |= _numbered(more)
    for path in given:
        found = set()
        with contextlib.suppress(OSError, ValueError):
            found = {_file_number(path.lstat()), _file_number(path.stat())} & ours.keys()
        inside = [folder for folder in (_real(path), *_real(path).parents) if folder in hidden]
        if found or inside:
            what = ours[found.pop()] if found else inside[0]
            raise UsageError(
                f"{path}: is to be read, and the run would write {what}; choose another"
                " --output-dir"
            )


def refuse_one_directory(folders: Iterable[Path]) -> None:
    """Raise UsageError where two of these directories are one, as they are on a disk that does not
    tell upper case from lower case.
    """
    known: dict[tuple[int, int], Path] = {}
    for folder in folders:
        other = known.setdefault(_file_number(folder.stat()), folder)
        if other != folder:
            raise UsageError(
                f"{other} and {folder.name}: are one directory, as this disk does not tell upper"
                " case from lower case; rename one of the inputs or samples"
            )


def _real(path: Path) -> Path:
    """Without links; what no file can be called stays, and fails when it is opened."""
    with contextlib.suppress(ValueError):
        return Path(os.path.realpath(path))
    return path


def _numbered(paths: Iterable[Path]) -> dict[tuple[int, int], Path]:
    """The paths that are there, by the number of their file."""
    numbered = {}
    for path in paths:
        with contextlib.suppress(OSError):
            numbered[_file_number(path.lstat())] = path
    return numbered


def _file_number(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


# by the names of the attributes, in the order in which they are shown
FILES: Mapping[str, OutputFile] = {
    name: file for name, file in vars(Outputs).items() if isinstance(file, OutputFile)
}
