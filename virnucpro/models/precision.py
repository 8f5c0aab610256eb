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

CPU_BF16_UNITS = ("amx_bf16", "avx512_bf16")


def resolve_precision(
    requested: str,
    device: torch.device | str,
    launcher_precision: str | None = None,
    cpu_precision: str = "fp32",
) -> Choice:
    """The precision to load encoders in, one of bf16, fp16, fp32, int8, and why.

    `launcher_precision` is Accelerate's mixed precision as exported; `no` and None count as unset.
    `cpu_precision`: the bundle's; bf16 allows it by `auto` where the CPU computes it natively.
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
        return _choose_without_cuda(device, cpu_precision)
    if computes_bf16(device):
        return Choice("precision", "bf16", "the GPU computes it natively")
    return Choice("precision", "fp16", "the GPU is too old for bf16")


def _choose_without_cuda(device: torch.device, cpu_precision: str) -> Choice:
    if device.type != "cpu" or cpu_precision != "bf16":
        return Choice("precision", "fp32", f"computed on {device.type}")
    unit = bf16_unit_of_cpu()
    if unit is None:
        return Choice("precision", "fp32", "the CPU has no products in bf16")
    return Choice(
        "precision", "bf16", f"the CPU computes it natively ({unit}), the model allows it"
    )


def bf16_unit_of_cpu() -> str | None:
    """The instruction set in which this CPU multiplies bf16, None where it has none."""
    # where torch has no such function, nothing is known of the CPU: fp32
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return next((unit for unit in CPU_BF16_UNITS if capabilities.get(unit)), None)


def computes_bf16(device: torch.device) -> bool:
    """Whether the CUDA (or ROCm) device has bf16 units, not an emulation."""
    if torch.version.hip is not None:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cuda.get_device_capability(device) >= (8, 0)


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype of weights and activations; int8 keeps everything but its products in bf16."""
    return DTYPES[precision]
