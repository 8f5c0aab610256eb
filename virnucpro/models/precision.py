"""In which number format an encoder computes: what was asked for, the launcher and the device
decide.

Knows SPEC's rule for `--precision auto`; does not load models.
"""

from __future__ import annotations

import torch

from virnucpro.errors import UsageError
from virnucpro.settings import PRECISIONS, Choice

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": torch.bfloat16,
}


def resolve_precision(
    requested: str, device: torch.device | str, launcher_precision: str | None = None
) -> Choice:
    """The precision to load encoders in, one of bf16, fp16, fp32, int8, and why.

    `launcher_precision` is Accelerate's mixed precision as exported; `no` and None count as unset.
    """
    device = torch.device(device)
    if requested not in PRECISIONS:
        raise UsageError(f"--precision {requested}: choose one of {', '.join(PRECISIONS)}")
    if requested == "int8" and device.type != "cuda":
        raise UsageError(
            f"--precision int8: needs an NVIDIA GPU, this run computes on {device.type}; leave"
            " it out"
        )
    if requested != "auto":
        return Choice("precision", requested, "as asked for")
    if launcher_precision in ("bf16", "fp16"):
        return Choice("precision", launcher_precision, "the launcher's mixed precision")
    if device.type != "cuda":
        return Choice("precision", "fp32", f"computed on {device.type}")
    if computes_bf16(device):
        return Choice("precision", "bf16", "the GPU computes it natively")
    return Choice("precision", "fp16", "the GPU is too old for bf16")


def computes_bf16(device: torch.device) -> bool:
    """Whether the CUDA (or ROCm) device has bf16 units, not an emulation."""
    if torch.version.hip is not None:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cuda.get_device_capability(device) >= (8, 0)


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype of weights and activations; int8 keeps everything but its products in bf16."""
    return DTYPES[precision]
