"""Contigs -> chunks -> frames -> scores with a network in training, for validation and tests.

The shipped path is `pipeline`; this one scores hundreds of thousands of frames on the training
device in seconds and is compared with it in `tests/training/bundle/test_scoring.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from virnucpro.calling.columns import ChunkColumns, FrameColumns, RecordColumns, SequenceColumns
from virnucpro.calling.consensus import CallRules, call_chunks, call_sequences
from virnucpro.sequences.chunks import all_spans, n_chunks
from virnucpro.sequences.frames import Frames, open_frames
from virnucpro.sequences.tokens import Tokenizers
from virnucpro.training.bundle.batches import Batch, BatchShape, scoring_batches
from virnucpro.training.bundle.loader import input_on, loader
from virnucpro.training.bundle.network import Network
from virnucpro.training.metrics import auroc
from virnucpro.training.store import Store, decode


class FrameScores(NamedTuple):
    """One row a frame, [F] each, sorted by contig, chunk and frame."""

    contig: np.ndarray  # int64, row of the contig
    chunk: np.ndarray  # int32, from 1
    frame: np.ndarray  # int8
    start: np.ndarray  # int32, 0-based in the contig, forward strand
    aa_length: np.ndarray  # int32
    logit: np.ndarray  # float32, virus minus others
    esm2_logit: np.ndarray  # float32, of the protein alone
    dnabert_s_logit: np.ndarray  # float32, of the nucleotides alone


def frames_of_contigs(
    store: Store, rows: np.ndarray, chunk_length: int, policy: str
) -> tuple[FrameScores, Frames]:
    """The frames of the contigs `rows` of `store`, and where they lie; their scores are NaN."""
    lengths = store.length[rows]
    spans, first = all_spans(lengths, chunk_length), np.cumsum(lengths) - lengths
    bases = decode(np.concatenate([store.segment(i) for i in rows]))
    begin, end = (first[spans.sequence] + at for at in (spans.start, spans.end))
    found = open_frames(bases, begin, end, policy, n_chunks(lengths, chunk_length)[spans.sequence])
    contig = spans.sequence[found.chunk]
    residues = np.fromiter(map(len, found.proteins), dtype=np.int32, count=len(found))
    nothing = np.full(len(found), np.nan, np.float32)
    scores = FrameScores(
        contig=rows[contig],
        chunk=spans.chunk[found.chunk].astype(np.int32),
        frame=found.frame,
        start=(found.start - first[contig]).astype(np.int32),
        aa_length=residues,
        logit=nothing,
        esm2_logit=nothing,
        dnabert_s_logit=nothing,
    )
    return scores, found


class ContigFrames(torch.utils.data.IterableDataset):
    """Frames of contigs as batches, made by worker processes; `rows` are segments of the store, one
    a contig.
    """

    def __init__(
        self,
        store: Store,
        rows: np.ndarray,
        tokenizers: Tokenizers,
        shape: BatchShape,
        chunk_length: int,
        policy: str,
        block: int = 700_000,
    ):
        self.store, self.tokenizers, self.shape = store, tokenizers, shape
        self.chunk_length, self.policy = chunk_length, policy
        # a new block wherever the bases up to here pass a multiple of `block`
        edges = np.flatnonzero(np.diff(np.cumsum(store.length[rows]) // block)) + 1
        self.blocks = np.split(rows, edges)

    def __iter__(self) -> Iterator[tuple[FrameScores, Batch]]:
        worker = torch.utils.data.get_worker_info()
        first, every = (worker.id, worker.num_workers) if worker else (0, 1)
        for rows in self.blocks[first::every]:
            yield from self._block(rows)

    def _block(self, rows: np.ndarray) -> Iterator[tuple[FrameScores, Batch]]:
        what, found = frames_of_contigs(self.store, rows, self.chunk_length, self.policy)
        for which, batch in scoring_batches(
            found.proteins, found.nucleotides, self.tokenizers, self.shape
        ):
            yield FrameScores(*(column[which] for column in what)), batch


@torch.no_grad()
def score_batches(
    network: Network, batches: Iterable[tuple[FrameScores, Batch]], device: torch.device
) -> FrameScores:
    """Scores of all frames in `batches` (of ContigFrames)."""
    network.eval()
    parts = []
    for what, batch in batches:
        output = network(input_on(device, batch))
        kept = batch.weight > 0
        margins = [
            (logits[:, 1] - logits[:, 0]).float().cpu().numpy()[kept]
            for logits in (output.logits, output.esm2_logits, output.dnabert_s_logits)
        ]
        parts.append(FrameScores(*(column[kept] for column in what[:5]), *margins))
    if not parts:
        return FrameScores(*(np.zeros(0) for _ in FrameScores._fields))
    joined = FrameScores(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    order = np.lexsort((joined.frame, joined.chunk, joined.contig))
    return FrameScores(*(column[order] for column in joined))


def score_contigs(
    network: Network, frames: ContigFrames, device: torch.device, workers: int = 0
) -> FrameScores:
    """Scores of all frames of the contigs."""
    return score_batches(network, loader(frames, min(workers, len(frames.blocks))), device)


def call_contigs(
    scores: FrameScores, lengths: np.ndarray, chunk_length: int, frame_policy: str
) -> tuple[ChunkColumns, SequenceColumns]:
    """The chunks and sequences that the shipped rules make of these frames; `scores.contig` is a
    row of `lengths`.
    """
    virus = 1 / (1 + np.exp(-scores.logit.astype(np.float64)))
    n = len(lengths)
    nothing = np.zeros(n, dtype=bool)
    records = RecordColumns(
        input=np.zeros(n, np.int32),
        length=lengths.astype(np.int64),
        gc=np.zeros(n),
        n_chunks=n_chunks(lengths, chunk_length).astype(np.int32),
        n_ambiguous=np.zeros(n, np.int64),
        problem=nothing,
        skipped=nothing,
    )
    frames = FrameColumns(
        record=scores.contig.astype(np.int64),
        chunk=scores.chunk,
        frame=scores.frame,
        start=scores.start + 1,
        end=scores.start + 3 * scores.aa_length,
        aa_length=scores.aa_length,
        others=(1 - virus).astype(np.float32),
        virus=virus.astype(np.float32),
        failed=np.zeros(len(virus), dtype=bool),
        left_out=np.zeros(len(virus), dtype=bool),
    )
    rules = CallRules(chunk_length, frame_policy=frame_policy)
    chunks = call_chunks(frames, records, rules)
    return chunks, call_sequences(chunks, records, rules)


@torch.no_grad()
def set_batch_norm(network: Network, batches: list[Batch], device: torch.device) -> None:
    """Set the classifier's batch-norm statistics to those of `batches` as inference sees them:
    unmasked, no dropout.
    """
    network.eval()
    norm = network.classifier.bn1
    total = square = torch.zeros((), dtype=torch.float64, device=device)
    count = 0
    for batch in batches:
        found = network.features(input_on(device, batch))
        kept = torch.from_numpy(batch.weight[: batch.n_frames] > 0).to(device)
        both = torch.cat([found.dna, found.protein[: batch.n_frames]], dim=1)
        hidden = network.classifier.hidden_layer(both)[kept].double()
        total, square = total + hidden.sum(0), square + (hidden**2).sum(0)
        count += len(hidden)
    if norm.running_mean is None or norm.running_var is None:
        raise TypeError("the classifier's batch norm keeps no statistics")
    norm.running_mean.copy_(total / count)
    norm.running_var.copy_(square / count - (total / count) ** 2)


def validation_accuracy(scores: FrameScores, frames: ContigFrames) -> dict[str, Any]:
    """AUROC of single chunks on the validation side: a first look; `virnucpro evaluate` measures
    properly.
    """
    store = frames.store
    chunks = call_contigs(scores, store.length, frames.chunk_length, frames.policy)[0]
    virus = store.labels.virus[store.record[chunks.record[chunks.scored]]].astype(bool)
    value = auroc(chunks.virus_score[chunks.scored], virus)
    return {
        "side": "validation",
        "chunks": len(virus),
        "auroc_of_chunks": round(value, 4) if np.isfinite(value) else None,
    }
