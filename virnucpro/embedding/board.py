"""A word from the main process to the others that may take hours to come, without a collective
waiting on it.

Collectives time out after minutes, which is what keeps a dead process from hanging a run; the store
behind the process group waits as long as it is told to. Knows torch.distributed's errors; does not
know what the notes say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from virnucpro.errors import VirNucProError

PATIENCE = timedelta(days=30)
PATIENCE_FOR_READERS = timedelta(seconds=30)
BROKEN_CONNECTION = (
    "gloo",
    "Connection closed",
    "Connection reset",
    "Broken pipe",
    "ncclRemoteError",
    "ncclSystemError",
)


class PeerLost(VirNucProError):
    """Another process of the run is gone: nothing more can be gathered."""


class Board:
    """Notes by name; in a single process nobody else reads them."""

    def __init__(self) -> None:
        self._store = dist.distributed_c10d._get_default_store() if dist.is_initialized() else None
        self._others = dist.get_world_size() - 1 if dist.is_initialized() else 0

    def post(self, name: str, note: dict[str, Any]) -> None:
        if self._store is not None:
            self._store.set(_key(name), json.dumps(note))

    def wait_for_readers(self, name: str) -> None:
        """Before the main process ends early: the notes may live in it, and would be gone
        with it.
        """
        if self._others:
            with suppress(RuntimeError):  # a reader that is gone needs no waiting for
                self._store.wait([_key(name) + "/read"], PATIENCE_FOR_READERS)

    def read(self, name: str) -> dict[str, Any]:
        """Wait for the note. Raises PeerLost when the main process is gone."""
        with peers():
            self._store.wait([_key(name)], PATIENCE)
            note = json.loads(self._store.get(_key(name)))
            if self._store.add(_key(name) + "/readers", 1) == self._others:
                self._store.set(_key(name) + "/read", "all")
        return note


@contextmanager
def peers() -> Iterator[None]:
    """Around a collective: a broken connection becomes PeerLost, other errors stay what
    they are.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(
            word in str(error) for word in BROKEN_CONNECTION
        ):
            raise PeerLost("another process of this run is gone") from error
        raise


def _key(name: str) -> str:
    return f"virnucpro/{name}"
