"""A trained network -> a bundle directory in the published formats (SPEC 6), encoders at half
precision.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from virnucpro.files import write_text
from virnucpro.models.convert import write_safetensors
from virnucpro.training.bundle.network import Network
from virnucpro.training.bundle.shape import NetworkShape
from virnucpro.training.bundle.vocabulary import write_esm2_tokenizer

DNA_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def half_parts(network: Network) -> dict[str, dict[str, torch.Tensor]]:
    """The trained tensors: encoders in fp16, the classifier and the heads of single encoders in
    fp32.
    """
    return {
        part: {
            name: t.detach()
            .cpu()
            .to(torch.float16 if part in ("esm2", "dnabert_s") else torch.float32)
            .contiguous()
            for name, t in tensors.items()
        }
        for part, tensors in network.parts().items()
    }


def save_parts(network: Network, directory: Path) -> None:
    """`esm2`, `dnabert_s`, `classifier` and `heads` `.safetensors`, each whole or not at all."""
    for part, tensors in half_parts(network).items():
        write_safetensors(tensors, directory / f"{part}.safetensors")


def write_bundle(
    directory: Path,
    parts: Path,
    dna_tokenizer: Path,
    shape: NetworkShape,
    description: Mapping[str, Any],
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
    places = {
        "classes": ["others", "virus"],
        "esm2": "esm2",
        "dnabert_s": "dnabert_s",
        "classifier": "classifier.safetensors",
    }
    _write(directory / "bundle.json", {**description, **places})


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o644)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, [json.dumps(content, indent=2)])
