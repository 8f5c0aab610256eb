"""What `virnucpro doctor` finds of the processor and the GPUs, a verdict a line.

Knows torch and the driver's tools; changes nothing.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

OK, WARNING, PROBLEM = "ok", "warning", "problem"
GIB = 2**30
FULL_MODEL_GPU = 8 * GIB  # ESM-2 3B in 16 bits and a batch


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, the verdict, what was found, and what to do about it ("" where
    nothing).
    """

    name: str
    verdict: str
    found: str
    fix: str = ""


def processor() -> list[Check]:
    """Cores and memory."""
    import psutil

    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    memory = psutil.virtual_memory()
    found = f"{cores} cores, {memory.total / GIB:.0f} GiB memory, {memory.available / GIB:.0f} free"
    if memory.available < 4 * GIB:
        return [
            Check("processor", WARNING, found, "close other programs; a run with mini wants 4 GiB")
        ]
    return [Check("processor", OK, found)]


def gpus() -> list[Check]:
    """Each GPU with its memory and precisions; or why there is none."""
    import torch

    if not torch.cuda.is_available():
        return [_no_gpu(torch)]
    checks = []
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        capability = (properties.major, properties.minor)
        precision = "bf16, fp16, fp32, int8" if capability >= (8, 0) else "fp16, fp32"
        free, total = torch.cuda.mem_get_info(i)
        found = (
            f"{i}: {properties.name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free, compute"
            f" capability {capability[0]}.{capability[1]}, {precision}"
        )
        if not _has_kernels(torch, capability):
            fix = "install a PyTorch build for this GPU, or leave it out with --gpus"
            checks.append(
                Check(
                    "gpu",
                    PROBLEM,
                    f"{found}; this PyTorch ({torch.__version__}) has no kernels for it",
                    fix,
                )
            )
        elif total < FULL_MODEL_GPU:
            checks.append(
                Check("gpu", WARNING, found, "too small for --model 500: use --model mini")
            )
        elif free < FULL_MODEL_GPU:
            checks.append(
                Check(
                    "gpu",
                    WARNING,
                    found,
                    "another program holds its memory: end it, or choose other GPUs with --gpus",
                )
            )
        else:
            checks.append(Check("gpu", OK, found))
    return checks


def nccl() -> list[Check]:
    """Only several GPUs need it."""
    import torch

    if torch.cuda.device_count() < 2:
        return [Check("nccl", OK, "not needed with fewer than two GPUs")]
    if not torch.distributed.is_nccl_available():
        return [
            Check(
                "nccl",
                PROBLEM,
                "this PyTorch has no NCCL, several GPUs cannot work together",
                "install PyTorch for CUDA from its own pages, or use --gpus 0",
            )
        ]
    return [Check("nccl", OK, ".".join(map(str, torch.cuda.nccl.version())))]


def _no_gpu(torch) -> Check:
    if not shutil.which("nvidia-smi"):
        return Check("gpu", OK, "none; mini is made for this, the full model is slow without one")
    if os.environ.get("CUDA_VISIBLE_DEVICES", "x").strip() in ("", "-1"):
        return Check("gpu", WARNING, "hidden by CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None and torch.version.hip is None:
        return Check(
            "gpu",
            WARNING,
            f"there is a driver, but PyTorch {torch.__version__} is built for CPUs",
            "install PyTorch for CUDA",
        )
    return Check(
        "gpu",
        WARNING,
        f"PyTorch {torch.__version__} cannot use it (driver too old, or the device is busy)",
        "see nvidia-smi; a driver at least as new as PyTorch's CUDA is needed",
    )


def _has_kernels(torch, capability: tuple[int, int]) -> bool:
    """Whether the build holds code for this generation, or an earlier one's that the driver can
    translate.
    """
    if torch.version.hip is not None:
        return True
    number = capability[0] * 10 + capability[1]
    built = [
        (kind, int(digits))
        for kind, _, digits in (name.partition("_") for name in torch.cuda.get_arch_list())
        if digits.isdigit()
    ]
    return any(
        (kind == "sm" and have // 10 == capability[0] and have <= number)
        or (kind == "compute" and have <= number)
        for kind, have in built
    )
