"""Trained parts, tokenizers and what was measured -> a bundle directory in the published formats
(SPEC 6).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from virnucpro.training.bundle.network import NetworkShape
from virnucpro.training.bundle.vocabulary import write_esm2_tokenizer

DNA_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def write_bundle(
    directory: Path,
    parts: Path,
    dna_tokenizer: Path,
    shape: NetworkShape,
    description: dict[str, Any],
) -> None:
    """`directory` from the `.safetensors` in `parts`.

    `description`: the fields of bundle.json beyond the parts.
    """
    esm2, dnabert_s = directory / "esm2", directory / "dnabert_s"
    for part, config in ((esm2, shape.esm2_config()), (dnabert_s, shape.dnabert_s_config())):
        part.mkdir(parents=True, exist_ok=True)
        _write(part / "config.json", {**config, "torch_dtype": "float16"})
        _copy(parts / f"{part.name}.safetensors", part / "model.safetensors")
    write_esm2_tokenizer(esm2)
    for name in DNA_TOKENIZER_FILES:
        _copy(dna_tokenizer / name, dnabert_s / name)
    _copy(parts / "classifier.safetensors", directory / "classifier.safetensors")
    write_description(directory, description)


def write_description(directory: Path, description: dict[str, Any]) -> None:
    """bundle.json: the parts as relative paths, and `description`."""
    _write(
        directory / "bundle.json",
        {
            **description,
            "classes": ["others", "virus"],
            "esm2": "esm2",
            "dnabert_s": "dnabert_s",
            "classifier": "classifier.safetensors",
        },
    )


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o644)


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
