"""The rows of all encoders side by side, read from the stores' shards where they lie: what is
classified and saved.

Looks like the matrix of `merged_features.pt` to a reader of blocks of frames, and takes no room on
the disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from virnucpro.embedding.store import FeatureStore
from virnucpro.errors import StoreError
from virnucpro.mapped_files import check_length, read_here_and_there


@dataclass(frozen=True, slots=True)
class Part:
    """One encoder's share of the columns: its store, and int64 [frames] the representative of every
    frame kept.
    """

    store: FeatureStore
    representative: np.ndarray


class JoinedRows:
    """[frames, width]; only slices of frames can be read. Errors: StoreError when a row is missing
    or a shard is damaged.
    """

    def __init__(self, parts: Sequence[Part]):
        self._columns = [_Column(part) for part in parts]
        self.shape = (len(parts[0].representative), sum(part.store.width for part in parts))
        self.dtype = parts[0].store.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frames: slice) -> np.ndarray:
        out = np.empty((len(range(*frames.indices(len(self)))), self.shape[1]), self.dtype)
        at = 0
        for column in self._columns:
            column.read(frames, out[:, at : at + column.width])
            at += column.width
        return out


class _Column:
    """One encoder's share: the place of every frame's row among its memory-mapped shards, which are
    numbered through.
    """

    def __init__(self, part: Part):
        found = list(part.store.shards())
        self.width, self._shards = part.store.width, [rows for _, rows in found]
        self._files = [(path, path.stat().st_size) for path in part.store.files()]
        # place of each shard's first row, and the end
        self._first = np.cumsum([0, *map(len, self._shards)])
        for rows in self._shards:
            read_here_and_there(rows)
        index = np.concatenate([np.empty(0, np.int64), *(index for index, _ in found)])
        order = np.argsort(index, kind="stable")
        index = index[order]
        # of a row stored twice, the later one
        at = np.searchsorted(index, part.representative, "right") - 1
        missing = at < 0
        missing[~missing] = index[at[~missing]] != part.representative[~missing]
        if missing.any():
            raise StoreError(
                f"{part.store.directory}: {int(missing.sum())} rows are missing; run the same"
                " command again"
            )
        self._place = order[at]  # [frames]

    def read(self, frames: slice, out: np.ndarray) -> None:
        """Copy the rows of `frames` to `out`, shard after shard and in the order in which they lie
        there: disks like that.
        """
        place = self._place[frames]
        order = np.argsort(place)
        place = place[order]
        bounds = np.searchsorted(place, self._first)
        for shard in np.flatnonzero(np.diff(bounds)).tolist():
            here = slice(bounds[shard], bounds[shard + 1])
            check_length(*self._files[shard])
            out[order[here]] = self._shards[shard][place[here] - self._first[shard]]
