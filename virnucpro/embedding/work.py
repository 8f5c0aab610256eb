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

from virnucpro.embedding.plan import MAX_ROWS, Plan, Sharing, make_plan, share
from virnucpro.embedding.store import FeatureStore
from virnucpro.errors import StoreError, UsageError
from virnucpro.sequences.table import FrameTable

log = logging.getLogger(__name__)

LONGEST_ESM2 = 1024  # tokens: 1,022 residues and two special ones
KEYS = {"dnabert_s": "nucleotide_key", "esm2": "protein_key"}
ENCODERS = tuple(KEYS)  # in the order of the columns of a feature row: nucleotides first


@dataclass(frozen=True, slots=True)
class Work:
    """One encoder's part of a job, on the main process."""

    sharing: Sharing
    store: FeatureStore
    plan: Plan
    taken_up: int = 0  # embeddings that an older program had made


def column(table: FrameTable, name: str) -> np.ndarray:
    """A number column of the frame table, [frames]."""
    table.check()
    return table.frames.data.table[name].to_numpy()


def embeddable(table: FrameTable) -> np.ndarray:
    """bool [frames]: the protein is no longer than ESM-2 was trained on; the others are never
    truncated silently.
    """
    return column(table, "esm2_length") <= LONGEST_ESM2


def longest_tokens(table: FrameTable, encoder: str) -> int:
    """An upper bound on an encoder's sequences that depends on the table alone: 1,024, or a power
    of two above.
    """
    if encoder == "esm2" or len(table) == 0:
        return LONGEST_ESM2
    return max(LONGEST_ESM2, 1 << int(column(table, f"{encoder}_length").max() - 1).bit_length())


def batch_tokens(table: FrameTable, encoder: str, asked: int | None, default: int) -> int:
    """T, the tokens of a packed batch: constant over a run, never below the longest frame.

    By default no more than what as many sequences as a batch may have fill, on average: all of T is
    computed.
    """
    lengths = column(table, f"{encoder}_length")[embeddable(table)]
    longest = int(lengths.max()) if len(lengths) else 1
    while len(lengths) and lengths.mean() * MAX_ROWS < default:
        default //= 2
    if asked is not None and asked < longest:
        raise UsageError(
            f"--batch-size {asked}: the longest frame has {longest} tokens; give {longest} or more"
        )
    return asked if asked is not None else max(default, longest)


# store and what it has -> what was added
ImportRows = Callable[[Sharing, FeatureStore, np.ndarray], np.ndarray]


def make_work(
    table: FrameTable,
    encoder: str,
    store: FeatureStore,
    tokens: int,
    import_rows: ImportRows | None = None,
) -> Work:
    """Verify what `store` holds of `encoder`, let `import_rows` add to it, and plan the rest."""
    key = KEYS[encoder]
    sharing = share(column(table, f"{key}_hi"), column(table, f"{key}_lo"), embeddable(table))
    state = store.load()
    for line in state.damaged:
        log.warning(
            "a stored part of %s is damaged and set aside (%s); its rows are embedded again",
            encoder,
            line,
        )
    if len(np.setdiff1d(state.done, sharing.unique, assume_unique=True)):
        raise StoreError(f"{store.directory}: holds rows of other frames; start over with --force")
    if len(state.done):
        log.info(
            "%s: %d of %d embeddings are there already",
            encoder,
            len(state.done),
            len(sharing.unique),
        )
    added = (
        import_rows(sharing, store, state.done)
        if import_rows is not None
        else np.empty(0, dtype=np.int64)
    )
    todo = np.setdiff1d(sharing.unique, np.union1d(state.done, added), assume_unique=True)
    return Work(
        sharing,
        store,
        make_plan(todo, column(table, f"{encoder}_length")[todo], tokens),
        len(added),
    )


class TokenColumn:
    """Callable: frame rows (int64 [n]) -> n arrays of token ids, without a copy. Errors: StoreError
    when the file was cut short.
    """

    def __init__(self, table: FrameTable, encoder: str):
        self._check = table.check
        pieces = [piece for piece in table.frames.data.table[f"{encoder}_ids"].chunks if len(piece)]
        self._ends = np.cumsum([len(piece) for piece in pieces])
        self._offsets = [piece.offsets.to_numpy() for piece in pieces]
        self._values = [piece.values.to_numpy() for piece in pieces]

    def __call__(self, rows: np.ndarray) -> Sequence[np.ndarray]:
        self._check()
        piece = np.searchsorted(self._ends, rows, side="right")
        first = np.concatenate(([0], self._ends))[piece]
        out = []
        for p, row in zip(piece.tolist(), (rows - first).tolist(), strict=True):
            offsets = self._offsets[p]
            out.append(self._values[p][offsets[row] : offsets[row + 1]])
        return out
