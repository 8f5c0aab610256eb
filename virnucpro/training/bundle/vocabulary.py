"""The tokenizers of a new bundle: ESM-2's alphabet as published, and a BPE over DNA in the file
format of DNABERT-S.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from virnucpro.sequences.vocabulary import DNA_SPECIAL, ESM2_VOCABULARY

ESM2_MASK, ESM2_PAD = 32, 1
ESM2_RESIDUES = (4, 24)  # ids of the twenty amino acids, half-open
DNA_MASK, DNA_PAD = 4, 3
NO_LIMIT = int(1e30)  # as transformers writes it


def write_esm2_tokenizer(directory: Path) -> None:
    """`vocab.txt`, `special_tokens_map.json` and `tokenizer_config.json`, as published."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(ESM2_VOCABULARY))
    special = {
        "cls_token": "<cls>",
        "eos_token": "<eos>",
        "mask_token": "<mask>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    _write(directory / "special_tokens_map.json", special)
    _write(
        directory / "tokenizer_config.json",
        {
            **special,
            "tokenizer_class": "EsmTokenizer",
            "clean_up_tokenization_spaces": False,
            "model_max_length": NO_LIMIT,
        },
    )


def train_dna_tokenizer(
    sequences: Iterable[str], vocabulary: int, directory: Path, longest_token: int = 8
) -> None:
    """A BPE of `vocabulary` tokens from pieces of DNA, written as `tokenizer.json` and its two
    companions.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(DNA_SPECIAL),
        initial_alphabet=list("ACGT"),
        max_token_length=longest_token,
        show_progress=False,
    )
    tokenizer.train_from_iterator(sequences, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    special = {
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "pad_token": "[PAD]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
    }
    _write(directory / "special_tokens_map.json", special)
    _write(
        directory / "tokenizer_config.json",
        {
            **special,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": True,
            "model_max_length": NO_LIMIT,
        },
    )


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
