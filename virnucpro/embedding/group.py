"""The Accelerator of a run: where this process computes, and how it meets the others."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DataLoaderConfiguration,
    InitProcessGroupKwargs,
    check_cuda_p2p_ib_support,
)

from virnucpro.launch import World, cores

COLLECTIVE_TIMEOUT = timedelta(seconds=600)  # what keeps a dead process from hanging a run


def make_accelerator(world: World, cpu: bool) -> Accelerator:
    """Join the process group, if there is one, and take this process's device.

    More processes than GPUs share them over gloo, since NCCL refuses two ranks on one device.
    Launchers export OMP_NUM_THREADS=1, which would leave a laptop on one core: under them the cores
    are shared out here.
    """
    backend = None  # as Accelerate chooses
    if cpu and world.launched and not world.self_launched:
        torch.set_num_threads(max(1, cores() // world.local_size))
    if not cpu and world.size > 1:
        if world.local_size > torch.cuda.device_count():
            backend = "gloo"
        if not check_cuda_p2p_ib_support():  # Accelerate refuses RTX 4000 cards without these
            os.environ.setdefault("NCCL_P2P_DISABLE", "1")
            os.environ.setdefault("NCCL_IB_DISABLE", "1")
    if world.restarts and 1 < world.size == world.local_size:
        _join_again(world, backend or ("gloo" if cpu else "nccl"))
    group = InitProcessGroupKwargs(backend=backend, timeout=COLLECTIVE_TIMEOUT)
    return Accelerator(
        cpu=cpu,
        kwargs_handlers=[group],
        dataloader_config=DataLoaderConfiguration(non_blocking=True),
    )


def _join_again(world: World, backend: str) -> None:
    """Make the process group of a torchrun restart apart from the former one's notes.

    torchrun keeps one store for all attempts and torch does not tell them apart in it (pytorch
    issue 135712): the new processes would wait for the addresses of the dead ones.
    """
    store, rank, size = next(
        iter(dist.rendezvous("env://", world.rank, world.size, timeout=COLLECTIVE_TIMEOUT))
    )
    if backend == "nccl":
        torch.cuda.set_device(world.local_rank)
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(f"restart {world.restarts}", store),
        rank=rank,
        world_size=size,
        timeout=COLLECTIVE_TIMEOUT,
    )


def leave(accelerator: Accelerator) -> None:
    """Leave the process group: what follows is the main process's alone."""
    if dist.is_initialized():  # under a launcher a single process has a group too
        accelerator.state.destroy_process_group()


def drop_out() -> None:
    """Leave the process group without the others, on the way out of a failed run.

    A process that ends inside a gloo group aborts. NCCL may wait for the others in leaving: there,
    the end does it.
    """
    if dist.is_initialized() and dist.get_backend() == "gloo":
        with suppress(RuntimeError):
            dist.destroy_process_group()
