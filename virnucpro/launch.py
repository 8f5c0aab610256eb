"""Processes and devices: what a launcher gave us, or what we start ourselves.

Knows torchrun's and Accelerate's environment variables; does not know what the processes compute.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro.errors import Interrupted, UsageError, VirNucProError
from virnucpro.run.stopping import signals_held
from virnucpro.settings import Choice

LAUNCHER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "TORCHELASTIC_RUN_ID",
    "ACCELERATE_MIXED_PRECISION",
)
UNSUITED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
# set by our own launch only: where a worker leaves its exit code
STATUS_VARIABLE = "VIRNUCPRO_STATUS_DIR"
PARENT_VARIABLE = "VIRNUCPRO_LAUNCHER"  # set by our own launch only: its process id
SECONDS_TO_END = 20
HINTS = {
    signal.SIGKILL: " (out of host memory?)",
    signal.SIGBUS: " (a file of the run was cut short, or its disk failed?)",
}


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

    @property
    def is_main(self) -> bool:
        return self.rank == 0


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
        return self.count > 1


def read_world(environment: Mapping[str, str] = os.environ) -> World:
    """The world a launcher made, or the plain single process."""
    launched = any(environment.get(name) for name in LAUNCHER_VARIABLES)
    for variable, name in UNSUITED.items():
        if environment.get(variable, "false").lower() in ("1", "true"):
            raise UsageError(
                f"the Accelerate configuration asks for {name}, which splits a model for training; "
                "launch with --config_file accelerate_configs/multi_gpu.yaml instead"
            )
    number = {
        name: int(environment.get(name) or default)
        for name, default in (
            ("RANK", 0),
            ("LOCAL_RANK", 0),
            ("WORLD_SIZE", 1),
            ("LOCAL_WORLD_SIZE", 0),
            ("TORCHELASTIC_RESTART_COUNT", 0),
            (PARENT_VARIABLE, os.getppid()),
        )
    }
    return World(
        launched=launched,
        rank=number["RANK"],
        local_rank=number["LOCAL_RANK"],
        size=number["WORLD_SIZE"],
        local_size=number["LOCAL_WORLD_SIZE"] or number["WORLD_SIZE"],
        restarts=number["TORCHELASTIC_RESTART_COUNT"],
        self_launched=bool(environment.get(STATUS_VARIABLE)),
        parent=number[PARENT_VARIABLE] if launched else None,
    )


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
        cpu = wanted == "none" or not visible or _true("ACCELERATE_USE_CPU")
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


def visible_devices() -> list[str]:
    """Names of the CUDA devices this process may use, without initializing CUDA."""
    with signals_held():
        import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if named is None:
        return [str(i) for i in range(count)]
    return [name.strip() for name in named.split(",") if name.strip()][:count]


FINISHED = (0, 2)  # exit codes of a run that has answered: 2 with failures


def launch_processes(processes: Processes, arguments: Sequence[str]) -> int:
    """Run `python -m virnucpro ARGUMENTS` in `processes.count` processes through torchrun's API;
    the exit code of the run.

    A process that dies ends the others; the line that says which one and why is raised as
    VirNucProError.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    forced = "--force" in arguments
    # the latter two have levels of their own
    for name in ("elastic", "elastic.agent.server.api", "launcher.api"):
        logging.getLogger(f"torch.distributed.{name}").setLevel(logging.CRITICAL)
    threads = max(1, cores() // processes.count)
    environment = {
        PARENT_VARIABLE: str(os.getpid()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SECONDS_TO_END),
        "PYTHONUNBUFFERED": "1",
    }
    if processes.visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = processes.visible
    if processes.cpu:
        environment["ACCELERATE_USE_CPU"] = "true"
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as status:
        environment[STATUS_VARIABLE] = status
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes.count,
            run_id=f"virnucpro-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=status),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "virnucpro", *arguments)
            return _left_status(Path(status), 0) or 0
        except ChildFailedError as error:
            left = [_left_status(Path(status), rank) for rank in range(processes.count)]
            if left[0] in FINISHED:  # the main process had done everything
                return left[0]
            # one that was well when it left, and failed all the same, has not said why
            left = [code or None for code in left]
            rank, failure = _cause(error.failures, left)
            code = left[rank]
            if code is not None and code > 128:
                raise Interrupted(
                    f"process {rank} of {processes.count} was {stopped(code - 128, forced)}",
                    code - 128,
                ) from None
            if code is not None:  # it ended by itself and has said why
                return code
            killed = failure.exitcode < 0
            how = (
                f"killed by {_signal_name(-failure.exitcode)}"
                if killed
                else f"exit code {failure.exitcode}"
            )
            hint = HINTS.get(-failure.exitcode, "")
            raise VirNucProError(
                f"process {rank} of {processes.count} died: {how}{hint}; the others were stopped;"
                f" {how_to_go_on(forced)}"
            ) from None
        except SignalException as stop:
            raise Interrupted(stopped(int(stop.sigval), forced), int(stop.sigval)) from None
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def stopped(number: int, forced: bool, goes_on: bool = True) -> str:
    """What is said at the end of a run that a signal ended; `goes_on`: by a command that goes on
    where it was.
    """
    return f"stopped by {_signal_name(number)}" + (f"; {how_to_go_on(forced)}" if goes_on else "")


def how_to_go_on(forced: bool) -> str:
    return (
        f"finished work is kept: run the same command again{' without --force' if forced else ''}"
        " to go on"
    )


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _cause(failures: Mapping[int, Any], left: Sequence[int | None]) -> tuple[int, Any]:
    """(rank, failure) that the others followed: one that has said why, else one that died without a
    word, else one that was stopped.
    """

    def order(item: tuple[int, Any]) -> tuple[int, float]:
        code = left[item[0]]
        return (1 if code is None else 2 if code > 128 else 0), item[1].timestamp

    return min(failures.items(), key=order)


def leave_status(code: int, world: World) -> None:
    """Tell our own launcher how this process ended; elsewhere nothing."""
    directory = os.environ.get(STATUS_VARIABLE)
    if directory and Path(directory).is_dir():
        Path(directory, f"{world.rank}.json").write_text(json.dumps({"code": code}))


def _left_status(directory: Path, rank: int) -> int | None:
    path = directory / f"{rank}.json"
    return json.loads(path.read_text())["code"] if path.exists() else None


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


def _true(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes")
