"""A trained network -> the parts of a bundle, in the published formats, at half precision."""
from __future__ import annotations

import json
from pathlib import Path

import torch

from virnucpro.training.network import Network


def half_parts(network: Network) -> dict[str, dict[str, torch.Tensor]]:
    """The shipped tensors: encoders in fp16, the classifier in fp32."""
    parts = network.parts()
    return {
        part: {k: v.detach().cpu().to(torch.float32 if part == "classifier" else torch.float16).contiguous()
               for k, v in tensors.items()}
        for part, tensors in parts.items()
    }  # fmt: skip


def save_parts(network: Network, directory: Path) -> None:
    """`esm2.safetensors`, `dnabert_s.safetensors`, `classifier.safetensors`, each whole or not at all."""
    from safetensors.torch import save_file

    for part, tensors in half_parts(network).items():
        beside = directory / f"{part}.part"
        save_file(tensors, beside, metadata={"format": "pt"})
        beside.replace(directory / f"{part}.safetensors")


def write_configs(network_shape, bundle: Path) -> None:
    """`config.json` of both encoders."""
    for part, config in (("esm2", network_shape.esm2_config()), ("dnabert_s", network_shape.dnabert_s_config())):
        (bundle / part).mkdir(parents=True, exist_ok=True)
        (bundle / part / "config.json").write_text(json.dumps({**config, "torch_dtype": "float16"}, indent=2) + "\n")
