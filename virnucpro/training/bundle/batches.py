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

from virnucpro.sequences.frames import RESIDUE, Frames, open_frames
from virnucpro.sequences.tokens import Tokenizers
from virnucpro.training.bases import blur, decode, decode_protein, encode
from virnucpro.training.bundle.sampling import FragmentSampler, Windows, WindowSampler, join_windows
from virnucpro.training.bundle.vocabulary import (
    DNA_MASK,
    DNA_PAD,
    DNA_SPECIAL,
    ESM2_MASK,
    ESM2_PAD,
    ESM2_RESIDUES,
)
from virnucpro.training.distance import distant_codons, distant_residues
from virnucpro.training.shuffling import shuffled

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


def distant_frames(
    proteins: list[bytes],
    nucleotides: list[bytes],
    share: float,
    most: float,
    rng: np.random.Generator,
) -> None:
    """A `share` of the frames become distant relatives, in place: 0 to `most` of their codons drawn
    again.

    Frames with an N stay as they are.
    """
    whole = np.array([b"N" not in n for n in nucleotides])
    chosen = np.flatnonzero((rng.random(len(proteins)) < share) & whole)
    if not len(chosen):
        return
    lengths = np.array([len(proteins[i]) for i in chosen])
    bases = encode(
        b"".join(nucleotides[i][: 3 * n] for i, n in zip(chosen, lengths, strict=True))
    ).reshape(-1, 3)
    codons = distant_codons(
        (bases[:, 0] << 4) + (bases[:, 1] << 2) + bases[:, 2],
        lengths,
        rng.random(len(chosen)) * most,
        rng,
    )
    residues = codons.tobytes().translate(RESIDUE)
    letters = decode(np.stack([codons >> 4, codons >> 2 & 3, codons & 3], axis=1).ravel())
    ends = np.cumsum(lengths)
    for i, a, b in zip(chosen, (ends - lengths).tolist(), ends.tolist(), strict=True):
        proteins[i], nucleotides[i] = (
            residues[a:b],
            letters[3 * a : 3 * b] + nucleotides[i][3 * (b - a) :],
        )


def spliced_frames(
    proteins: list[bytes], nucleotides: list[bytes], share: float, rng: np.random.Generator
) -> np.ndarray:
    """Pairs among a `share` of the frames exchange all that follows a codon, in place. int64
    [frames]: whose end a frame has.

    Frames with an N stay as they are.
    """
    end = np.arange(len(proteins))
    chosen = np.flatnonzero(
        (rng.random(len(proteins)) < share) & np.array([b"N" not in n for n in nucleotides])
    )
    for i, j in rng.permutation(chosen)[: len(chosen) // 2 * 2].reshape(-1, 2).tolist():
        shorter = min(len(proteins[i]), len(proteins[j]))
        at = int(rng.integers(shorter // 4, shorter - shorter // 4 + 1))
        for parts, k in ((proteins, at), (nucleotides, 3 * at)):
            parts[i], parts[j] = parts[i][:k] + parts[j][k:], parts[j][:k] + parts[i][k:]
        end[[i, j]] = j, i
    return end


def harder(windows: Windows, how: Augmentation, rng: np.random.Generator) -> Windows:
    """Some windows shuffled, which makes them no virus, and some with N: single ones or a run."""
    codes, virus = windows.codes, windows.virus
    if how.shuffled_share:
        virus = virus.copy()
        for i in np.flatnonzero(rng.random(len(virus)) < how.shuffled_share):
            a, b = windows.start[i], windows.end[i]
            codes[a:b], virus[i] = shuffled(codes[a:b], rng), 0
    if how.blurred_share:
        for i in np.flatnonzero(rng.random(len(virus)) < how.blurred_share):
            a, b = windows.start[i], windows.end[i]
            codes[a:b] = blur(
                codes[a:b], rng.random() * how.most_blurred, bool(rng.random() < 0.5), rng
            )
    return windows._replace(codes=codes, virus=virus)


@dataclass(frozen=True)
class Augmentation:
    """What is done to frames on their way into a training batch; shares of the frames."""

    # of the frames that come from all open frames of a window, not from the longest stretch
    open_share: float = 0.2
    mask_share: float = 0.5  # that have masked tokens
    mask_rate: float = 0.15  # of the tokens of those
    distant_share: float = 0.0  # that become distant relatives
    most_distant: float = 0.8  # of the codons of those are drawn again at most
    # of the windows that are shuffled, dinucleotides kept, and then no virus
    shuffled_share: float = 0.0
    # that exchange their ends with each other; those of both classes then have no label
    spliced_share: float = 0.0
    blurred_share: float = 0.0  # of the windows that have N
    most_blurred: float = 0.1  # of the bases of those


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
        augmentation: Augmentation = Augmentation(),
    ):
        self.samplers, self.fragments, self.tokenizers, self.shape = (
            samplers,
            fragments,
            tokenizers,
            shape,
        )
        self.dna_vocabulary, self.augmentation = dna_vocabulary, augmentation

    def draw(self, rng: np.random.Generator) -> Batch:
        n, how = self.shape.frames, self.augmentation
        proteins: list[bytes] = []
        nucleotides: list[bytes] = []
        virus: list[np.ndarray] = []
        # policies are mixed frame by frame, so that every batch has both in fixed shares
        for policy, want in (
            ("open", int(n * how.open_share)),
            ("longest", n - int(n * how.open_share)),
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
        distant_frames(proteins, nucleotides, how.distant_share, how.most_distant, rng)
        label = np.concatenate(virus).astype(np.int64)
        labelled = label == label[spliced_frames(proteins, nucleotides, how.spliced_share, rng)]
        if self.fragments is not None and self.shape.fragments:
            codes, fragment_virus = self.fragments.draw(self.shape.fragments, rng)
            lengths = np.array([len(c) for c in codes])
            rate = (
                (rng.random(len(codes)) < how.distant_share)
                * rng.random(len(codes))
                * how.most_distant
            )
            codes = split_ids(distant_residues(np.concatenate(codes), lengths, rate, rng), lengths)
            proteins += [decode_protein(c) for c in codes]
            label = np.concatenate([label, fragment_virus.astype(np.int64)])
        return self._pack(proteins, nucleotides, label, labelled, rng)

    def _windows(self, n: int, rng: np.random.Generator) -> Windows:
        share = np.array([s for s, _ in self.samplers])
        counts = rng.multinomial(n, share / share.sum())
        windows = join_windows(
            [s.draw(int(k), rng) for k, (_, s) in zip(counts, self.samplers, strict=True) if k]
        )
        return harder(windows, self.augmentation, rng)

    def _pack(self, proteins, nucleotides, label, labelled, rng) -> Batch:
        n, shape, how = len(labelled), self.shape, self.augmentation
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
            how.mask_share,
            len(proteins),
            rng,
            how.mask_rate,
        )
        esm2 = with_token_dropout(esm2, len(proteins))
        maskable = (dna.segment >= 0) & (dna.tokens >= len(DNA_SPECIAL))
        dna = with_masks(
            dna,
            maskable,
            DNA_MASK,
            (len(DNA_SPECIAL), self.dna_vocabulary),
            how.mask_share,
            n,
            rng,
            how.mask_rate,
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
