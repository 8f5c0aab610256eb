"""A network brought to its device by a thread, while the device computes something else.

ESM-2 3B is 11 GB to read: that takes as long as embedding a hundred thousand frames with DNABERT-S.
"""
from __future__ import annotations

import logging
import threading
from pathlib import Path

import torch

from virnucpro.models.encoder import Encoder
from virnucpro.models.precision import compute_dtype
from virnucpro.models.weights import weight_files

log = logging.getLogger(__name__)


def fits_beside(directory: Path, device: torch.device) -> bool:
    """Whether the device has room for these weights as they lie on the disk, which is never less than what they will take."""
    return sum(file.stat().st_size for file in weight_files(directory)) < torch.cuda.mem_get_info(device)[0]


class ReadAhead:
    """Begins to read at once; `take` waits for the network and gives it away."""

    def __init__(self, encoder: type[Encoder], directory: Path, device: torch.device, precision: str):
        self._model: torch.nn.Module | None = None
        self._thread = threading.Thread(target=self._read, args=(encoder, directory, device, precision), daemon=True)
        self._thread.start()

    def _read(self, encoder: type[Encoder], directory: Path, device: torch.device, precision: str) -> None:
        try:
            self._model = encoder.read(directory, device, compute_dtype(encoder.own(precision)))
        except Exception as error:  # whatever it is, reading again when its time has come will say it, or go well then
            log.debug("%s was not read ahead: %s", encoder.name, error)

    def take(self) -> torch.nn.Module | None:
        """The network, once; None where it could not be read (no room beside another encoder, a broken file)."""
        self._thread.join()
        model, self._model = self._model, None
        return model
