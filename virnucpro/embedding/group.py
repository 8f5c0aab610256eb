"""The processes of a run: the Accelerator of this one, notes between them, GPU memory for the
display.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DataLoaderConfiguration,
    InitProcessGroupKwargs,
    check_cuda_p2p_ib_support,
)

from virnucpro.errors import VirNucProError
from virnucpro.launch import World, launcher_variables
from virnucpro.models.internals import store_of_the_group

COLLECTIVE_TIMEOUT = timedelta(seconds=600)  # what keeps a dead process from hanging a run


def make_accelerator(world: World, cpu: bool) -> Accelerator:
    """As `_join`. Raises VirNucProError where the processes cannot meet, or Accelerate's variables
    are wrong.
    """
    with _explained(world), launcher_variables():
        return _join(world, cpu)


def _join(world: World, cpu: bool) -> Accelerator:
    """Join the process group, if there is one, and take this process's device.

    More processes than GPUs share them over gloo, since NCCL refuses two ranks on one device.
    """
    backend = None  # as Accelerate chooses
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


@contextmanager
def _explained(world: World) -> Iterator[None]:
    """What torch and Accelerate say of an environment that does not suit them, as one line."""
    try:
        yield
    except dist.DistError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise VirNucProError(
            f"process {world.rank} of {world.size} could not join the others at {where} ({error});"
            " see to it that all are started, and with the same MASTER_ADDR, MASTER_PORT and"
            " WORLD_SIZE"
        ) from error
    except (ImportError, LookupError, OSError, RuntimeError, ValueError) as error:
        names = [name for name in os.environ if name.startswith(("ACCELERATE_", "GLOO_", "NCCL_"))]
        if not names:
            raise
        raise VirNucProError(
            f"Accelerate cannot start ({error}); if one of {', '.join(sorted(names))} is wrong,"
            " correct or unset it"
        ) from error


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


def close_group(accelerator: Accelerator) -> None:
    """Leave the process group: what follows is the main process's alone."""
    if dist.is_initialized():  # under a launcher a single process has a group too
        accelerator.state.destroy_process_group()


def abandon_group() -> None:
    """Leave the process group without the others, on the way out of a failed run.

    A process that ends inside a gloo group aborts. NCCL may wait for the others in leaving: there,
    the end does it.
    """
    if dist.is_initialized() and dist.get_backend() == "gloo":
        with suppress(RuntimeError):
            dist.destroy_process_group()


PATIENCE = timedelta(days=30)
PATIENCE_FOR_READERS = timedelta(seconds=30)
BROKEN_CONNECTION = (
    "gloo",
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "ncclRemoteError",
    "ncclSystemError",
)


class PeerLostError(VirNucProError):
    """Another process of the run is gone: nothing more can be gathered."""


class Announcements:
    """Notes of the main process to the others, by name; nobody reads them in a single process.

    Collectives time out after minutes, which keeps a dead process from hanging a run. A note may
    take hours to come: the store behind the process group waits as long as it is told to.
    """

    def __init__(self, run: str = "0") -> None:
        """run: which of the runs in this process group the notes are about."""
        self._run = run
        self._shared = store_of_the_group() if dist.is_initialized() else None
        self._others = dist.get_world_size() - 1 if dist.is_initialized() else 0

    def post(self, name: str, note: dict[str, Any]) -> None:
        """Tell the other processes; a note of each name once."""
        if self._shared is not None:
            self._shared.set(self._key(name), json.dumps(note))

    def wait_for_readers(self, name: str) -> None:
        """Before the main process ends early: the notes may live in it, and would be gone
        with it.
        """
        if self._others:
            with suppress(RuntimeError):  # a reader that is gone needs no waiting for
                self._store().wait([self._key(name) + "/read"], PATIENCE_FOR_READERS)

    def read(self, name: str) -> dict[str, Any]:
        """Wait for the note. Raises PeerLostError when the main process is gone."""
        store = self._store()
        with peers():
            store.wait([self._key(name)], PATIENCE)
            note = json.loads(store.get(self._key(name)))
            if store.add(self._key(name) + "/readers", 1) == self._others:
                store.set(self._key(name) + "/read", "all")
        return note

    def _key(self, name: str) -> str:
        return f"virnucpro/{self._run}/{name}"

    def _store(self) -> dist.Store:
        if self._shared is None:
            raise RuntimeError("a single process has nobody to read notes of")
        return self._shared


@contextmanager
def peers() -> Iterator[None]:
    """Around a collective: a broken connection becomes PeerLostError, other errors stay what
    they are.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(
            word in str(error) for word in BROKEN_CONNECTION
        ):
            raise PeerLostError("another process of this run is gone") from error
        raise


SECONDS_BETWEEN = 5.0
QUERY = ["nvidia-smi", "--query-gpu=uuid,memory.used,memory.total", "--format=csv,noheader,nounits"]


class GpuMemory:
    """Used and total memory of the visible GPUs, from the driver: asking CUDA would open a context
    of some hundred MB on every card of the other processes.

    Callable: (used, total) bytes of each device, in CUDA's order; [] where there is none or the
    driver does not say.
    """

    def __init__(self) -> None:
        self._asked_at = float("-inf")
        self._answer: list[tuple[int, int]] = []

    def __call__(self) -> list[tuple[int, int]]:
        """(used, total) bytes of each device, asked for now and then."""
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
