"""Encoders loaded by a thread, one after another, while the process reads sequences and computes
with the one before.

What it takes until a GPU computes (its context, its kernels, transformers itself, 11 GB of weights)
is as long as embedding two hundred thousand frames with DNABERT-S.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from virnucpro.errors import ModelError
from virnucpro.models.encoder import Encoder
from virnucpro.models.encoders import EncoderEntry
from virnucpro.models.weights import weight_files
from virnucpro.reporting.outputs import Outputs
from virnucpro.run.session import Run

log = logging.getLogger(__name__)

# Every operation of torch releases the GIL and waits this long to get it back from a thread that
# imports. With the usual 5 ms the encoder that computes would wait until the next one is loaded.
SECONDS_A_TURN = 5e-5
ROOM_TO_COMPUTE = 3 << 30  # bytes; DNABERT-S's batches take 2 GiB on our own kernels


def fits_beside(directory: Path, device: torch.device) -> bool:
    """Whether the device has room for these weights as they lie on the disk, which is never less
    than what they will take, and for computing with the encoder before them meanwhile.
    """
    return (
        sum(file.stat().st_size for file in weight_files(directory)) + ROOM_TO_COMPUTE
        < torch.cuda.mem_get_info(device)[0]
    )


class Preloader:
    """Begins when entered, in the order of `loaders`; `take` waits for an encoder and gives it
    away. A context, as threads have to end.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], Encoder | None]], device: torch.device):
        # a new thread would launch kernels on the first GPU, not on this process's, which "cuda"
        # means
        here = (
            torch.cuda.current_device()
            if device.type == "cuda" and device.index is None
            else device.index
        )
        self._worker = ThreadPoolExecutor(
            1, "load ahead", *((torch.cuda.set_device, (here,)) if device.type == "cuda" else ())
        )
        self._loaders = loaders
        self._coming: dict[str, Future[Encoder | None]] = {}

    def take(self, name: str) -> Encoder | None:
        """The encoder, once; None where it was not, or could not be loaded: then loading it at its
        time says why, or goes well.
        """
        coming = self._coming.pop(name, None)
        try:
            return coming.result() if coming is not None else None
        except Exception as error:
            log.debug("%s was not loaded ahead: %s", name, error)
            return None

    def __enter__(self) -> Preloader:
        self._seconds_a_turn = sys.getswitchinterval()
        if self._loaders:
            sys.setswitchinterval(SECONDS_A_TURN)
            self._coming = {name: self._worker.submit(load) for name, load in self._loaders.items()}
            self._worker.submit(sys.setswitchinterval, self._seconds_a_turn)  # after the last one
        return self

    def __exit__(self, *_: object) -> None:
        self._coming.clear()
        self._worker.shutdown(cancel_futures=True)
        sys.setswitchinterval(self._seconds_a_turn)


def preload(run: Run) -> Preloader:
    """On a GPU the encoders are loaded from now on, while sequences are read and the first encoder
    computes. Nothing is where the run has finished before or may compare an older run's rows first;
    later encoders are not where the device has no room for them beside the one before.
    """
    finished = Outputs(run.settings.output_dir).run_json.exists() and not run.settings.force
    if run.device.type != "cuda" or run.settings.resume or finished:
        return Preloader({}, run.device)
    import transformers  # noqa: F401 (whole, before a thread goes on with it: libraries look whether it is there, and use what it has)

    first = run.bundle.encoders[0]

    def load(entry: EncoderEntry) -> Encoder | None:
        fits = entry is first or fits_beside(run.bundle.directories[entry.name], run.device)
        return _load(entry, run) if fits else None

    return Preloader(
        {entry.name: partial(load, entry) for entry in run.bundle.encoders}, run.device
    )


def load_encoder(entry: EncoderEntry, run: Run, ahead: Preloader | None = None) -> Encoder:
    """The encoder, as loaded ahead or now. Raises ModelError."""
    name = entry.name
    run.display.stage(f"loading {name}")
    try:
        return (ahead and ahead.take(name)) or _load(entry, run)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{name}: its weights do not fit the memory of {device_name(run.device)}; free it, or"
            " choose another device with --gpus"
        ) from error


def _load(entry: EncoderEntry, run: Run) -> Encoder:
    directory = run.bundle.directories[entry.name]
    return entry.load(directory, run.device, run.settings.precision, run.settings.compile)


def device_name(device: torch.device) -> str:
    """For readers."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
