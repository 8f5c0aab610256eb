"""A word from the main process to the others that may take hours to come, without a collective waiting on it.

Collectives time out after minutes, which is what keeps a dead process from hanging a run; the store behind the process
group waits as long as it is told to.
"""
from __future__ import annotations

import json
from datetime import timedelta

import torch.distributed as dist

PATIENCE = timedelta(days=30)


class Board:
    """Notes by name; in a single process nobody else reads them."""

    def __init__(self) -> None:
        self._store = dist.distributed_c10d._get_default_store() if dist.is_initialized() else None

    def post(self, name: str, note: dict) -> None:
        if self._store is not None:
            self._store.set(f"virnucpro/{name}", json.dumps(note))

    def read(self, name: str) -> dict:
        """Wait for the note. Raises RuntimeError when the main process is gone."""
        key = f"virnucpro/{name}"
        self._store.wait([key], PATIENCE)
        return json.loads(self._store.get(key))
