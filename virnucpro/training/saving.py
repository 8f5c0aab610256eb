"""A trained network -> the parts of a bundle, in the published formats, at half precision."""

from __future__ import annotations

from pathlib import Path

import torch

from virnucpro.training.bundle.network import Network


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
    from safetensors.torch import save_file

    for part, tensors in half_parts(network).items():
        beside = directory / f"{part}.part"
        save_file(tensors, beside, metadata={"format": "pt"})
        beside.replace(directory / f"{part}.safetensors")
