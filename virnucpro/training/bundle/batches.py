"""Windows -> frames -> packed rows of tokens: the batches a network trains on and is measured
with. No torch: batches are made in worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from virnucpro.sequences.frames import Frames, open_frames
from virnucpro.sequences.tokens import Tokenizers
from virnucpro.training.bundle.packing import (
    Masking,
    PackedTokens,
    pack_rows,
    split_ids,
    with_masks,
    with_token_dropout,
)
from virnucpro.training.bundle.sampling import FragmentSampler, Windows, WindowSampler, join_windows
from virnucpro.training.bundle.vocabulary import (
    DNA_MASK,
    DNA_PAD,
    DNA_SPECIAL,
    ESM2_MASK,
    ESM2_PAD,
    ESM2_RESIDUES,
)
from virnucpro.training.store import decode, decode_protein


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


class Batch(NamedTuple):
    """What one step learns from."""

    esm2: PackedTokens  # segments 0 .. frames-1 are frames, then come the fragments
    dnabert_s: PackedTokens
    virus: np.ndarray  # int64 [frames + fragments]
    # float32 [frames + fragments]; 0 for places that hold nothing, or a frame without a label
    weight: np.ndarray
    n_frames: int


def frames_of(windows: Windows, policy: str) -> Frames:
    """The frames of windows laid end to end; `chunk` is the window."""
    return open_frames(decode(windows.codes), windows.start, windows.end, policy)


@dataclass(frozen=True)
class BatchRules:
    """Which frames a training batch has, and how many of their tokens are masked."""

    # of the frames that come from all open frames of a window, not from the longest stretch
    open_share: float = 0.2
    mask_share: float = 0.5  # of the frames: those that have masked tokens
    mask_rate: float = 0.15  # of the tokens of those


class Transform:
    """What is done to windows, frames and fragments on their way into a batch: here nothing.

    The hook by which a recipe reaches in: it overrides these methods. The random numbers that are
    drawn here and not used keep the random sequence, so that one seed gives the same network in
    every version.
    """

    def windows(self, windows: Windows, rng: np.random.Generator) -> Windows:  # noqa: ARG002
        """The windows to take frames from; their codes may be changed in place."""
        return windows

    def frames(
        self,
        proteins: list[bytes],
        nucleotides: list[bytes],  # noqa: ARG002
        label: np.ndarray,  # noqa: ARG002
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Change frames in place; bool [frames]: those whose label still holds."""
        rng.random(2 * len(proteins))
        return np.ones(len(proteins), dtype=bool)

    def fragments(self, codes: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """The protein fragments (codes 0..19) to use."""
        rng.random(2 * len(codes))
        rng.random(sum(map(len, codes)), dtype=np.float32)
        return codes


class BatchMaker:
    """Draws training batches from `samplers` (share, sampler) and protein fragments."""

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

    def unmasked(self) -> BatchMaker:
        """The same without masks and fragments."""
        return BatchMaker(
            self.samplers,
            None,
            self.tokenizers,
            self.shape,
            self.dna_vocabulary,
            replace(self.rules, mask_share=0.0),
            self.transform,
        )

    def draw(self, rng: np.random.Generator) -> Batch:
        """One batch."""
        proteins, nucleotides, label = self._draw_frames(rng)
        labelled = self.transform.frames(proteins, nucleotides, label, rng)
        if self.fragments is not None and self.shape.fragments:
            codes, fragment_virus = self.fragments.draw(self.shape.fragments, rng)
            codes = self.transform.fragments(codes, rng)
            proteins += [decode_protein(c) for c in codes]
            label = np.concatenate([label, fragment_virus.astype(np.int64)])
        return self._pack((proteins, nucleotides), label, labelled, rng)

    def _draw_frames(self, rng: np.random.Generator) -> tuple[list[bytes], list[bytes], np.ndarray]:
        """(proteins, nucleotides, virus int64 [n]) of as many frames as a batch holds."""
        proteins: list[bytes] = []
        nucleotides: list[bytes] = []
        virus: list[np.ndarray] = []
        n = self.shape.frames
        n_open = int(n * self.rules.open_share)
        # policies are mixed frame by frame, so that every batch has both in fixed shares; windows
        # are drawn by how many frames one gives
        for policy, wanted, windows_each in (
            ("open", n_open, 0.9),
            ("longest", n - n_open, 1.05),
        ):
            have = 0
            while have < wanted:
                windows = self._draw_windows(int((wanted - have) * windows_each) + 16, rng)
                found = frames_of(windows, policy)
                order = rng.permutation(len(found))[: wanted - have]
                proteins += [found.proteins[i] for i in order]
                nucleotides += [found.nucleotides[i] for i in order]
                virus.append(windows.virus[found.chunk[order]])
                have += len(order)
        return proteins, nucleotides, np.concatenate(virus).astype(np.int64)

    def _draw_windows(self, n: int, rng: np.random.Generator) -> Windows:
        share = np.array([s for s, _ in self.samplers])
        counts = rng.multinomial(n, share / share.sum())
        windows = join_windows(
            [s.draw(int(k), rng) for k, (_, s) in zip(counts, self.samplers, strict=True) if k]
        )
        return self.transform.windows(windows, rng)

    def _pack(
        self,
        sequences: tuple[list[bytes], list[bytes]],
        label: np.ndarray,
        labelled: np.ndarray,
        rng: np.random.Generator,
    ) -> Batch:
        proteins, nucleotides = sequences
        n, rules = len(nucleotides), self.rules
        esm2, esm2_fits = pack_esm2(esm2_ids(proteins, self.tokenizers), self.shape)
        dna, dna_fits = pack_dnabert_s(dnabert_s_ids(nucleotides, self.tokenizers), self.shape)
        masking = Masking(ESM2_MASK, ESM2_RESIDUES, rules.mask_share, rules.mask_rate)
        esm2 = with_masks(esm2, esm2.pooled, masking, len(proteins), rng)
        esm2 = with_token_dropout(esm2, len(proteins))
        maskable = (dna.segment >= 0) & (dna.tokens >= len(DNA_SPECIAL))
        masking = masking._replace(
            token=DNA_MASK, random_ids=(len(DNA_SPECIAL), self.dna_vocabulary)
        )
        dna = with_masks(dna, maskable, masking, n, rng)
        fits = esm2_fits.copy()
        fits[:n] &= dna_fits & labelled
        return Batch(esm2, dna, label, balanced_weights(label, fits, n), n)


def esm2_ids(proteins: list[bytes], tokenizers: Tokenizers) -> list[np.ndarray]:
    """Token ids of each protein."""
    return split_ids(*tokenizers["esm2"](proteins))


def dnabert_s_ids(nucleotides: list[bytes], tokenizers: Tokenizers) -> list[np.ndarray]:
    """Token ids of each frame's nucleotides."""
    return split_ids(*tokenizers["dnabert_s"](nucleotides))


def pack_esm2(ids: list[np.ndarray], shape: BatchShape) -> tuple[PackedTokens, np.ndarray]:
    """Proteins in rows, <cls> and <eos> out of the mean."""
    return pack_rows(ids, shape.esm2_rows, shape.row_length, ESM2_PAD, 1)


def pack_dnabert_s(ids: list[np.ndarray], shape: BatchShape) -> tuple[PackedTokens, np.ndarray]:
    """Nucleotides in rows, all tokens in the mean."""
    return pack_rows(ids, shape.dnabert_s_rows, shape.row_length, DNA_PAD, 0)


def balanced_weights(label: np.ndarray, fits: np.ndarray, n: int) -> np.ndarray:
    """Weights of mean 1 that make both classes equal, among the first `n` and among the rest; 0
    where `fits` says no.
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
    protein_ids, dna_ids = esm2_ids(proteins, tokenizers), dnabert_s_ids(nucleotides, tokenizers)
    waiting = np.arange(len(proteins))
    while len(waiting):
        now, waiting = waiting[: shape.frames], waiting[shape.frames :]
        esm2, esm2_fits = pack_esm2([protein_ids[i] for i in now], shape)
        dna, dna_fits = pack_dnabert_s([dna_ids[i] for i in now], shape)
        fit = esm2_fits & dna_fits
        if not fit.any():
            raise ValueError("a frame is longer than a row")
        waiting = np.concatenate([now[~fit], waiting])
        esm2 = with_token_dropout(esm2, len(now))
        yield now, Batch(esm2, dna, np.zeros(len(now), np.int64), fit.astype(np.float32), len(now))
