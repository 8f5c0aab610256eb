"""What a run leaves, as a Python object: its directory, its tables, its features."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.errors import Failure
from virnucpro.reporting.outputs import Outputs

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from virnucpro.calling.answers import Answers


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run: its tables as Arrow (`.to_pandas()` makes a data frame), its features.

    `answers`: the same in memory, where this process made them. `is_shown`: another process has
    printed its summary.
    """

    outputs: Outputs
    failures: tuple[Failure, ...]
    exit_code: int
    answers: Answers | None = field(default=None, repr=False)
    is_shown: bool = False

    @property
    def directory(self) -> Path:
        """The output directory."""
        return self.outputs.directory

    @property
    def contigs(self) -> pa.Table:
        """Every input sequence, in input order: the columns of `contigs.tsv`."""
        return self._table("contigs")

    @property
    def chunks(self) -> pa.Table:
        """Every chunk: the columns of `chunks.tsv`."""
        return self._table("chunks")

    @property
    def frames(self) -> pa.Table:
        """Every frame that was taken: the columns of `frames.tsv`."""
        return self._table("frames")

    def _table(self, name: str) -> pa.Table:
        from virnucpro.reporting.tables import read_table

        return read_table(getattr(self.outputs, name))

    def features(self) -> tuple[list[str], np.ndarray]:
        """Frame ids, and their features [frames, width], memory-mapped; nucleotides come first."""
        from virnucpro.embedding.matrix import read_matrix

        return read_matrix(self.outputs.features)
