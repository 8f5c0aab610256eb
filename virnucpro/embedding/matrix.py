"""`merged_features.pt`: the rows of all encoders side by side, one a frame, in input order.

Written block by block from the memory-mapped shards into the file that `torch.load` reads, so that
memory stays flat however many frames there are. Only the index decides where a row goes.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from torch.serialization import skip_data

from virnucpro.errors import StoreError, VirNucProError
from virnucpro.files import LEFTOVER, put_in_place

SLICE = 1 << 16  # ids held as text at once
BLOCK = 8 << 20  # bytes of rows held at once
DATA = "/data/0"  # how the archive calls the tensor's bytes


class Ids(Protocol):
    """The ids of the rows; slices are asked for, in order, and nothing else."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Sequence[str]: ...


class MatrixRows(Protocol):
    """What is written: a matrix [frames, width] of which slices of frames are asked for, in order,
    and nothing else.
    """

    shape: tuple[int, int]
    dtype: np.dtype

    def __getitem__(self, frames: slice) -> np.ndarray: ...


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


def write_matrix(path: Path, ids: Ids, rows: MatrixRows, model: Mapping[str, str]) -> None:
    """Write {"ids", "data" = rows [len(ids), width], "model"} to `path`, whole or not at all.
    Errors: StoreError.
    """
    room = None
    try:
        room = tempfile.mkdtemp(prefix=LEFTOVER, dir=path.parent)
        temporary = Path(room, path.name)  # the archive carries its own file name
        _write_empty(temporary, ids, rows.shape, rows.dtype, model)
        if len(ids):
            _fill(temporary, rows)
        put_in_place(temporary, path)
    # torch reports a failed write as the latter, without a reason
    except (OSError, RuntimeError) as error:
        reason = (getattr(error, "strerror", None) or "is the disk full?").lower()
        raise StoreError(
            f"{path}: cannot be written ({reason}); make room and run the same command again"
        ) from error
    finally:
        if room is not None:
            shutil.rmtree(room, ignore_errors=True)


@contextmanager
def writing_matrix(
    path: Path, ids: Ids, rows: MatrixRows, model: Mapping[str, str]
) -> Iterator[Callable[[], object]]:
    """A thread writes the matrix while tables are made: it is the disk's work. Gives what waits for
    it.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="features") as pool:
        saved = pool.submit(write_matrix, path, ids, rows, model)
        try:
            yield saved.result
        except VirNucProError:
            error = saved.exception()
            if error is not None:  # a full disk stops both: said is what needs the room
                raise error from None
            raise


def read_matrix(path: Path) -> tuple[list[str], np.ndarray]:
    """(ids, data) of a `merged_features.pt`, the data memory-mapped."""
    try:
        content = torch.load(path, mmap=True, weights_only=True)
        return content["ids"], content["data"].numpy()
    except (OSError, RuntimeError, KeyError, AttributeError, ValueError) as error:
        raise StoreError(
            f"{path}: not a readable feature file ({error}); run predict again"
        ) from error


def _place_of_data(path: Path) -> tuple[int, int, zipfile.ZipInfo, int]:
    """(first byte, size, entry in the directory, place of the directory) of the tensor in the
    archive.
    """
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        info = next(i for i in archive.infolist() if i.filename.endswith(DATA))
        file.seek(info.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
        return (
            info.header_offset + 30 + name_length + extra_length,
            info.file_size,
            info,
            archive.start_dir,
        )


def _write_empty(
    path: Path,
    ids: Ids,
    shape: tuple[int, int],
    dtype: np.dtype,
    model: Mapping[str, str],
) -> None:
    """The archive with a hole where the data will stand: a sparse file takes its place."""
    size = shape[0] * shape[1] * dtype.itemsize
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    sparse = path.with_suffix(".room")
    with open(sparse, "wb") as file:
        file.truncate(max(size, 1))
    storage: Any = torch.UntypedStorage(0)  # Any: the stub of from_file names another class
    if size:
        storage = torch.UntypedStorage.from_file(str(sparse), shared=False, nbytes=size)
    data = torch.empty(0, dtype=kind).set_(storage, 0, shape, (shape[1], 1))
    with skip_data():
        torch.save(
            {"ids": [], "data": data, "model": dict(model)}, path, pickle_module=_pickle_with(ids)
        )
    sparse.unlink()
    with open(path, "rb+") as file:  # claims the blocks at once: cheaper than growing into a hole
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _pickle_with(ids: Ids) -> SimpleNamespace:
    """For torch.save, a pickle whose Pickler fills the empty list `ids` of what it is given, a
    slice at a time.

    Without memoisation (`fast`): remembering ten million strings would take a gigabyte.
    """

    class WithIds(pickle.Pickler):
        def __init__(self, file: io.BytesIO, protocol: int):
            super().__init__(file, protocol)
            self.fast, self.file = True, file

        def dump(self, content: dict) -> None:
            super().dump(content)
            head, empty, tail = self.file.getvalue().partition(b"ids" + pickle.EMPTY_LIST)
            if not empty:
                raise RuntimeError(
                    "this torch pickles an empty list in a way that is not known here"
                )
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


def _fill(path: Path, rows: MatrixRows) -> None:
    """Write the data into its hole, and its checksum into the archive (APPNOTE.TXT 4.3): any zip
    reader accepts the file.
    """
    start, size, info, directory = _place_of_data(path)
    step, crc = max(1, BLOCK // (rows.shape[1] * rows.dtype.itemsize)), 0
    with open(path, "r+b") as file:
        file.seek(start)
        for at in range(0, rows.shape[0], step):
            block = np.ascontiguousarray(rows[at : at + step]).data.cast("B")
            crc = zlib.crc32(block, crc)
            file.write(block)
        packed = struct.pack("<I", crc)
        file.seek(info.header_offset)
        header = file.read(30)
        # then the checksum stands in a descriptor behind the data
        behind = struct.unpack_from("<H", header, 6)[0] & 8
        _put(file, start + size + 4 if behind else info.header_offset + 14, packed)
        while True:
            file.seek(directory)
            entry = file.read(46)
            if entry[:4] != b"PK\x01\x02":
                break
            name, extra, comment = struct.unpack_from("<HHH", entry, 28)
            if file.read(name).decode() == info.filename:
                _put(file, directory + 16, packed)
            directory += 46 + name + extra + comment


def _put(file: BinaryIO, place: int, content: bytes) -> None:
    file.seek(place)
    file.write(content)
