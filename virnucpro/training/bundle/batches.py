"""Windows -> frames -> rows of tokens: the batches a network trains on and is measured with.

Sequences lie end to end in rows of a constant length, so a batch has one shape whatever it holds:
`segment` says which sequence a token belongs to (-1: none). Masking for the language-model loss
happens here. No torch: batches are made in worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from virnucpro.sequences.frames import Frames, open_frames
from virnucpro.sequences.tokens import Tokenizers
from virnucpro.training.bases import decode, decode_protein
from virnucpro.training.bundle.sampling import FragmentSampler, Windows, WindowSampler, join_windows
from virnucpro.training.bundle.vocabulary import (
    DNA_MASK,
    DNA_PAD,
    DNA_SPECIAL,
    ESM2_MASK,
    ESM2_PAD,
    ESM2_RESIDUES,
)

TOKEN_DROPOUT = 0.15 * 0.8  # ESM-2's constant: the share of masked tokens it was scaled for


@dataclass(frozen=True)
class BatchShape:
    """How much a batch holds: frames, protein fragments, and rows of `row_length` tokens for each
    encoder.
    """

    frames: int = 768
    fragments: int = 160
    row_length: int = 384
    esm2_rows: int = 312
    dnabert_s_rows: int = 200


class Rows(NamedTuple):
    """Sequences packed into rows; all [R, L] but the last two, [M], which say what is to be
    predicted.
    """

    tokens: np.ndarray  # int16
    segment: np.ndarray  # int16, index of the sequence, -1 where there is none
    pooled: np.ndarray  # bool: tokens that enter the mean
    # float32, ESM-2's token-dropout factor of each token (0 at a mask); ones for DNABERT-S
    scale: np.ndarray
    # int32, places in the flattened rows, found here so that a GPU need not be waited for
    masked: np.ndarray
    target: np.ndarray  # int16, the true tokens there


class Batch(NamedTuple):
    esm2: Rows  # segments 0 .. frames-1 are frames, then come the fragments
    dnabert_s: Rows
    virus: np.ndarray  # int64 [frames + fragments]
    # float32 [frames + fragments]; 0 for places that hold nothing, or a frame without a label
    weight: np.ndarray
    n_frames: int


def frames_of(windows: Windows, policy: str) -> Frames:
    """The frames of windows laid end to end; `chunk` is the window."""
    return open_frames(decode(windows.codes), windows.start, windows.end, policy)


def split_ids(flat: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []


def place(lengths: np.ndarray, rows: int, row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """First fit, longest first: (row, column) of each sequence; row -1 where it did not fit."""
    room = np.full(rows, row_length)
    row, column = np.full(len(lengths), -1), np.zeros(len(lengths), dtype=np.int64)
    for i in np.argsort(-lengths, kind="stable"):
        r = int(np.argmax(room >= lengths[i]))
        if room[r] >= lengths[i]:
            row[i], column[i] = r, row_length - room[r]
            room[r] -= lengths[i]
    return row, column


def rows_of(
    ids: list[np.ndarray], rows: int, row_length: int, pad: int, edges: int
) -> tuple[Rows, np.ndarray]:
    """Pack; `edges` special tokens at each end stay out of the mean. Also bool [n]: which sequences
    found room.
    """
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    row, column = place(lengths, rows, row_length)
    tokens = np.full((rows, row_length), pad, dtype=np.int16)
    segment = np.full((rows, row_length), -1, dtype=np.int16)
    pooled = np.zeros((rows, row_length), dtype=bool)
    for i, (r, c, sequence) in enumerate(zip(row.tolist(), column.tolist(), ids, strict=True)):
        if r >= 0:
            tokens[r, c : c + len(sequence)] = sequence
            segment[r, c : c + len(sequence)] = i
            pooled[r, c + edges : c + len(sequence) - edges] = True
    scale = np.ones((rows, row_length), dtype=np.float32)
    return (
        Rows(tokens, segment, pooled, scale, np.zeros(0, np.int32), np.zeros(0, np.int16)),
        row >= 0,
    )


def with_masks(
    packed: Rows,
    maskable: np.ndarray,
    mask: int,
    random_ids: tuple[int, int],
    share: float,
    n_sequences: int,
    rng: np.random.Generator,
    rate: float = 0.15,
) -> Rows:
    """BERT's masking (`rate` of the tokens: 80 % masked, 10 % random, 10 % kept) in a `share` of
    the sequences.
    """
    chosen = rng.random(n_sequences + 1) < share  # the last stands for segment -1
    chosen[-1] = False
    hit = maskable & chosen[packed.segment] & (rng.random(maskable.shape, dtype=np.float32) < rate)
    what = rng.random(maskable.shape, dtype=np.float32)
    tokens = np.where(hit & (what < 0.8), mask, packed.tokens)
    drawn = rng.integers(*random_ids, size=maskable.shape)
    tokens = np.where(hit & (what >= 0.9), drawn, tokens).astype(np.int16)
    return packed._replace(
        tokens=tokens, masked=np.flatnonzero(hit).astype(np.int32), target=packed.tokens[hit]
    )


def with_token_dropout(packed: Rows, n_sequences: int) -> Rows:
    """ESM-2's rescaling: masks embed as zero, the rest by (1 - 0.12) / (1 - share of masks in the
    sequence).
    """
    inside = packed.segment >= 0
    masked = packed.tokens == ESM2_MASK
    length = np.bincount(packed.segment[inside], minlength=n_sequences)
    masks = np.bincount(packed.segment[inside & masked], minlength=n_sequences)
    factor = (1 - TOKEN_DROPOUT) / (1 - masks / np.maximum(length, 1))
    factor = np.append(factor, 0.0)
    return packed._replace(scale=np.where(masked, 0, factor[packed.segment]).astype(np.float32))


@dataclass(frozen=True)
class BatchRules:
    """Which frames a training batch has, and how many of their tokens are masked."""

    # of the frames that come from all open frames of a window, not from the longest stretch
    open_share: float = 0.2
    mask_share: float = 0.5  # of the frames: those that have masked tokens
    mask_rate: float = 0.15  # of the tokens of those


class Transform:
    """What is done to windows, frames and fragments on their way into a batch: here nothing.

    A recipe overrides these methods. The random numbers that are drawn here and not used keep the
    random sequence, so that one seed gives the same network in every version.
    """

    def windows(self, windows: Windows, rng: np.random.Generator) -> Windows:
        """The windows to take frames from; their codes may be changed in place."""
        return windows

    def frames(
        self,
        proteins: list[bytes],
        nucleotides: list[bytes],
        label: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Change frames in place; bool [frames]: those whose `label` still holds."""
        rng.random(2 * len(proteins))
        return np.ones(len(proteins), dtype=bool)

    def fragments(self, codes: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """The protein fragments (codes 0..19) to use."""
        rng.random(2 * len(codes))
        rng.random(sum(map(len, codes)), dtype=np.float32)
        return codes


class BatchMaker:
    """Draws training batches from `samplers` (share, sampler), and protein fragments beside
    them.
    """

    def __init__(
        self,
        samplers: list[tuple[float, WindowSampler]],
        fragments: FragmentSampler | None,
        tokenizers: Tokenizers,
        shape: BatchShape,
        dna_vocabulary: int,
        rules: BatchRules = BatchRules(),
        transform: Transform | None = None,
    ):
        self.samplers, self.fragments = samplers, fragments
        self.tokenizers, self.shape = tokenizers, shape
        self.dna_vocabulary, self.rules = dna_vocabulary, rules
        self.transform = transform or Transform()

    def draw(self, rng: np.random.Generator) -> Batch:
        n, rules = self.shape.frames, self.rules
        proteins: list[bytes] = []
        nucleotides: list[bytes] = []
        virus: list[np.ndarray] = []
        # policies are mixed frame by frame, so that every batch has both in fixed shares
        for policy, want in (
            ("open", int(n * rules.open_share)),
            ("longest", n - int(n * rules.open_share)),
        ):
            have = 0
            while have < want:
                need = int((want - have) * (1.05 if policy == "longest" else 0.9)) + 16
                windows = self._windows(need, rng)
                found = frames_of(windows, policy)
                order = rng.permutation(len(found))[: want - have]
                proteins += [found.proteins[i] for i in order]
                nucleotides += [found.nucleotides[i] for i in order]
                virus.append(windows.virus[found.chunk[order]])
                have += len(order)
        label = np.concatenate(virus).astype(np.int64)
        labelled = self.transform.frames(proteins, nucleotides, label, rng)
        if self.fragments is not None and self.shape.fragments:
            codes, fragment_virus = self.fragments.draw(self.shape.fragments, rng)
            codes = self.transform.fragments(codes, rng)
            proteins += [decode_protein(c) for c in codes]
            label = np.concatenate([label, fragment_virus.astype(np.int64)])
        return self._pack(proteins, nucleotides, label, labelled, rng)

    def _windows(self, n: int, rng: np.random.Generator) -> Windows:
        share = np.array([s for s, _ in self.samplers])
        counts = rng.multinomial(n, share / share.sum())
        windows = join_windows(
            [s.draw(int(k), rng) for k, (_, s) in zip(counts, self.samplers, strict=True) if k]
        )
        return self.transform.windows(windows, rng)

    def _pack(self, proteins, nucleotides, label, labelled, rng) -> Batch:
        n, shape, rules = len(labelled), self.shape, self.rules
        flat, lengths = self.tokenizers.esm2(proteins)
        esm2, fit_a = rows_of(
            split_ids(flat, lengths), shape.esm2_rows, shape.row_length, ESM2_PAD, 1
        )
        flat, lengths = self.tokenizers.dnabert_s(nucleotides)
        dna, fit_b = rows_of(
            split_ids(flat, lengths), shape.dnabert_s_rows, shape.row_length, DNA_PAD, 0
        )
        esm2 = with_masks(
            esm2,
            esm2.pooled,
            ESM2_MASK,
            ESM2_RESIDUES,
            rules.mask_share,
            len(proteins),
            rng,
            rules.mask_rate,
        )
        esm2 = with_token_dropout(esm2, len(proteins))
        maskable = (dna.segment >= 0) & (dna.tokens >= len(DNA_SPECIAL))
        dna = with_masks(
            dna,
            maskable,
            DNA_MASK,
            (len(DNA_SPECIAL), self.dna_vocabulary),
            rules.mask_share,
            n,
            rng,
            rules.mask_rate,
        )
        fits = fit_a.copy()
        fits[:n] &= fit_b & labelled
        return Batch(esm2, dna, label, balanced(label, fits, n), n)


def balanced(label: np.ndarray, fits: np.ndarray, n: int) -> np.ndarray:
    """Weights of mean 1 that make both classes equal, among frames and among fragments; 0 where
    `fits` says no.
    """
    weight = np.zeros(len(label), dtype=np.float32)
    for part in (slice(0, n), slice(n, None)):
        y, ok = label[part], fits[part]
        for v in (0, 1):
            mine = ok & (y == v)
            if mine.any():
                weight[part][mine] = len(y) / 2 / mine.sum()
    return weight


def scoring_batches(
    proteins: list[bytes], nucleotides: list[bytes], tokenizers: Tokenizers, shape: BatchShape
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Every frame once, unmasked: (rows of the input, batch). Frames that find no room come in a
    later batch.
    """
    flat, lengths = tokenizers.esm2(proteins)
    esm2_ids = split_ids(flat, lengths)
    flat, lengths = tokenizers.dnabert_s(nucleotides)
    dna_ids = split_ids(flat, lengths)
    waiting = np.arange(len(proteins))
    while len(waiting):
        now, waiting = waiting[: shape.frames], waiting[shape.frames :]
        esm2, a = rows_of(
            [esm2_ids[i] for i in now], shape.esm2_rows, shape.row_length, ESM2_PAD, 1
        )
        dna, b = rows_of(
            [dna_ids[i] for i in now], shape.dnabert_s_rows, shape.row_length, DNA_PAD, 0
        )
        fit = a & b
        if not fit.any():
            raise ValueError("a frame is longer than a row")
        waiting = np.concatenate([now[~fit], waiting])
        esm2 = with_token_dropout(esm2, len(now))
        yield now, Batch(esm2, dna, np.zeros(len(now), np.int64), fit.astype(np.float32), len(now))


def scoring_shape(shape: BatchShape) -> BatchShape:
    return replace(shape, fragments=0)
