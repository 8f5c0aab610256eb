"""Planned batches: packed when they are asked for, and embedded, in halves where memory is short.

Does not know of other processes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from virnucpro.embedding.plan import Plan
from virnucpro.models.packing import PackedBatch, pack

log = logging.getLogger(__name__)

# How a row came about; gathered beside the rows, so that the main process can tell.
PLAIN, SPLIT, NOT_FINITE, NO_MEMORY = range(4)
# Libraries below torch report a full memory as a plain RuntimeError.
NO_MEMORY_WORDS = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDA out of memory",
    "DefaultCPUAllocator: can't allocate",
)


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """A planned batch, ready for an encoder. index: int64 [rows]."""

    index: torch.Tensor
    packed: PackedBatch
    sequences: tuple[np.ndarray, ...]

    def to(self, device: torch.device, non_blocking: bool = False) -> PlannedBatch:
        """The batch on `device`."""
        return PlannedBatch(
            self.index.to(device, non_blocking=non_blocking),
            self.packed.to(device, non_blocking=non_blocking),
            self.sequences,
        )

    def pin_memory(self) -> PlannedBatch:
        """So that the copy to a GPU waits for nothing that is computed there; the loader calls
        this.
        """
        return PlannedBatch(self.index.pin_memory(), self.packed.pin_memory(), self.sequences)


@dataclass(frozen=True, slots=True)
class PlannedBatches:
    """The plan's batches, packed when they are asked for."""

    plan: Plan
    token_ids: Callable[[np.ndarray], Sequence[np.ndarray]]  # frame rows -> their token ids
    pad_id: int
    longest: int  # tokens; no sequence of the run is longer

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> PlannedBatch:
        rows = self.plan.batch(number)
        sequences = tuple(self.token_ids(rows))
        packed = pack(sequences, self.plan.tokens, self.pad_id, max_length=self.longest)
        return PlannedBatch(torch.from_numpy(rows.copy()), packed, sequences)


def embed_or_split(
    embed, width: int, batch: PlannedBatch, batches: PlannedBatches
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows [n, width], how [n]) of one batch, on the device; a batch too large for the memory is
    split.
    """
    rows = _unless_no_memory(embed, batch.packed)
    if rows is not None:
        return rows, torch.where(torch.isfinite(rows).all(dim=1), PLAIN, NOT_FINITE)
    rows, halves = _embed_halves(embed, width, batch.sequences, batches, batch.index.device)
    split = torch.tensor(halves, device=rows.device)
    not_finite = ~torch.isfinite(rows).all(dim=1) & (split != NO_MEMORY)
    return rows, torch.where(not_finite, NOT_FINITE, split)


def _embed_halves(
    embed, width: int, sequences, batches: PlannedBatches, device
) -> tuple[torch.Tensor, list[int]]:
    """Embed `sequences` in halves, and those in halves again, down to one sequence; rows and how
    each came about.
    """
    log.warning("out of memory: splitting a batch of %d frames", len(sequences))
    if device.type == "cuda":
        torch.cuda.empty_cache()
    middle = len(sequences) // 2
    done, how = [], []
    for half in (sequences[:middle], sequences[middle:]) if middle else (sequences,):
        rows = _unless_no_memory(embed, _pack_tight(half, batches).to(device))
        if rows is not None:
            kinds = [SPLIT] * len(half)
        elif len(half) > 1:
            rows, kinds = _embed_halves(embed, width, half, batches, device)
        else:
            rows, kinds = torch.zeros(1, width, device=device), [NO_MEMORY]
        done.append(rows)
        how += kinds
    return torch.cat(done), how


def _unless_no_memory(embed, packed: PackedBatch) -> torch.Tensor | None:
    """The rows, or None where memory does not suffice.

    The traceback, which holds the tensors that filled it, is let go.
    """
    try:
        return embed(packed)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(
            word in str(error) for word in NO_MEMORY_WORDS
        ):
            raise
    return None


def _pack_tight(sequences, batches: PlannedBatches) -> PackedBatch:
    """Pack into no more tokens than wanted (a multiple of 16, which the matrix units like)."""
    used = sum(map(len, sequences))
    return pack(sequences, -(-used // 16) * 16, batches.pad_id, max_length=batches.longest)
