"""Proteins and nucleotides -> token ids, exactly as the models' own tokenizers give them.

Knows `vocab.txt` of ESM-2 and `tokenizer.json` of DNABERT-S; does not know the models' weights.
"""
from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from virnucpro.errors import ModelError


class Tokenizers:
    """Both tokenizers of a bundle. `identity`: name -> sha256 hex of the file that defines it."""

    def __init__(self, esm2_dir: Path | str, dnabert_s_dir: Path | str):
        vocabulary = _read(Path(esm2_dir) / "vocab.txt", "--esm-model")
        definition = _read(Path(dnabert_s_dir) / "tokenizer.json", "--dna-model")
        self.identity = {"esm2": hashlib.sha256(vocabulary).hexdigest(), "dnabert_s": hashlib.sha256(definition).hexdigest()}
        self._esm2_table = _esm2_table(vocabulary)
        self._bpe = _library(definition)

    def esm2(self, proteins: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """(ids uint8 [tokens], lengths int32 [n]): <cls>, one id a residue, <eos>, for each protein, end to end."""
        lengths = np.fromiter(map(len, proteins), dtype=np.int32, count=len(proteins)) + 2
        joined = b"<" + b"><".join(proteins) + b">" if proteins else b""
        return np.frombuffer(joined.translate(self._esm2_table), dtype=np.uint8), lengths

    def dnabert_s(self, nucleotides: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """(ids uint16 [tokens], lengths int32 [n]): [CLS], BPE, [SEP] for each sequence, end to end."""
        encoded = [e.ids for e in self._bpe.encode_batch_fast([n.decode("ascii") for n in nucleotides])]
        lengths = np.fromiter(map(len, encoded), dtype=np.int32, count=len(encoded))
        flat = [i for ids in encoded for i in ids]
        return np.array(flat, dtype=np.uint16), lengths


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; {option} needs this tokenizer file") from error


def _esm2_table(vocabulary: bytes) -> bytes:
    """`bytes.translate` table letter -> id; `<` stands for <cls> and `>` for <eos>, letters it lacks are <unk>."""
    ids = {token: i for i, token in enumerate(vocabulary.decode("utf-8").split())}
    missing = [token for token in ("<cls>", "<eos>", "<unk>") if token not in ids]
    if missing or len(ids) > 256:
        raise ModelError(f"vocab.txt of ESM-2 lacks {' '.join(missing) or 'nothing but has too many tokens'}; "
                         "give the directory of an ESM-2 model")
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
        raise ModelError(f"tokenizer.json of DNABERT-S cannot be read ({error}); give the model's directory") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if tokenizer.get_vocab_size() > 1 << 16:
        raise ModelError("tokenizer.json of DNABERT-S has more than 65,536 tokens; give a DNABERT-S model")
    return tokenizer
