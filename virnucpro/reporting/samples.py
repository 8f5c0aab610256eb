"""`summary.tsv` and `index.html`: all samples of a run, a line each; and each sample's own
`status.json`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virnucpro.errors import StoreError, VirNucProError, escaped, limit_behind, one_line
from virnucpro.files import explained, make_directory, read_json, write_json, write_text, writing
from virnucpro.reporting.pages import asset, template
from virnucpro.reporting.record import RunRecord, read_record

SUMMARY, INDEX, STATUS = "summary.tsv", "index.html", "status.json"
HEADER = ("sample", "status", "exit_code")  # the first columns of `summary.tsv`
FIRST_COLUMNS = "\t".join(HEADER).encode()
DONE, PARTIAL, FAILED = "done", "partial", "failed"
COUNTS = (
    "sequences",
    "virus",
    "ambiguous",
    "non_virus",
    "too_short",
    "not_scored",
    "regions",
    "bases",
)


@dataclass(frozen=True, slots=True)
class SampleOutcome:
    """How a sample's run ended: its exit code, why where that is not 0, and what it found."""

    name: str
    exit_code: int
    reason: str = ""
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """done, partial (some of its inputs failed) or failed."""
        return DONE if self.exit_code == 0 else PARTIAL if self.exit_code == 2 else FAILED


@dataclass(frozen=True, slots=True)
class SamplesResult:
    """The samples of a run and the exit code of them all: 0 all done, 2 some are not, 1 none is."""

    directory: Path
    samples: tuple[SampleOutcome, ...]

    @property
    def exit_code(self) -> int:
        """0 all samples answered, 2 some, 1 none."""
        codes = {sample.exit_code for sample in self.samples}
        return 0 if codes == {0} else 2 if codes & {0, 2} else 1

    def line(self) -> str:
        """What is said at the end."""
        states = [sample.status for sample in self.samples]
        words = [f"{states.count(state)} {state}" for state in (DONE, PARTIAL, FAILED)]
        return f"{len(states)} samples: {', '.join(words)}; see {self.directory / SUMMARY}"


def finished(name: str, directory: Path) -> SampleOutcome:
    """The outcome of a sample whose results are in `directory`. Errors: StoreError."""
    record = read_record(directory / "run.json")
    if record is None:
        raise StoreError(f"{directory}: has no run.json; run the same command again")
    counts = {key: int(record.counts.get(key, 0)) for key in COUNTS}
    return SampleOutcome(name, record.exit_code, _reason(record), counts)


def failed(name: str, error: BaseException) -> SampleOutcome:
    """The outcome of a sample that ended with `error`."""
    if isinstance(error, VirNucProError):
        return SampleOutcome(name, error.exit_code, str(error))
    what = limit_behind(error) or f"unexpected {type(error).__name__}: {error}; report it"
    return SampleOutcome(name, 1, escaped(one_line(what)))


def read_samples(directory: Path, names: Sequence[str], code: int) -> SamplesResult:
    """The outcomes as processes of our own launch have left them. Errors: SystemExit with their
    exit code where they did not come to the end, and have said why.
    """
    if code not in (0, 1, 2):
        raise SystemExit(code)
    outcomes = []
    for name in names:
        said = read_json(directory / name / STATUS, "run the same command again")
        if said is None:
            raise SystemExit(code or 1)
        failed_entirely = said.get("status") == FAILED
        outcomes.append(
            SampleOutcome(name, int(said["exit_code"]), str(said["reason"]))
            if failed_entirely
            else finished(name, directory / name)
        )
    return SamplesResult(directory, tuple(outcomes))


def _reason(record: RunRecord) -> str:
    if not record.failures:
        return ""
    first, more = record.failures[0], len(record.failures) - 1
    return f"{first.path}: {one_line(first.reason)}" + (f" ({more} more)" if more else "")


def write_status(directory: Path, outcome: SampleOutcome) -> None:
    """`status.json` of one sample, in its directory, which is made where it is not there."""
    with explained(directory):
        make_directory(directory)
    content = {
        "sample": outcome.name,
        "status": outcome.status,
        "exit_code": outcome.exit_code,
        "reason": outcome.reason,
    }
    write_json(directory / STATUS, content)


def refuse_foreign_files(directory: Path) -> None:
    """Raise StoreError where `write_samples` would replace files that it did not write."""
    summary = directory / SUMMARY
    with explained(summary):
        if summary.is_file():  # a FIFO would be waited for
            with open(summary, "rb") as file:
                if file.read(len(FIRST_COLUMNS)) == FIRST_COLUMNS:
                    return
    for path in (summary, directory / INDEX):
        if os.path.lexists(path):
            raise StoreError(
                f"{path}: is there already and is not of a run of samples; choose another"
                " --output-dir, or replace it with --force"
            )


def write_samples(result: SamplesResult) -> None:
    """`summary.tsv` and `index.html` of all samples."""
    header = [*HEADER, *COUNTS, "reason"]
    lines = ["\t".join(header)]
    lines += ["\t".join(_row(sample)) for sample in result.samples]
    write_text(result.directory / SUMMARY, lines)
    with writing(result.directory / INDEX) as stream:
        stream.write(render(result.samples).encode("utf-8", "backslashreplace"))


def _row(sample: SampleOutcome) -> list[str]:
    numbers = [str(sample.counts[key]) if sample.counts else "NA" for key in COUNTS]
    return [sample.name, sample.status, str(sample.exit_code), *numbers, sample.reason]


def render(samples: Sequence[SampleOutcome]) -> str:
    """The page of all samples: self-contained, but for its links to the samples' own reports."""
    from markupsafe import Markup

    total = {key: sum(sample.counts.get(key, 0) for sample in samples) for key in COUNTS}
    return template("samples.html").render(
        samples=samples,
        total=total,
        style=Markup(asset("report.css")),
    )
