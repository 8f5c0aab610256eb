"""Large inputs are read by a process beside while the main process still imports torch.

Knows which rules and tokenizers a run reads with. The process beside builds the same cached table
under the same lock, and whoever wants it then waits for that. It has nothing to report: where it
fails or is ended, the main process reads, and says why it cannot. A program started anew and not a
fork, as numpy's threads run by the time there is something to read.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType

from virnucpro.errors import UsageError, VirNucProError
from virnucpro.launch import World, cores
from virnucpro.models.bundle import Bundle, resolve_bundle
from virnucpro.run.stopping import SIGNALS
from virnucpro.run.workers import module_path
from virnucpro.sequences.frame_columns import FrameRules
from virnucpro.sequences.inputs import InputFile
from virnucpro.sequences.table import FrameTable, fingerprint_of
from virnucpro.sequences.table_cache import (
    build_ahead,
)
from virnucpro.sequences.tokens import Tokenizers
from virnucpro.settings import PredictSettings

log = logging.getLogger(__name__)

WINDOWS_OVER_A_BASE = 20  # closer ones say nothing more of a region and multiply the work
# bytes of input; of fewer, reading takes no longer than starting the process that reads them
LARGE = 8 << 20
# the process beside, by the name it leaves in the table; our own launch hands it on
BUILDER_VARIABLE = "VIRNUCPRO_BUILDER"
SECONDS_TO_END = 5.0
PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from virnucpro.run.ahead import read_beside; read_beside()"
)


def whole_fingerprint(table: FrameTable, bundle: Bundle) -> str:
    """The fingerprint of the table that the shards of `table` make together."""
    hashes = [file["sha256"] for file in table.inputs]
    return fingerprint_of(hashes, replace(table.rules, shard=""), bundle.tokenizers)


@contextmanager
def reading_ahead(settings: PredictSettings, world: World) -> Iterator[None]:
    """While entered, a process beside reads large inputs.

    It ends when it is done, with this context, or with this process.
    """
    large = not settings.no_cache and _are_large(settings.inputs)
    begun_already = world.self_launched and BUILDER_VARIABLE in os.environ
    if not world.is_main or begun_already or cores() < 2 or not large:
        yield
        return
    os.environ[BUILDER_VARIABLE] = uuid.uuid4().hex
    process = None
    try:
        with suppress(OSError):
            process = _start(settings)
        yield
    finally:
        os.environ.pop(BUILDER_VARIABLE, None)
        if process is not None:
            _end(process)


def read_beside() -> None:
    """The program of the process beside: what to read comes through standard input, whose end is
    the end of its parent.
    """
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    settings = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(VirNucProError):
        bundle, _ = resolve_bundle(settings.model)
        build_ahead(
            *what_to_read(settings, bundle), settings.cache_dir, os.environ[BUILDER_VARIABLE]
        )


def check_stride(settings: PredictSettings, bundle: Bundle) -> None:
    """Raise UsageError where the windows of `--stride` would not overlap, or be too many."""
    least = bundle.chunk_length // WINDOWS_OVER_A_BASE
    if settings.stride and not least <= settings.stride < bundle.chunk_length:
        raise UsageError(
            f"--stride {settings.stride}: windows of {bundle.chunk_length} bases are to overlap, up"
            f" to {WINDOWS_OVER_A_BASE} of them; give {least} to {bundle.chunk_length - 1}"
        )


def what_to_read(
    settings: PredictSettings, bundle: Bundle
) -> tuple[Sequence[InputFile], FrameRules, Tokenizers]:
    """The inputs, the rules that cut them into frames, and the tokenizers. Errors: UsageError for
    a wrong stride.
    """
    check_stride(settings, bundle)
    rules = FrameRules(
        bundle.chunk_length,
        bundle.frame_policy,
        settings.min_length,
        settings.stride,
        settings.shard,
    )
    return settings.inputs, rules, bundle.tokenizers


def _are_large(inputs: Sequence[InputFile]) -> bool:
    """Whether reading them takes long. One that cannot be read makes a table that is not cached."""
    size = 0
    for file in inputs:
        with suppress(OSError):
            status = file.path.stat()
            if not stat.S_ISREG(status.st_mode):
                return False
            size += status.st_size
    return size >= LARGE


def _start(settings: PredictSettings) -> subprocess.Popen:
    """It sees the modules that this process sees but none of the current directory, fetches no
    model, and is silent.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(path=module_path())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    log.debug("reading ahead in process %d", process.pid)
    # else `ps` shows it as defunct until the run ends
    threading.Thread(target=process.wait, daemon=True).start()
    assert process.stdin is not None
    with suppress(OSError):  # it has ended
        pickle.dump(settings, process.stdin)
        process.stdin.flush()
    return process


def _end(process: subprocess.Popen) -> None:
    assert process.stdin is not None
    with suppress(OSError):  # what it never took
        process.stdin.close()
    process.terminate()
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _leave(number: int, _: FrameType | None) -> None:
    for other in SIGNALS:  # a second one would disturb what the first has begun to put away
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    """A half-built table is removed on the way out, if that is to be had."""
    with suppress(OSError):
        os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_END)
    os._exit(1)
