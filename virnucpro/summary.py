"""`summarize`: calls, tables and report once more from stored features, with other thresholds or
another classifier.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.calling.answers import Answers
from virnucpro.calling.calibration import Calibration
from virnucpro.embedding.coverage import CLASSIFY, Coverage, any_answered, scored
from virnucpro.embedding.matrix import read_matrix
from virnucpro.errors import Failure, StoreError
from virnucpro.models.classifier import Classifier
from virnucpro.models.files import file_digest
from virnucpro.reporting.original import read_scores, scores_digest
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import logging_to, read_run_json
from virnucpro.results import write_results
from virnucpro.run.state import WorkPlace
from virnucpro.run.timing import Clock
from virnucpro.sequences.reader import InputFile
from virnucpro.sequences.table import FrameRules, FrameTable, build_or_open
from virnucpro.sequences.tokens import Tokenizers
from virnucpro.settings import CallSettings

log = logging.getLogger(__name__)

KEPT = (
    "identity",
    "exit_code",
    "retry",
    "choices",
    "device",
    "processes",
    "precision",
    "features",
    "batch_tokens",
    "embedding",
)


def summarize(
    directory: Path,
    classifier: Path | None,
    call: CallSettings,
    cache_dir: Path | None = None,
) -> tuple[Outputs, Answers, tuple[Failure, ...], int]:
    """Write the results in `directory` again.

    Raises StoreError where its features or its inputs are not there any more.
    """
    clock = Clock()
    if directory.is_file():
        raise StoreError(f"{directory}: is a file; give the output directory of a finished predict")
    before = read_run_json(directory / "run.json")
    if before is None or "identity" not in before:
        raise StoreError(
            f"{directory}: no finished run of predict in here; run predict with --output-dir"
            f" {directory}"
        )
    outputs = Outputs(
        directory, tuple(entry["stem"] for entry in before["inputs"]), call.table_format
    )
    scores_only = before["features"] == "none"
    if scores_only and (classifier is not None or _stride(before)):
        raise StoreError(
            f"{directory}: was made with --features none, which keeps too little for --classifier"
            " or --stride; run predict again"
        )
    if not scores_only and not outputs.features.exists():
        raise StoreError(
            f"{outputs.features}: not there, and without features nothing can be called again; run"
            " predict again"
        )
    with WorkPlace(directory).lock, logging_to(outputs, logging.getLogger("virnucpro")):
        with clock.stage("read"):
            table = _table(before, cache_dir)
            by_scores, (ids, rows) = _stored(outputs, before, classifier)
            lost = _lost(table, ids, directory)
        with clock.stage("classify"):
            model, calibration = dict(before["model"]), before["model"]["calibration"]
            if classifier is not None:
                model |= {
                    "name": f"{model['name'].removesuffix(' (modified)')} (modified)",
                    "classifier": str(classifier),
                    "sha256": model["sha256"] | {"classifier": file_digest(classifier)},
                    "calibration": None,
                    "accuracy": None,
                }
                calibration = None
            scores = np.full((len(table), 2), np.nan, dtype=np.float32)
            scores[~lost] = (
                rows if by_scores else Classifier.load(Path(model["classifier"])).scores(rows)
            )
        answered = scored(table, ~lost, scores)
        earlier = (Failure(**failure) for failure in before["failures"])
        failures = (*(f for f in earlier if f.stage != CLASSIFY), *answered.failures)
        code = _exit_code(int(before["exit_code"]), table, answered, failures)
        facts = {name: before[name] for name in KEPT} | {
            "exit_code": code,
            "seconds_of_embedding": before.get("seconds_of_embedding") or before["seconds"],
        }
        facts["identity"] = facts["identity"] | {"classifier": model["sha256"]["classifier"]}
        calibrated = Calibration.from_json(calibration) if calibration else None
        outputs.prepare()
        answers = write_results(
            table, outputs, scores, lost, failures, model, calibrated, call, facts, clock
        )
    return outputs, answers, failures, code


def _exit_code(
    before: int, table: FrameTable, answered: Coverage, failures: tuple[Failure, ...]
) -> int:
    """That of the run, but for what the classifier failed to score then or fails to score now."""
    if not failures:
        return 0
    if not any_answered(table, answered.kept):
        return 1
    return 2 if answered.failures else before


def _stored(
    outputs: Outputs, before: dict[str, Any], classifier: Path | None
) -> tuple[bool, tuple[list[str], np.ndarray]]:
    """(Whether they are scores, (ids, rows)): scores where they answer, since a million features
    take minutes to classify again.

    The original's tables keep scores to the last bit, but for windows, and of the classifier that
    wrote them alone; a table that was changed since, or written by a start that did not come to its
    end, does not count.
    """
    if (
        classifier is None
        and _stride(before) == 0
        and before.get("scores") == scores_digest(outputs)
    ):
        return True, read_scores(outputs)
    if before["features"] == "none":
        raise StoreError(
            f"{outputs.directory}: its prediction_results.txt are not those that the run wrote; run"
            " predict again"
        )
    return False, read_matrix(outputs.features)


def _stride(before: dict[str, Any]) -> int:
    return int(before["identity"].get("--stride", 0))


def _table(before: dict[str, Any], cache_dir: Path | None) -> FrameTable:
    """The run's table of frames, from the cache or built again from the same inputs."""
    inputs = tuple(
        InputFile(Path(entry["path"]), entry["source"], entry["stem"]) for entry in before["inputs"]
    )
    gone = [str(file.path) for file in inputs if not file.path.exists()]
    if gone:
        raise StoreError(
            f"{gone[0]}: the run's input is not there any more; put it back, or run predict on what"
            " there is"
        )
    model, identity = before["model"], before["identity"]
    rules = FrameRules(
        model["chunk_length"], model["frame_policy"], int(identity["--min-length"]), _stride(before)
    )
    table = build_or_open(
        inputs,
        rules,
        Tokenizers(model["directories"]["esm2"], model["directories"]["dnabert_s"]),
        cache_dir,
        log.info,
    )
    if table.fingerprint != identity["frames"]:
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
