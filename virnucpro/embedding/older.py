"""Finished work of an earlier program -> rows of this run's frame table.

Rows are matched by frame id, never by position, and count only where the sequence beside them is
the frame's own; the rest is embedded anew. Whether the numbers are this model's is not decided
here: a caller embeds some rows again and asks `same_model`. Knows the frame table; the files are
`older_files`' matter. Reads everything, writes nothing.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnucpro.embedding.older_files import OlderFile, OlderWork, find_older_work, load, read_fasta
from virnucpro.embedding.plan import Duplicates
from virnucpro.embedding.store import FeatureStore
from virnucpro.embedding.work import column, embeddable
from virnucpro.errors import ModelError
from virnucpro.models.encoders import ENCODERS
from virnucpro.sequences.frames import FRAME_NAMES
from virnucpro.sequences.table import FrameTable

FRAME_ID = re.compile(r"(.+)_chunk_(\d+)([FR][123])", re.DOTALL)
MERGED = "merged"  # rows of all encoders side by side
FP32_TOLERANCE = 1e-4  # of a component, between two devices' fp32
LEAST_COSINE = 0.999


__all__ = ["Counts", "OlderRows", "OlderWork", "find_older_work", "read_rows", "same_model"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of old files, by what became of them."""

    taken: int = 0
    again: int = 0  # taken from another file already
    wrong_width: int = 0
    not_finite: int = 0
    no_match: int = 0  # no frame of this run has the id
    other_sequence: int = 0
    no_sequence: int = 0  # nothing beside it says what was embedded
    ambiguous: int = 0  # its id occurs twice in the file

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __str__(self) -> str:
        words = {
            "taken": "taken",
            "again": "there already",
            "wrong_width": "of a wrong width",
            "not_finite": "with NaN or infinity",
            "no_match": "of no frame of this run",
            "other_sequence": "of another sequence",
            "no_sequence": "without their sequence",
            "ambiguous": "with an id that occurs twice",
        }
        said = [
            f"{getattr(self, name):,} {text}"
            for name, text in words.items()
            if name == "taken" or getattr(self, name)
        ]
        return ", ".join(said)


@dataclass(frozen=True, slots=True)
class OlderRows:
    """What one file gives one encoder: `rows` float32 [n, width] of the frames `index` int64 [n],
    ascending.

    `problem` says why a whole file was refused ("" where it was not).
    """

    encoder: str
    source: Path
    index: np.ndarray
    rows: np.ndarray
    counts: Counts
    problem: str = ""


def read_rows(work: OlderWork, table: FrameTable, widths: Mapping[str, int]) -> Iterator[OlderRows]:
    """The usable rows of every file, one encoder at a time; a file at a time is in memory.

    widths: of each encoder's embedding. A frame is given once to each encoder. An unreadable file
    and one whose ids and rows differ in number come with no row and the reason.
    """
    frames = _FrameIndex(table)
    given = {encoder: np.zeros(len(table), dtype=bool) for encoder in widths}
    for file in work.files:
        parts = [encoder for encoder in _encoders_in(file.kind) if encoder in widths]
        try:
            ids, data = load(file)
        except (ModelError, ValueError) as error:
            for encoder in parts:
                yield OlderRows(
                    encoder,
                    file.path,
                    np.empty(0, np.int64),
                    np.empty((0, widths[encoder]), np.float32),
                    Counts(),
                    str(error),
                )
            continue
        index = frames.rows_of(ids)
        for encoder in parts:
            yield _usable(file, encoder, ids, data, index, widths, frames, given[encoder])


def _encoders_in(kind: str) -> list[str]:
    """The encoders of which a file of this kind has rows, in the order of its columns."""
    known = [entry for entry in ENCODERS.values() if entry.older_kinds]
    return [entry.name for entry in known if kind == MERGED or kind in entry.older_kinds]


def same_model(old: np.ndarray, new: np.ndarray, precision: str) -> bool:
    """Whether rows of old files and the same frames embedded again, both [n, width], are one
    model's.

    In fp32 they must be fp32's rows; in fewer bits they must be as close as the run's own rows are
    to fp32 (SPEC 5).
    """
    if old.shape != new.shape or not (np.isfinite(old).all() and np.isfinite(new).all()):
        return False
    if precision == "fp32":
        return bool((np.abs(old.astype(np.float64) - new) <= FP32_TOLERANCE).all())
    products = (old.astype(np.float64) * new).sum(1)
    return bool(
        (products >= LEAST_COSINE * np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)).all()
    )


def _usable(
    file: OlderFile,
    encoder: str,
    ids: list[str],
    data: Sequence[np.ndarray | None],
    index: np.ndarray,
    widths: Mapping[str, int],
    frames: _FrameIndex,
    given: np.ndarray,
) -> OlderRows:
    width = widths[encoder]
    whole, first = width, 0
    if file.kind == MERGED:
        columns = [widths[name] for name in _encoders_in(MERGED)]
        whole, first = sum(columns), sum(columns[: _encoders_in(MERGED).index(encoder)])
    embedded = read_fasta(file.fasta(ENCODERS[encoder].reads))
    own = frames.sequences(index, ENCODERS[encoder].column)
    counts = dict.fromkeys((f.name for f in fields(Counts)), 0)
    twice = {name for name, times in Counter(ids).items() if times > 1}
    good: dict[int, np.ndarray] = {}
    for name, row, values in zip(ids, index.tolist(), data, strict=True):
        if values is None or values.shape != (whole,):
            what = "wrong_width"
        elif row < 0:
            what = "no_match"
        elif name in twice:
            what = "ambiguous"
        elif name not in embedded:
            what = "no_sequence"
        elif embedded[name] != own[row]:
            what = "other_sequence"
        elif not np.isfinite(values[first : first + width]).all():
            what = "not_finite"
        elif given[row]:
            what = "again"
        else:
            what = "taken"
            given[row] = True
            good[row] = values[first : first + width]
        counts[what] += 1
    order = np.array(sorted(good), dtype=np.int64)
    rows = (
        np.stack([good[row] for row in order.tolist()]).astype(np.float32)
        if good
        else np.empty((0, width), np.float32)
    )
    return OlderRows(encoder, file.path, order, rows, Counts(**counts))


class _FrameIndex:
    """Frame ids -> rows of the table, without making the ids of all frames."""

    def __init__(self, table: FrameTable):
        self._table = table
        self._record, self._chunk = column(table, "record"), column(table, "chunk")
        self._stride = int(self._chunk.max(initial=0)) + 1
        self._keys = self._key(self._record, self._chunk, column(table, "frame"))
        if (np.diff(self._keys) <= 0).any():
            raise ValueError(
                "the rows of the frame table are not in the order of records, chunks and frames"
            )
        self._wanted = embeddable(table)

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """int64 [ids]; -1 where no frame of the run has the id, or where the run does not
        embed it.
        """
        names: list[str | None] = []
        places = np.zeros((len(ids), 2), dtype=np.int64)
        for i, text in enumerate(ids):
            match = FRAME_ID.fullmatch(text)
            chunk = int(match[2]) if match and len(match[2]) < 18 else 0
            names.append(match[1] if match and 0 < chunk < self._stride else None)
            places[i] = (
                chunk if names[-1] is not None else 0,
                FRAME_NAMES.index(match[3]) if match else 0,
            )
        found = pc.index_in(
            pa.array(names, pa.string()),
            value_set=self._table.records["name"].combine_chunks(),
            skip_nulls=True,
        )
        record = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        if not len(self._keys):
            return np.full(len(ids), -1, dtype=np.int64)
        key = self._key(record, places[:, 0], places[:, 1])
        row = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
        good = (record >= 0) & (self._keys[row] == key) & self._wanted[row]
        return np.where(good, row, -1)

    def sequences(self, index: np.ndarray, name: str) -> dict[int, str]:
        """By row: a text column of the rows `index` (negative ones left out). Old files follow the
        table, so a slice is read.
        """
        rows = np.unique(index[index >= 0])
        if not len(rows):
            return {}
        start = int(rows[0])
        part = self._table.frames[name].slice(start, int(rows[-1]) - start + 1)
        return dict(zip(rows.tolist(), part.take(pa.array(rows - start)).to_pylist(), strict=True))

    def _key(self, record: np.ndarray, chunk: np.ndarray, frame: np.ndarray) -> np.ndarray:
        return (record.astype(np.int64) * self._stride + chunk) * len(FRAME_NAMES) + frame


log = logging.getLogger(__name__)

SAMPLE = 16  # rows of a file that are embedded again, the same everywhere in it

# frame rows, what an older program had for them [n, width] -> whether this model gives the same
Agrees = Callable[[np.ndarray, np.ndarray], bool]


def import_older_rows(
    older: OlderWork,
    encoder: str,
    table: FrameTable,
    widths: Mapping[str, int],
    duplicates: Duplicates,
    store: FeatureStore,
    done: np.ndarray,
    agrees: Agrees,
) -> np.ndarray:
    """Add what `store` lacks and `older` has of `encoder`; the representatives added, int64,
    ascending.

    done: representatives that are there already; widths: of all encoders. Says how many rows were
    taken, and why not the others.
    """
    counts, added, before = Counts(), np.empty(0, dtype=np.int64), done
    for old in read_rows(older, table, widths):
        if old.encoder != encoder:
            continue
        if old.problem:
            log.warning("%s: %s; its rows are embedded anew", old.source, old.problem)
            continue
        counts += old.counts
        keys, first = np.unique(duplicates.representative[old.index], return_index=True)
        new = ~np.isin(keys, done)
        keys, first = keys[new], first[new]
        if len(keys) == 0:
            continue
        sample = first[np.unique(np.linspace(0, len(first) - 1, SAMPLE).astype(np.int64))]
        if not agrees(old.index[sample], old.rows[sample]):
            log.warning(
                "%s: %d of its rows embedded again came out otherwise, they are another model's;"
                " all %d are embedded anew",
                old.source,
                len(sample),
                len(keys),
            )
            continue
        store.add(keys, old.rows[first])
        done, added = np.union1d(done, keys), np.union1d(added, keys)
    store.flush()
    log.info("%s: %d embeddings taken up from %s; its rows: %s", encoder, len(added), older, counts)
    return np.setdiff1d(added, before)
