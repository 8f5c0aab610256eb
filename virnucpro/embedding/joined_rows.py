"""The rows of all encoders side by side, read from the stores' shards where they lie: what `--features none` classifies from.

Looks like the matrix of `merged_features.pt` to a reader of blocks of frames, and takes no room on the disk.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from virnucpro.embedding.matrix import Part
from virnucpro.errors import StoreError
from virnucpro.mapped_files import check_length


class JoinedRows:
    """[frames, width]; only slices of frames can be read. Errors: StoreError when a row is missing or a shard is damaged."""

    def __init__(self, parts: Sequence[Part]):
        self._columns = [_Column(part) for part in parts]
        self.shape = (len(parts[0].representative), sum(part.store.width for part in parts))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frames: slice) -> np.ndarray:
        return np.concatenate([column[frames] for column in self._columns], axis=1)


class _Column:
    """One encoder's share: the place of every frame's row among its memory-mapped shards."""

    def __init__(self, part: Part):
        found = list(part.store.shards())
        self._shards = [rows for _, rows in found]
        self._files = [(path, path.stat().st_size) for path in part.store.files()]
        self._width, self._dtype = part.store.width, part.store.dtype
        index = np.concatenate([np.empty(0, np.int64), *(index for index, _ in found)])
        lengths = [len(index) for index, _ in found]
        shard = np.repeat(np.arange(len(found)), lengths)
        row = np.concatenate([np.empty(0, np.int64), *(np.arange(n) for n in lengths)])
        order = np.argsort(index, kind="stable")
        place = np.searchsorted(index[order], part.representative, "right") - 1  # of a row stored twice, the later one
        missing = place < 0
        missing[~missing] = index[order[place[~missing]]] != part.representative[~missing]
        if missing.any():
            raise StoreError(f"{part.store.directory}: {int(missing.sum())} rows are missing; run the same command again")
        self._shard, self._row = shard[order[place]], row[order[place]]  # [frames]

    def __getitem__(self, frames: slice) -> np.ndarray:
        shard, row = self._shard[frames], self._row[frames]
        out = np.empty((len(row), self._width), self._dtype)
        for number in np.unique(shard).tolist():
            here = np.flatnonzero(shard == number)
            here = here[np.argsort(row[here])]  # a disk likes to be read in order
            check_length(*self._files[number])
            out[here] = self._shards[number][row[here]]
        return out
