"""`summarize`: calls, tables and report once more from stored features, with other thresholds or
another classifier.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from virnucpro.calling.answers import Known, reads_of
from virnucpro.embedding.coverage import CLASSIFY, EMBED, Coverage, any_answered, scored
from virnucpro.embedding.matrix import read_matrix
from virnucpro.embedding.work import column, embeddable
from virnucpro.errors import Failure, StoreError, UsageError
from virnucpro.files import explained
from virnucpro.models.classifier import Classifier
from virnucpro.models.encoders import encoders_of, read_tokenizers
from virnucpro.models.files import file_digest
from virnucpro.pipeline import called
from virnucpro.reporting.log import logging_to
from virnucpro.reporting.original import read_scores, scores_digest
from virnucpro.reporting.outputs import KEPT, Outputs
from virnucpro.reporting.record import (
    InputRecord,
    ModelRecord,
    RunRecord,
    call_identity,
    earlier_reference,
    read_record,
)
from virnucpro.reporting.result import Result
from virnucpro.reporting.write import write_results
from virnucpro.run.identity import EFFORT, SCREEN, SHARD
from virnucpro.run.records import with_files
from virnucpro.run.screen import read_screen, screen_files
from virnucpro.run.state import WorkPlace
from virnucpro.run.timing import Clock
from virnucpro.sequences.frame_columns import FrameRules
from virnucpro.sequences.inputs import InputFile
from virnucpro.sequences.table import FrameTable
from virnucpro.sequences.table_cache import PRIVATE_TABLES, TablePlaces, build_or_open
from virnucpro.settings import CallSettings

log = logging.getLogger(__name__)


def summarize(
    directory: Path,
    classifier: Path | None,
    settings: CallSettings,
    cache_dir: Path | None = None,
) -> Result:
    """Write the results in `directory` again.

    Raises StoreError where its features or its inputs are not there any more.
    """
    clock = Clock()
    before = _earlier(directory)
    settings = replace(settings, reference=earlier_reference(before.call, settings.reference))
    outputs = Outputs(directory, before.stems, settings.table_format)
    outputs.refuse_inputs([classifier] if classifier else [])
    _check_kept(outputs, before, classifier)
    place, private = WorkPlace(directory), directory / PRIVATE_TABLES
    with ExitStack() as stack:
        stack.enter_context(place.lock)
        stack.enter_context(logging_to(outputs, logging.getLogger("virnucpro")))
        stack.callback(shutil.rmtree, private, ignore_errors=True)
        with clock.stage("read"):
            inputs = run_inputs_of(before, directory)
            _check_there(inputs)
            table = _table(before, inputs, TablePlaces(cache_dir, private))
            by_scores, (ids, rows) = _stored(outputs, before, classifier)
            lost = _lost(table, ids, directory)
        with clock.stage("classify"):
            model = _model(before, classifier)
            scores = np.full((len(table), 2), np.nan, dtype=np.float32)
            classes = None if by_scores else Classifier.load(Path(model.classifier))
            scores[~lost] = rows if classes is None else classes.scores(rows)
        settings = settings.of_model(model.calibration)
        left_out = _left_out(table, lost, before)
        if left_out.any():
            _warn_of_other_calls(directory, before, settings)
        answered = scored(table, ~lost, scores, left_out)
        earlier = (failure for failure in before.failures if failure.stage != CLASSIFY)
        failures = (*earlier, *answered.failures)
        record = replace(
            before,
            identity={**before.identity, "classifier": model.sha256["classifier"]},
            call=call_identity(settings),
            model=model,
            failures=failures,
            exit_code=_exit_code(before.exit_code, table, answered, failures),
            calibrated=model.calibration is not None,
            seconds_of_embedding=before.seconds_of_embedding or before.seconds,
        )
        covered = Coverage(~lost, (), left_out)
        kept = with_files(table, inputs)
        screen = None
        if SCREEN in before.identity:
            screen = read_screen(directory, reads_of(table.records))
        answers = called(kept, scores, covered, settings, record, clock, Known(screen=screen))
        outputs.prepare()
        if before.retry == 0:
            place.clear(but=outputs.set_aside.name)
        write_results(outputs, answers, record, clock)
    return Result(outputs, failures, record.exit_code, answers)


def _warn_of_other_calls(directory: Path, before: RunRecord, settings: CallSettings) -> None:
    """Say what is missing where the calls are made otherwise than the run made them."""
    same_tables = replace(settings, table_format=before.call.get("--table-format", "tsv"))
    if call_identity(same_tables) != before.call:
        log.warning(
            "%s: chunks were left out that the calls of the run did not need; calls that are made"
            " otherwise may need them: predict --effort full looks at all",
            directory,
        )


@contextmanager
def copied(directory: Path, to: Path, force: bool) -> Iterator[None]:
    """While entered, `to` holds what is needed to call the run in `directory` again; it stays
    unless the block fails. Features are linked where the file system can, else copied.

    Raises StoreError where `to` has results already, unless `force` is given.
    """
    before = _earlier(directory)
    source = Outputs(directory, before.stems)
    outputs, is_new = Outputs(to, before.stems), not to.exists()
    if to.exists() and directory.samefile(to):
        raise UsageError(f"--output-dir {to}: is where the run lies; leave the option out")
    there = [path for path in outputs.names() if os.path.lexists(path)]
    if there and not force:
        raise StoreError(f"{there[0]}: is there already; replace it with --force, or name another")
    try:
        outputs.prepare()
        outputs.remove()
        kept = [source.features, *(p for stem in before.stems for p in _tables(source, stem))]
        kept += [p for p in (directory / KEPT).glob("*") if p.is_file()]
        kept += screen_files(directory)
        for path in (*filter(Path.exists, kept), source.run_json):  # the record last
            place = to / path.relative_to(directory)
            with explained(place):
                place.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(path, place)
                except OSError:
                    shutil.copyfile(path, place)
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(to, ignore_errors=True)
        raise


def _tables(outputs: Outputs, stem: str) -> tuple[Path, Path]:
    return outputs.prediction_results(stem), outputs.highest_scores(stem)


def _earlier(directory: Path) -> RunRecord:
    """The record of the run whose results are in `directory`, or were when a `summarize` was
    stopped there.
    """
    if directory.is_file():
        raise StoreError(f"{directory}: is a file; give the output directory of a finished predict")
    outputs = Outputs(directory)
    record = read_record(outputs.run_json)
    if record is None and WorkPlace(directory).read_identity() is None:
        record = read_record(outputs.set_aside)
    if record is not None and SHARD in record.identity:
        raise StoreError(
            f"{directory}: is shard {record.identity[SHARD]} of a run; join all shards with"
            " virnucpro merge first"
        )
    if record is None:
        raise StoreError(
            f"{directory}: no finished run of predict in here; run predict with --output-dir"
            f" {directory}"
        )
    return record


def _check_kept(outputs: Outputs, before: RunRecord, classifier: Path | None) -> None:
    """Raise StoreError where too little is left of the run to call again from."""
    if before.features == "none":
        if classifier is not None or before.stride:
            raise StoreError(
                f"{outputs.directory}: was made with --features none, which keeps too little for"
                " --classifier or --stride; run predict again"
            )
    elif not outputs.features.exists():
        raise StoreError(
            f"{outputs.features}: not there, and without features nothing can be called again; run"
            " predict again"
        )


def _model(before: RunRecord, classifier: Path | None) -> ModelRecord:
    """The model that answers now. Raises StoreError where the run's classifier has changed."""
    model = before.model
    if classifier is None:
        if file_digest(Path(model.classifier)) != model.sha256.get("classifier"):
            raise StoreError(
                f"{model.classifier}: has changed since the run; name the one to use with"
                " --classifier, or run predict again"
            )
        return model
    return replace(
        model,
        name=f"{model.name.removesuffix(' (modified)')} (modified)",
        classifier=str(classifier.resolve()),
        sha256={**model.sha256, "classifier": file_digest(classifier)},
        calibration=None,
        accuracy=None,
    )


def _exit_code(
    before: int, table: FrameTable, answered: Coverage, failures: tuple[Failure, ...]
) -> int:
    """That of the run, but for what the classifier failed to score then or fails to score now."""
    if not failures:
        return 0
    if not any_answered(table, answered):
        return 1
    return 2 if answered.failures else before


def _stored(
    outputs: Outputs, before: RunRecord, classifier: Path | None
) -> tuple[bool, tuple[list[str], np.ndarray]]:
    """(Whether they are scores, (ids, rows)): scores where they answer, since a million features
    take minutes to classify again.

    The original's tables keep scores to the last bit, but for windows, and of the classifier that
    wrote them alone; a table that was changed since, or written by a start that did not come to its
    end, does not count.
    """
    if classifier is None and before.stride == 0 and before.scores == scores_digest(outputs):
        return True, read_scores(outputs)
    if before.features == "none":
        raise StoreError(
            f"{outputs.directory}: its prediction_results.txt are not those that the run wrote; run"
            " predict again"
        )
    return False, read_matrix(outputs.features)


def run_inputs_of(before: RunRecord, directory: Path) -> tuple[InputFile, ...]:
    """The inputs of the run, whether they are there or not."""
    return tuple(_input(entry, before, directory) for entry in before.inputs)


def _check_there(inputs: Sequence[InputFile]) -> None:
    """Raise StoreError where an input is not there any more."""
    gone = [file.shown for file in inputs if not file.path.exists()]
    if gone:
        raise StoreError(
            f"{gone[0]}: the run's input is not there any more; put it back, or run predict on what"
            " there is"
        )


def _input(entry: InputRecord, before: RunRecord, directory: Path) -> InputFile:
    """An input of the run, whatever directory it was started in."""
    if entry.kept is None:
        return InputFile(Path(before.working_directory, entry.path), entry.source, entry.stem)
    return InputFile(directory / KEPT / entry.kept, entry.source, entry.stem, entry.path)


def _table(before: RunRecord, inputs: Sequence[InputFile], places: TablePlaces) -> FrameTable:
    """The run's table of frames, from the cache or built again from the same inputs."""
    model = before.model
    rules = FrameRules(model.chunk_length, model.frame_policy, before.min_length, before.stride)
    encoders = encoders_of(model.directories)
    tokenizers = read_tokenizers({e.name: model.directories.get(e.name, "") for e in encoders})
    table = build_or_open(inputs, rules, tokenizers, places, log.info)
    if table.fingerprint != before.identity.get("frames"):
        raise StoreError(
            "the inputs or the model's tokenizers have changed since the run; run predict again"
        )
    return table


def _lost(table: FrameTable, ids: list[str], directory: Path) -> np.ndarray:
    """bool [frames]: those without a stored row; `ids` are the others', in the table's order."""
    lost = np.ones(len(table), dtype=bool)
    at = 0
    for row, name in enumerate(table.frame_ids()):
        if at < len(ids) and ids[at] == name:
            lost[row] = False
            at += 1
    if at < len(ids):
        raise StoreError(
            f"{directory}: its frames are not those of the run in there; run predict again"
        )
    return lost


def _left_out(table: FrameTable, lost: np.ndarray, before: RunRecord) -> np.ndarray:
    """bool [frames]: those that are not stored as the run needed no more. Of a sequence of which a
    frame failed to be embedded, what is missing counts as failed.
    """
    if not {EFFORT, SCREEN} & before.identity.keys():
        return np.zeros(len(table), dtype=bool)
    failed = {(f.path, f.reason.partition(": ")[0]) for f in before.failures if f.stage == EMBED}
    names, inputs = table.records["name"].to_pylist(), table.records["input"].to_pylist()
    whole = np.array(
        [
            (str(table.inputs[i]["path"]), f"record {name}") not in failed
            for i, name in zip(inputs, names, strict=True)
        ],
        dtype=bool,
    )
    return lost & embeddable(table) & whole[column(table, "record")]
