"""The whole result of a run as columns: what every table, the FASTA files and the report are
written from.

Knows how the frame table's columns and the scores become calls; does not know files or formats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from virnucpro.calling.calibration import Calibration, prevalence_by_source
from virnucpro.calling.columns import (
    ChunkColumns,
    FrameColumns,
    Note,
    RecordColumns,
    SequenceColumns,
)
from virnucpro.calling.consensus import CallRules, call_chunks, call_sequences, call_windows
from virnucpro.calling.mates import Reads
from virnucpro.calling.regions import RegionColumns, RegionLimits, find_regions, note_regions
from virnucpro.calling.screen import Screen
from virnucpro.calling.sequential import CallInputs, HitPlaces
from virnucpro.homology.choice import find_reference
from virnucpro.launch import cores
from virnucpro.models.encoders import longest_protein
from virnucpro.settings import CallSettings

if TYPE_CHECKING:
    from virnucpro.calling.evidence import EvidenceColumns
    from virnucpro.sequences.table import FrameTable

SMALL_MODEL, FULL_MODEL = "mini", "500"


def model_label(name: str) -> str:
    """The model's name for a reader, who is told of the full one where it is the small one."""
    return f"{name} (small; the full model is {FULL_MODEL})" if name == SMALL_MODEL else name


@dataclass(frozen=True, slots=True)
class Source:
    """One input file: where it lies, how tables name it, and the stem of its own folder."""

    path: str
    source: str
    stem: str
    sha256: str | None = None  # of the bytes that were read; None where not all could be


@dataclass(frozen=True)
class Answers:
    """Everything that is known about every sequence, chunk and frame of a run."""

    inputs: tuple[Source, ...]
    model: str
    rules: CallRules
    reads: Reads  # the records as they were read: what frames, chunks and hits are of
    names: pa.Array  # large_string [sequences]
    record_notes: pa.Array  # large_string [sequences], ";"-joined, "" where there is none
    records: RecordColumns  # [sequences]
    frames: FrameColumns
    chunks: ChunkColumns
    sequences: SequenceColumns
    regions: RegionColumns
    prevalence: Mapping[str, float] = field(default_factory=dict)  # by source: what the fdr assumes
    limits: RegionLimits = field(default_factory=RegionLimits)  # of the regions
    # of --stride: what the regions rest on; frames and chunks are without them
    windows: ChunkColumns | None = None
    evidence: EvidenceColumns | None = None  # of known proteins, where they were searched
    called_by: str = "model"
    screen: Screen | None = None  # of a model that looked first

    @property
    def model_label(self) -> str:
        """The model's name for tables, with a word on the full one where it was the small one."""
        return model_label(self.model)


@dataclass(frozen=True)
class Known:
    """What is known beside scores."""

    evidence: EvidenceColumns | None = None  # of known proteins, of every record
    screen: Screen | None = None


def call(
    table: FrameTable,
    scores: NDArray[np.float32],
    lost: NDArray[np.bool_],
    settings: CallSettings,
    model: str,
    calibration: Calibration | None = None,
    left_out: NDArray[np.bool_] | None = None,
    known: Known | None = None,
) -> Answers:
    """The answers for the frames of `table`. scores: float32 [frames, 2] (others, virus); lost:
    bool [frames], without an embedding; left_out: those of them that were not needed. Searches the
    reference proteins of the settings, unless their evidence is `known`.
    """
    table.check()
    frames = frame_columns(table.frames, scores, lost, left_out)
    rules = call_rules(table, settings)
    return assemble(table.inputs, table.records, frames, rules, model, calibration, settings, known)


def call_rules(table: FrameTable, settings: CallSettings) -> CallRules:
    """By which the frames of `table` become calls."""
    return CallRules(
        table.rules.chunk_length,
        settings.points,
        settings.allow_short,
        table.rules.stride,
        table.rules.frame_policy,
        longest_protein(table.encoders),
    )


def call_inputs(
    table: FrameTable, settings: CallSettings, calibration: Calibration | None
) -> tuple[EvidenceColumns | None, CallInputs]:
    """(The evidence of known proteins, what calls are made of beside scores) for the sequences of
    `table`.
    """
    records = record_columns(table.records)
    evidence = _evidence(table.inputs, records, settings.reference)
    inputs = CallInputs(records, call_rules(table, settings), calibration, settings.prevalence)
    if evidence is None:
        return None, inputs
    hits = evidence.hits
    viral = evidence.reference.viral[hits.protein]
    deciding = evidence if settings.call_by == "both" else None
    places = HitPlaces(hits.record, hits.start, hits.end, hits.bits, viral)
    return evidence, replace(inputs, evidence=deciding, hits=places)


def reads_of(record_table: pa.Table) -> Reads:
    """The records as they were read."""
    names, notes = _text(record_table, "name"), _text(record_table, "notes")
    return Reads.of(names, notes, record_columns(record_table))


def of_sequences(evidence: EvidenceColumns | None, reads: Reads) -> EvidenceColumns | None:
    """The evidence of each sequence; for a pair the mate speaks of which it says more."""
    if evidence is None or not reads.any_pair:
        return evidence
    return evidence.of_records(reads.stronger(np.abs(evidence.log_odds)))


def assemble(
    inputs: Sequence[Mapping[str, object]],
    record_table: pa.Table,
    frames: FrameColumns,
    rules: CallRules,
    model: str,
    calibration: Calibration | None = None,
    settings: CallSettings | None = None,
    known: Known | None = None,
) -> Answers:
    """Calls from the records and their scored frames."""
    settings = settings or CallSettings()
    prevalence = settings.prevalence
    read, windows = record_columns(record_table), None
    notes, reads = _text(record_table, "notes"), reads_of(record_table)
    records = reads.totals()
    known = known or Known()
    evidence = known.evidence or _evidence(inputs, read, settings.reference)
    evidence = of_sequences(evidence, reads)
    screen = known.screen and known.screen.beside(evidence)
    if rules.stride:
        of_window = frames.chunk > read.n_chunks[frames.record]
        windows = call_windows(frames.take(of_window), read, rules)
        frames = frames.take(~of_window)
    chunks = call_chunks(frames, read, rules)
    sequences = _call(chunks, reads, records, rules, calibration, settings, evidence, screen)
    limits = RegionLimits() if calibration is None else calibration.regions
    regions = find_regions(
        reads.without_mates(chunks if windows is None else windows),
        sequences,
        records.length,
        rules.density,
        limits,
    )
    note_regions(sequences, regions)
    sources = _sources(inputs)
    return Answers(
        inputs=sources,
        model=model,
        rules=rules,
        reads=reads,
        names=reads.sequence_names(),
        record_notes=notes.take(pa.array(reads.first)) if reads.any_pair else notes,
        records=records,
        frames=frames,
        chunks=chunks,
        sequences=sequences,
        regions=regions,
        prevalence=_prevalence(sources, records, sequences, calibration, prevalence),
        limits=limits,
        windows=windows,
        evidence=evidence,
        called_by=settings.call_by or "model",
        screen=screen,
    )


def _call(
    chunks: ChunkColumns,
    reads: Reads,
    records: RecordColumns,
    rules: CallRules,
    calibration: Calibration | None,
    settings: CallSettings,
    evidence: EvidenceColumns | None,
    screen: Screen | None,
) -> SequenceColumns:
    """The sequences' calls, by what decides; the screen's where it answered for the model."""
    sequences = call_sequences(
        reads.chunks_of_sequences(chunks),
        reads.by_longer_mate(records),
        rules,
        calibration,
        settings.prevalence,
        evidence if settings.call_by == "both" else None,
    )
    if screen:
        sequences = screen.answered(sequences)
    if evidence:
        sequences.notes[evidence.evidence.plasmid_like] |= Note.plasmid_like.value
    return sequences


def _sources(inputs: Sequence[Mapping[str, object]]) -> tuple[Source, ...]:
    return tuple(
        Source(
            str(i["path"]),
            str(i["source"]),
            str(i["stem"]),
            str(i["sha256"]) if i.get("sha256") else None,
        )
        for i in inputs
    )


def _evidence(
    inputs: Sequence[Mapping[str, object]], records: RecordColumns, choice: str | None
) -> EvidenceColumns | None:
    """What the chosen reference proteins say; None where none are searched."""
    directory = find_reference(choice)
    if directory is None:
        return None
    import torch  # knows --threads

    from virnucpro.calling.evidence import search_inputs  # numba takes half a second
    from virnucpro.homology.reference import load

    return search_inputs(inputs, records, load(directory), min(cores(), torch.get_num_threads()))


def _prevalence(
    sources: Sequence[Source],
    records: RecordColumns,
    sequences: SequenceColumns,
    calibration: Calibration | None,
    given: float | None,
) -> dict[str, float]:
    """The share of viral sequences that the fdr supposes, by source: the given one, or an estimate
    for the sources with enough sequences.
    """
    if calibration is None:
        return {}
    if given is not None:
        return {source.source: given for source in sources}
    eligible = sequences.called
    found = prevalence_by_source(
        sequences.virus_probability, records.input, eligible, calibration.training_prevalence
    )
    return {sources[i].source: share for i, share in found.items()}


def record_columns(table: pa.Table) -> RecordColumns:
    """The numbers of the record table; `problem` there is text, here whether there is any. Skipped
    records have no chunks.
    """
    skipped = _numbers(table, "skipped", np.bool_)
    return RecordColumns(
        input=_numbers(table, "input", np.int32),
        length=_numbers(table, "length", np.int64),
        gc=_numbers(table, "gc", np.float64),
        n_chunks=np.where(skipped, 0, _numbers(table, "n_chunks", np.int32)).astype(np.int32),
        n_ambiguous=_numbers(table, "n_ambiguous", np.int64),
        problem=_numbers_of(pc.not_equal(pc.fill_null(table["problem"], ""), ""), np.bool_),
        skipped=skipped,
    )


def frame_columns(
    table: pa.Table,
    scores: NDArray[np.float32],
    failed: NDArray[np.bool_],
    left_out: NDArray[np.bool_] | None = None,
) -> FrameColumns:
    """The small columns of the frame table with its scores [frames, 2] (others, virus); sequences
    and tokens stay on disk. Rows of `failed` frames are ignored; some of them may be `left_out`.
    """
    scores = np.where(failed[:, None], np.float32(np.nan), scores).astype(np.float32, copy=False)
    return FrameColumns(
        record=_numbers(table, "record", np.int64),
        chunk=_numbers(table, "chunk", np.int32),
        frame=_numbers(table, "frame", np.int8),
        start=_numbers(table, "start", np.int64),
        end=_numbers(table, "end", np.int64),
        aa_length=_numbers(table, "aa_length", np.int32),
        others=np.ascontiguousarray(scores[:, 0]),
        virus=np.ascontiguousarray(scores[:, 1]),
        failed=failed,
        left_out=np.zeros(len(failed), np.bool_) if left_out is None else left_out,
    )


def _numbers(table: pa.Table, column: str, dtype: type) -> NDArray:
    return _numbers_of(table[column], dtype)


def _numbers_of(column: pa.ChunkedArray, dtype: type) -> NDArray:
    if dtype is np.float64:
        column = pc.fill_null(column, float("nan"))
    return np.asarray(
        column.to_numpy(zero_copy_only=False)
        if isinstance(column, pa.Array)
        else column.to_numpy(),
        dtype,
    )


def _text(table: pa.Table, column: str) -> pa.Array:
    values = pc.fill_null(table[column].cast(pa.large_string()), "")
    return values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
