"""`merged_features.pt`: the rows of all encoders side by side, one a frame, in input order.

Written through a memory map straight into the file that `torch.load` reads, shard by shard, so that memory stays flat
however many frames there are. Only the index decides where a row goes.
"""
from __future__ import annotations

import io
import mmap
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch.serialization import skip_data

from virnucpro.embedding.feature_store import FeatureStore
from virnucpro.errors import StoreError

SLICE = 1 << 16  # ids held as text at once
DATA = "/data/0"  # how the archive calls the tensor's bytes


@dataclass(frozen=True, slots=True)
class Part:
    """One encoder's share of the columns: its store, and int64 [frames] the representative of every frame kept."""

    store: FeatureStore
    representative: np.ndarray


def check_room(directory: Path, needed: int, option: str = "--output-dir") -> None:
    """Refuse to start a run that the disk cannot hold; `option` names another place."""
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise StoreError(
            f"{directory}: {_size(needed)} wanted for features, {_size(free)} free; "
            f"make room, choose another {option}, or keep less with --features float16 or none"
        )


def _size(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e3:,.0f} kB"


def write_matrix(path: Path, ids: Sequence[str], parts: Sequence[Part], model: Mapping[str, str]) -> None:
    """Write {"ids", "data" [len(ids), sum of widths], "model"} to `path`, whole or not at all.

    Of `ids`, slices are asked for, in order, and nothing else. Raises StoreError when a frame's row is missing from a store:
    nothing is filled in.
    """
    width = sum(part.store.width for part in parts)
    dtype = parts[0].store.dtype
    beside = path.parent / f".{path.name}.part" / path.name  # the archive carries its own file name
    beside.parent.mkdir(exist_ok=True)
    try:
        _write_empty(beside, ids, width, dtype, model)
        if len(ids):
            matrix = _mapped(beside, (len(ids), width), dtype, "r+")
            column = 0
            for part in parts:
                _scatter(part, matrix[:, column : column + part.store.width])
                column += part.store.width
            del matrix
            _seal(beside)
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as the latter, without a reason
        reason = (getattr(error, "strerror", None) or "is the disk full?").lower()
        raise StoreError(f"{path}: cannot be written ({reason}); make room and run the same command again") from error
    finally:
        shutil.rmtree(beside.parent, ignore_errors=True)


def read_matrix(path: Path) -> tuple[list[str], np.ndarray]:
    """(ids, data) of a `merged_features.pt`, the data memory-mapped."""
    try:
        content = torch.load(path, mmap=True, weights_only=True)
        return content["ids"], content["data"].numpy()
    except (OSError, RuntimeError, KeyError, AttributeError, ValueError) as error:
        raise StoreError(f"{path}: not a readable feature file ({error}); run predict again") from error


def map_rows(path: Path, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """The data of a `merged_features.pt` that was just written, memory-mapped, without making its ids."""
    return _mapped(path, shape, dtype, "r") if shape[0] else np.empty(shape, dtype)


def _mapped(path: Path, shape: tuple[int, int], dtype: np.dtype, mode: str) -> np.memmap:
    return np.memmap(path, dtype, mode, _place_of_data(path)[0], shape)


def _place_of_data(path: Path) -> tuple[int, int, zipfile.ZipInfo, int]:
    """(first byte, size, entry in the directory, place of the directory) of the tensor in the archive."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        info = next(i for i in archive.infolist() if i.filename.endswith(DATA))
        file.seek(info.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
        return info.header_offset + 30 + name_length + extra_length, info.file_size, info, archive.start_dir


def _write_empty(path: Path, ids: Sequence[str], width: int, dtype: np.dtype, model: Mapping[str, str]) -> None:
    """The archive with room for the data, which is not touched: a sparse file stands in for it."""
    size = len(ids) * width * dtype.itemsize
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    sparse = path.with_suffix(".room")
    with open(sparse, "wb") as file:
        file.truncate(max(size, 1))
    storage = torch.UntypedStorage.from_file(str(sparse), shared=False, nbytes=size) if size else torch.UntypedStorage(0)
    data = torch.empty(0, dtype=kind).set_(storage, 0, (len(ids), width))
    with skip_data():
        torch.save({"ids": [], "data": data, "model": dict(model)}, path, pickle_module=_pickle_with(ids))
    sparse.unlink()
    with open(path, "rb+") as file:  # claim the blocks now: a full disk is an error here, a crash in a memory map
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _pickle_with(ids: Sequence[str]) -> SimpleNamespace:
    """For torch.save, a pickle whose Pickler fills the empty list `ids` of what it is given, a slice at a time.

    It notes no string in order to refer to it again: with ten million of them, that alone would take a gigabyte.
    """

    class WithIds(pickle.Pickler):
        def __init__(self, file: io.BytesIO, protocol: int):
            super().__init__(file, protocol)
            self.fast, self.file = True, file

        def dump(self, content: dict) -> None:
            super().dump(content)
            head, empty, tail = self.file.getvalue().partition(b"ids" + pickle.EMPTY_LIST)
            if not empty:
                raise RuntimeError("this torch pickles an empty list in a way that is not known here")
            self.file.seek(0)
            self.file.truncate()
            self.file.write(head + empty)
            for start in range(0, len(ids), SLICE):
                self.file.write(_items(list(ids[start : start + SLICE])))
            self.file.write(tail)

    return SimpleNamespace(__name__="pickle", Pickler=WithIds)


def _items(values: list[str]) -> bytes:
    """The part of a pickled list that puts `values` into a list that is there already."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 2)
    pickler.fast = True
    pickler.dump(values)
    return buffer.getvalue()[len(pickle.PROTO + b"\2" + pickle.EMPTY_LIST) : -len(pickle.STOP)]


def _scatter(part: Part, columns: np.ndarray) -> None:
    """Copy each stored row to every frame that shares it."""
    order = np.argsort(part.representative, kind="stable")
    wanted = part.representative[order]
    filled = np.zeros(len(order), dtype=bool)
    for index, rows in part.store.shards():
        left, right = np.searchsorted(wanted, index, "left"), np.searchsorted(wanted, index, "right")
        counts = right - left
        source = np.repeat(np.arange(len(index)), counts)
        within = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(left, counts) + within
        columns[order[places]] = rows[source]
        filled[places] = True
    if not filled.all():
        raise StoreError(f"{part.store.directory}: {int((~filled).sum())} rows are missing; run the same command again")


def _seal(path: Path) -> None:
    """Give the data its checksum in the archive (APPNOTE.TXT 4.3), so that any zip reader accepts the file."""
    start, size, info, directory = _place_of_data(path)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        crc, step = 0, 64 << 20
        with memoryview(content) as view:
            for at in range(start, start + size, step):
                crc = zlib.crc32(view[at : min(at + step, start + size)], crc)
        packed = struct.pack("<I", crc)
        flags = struct.unpack_from("<H", content, info.header_offset + 6)[0]
        if flags & 8:  # the checksum stands in a descriptor behind the data
            end = start + size
            content[end + 4 : end + 8] = packed
        else:
            content[info.header_offset + 14 : info.header_offset + 18] = packed
        at = directory
        while content[at : at + 4] == b"PK\x01\x02":
            name, extra, comment = struct.unpack_from("<HHH", content, at + 28)
            if content[at + 46 : at + 46 + name].decode() == info.filename:
                content[at + 16 : at + 20] = packed
            at += 46 + name + extra + comment
