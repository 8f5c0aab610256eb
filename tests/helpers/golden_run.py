"""The original's golden run, and how to embed a list of sequences in packed batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from virnucpro.models.packing import PackedBatch, pack

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
VOCABULARY = {
    token: i for i, token in enumerate((GOLDEN / "esm2" / "vocab.txt").read_text().split())
}


def read_fasta(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if line.startswith(">"):
            name = line[1:].split()[0]
            found[name] = ""
        else:
            found[name] += line
    return found


def protein_ids(protein: str) -> np.ndarray:
    return np.array(
        [VOCABULARY["<cls>"], *(VOCABULARY[letter] for letter in protein), VOCABULARY["<eos>"]],
        np.uint8,
    )


def batches(sequences: Sequence[np.ndarray], tokens: int, pad_id: int) -> Iterator[PackedBatch]:
    """Fill batches first come, first served."""
    start = used = 0
    for end, ids in enumerate(sequences):
        if used + len(ids) > tokens:
            yield pack(sequences[start:end], tokens, pad_id)
            start, used = end, 0
        used += len(ids)
    yield pack(sequences[start:], tokens, pad_id)


def embed(encoder, sequences: Sequence[np.ndarray], tokens: int = 2048) -> torch.Tensor:
    return torch.cat([encoder.embed(batch) for batch in batches(sequences, tokens, encoder.pad_id)])
