"""Proteins and nucleotides -> token ids, exactly as the models' own tokenizers give them.

Knows how to encode; does not know the files that define them nor the models' weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from virnucpro.errors import ModelError
from virnucpro.models.weights import ADVICE
from virnucpro.sequences import bpe
from virnucpro.sequences.vocabulary import (
    ESM2_VOCABULARY,
    DnaTokenizer,
    read_dna_tokenizer,
    read_residue_vocabulary,
)
from virnucpro.settings import Choice

if TYPE_CHECKING:
    from tokenizers import Tokenizer as LibraryTokenizer


class Tokenizer(Protocol):
    """Sequences -> token ids of one encoder. sha256: hex, of the file that defines it."""

    sha256: str

    def __call__(self, sequences: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """(ids [tokens], lengths int32 [n]): the ids of the sequences with their special tokens,
        end to end.
        """
        ...


Tokenizers = Mapping[str, Tokenizer]  # by the names of the encoders


class ResidueTokenizer:
    """ESM-2's: <cls>, one id (uint8) a residue, <eos>. Raises ModelError."""

    def __init__(self, directory: Path):
        self.sha256 = read_residue_vocabulary(directory)

    def __call__(self, sequences: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """As of `Tokenizer`."""
        lengths = np.fromiter(map(len, sequences), dtype=np.int32, count=len(sequences)) + 2
        joined = b"<" + b"><".join(sequences) + b">" if sequences else b""
        return np.frombuffer(joined.translate(RESIDUE_TABLE), dtype=np.uint8), lengths


class BpeTokenizer:
    """DNABERT-S': [CLS], byte-pair tokens (uint16), [SEP]; by an automaton where that can be had,
    else by the library. Raises ModelError.
    """

    def __init__(self, directory: Path):
        self._dna = read_dna_tokenizer(directory)
        self.sha256 = self._dna.sha256
        self.library = _library(self._dna, directory)
        self._specials = self.library.encode("").ids

    @cached_property
    def way(self) -> Choice:
        """How ids are made, and why."""
        return self._automaton_or_why[1]

    @cached_property
    def _automaton_or_why(self) -> tuple[bpe.Automaton | None, Choice]:
        name = "DNABERT-S tokenizer"
        try:
            automaton = bpe.build(self._dna.vocabulary, self._dna.merges)
            if not self._agrees(automaton):
                raise bpe.NotAnAutomaton("it disagreed with the library on a sample")
        except bpe.NotAnAutomaton as why:
            return None, Choice(name, "library", f"no automaton of this tokenizer.json: {why}")
        return automaton, Choice(
            name, "automaton", f"{len(automaton.token):,} states, equal to the library on a sample"
        )

    def _agrees(self, automaton: bpe.Automaton) -> bool:
        """Whether the automaton and the library give the same ids for a fixed sample of DNA of all
        short lengths.
        """
        letters = np.random.default_rng(0).choice(
            np.frombuffer(b"ACGT", dtype=np.uint8), (256, 500)
        )
        sample = [row.tobytes()[: 1 + i if i < 64 else 500] for i, row in enumerate(letters)]
        ids, lengths = _by_automaton(automaton, sample, self._specials)
        expected = [e.ids for e in self.library.encode_batch([s.decode() for s in sample])]
        return lengths.tolist() == [len(e) for e in expected] and ids.tolist() == [
            i for e in expected for i in e
        ]

    def __call__(self, sequences: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """As of `Tokenizer`."""
        automaton = self._automaton_or_why[0]
        if automaton is None:
            return self._by_library(sequences)
        plain = [not n.translate(None, b"ACGT") for n in sequences]
        if all(plain):
            return _by_automaton(automaton, sequences, self._specials)
        # sequences with other letters are few: the library does them, and they are put back in
        # their places
        fast = _by_automaton(
            automaton, [n for n, p in zip(sequences, plain, strict=True) if p], self._specials
        )
        slow = self._by_library([n for n, p in zip(sequences, plain, strict=True) if not p])
        return _interleave(np.array(plain), fast, slow)

    def _by_library(self, sequences: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        encoded = [
            e.ids for e in self.library.encode_batch_fast([n.decode("ascii") for n in sequences])
        ]
        lengths = np.fromiter(map(len, encoded), dtype=np.int32, count=len(encoded))
        return (
            np.fromiter(
                (i for ids in encoded for i in ids), dtype=np.uint16, count=int(lengths.sum())
            ),
            lengths,
        )


def _by_automaton(
    automaton: bpe.Automaton, sequences: list[bytes], specials: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    cls, sep = specials
    ids, lengths = [np.zeros(0, np.uint16)], [np.zeros(0, np.int32)]
    for tokens, counts in automaton.encode(sequences):
        longest, n = tokens.shape
        framed = np.empty((n, longest + 2), dtype=np.uint16)
        framed[:, 1:-1] = tokens.T
        framed[:, -1] = sep
        framed[np.arange(n), longest - counts] = cls
        ids.append(framed[np.arange(longest + 2) >= (longest - counts)[:, None]])
        lengths.append((counts + 2).astype(np.int32))
    return np.concatenate(ids), np.concatenate(lengths)


def _interleave(first: np.ndarray, a: tuple, b: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `a` where `first`, of `b` elsewhere, each in order; (ids, lengths) all."""
    lengths = np.empty(len(first), dtype=np.int32)
    lengths[first], lengths[~first] = a[1], b[1]
    ids = np.empty(int(lengths.sum()), dtype=np.uint16)
    from_a = np.repeat(first, lengths)
    ids[from_a], ids[~from_a] = a[0], b[0]
    return ids, lengths


def _residue_table() -> bytes:
    """`bytes.translate` table letter -> id; `<` stands for <cls> and `>` for <eos>, letters it
    lacks are <unk>.
    """
    ids = {token: i for i, token in enumerate(ESM2_VOCABULARY)}
    table = bytearray([ids["<unk>"]] * 256)
    for token, i in ids.items():
        if len(token) == 1:
            table[ord(token)] = i
    table[ord("<")], table[ord(">")] = ids["<cls>"], ids["<eos>"]
    return bytes(table)


RESIDUE_TABLE = _residue_table()


def _library(dna: DnaTokenizer, directory: Path) -> LibraryTokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(dna.definition())
    except Exception as error:  # the library raises bare Exception
        raise ModelError(
            f"{directory / 'tokenizer.json'}: cannot be used ({error}); {ADVICE}"
        ) from None
