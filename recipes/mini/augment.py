"""What `mini` learns from beyond frames as they are: distant relatives, frames put together from
two, shuffled windows, and windows with N.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recipes.mini.distance import distant_codons, distant_residues
from recipes.mini.shuffling import shuffled
from virnucpro.sequences.frames import RESIDUE
from virnucpro.training.bundle.batches import Transform, split_ids
from virnucpro.training.bundle.sampling import Windows
from virnucpro.training.store import INVALID, decode, encode


@dataclass(frozen=True)
class Augmentation(Transform):
    """Shares of the frames or windows that are changed."""

    distant: float = 0.0  # of the frames and fragments: those that become distant relatives
    most_distant: float = 0.8  # of the codons of those are drawn again at most
    # of the windows that are shuffled, dinucleotides kept, and then no virus
    shuffled: float = 0.0
    # of the frames that exchange their ends with each other; those of both classes have no label
    spliced: float = 0.0
    blurred: float = 0.0  # of the windows that have N
    most_blurred: float = 0.1  # of the bases of those

    def windows(self, windows: Windows, rng: np.random.Generator) -> Windows:
        """Some windows shuffled, which makes them no virus, and some with N: single ones or a
        run.
        """
        codes, virus = windows.codes, windows.virus
        if self.shuffled:
            virus = virus.copy()
            for i in np.flatnonzero(rng.random(len(virus)) < self.shuffled):
                a, b = windows.start[i], windows.end[i]
                codes[a:b], virus[i] = shuffled(codes[a:b], rng), 0
        if self.blurred:
            for i in np.flatnonzero(rng.random(len(virus)) < self.blurred):
                a, b = windows.start[i], windows.end[i]
                share, run = rng.random() * self.most_blurred, bool(rng.random() < 0.5)
                codes[a:b] = blur(codes[a:b], share, run, rng)
        return windows._replace(codes=codes, virus=virus)

    def frames(
        self,
        proteins: list[bytes],
        nucleotides: list[bytes],
        label: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Distant relatives and exchanged ends, in place; bool [frames]: those of one class."""
        distant_frames(proteins, nucleotides, self.distant, self.most_distant, rng)
        return label == label[spliced_frames(proteins, nucleotides, self.spliced, rng)]

    def fragments(self, codes: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """A share of the fragments as distant relatives."""
        lengths = np.array([len(c) for c in codes])
        rate = (rng.random(len(codes)) < self.distant) * rng.random(len(codes)) * self.most_distant
        return split_ids(distant_residues(np.concatenate(codes), lengths, rate, rng), lengths)


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


def blur(codes: np.ndarray, share: float, run: bool, rng: np.random.Generator) -> np.ndarray:
    """Base codes of which `share` are INVALID (N): single ones anywhere, or one `run`."""
    n = round(share * len(codes))
    out = codes.copy()
    if run:
        first = int(rng.integers(len(codes) - n + 1))
        out[first : first + n] = INVALID
    else:
        out[rng.choice(len(codes), n, replace=False)] = INVALID
    return out
