"""What is left to embed: the frame table's unique sequences, less what the stores hold, as one plan
an encoder.

The main process makes a job and writes its plans; the others open them. Knows the frame table's
columns; does not know devices or weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from virnucpro.embedding.plan import MAX_ROWS, Duplicates, Plan, find_duplicates, make_plan
from virnucpro.embedding.store import FeatureStore
from virnucpro.errors import StoreError, UsageError
from virnucpro.models.config import LONGEST_TOKENS
from virnucpro.models.encoders import EncoderEntry
from virnucpro.sequences.table import FrameTable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """One encoder's part of a job, on the main process."""

    duplicates: Duplicates
    store: FeatureStore
    plan: Plan
    taken_up: int = 0  # embeddings that an older program had made


def column(table: FrameTable, name: str) -> np.ndarray:
    """A number column of the frame table, [frames]."""
    table.check()
    return table.frames[name].to_numpy()


def embeddable(table: FrameTable) -> np.ndarray:
    """bool [frames]: no longer than any encoder reads; the others are never truncated silently."""
    fits = np.ones(len(table), dtype=bool)
    for entry in table.encoders:
        if entry.longest is not None:
            fits &= column(table, f"{entry.name}_length") <= entry.longest
    return fits


def longest_tokens(table: FrameTable, encoder: EncoderEntry) -> int:
    """An upper bound on an encoder's sequences that depends on the table alone: its limit, else
    LONGEST_TOKENS or a power of two above.
    """
    if encoder.longest is not None:
        return encoder.longest
    longest = int(column(table, f"{encoder.name}_length").max(initial=1))
    return max(LONGEST_TOKENS, 1 << (longest - 1).bit_length())


def batch_tokens(table: FrameTable, encoder: EncoderEntry, asked: int | None, default: int) -> int:
    """T, the tokens of a packed batch: constant over a run, never below the longest frame.

    By default no more than what as many sequences as a batch may have fill, on average: all of T is
    computed.
    """
    lengths = column(table, f"{encoder.name}_length")[embeddable(table)]
    longest = int(lengths.max()) if len(lengths) else 1
    while len(lengths) and lengths.mean() * MAX_ROWS < default:
        default //= 2
    if asked is not None and asked < longest:
        raise UsageError(
            f"--batch-size {asked}: the longest frame has {longest} tokens; give {longest} or more"
        )
    return asked if asked is not None else max(default, longest)


# store and what it has -> what was added
ImportRows = Callable[[Duplicates, FeatureStore, np.ndarray], np.ndarray]


def make_work(
    table: FrameTable,
    encoder: EncoderEntry,
    store: FeatureStore,
    tokens: int,
    import_rows: ImportRows | None = None,
) -> Work:
    """Verify what `store` holds of `encoder`, let `import_rows` add to it, and plan the rest."""
    key, name = encoder.key, encoder.name
    duplicates = find_duplicates(
        column(table, f"{key}_hi"), column(table, f"{key}_lo"), embeddable(table)
    )
    state = store.load()
    for line in state.damaged:
        log.warning(
            "a stored part of %s is damaged and set aside (%s); its rows are embedded again",
            name,
            line,
        )
    if len(np.setdiff1d(state.done, duplicates.unique, assume_unique=True)):
        raise StoreError(f"{store.directory}: holds rows of other frames; start over with --force")
    if len(state.done):
        log.info(
            "%s: %d of %d embeddings are there already",
            name,
            len(state.done),
            len(duplicates.unique),
        )
    added = (
        import_rows(duplicates, store, state.done)
        if import_rows is not None
        else np.empty(0, dtype=np.int64)
    )
    todo = np.setdiff1d(duplicates.unique, np.union1d(state.done, added), assume_unique=True)
    return Work(
        duplicates,
        store,
        make_plan(todo, column(table, f"{name}_length")[todo], tokens),
        len(added),
    )


class TokenColumn:
    """Callable: frame rows (int64 [n]) -> n arrays of token ids, without a copy. Errors: StoreError
    when the file was cut short.
    """

    def __init__(self, table: FrameTable, encoder: EncoderEntry):
        self._check = table.check
        pieces = [piece for piece in table.frames[f"{encoder.name}_ids"].chunks if len(piece)]
        self._ends = np.cumsum([len(piece) for piece in pieces])
        self._offsets = [piece.offsets.to_numpy() for piece in pieces]
        self._values = [piece.values.to_numpy() for piece in pieces]

    def __call__(self, rows: np.ndarray) -> Sequence[np.ndarray]:
        """The token ids of each of the rows."""
        self._check()
        piece = np.searchsorted(self._ends, rows, side="right")
        first = np.concatenate(([0], self._ends))[piece]
        out = []
        for p, row in zip(piece.tolist(), (rows - first).tolist(), strict=True):
            offsets = self._offsets[p]
            out.append(self._values[p][offsets[row] : offsets[row + 1]])
        return out
