"""A run in several processes of our own: they are started, watched, and ended together.

torchrun would do it too, but what its processes meet in listens on every network interface and asks
nobody for a password. Ours listens on this machine only. Does not know what the processes compute.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from virnucpro.errors import Interrupted, VirNucProError
from virnucpro.launch import (
    INTERFACE_VARIABLE,
    PARENT_VARIABLE,
    cores,
    resume_hint,
    signal_name,
    stopped,
)
from virnucpro.run.processes import Processes
from virnucpro.run.stopping import signals_held

LOOPBACK = "127.0.0.1"
SECONDS_TO_END = 20.0
POLL_SECONDS = 0.05
FINISHED = (0, 2)  # exit codes of a run that has answered: 2 with failures
HINTS: dict[int, str] = {
    signal.SIGKILL: " (out of host memory?)",
    signal.SIGBUS: " (a file of the run was cut short, or its disk failed?)",
}
# A worker sees the modules that this process sees, and none of the current directory, where a file
# random.py would be taken for Python's own. (`python -P` does the same from Python 3.11 on.)
PROGRAM = "import sys; sys.path[:] = {path!r}; from virnucpro.cli import main; main()"


def launch_processes(
    processes: Processes, options: Sequence[str], inputs: Sequence[str] = ()
) -> int:
    """Run `virnucpro OPTIONS -- INPUTS` in `processes.count` processes; the exit code of the run.

    A process that fails ends the others. Where a signal ended it, so that it could not say why,
    this raises VirNucProError, or Interrupted where the signal asked it to stop. However this
    function is left, no process is left behind.
    """
    from torch.distributed import TCPStore

    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    # lives in this process: it outlasts whichever of the others dies
    store = TCPStore(
        LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )
    program = PROGRAM.format(path=module_path())
    command = [sys.executable, "-c", program, *options, "--", *inputs]
    started: list[subprocess.Popen] = []
    try:
        for rank in range(processes.count):
            # a session each: an interrupt at the terminal reaches them through this process, once
            started.append(
                subprocess.Popen(
                    command,
                    env=os.environ | _worker_environment(processes, rank, port),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        codes = _wait(started)
    finally:
        with signals_held():
            _end(started)
        del store
    if codes[0] in FINISHED:  # the main process had done everything
        return codes[0]
    return _failed(codes, "--force" in options)


def module_path() -> list[str]:
    """sys.path for a new process: without the current directory and the folder of the script that
    is running, unless this package lies there.
    """
    package = Path(__file__).resolve().parents[2]
    script = getattr(sys.modules["__main__"], "__file__", None)
    unsafe = {Path.cwd().resolve(), Path(script).resolve().parent if script else None} - {package}
    return [entry for entry in sys.path if entry and Path(entry).resolve() not in unsafe]


def _worker_environment(processes: Processes, rank: int, port: int) -> dict[str, str]:
    """What a process of our own launch is told, besides the environment of this one."""
    threads = max(1, cores() // processes.count)
    variables = {
        PARENT_VARIABLE: str(os.getpid()),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes.count),
        "LOCAL_WORLD_SIZE": str(processes.count),
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there already
        "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # for what the workers start in their turn
    }
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback:  # gloo and NCCL listen too
        variables |= {INTERFACE_VARIABLE: loopback, "NCCL_SOCKET_IFNAME": loopback}
    if processes.visible is not None:
        variables["CUDA_VISIBLE_DEVICES"] = processes.visible
    if processes.cpu:
        variables["ACCELERATE_USE_CPU"] = "true"
    return variables


def _wait(started: Sequence[subprocess.Popen]) -> list[int | None]:
    """Exit codes when all have ended, or one has failed; None of those that still run."""
    while True:
        codes = [process.poll() for process in started]
        if None not in codes or any(code not in (None, *FINISHED) for code in codes):
            return codes
        time.sleep(POLL_SECONDS)


def _end(started: Sequence[subprocess.Popen]) -> None:
    """End what still runs: first in good order, so that it keeps its finished work."""
    running = [process for process in started if process.poll() is None]
    for process in running:
        process.terminate()
    patience = time.monotonic() + SECONDS_TO_END
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, patience - time.monotonic()))
    for process in started:  # with what they have started
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _failed(codes: Sequence[int | None], forced: bool) -> int:
    """The exit code of a run in which a process failed and has said why itself; else raise."""

    def order(item: tuple[int, int]) -> int:
        return 0 if 0 < item[1] < 128 else 1 if item[1] < 0 else 2

    ended = {
        rank: code for rank, code in enumerate(codes) if code is not None and code not in FINISHED
    }
    rank, code = min(ended.items(), key=order)
    who = f"process {rank} of {len(codes)}"
    if code > 128:
        raise Interrupted(f"{who} was {stopped(code - 128, forced)}", code - 128)
    if code > 0:
        return code
    raise VirNucProError(
        f"{who} died: killed by {signal_name(-code)}{HINTS.get(-code, '')}; the others were"
        f" stopped; {resume_hint(forced)}"
    )
