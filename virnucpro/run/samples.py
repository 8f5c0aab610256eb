"""Many samples in one run: a samplesheet, or an input each -> samples, each with a directory of its
own.

Knows the sheet's columns and what a sample may be called; does not know how a run is carried out.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.errors import UsageError, VirNucProError
from virnucpro.files import explained
from virnucpro.launch import World
from virnucpro.reporting.outputs import Outputs, refuse_inputs, refuse_one_directory
from virnucpro.reporting.result import Result
from virnucpro.reporting.samples import (
    INDEX,
    STATUS,
    SUMMARY,
    SampleOutcome,
    SamplesResult,
    failed,
    finished,
    refuse_foreign_files,
    write_samples,
    write_status,
)
from virnucpro.run.spool import is_read_once
from virnucpro.sequences.inputs import MOST_STEM, find_inputs
from virnucpro.settings import PredictSettings

if TYPE_CHECKING:
    from virnucpro.run.session import Session

log = logging.getLogger(__name__)

SAMPLE = "sample"
FIRST_FILE = ("file", "fasta", "fastq", "fastq_1", "file1", "path")
SECOND_FILE = ("file2", "fastq_2")
MOST_OF_A_SHEET = 64 << 20  # bytes
ADVICE = "columns are sample, file and, where there is a second one, file2"


@dataclass(frozen=True, slots=True)
class Sample:
    """A name, the files that belong to it, and the directory of its results."""

    name: str
    paths: tuple[str, ...]
    directory: Path

    def settings(self, common: PredictSettings) -> PredictSettings:
        """The settings of this sample's run. Errors: UsageError."""
        if self.directory.is_symlink():
            raise UsageError(
                f"{self.directory}: is a link, and links are not followed here; remove it, or"
                " choose another --output-dir"
            )
        for path in self.paths:
            if is_read_once(path):
                raise UsageError(
                    f"{path}: can be read only once, and a sample's files are read twice; write it"
                    " to a file"
                )
        settings = replace(common, inputs=find_inputs(self.paths), output_dir=self.directory)
        Outputs.of(settings).refuse_inputs(file.path for file in settings.inputs)
        return settings


def samples_of(
    given: list[str], sheet: Path | None, per_input: bool, output_dir: Path
) -> tuple[Sample, ...]:
    """The samples of `--samplesheet` or `--per-input`. Errors: UsageError."""
    if sheet is None:
        if "-" in given:
            raise UsageError("--per-input: standard input cannot be a sample; name files")
        found: list[tuple[str, tuple[str, ...]]] = [
            (file.stem, (str(file.path),)) for file in find_inputs(given)
        ]
    elif given or per_input:
        raise UsageError(
            "--samplesheet names the inputs; leave other inputs and --per-input out, or add them"
            " to the sheet"
        )
    else:
        found = read_samplesheet(sheet)
    for name, _ in found:
        _check_name(name, sheet or Path("--per-input"))
    return tuple(Sample(name, paths, output_dir / name) for name, paths in found)


def check_places(
    samples: Sequence[Sample], sheet: Path | None, output_dir: Path, force: bool
) -> None:
    """Raise UsageError where any sample would overwrite or remove the sheet or an input of any
    sample, StoreError where files that are not of such a run would be overwritten.
    """
    runs, given = [], [] if sheet is None else [sheet]
    for sample in samples:
        with contextlib.suppress(Exception):  # raised again for this sample alone, in its turn
            inputs = find_inputs(sample.paths)
            given += [file.path for file in inputs]
            runs.append(Outputs(sample.directory, tuple(file.stem for file in inputs)))
    of_all = [output_dir / name for name in (SUMMARY, INDEX)]
    refuse_inputs(given, runs, [*of_all, *(sample.directory / STATUS for sample in samples)])
    if not force:
        refuse_foreign_files(output_dir)
    folded = Counter(sample.name.casefold() for sample in samples)
    alike = [sample.directory for sample in samples if folded[sample.name.casefold()] > 1]
    for directory in alike:
        with explained(directory):
            directory.mkdir(parents=True, exist_ok=True)
    refuse_one_directory(alike)


def read_samplesheet(sheet: Path) -> list[tuple[str, tuple[str, ...]]]:
    """(name, files) of every sample, in the order of the sheet; the lines of one sample are put
    together. A path that is not there from the current directory is looked for in the directory of
    the sheet.

    Tab-separated or comma-separated by the header; further columns are left alone. Errors:
    UsageError, with the line.
    """
    lines = _text(sheet).splitlines()
    header_line = next((line for line in lines if line.strip()), "")
    separator = "\t" if "\t" in header_line else ","
    rows = csv.reader(io.StringIO("\n".join(lines)), delimiter=separator)
    header: list[str] = []
    found: dict[str, list[str]] = {}
    for row in rows:
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if not header:
            header = _header(sheet, cells)
            continue
        place = f"{sheet}, line {rows.line_num}"
        if len(cells) > len(header):
            raise UsageError(f"{place}: has {len(cells)} cells, the header {len(header)}")
        line = dict(zip(header, cells, strict=False))
        name, first = line.get(SAMPLE, ""), line.get("file", "")
        if not name or not first:
            raise UsageError(f"{place}: has no {'file' if name else 'sample name'}; {ADVICE}")
        paths = [first, line.get("file2", "")]
        found.setdefault(name, []).extend(_located(path, sheet) for path in paths if path)
    if not found:
        raise UsageError(f"{sheet}: names no sample; {ADVICE}")
    return [(name, tuple(paths)) for name, paths in found.items()]


def _text(sheet: Path) -> str:
    try:
        with open(sheet, "rb") as file:
            content = file.read(MOST_OF_A_SHEET + 1)
        if len(content) > MOST_OF_A_SHEET:
            raise UsageError(
                f"{sheet}: larger than {MOST_OF_A_SHEET >> 20} MB; is it a samplesheet?"
            )
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(
            f"--samplesheet {sheet}: cannot be read ({(error.strerror or str(error)).lower()})"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"--samplesheet {sheet}: not a text file; {ADVICE}") from None


def _header(sheet: Path, cells: Iterable[str]) -> list[str]:
    """The names of the columns, in the words of this module."""
    words = [cell.lower() for cell in cells]
    first = next((word for word in FIRST_FILE if word in words), None)
    if SAMPLE not in words or first is None:
        raise UsageError(f"{sheet}: its first line does not name the columns; {ADVICE}")
    second = next((word for word in SECOND_FILE if word in words), None)
    names = {first: "file", second: "file2"}
    return [names.get(word, word) for word in words]


def _located(path: str, sheet: Path) -> str:
    near_sheet = sheet.parent / path
    return str(near_sheet) if not Path(path).exists() and near_sheet.exists() else path


def _check_name(name: str, where: Path) -> None:
    """Raise UsageError where a sample cannot be the name of its directory."""
    wrong = (
        not name.isprintable()
        or name.startswith((".", "-"))
        or "/" in name
        or len(name.encode()) > MOST_STEM
        or name in (SUMMARY, INDEX)
    )
    if wrong:
        raise UsageError(
            f"{where}: the sample name {name!r} cannot name a directory; use letters, digits, dots,"
            " lines and underscores"
        )


def predict_each(
    samples: Sequence[Sample], settings: PredictSettings, session: Session
) -> Iterator[tuple[Sample, Result | BaseException | None]]:
    """Carry out the runs of `samples` with the same `settings`, inputs and directory apart, one
    after another: each sample with its result, or with the error that ended it. An error ends the
    others too only where it leaves processes that cannot go on together.
    """
    from virnucpro.embedding.group import PeerLostError
    from virnucpro.pipeline import predict

    session.encoders, world = {}, session.world
    for number, sample in enumerate(samples):
        outcome: Result | BaseException | None
        try:
            own = _settings_of(sample, settings, world, number)
            outcome = predict(own, session, number, len(samples))
        except (Exception, SystemExit) as error:
            if isinstance(error, PeerLostError) or (session.computing and world.size > 1):
                raise
            if isinstance(error, SystemExit) and world.is_main:
                raise
            outcome = error
        session.end_run()
        yield sample, outcome


def _settings_of(
    sample: Sample, settings: PredictSettings, world: World, number: int
) -> PredictSettings:
    """The settings of a sample's run. Where it has none, the other processes are told."""
    try:
        return sample.settings(settings)
    except Exception as error:
        if world.is_main:
            from virnucpro.embedding.group import Announcements

            note = {"error": getattr(error, "exit_code", 1)}
            Announcements(str(number)).post("job", note)
        raise


def note_each(
    results: Iterable[tuple[Sample, Result | BaseException | None]],
    samples: Sequence[Sample],
    output_dir: Path,
    world: World,
) -> SamplesResult | None:
    """Write down how each sample ends, as it ends; on the main process."""
    if not world.is_main:
        for _ in results:
            pass
        return None
    with explained(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
    outcomes: list[SampleOutcome] = []
    for sample, result in results:
        outcome = _noted(sample, result)
        outcomes.append(outcome)
        log.log(
            logging.INFO if outcome.exit_code == 0 else logging.WARNING,
            "sample %d of %d: %s: %s%s",
            *(len(outcomes), len(samples), sample.name, outcome.status),
            f" ({outcome.reason})" if outcome.reason else "",
        )
        write_samples(SamplesResult(output_dir, tuple(outcomes)))
    return SamplesResult(output_dir, tuple(outcomes))


def _noted(sample: Sample, result: Result | BaseException | None) -> SampleOutcome:
    """The outcome of a sample, also in its own directory; one that cannot be written to stops no
    other sample.
    """
    if isinstance(result, BaseException):
        log.debug("sample %s", sample.name, exc_info=result)
    try:
        outcome = (
            failed(sample.name, result)
            if isinstance(result, BaseException)
            else finished(sample.name, sample.directory)
        )
        write_status(sample.directory, outcome)
    except VirNucProError as error:
        outcome = failed(sample.name, error)
    return outcome
