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
from pathlib import Path

import torch

from virnucpro.models.encoder import Encoder
from virnucpro.models.weights import weight_files

log = logging.getLogger(__name__)

# Every operation of torch gives Python's lock away and waits this long to have it back from a
# thread that imports. By the usual 5 ms the encoder that computes stands still until the next one
# is loaded.
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


class LoadAhead:
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

    def __enter__(self) -> LoadAhead:
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
