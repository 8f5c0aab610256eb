"""Contigs -> chunks -> frames -> scores with a network in training, for validation and tests.

The shipped path is `pipeline`; this one scores hundreds of thousands of frames on the training device in seconds and is
compared with it in `tests/training/test_scoring.py`.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from virnucpro.sequences.chunks import all_spans
from virnucpro.sequences.frames import open_frames
from virnucpro.sequences.tokens import Tokenizers
from virnucpro.training.bases import decode
from virnucpro.training.batches import Batch, BatchShape, scoring_batches
from virnucpro.training.network import Network
from virnucpro.training.store import Store
from virnucpro.training.trainer import loader, to_device


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


class ContigFrames(torch.utils.data.IterableDataset):
    """Frames of contigs as batches, made by worker processes; `rows` are segments of the store, one a contig."""

    def __init__(self, store: Store, rows: np.ndarray, tokenizers: Tokenizers, shape: BatchShape, chunk_length: int,
                 policy: str, block: int = 700_000):  # fmt: skip
        self.store, self.tokenizers, self.shape = store, tokenizers, shape
        self.chunk_length, self.policy = chunk_length, policy
        self.blocks = np.split(rows, np.flatnonzero(np.diff(np.cumsum(store.length[rows]) // block)) + 1)

    def __iter__(self) -> Iterator[tuple[FrameScores, Batch]]:
        worker = torch.utils.data.get_worker_info()
        first, every = (worker.id, worker.num_workers) if worker else (0, 1)
        for rows in self.blocks[first::every]:
            yield from self._block(rows)

    def _block(self, rows: np.ndarray):
        lengths = self.store.length[rows]
        spans = all_spans(lengths, self.chunk_length)
        codes = np.concatenate([self.store.segment(i) for i in rows])
        first = np.cumsum(lengths) - lengths
        begin, end = first[spans.sequence] + spans.start, first[spans.sequence] + spans.end
        found = open_frames(decode(codes), begin, end, self.policy)
        contig = spans.sequence[found.chunk]
        aa = np.fromiter(map(len, found.proteins), dtype=np.int32, count=len(found))
        nothing = np.zeros(len(found), np.float32)
        what = FrameScores(rows[contig], spans.chunk[found.chunk].astype(np.int32), found.frame,
                           (found.start - first[contig]).astype(np.int32), aa, nothing, nothing, nothing)  # fmt: skip
        for which, batch in scoring_batches(found.proteins, found.nucleotides, self.tokenizers, self.shape):
            yield FrameScores(*(column[which] for column in what)), batch


@torch.no_grad()
def score_batches(network: Network, batches, device: torch.device, encoders=None) -> FrameScores:
    """Scores of all frames in `batches` (of ContigFrames)."""
    network.eval()
    parts = []
    for what, batch in batches:
        answers = network(to_device(batch.esm2, device), to_device(batch.dnabert_s, device), batch.n_frames,
                          batch.n_frames, encoders)  # fmt: skip
        kept = batch.weight > 0
        margins = [(a[:, 1] - a[:, 0]).float().cpu().numpy()[kept]
                   for a in (answers.logits, answers.esm2_logits, answers.dnabert_s_logits)]  # fmt: skip
        parts.append(FrameScores(*(column[kept] for column in what[:5]), *margins))
    if not parts:
        return FrameScores(*(np.zeros(0) for _ in FrameScores._fields))
    joined = FrameScores(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    order = np.lexsort((joined.frame, joined.chunk, joined.contig))
    return FrameScores(*(column[order] for column in joined))


def score_contigs(network: Network, store: Store, rows: np.ndarray, tokenizers: Tokenizers, shape: BatchShape,
                  chunk_length: int, policy: str, device: torch.device, workers: int = 0) -> FrameScores:  # fmt: skip
    """Frames and scores of the contigs `rows` of `store`."""
    frames = ContigFrames(store, rows, tokenizers, shape, chunk_length, policy)
    return score_batches(network, loader(frames, min(workers, len(frames.blocks))), device)


def contig_scores(scores: FrameScores, n_contigs: int, lengths: np.ndarray, chunk_length: int):
    """SPEC 2: frames -> chunks -> sequences. (virus_score float64 [n] with NaN, scored_fraction [n], n_frames [n])."""
    virus = 1 / (1 + np.exp(-scores.logit.astype(np.float64)))
    key = scores.contig * (1 << 20) + scores.chunk
    chunks, first, index = np.unique(key, return_index=True, return_inverse=True)
    best_virus, best_others = np.zeros(len(chunks)), np.zeros(len(chunks))
    np.maximum.at(best_virus, index, virus)
    np.maximum.at(best_others, index, 1 - virus)
    contig = scores.contig[first]
    spans = all_spans(lengths, chunk_length)
    offset = np.cumsum(-(-lengths // chunk_length)) - (-(-lengths // chunk_length))
    size = (spans.end - spans.start)[offset[contig] + scores.chunk[first] - 1].astype(np.float64)
    weight = np.bincount(contig, weights=size, minlength=n_contigs)
    total = np.bincount(contig, weights=size * best_virus / (best_virus + best_others), minlength=n_contigs)
    n_chunks = np.maximum(-(-lengths // chunk_length), 1)
    with np.errstate(invalid="ignore"):
        score = total / weight
    return score, np.bincount(contig, minlength=n_contigs) / n_chunks, np.bincount(scores.contig, minlength=n_contigs)
