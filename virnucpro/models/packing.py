"""Several token sequences end to end in one row of a constant number of tokens, and the means taken
back out of it.

Knows how a packed batch is laid out: real sequences first, sorted by length, then a dummy tail.
Does not know what the tokens mean nor how attention keeps the sequences apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import pad

from virnucpro.models.config import LONGEST_TOKENS

MAX_ROWS = 1024


class LengthGroup(NamedTuple):
    """Neighbouring sequences of equal length in a packed batch: its rows
    `start : start + sequences * length`.
    """

    start: int
    sequences: int
    length: int


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A packed batch of T tokens, S = `rows` sequences."""

    tokens: torch.Tensor  # int64 [T]; the tail after the last sequence holds `pad_id`
    positions: torch.Tensor  # int64 [T]; 0.. within each sequence, and each piece of the tail
    # int32 [constant]: bounds of the sequences, then of the tail's pieces, then T repeated
    cu_seqlens: torch.Tensor
    # no sequence and no piece of the tail is longer; the same for every batch of a run
    max_length: int
    lengths: tuple[int, ...]  # S, in packed order (ascending)
    order: torch.Tensor  # int64 [S]: the caller's row of each packed sequence
    groups: tuple[LengthGroup, ...]  # the packed sequences by equal length

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return len(self.lengths)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        """The batch on `device`."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedBatch:
        """The batch in memory from which a GPU copies without waiting."""
        return self._moved(torch.Tensor.pin_memory)

    def _moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> PackedBatch:
        return replace(
            self,
            tokens=move(self.tokens),
            positions=move(self.positions),
            cu_seqlens=move(self.cu_seqlens),
            order=move(self.order),
        )


def pack(
    sequences: Sequence[np.ndarray],
    tokens: int,
    pad_id: int,
    max_length: int = LONGEST_TOKENS,
    max_rows: int = MAX_ROWS,
) -> PackedBatch:
    """Pack token id arrays (each 1-D, with its special tokens) into `tokens` tokens.

    Sequences are laid out by length, so that equal lengths are neighbours and attention over a
    group needs no copy. The embedding of a sequence does not depend on where it lies. Raises
    ValueError when they do not fit: planning batches is the caller's work.
    """
    lengths = np.fromiter((len(ids) for ids in sequences), np.int64, len(sequences))
    if len(lengths) == 0 or lengths.min() < 1:
        raise ValueError("a packed batch needs sequences, each of at least one token")
    used = int(lengths.sum())
    if used > tokens or len(lengths) > max_rows or lengths.max() > max_length:
        raise ValueError(
            f"{len(lengths)} sequences of {used} tokens, the longest {lengths.max()}, do not fit a"
            f" batch of {tokens} tokens, {max_rows} rows and {max_length} tokens a sequence"
        )
    order = np.argsort(lengths, kind="stable")
    ids = np.full(tokens, pad_id, np.int64)
    np.concatenate([sequences[i] for i in order], out=ids[:used], casting="unsafe")
    tail = [min(max_length, tokens - start) for start in range(used, tokens, max_length)]
    pieces = np.concatenate([lengths[order], np.array(tail, np.int64)])
    ends = np.cumsum(pieces)
    bounds = np.full(max_rows + -(-tokens // max_length) + 2, tokens, np.int32)
    bounds[0] = 0
    bounds[1 : len(ends) + 1] = ends
    positions = np.arange(tokens, dtype=np.int64) - np.repeat(ends - pieces, pieces)
    packed_lengths = tuple(lengths[order].tolist())
    return PackedBatch(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(bounds),
        max_length,
        packed_lengths,
        torch.from_numpy(order),
        length_groups(packed_lengths),
    )


FEWEST_ROWS = 1024
# a multiple of the row blocks (4, 6, 8, 16, 24, 48) of the CPU libraries' product kernels
ROW_BLOCK = 48
BLOCKS_IN_CACHE = 11  # of a thread; a megabyte of the widest layer of `mini` in bf16


def even_rows(batch: PackedBatch, pad_id: int) -> PackedBatch:
    """On the CPU, `batch` with a tail just long enough that its tokens are a multiple of ROW_BLOCK
    for every thread.

    The library cuts a product's rows evenly among its threads, and computes the odd rows at the end
    of a share with another kernel: a token there would have other last bits than elsewhere (seen
    with 3 threads at 4,096 tokens). With even shares the bits do not depend on the number of rows,
    so no tail need be computed for a constant shape.
    """
    if batch.tokens.device.type != "cpu":
        return batch
    rows = max(sum(batch.lengths), min(len(batch.tokens), FEWEST_ROWS))
    more = rows + -rows % (ROW_BLOCK * torch.get_num_threads()) - len(batch.tokens)
    # a negative pad cuts
    return replace(
        batch,
        tokens=pad(batch.tokens, (0, more), value=pad_id),
        positions=pad(batch.positions, (0, more)),
    )


def row_blocks(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """On the CPU, `rows` [T, ...] (T as `even_rows` makes it) in blocks whose intermediate results
    stay in the cache, each with even shares for the threads; elsewhere in one.
    """
    if rows.device.type != "cpu":
        return (rows,)
    return rows.split(BLOCKS_IN_CACHE * ROW_BLOCK * torch.get_num_threads())


def length_groups(lengths: Sequence[int]) -> tuple[LengthGroup, ...]:
    """Groups of equal neighbours of `lengths`, with the packed row where each begins."""
    groups, start = [], 0
    for length, members in groupby(lengths):
        count = sum(1 for _ in members)
        groups.append(LengthGroup(start, count, length))
        start += count * length
    return tuple(groups)


def pool(hidden: torch.Tensor, batch: PackedBatch, skip: int) -> torch.Tensor:
    """Mean of `hidden` [T, W] over each sequence without its first and last `skip` tokens.

    Returns fp32 [rows, W] in the order given to `pack`.

    One thread adds a column of a sequence from its first token to its last (`segment_reduce`), so
    the bits depend on neither the neighbours nor the place in the batch, and no atomic add is
    involved.
    """
    bounds = batch.cu_seqlens[: batch.rows + 1].long()
    starts, ends = bounds[:-1] + skip, bounds[1:] - skip
    # segments alternate: a sequence's own tokens, then what lies between it and the next
    offsets = torch.stack((starts, ends), dim=1).flatten()
    sums = torch.segment_reduce(hidden.float(), "sum", offsets=offsets, axis=0, unsafe=True)[::2]
    means = sums / (ends - starts).unsqueeze(1)
    out = torch.empty_like(means)
    out[batch.order] = means
    return out
