"""Proteins and nucleotides -> token ids, exactly as the models' own tokenizers give them.

Knows how to encode with both; does not know the files that define them nor the models' weights.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from virnucpro.errors import ModelError
from virnucpro.models.weights import ADVICE
from virnucpro.sequences import bpe
from virnucpro.sequences.vocabulary import (
    ESM2_VOCABULARY,
    DnaTokenizer,
    read_dna_tokenizer,
    read_esm2_vocabulary,
)
from virnucpro.settings import Choice

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Tokenizers:
    """Both tokenizers of a bundle. `identity`: name -> sha256 hex of the file that defines it."""

    def __init__(self, esm2_dir: Path | str, dnabert_s_dir: Path | str):
        vocabulary, definition = read_esm2_vocabulary(Path(esm2_dir)), Path(dnabert_s_dir)
        self._dna = read_dna_tokenizer(definition)
        self.identity = {"esm2": vocabulary, "dnabert_s": self._dna.sha256}
        self.library = _library(self._dna, definition)
        self._specials = self.library.encode("").ids

    def esm2(self, proteins: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """(ids uint8 [tokens], lengths int32 [n]): <cls>, one id a residue, <eos>, for each
        protein, end to end.
        """
        lengths = np.fromiter(map(len, proteins), dtype=np.int32, count=len(proteins)) + 2
        joined = b"<" + b"><".join(proteins) + b">" if proteins else b""
        return np.frombuffer(joined.translate(ESM2_TABLE), dtype=np.uint8), lengths

    @cached_property
    def dnabert_s_way(self) -> Choice:
        """How DNABERT-S ids are made, and why."""
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

    def dnabert_s(self, nucleotides: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """(ids uint16 [tokens], lengths int32 [n]): [CLS], BPE, [SEP] for each sequence, end to
        end.
        """
        automaton = self._automaton_or_why[0]
        if automaton is None:
            return self._by_library(nucleotides)
        plain = [not n.translate(None, b"ACGT") for n in nucleotides]
        if all(plain):
            return _by_automaton(automaton, nucleotides, self._specials)
        # sequences with other letters are few: the library does them, and they are put back in
        # their places
        fast = _by_automaton(
            automaton, [n for n, p in zip(nucleotides, plain, strict=True) if p], self._specials
        )
        slow = self._by_library([n for n, p in zip(nucleotides, plain, strict=True) if not p])
        return _interleave(np.array(plain), fast, slow)

    def _by_library(self, nucleotides: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        encoded = [
            e.ids for e in self.library.encode_batch_fast([n.decode("ascii") for n in nucleotides])
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


def _esm2_table() -> bytes:
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


ESM2_TABLE = _esm2_table()


def _library(dna: DnaTokenizer, directory: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(dna.definition())
    except Exception as error:  # the library raises bare Exception
        raise ModelError(
            f"{directory / 'tokenizer.json'}: cannot be used ({error}); {ADVICE}"
        ) from None
