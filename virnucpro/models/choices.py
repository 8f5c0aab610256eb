"""Whether an encoder runs on our own kernels or on plain torch, and how many tokens a batch should
have there.

Knows what the kernels need of a device; loads neither triton nor the kernels (fast/)
themselves.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

from virnucpro.errors import UsageError
from virnucpro.models.precision import compute_dtype
from virnucpro.settings import Choice

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
