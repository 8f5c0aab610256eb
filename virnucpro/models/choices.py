"""What is chosen for an encoder on a device: the number format, our own kernels or plain torch, and
how many tokens a batch should have.

Knows the rule for `--precision auto` and what the kernels need; loads neither models nor kernels.
"""

from __future__ import annotations

from importlib.util import find_spec

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

PLAIN, FUSED, INT8 = "plain", "fused", "int8"
HEAD_WIDTHS = (16, 32, 64, 128)
HOPPER = (9, 0)
ROWS_OF_A_TILE = 128


def choose_fast_path(
    name: str, device: torch.device, precision: str, head_width: int, compile: str
) -> Choice:
    """FUSED, INT8 or PLAIN, and why. Raises UsageError where what was asked for cannot be had."""
    missing = what_is_missing(device, precision, head_width)
    if precision == "int8":
        missing = missing or int8_is_missing(device)
        if missing or compile == "off":
            raise UsageError(
                f"--precision int8: {missing or '--compile off forbids the kernels it needs'};"
                " choose bf16 or fp16"
            )
        return Choice(
            name,
            INT8,
            "8-bit products, as asked for; what lies between them, and very short proteins, in 16"
            " bits",
        )
    if compile == "off":
        return Choice(name, PLAIN, "as asked for with --compile off")
    if missing and compile == "on":
        raise UsageError(f"--compile on: {missing}; leave the option out")
    if missing:
        return Choice(name, PLAIN, missing)
    return Choice(
        name,
        FUSED,
        (
            "as asked for with --compile on"
            if compile == "on"
            else "own kernels between the products of an NVIDIA GPU in 16 bits"
        ),
    )


def what_is_missing(device: torch.device, precision: str, head_width: int) -> str:
    """What the kernels need and this run has not, in a few words; empty if nothing."""
    if device.type != "cuda":
        return f"the fast kernels need an NVIDIA GPU, this is {device.type}"
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return "the fast kernels need an NVIDIA GPU of compute capability 8.0 or newer"
    if compute_dtype(precision) not in (torch.bfloat16, torch.float16):
        return "the fast kernels compute in 16 bits"
    if head_width not in HEAD_WIDTHS:
        return (
            f"the fast kernels take heads of {', '.join(map(str, HEAD_WIDTHS))}, not {head_width}"
        )
    if find_spec("triton") is None:
        return "the fast kernels need triton, which is not installed"
    return ""


def int8_is_missing(device: torch.device) -> str:
    """Why 8-bit products would not pay on this NVIDIA GPU; empty if they do."""
    if torch.cuda.get_device_capability(device) != HOPPER:
        return (
            "measured and tuned for Hopper GPUs (H100, H200) only, this is"
            f" {torch.cuda.get_device_name(device)}"
        )
    return ""


def preferred_tokens(device: torch.device, tiles: int = 1) -> Choice:
    """Tokens of a batch: `tiles` tiles of rows for every multiprocessor, so that no product ends
    with most of them idle.
    """
    if device.type != "cuda":
        return Choice("batch", "4096", f"enough for {device.type}")
    count = torch.cuda.get_device_properties(device).multi_processor_count
    rows = ROWS_OF_A_TILE * max(1, round(16_384 / (ROWS_OF_A_TILE * count))) * tiles
    return Choice("batch", str(rows * count), f"{rows} rows for each of {count} multiprocessors")


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
