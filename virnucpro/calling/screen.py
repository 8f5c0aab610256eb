"""`--screen`: a small model looked at all first, and the full one embeds what could be viral. The
other sequences are called by the screen.

Knows what the screen said; does not know how it was run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from virnucpro.calling.columns import Call, ChunkColumns, SequenceColumns
from virnucpro.calling.sequential import overlapped

if TYPE_CHECKING:
    from virnucpro.calling.evidence import EvidenceColumns

# The probability by the screen from which on a sequence could be viral. Of what another network
# calls virus, 99.5 % and more of each length reach it: docs/PERFORMANCE.md has what was measured.
POINT = 0.015
MARGIN = 1500  # bases to either side of a virus-like region that are looked at too


@dataclass(frozen=True)
class Screen:
    """out: bool [sequences], those that the screen calls; score, probability: float64 [sequences],
    what it says of them; record, start, end: int64 [regions], where it saw virus-like regions.
    """

    out: NDArray[np.bool_]
    score: NDArray[np.float64]
    probability: NDArray[np.float64]
    record: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]

    def beside(self, evidence: EvidenceColumns | None) -> Screen:
        """The same where known proteins were searched: what these call viral is looked at too."""
        if evidence is None:
            return self
        return replace(self, out=self.out & ~(evidence.log_odds > 0))

    def of_records(self, sequence: NDArray[np.int64], first: NDArray[np.int64]) -> Screen:
        """The same with a row a record. sequence: int64 [records], the sequence of each; first:
        int64 [sequences], the first record of each.
        """
        return replace(
            self,
            out=self.out[sequence],
            score=self.score[sequence],
            probability=self.probability[sequence],
            record=first[self.record],
        )

    def needed(self, chunks: ChunkColumns) -> NDArray[np.bool_]:
        """bool [chunks]: those of the sequences called by the screen that are near its regions."""
        _, row = overlapped(chunks, self.record, self.start - MARGIN, self.end + MARGIN)
        near = np.zeros(len(chunks), bool)
        near[row] = True
        return near & self.out[chunks.record]

    def answered(self, sequences: SequenceColumns) -> SequenceColumns:
        """The sequences with the screen's answers where it calls."""
        out = self.out
        return replace(
            sequences,
            virus_score=np.where(out, self.score, sequences.virus_score),
            virus_probability=np.where(out, self.probability, sequences.virus_probability),
            model_probability=np.where(out, np.nan, sequences.model_probability),
            call=np.where(out, Call.non_virus, sequences.call).astype(np.uint8),
            fdr=np.where(out, np.nan, sequences.fdr),
        )
