"""Used and total memory of the visible GPUs, for the display: asked of the driver, since asking
CUDA would open a context of some hundred MB on every card of the other processes.
"""

from __future__ import annotations

import subprocess
import time

import torch

SECONDS_BETWEEN = 5.0
QUERY = ["nvidia-smi", "--query-gpu=uuid,memory.used,memory.total", "--format=csv,noheader,nounits"]


class GpuMemory:
    """Callable: (used, total) bytes of each device, in CUDA's order; [] where there is none or the
    driver does not say.
    """

    def __init__(self) -> None:
        self._asked_at = float("-inf")
        self._answer: list[tuple[int, int]] = []

    def __call__(self) -> list[tuple[int, int]]:
        if torch.cuda.is_available() and time.monotonic() - self._asked_at >= SECONDS_BETWEEN:
            self._asked_at = time.monotonic()
            devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
            self._answer = parse(ask_driver(), [f"GPU-{device.uuid}" for device in devices])
        return self._answer


def ask_driver() -> str:
    """The driver's answer to QUERY, "" where it gives none."""
    try:
        return subprocess.run(QUERY, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def parse(answer: str, wanted: list[str]) -> list[tuple[int, int]]:
    """(used, total) bytes of the devices `wanted` (by UUID) from lines of `uuid, MiB used, MiB
    total`; [] if one is missing.
    """
    found = {}
    for line in answer.splitlines():
        uuid, used, total = (word.strip() for word in line.split(","))
        if used.isdigit() and total.isdigit():
            found[uuid] = (int(used) << 20, int(total) << 20)
    return [found[uuid] for uuid in wanted] if all(uuid in found for uuid in wanted) else []
