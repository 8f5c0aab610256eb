"""How many processes and threads a run computes with, and on which devices."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

from virnucpro.errors import UsageError
from virnucpro.launch import World, cores, is_true
from virnucpro.run.stopping import signals_held
from virnucpro.settings import Choice

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Processes:
    """How a run is to be carried out: `count` processes on this machine, on CPU or on the devices
    `visible`.
    """

    count: int
    cpu: bool
    visible: str | None  # value for CUDA_VISIBLE_DEVICES; None leaves it alone
    choice: Choice

    @property
    def spawn(self) -> bool:
        """Whether processes are to be started."""
        return self.count > 1


def choose_processes(
    gpus: str | None, num_processes: int | None, world: World, visible: Sequence[str]
) -> Processes:
    """Processes and devices for `--gpus` and `--num-processes`.

    `visible`: the device names of CUDA_VISIBLE_DEVICES, or "0".."n-1" without one. Raises
    UsageError for devices that are not there, and where the options contradict a launcher.
    """
    wanted = gpus if gpus is not None else ("none" if num_processes is not None else "all")
    if num_processes is not None and num_processes < 1:
        raise UsageError(f"--num-processes {num_processes}: give 1 or more")
    if wanted == "none":
        names: list[str] = []
    elif wanted == "all":
        names = list(visible)
    else:
        names = [visible[i] for i in _indices(wanted, len(visible))]
    if num_processes is not None and names:
        raise UsageError(
            "--num-processes counts processes without GPUs; with GPUs give --gpus alone (a process"
            " each)"
        )
    if num_processes is not None:
        reason = f"--num-processes {num_processes}"
    else:
        reason = (
            f"--gpus {gpus}"
            if wanted != "all"
            else "all that is visible"
            if names
            else "no GPU is visible"
        )
    if world.launched:
        _check_against_launcher(gpus, num_processes, names, world)
        cpu = wanted == "none" or not visible or is_true(os.environ, "ACCELERATE_USE_CPU")
        return Processes(
            1,
            cpu,
            None,
            Choice("processes", str(world.size), reason if world.self_launched else "as launched"),
        )
    if not names:
        count = num_processes or 1
        return Processes(
            count,
            True,
            None,
            Choice("devices", f"CPU, {count} process{'es' * (count > 1)}", reason),
        )
    return Processes(
        len(names),
        False,
        ",".join(names),
        Choice("devices", f"{len(names)} GPU{'s' * (len(names) > 1)}", reason),
    )


@functools.cache
def _computing_process() -> int:
    """The process that was the first to compute; of a forked one, its ancestor."""
    return os.getpid()


def allow_for_fork(cpu: bool) -> None:
    """To be called before anything is computed: a process forked from one that has computed has its
    memory and not its threads, for which it would wait for ever. It computes with one thread.

    Raises UsageError where it is to use a GPU, which cannot be had after a fork.
    """
    if _computing_process() == os.getpid():
        return
    import torch

    forked = "this process was forked from one that has computed already"
    if not cpu:
        raise UsageError(
            f"{forked}, and cannot use a GPU; start it with multiprocessing.get_context('spawn')"
        )
    torch.set_num_threads(1)
    log.warning("%s: it computes with one thread; 'spawn' instead of 'fork' gives it all", forked)


def visible_devices() -> list[str]:
    """Names of the CUDA devices this process may use, without initializing CUDA."""
    with signals_held():
        import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if named is None:
        return [str(i) for i in range(count)]
    return [name.strip() for name in named.split(",") if name.strip()][:count]


def use_threads(threads: int | None, cpu: bool, world: World) -> Choice:
    """Set how many CPU threads torch computes with in this process, and say why.

    To be called before anything is computed. Launchers export OMP_NUM_THREADS=1, which would leave
    a laptop on one core: under them the cores are shared out here.
    """
    import torch

    if _computing_process() != os.getpid():
        return Choice("threads", "1", "forked from a process that has computed already")
    if threads is not None:
        count, reason = threads, f"--threads {threads}"
    elif cpu and world.launched and not world.self_launched:
        count, reason = max(1, cores() // world.local_size), "the cores shared out"
    elif os.environ.get("OMP_NUM_THREADS"):
        count, reason = torch.get_num_threads(), "OMP_NUM_THREADS"
    else:
        count, reason = min(torch.get_num_threads(), cores()), "the cores this process may use"
    torch.set_num_threads(count)
    return Choice("threads", str(count), reason)


def _indices(wanted: str, count: int) -> list[int]:
    try:
        indices = [int(part) for part in wanted.split(",")]
    except ValueError:
        raise UsageError(
            f"--gpus {wanted}: give all, none, or device numbers such as 0,2"
        ) from None
    for index in indices:
        if not 0 <= index < count:
            there = f"there are {count}, numbered from 0" if count else "no GPU is visible"
            raise UsageError(f"--gpus {wanted}: no device {index}; {there}")
    if len(set(indices)) < len(indices):
        raise UsageError(f"--gpus {wanted}: a device stands there twice")
    return indices


def _check_against_launcher(
    gpus: str | None, num_processes: int | None, names: Sequence[str], world: World
) -> None:
    asked = (
        num_processes
        if num_processes is not None
        else len(names)
        if gpus not in (None, "all", "none")
        else None
    )
    if asked is not None and asked != world.local_size:
        option = (
            f"--num-processes {num_processes}" if num_processes is not None else f"--gpus {gpus}"
        )
        raise UsageError(
            f"{option} asks for {asked} processes, the launcher started {world.local_size} here; "
            "leave the option out, or give the launcher the same number"
        )
