"""Which frames have all their embeddings and finite scores, and what is said of the others.

Knows the frame table's columns, what extraction reported, and whether a score is a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc

from virnucpro.embedding.extract import Extraction
from virnucpro.embedding.work import Work, column, embeddable
from virnucpro.errors import Failure, InputError
from virnucpro.models.encoders import limits
from virnucpro.sequences.table import FrameTable

EMBED, CLASSIFY = "embed", "classify"  # the stages of a failure
NOT_FINITE = "has a score that is not finite; check the model (virnucpro models verify)"


@dataclass(frozen=True, slots=True)
class Coverage:
    """kept: bool [frames], has a row of features, or finite scores; failures: one for each record
    with a frame that has none; left_out: bool [frames], not needed; reasons: why others have no
    row, by frame.
    """

    kept: np.ndarray
    failures: tuple[Failure, ...]
    left_out: np.ndarray
    reasons: Mapping[int, str] = field(default_factory=dict)

    @property
    def lost(self) -> np.ndarray:
        """bool [frames]: those that should have a row, and have none."""
        return ~self.kept & ~self.left_out

    @classmethod
    def of(
        cls, table: FrameTable, reasons: Mapping[int, str], left_out: np.ndarray | None = None
    ) -> Coverage:
        """All frames are embedded but those with a reason and those left out."""
        if left_out is None:
            left_out = np.zeros(len(table), dtype=bool)
        kept = ~left_out
        kept[list(reasons)] = False
        return cls(kept, tuple(_failures(table, reasons, EMBED)), left_out, reasons)


def coverage(
    table: FrameTable,
    work: Mapping[str, Work],
    done: Mapping[str, Extraction],
    left_out: np.ndarray | None = None,
) -> Coverage:
    """What came of every frame of `table`, of which some may be left out."""
    reasons = dict.fromkeys(np.flatnonzero(~embeddable(table)).tolist(), too_long(table))
    for name, extraction in done.items():
        lost = np.array(sorted(extraction.failed), dtype=np.int64)
        if len(lost):
            representative = work[name].duplicates.representative
            hit = np.isin(representative, lost)
            if left_out is not None:
                hit &= ~left_out
            for row in np.flatnonzero(hit).tolist():
                reasons.setdefault(row, extraction.failed[int(representative[row])])
    return Coverage.of(table, reasons, left_out)


def too_long(table: FrameTable) -> str:
    """What is wrong with a frame that is not embeddable."""
    return f"is longer than {limits(table.encoders)}; a shorter --chunk-length avoids that"


def scored(
    table: FrameTable, kept: np.ndarray, scores: np.ndarray, left_out: np.ndarray
) -> Coverage:
    """Which of the `kept` frames have finite scores; scores: float32 [frames, 2]."""
    finite = kept & np.isfinite(scores).all(axis=1)
    reasons = dict.fromkeys(np.flatnonzero(kept & ~finite).tolist(), NOT_FINITE)
    return Coverage(finite, tuple(_failures(table, reasons, CLASSIFY)), left_out)


def _failures(table: FrameTable, reasons: Mapping[int, str], stage: str) -> list[Failure]:
    """One for each record that owns one of the rows `reasons`, which names its first frame."""
    rows = np.array(sorted(reasons), dtype=np.int64)
    owners, first, counts = np.unique(
        column(table, "record")[rows], return_index=True, return_counts=True
    )
    failures = []
    for owner, row, count in zip(
        owners.tolist(), rows[first].tolist(), counts.tolist(), strict=True
    ):
        source = table.inputs[table.records["input"][owner].as_py()]
        name = table.records["name"][owner].as_py()
        more = f" and {count - 1} more of its frames" if count > 1 else ""
        frame = table.frame_ids(row, row + 1)[0]
        failures.append(
            Failure(
                str(source["path"]), stage, f"record {name}: frame {frame} {reasons[row]}{more}"
            )
        )
    return failures


def any_answered(table: FrameTable, answered: Coverage | None = None) -> bool:
    """Whether some input is answered: a file that was read without a failure, or a record that did
    not fail as a whole.
    """
    failed_files = {failure.path for failure in table.failures}
    if any(
        str(file["path"]) not in failed_files and file["n_records"] == 0 for file in table.inputs
    ):
        return True
    good = pc.equal(table.records["problem"], "").to_numpy()
    if answered is not None:
        record, lost = column(table, "record"), answered.lost
        lost_all = np.ones(len(good), dtype=bool)
        lost_all[record[~lost]] = False
        lost_any = np.zeros(len(good), dtype=bool)
        lost_any[record[lost]] = True
        good = good & ~(lost_all & lost_any)
    return bool(good.any())


def exit_code(
    table: FrameTable, answered: Coverage, failures: Sequence[Failure], partial_ok: bool
) -> int:
    """0 all answered, 2 some failed, 1 none was answered."""
    if not failures:
        return 0
    if not any_answered(table, answered):
        return 1
    return 0 if partial_ok else 2


def check_any_answered(table: FrameTable) -> None:
    """Raise InputError where nothing at all could be read."""
    if table.failures and not any_answered(table):
        raise InputError(
            f"every input failed; first {table.failures[0].path}: {table.failures[0].reason}"
        )
