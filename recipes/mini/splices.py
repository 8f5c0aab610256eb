"""Phages spliced into bacteria: how well `calling.regions` finds them."""

from __future__ import annotations

import numpy as np

from virnucpro.calling.regions import RegionLimits, find_regions
from virnucpro.training.bundle.scoring import FrameScores, call_contigs
from virnucpro.training.store import Store


def region_scores(
    contigs: Store,
    rows: np.ndarray,
    scores: FrameScores,
    chunk_length: int,
    frame_policy: str,
    limits: RegionLimits = RegionLimits(),
) -> dict:
    """Base-wise precision, recall and F1 of the regions, and how far the borders of found ones are
    off.

    `elsewhere`: regions that touch no phage.

    The name of a contig ends in `|start-end`, the spliced stretch (1-based, inclusive).
    """
    mine = np.isin(scores.contig, rows)
    index = np.searchsorted(rows, scores.contig[mine])
    part = FrameScores(index, *(column[mine] for column in scores[1:]))
    lengths = contigs.length[rows]
    chunks, sequences = call_contigs(part, lengths, chunk_length, frame_policy)
    regions = find_regions(chunks, sequences, lengths, limits=limits)
    both = truly = found = false = 0
    errors: list[int] = []
    hits = 0
    for i, row in enumerate(rows):
        start, end = map(
            int, str(contigs.labels.name[contigs.record[row]]).rsplit("|", 1)[1].split("-")
        )
        truth, call = np.zeros(lengths[i], dtype=bool), np.zeros(lengths[i], dtype=bool)
        truth[start - 1 : end] = True
        own = np.flatnonzero(regions.record == i)
        for r in own:
            call[regions.start[r] - 1 : regions.end[r]] = True
        both, truly, found = both + (truth & call).sum(), truly + truth.sum(), found + call.sum()
        overlap = [r for r in own if regions.start[r] <= end and regions.end[r] >= start]
        false += len(own) - len(overlap)
        if overlap:
            hits += 1
            shared = [
                min(end, int(regions.end[r])) - max(start, int(regions.start[r])) for r in overlap
            ]
            best = overlap[int(np.argmax(shared))]
            errors += [abs(int(regions.start[best]) - start), abs(int(regions.end[best]) - end)]
    precision, recall = both / max(found, 1), both / max(truly, 1)
    return {
        "sequences": len(rows),
        "found": hits,
        "regions": len(regions),
        "elsewhere": false,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-12),
        "border_error_median": float(np.median(errors)) if errors else None,
    }
