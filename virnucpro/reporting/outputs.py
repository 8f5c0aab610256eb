"""One object owns every path of the output directory, and the only way a file gets there: whole or
not at all.

Knows names, phrases and how to write safely; does not know what is inside the files.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.files import LEFTOVER, explained

if TYPE_CHECKING:
    from virnucpro.settings import PredictSettings

PHRASES = {
    "contigs": "every sequence: its score, call, and why",
    "virus_summary": "what was called virus, best first",
    "virus_fasta": "the sequences called virus, best first",
    "regions": "virus-like regions of long sequences",
    "regions_bed": "the same regions for genome browsers (0-based, half-open)",
    "regions_fasta": "the sequences of these regions",
    "report": "the result as one page",
    "multiqc": "the counts for MultiQC",
    "chunks": "every chunk, scored or not",
    "frames": "every frame that was taken, and its scores",
    "features": "ids and one feature row a frame (torch.load)",
    "run_json": "what ran on what: versions, hashes, counts, seconds",
    "run_log": "the log",
    "failed_files": "what failed, where and why",
}


@dataclass(frozen=True)
class Outputs:
    """Paths of one run.

    `stems`: one an input file, unique, as the original's tables are named by them.
    """

    directory: Path
    stems: tuple[str, ...] = ()
    table_format: str = "tsv"  # or "parquet": contigs, chunks and frames then end in .parquet

    @classmethod
    def of(cls, settings: PredictSettings) -> Outputs:
        """The paths of a run with these settings."""
        return cls(
            settings.output_dir,
            tuple(file.stem for file in settings.inputs),
            settings.call.table_format,
        )

    @property
    def contigs(self) -> Path:
        return self.directory / f"contigs.{self.table_format}"

    @property
    def chunks(self) -> Path:
        return self.directory / f"chunks.{self.table_format}"

    @property
    def frames(self) -> Path:
        return self.directory / f"frames.{self.table_format}"

    @property
    def virus_summary(self) -> Path:
        return self.directory / "virus_summary.tsv"

    @property
    def virus_fasta(self) -> Path:
        return self.directory / "virus.fna"

    @property
    def regions(self) -> Path:
        return self.directory / "regions.tsv"

    @property
    def regions_bed(self) -> Path:
        return self.directory / "regions.bed"

    @property
    def regions_fasta(self) -> Path:
        return self.directory / "regions.fna"

    @property
    def report(self) -> Path:
        return self.directory / "report.html"

    @property
    def multiqc(self) -> Path:
        return self.directory / "multiqc_mqc.json"

    @property
    def features(self) -> Path:
        return self.directory / "merged_features.pt"

    @property
    def run_json(self) -> Path:
        return self.directory / "run.json"

    @property
    def run_log(self) -> Path:
        return self.directory / "run.log"

    @property
    def failed_files(self) -> Path:
        return self.directory / "failed_files.txt"

    def merged_directory(self, stem: str) -> Path:
        return self.directory / f"{stem}_merged"

    def prediction_results(self, stem: str) -> Path:
        return self.merged_directory(stem) / "prediction_results.txt"

    def highest_scores(self, stem: str) -> Path:
        return self.merged_directory(stem) / "prediction_results_highestscore.csv"

    def prepare(self) -> None:
        """Make the directories and clear unfinished files of a run that was killed.

        Raises OutputError.
        """
        folders = [self.directory, *(self.merged_directory(stem) for stem in self.stems)]
        for folder in folders:
            with explained(folder):
                folder.mkdir(parents=True, exist_ok=True)
                for leftover in folder.glob(LEFTOVER + "*"):
                    leftover.unlink(missing_ok=True)
        with explained(self.directory):
            handle, name = tempfile.mkstemp(prefix=LEFTOVER, dir=self.directory)
            os.close(handle)
            os.unlink(name)

    def discard_stale(self) -> None:
        """Remove the tables an earlier run wrote in the other format, so that no old answer lies
        beside a new one.
        """
        other = "parquet" if self.table_format == "tsv" else "tsv"
        for path in (self.contigs, self.chunks, self.frames):
            path.with_suffix(f".{other}").unlink(missing_ok=True)

    def remove(self) -> None:
        """Unlink every file an earlier run may have left: both table formats, and the original's
        files.

        Those of other stems too where a `run.json` says that the directory is ours: else they may
        be the original program's.
        """
        tables = [
            path.with_suffix(f".{kind}")
            for path in (self.contigs, self.chunks, self.frames)
            for kind in ("tsv", "parquet")
        ]
        stems = set(self.stems)
        if self.run_json.exists():
            stems |= {
                folder.name.removesuffix("_merged") for folder in self.directory.glob("*_merged")
            }
        owned = [getattr(self, key) for key in PHRASES] + tables
        owned += [
            path
            for stem in stems
            for path in (self.prediction_results(stem), self.highest_scores(stem))
        ]
        for path in owned:
            with explained(path):
                path.unlink(missing_ok=True)
        for stem in stems:
            # not there, or something of somebody else's is in it
            with contextlib.suppress(OSError):
                self.merged_directory(stem).rmdir()

    def tree(self, existing_only: bool = False) -> list[tuple[str, str]]:
        """(path below the directory, phrase) of every file a run writes, in reading order."""
        rows = [(getattr(self, key), phrase) for key, phrase in PHRASES.items()]
        for stem in self.stems:
            rows.append((self.prediction_results(stem), "the original program's table of frames"))
            rows.append((self.highest_scores(stem), "the original program's table of chunks"))
        chosen = [row for row in rows if not existing_only or row[0].exists()]
        return [(path.relative_to(self.directory).as_posix(), phrase) for path, phrase in chosen]
