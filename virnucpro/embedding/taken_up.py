"""Finished rows of older programs into a store of this run: each file's only after a sample of them
has been embedded again.

Knows what older_checkpoints found and what the store lacks; does not know how a sample is embedded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np

from virnucpro.embedding.older import Counts, OlderWork, read_rows, same_model
from virnucpro.embedding.plan import Sharing
from virnucpro.embedding.store import FeatureStore
from virnucpro.sequences.table import FrameTable

log = logging.getLogger(__name__)

SAMPLE = 16  # rows of a file that are embedded again, the same everywhere in it

Embed = Callable[[np.ndarray], np.ndarray]  # frame rows -> float32 [n, width]


def take_up(
    older: OlderWork,
    encoder: str,
    table: FrameTable,
    widths: Mapping[str, int],
    sharing: Sharing,
    store: FeatureStore,
    done: np.ndarray,
    embed: Embed,
    precision: str,
) -> np.ndarray:
    """Add what `store` lacks and `older` has of `encoder`; the representatives added, int64,
    ascending.

    done: representatives that are there already; widths: of all encoders. Says how many rows were
    taken, and why not the others.
    """
    counts, added, before = Counts(), np.empty(0, dtype=np.int64), done
    for old in read_rows(older, table, widths):
        if old.encoder != encoder:
            continue
        if old.problem:
            log.warning("%s: %s; its rows are embedded anew", old.source, old.problem)
            continue
        counts += old.counts
        keys, first = np.unique(sharing.representative[old.index], return_index=True)
        new = ~np.isin(keys, done)
        keys, first = keys[new], first[new]
        if len(keys) == 0:
            continue
        sample = first[np.unique(np.linspace(0, len(first) - 1, SAMPLE).astype(np.int64))]
        if not same_model(old.rows[sample], embed(old.index[sample]), precision):
            log.warning(
                "%s: %d of its rows embedded again came out otherwise, they are another model's;"
                " all %d are embedded anew",
                old.source,
                len(sample),
                len(keys),
            )
            continue
        store.add(keys, old.rows[first])
        done, added = np.union1d(done, keys), np.union1d(added, keys)
    store.flush()
    log.info("%s: %d embeddings taken up from %s; its rows: %s", encoder, len(added), older, counts)
    return np.setdiff1d(added, before)
