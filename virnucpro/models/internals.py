"""The functions of torch without a public name that this program calls: all of them, and here only.

Seen to work as told here in the versions SEEN; tests/models/test_internals.py fails where another
one lacks them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

SEEN = ("2.11", "2.13")  # versions of torch

# The same step for many tensors in one launch; torch documents them, as beta, by these names.
foreach_add_ = torch._foreach_add_
foreach_lerp = torch._foreach_lerp
foreach_lerp_ = torch._foreach_lerp_
foreach_mul_ = torch._foreach_mul_


def store_of_the_group() -> dist.Store:
    """The key-value store behind the process group: a second one would need an address and a port
    that all processes know.
    """
    return dist.distributed_c10d._get_default_store()


def end_recording(device_index: int, pool: Any) -> None:
    """After a CUDA graph whose recording failed: torch gives memory back again. Older torch leaves
    this out where the end of a recording fails.
    """
    torch._C._cuda_endAllocateToPool(device_index, pool)
