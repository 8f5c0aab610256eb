"""Launches that are the same for many batches, recorded as CUDA graphs: then a batch costs the host
one launch, not a hundred.

Every launch releases the GIL, and waits to get it back while another thread imports or loads.
Knows keys, functions that launch, and tables of sequences; does not know what is computed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from contextlib import suppress

import torch
from torch.nn.functional import pad

from virnucpro.errors import one_line
from virnucpro.models.internals import end_recording

log = logging.getLogger(__name__)

GRAPHS = 4  # a plan's batches are sorted by length: their shapes change slowly, and none comes back
ROWS = 128  # of a table; fewer would make more shapes, and an empty row costs next to nothing

Launches = Callable[[], None]


class Graphs:
    """Does what launching functions do, by graphs where a key occurs again. For one GPU and one
    thread at a time.

    `record(launches, other)` gives the graph of `launches()`, which may share the memory of the
    graph `other`.
    """

    def __init__(
        self, record: Callable[[Launches, torch.cuda.CUDAGraph | None], torch.cuda.CUDAGraph]
    ):
        self._record, self._works = record, True
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}

    def run(self, key: Hashable, launches: Launches) -> None:
        """Do what `launches()` does: to the same memory whenever the key is the same, and from
        inputs that it leaves as they are.

        A key's first batch is launched, which also compiles and loads its kernels: a recording
        cannot. Where a graph fails, at its recording or later, this batch and all others are
        launched.
        """
        if key in self._seen and self._works:
            try:
                return self._graph(key, launches).replay()
            except Exception as error:  # triton, torch and CUDA raise errors of many kinds
                log.info(
                    "no CUDA graphs here, launching instead: %s",
                    one_line(str(error.__context__ or error)),
                )
                self.forget()
                self._works = False
        self._seen.add(key)
        return launches()

    def forget(self) -> None:
        """Throw all graphs away: before memory that they use is."""
        self._seen.clear()
        self._graphs.clear()

    def _graph(self, key: Hashable, launches: Launches) -> torch.cuda.CUDAGraph:
        if key not in self._graphs:
            self._graphs[key] = self._record(launches, next(iter(self._graphs.values()), None))
            if len(self._graphs) > GRAPHS:
                oldest = next(iter(self._graphs))
                del self._graphs[oldest]
                self._seen.remove(oldest)
        return self._graphs[key]


class Recorder:
    """Records on a stream of its own, while other threads may use the GPU.

    Always the same stream: torch keeps the libraries' scratch memory by stream. No
    `torch.cuda.graph`: it would wait for the whole GPU and give torch's cached memory back first.
    Meanwhile torch gives no cached memory back, to no thread.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._stream: torch.cuda.Stream | None = None

    def __call__(
        self, launches: Launches, other: torch.cuda.CUDAGraph | None
    ) -> torch.cuda.CUDAGraph:
        """Record what `launches` launches."""
        self._stream = self._stream or torch.cuda.Stream(self._device)
        graph, pool = (
            torch.cuda.CUDAGraph(),
            other.pool() if other else torch.cuda.graph_pool_handle(),
        )
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                try:
                    launches()
                finally:
                    graph.capture_end()
            except BaseException:
                with suppress(Exception):
                    end_recording(self._stream.device_index, pool)
                raise
        return graph


def even_tables(
    tables: tuple[tuple[int, torch.Tensor], ...],
) -> tuple[torch.Tensor, tuple[tuple[int, int], ...]]:
    """Tables [S, 2] by kind, each with empty sequences behind until its rows are a multiple of
    ROWS, as one; (kind, rows) of each.
    """
    padded = [pad(table, (0, 0, 0, -len(table) % ROWS)) for _, table in tables]
    return torch.cat(padded), tuple(
        (kind, len(table)) for (kind, _), table in zip(tables, padded, strict=True)
    )


def split_tables(
    table: torch.Tensor, shape: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, torch.Tensor], ...]:
    """The tables by kind that begin `table`; `shape` as `even_tables` gives it."""
    kinds, rows = zip(*shape, strict=True)
    return tuple(zip(kinds, table[: sum(rows)].split(rows), strict=True))
