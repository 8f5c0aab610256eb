"""The Accelerator loop: planned batches in, feature rows out, by index.

Every process embeds its share of the planned batches, a part of them at each step, after which
`gather_for_metrics` brings the rows to the main process, which hands them to the store by index.
Knows accelerate; does not know what a sequence means.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch.utils.data import DataLoader, Dataset

from virnucpro.embedding.batches import (
    NO_MEMORY,
    NOT_FINITE,
    PLAIN,
    SPLIT,
    PlannedBatch,
    PlannedBatches,
    embed_or_split,
)
from virnucpro.embedding.group import peers
from virnucpro.embedding.plan import Schedule, make_plan
from virnucpro.embedding.store import FeatureStore
from virnucpro.models.encoder import Encoder
from virnucpro.run.timing import LoopSeconds, Meter

log = logging.getLogger(__name__)

FAILURE_REASONS = {
    NOT_FINITE: "its embedding is not finite, in fp32 neither",
    NO_MEMORY: (
        "does not fit the device's memory, alone neither; use a larger device or a shorter"
        " --chunk-length"
    ),
}
# about ten seconds of a core: more would be lost when a run is killed
CPU_OPERATIONS_BETWEEN_MEETINGS = 5e11
MOST_BATCHES_BETWEEN_MEETINGS = 16  # whatever they cost: all of them are in memory


@dataclass(frozen=True, slots=True)
class Step:
    """What the main process learns from one gathered step: for the progress display."""

    number: int
    of: int
    batches: int  # batches in this step, of all processes
    rows: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Extraction:
    """What happened to the rows of one encoder, known on the main process only."""

    rows: int
    split: int
    recomputed: int
    in_16_bits: int  # sequences too short for the 8 of the run
    failed: dict[int, str]  # representative -> reason
    processes: tuple[LoopSeconds, ...] = ()


@dataclass(frozen=True, slots=True)
class Parts(Dataset):
    """The dataset's items are parts of the schedule, so Accelerate gives whole batches, not
    sequences, to the processes.
    """

    batches: PlannedBatches
    schedule: Schedule

    def __len__(self) -> int:
        return len(self.schedule)

    def __getitem__(self, number: int) -> tuple[PlannedBatch, ...]:
        return tuple(self.batches[batch] for batch in self.schedule.part(number))


def extract(
    accelerator: Accelerator,
    encoder: Encoder,
    batches: PlannedBatches,
    store: FeatureStore | None,
    on_step: Callable[[Step], None] = lambda _: None,
) -> Extraction:
    """Embed every planned batch once, over all processes; `store` is the main process's, None
    elsewhere.

    Rows that are not finite are computed a second time in fp32, after all others; what stays so
    fails alone.
    """
    short = _shorter(batches, encoder.in_16_bits_below)
    if short and accelerator.is_main_process:
        log.info(
            "%s: %d sequences of fewer than %d tokens are computed in 16 bits: too short for 8",
            encoder.name,
            short,
            encoder.in_16_bits_below,
        )
    first = _pass(accelerator, encoder, encoder.embed, batches, store, on_step)
    with peers():
        processes = tuple(gather_object([first.seconds]))
        # the main process's word comes last: after it the others may leave the group
        again = broadcast_object_list(
            [sorted(r for r, how in first.lost.items() if how == NOT_FINITE)]
        )[0]
    second = Pass()
    if again:
        log.warning("%d embeddings are not finite: computing them again in fp32", len(again))
        rows = np.asarray(again, dtype=np.int64)
        lengths = np.array([len(ids) for ids in batches.token_ids(rows)])
        # one size for all runs, whichever rows are left in this one
        plan = make_plan(rows, lengths, batches.longest)
        second = _pass(
            accelerator, encoder, encoder.recompute_fp32, replace(batches, plan=plan), store
        )
    lost = {row: how for row, how in first.lost.items() if how != NOT_FINITE} | second.lost
    failed = {row: FAILURE_REASONS[how] for row, how in lost.items()}
    return Extraction(
        first.kept + second.kept, first.split + second.split, second.kept, short, failed, processes
    )


def _shorter(batches: PlannedBatches, tokens: int) -> int:
    """How many of the planned sequences, which are sorted, have fewer than `tokens` tokens."""
    rows = batches.plan.rows if tokens else ()
    return len(rows) - bisect_left(
        rows, True, key=lambda row: len(batches.token_ids(np.array([row]))[0]) < tokens
    )


@dataclass(slots=True)
class Pass:
    """Counts of one way through the batches, on the main process; `seconds` on every process."""

    seconds: LoopSeconds = field(default_factory=LoopSeconds)
    kept: int = 0
    split: int = 0
    lost: dict[int, int] = field(default_factory=dict)  # representative -> NOT_FINITE or NO_MEMORY

    def keep(self, store: FeatureStore, copies: tuple[torch.Tensor, ...]) -> None:
        """Drop padding, set lost rows aside, and hand the others to the store, by index."""
        index, how, rows = (
            copies[0].flatten().numpy(),
            copies[2].flatten().numpy(),
            copies[1].flatten(0, 1).numpy(),
        )
        lost = (index >= 0) & (how >= NOT_FINITE)
        good = (index >= 0) & ~lost
        self.lost.update(zip(index[lost].tolist(), how[lost].tolist(), strict=True))
        self.kept += int(good.sum())
        self.split += int((how[good] == SPLIT).sum())
        store.add(index[good], rows[good])


def _pass(
    accelerator, encoder: Encoder, embed, batches: PlannedBatches, store, on_step=lambda _: None
) -> Pass:
    result = Pass()
    if len(batches) == 0:
        return result
    device, processes = accelerator.device, accelerator.num_processes
    schedule = Schedule.of(
        batches.plan,
        processes,
        batches_between_meetings(device, encoder.weights, batches.plan.tokens),
    )
    loader = accelerator.prepare(
        DataLoader(
            Parts(batches, schedule),
            batch_size=1,
            collate_fn=_only,
            pin_memory=device.type == "cuda",
        )
    )
    meter = Meter(device)
    waiting = None
    with torch.inference_mode():
        for number, part in enumerate(loader):
            meter.mark()
            done = [
                (batch.index, *embed_or_split(embed, encoder.width, batch, batches))
                for batch in part
            ]
            mine = tuple(
                map(
                    partial(_padded, schedule.room_at(number)),
                    zip(*done, strict=True),
                    (-1, 0.0, PLAIN),
                )
            )
            # Gathered before the loader advances: what is trimmed depends on the loader's state.
            # Only the copy to the host lags one step, so that the device is not idle while the
            # store writes.
            meter.mark()
            with peers():
                gathered = accelerator.gather_for_metrics(mine)
            meter.mark()
            if accelerator.is_main_process:
                ready = _to_host(gathered)
                if waiting is not None:
                    result.keep(store, _wait(waiting))
                waiting = ready
                count, rows = schedule.at(number)
                on_step(Step(number + 1, len(loader), count, rows, batches.plan.tokens * count))
    if waiting is not None:
        result.keep(store, _wait(waiting))
    if store is not None:
        store.flush()
    result.seconds = meter.seconds()
    return result


def batches_between_meetings(device: torch.device, weights: int, tokens: int) -> int:
    """How many batches of `tokens` tokens a process embeds before it meets the others, for a model
    of `weights` numbers.

    On a GPU one. CPU cores that a host shares out are by turns the slower one, and the longer the
    stretch, the less it is.
    """
    if device.type == "cuda":
        return 1
    return min(
        int(CPU_OPERATIONS_BETWEEN_MEETINGS / (2 * weights * tokens)), MOST_BATCHES_BETWEEN_MEETINGS
    )


def _only(items: list[PlannedBatch]) -> PlannedBatch:
    return items[0]


def _padded(rows: int, values: Sequence[torch.Tensor], filling: float) -> torch.Tensor:
    """[1, rows, ...] of all `values` [n, ...], together no more than `rows`: every process gathers
    the same shape.
    """
    out = values[0].new_full((1, rows, *values[0].shape[1:]), filling)
    torch.cat(list(values), out=out[0, : sum(map(len, values))])
    return out


def _to_host(gathered: tuple[torch.Tensor, ...]):
    """Start the copy to the host; `_wait` ends it."""
    if gathered[0].device.type != "cuda":
        return gathered, None
    copies = tuple(
        torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True)
        for t in gathered
    )
    event = torch.cuda.Event()
    event.record()
    return copies, event


def _wait(waiting) -> tuple[torch.Tensor, ...]:
    copies, event = waiting
    if event is not None:
        event.synchronize()
    return copies
