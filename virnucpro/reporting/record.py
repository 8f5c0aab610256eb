"""What is kept of the run itself: `run.json`, `run.log` and `failed_files.txt`.

`run.json` is a `RunRecord`: written last, it stands for a whole result, and is checked where it is
read. What it says is collected where it happens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from virnucpro.errors import Failure, StoreError, UsageError
from virnucpro.files import is_ours, is_plain_name, read_json, write_text
from virnucpro.homology.choice import SHIPPED_DIRECTORY, find_reference, reference_checksum
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.typed import plain, typed
from virnucpro.settings import (
    FEATURE_KINDS,
    FRAME_POLICIES,
    NO_REFERENCE,
    SHIPPED,
    SHORTEST_CHUNK,
    CallPoints,
    CallSettings,
    Choice,
    parse_shard,
)

FORMAT = 1  # raise it when keys of run.json change their meaning
ADVICE = "start over with predict --force, or choose another directory"

T = TypeVar("T")
Identity = Mapping[str, str]


@dataclass(frozen=True)
class InputRecord:
    """An input file: `path` as it was given, `stem` names its folder of results; `kept`: the name
    of its copy in the output directory, where it came through a pipe.
    """

    path: str
    source: str
    stem: str
    sha256: str | None = None  # None: it could not be read
    n_records: int = 0
    fastq: bool = False
    kept: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelRecord:
    """The bundle that answered; sha256 by part; where its parts lay."""

    name: str
    chunk_length: int
    frame_policy: str
    sha256: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    licence: str | None = None
    accuracy: Any = None
    calibration: Mapping[str, Any] | None = None
    verified: Mapping[str, Any] | None = None
    classifier: str = ""
    directories: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EncoderRecord:
    """What happened to the embeddings of one encoder, in rows; `processes`: seconds of each."""

    unique: int
    rows: int
    split: int = 0
    recomputed: int = 0
    in_16_bits: int = 0
    failed: int = 0
    taken_up: int = 0
    processes: tuple[Mapping[str, float], ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """A run, as `run.json` keeps it. What has no default here must stand there."""

    identity: Identity  # all that decides the features
    call: Identity  # all that decides the calls
    model: ModelRecord
    inputs: tuple[InputRecord, ...]
    failures: tuple[Failure, ...]
    features: str
    exit_code: int
    retry: int  # rows that a new start would try again
    format: int = FORMAT
    version: str = ""
    python: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)  # their versions
    command: tuple[str, ...] = ()
    working_directory: str = ""  # what relative paths were relative to
    finished: str = ""
    choices: tuple[Choice, ...] = ()
    device: str = ""
    processes: int = 1
    precision: str = ""
    batch_tokens: Mapping[str, int] = field(default_factory=dict)
    embedding: Mapping[str, EncoderRecord] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    prevalence: Mapping[str, float] = field(default_factory=dict)
    calibrated: bool = False
    scores: Mapping[str, str] = field(default_factory=dict)  # checksums of the original's tables
    seconds: Mapping[str, float] = field(default_factory=dict)
    throughput: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seconds_of_embedding: Mapping[str, float] | None = None  # of the run that summarize followed
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stride(self) -> int:
        """Bases between windows; 0: none."""
        return int(self.identity.get("--stride", "0"))

    @property
    def min_length(self) -> int:
        """Bases; shorter sequences were skipped."""
        return int(self.identity.get("--min-length", "0"))

    @property
    def stems(self) -> tuple[str, ...]:
        """Of the inputs, in their order."""
        return tuple(entry.stem for entry in self.inputs)


def call_identity(call: CallSettings) -> Identity:
    """The call settings as words, as `run.json` keeps them and a refusal quotes them. Raises
    InputError where the reference proteins are not there.
    """
    directory = find_reference(call.reference)
    rules = {
        "--max-fdr": call.points.max_fdr,
        "--false-positives": call.points.false_positives,
    }
    searched = {} if directory is None else {"--reference": reference_checksum(directory)}
    return {
        "--min-score": str(call.points.virus),
        "--relaxed": str(call.points.relaxed),
        "--allow-short": str(call.allow_short),
        "--prevalence": str(call.prevalence),
        "--table-format": call.table_format,
        **{name: str(value) for name, value in rules.items() if value is not None},
        **searched,
        **({"--call-by": str(call.call_by)} if searched else {}),
    }


def call_settings(identity: Identity, reference: str | None) -> CallSettings:
    """The settings that `call_identity` has put in words, of which it keeps the content of the
    reference proteins only. Errors: StoreError, UsageError where `reference` are others.
    """
    reference = earlier_reference(identity, reference)
    try:
        fdr = identity.get("--max-fdr")
        points = CallPoints(
            float(identity["--min-score"]),
            float(identity["--relaxed"]),
            None if fdr is None else float(fdr),
            identity.get("--false-positives"),
        )
        expected = identity["--prevalence"]
        settings = CallSettings(
            points,
            identity["--allow-short"] == str(True),
            None if expected == str(None) else float(expected),
            identity["--table-format"],
            reference,
            identity.get("--call-by", "model") if reference != NO_REFERENCE else "model",
        )
    except (KeyError, ValueError) as error:
        raise StoreError(f"the record's call settings cannot be read ({error}); {ADVICE}") from None
    if call_identity(settings) != dict(identity):
        wanted = "the same --reference" if "--reference" in identity else "no --reference"
        raise UsageError(
            f"--reference {reference}: not what the run was started with; give {wanted}"
        )
    return settings


def earlier_reference(identity: Identity, given: str | None) -> str:
    """The proteins that a run of these call settings is called with again: the `given` ones, else
    its own. Raises UsageError where those cannot be known.
    """
    checksum = identity.get("--reference")
    if given is not None:
        return given
    if checksum is None:
        return NO_REFERENCE
    if checksum != reference_checksum(SHIPPED_DIRECTORY):
        raise UsageError(
            "the run searched other proteins than those of this version; name them with"
            " --reference DIR"
        )
    return SHIPPED


def write_record(outputs: Outputs, record: RunRecord) -> None:
    """`run.json`, keys sorted."""
    text = json.dumps(plain(record), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(outputs.run_json, [text.encode("utf-8", "backslashreplace").decode()])


def read_record(path: Path) -> RunRecord | None:
    """What a run wrote at `path`; None where there is no file.

    Raises StoreError where it is another user's, of another version, or says what no run says.
    """
    content = read_json(path, ADVICE)
    if content is None:
        return None
    if not is_ours(path):
        raise StoreError(
            f"{path}: written by another user, whose results are not taken for yours; copy the"
            " directory (cp -r), or choose another"
        )
    if type(content.get("format")) is not int or content["format"] != FORMAT:
        raise StoreError(
            f"{path}: written by another version of this program (format"
            f" {str(content.get('format'))[:20]}, not {FORMAT}); {ADVICE}"
        )
    try:
        record = typed(RunRecord, content, "")
        _check(record)
    except ValueError as error:
        raise StoreError(f"{path}: {error}; {ADVICE}") from None
    return record


def _check(record: RunRecord) -> None:
    """Raises ValueError for values that have the right type and cannot be a run's."""
    wrong = {
        "stem": not all(map(_is_folder_name, record.stems)),
        "inputs": len(set(record.stems)) < len(record.stems),
        "kept": not all(is_plain_name(entry.kept or "0") for entry in record.inputs),
        "features": record.features not in FEATURE_KINDS,
        "model.frame_policy": record.model.frame_policy not in FRAME_POLICIES,
        "model.chunk_length": not SHORTEST_CHUNK <= record.model.chunk_length < 1 << 31,
        "exit_code": not 0 <= record.exit_code <= 255,
        "identity.frames": "frames" not in record.identity,
        "identity.--shard": not _is_shard(record.identity.get("--shard", "1/1")),
        **{
            f"identity.{name}": not re.fullmatch("[0-9]{1,9}", record.identity.get(name, "0"))
            for name in ("--stride", "--min-length")
        },
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise ValueError(f"{name} is not what a run writes")


def _is_shard(word: str) -> bool:
    try:
        return bool(parse_shard(word))
    except UsageError:
        return False


def _is_folder_name(stem: str) -> bool:
    """Whether a run may have named a folder by it; a stem has `\\` where a letter was escaped."""
    return is_plain_name(f"{stem}_merged".replace("\\", "_"))


def write_failures(outputs: Outputs, failures: Sequence[Failure]) -> None:
    """`failed_files.txt`, a line a failure; no file, and none left from before, where nothing
    failed.
    """
    if failures:
        lines = [failure.line() for failure in failures]
        write_text(
            outputs.failed_files,
            [line.encode("utf-8", "backslashreplace").decode() for line in lines],
        )
    else:
        outputs.failed_files.unlink(missing_ok=True)
