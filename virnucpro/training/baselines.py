"""What simple methods reach on the same split: length and GC, 6-mers (both logistic), and a protein
search.

A new method must beat these to be worth its time. The logistic ones are scikit-learn's; the search
reads DIAMOND's or MMseqs2's tabular output.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from virnucpro.training.store import CODON_TO_AMINO_ACID, STOP, decode_protein

K = 6


def kmer_index(k: int = K) -> np.ndarray:
    """Column of each k-mer when a k-mer and its reverse complement share one, int64 [4^k]."""
    codes = np.arange(4**k)
    reverse = np.zeros_like(codes)
    rest = codes.copy()
    for _ in range(k):
        reverse = reverse * 4 + (3 - rest % 4)
        rest //= 4
    return np.unique(np.minimum(codes, reverse), return_inverse=True)[1]


def kmer_frequencies(sequences: list[np.ndarray], k: int = K) -> np.ndarray:
    """Shares of k-mers of base codes, strands together, float32 [n, columns], times their number
    (about 1 each).
    """
    index = kmer_index(k)
    columns = int(index.max()) + 1
    out = np.zeros((len(sequences), columns), dtype=np.float32)
    for i, codes in enumerate(sequences):
        n = len(codes) - k + 1
        if n > 0:
            value = np.zeros(n, dtype=np.int64)
            for j in range(k):
                value = value * 4 + codes[j : j + n]
            out[i] = np.bincount(index[value], minlength=columns) * (columns / n)
    return out


def length_and_gc(sequences: list[np.ndarray]) -> np.ndarray:
    """log10 length, GC, GC squared; float32 [n, 3]."""
    gc = np.array([((s == 1) | (s == 2)).mean() if len(s) else 0.0 for s in sequences])
    return np.stack([np.log10([max(len(s), 1) for s in sequences]), gc, gc**2], axis=1).astype(
        np.float32
    )


def logistic(
    train: np.ndarray, virus: np.ndarray, test: np.ndarray, strength: float = 1.0
) -> np.ndarray:
    """Scores of `test` by a ridge logistic regression fitted to `train`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=300)
    )
    return model.fit(train, virus).predict_proba(test)[:, 1]


def read_hits(path: Path, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns `query target identity length bitscore evalue`, targets named V... or C..., queries
    by number.

    Gives [n]: best bit score among viral and among cellular proteins (0 for none), and the identity
    (%) of the best viral hit.
    """
    viral, cellular, identity = np.zeros(n), np.zeros(n), np.zeros(n)
    with path.open() as handle:
        for line in handle:
            query, target, percent, _, bits, *_ = line.split("\t")
            q, b = int(query), float(bits)
            if target[0] == "V":
                if b > viral[q]:
                    viral[q], identity[q] = b, float(percent)
            else:
                cellular[q] = max(cellular[q], b)
    return viral, cellular, identity


def long_orfs(codes: np.ndarray, shortest: int) -> Iterator[bytes]:
    """Stop-free stretches of at least `shortest` residues in the six frames of base codes."""
    for strand in (codes, 3 - codes[::-1]):
        if len(strand) < 3 * shortest:
            continue
        residues = CODON_TO_AMINO_ACID[(strand[:-2] << 4) + (strand[1:-1] << 2) + strand[2:]]
        for f in range(3):
            frame = residues[f::3]
            edges = np.concatenate([[-1], np.flatnonzero(frame == STOP), [len(frame)]])
            for a, b in zip(edges[:-1] + 1, edges[1:], strict=True):
                if b - a >= shortest:
                    yield decode_protein(frame[a:b])
