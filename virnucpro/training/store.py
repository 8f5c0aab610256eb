"""Labelled sequences as small numbers, packed: two bits a base, five an amino acid, with label,
category, group and split of every record.

`prepare` writes a store and `train` reads it. Ambiguous letters cut a record into segments, so a
window of a segment has none. Does not know how windows are drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.errors import InputError
from virnucpro.files import writing
from virnucpro.sequences.frames import RESIDUE

SHORTEST_SEGMENT = 60
BASES = b"ACGT"  # code 0..3; the complement of c is 3 - c
INVALID = 4  # any other letter
AMINO_ACIDS = b"ACDEFGHIKLMNPQRSTVWY"  # code 0..19
STOP = 20

_BASE_CODE = np.full(256, INVALID, dtype=np.uint8)
_BASE_CODE[list(BASES)] = range(4)
_AMINO_ACID_CODE = np.full(256, STOP, dtype=np.uint8)
_AMINO_ACID_CODE[list(AMINO_ACIDS)] = range(20)
_LETTER = np.frombuffer(BASES + b"N", dtype=np.uint8)
# [16 a + 4 b + c], a stop is STOP
CODON_TO_AMINO_ACID = _AMINO_ACID_CODE[np.frombuffer(RESIDUE[:64], dtype=np.uint8)]


def encode(sequence: bytes) -> np.ndarray:
    """Upper-case bases as codes, uint8 [L]."""
    return _BASE_CODE[np.frombuffer(sequence, dtype=np.uint8)]


def decode(codes: np.ndarray) -> bytes:
    """Codes 0..3 as letters; INVALID is N."""
    return _LETTER[codes].tobytes()


def encode_protein(sequence: bytes) -> np.ndarray:
    """Amino acids as codes 0..19, uint8 [L]; any other letter is STOP."""
    return _AMINO_ACID_CODE[np.frombuffer(sequence.upper(), dtype=np.uint8)]


def decode_protein(codes: np.ndarray) -> bytes:
    """Codes 0..19 as letters."""
    return np.frombuffer(AMINO_ACIDS, dtype=np.uint8)[codes].tobytes()


def substitute(codes: np.ndarray, rate: float | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Base codes with substitutions at `rate` (a number, or one a base); another base always, never
    the same.
    """
    hit = np.flatnonzero(rng.random(len(codes), dtype=np.float32) < rate)
    out = codes.copy()
    out[hit] = (codes[hit] + rng.integers(1, 4, len(hit), dtype=np.uint8)) & 3
    return out


@dataclass(frozen=True)
class Labels:
    """What is known of the records; all arrays [R]."""

    name: np.ndarray  # str
    virus: np.ndarray  # uint8, 1 for virus
    category: np.ndarray  # str
    group: np.ndarray  # str: the unit that is never split
    cluster: np.ndarray  # str: near-identical records share it
    split: np.ndarray  # str: train, validation or test
    kind: np.ndarray  # str: genome, organelle, transposon, marker, ...

    def __len__(self) -> int:
        return len(self.name)

    def select(self, rows: np.ndarray) -> Labels:
        """The labels of these records."""
        return Labels(*(getattr(self, f)[rows] for f in self.__dataclass_fields__))

    @classmethod
    def concatenate(cls, parts: list[Labels]) -> Labels:
        """The labels of all parts, in order."""
        return cls(
            *(np.concatenate([getattr(p, f) for p in parts]) for f in cls.__dataclass_fields__)
        )


@dataclass(frozen=True)
class Store:
    """Codes of all segments end to end, and where each lies.

    `codes`: uint8, bases 0..3 or amino acids 0..19.
    """

    codes: np.ndarray
    start: np.ndarray  # int64 [S]
    length: np.ndarray  # int64 [S]
    record: np.ndarray  # int64 [S] row of `labels`
    offset: np.ndarray  # int64 [S] where the segment begins in its record
    labels: Labels

    def __len__(self) -> int:
        return len(self.start)

    def segment(self, i: int) -> np.ndarray:
        """Codes of one segment, uint8 [length]."""
        return self.codes[self.start[i] : self.start[i] + self.length[i]]

    def select(self, rows: np.ndarray) -> Store:
        """Only these segments (copied), and only the records that still have one."""
        kept, record = np.unique(self.record[rows], return_inverse=True)
        codes = np.concatenate([self.segment(i) for i in rows]) if len(rows) else self.codes[:0]
        length = self.length[rows]
        return Store(
            codes,
            np.cumsum(length) - length,
            length,
            record,
            self.offset[rows],
            self.labels.select(kept),
        )

    def select_records(self, keep: np.ndarray) -> Store:
        """The store of the records where `keep` (bool [R]) is true."""
        return self.select(np.flatnonzero(keep[self.record]))

    @classmethod
    def concatenate(cls, parts: list[Store]) -> Store:
        """All parts in one store, in order."""
        first_base = np.cumsum([0] + [len(p.codes) for p in parts[:-1]])
        first_record = np.cumsum([0] + [len(p.labels) for p in parts[:-1]])
        return cls(
            np.concatenate([p.codes for p in parts]),
            np.concatenate([p.start + n for p, n in zip(parts, first_base, strict=True)]),
            np.concatenate([p.length for p in parts]),
            np.concatenate([p.record + n for p, n in zip(parts, first_record, strict=True)]),
            np.concatenate([p.offset for p in parts]),
            Labels.concatenate([p.labels for p in parts]),
        )

    def save(self, path: Path, bits: int) -> None:
        """One .npz; `bits` 2 for bases, 5 for amino acids."""
        packed = pack2(self.codes) if bits == 2 else pack5(self.codes)
        fields = {
            f"label_{f}": np.asarray(getattr(self.labels, f)) for f in Labels.__dataclass_fields__
        }
        arrays = {
            "packed": packed,
            "shape": np.array([len(self.codes), bits]),
            "start": self.start,
            "length": self.length,
            "record": self.record,
            "offset": self.offset,
            **_compact(fields),
        }
        with writing(path) as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # not allow_pickle

    @classmethod
    def load(cls, path: Path) -> Store:
        """The store that `save` wrote."""
        with np.load(path, allow_pickle=False) as z:
            n, bits = z["shape"]
            codes = (unpack2 if bits == 2 else unpack5)(z["packed"], int(n))
            labels = Labels(*(_expand(z, f"label_{f}") for f in Labels.__dataclass_fields__))
            return cls(codes, z["start"], z["length"], z["record"], z["offset"], labels)


class StoreBuilder:
    """Collects records, cuts them at ambiguous letters, and gives a Store."""

    def __init__(self, amino_acids: bool = False):
        self.amino_acids = amino_acids
        self.codes: list[np.ndarray] = []
        self.segments: list[tuple[int, int, int]] = []  # length, record, offset
        self.labels: list[tuple[Any, ...]] = []

    def add(self, sequence: bytes, *labels: Any) -> None:
        """`labels` in the order of `Labels`; a record without a segment keeps its row."""
        codes = encode_protein(sequence) if self.amino_acids else encode(sequence)
        invalid = STOP if self.amino_acids else INVALID
        shortest = SHORTEST_SEGMENT // 3 if self.amino_acids else SHORTEST_SEGMENT
        bad = np.flatnonzero(codes >= invalid)
        edges = np.concatenate([[-1], bad, [len(codes)]])
        for a, b in zip(edges[:-1] + 1, edges[1:], strict=True):
            if b - a >= shortest:
                self.codes.append(codes[a:b])
                self.segments.append((b - a, len(self.labels), a))
        self.labels.append(labels)

    def build(self) -> Store:
        """All records. Errors: InputError without any."""
        if not self.labels:
            raise InputError(
                "no labelled record was found; give FASTA files whose names the labels list"
            )
        segments = np.array(self.segments, dtype=np.int64).reshape(-1, 3)
        codes = np.concatenate(self.codes) if self.codes else np.zeros(0, np.uint8)
        columns = [np.array(c) for c in zip(*self.labels, strict=True)]
        columns[1] = columns[1].astype(np.uint8)
        length = segments[:, 0]
        return Store(
            codes,
            np.cumsum(length) - length,
            length,
            segments[:, 1],
            segments[:, 2],
            Labels(*columns),
        )


def read_prepared(directory: Path) -> Store:
    """The sequences that `virnucpro prepare` wrote. Errors: InputError."""
    file = directory / "sequences.npz"
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; make it with `virnucpro prepare LABELS.tsv -o {directory}`"
        )
    return Store.load(file)


def pack2(codes: np.ndarray) -> np.ndarray:
    """Four codes a byte, uint8 [ceil(n/4)]."""
    padded = np.zeros(-(-len(codes) // 4) * 4, dtype=np.uint8)
    padded[: len(codes)] = codes
    q = padded.reshape(-1, 4)
    return q[:, 0] | q[:, 1] << 2 | q[:, 2] << 4 | q[:, 3] << 6


def unpack2(packed: np.ndarray, n: int) -> np.ndarray:
    """The codes that `pack2` packed, uint8 [n]."""
    return np.stack([packed >> s & 3 for s in (0, 2, 4, 6)], axis=1).reshape(-1)[:n]


def pack5(codes: np.ndarray) -> np.ndarray:
    """Three codes in 16 bits, uint16 [ceil(n/3)]."""
    padded = np.zeros(-(-len(codes) // 3) * 3, dtype=np.uint16)
    padded[: len(codes)] = codes
    t = padded.reshape(-1, 3)
    return t[:, 0] | t[:, 1] << 5 | t[:, 2] << 10


def unpack5(packed: np.ndarray, n: int) -> np.ndarray:
    """The codes that `pack5` packed, uint8 [n]."""
    return np.stack([packed >> s & 31 for s in (0, 5, 10)], axis=1).reshape(-1)[:n].astype(np.uint8)


def _compact(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Strings as their distinct values (JSON) and an index: names of a hundred thousand genes would
    outweigh the genes.
    """
    out = {}
    for key, values in fields.items():
        if values.dtype.kind in "US":
            distinct, index = np.unique(values, return_inverse=True)
            out[key] = index.astype(np.int32)
            out[key + "_values"] = np.frombuffer(
                json.dumps([str(v) for v in distinct]).encode(), dtype=np.uint8
            )
        else:
            out[key] = values
    return out


def _expand(z: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    """The strings that `_compact` made small."""
    if key + "_values" not in z:
        return z[key]
    return np.array(json.loads(z[key + "_values"].tobytes().decode()), dtype=str)[z[key]]
