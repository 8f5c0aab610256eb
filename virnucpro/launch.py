"""Processes and devices: what a launcher gave us, or what we start ourselves.

Knows torchrun's and Accelerate's environment variables; does not know what the processes compute.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from virnucpro.errors import UsageError

log = logging.getLogger(__name__)

# What torchrun, and accelerate for several processes, tell each process. Only all of them together
# are a launcher's; some of them are left over from elsewhere.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
LAUNCHER_VARIABLES = (*RANK_VARIABLES, "MASTER_ADDR", "MASTER_PORT")
ONE_PROCESS_VARIABLE = "ACCELERATE_MIXED_PRECISION"  # all that accelerate says to a single process
# Accelerate reads them as a launcher's too, and would wait for processes that nobody started.
MPI_PREFIXES = ("PMI_", "PMIX_", "OMPI_", "MV2_", "MPI_LOCAL")
UNSUITED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
TRUE, FALSE = ("1", "true", "yes", "y", "on", "t"), ("0", "false", "no", "n", "off", "f")
WORDS = {
    **dict.fromkeys(
        (
            "ACCELERATE_USE_CPU",
            "ACCELERATE_DEBUG_MODE",
            "ACCELERATE_CPU_AFFINITY",
            *UNSUITED,
        ),
        (*TRUE, *FALSE),
    ),
    ONE_PROCESS_VARIABLE: ("no", "fp16", "bf16", "fp8"),
}
INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"
PARENT_VARIABLE = "VIRNUCPRO_LAUNCHER"  # set by our own launch only: its process id


@dataclass(frozen=True, slots=True)
class World:
    """This process among its peers."""

    launched: bool
    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1
    restarts: int = 0
    self_launched: bool = False
    # the launcher's process id: when it is gone, this process is to end too
    parent: int | None = None
    remark: str | None = None  # what was found in the environment and is not used

    @property
    def is_main(self) -> bool:
        """Whether this process prepares the run and writes its results."""
        return self.rank == 0


def read_world(environment: Mapping[str, str] = os.environ) -> World:
    """The world a launcher made, or the plain single process.

    Raises UsageError, which names the variable, where a launcher's variables contradict each other
    or hold something else than they are for.
    """
    _check_accelerate(environment)
    missing = _missing(environment)
    if missing:
        one = bool(environment.get(ONE_PROCESS_VARIABLE))
        left = [name for name in RANK_VARIABLES if environment.get(name)]
        remark = (
            f"{', '.join(left)} set, but not {', '.join(missing)}: no launcher started this run,"
            " which is a single process"
        )
        return World(one, parent=os.getppid() if one else None, remark=remark if left else None)
    size = _number(environment, "WORLD_SIZE", 1, 1 << 20)
    local_size = _number(environment, "LOCAL_WORLD_SIZE", 1, size, size)
    _number(environment, "MASTER_PORT", 1, 65535)
    own = PARENT_VARIABLE in environment
    return World(
        launched=True,
        rank=_number(environment, "RANK", 0, size - 1),
        local_rank=_number(environment, "LOCAL_RANK", 0, local_size - 1),
        size=size,
        local_size=local_size,
        restarts=_number(environment, "TORCHELASTIC_RESTART_COUNT", 0, 1 << 20, 0),
        self_launched=own,
        parent=_number(environment, PARENT_VARIABLE, 0, 1 << 30, os.getppid()),
    )


def check_network(world: World, environment: Mapping[str, str] = os.environ) -> None:
    """Raise UsageError where the processes of a launcher cannot meet: for an address or a network
    interface that is not there, torch would wait ten minutes.
    """
    if _missing(environment) or world.self_launched:
        return
    address = environment["MASTER_ADDR"]
    try:
        socket.getaddrinfo(address, None)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"MASTER_ADDR={address}: no such host ({getattr(error, 'strerror', None) or error});"
            " give the address of the machine of rank 0"
        ) from None
    there = [name for _, name in socket.if_nameindex()]
    for name in filter(None, environment.get(INTERFACE_VARIABLE, "").split(",")):
        if name not in there:
            raise UsageError(
                f"{INTERFACE_VARIABLE}={name}: no such network interface; unset it, or give one of"
                f" {', '.join(there)}"
            )


@contextmanager
def launcher_variables() -> Iterator[None]:
    """While entered, the environment has no rank or size but those of a complete launcher's set."""
    left = () if not _missing(os.environ) else (*RANK_VARIABLES, "LOCAL_WORLD_SIZE")
    hidden = {n: v for n, v in os.environ.items() if n in left or n.startswith(MPI_PREFIXES)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def stopped(number: int, forced: bool, goes_on: bool = True) -> str:
    """What is said at the end of a run that a signal ended; `goes_on`: by a command that goes on
    where it was.
    """
    return f"stopped by {signal_name(number)}" + (f"; {resume_hint(forced)}" if goes_on else "")


def resume_hint(forced: bool) -> str:
    """How to go on after a stop; forced: --force was given, which would start over."""
    return (
        f"finished work is kept: run the same command again{' without --force' if forced else ''}"
        " to go on"
    )


def code_for_launcher(code: int, world: World) -> int:
    """Launchers other than ours would turn 2 into a failure with a traceback of theirs; `run.json`
    has the code.
    """
    return 0 if code == 2 and world.launched and not world.self_launched else code


CPU_QUOTA = "/sys/fs/cgroup/cpu.max"  # of a container: microseconds of CPU, and in how many


def cores(environment: Mapping[str, str] = os.environ, quota: str = CPU_QUOTA) -> int:
    """Cores this process may use: by its affinity, by SLURM, and by the limit of its container."""
    affinity = hasattr(os, "sched_getaffinity")
    limits = [len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1]
    given = environment.get("SLURM_CPUS_PER_TASK", "")
    if given.isdecimal() and len(given) < 10:
        limits.append(int(given))
    with suppress(OSError, ValueError):  # no such limit, or "max"
        used, period = Path(quota).read_text().split()
        limits.append(math.ceil(int(used) / int(period)))
    return max(1, min(limits))


def signal_name(number: int) -> str:
    """SIGTERM for 15."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _missing(environment: Mapping[str, str]) -> list[str]:
    return [name for name in LAUNCHER_VARIABLES if not environment.get(name)]


def _number(
    environment: Mapping[str, str], name: str, least: int, most: int, default: int | None = None
) -> int:
    """The whole number of a variable; `default` where it is not set."""
    given = environment.get(name)
    if not given and default is not None:
        return default
    try:
        number = int(given or "")
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        size = environment.get("WORLD_SIZE")
        raise UsageError(
            f"{name}={given}: a launcher gives a whole number from {least} to {most} here (it said"
            f" WORLD_SIZE={size}); start the run through torchrun or accelerate launch, or unset"
            f" {' '.join(LAUNCHER_VARIABLES)}"
        )
    return number


def _check_accelerate(environment: Mapping[str, str]) -> None:
    for variable, words in WORDS.items():
        given = environment.get(variable)
        if given is not None and given.lower() not in words:
            raise UsageError(
                f"{variable}={given}: Accelerate knows {', '.join(words)} here; correct or unset it"
            )
    for variable, name in UNSUITED.items():
        if is_true(environment, variable):
            raise UsageError(
                f"the Accelerate configuration asks for {name}, which splits a model for training "
                f"({variable}); launch with --config_file accelerate_configs/multi_gpu.yaml instead"
            )


def is_true(environment: Mapping[str, str], variable: str) -> bool:
    """Whether the variable says yes, as Accelerate reads it."""
    return environment.get(variable, "").lower() in TRUE
