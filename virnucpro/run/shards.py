"""What one shard of a run leaves for `merge`, and all shards together as the table of one run.

Knows the columns that calling needs, and the order of the records of all inputs; sequences and
tokens stay in the shard's cache.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnucpro.embedding.coverage import Coverage
from virnucpro.embedding.matrix import read_matrix
from virnucpro.errors import StoreError, one_line
from virnucpro.files import writing, xxh3_of
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import RunRecord, read_record, write_failures, write_record
from virnucpro.reporting.write import dated
from virnucpro.run.identity import SHARD, difference
from virnucpro.run.timing import Clock
from virnucpro.sequences.build import book_of, renamed
from virnucpro.sequences.frame_columns import RECORD_SCHEMA, FrameRules
from virnucpro.sequences.mates import Fragments, InputReads
from virnucpro.sequences.table import FrameTable, read_failures
from virnucpro.settings import parse_shard

log = logging.getLogger(__name__)

FRAMES, RECORDS = "shard_frames.arrow", "shard_records.arrow"
COLUMNS = ("record", "chunk", "frame", "start", "end", "aa_length")  # of the table of frames
NOT_NEEDED = "not needed"  # the reason of a frame that was left out
ABOUT = b"virnucpro"  # the key of what is known of the inputs


@dataclass(frozen=True)
class Shard:
    """A finished shard. frames: COLUMNS, others, virus, reason (null: embedded); about: what its
    reading found in the inputs.
    """

    directory: Path
    record: RunRecord
    frames: pa.Table
    records: pa.Table
    about: Mapping[str, Any]

    @property
    def number(self) -> tuple[int, int]:
        """(i, n): the i-th of n shards."""
        return parse_shard(self.record.identity[SHARD])


def write_shard(
    outputs: Outputs,
    table: FrameTable,
    scores: np.ndarray,
    covered: Coverage,
    record: RunRecord,
    clock: Clock,
    saved: Callable[[], object] | None,
) -> None:
    """What `merge` needs of a shard; no calls and no tables, which all shards together give.

    As for `_write_tables`; saved: waits for the features.
    """
    with outputs.replacing_results():
        files = _write_tables(outputs.directory, table, scores, covered)
        write_failures(outputs, record.failures)
        if saved is not None:
            saved()
        write_record(outputs, replace(dated(record), scores=files, seconds=clock.seconds()))
    log.info(
        "shard %s: %s frames embedded; join all with virnucpro merge",
        *(record.identity[SHARD], f"{len(table):,}"),
    )


def _write_tables(
    directory: Path, table: FrameTable, scores: np.ndarray, covered: Coverage
) -> dict[str, str]:
    """The shard's files, and their checksums. scores: float32 [frames, 2] (others, virus)."""
    why: list[str | None] = [None] * len(table)
    for row in np.flatnonzero(covered.left_out).tolist():
        why[row] = NOT_NEEDED
    for row, reason in covered.reasons.items():
        why[row] = reason
    table.check()
    frames = table.frames.select(list(COLUMNS))
    frames = frames.append_column("others", pa.array(scores[:, 0]))
    frames = frames.append_column("virus", pa.array(scores[:, 1]))
    frames = frames.append_column("reason", pa.array(why, pa.string()))
    about = {
        "inputs": table.inputs,
        "unreadable": sorted(table.unreadable.items()),
        "warnings": table.warnings,
        "rules": table.rules.identity(),
    }
    records = table.records.replace_schema_metadata({ABOUT: json.dumps(about).encode()})
    for name, content in ((FRAMES, frames), (RECORDS, records)):
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with (
            writing(directory / name) as stream,
            pa.ipc.new_file(stream, content.schema, options=options) as file,
        ):
            file.write_table(content)
    return {name: xxh3_of(directory / name) for name in (FRAMES, RECORDS)}


def read_shards(directories: Sequence[Path]) -> list[Shard]:
    """The shards of one run, in order. Errors: StoreError where one is missing, damaged, given
    twice, or of another run.
    """
    shards = sorted((_read_shard(directory) for directory in directories), key=lambda s: s.number)
    first, of = shards[0], shards[0].number[1]
    for shard in shards:
        before, now = ({**s.record.identity, SHARD: "", **s.record.call} for s in (first, shard))
        changed = difference(before, now)
        if shard.record.embedding.keys() != first.record.embedding.keys():
            changed = "other encoders"
        if shard.number[1] != of:
            changed = f"one of {of} shards, the other of {shard.number[1]}"
        if changed:
            raise StoreError(
                f"{first.directory} and {shard.directory} are not of the same run ({changed});"
                " merge joins the shards of one command"
            )
    numbers = [shard.number[0] for shard in shards]
    twice = next((n for n in numbers if numbers.count(n) > 1), None)
    if twice is not None:
        raise StoreError(f"shard {twice}/{of} is given twice; name every shard once")
    missing = [f"{n}/{of}" for n in range(1, of + 1) if n not in numbers]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise StoreError(
            f"{', '.join(missing[:5])}{more}: not among the shards given; run predict --shard i/n"
            " for each"
        )
    return shards


def _read_shard(directory: Path) -> Shard:
    record = read_record(directory / "run.json")
    if record is None or SHARD not in record.identity:
        what = "no finished run in here" if record is None else "a whole run, not a shard"
        raise StoreError(f"{directory}: {what}; give the directories of predict --shard i/n")
    tables = []
    for name in (FRAMES, RECORDS):
        path = directory / name
        try:
            if xxh3_of(path) != record.scores.get(name):
                raise ValueError("not as it was written")
            with pa.memory_map(str(path)) as source:
                tables.append(pa.ipc.open_file(source).read_all())
            wanted = {*COLUMNS, "others", "virus", "reason"} if name == FRAMES else {"place"}
            if not wanted <= set(tables[-1].column_names):
                raise ValueError("columns are missing")
        except (OSError, ValueError, pa.ArrowException) as error:
            why = one_line(str(error))
            raise StoreError(f"{path}: cannot be read ({why}); run this shard again") from None
    about = json.loads((tables[1].schema.metadata or {}).get(ABOUT, b"{}"))
    if about.keys() < {"inputs", "unreadable", "warnings", "rules"}:
        raise StoreError(f"{directory / RECORDS}: not as a shard writes it; run this shard again")
    return Shard(directory, record, tables[0], tables[1].replace_schema_metadata(), about)


@dataclass(frozen=True)
class Joined:
    """All frames of a run. table: as one run's, without sequences and tokens; scores float32
    [frames, 2]; covered: which have an embedding; source: int64 [frames, 2], the shard and the row
    of its `merged_features.pt`, -1 where there is none.
    """

    table: FrameTable
    scores: np.ndarray
    covered: Coverage
    source: np.ndarray


def join_shards(shards: Sequence[Shard]) -> Joined:
    """The shards as one table, in the order of the inputs. Errors: StoreError where records are
    missing or there twice.
    """
    about = shards[0].about
    places = [shard.records["place"].to_numpy() for shard in shards]
    total = sum(entry["n_records"] for entry in about["inputs"])
    if not np.array_equal(np.sort(np.concatenate(places)), np.arange(total)):
        raise StoreError("the shards do not hold every record once; run them again with --force")
    unreadable = {int(number): why for number, why in about["unreadable"]}
    records = _records(shards, np.argsort(np.concatenate(places)))
    frames = pa.concat_tables(shard.frames for shard in shards)
    record = np.concatenate(
        [
            place[shard.frames["record"].to_numpy()]
            for place, shard in zip(places, shards, strict=True)
        ]
    )
    order = np.argsort(record, kind="stable")  # frames of a record stay in their order
    frames = frames.set_column(0, "record", pa.array(record)).take(pa.array(order))
    frames = frames.combine_chunks()
    left_out = pc.fill_null(pc.equal(frames["reason"], NOT_NEEDED), False).to_numpy()
    lost = frames["reason"].is_valid().to_numpy() & ~left_out
    reasons = dict(
        zip(
            np.flatnonzero(lost).tolist(),
            frames["reason"].filter(pa.array(lost)).to_pylist(),
            strict=True,
        )
    )
    table = FrameTable(
        directory=shards[0].directory,
        fingerprint=shards[0].record.identity["frames"],
        frames=frames.select(list(COLUMNS)),
        records=records,
        inputs=tuple(about["inputs"]),
        failures=read_failures(about["inputs"], records, unreadable),
        warnings=tuple(tuple(lines) for lines in about["warnings"]),
        reused=False,
        rules=FrameRules(**{**about["rules"], "shard": ""}),
        sizes={},
        unreadable=unreadable,
    )
    scores = np.stack([frames["others"].to_numpy(), frames["virus"].to_numpy()], axis=1)
    covered = Coverage.of(table, reasons, left_out)
    return Joined(table, scores, covered, _sources(shards)[order])


def _records(shards: Sequence[Shard], order: np.ndarray) -> pa.Table:
    """The records of all shards in `order`; mates and equal names are told over all of them."""
    about = shards[0].about
    damaged = {int(number) for number, _ in about["unreadable"]}
    reads = [
        InputReads(entry["n_records"], entry["fastq"], entry["sha256"], number not in damaged)
        for number, entry in enumerate(about["inputs"])
    ]
    records = pa.concat_tables(shard.records for shard in shards).take(pa.array(order))
    fragments = Fragments()
    for name in records["original_name"].to_pylist():
        fragments.add(name)
    mates = fragments.mates(reads)
    batches = records.select(RECORD_SCHEMA.names).cast(RECORD_SCHEMA).to_batches()
    names = book_of(batches, mates)
    if mates is not None or names.any_repeated:
        batches = list(renamed(batches, names, mates))
    return pa.Table.from_batches(batches, schema=RECORD_SCHEMA)


def _sources(shards: Sequence[Shard]) -> np.ndarray:
    """int64 [frames, 2] of all shards one after another: see `Joined`."""
    parts = []
    for number, shard in enumerate(shards):
        kept = shard.frames["reason"].is_null().to_numpy()
        row = np.where(kept, np.cumsum(kept) - 1, -1)
        parts.append(np.stack([np.full(len(row), number), row], axis=1))
    return np.concatenate(parts).astype(np.int64)


class ShardRows:
    """The feature rows of all shards, in the order of the frames `source`, memory-mapped; slices of
    frames can be read. Errors: StoreError where a shard's file is not what its run wrote.
    """

    def __init__(self, shards: Sequence[Shard], source: np.ndarray):
        self._source = source
        self._matrices = []
        for shard in shards:
            path = Outputs(shard.directory).features
            ids, rows = read_matrix(path)
            if len(ids) != shard.frames["reason"].null_count:
                raise StoreError(f"{path}: has not a row for every frame; run this shard again")
            self._matrices.append(rows)
        self.shape = (len(source), self._matrices[0].shape[1])
        self.dtype = self._matrices[0].dtype

    def __getitem__(self, frames: slice) -> np.ndarray:
        source = self._source[frames]
        out = np.empty((len(source), self.shape[1]), self.dtype)
        for number in np.unique(source[:, 0]).tolist():
            here = source[:, 0] == number
            out[here] = self._matrices[number][source[here, 1]]
        return out
