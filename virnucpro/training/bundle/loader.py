"""Batches from worker processes, and their way onto the device."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from virnucpro.training.bundle.batches import Batch, BatchMaker, PackedTokens
from virnucpro.training.bundle.encoders import TokenTensors
from virnucpro.training.bundle.network import NetworkInput


class Batches(torch.utils.data.IterableDataset):
    """Endless batches; every worker has its own random numbers. `skip` (the step at which a run is
    resumed) makes it go on with other ones.
    """

    def __init__(self, maker: BatchMaker, seed: int, skip: int = 0):
        self.maker, self.seed, self.skip = maker, seed, skip

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, 0, worker.id if worker else 0, self.skip])
        while True:
            yield self.maker.draw(rng)


def as_is(batch: Any) -> Any:
    """Collates nothing: a batch is made as a whole."""
    return batch


def ignore_sigint(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, and only the main one may act on it: a worker
    that it ends delays the end by 5 seconds.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def loader(dataset: Any, workers: int) -> torch.utils.data.DataLoader:
    """Batches as they are: numpy arrays travel by pipe, since shared memory may be small."""
    # more workers than cores: they only wait longer
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    if not workers:
        return torch.utils.data.DataLoader(dataset, batch_size=None, collate_fn=as_is)
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        collate_fn=as_is,
        prefetch_factor=4,
        persistent_workers=True,
        worker_init_fn=ignore_sigint,
    )


def tensor_on(device: torch.device, array: np.ndarray) -> torch.Tensor:
    """On the device; a GPU gets it from pinned memory, so that neither waits for the other."""
    tensor, on_gpu = torch.from_numpy(array), device.type == "cuda"
    return (tensor.pin_memory() if on_gpu else tensor).to(device, non_blocking=on_gpu)


def tokens_on(device: torch.device, packed: PackedTokens) -> TokenTensors:
    """Packed tokens on the device, indices as int64."""
    tokens, segment, pooled, scale, masked, target = (tensor_on(device, a) for a in packed)
    return TokenTensors(tokens.long(), segment.long(), pooled, scale, masked.long(), target.long())


def input_on(device: torch.device, batch: Batch) -> NetworkInput:
    """What the network is given of a batch."""
    esm2, dnabert_s = tokens_on(device, batch.esm2), tokens_on(device, batch.dnabert_s)
    return NetworkInput(esm2, dnabert_s, batch.n_frames, len(batch.virus))
