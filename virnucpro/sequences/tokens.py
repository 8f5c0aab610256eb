"""Proteins and nucleotides -> token ids, exactly as the models' own tokenizers give them.

Knows `vocab.txt` of ESM-2 and `tokenizer.json` of DNABERT-S; does not know the models' weights.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np

from virnucpro.errors import ModelError
from virnucpro.sequences import bpe
from virnucpro.settings import Choice


class Tokenizers:
    """Both tokenizers of a bundle. `identity`: name -> sha256 hex of the file that defines it."""

    def __init__(self, esm2_dir: Path | str, dnabert_s_dir: Path | str):
        vocabulary = _read(Path(esm2_dir) / "vocab.txt", "--esm-model")
        definition = _read(Path(dnabert_s_dir) / "tokenizer.json", "--dna-model")
        self.identity = {
            "esm2": hashlib.sha256(vocabulary).hexdigest(),
            "dnabert_s": hashlib.sha256(definition).hexdigest(),
        }
        self._esm2_table = _esm2_table(vocabulary)
        self.library = _library(definition)
        self._definition = definition
        self._specials = self.library.encode("").ids

    def esm2(self, proteins: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """(ids uint8 [tokens], lengths int32 [n]): <cls>, one id a residue, <eos>, for each
        protein, end to end.
        """
        lengths = np.fromiter(map(len, proteins), dtype=np.int32, count=len(proteins)) + 2
        joined = b"<" + b"><".join(proteins) + b">" if proteins else b""
        return np.frombuffer(joined.translate(self._esm2_table), dtype=np.uint8), lengths

    @cached_property
    def dnabert_s_way(self) -> Choice:
        """How DNABERT-S ids are made, and why."""
        return self._automaton_or_why[1]

    @cached_property
    def _automaton_or_why(self) -> tuple[bpe.Automaton | None, Choice]:
        name = "DNABERT-S tokenizer"
        try:
            automaton = _automaton(json.loads(self._definition))
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


def _automaton(definition: dict) -> bpe.Automaton:
    """The automaton of a tokenizer.json that is plain BPE on whole words.

    Errors: NotAnAutomaton.
    """
    model, pre = definition.get("model", {}), definition.get("pre_tokenizer")
    odd = [
        key
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
        if model.get(key)
    ]
    odd += [] if model.get("type") == "BPE" else ["model type"]
    odd += ["normalizer"] if definition.get("normalizer") else []
    odd += (
        []
        if pre is None or pre.get("type") in ("Whitespace", "WhitespaceSplit")
        else ["pre_tokenizer"]
    )
    if odd:
        raise bpe.NotAnAutomaton(f"{', '.join(odd)} is not what plain BPE has")
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return bpe.build(model["vocab"], merges)


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; {option} needs this tokenizer file") from error


def _esm2_table(vocabulary: bytes) -> bytes:
    """`bytes.translate` table letter -> id; `<` stands for <cls> and `>` for <eos>, letters it
    lacks are <unk>.
    """
    ids = {token: i for i, token in enumerate(vocabulary.decode("utf-8").split())}
    missing = [token for token in ("<cls>", "<eos>", "<unk>") if token not in ids]
    if missing or len(ids) > 256:
        raise ModelError(
            f"vocab.txt of ESM-2 lacks {' '.join(missing) or 'nothing but has too many tokens'}; "
            "give the directory of an ESM-2 model"
        )
    table = bytearray([ids["<unk>"]] * 256)
    for token, i in ids.items():
        if len(token) == 1:
            table[ord(token)] = i
    table[ord("<")], table[ord(">")] = ids["<cls>"], ids["<eos>"]
    return bytes(table)


def _library(definition: bytes):
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(definition.decode("utf-8"))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(
            f"tokenizer.json of DNABERT-S cannot be read ({error}); give the model's directory"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if len(tokenizer.encode("").ids) != 2:
        raise ModelError(
            "tokenizer.json of DNABERT-S does not put [CLS] and [SEP] around a sequence; give its"
            " directory"
        )
    if tokenizer.get_vocab_size() > 1 << 16:
        raise ModelError(
            "tokenizer.json of DNABERT-S has more than 65,536 tokens; give a DNABERT-S model"
        )
    return tokenizer
