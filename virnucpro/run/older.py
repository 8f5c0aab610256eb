"""What an older program left in the output directory, for a run: found, and compared with what
this run's model computes before it is believed.
"""

from __future__ import annotations

import logging
from contextlib import suppress

import numpy as np
import torch

from virnucpro.embedding.older import OlderWork, find_older_work, import_older_rows, same_model
from virnucpro.embedding.work import (
    ImportRows,
    TokenColumn,
    longest_tokens,
)
from virnucpro.errors import StoreError
from virnucpro.models.encoder import Encoder
from virnucpro.models.encoders import EncoderEntry
from virnucpro.models.packing import pack
from virnucpro.run.preload import load_encoder
from virnucpro.run.session import Run
from virnucpro.sequences.table import FrameTable

log = logging.getLogger(__name__)


def older_work(run: Run) -> OlderWork | None:
    """What an older program left in the output directory; taken up with `--resume` only."""
    if run.settings.resume:
        return find_older_work(run.settings.output_dir)
    with suppress(StoreError):
        if found := find_older_work(run.settings.output_dir):
            log.info("%s: with --resume it would be taken up", found)
    return None


def older_rows(
    entry: EncoderEntry, table: FrameTable, older: OlderWork | None, run: Run
) -> ImportRows | None:
    """How `make_work` gets an encoder's rows out of `older`, with this run's model to compare them
    with.
    """
    if older is None:
        return None
    token_ids, longest = TokenColumn(table, entry), longest_tokens(table, entry)
    loaded: list[Encoder] = []

    @torch.inference_mode()
    def embed(rows: np.ndarray) -> np.ndarray:
        if not loaded:
            loaded.append(load_encoder(entry, run))
        parts = []
        for row in rows.tolist():
            batch = pack(token_ids(np.array([row])), longest, loaded[0].pad_id, max_length=longest)
            parts.append(loaded[0].embed(batch.to(run.device)).cpu().numpy())
        return np.concatenate(parts)

    def agrees(rows: np.ndarray, old: np.ndarray) -> bool:
        return same_model(old, embed(rows), run.settings.precision)

    return lambda duplicates, store, done: import_older_rows(
        older, entry.name, table, run.bundle.widths, duplicates, store, done, agrees
    )
