"""Frames to chunks to sequences: the rules by which scores become a call (SPEC 2).

Arrays in, arrays out; the order of the frames does not matter. Knows no names, files, weights or
torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from virnucpro.calling.calibration import (
    FEWEST_FOR_PREVALENCE,
    Calibration,
    Points,
    expit,
    fdr_by_source,
    score_log_odds,
    shift_prevalence,
)
from virnucpro.calling.columns import (
    Call,
    ChunkColumns,
    ChunkStatus,
    FrameColumns,
    Note,
    RecordColumns,
    SequenceColumns,
)
from virnucpro.calling.sample import in_sample
from virnucpro.models.encoders import ENCODERS, longest_protein
from virnucpro.sequences.chunks import Spans, all_spans, all_windows
from virnucpro.settings import AMBIGUOUS, STRETCHES, CallPoints

if TYPE_CHECKING:
    from virnucpro.calling.evidence import EvidenceColumns

EVIDENCE_LENGTH = 3000  # bases from which on a sequence must show more than one scored chunk
EVIDENCE_CHUNKS = 2
EVIDENCE_FRACTION = 0.2
LEAST_SCORE = 1e-7  # a float32 score may round to 0, of which there is no logarithm


@dataclass(frozen=True, slots=True)
class CallRules:
    """What makes a score a call: the points, the model's chunk length, and whether short sequences
    count.
    """

    chunk_length: int
    points: CallPoints = field(default_factory=CallPoints)
    allow_short: bool = False
    stride: int = 0  # of the windows on which regions rest; 0: they rest on the chunks
    frame_policy: str = "open"
    # residues; a longer frame cannot have a score
    longest_protein: float = field(default_factory=lambda: longest_protein(ENCODERS.values()))

    @property
    def density(self) -> int:
        """Windows to a chunk."""
        return round(self.chunk_length / self.stride) if self.stride else 1


def chunk_offsets(records: RecordColumns) -> NDArray[np.int64]:
    """Row of each record's first chunk among all chunks, and their number at the end: [records +
    1].
    """
    return np.concatenate([[0], np.cumsum(records.n_chunks, dtype=np.int64)])


def call_chunks(
    frames: FrameColumns,
    records: RecordColumns,
    rules: CallRules,
) -> ChunkColumns:
    """Every chunk with the scores of its frames; a chunk without a scored frame says why.

    `max_others` and `max_virus` are maxima over the chunk's frames, so they need not sum to 1;
    `virus_score` = max_virus / (max_virus + max_others), and a tie is virus. By the frame policy
    `stretches` the frames of a chunk are not alike: the longer, the likelier it is what is
    translated. There `max_virus` is 1 / (1 + exp(-m)) with m the mean of log(virus / others) of the
    frames, weighted by the squares of their residues (chosen on validation data:
    recipes/mini/STUDY.md), and `max_others` 1 less that.
    """
    spans = all_spans(_cut_lengths(records), rules.chunk_length)
    if len(spans.chunk) != int(records.n_chunks.sum()):
        raise ValueError(f"the records were not cut into chunks of {rules.chunk_length}")
    row = chunk_offsets(records)[frames.record] + (frames.chunk - 1)  # [frames] -> row of its chunk
    return _joined(spans, row, frames, records, rules)


def call_windows(
    frames: FrameColumns,
    records: RecordColumns,
    rules: CallRules,
) -> ChunkColumns:
    """The same for the windows of `--stride` and their frames; `chunk` counts a sequence's windows
    from 1.
    """
    spans = all_windows(_cut_lengths(records), rules.chunk_length, rules.stride)
    first = np.searchsorted(spans.sequence, np.arange(len(records)))
    row = first[frames.record] + (frames.chunk - records.n_chunks[frames.record] - 1)
    numbered = spans._replace(chunk=spans.chunk - records.n_chunks[spans.sequence])
    return _joined(numbered, row, frames, records, rules)


def _cut_lengths(records: RecordColumns) -> NDArray[np.int64]:
    return np.where(records.n_chunks > 0, records.length, 0)


def _joined(
    spans: Spans,
    row: NDArray[np.int64],
    frames: FrameColumns,
    records: RecordColumns,
    rules: CallRules,
) -> ChunkColumns:
    """`spans` with the scores of their frames; `row` [frames] is the span of each."""
    record, chunk, start, end = spans
    total = len(record)
    n_open = np.bincount(row, minlength=total).astype(np.int32)

    good = frames.scored
    join = _weighted if rules.frame_policy == STRETCHES else _maxima
    others, virus = join(
        row[good], frames.others[good], frames.virus[good], frames.aa_length[good], total
    )

    status = np.full(total, ChunkStatus.scored, np.uint8)
    status[np.isneginf(virus)] = ChunkStatus.failed
    too_long = np.zeros(total, bool)
    too_long[row[frames.failed & (frames.aa_length > rules.longest_protein)]] = True
    status[(status == ChunkStatus.failed) & too_long] = ChunkStatus.frame_too_long
    status[row[~good & ~frames.failed]] = ChunkStatus.failed  # a score that is no number
    left_out = np.bincount(row[frames.left_out], minlength=total) > 0
    status[left_out & (status != ChunkStatus.scored)] = ChunkStatus.not_needed
    status[n_open == 0] = ChunkStatus.no_open_frame
    status[records.problem[record]] = ChunkStatus.invalid_characters

    scored = status == ChunkStatus.scored
    others[~scored] = virus[~scored] = np.nan
    sum_of_both = virus.astype(np.float64) + others
    return ChunkColumns(
        record=record,
        chunk=chunk.astype(np.int32),
        start=start + 1,
        end=end,
        n_open_frames=n_open,
        max_others=others,
        max_virus=virus,
        virus_score=virus / sum_of_both,
        is_virus=scored & (virus >= others),
        status=status,
    )


def _maxima(row, others, virus, _, total: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The highest (others, virus) of the frames of each span; -inf where it has none."""
    best_others, best_virus = np.full((2, total), -np.inf, np.float32)
    np.maximum.at(best_others, row, others)
    np.maximum.at(best_virus, row, virus)
    return best_others, best_virus


def _weighted(
    row, others, virus, residues, total: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(others, virus) of each span by its frames' mean log-odds, weighted by residues squared; -inf
    where it has none.
    """
    odds = np.log(np.maximum(virus, LEAST_SCORE).astype(np.float64)) - np.log(
        np.maximum(others, LEAST_SCORE).astype(np.float64)
    )
    weight = residues.astype(np.float64) ** 2
    weights = np.bincount(row, weight, total)
    mean = np.divide(
        np.bincount(row, weight * odds, total), weights, out=np.zeros(total), where=weights > 0
    )
    joined = np.where(weights > 0, 1 / (1 + np.exp(-mean)), -np.inf)
    return np.where(weights > 0, 1 - joined, -np.inf).astype(np.float32), joined.astype(np.float32)


def call_sequences(
    chunks: ChunkColumns,
    records: RecordColumns,
    rules: CallRules,
    calibration: Calibration | None = None,
    prevalence: float | None = None,
    evidence: EvidenceColumns | None = None,
) -> SequenceColumns:
    """Every sequence's score, call and notes (all but the note on regions, which `regions` adds).

    `prevalence`: the share of viral sequences the user expects; moves the probabilities and enters
    the fdr. Without it a sequence's call never depends on its company, and only the fdr uses a
    prevalence estimated from each source.
    `evidence`: what known proteins say, where the call is to be made of both.
    """
    n, n_chunks = len(records), records.n_chunks
    n_scored, virus_score, max_chunk_score = _scores(chunks, n)
    has_score = np.isfinite(virus_score)
    # had they been looked at, these chunks would have a score
    left_out = chunks.record[chunks.status == ChunkStatus.not_needed]
    not_needed = np.bincount(left_out, minlength=n).astype(np.int32)
    scored_fraction = np.divide(
        n_scored + not_needed, n_chunks, out=np.zeros(n), where=n_chunks > 0
    )
    n_open_frames = np.bincount(chunks.record, chunks.n_open_frames, n).astype(np.int64)
    eligible = has_score & (rules.allow_short | (2 * records.length >= rules.chunk_length))
    trained = 0.5 if calibration is None else calibration.training_prevalence
    measured = (virus_score, records.length, scored_fraction, n_open_frames)
    model_probability, probability = _probabilities(measured, calibration, evidence)
    calibrated = calibration is not None or evidence is not None
    model_probability, probability = (
        shift_prevalence(p, trained, prevalence) for p in (model_probability, probability)
    )
    fdr = np.full(n, np.nan)
    if calibrated:
        fewest = FEWEST_FOR_PREVALENCE if rules.points.max_fdr is None else 1
        fdr = fdr_by_source(probability, records.input, eligible, trained, prevalence, fewest)
    little = (n_scored + not_needed < EVIDENCE_CHUNKS) | (scored_fraction < EVIDENCE_FRACTION)
    little &= has_score & (records.length >= EVIDENCE_LENGTH)
    deciding = probability if calibrated else virus_score
    points_by = calibration.measured_points(evidence is not None) if calibration else None
    shifts = (trained, prevalence)
    over, ambiguous = _over(deciding, fdr, records.length, rules.points, points_by, shifts)
    notes = _notes(chunks, records, has_score, rules)
    notes[little] |= Note.low_evidence.value
    notes[has_score] |= 0 if calibrated else Note.uncalibrated.value
    return SequenceColumns(
        n_scored=n_scored,
        scored_fraction=scored_fraction,
        virus_score=virus_score,
        virus_probability=probability,
        max_chunk_score=max_chunk_score,
        n_virus_chunks=np.bincount(chunks.record[chunks.is_virus], minlength=n).astype(np.int32),
        n_open_frames=n_open_frames,
        call=_calls(over, ambiguous, has_score, eligible, little),
        fdr=fdr,
        notes=notes,
        model_probability=model_probability,
        n_looked_at=n_chunks - not_needed,
    )


def _probabilities(
    measured: tuple[NDArray, ...],
    calibration: Calibration | None,
    evidence: EvidenceColumns | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(The model's, that of model and evidence), float64 [sequences], NaN where there is none.
    measured: score, length, scored fraction and open frames, each [sequences].
    """
    score, length, *_ = measured
    model, has_score = np.full(len(score), np.nan), np.isfinite(score)
    if calibration is not None:
        model[has_score] = calibration.probability(*(column[has_score] for column in measured))
    if evidence is None:
        return model, model
    network = score if calibration is None else model
    return model, _with_evidence(score, network, length, calibration, evidence)


def _over(
    deciding: NDArray[np.float64],
    fdr: NDArray[np.float64],
    length: NDArray[np.int64],
    points: CallPoints,
    measured: Points | None,
    prevalences: tuple[float, float | None],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(Over the point of a virus, over that of an ambiguous sequence), bool [sequences].
    prevalences: in training, and expected.
    """
    over, ambiguous = deciding >= points.virus, deciding >= points.relaxed
    if points.max_fdr is not None:
        over = fdr <= points.max_fdr
    if points.false_positives is not None and measured is not None:
        over, ambiguous = (
            deciding >= shift_prevalence(point, *prevalences)
            for point in measured.at(length, points.false_positives, AMBIGUOUS)
        )
    return over, ambiguous


def _with_evidence(
    score: NDArray[np.float64],
    network: NDArray[np.float64],
    length: NDArray[np.int64],
    calibration: Calibration | None,
    evidence: EvidenceColumns,
) -> NDArray[np.float64]:
    """The probability by both: with the weights of the bundle, which take the score [n]; without
    any the log-odds of the hits are added to those of `network` [n], its probability or its score.
    Where viral proteins lead in a part of a long sequence only, it is not over that of the network:
    a phage within a chromosome does not make a virus of the whole.
    """
    if calibration is not None and calibration.evidence is not None:
        columns = np.column_stack([score_log_odds(score), evidence.evidence.features])
        both = expit(calibration.evidence.log_odds(columns, length))
    else:
        both = expit(score_log_odds(network) + np.nan_to_num(evidence.log_odds))
    return np.where(evidence.evidence.in_part, np.minimum(both, network), both)


def _scores(
    chunks: ChunkColumns, n: int
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """(number of scored chunks, mean score of those in the sample weighted by length, best of all)
    of the n sequences; NaN where there is none.
    """
    scored = chunks.scored
    n_scored = np.bincount(chunks.record[scored], minlength=n).astype(np.int32)
    best = np.full(n, np.nan)
    np.fmax.at(best, chunks.record[scored], chunks.virus_score[scored])

    drawn = scored & in_sample(chunks)
    owner, score = chunks.record[drawn], chunks.virus_score[drawn]
    bases = (chunks.end - chunks.start + 1)[drawn].astype(np.float64)
    weights = np.bincount(owner, bases, n)
    mean = np.divide(
        np.bincount(owner, score * bases, n), weights, out=np.full(n, np.nan), where=weights > 0
    )
    np.clip(mean, 0.0, 1.0, out=mean)  # a mean of equal scores may round to just beyond them
    return n_scored, mean, best


def _calls(
    over: NDArray[np.bool_],
    ambiguous: NDArray[np.bool_],
    has_score: NDArray[np.bool_],
    eligible: NDArray[np.bool_],
    little: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    """The call of each sequence by whether what decides is over the point of a virus or of an
    ambiguous one; `little` evidence never calls virus.

    eligible: those with a score that are long enough for a call.
    """
    call = np.full(len(over), Call.non_virus, np.uint8)
    call[ambiguous] = Call.ambiguous
    call[over] = Call.virus
    call[little & (call == Call.virus)] = Call.ambiguous
    call[~eligible] = Call.too_short
    call[~has_score] = Call.not_scored
    return call


def _notes(
    chunks: ChunkColumns, records: RecordColumns, has_score: NDArray[np.bool_], rules: CallRules
) -> NDArray[np.uint16]:
    """What is said of each sequence's length and of why chunks have no score."""
    notes = np.zeros(len(records), np.uint16)
    notes[2 * records.length < rules.chunk_length] |= Note.too_short.value
    notes[records.length < rules.chunk_length] |= Note.below_model_length.value
    notes[records.skipped] |= Note.below_min_length.value
    notes[records.problem] |= Note.invalid_characters.value
    with_frames = np.zeros(len(records), np.bool_)
    with_frames[chunks.record[chunks.n_open_frames > 0]] = True
    notes[~has_score & ~with_frames & ~records.problem & ~records.skipped] |= (
        Note.no_open_frame.value
    )
    notes[chunks.record[chunks.status == ChunkStatus.frame_too_long]] |= Note.frame_too_long.value
    notes[chunks.record[chunks.status == ChunkStatus.failed]] |= Note.failed.value
    return notes


def best_first(
    sequences: SequenceColumns, records: RecordColumns, call: Call = Call.virus
) -> NDArray[np.int64]:
    """Rows with this call, the most certain first; equals by score, then the longer, then input
    order.
    """
    rows = np.flatnonzero(sequences.call == call)
    keys = (-records.length[rows], -sequences.virus_score[rows], -sequences.deciding_score[rows])
    return rows[np.lexsort(keys)]
