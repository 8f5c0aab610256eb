"""Token ids of chosen frames, as views into the memory-mapped Arrow column of an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from virnucpro.sequences.table import FrameTable


class TokenColumn:
    """Callable: frame rows (int64 [n]) -> n arrays of token ids, without a copy. Errors: StoreError
    when the file was cut short.
    """

    def __init__(self, table: FrameTable, encoder: str):
        self._check = table.check
        pieces = [piece for piece in table.frames.data.table[f"{encoder}_ids"].chunks if len(piece)]
        self._ends = np.cumsum([len(piece) for piece in pieces])
        self._offsets = [piece.offsets.to_numpy() for piece in pieces]
        self._values = [piece.values.to_numpy() for piece in pieces]

    def __call__(self, rows: np.ndarray) -> Sequence[np.ndarray]:
        self._check()
        piece = np.searchsorted(self._ends, rows, side="right")
        first = np.concatenate(([0], self._ends))[piece]
        out = []
        for p, row in zip(piece.tolist(), (rows - first).tolist(), strict=True):
            offsets = self._offsets[p]
            out.append(self._values[p][offsets[row] : offsets[row + 1]])
        return out
