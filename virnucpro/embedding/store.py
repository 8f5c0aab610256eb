"""Finished embeddings of one encoder on disk: append-only shards that are whole or absent, and read
back only when sound.

A shard is a safetensors file with `index` (int64 [n], representatives) and `rows` ([n, width]); its
checksum stands in its name, so that a flipped byte or a cut file shows. Everything is keyed by
index; the order of arrival means nothing.
"""

from __future__ import annotations

import ctypes
import mmap
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save
from safetensors.torch import load_file

from virnucpro.errors import StoreError
from virnucpro.files import (
    LEFTOVER,
    WORK,
    check_length,
    checksum,
    explained,
    make_directory,
    writing,
)

FLUSH_SECONDS = 30.0
FLUSH_BYTES = 64 << 20  # a shard is in memory three times while it is written


@dataclass(frozen=True, slots=True)
class StoreState:
    """What was found at the start: rows that count, and the shards that were set aside with the
    reason.
    """

    done: np.ndarray  # int64, ascending
    damaged: tuple[str, ...]


class FeatureStore:
    """Rows of one encoder. One process (the main one) writes; the run's lock sees to that.

    A thread writes the shards, one at a time, so that devices need not wait for the disk.
    """

    def __init__(self, directory: Path, width: int, dtype: str = "float32"):
        self.directory = directory
        self.width = width
        self.dtype = np.dtype(dtype)
        self._lock = threading.RLock()
        self._index: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self._bytes = 0
        self._flushed_at = time.monotonic()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._writing: Future[None] | None = None

    def load(self) -> StoreState:
        """Verify every shard.

        A damaged one is renamed to `*.damaged`: its rows are embedded again.
        """
        with explained(self.directory, WORK):
            make_directory(self.directory)
        for leftover in self.directory.glob(f"{LEFTOVER}*"):
            leftover.unlink()
        done, damaged = [], []
        for path in self.files():
            try:
                index, _ = self._read(path)
                done.append(index)
            except (OSError, SafetensorError, KeyError, ValueError) as error:
                path.rename(path.with_suffix(".damaged"))
                damaged.append(f"{path.name}: {error}")
        rows = np.unique(np.concatenate(done)) if done else np.empty(0, dtype=np.int64)
        return StoreState(rows, tuple(damaged))

    def add(self, index: np.ndarray, rows: np.ndarray) -> None:
        """Take over `rows` [n, width] of representatives `index` [n]; written within FLUSH_SECONDS.
        Errors: as `flush`.
        """
        if rows.shape != (len(index), self.width):
            raise ValueError(
                f"rows of shape {rows.shape} for {len(index)} representatives of width {self.width}"
            )
        with self._lock:
            self._index.append(np.asarray(index, dtype=np.int64))
            self._rows.append(rows.astype(self.dtype, copy=False))
            self._bytes += self._rows[-1].nbytes
            if self._bytes >= FLUSH_BYTES or time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
                self._start_writing()

    def flush(self) -> None:
        """Write what is held, and return when it is on the disk.

        Raises StoreError where it cannot be written.
        """
        with self._lock:
            self._start_writing()
            self._end_writing()

    def _start_writing(self) -> None:
        self._end_writing()
        self._flushed_at = time.monotonic()
        if self._index:
            index, rows, self._index, self._rows, self._bytes = self._index, self._rows, [], [], 0
            self._writing = self._writer.submit(self._write, index, rows)

    def _end_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, indices: list[np.ndarray], all_rows: list[np.ndarray]) -> None:
        """One shard, whole or not at all."""
        index, rows = np.concatenate(indices), np.concatenate(all_rows)
        name = f"{time.time_ns():020d}-{checksum(index, rows)}.safetensors"
        with writing(self.directory / name, purpose=WORK) as file:
            file.write(save({"index": index, "rows": rows}))

    def shards(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(index, rows) of each shard on disk, verified again, memory-mapped; raises StoreError on
        damage since `load`.
        """
        self.flush()
        for path in self.files():
            try:
                yield self._read(path)
            except (OSError, SafetensorError, KeyError, ValueError) as error:
                raise StoreError(
                    f"{path}: damaged while the run was going on ({error}); run the same command"
                    " again"
                ) from error

    def remove(self) -> None:
        """Drop everything stored: the run has what it needed."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def files(self) -> list[Path]:
        """The shards, in the order in which `shards` gives what they hold."""
        return sorted(self.directory.glob("*.safetensors"))

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        content = load_file(path)  # torch's, which maps the file instead of reading it
        index, rows = content["index"].numpy(), content["rows"].numpy()
        if rows.shape != (len(index), self.width) or rows.dtype != self.dtype:
            raise ValueError(
                f"holds {rows.dtype} rows of shape {rows.shape}, not {self.dtype} of width"
                f" {self.width}"
            )
        if path.stem.rpartition("-")[2] != checksum(index, rows):
            raise ValueError("its checksum does not fit its content")
        return index, rows


def _advise_random_access(values: np.ndarray) -> None:
    """Tell the system that rows of a mapped array will be read in any order, so that reading one
    does not load its neighbours.

    (60,000 rows of 13 kB in 512 MiB of memory: 1.7 GB read instead of 52.)
    """
    if not hasattr(mmap, "MADV_RANDOM") or not values.nbytes:
        return
    place = values.ctypes.data
    start = place - place % mmap.PAGESIZE
    length = ctypes.c_size_t(place + values.nbytes - start)
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), length, mmap.MADV_RANDOM)


@dataclass(frozen=True, slots=True)
class EncoderRows:
    """One encoder's share of the columns: its store, and int64 [frames] the representative of every
    frame kept.
    """

    store: FeatureStore
    representative: np.ndarray


class FeatureRows:
    """The rows of all encoders side by side, read from the memory-mapped shards of the stores.

    [frames, width] like the matrix of `merged_features.pt`, but it takes no room on the disk; only
    slices of frames can be read. Raises StoreError when a row is missing or a shard is damaged.
    """

    def __init__(self, parts: Sequence[EncoderRows]):
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

    def __init__(self, part: EncoderRows):
        found = list(part.store.shards())
        self.width, self._shards = part.store.width, [rows for _, rows in found]
        self._files = [(path, path.stat().st_size) for path in part.store.files()]
        # place of each shard's first row, and the end
        self._first = np.cumsum([0, *map(len, self._shards)])
        for rows in self._shards:
            _advise_random_access(rows)
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
