"""The table of all tokenized frames of a run: an Arrow cache of `datasets`, built once and
memory-mapped by every process.

Knows a table's fingerprint (input bytes, rules, tokenizers, format; no paths, no weights), and how
to tell a whole table of this user's from a damaged one or another's. `manifest.json` is written
last, with the checksums of what lies beside it.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnucpro.errors import Failure, StoreError, one_line
from virnucpro.files import (
    CACHE,
    check_length,
    checksum,
    digest,
    make_directory,
    open_own,
    read_json,
    write_json,
)
from virnucpro.models.encoders import ENCODERS, EncoderEntry
from virnucpro.sequences.build import FRAMES, RECORDS, build
from virnucpro.sequences.cache import BUILDING, MANIFEST, Hold
from virnucpro.sequences.frame_columns import FrameRules
from virnucpro.sequences.frames import (
    FRAME_NAMES,
    LEAST_OF_THE_LONGEST,
    MOST_OF_A_CHUNK,
    MOST_OF_A_SEQUENCE,
)
from virnucpro.sequences.inputs import InputFile
from virnucpro.sequences.tokens import Tokenizers
from virnucpro.settings import STRETCHES

if TYPE_CHECKING:
    import datasets

FORMAT = 3  # raise it when the columns or their meaning change
AGAIN = "run predict again"


@dataclass(frozen=True)
class FrameTable:
    """All frames and records of a run, memory-mapped. `len(table)` is the number of frames."""

    directory: Path
    fingerprint: str
    frames: pa.Table
    records: pa.Table
    inputs: tuple[dict, ...]  # path, source, stem, sha256 (None: unreadable), n_records
    failures: tuple[Failure, ...]
    warnings: tuple[tuple[str, ...], ...]  # of each input: what was wrong but cost nothing
    reused: bool
    rules: FrameRules
    sizes: dict[str, int]  # file -> bytes
    unreadable: dict[int, str]  # input -> why it cannot be read, or not to its end
    hold: Hold | None = None  # keeps the table in its cache

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def encoders(self) -> tuple[EncoderEntry, ...]:
        """The encoders for which it has tokens, in the order of the features."""
        columns = self.frames.column_names
        return tuple(entry for entry in ENCODERS.values() if f"{entry.name}_ids" in columns)

    def dataset(self) -> datasets.Dataset:
        """The frames for other programs. A run reads the Arrow table itself: to import `datasets`
        takes half a second.
        """
        import datasets

        # with a fingerprint of our own: to make one, `datasets` asks for classes of transformers,
        # which a thread may just be importing
        return datasets.Dataset(
            datasets.table.InMemoryTable(self.frames), fingerprint=self.fingerprint
        )

    def check(self) -> None:
        """Raise StoreError where the mapped files are no longer as long as they were: to be called
        before reading from them.
        """
        for name, size in self.sizes.items():
            check_length(self.directory / name, size)

    def frame_ids(self, start: int = 0, stop: int | None = None) -> list[str]:
        """`{name}_chunk_{k}{F|R}{1|2|3}` of the frames start..stop (SPEC 2); of those of windows
        `{name}_window_{k}...`.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        if start >= stop:
            return []
        self.check()
        rows = self.frames.slice(start, stop - start)
        record = rows["record"].to_numpy()
        first, final = int(record.min()), int(record.max())
        names = (
            self.records["name"]
            .slice(first, final - first + 1)
            .take(pa.array(record - first))
            .to_pylist()
        )
        chunks, frames = rows["chunk"].to_pylist(), rows["frame"].to_pylist()
        own = (
            self.records["n_chunks"].take(rows["record"]).to_pylist()
            if self.rules.stride
            else chunks
        )
        return [
            (
                f"{n}_chunk_{c}{FRAME_NAMES[f]}"
                if c <= last
                else f"{n}_window_{c - last}{FRAME_NAMES[f]}"
            )
            for n, c, f, last in zip(names, chunks, frames, own, strict=True)
        ]


@dataclass(frozen=True)
class FrameIds:
    """The ids of the frames `rows` (int64, ascending) of a table, made as slices of them are asked
    for.
    """

    table: FrameTable
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> list[str]:
        rows = self.rows[part]
        if len(rows) == 0:
            return []
        first = int(rows[0])
        ids = self.table.frame_ids(first, int(rows[-1]) + 1)
        return ids if len(ids) == len(rows) else [ids[row - first] for row in rows.tolist()]


def fingerprint_of(hashes: Sequence[str | None], rules: FrameRules, tokenizers: Tokenizers) -> str:
    """Hex sha256 over all that decides the table's content."""
    identity = {
        "format": FORMAT,
        "inputs": list(hashes),
        "rules": rules.identity(),
        "tokenizers": {name: each.sha256 for name, each in tokenizers.items()},
    }
    if rules.frame_policy == STRETCHES:
        identity["stretches"] = [MOST_OF_A_SEQUENCE, MOST_OF_A_CHUNK, *LEAST_OF_THE_LONGEST]
    return digest(identity)


def build_table(
    place: Path,
    private: Path | None,
    inputs: Sequence[InputFile],
    hashes: Sequence[str | None],
    rules: FrameRules,
    tokenizers: Tokenizers,
    builder: str | None = None,
) -> Path | None:
    """Build in a temporary directory, then rename it to its fingerprint's in `place`; or to one in
    `private` where the environment failed while reading, as another try may find more; without
    `private` such a table is dropped. The lock is held, so what lies there is a dead builder's.

    Returns the directory. Errors: OSError; StoreError where a file is not what `hashes` say.
    """
    fingerprint = fingerprint_of(hashes, rules, tokenizers)
    part = place / f"{fingerprint}{BUILDING}"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        contents = build(part, [file.path for file in inputs], rules, tokenizers)
        _check_unchanged(inputs, hashes, contents["sha256"])
        passing = None in hashes or None in contents["sha256"]
        if passing and private is None:
            shutil.rmtree(part)
            return None
        if passing and private is not None:
            place = private_directory(private)
            # its content decides, as it cannot be told from the inputs
            fingerprint = digest({"asked for": fingerprint, "content": contents["checksums"]})
            shutil.rmtree(place / fingerprint, ignore_errors=True)
        manifest = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "rules": rules.identity(),
            "builder": builder,
            **contents,
            "inputs": _described(inputs, contents),
            "sizes": {name: (part / name).stat().st_size for name in (FRAMES, RECORDS)},
        }
        write_json(part / MANIFEST, {**manifest, "digest": digest(manifest)}, CACHE)
        move = shutil.move if place != part.parent else os.rename  # perhaps to another disk
        move(part, place / fingerprint)
        return place / fingerprint
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _check_unchanged(
    inputs: Sequence[InputFile], hashes: Sequence[str | None], parsed: Sequence[str | None]
) -> None:
    for file, before, now in zip(inputs, hashes, parsed, strict=True):
        if None not in (before, now) and before != now:
            raise StoreError(
                f"{file.shown}: the file changed while it was read; start again when it is complete"
            )


def private_directory(path: Path) -> Path:
    """The directory at `path`, made where it is not there, which only this user can use. Errors:
    OSError where another user made it.
    """
    make_directory(path)
    if os.lstat(path).st_uid != os.geteuid():
        raise OSError(errno.EPERM, "it belongs to another user", str(path))
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        path.chmod(0o700)
    return path


def _described(inputs: Sequence[InputFile], contents: dict[str, Any]) -> list[dict]:
    return [
        {
            "path": f.shown,
            "source": f.source,
            "stem": f.stem,
            "sha256": sha256,
            "n_records": n,
            "fastq": fastq,
        }
        for f, sha256, n, fastq in zip(
            inputs,
            contents["sha256"],
            contents["n_records_per_input"],
            contents["fastq"],
            strict=True,
        )
    ]


def open_table(
    directory: Path, inputs: Sequence[InputFile] | None = None, builder: str | None = None
) -> FrameTable:
    """The table in `directory`, checked to the last byte.

    inputs: what the files are called now; None: as they were called when it was built. Errors:
    StoreError when it is missing, damaged, or another user's.
    """
    manifest = _read_manifest(directory)
    try:
        frames, records = (_mapped(directory / name, manifest) for name in (FRAMES, RECORDS))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(
            f"{directory}: no whole table of frames ({one_line(str(error))}); {AGAIN}"
        ) from error
    described = manifest["inputs"] if inputs is None else _described(inputs, manifest)
    return FrameTable(
        directory,
        manifest["fingerprint"],
        frames,
        records,
        tuple(described),
        read_failures(described, records, dict(manifest["unreadable"])),
        tuple(tuple(lines) for lines in manifest["warnings"]),
        builder is None or manifest["builder"] != builder,
        FrameRules(**manifest["rules"]),
        manifest["sizes"],
        dict(manifest["unreadable"]),
    )


def _read_manifest(directory: Path) -> dict[str, Any]:
    manifest = read_json(directory / MANIFEST, AGAIN)
    if manifest is None:
        raise StoreError(f"{directory}: no whole table of frames; {AGAIN}")
    if manifest.pop("digest", None) != digest(manifest) or manifest["format"] != FORMAT:
        raise StoreError(f"{directory / MANIFEST}: not as it was written; {AGAIN}")
    return manifest


def _mapped(path: Path, manifest: dict[str, Any]) -> pa.Table:
    """The Arrow table in a file of this user's, memory-mapped; what was checked is what is used.

    Errors: OSError, ValueError, ArrowException where it is not as it was written.
    """
    handle = open_own(path, os.O_RDONLY)
    try:
        status = os.fstat(handle)
        if status.st_uid not in (os.geteuid(), 0):
            raise ValueError(f"{path.name} belongs to another user")
        if status.st_size != manifest["sizes"][path.name]:
            raise ValueError(f"{path.name} is not as long as when it was written")
        content = pa.py_buffer(mmap.mmap(handle, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(handle)
    if checksum(content) != manifest["checksums"][path.name]:
        raise ValueError(f"{path.name} is not as it was written")
    return pa.ipc.open_stream(pa.BufferReader(content)).read_all()


def read_failures(
    inputs: list[dict], records: pa.Table, unreadable: dict[int, str]
) -> tuple[Failure, ...]:
    """In input order: each file's bad records, then what went wrong with the file itself."""
    bad = (
        records.filter(pc.not_equal(records["problem"], ""))
        .select(["input", "name", "problem"])
        .to_pylist()
    )
    found = [(row["input"], 0, f"record {row['name']}: {row['problem']}") for row in bad]
    found += [(i, 1, reason) for i, reason in unreadable.items()]
    return tuple(
        Failure(inputs[i]["path"], "read", reason)
        for i, _, reason in sorted(found, key=lambda f: f[:2])
    )
