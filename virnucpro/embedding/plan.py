"""Which sequences go to an encoder, in which order, in which batches.

A plan is made once by the main process and read by all. It knows lengths and content keys, not text
and not processes: identical sequences are embedded once, under the row of the first frame that has
them (their representative), and the batches do not depend on the number of processes. A batch is
the unit of work and of failure; a row is the unit of resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from virnucpro.files import checksum

MAX_ROWS = 1024  # sequences in one batch: bounds the rows that travel in one gather


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Who shares an embedding with whom.

    representative: int64 [frames], the row of the first frame with the same sequence; -1 where the
    encoder takes none. unique: int64 [u], the representatives, ascending.
    """

    representative: np.ndarray
    unique: np.ndarray


@dataclass(frozen=True, slots=True)
class Plan:
    """Batches of representatives: batch b holds rows[offsets[b]:offsets[b + 1]], at most `tokens`
    tokens together.
    """

    rows: np.ndarray  # int64 [n], longest first
    offsets: np.ndarray  # int64 [batches + 1]
    tokens: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def batch(self, number: int) -> np.ndarray:
        """int64 [n]: the rows of the batch `number`."""
        return np.asarray(self.rows[self.offsets[number] : self.offsets[number + 1]])

    def save(self, directory: Path, name: str) -> Path:
        """Write the plan below `directory`, in a folder that is named by the plan's content."""
        folder = directory / f"{name}-{self._digest()}"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "rows.npy", self.rows)
        np.save(folder / "offsets.npy", np.append(self.offsets, self.tokens))
        return folder

    @classmethod
    def open(cls, folder: Path) -> Plan:
        """The plan in `folder`. Raises OSError or ValueError while it is not, or not yet, whole."""
        offsets = np.load(folder / "offsets.npy")
        plan = cls(np.load(folder / "rows.npy", mmap_mode="r"), offsets[:-1], int(offsets[-1]))
        if not folder.name.endswith(plan._digest()):
            raise ValueError("the plan is not the one its name stands for")
        return plan

    def _digest(self) -> str:
        arrays = np.ascontiguousarray(self.rows), np.ascontiguousarray(self.offsets)
        return checksum(*arrays, str(self.tokens).encode())


# in a run that has the batches: what a kill loses is a small part, and progress shows
FEWEST_MEETINGS = 8


@dataclass(frozen=True, slots=True)
class Schedule:
    """A plan's batches as parts of one or several neighbours, dealt to the processes in turn; after
    each part all meet.

    Part p holds the batches bounds[p]:bounds[p + 1]. Parts differ by one batch at most, and the
    processes have equally many; where there are fewer batches than processes, Accelerate repeats
    parts from the first on.
    """

    plan: Plan
    bounds: np.ndarray  # int64 [parts + 1]
    processes: int

    @classmethod
    def of(cls, plan: Plan, processes: int, most: int = 1) -> Schedule:
        """Parts of `most` batches or fewer."""
        share = -(-len(plan) // processes)  # of a process, in batches
        steps = -(-share // max(1, min(most, share // FEWEST_MEETINGS)))
        parts = min(len(plan), steps * processes)
        size, larger = divmod(len(plan), parts)
        numbers = np.arange(parts + 1)
        return cls(plan, numbers * size + np.minimum(numbers, larger), processes)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def part(self, number: int) -> range:
        """The batches of a part."""
        return range(int(self.bounds[number]), int(self.bounds[number + 1]))

    def at(self, step: int) -> tuple[int, int]:
        """(batches, rows) of all processes at `step`, without repeated ones."""
        first, end = self.bounds[
            [step * self.processes, min((step + 1) * self.processes, len(self))]
        ]
        return int(end - first), int(self.plan.offsets[end] - self.plan.offsets[first])

    def room_at(self, step: int) -> int:
        """Rows to make room for when the parts of `step` are gathered: those of the largest,
        repeated ones included.
        """
        parts = np.arange(step * self.processes, (step + 1) * self.processes) % len(self)
        return int(
            (
                self.plan.offsets[self.bounds[parts + 1]] - self.plan.offsets[self.bounds[parts]]
            ).max()
        )


def find_duplicates(key_hi: np.ndarray, key_lo: np.ndarray, accepted: np.ndarray) -> Duplicates:
    """Group frames by their 128-bit content key (uint64 halves, [frames]); `accepted` [frames]
    bool: the encoder takes it.
    """
    frames = len(key_hi)
    representative = np.full(frames, -1, dtype=np.int64)
    rows = np.flatnonzero(accepted)
    if len(rows) == 0:
        return Duplicates(representative, np.empty(0, dtype=np.int64))
    order = rows[np.lexsort((key_lo[rows], key_hi[rows]))]  # stable: equal keys stay in row order
    first = np.empty(len(order), dtype=bool)
    first[0] = True
    first[1:] = (key_hi[order[1:]] != key_hi[order[:-1]]) | (
        key_lo[order[1:]] != key_lo[order[:-1]]
    )
    representative[order] = order[first][np.cumsum(first) - 1]
    return Duplicates(representative, np.sort(order[first]))


def make_plan(todo: np.ndarray, lengths: np.ndarray, tokens: int, max_rows: int = MAX_ROWS) -> Plan:
    """Pack the representatives `todo` (int64 rows) with `lengths` (tokens, same shape) into
    batches, longest first.

    Longest first: memory is at its highest in the first batch, and the last batches, which may be
    uneven, are cheap. Raises ValueError when a sequence is longer than a batch; the caller checks
    that first.
    """
    if len(todo) and int(lengths.max()) > tokens:
        raise ValueError(
            f"a sequence of {int(lengths.max())} tokens does not fit a batch of {tokens}"
        )
    order = np.lexsort((todo, -lengths.astype(np.int64)))
    rows, ends = todo[order].astype(np.int64), np.cumsum(lengths[order], dtype=np.int64)
    offsets, at, used = [0], 0, 0
    while at < len(rows):
        at = min(int(np.searchsorted(ends, used + tokens, side="right")), at + max_rows)
        used = int(ends[at - 1])
        offsets.append(at)
    return Plan(rows, np.asarray(offsets, dtype=np.int64), tokens)
