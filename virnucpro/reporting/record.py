"""What is kept of the run itself: `run.json`, `run.log` and `failed_files.txt`.

`run.json` is a `RunRecord`: written last, it stands for a whole result, and is checked where it is
read. What it says is collected where it happens.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from virnucpro.errors import Failure, StoreError, UsageError, escaped
from virnucpro.files import explained, is_ours, is_plain_name, open_own, read_json, write_text
from virnucpro.homology.choice import SHIPPED_DIRECTORY, find_reference, reference_checksum
from virnucpro.reporting.outputs import Outputs
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


class PrintableFormatter(logging.Formatter):
    """Messages with whatever cannot be printed escaped: names of files and records come in them."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name of logging)
        """The message with control characters escaped."""
        record.message = escaped(record.message)
        return super().formatMessage(record)


LOG_FORMAT = PrintableFormatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
FORMAT = 1  # raise it when keys of run.json change their meaning
ADVICE = "start over with predict --force, or choose another directory"
MORE = "more"  # the field that keeps keys which this version does not know
KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}

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

    @property
    def weighs_evidence(self) -> bool:
        """As of a bundle."""
        return "evidence" in (self.calibration or {})


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
    searched = {} if directory is None else {"--reference": reference_checksum(directory)}
    return {
        "--min-score": str(call.points.virus),
        "--relaxed": str(call.points.relaxed),
        "--allow-short": str(call.allow_short),
        "--prevalence": str(call.prevalence),
        "--table-format": call.table_format,
        **searched,
        **({"--call-by": str(call.call_by)} if searched else {}),
    }


def call_settings(identity: Identity, reference: str | None) -> CallSettings:
    """The settings that `call_identity` has put in words, of which it keeps the content of the
    reference proteins only. Errors: StoreError, UsageError where `reference` are others.
    """
    reference = earlier_reference(identity, reference)
    try:
        points = CallPoints(float(identity["--min-score"]), float(identity["--relaxed"]))
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
        raise StoreError(f"{path}: written by another user; choose another directory")
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


def typed(kind: Any, value: Any, where: str) -> Any:
    """`value`, from JSON, as the annotated type `kind`: dataclasses, tuples, mappings and scalars.

    where: its keys so far. Raises ValueError naming the key that is missing or of another type.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or (value is None and type(None) in arguments):
        return value
    if origin in (Union, types.UnionType):
        known = [one for one in arguments if one is not type(None)]
        return typed(known[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(typed(arguments[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {key: typed(arguments[1], one, f"{where}.{key}") for key, one in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return _typed_fields(kind, value, where)
    if kind is float and type(value) is int and abs(value) < 1 << 53:
        value = float(value)
    if type(value) is not kind:
        what = KINDS.get(kind, "a list" if origin is tuple else "an object")
        raise ValueError(f"{where.lstrip('.')[:100]} is not {what}")
    return value


def _typed_fields(kind: Any, value: dict[str, Any], where: str) -> Any:
    given, hints = dict(value), get_type_hints(kind)
    found = {}
    for entry in fields(kind):
        if entry.name == MORE:
            continue
        if entry.name in given:
            key = f"{where}.{entry.name}"
            found[entry.name] = typed(hints[entry.name], given.pop(entry.name), key)
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise ValueError(f"{f'{where}.{entry.name}'.lstrip('.')[:100]} is missing")
    return kind(**found, **({MORE: given} if MORE in hints else {}))


def plain(value: Any) -> Any:
    """`value` as JSON knows it; numbers that are no number as null. Raises TypeError for what has
    no plain form.
    """
    if is_dataclass(value) and not isinstance(value, type):
        known = {entry.name: getattr(value, entry.name) for entry in fields(value)}
        return plain({**known.pop(MORE, {}), **known})
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [plain(item) for item in items]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()  # a numpy scalar
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{type(value).__name__} has no place in run.json")


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


class _LogFile(logging.FileHandler):
    """A log that cannot be written any more, as on a full disk, is no reason to disturb a run or
    its last words.
    """

    def _open(self) -> TextIOWrapper:
        handle = open_own(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return open(handle, "a", encoding=self.encoding, errors=self.errors)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass

    def close(self) -> None:
        # closing writes what the file's buffer still holds
        with contextlib.suppress(OSError):
            super().close()


class _ToParent(logging.Handler):
    """Hands records on to the handlers above a logger."""

    def __init__(self, logger: logging.Logger, level: int):
        super().__init__(level)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        if self._logger.parent is not None:
            self._logger.parent.callHandlers(record)


@contextlib.contextmanager
def _heard(logger: logging.Logger, level: int) -> Iterator[None]:
    """While entered, `logger` takes records from `level` on, and all handlers that it has, and
    those above it, still get what they got before: a Python program has set up its own logging.
    """
    before, own_level, propagate = logger.getEffectiveLevel(), logger.level, logger.propagate
    if before <= level:
        yield
        return

    def is_wanted(record: logging.LogRecord) -> bool:
        return record.levelno >= before

    others, parent = list(logger.handlers), _ToParent(logger, before)
    for other in others:
        other.addFilter(is_wanted)
    if propagate:
        logger.addHandler(parent)
    logger.propagate = False
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(own_level)
        logger.propagate = propagate
        logger.removeHandler(parent)
        for other in others:
            other.removeFilter(is_wanted)


@contextlib.contextmanager
def logging_to(outputs: Outputs, logger: logging.Logger, verbose: bool = False) -> Iterator[None]:
    """`logger`'s messages also go to `run.log`, appended, while the block runs."""
    with explained(outputs.run_log):
        handler = _LogFile(outputs.run_log, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(LOG_FORMAT)
    handler.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        with _heard(logger, handler.level):
            logger.addHandler(handler)
            try:
                yield
            finally:
                logger.removeHandler(handler)
    finally:
        handler.close()
