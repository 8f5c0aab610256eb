"""The files that define both tokenizers, checked: `vocab.txt` of ESM-2 and `tokenizer.json` of
DNABERT-S.

Only what the published tokenizers consist of is accepted: ESM-2's alphabet, and byte-pair merges of
whole words between [CLS] and [SEP]. Other components could take any time (patterns), drop letters,
or number tokens that the network does not have. Knows both formats; does not encode.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from virnucpro.errors import ModelError
from virnucpro.models.weights import ADVICE, read_table

ESM2_VOCABULARY = (
    "<cls>",
    "<pad>",
    "<eos>",
    "<unk>",
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    "<null_1>",
    "<mask>",
)  # of every ESM-2, in the order of the ids
DNA_SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
MOST_TOKENS = 1 << 16  # ids are kept in 16 bits
LONGEST_TOKEN = 512  # letters
# what may stand in tokenizer.json beside the vocabulary, the merges and the special tokens
PLAIN: dict[str, tuple[Any, ...]] = {
    "version": (None, "1.0"),
    "normalizer": (None,),
    "pre_tokenizer": (None, {"type": "Whitespace"}, {"type": "WhitespaceSplit"}),
    "decoder": (None,),
}
PLAIN_MODEL: dict[str, tuple[Any, ...]] = {
    "type": ("BPE",),
    "unk_token": ("[UNK]",),
    "dropout": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "fuse_unk": (None, False),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}
NOT_USED = ("truncation", "padding")  # of a whole batch; frames are neither cut nor filled up


@dataclass(frozen=True, slots=True)
class DnaTokenizer:
    """The checked content of a tokenizer.json. sha256: hex, of the file."""

    sha256: str
    vocabulary: dict[str, int]
    merges: list[tuple[str, str]]
    pre_tokenizer: dict[str, str] | None

    def definition(self) -> str:
        """The same as a tokenizer.json that holds nothing else."""
        special = {name: self.vocabulary[name] for name in ("[CLS]", "[SEP]")}
        return json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [],
                "normalizer": None,
                "pre_tokenizer": self.pre_tokenizer,
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": _TEMPLATE,
                    "pair": [*_TEMPLATE, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {
                        name: {"id": name, "ids": [i], "tokens": [name]}
                        for name, i in special.items()
                    },
                },
                "decoder": None,
                "model": {
                    "type": "BPE",
                    "unk_token": "[UNK]",
                    "vocab": self.vocabulary,
                    "merges": self.merges,
                },
            }
        )


_TEMPLATE: list[dict[str, Any]] = [
    {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}},
    {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
]


def read_residue_vocabulary(directory: Path) -> str:
    """Hex sha256 of `vocab.txt`, once its tokens are ESM-2's in their order. Raises ModelError."""
    file = directory / "vocab.txt"
    try:
        with file.open("rb") as opened:
            content = opened.read(1 << 16)
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}; --esm-model needs this file") from None
    if tuple(content.decode("utf-8", "replace").split()) != ESM2_VOCABULARY:
        raise ModelError(
            f"{file}: not the {len(ESM2_VOCABULARY)} tokens of ESM-2 in their order; {ADVICE}"
        )
    return hashlib.sha256(content).hexdigest()


def read_dna_tokenizer(directory: Path) -> DnaTokenizer:
    """The tokenizer of a DNABERT-S directory. Raises ModelError where it has a component that
    DNABERT-S does not have, or tokens that the network does not have.
    """
    file = directory / "tokenizer.json"
    stored = read_table(file, f"--dna-model needs this file; {ADVICE}")

    def wrong(what: str) -> ModelError:
        return ModelError(f"{file}: {what}; {ADVICE}")

    model = stored.get("model")
    if not isinstance(model, dict):
        raise wrong("its model is not a table")
    others = set(stored) - {*PLAIN, *NOT_USED, "model", "added_tokens", "post_processor"}
    others |= set(model) - {*PLAIN_MODEL, "vocab", "merges"}
    others |= {name for name, plain in PLAIN.items() if not _is_one(stored.get(name), plain)}
    others |= {name for name, plain in PLAIN_MODEL.items() if not _is_one(model.get(name), plain)}
    if others:
        name = min(others)
        raise wrong(f"{name[:40]} is {_short(stored | model, name)}, other than in DNABERT-S")
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if not _is_vocabulary(vocabulary):
        raise wrong("its vocabulary is not tokens numbered from 0, special ones among them")
    if not _are_special(stored, vocabulary):
        raise wrong("its special tokens or post_processor do not make [CLS] sequence [SEP]")
    pairs = _pairs(merges, vocabulary)
    if pairs is None:
        raise wrong("its merges are not pairs of its tokens")
    if (directory / "config.json").exists():
        size = read_table(directory / "config.json", ADVICE).get("vocab_size")
        if not isinstance(size, int) or size < len(vocabulary):
            raise ModelError(
                f"{file}: {len(vocabulary)} tokens, but vocab_size is {str(size)[:20]} in"
                f" config.json; they do not belong together: {ADVICE}"
            )
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return DnaTokenizer(sha256, vocabulary, pairs, stored.get("pre_tokenizer"))


def _is_one(value: Any, plain: tuple[Any, ...]) -> bool:
    """Whether `value` is one of `plain`, of the same type: 0 is not False here."""
    return any(type(value) is type(one) and value == one for one in plain)


def _short(table: dict[str, Any], name: str) -> str:
    value = table.get(name)
    kind = value.get("type") if isinstance(value, dict) else value
    return f"{kind}"[:40] if isinstance(kind, str | int | float | None) else "a table"


def _is_vocabulary(vocabulary: Any) -> TypeGuard[dict[str, int]]:
    if not isinstance(vocabulary, dict) or not len(DNA_SPECIAL) < len(vocabulary) <= MOST_TOKENS:
        return False
    tokens, ids = vocabulary.keys(), vocabulary.values()
    return (
        all(type(i) is int for i in ids)
        and set(ids) == set(range(len(vocabulary)))
        and all(0 < len(token) <= LONGEST_TOKEN and not token.isspace() for token in tokens)
        and all(token.isprintable() for token in tokens)
        and all(name in vocabulary for name in DNA_SPECIAL[:3])
    )


def _are_special(stored: dict[str, Any], vocabulary: dict[str, int]) -> bool:
    """Whether the added tokens are DNABERT-S' and [CLS] and [SEP] stand around a sequence."""
    added, post = stored.get("added_tokens") or [], stored.get("post_processor")
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        return False
    for token in added:
        content = token.get("content")
        if content not in DNA_SPECIAL or vocabulary.get(content) != token.get("id"):
            return False
    if not isinstance(post, dict) or post.get("type") != "TemplateProcessing":
        return False
    special = post.get("special_tokens")
    if post.get("single") != _TEMPLATE or not isinstance(special, dict):
        return False
    named = (special.get(name) for name in ("[CLS]", "[SEP]"))
    ids = [entry.get("ids") if isinstance(entry, dict) else None for entry in named]
    return ids == [[vocabulary["[CLS]"]], [vocabulary["[SEP]"]]]


def _pairs(merges: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]] | None:
    """The merges as pairs, "A T" or ["A", "T"] in the file; None where they are anything else."""
    if not isinstance(merges, list) or len(merges) > MOST_TOKENS:
        return None
    pairs = []
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2:
            return None
        if not all(isinstance(part, str) and part in vocabulary for part in pair):
            return None
        if "".join(pair) not in vocabulary:
            return None
        pairs.append((pair[0], pair[1]))
    return pairs
