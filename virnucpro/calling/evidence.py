"""What known proteins say of every sequence of a run: one more pass over the inputs, a batch of
sequences at a time, and the columns that come of it.

The numbers of a sequence do not depend on what else is in the input. Does not know what becomes of
them in a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virnucpro.calling.calibration import expit
from virnucpro.calling.columns import RecordColumns
from virnucpro.errors import InputError
from virnucpro.homology.evidence import REPORTED_E, Evidence, hits_apart, weigh
from virnucpro.homology.reference import Reference
from virnucpro.homology.search import Hits, search
from virnucpro.homology.topology import topology
from virnucpro.homology.weights import search_weights
from virnucpro.sequences.reader import RecordReader, UnreadableInput

BATCH = 2_000_000  # bases that are searched at once
MOST_WRITTEN = 25  # hits of a sequence in hits.tsv


@dataclass(frozen=True)
class HitColumns:
    """The best hits of every sequence with an E value of at most `REPORTED_E`, by sequence and
    falling bit score; [hits] each. Positions are 1-based and inclusive on the forward strand. Of
    many hits those that overlap better ones are left out first.
    """

    record: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    reverse: NDArray[np.bool_]
    protein: NDArray[np.int32]  # row of the reference
    identity: NDArray[np.float64]
    columns: NDArray[np.int32]
    bits: NDArray[np.float64]
    evalue: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.record)


@dataclass(frozen=True)
class EvidenceColumns:
    """One entry a record, in input order; what was not searched has NaN, -1, 0 or None."""

    reference: Reference
    evidence: Evidence
    log_odds: NDArray[np.float64]  # of the search alone
    topology: Sequence[str | None]
    hits: HitColumns

    @property
    def probability(self) -> NDArray[np.float64]:
        """By the search alone."""
        return expit(self.log_odds)

    def of_records(self, rows: NDArray[np.int64]) -> EvidenceColumns:
        """The entries of these records; all hits stay."""
        evidence = Evidence(*(getattr(self.evidence, f.name)[rows] for f in fields(Evidence)))
        topology = [self.topology[row] for row in rows.tolist()]
        return replace(self, evidence=evidence, log_odds=self.log_odds[rows], topology=topology)


def search_inputs(
    inputs: Sequence[Mapping[str, object]],
    records: RecordColumns,
    reference: Reference,
    threads: int,
) -> EvidenceColumns:
    """The evidence of all records that were cut into chunks. Raises InputError where an input is
    no longer what was read before.
    """
    n = len(records)
    rows: list[int] = []
    parts: list[Evidence] = []
    hits: list[HitColumns] = []
    ends: list[str | None] = [None] * n
    for batch in _batches(inputs, records):
        row = np.array([r for r, _ in batch], np.int64)
        lengths = np.array([len(s) for _, s in batch], np.int64)
        found = search([s for _, s in batch], reference, threads)
        parts.append(weigh(found, lengths, reference))
        hits.append(_written(found, row, reference))
        rows += row.tolist()
        for r, sequence in batch:
            ends[r] = topology(sequence)
    none = weigh(_no_hits(), np.ones(n, np.int64), reference)
    evidence = _spread(none, parts, np.array(rows, np.int64))
    odds = np.full(n, np.nan)
    odds[rows] = search_weights().log_odds(evidence.features[rows], records.length[rows])
    return EvidenceColumns(reference, evidence, odds, ends, _joined(hits, reference))


def _batches(
    inputs: Sequence[Mapping[str, object]], records: RecordColumns
) -> Iterator[list[tuple[int, bytes]]]:
    """Lists of (row, sequence) of about BATCH bases."""
    batch: list[tuple[int, bytes]] = []
    bases = 0
    bounds = np.searchsorted(records.input, np.arange(len(inputs) + 1))
    for i, entry in enumerate(inputs):
        mine = slice(bounds[i], bounds[i + 1])
        usable = np.flatnonzero((records.n_chunks[mine] > 0) & ~records.problem[mine])
        if len(usable) == 0:
            continue
        for row, sequence in _sequences(str(entry["path"]), int(bounds[i]), records, usable):
            batch.append((row, sequence))
            bases += len(sequence)
            if bases >= BATCH:
                yield batch
                batch, bases = [], 0
    if batch:
        yield batch


def _sequences(
    path: str, first: int, records: RecordColumns, usable: NDArray[np.int64]
) -> Iterator[tuple[int, bytes]]:
    """(row, sequence) of the usable records of a file, counted from its first."""
    changed = InputError(f"{path}: changed while it was being analysed; run again with --force")
    wanted, last = set(usable.tolist()), int(usable[-1])
    try:
        with RecordReader(Path(path)) as reader:
            for i, record in enumerate(reader):
                if i in wanted:
                    if len(record.sequence) != records.length[first + i]:
                        raise changed
                    yield first + i, record.sequence
                if i == last:
                    return
        raise changed
    except UnreadableInput as error:  # of a file cut short the intact records come before this
        raise changed from error


def _written(hits: Hits, row: NDArray[np.int64], reference: Reference) -> HitColumns:
    """The hits for the table, of sequences that are records `row`: the best of every gene come
    before further ones of the same.
    """
    sure = np.flatnonzero(hits.evalue <= REPORTED_E)
    sequence, viral = hits.sequence[sure], reference.viral[hits.protein[sure]]
    further = ~hits_apart(sequence, hits.start[sure], hits.end[sure], viral)
    order = np.lexsort((further, sequence))
    first = np.flatnonzero(np.diff(sequence, prepend=-1))
    place = np.arange(len(sure)) - np.repeat(first, np.diff(first, append=len(sure)))
    some = hits.select(sure[np.sort(order[place < MOST_WRITTEN])])
    return HitColumns(
        row[some.sequence],
        some.start + 1,
        some.end,
        some.reverse,
        some.protein,
        some.identical / np.maximum(some.columns, 1),
        some.columns,
        some.bits,
        some.evalue,
    )


def _no_hits() -> Hits:
    kinds = (np.int32, np.int32, np.int64, np.int64, bool, np.int32, np.int32, float, float)
    return Hits(*(np.zeros(0, kind) for kind in kinds))


def _spread(none: Evidence, parts: Sequence[Evidence], rows: NDArray[np.int64]) -> Evidence:
    """The parts, which are of `rows`, among records without evidence."""
    if parts:
        together = Evidence.concatenate(parts)
        for column in fields(Evidence):
            getattr(none, column.name)[rows] = getattr(together, column.name)
    return none


def _joined(parts: Sequence[HitColumns], reference: Reference) -> HitColumns:
    parts = parts or [_written(_no_hits(), np.zeros(0, np.int64), reference)]
    return HitColumns(
        *(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(HitColumns))
    )
