"""What the report shows of known proteins: the closest one of a sequence, the hits along it as
arrows, and the families that are closest to what was called virus.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from virnucpro.calling.answers import Answers
from virnucpro.calling.columns import Call
from virnucpro.homology.choice import LABELS
from virnucpro.reporting.charts import Arrow

MOST_FAMILIES = 25
UNNAMED, NO_RELATIVE = "closest protein without a family", "no known viral relative"


def relative(answers: Answers, row: int) -> dict[str, Any]:
    """What is known of a sequence's closest proteins; nothing where none were searched."""
    if answers.evidence is None:
        return {}
    found = answers.evidence.evidence
    protein, kind = int(found.closest_virus[row]), int(found.cellular_like[row])
    label = answers.evidence.reference.labels[protein] if protein >= 0 else None
    return {
        "closest": "" if label is None else label.name or label.protein,
        "family": "" if label is None else label.family,
        "identity": float(found.closest_identity[row]),
        "viral_hits": int(found.viral_hits[row]),
        "other_hits": int(found.cellular_hits[row]),
        "other_like": LABELS[kind] if kind >= 0 else "",
        "by_model": float(answers.sequences.model_probability[row]),
        "by_hits": float(answers.evidence.probability[row]),
        "topology": (answers.evidence.topology[row] or "").replace("_", " "),
    }


def arrows(answers: Answers, row: int) -> list[Arrow]:
    """The best hits along a sequence, those that overlap a better one of their kind left out."""
    if answers.evidence is None:
        return []
    hits = answers.evidence.hits
    viral = answers.evidence.reference.viral
    first, last = np.searchsorted(hits.record, (row, row + 1))
    kept: list[Arrow] = []
    for i in range(first, last):
        start, end = int(hits.start[i]), int(hits.end[i])
        one = Arrow(start, end, bool(hits.reverse[i]), bool(viral[hits.protein[i]]))
        overlaps = (
            min(end, other.end) - max(start, other.start) for other in kept if other[3] == one[3]
        )
        if all(2 * overlap < end - start for overlap in overlaps):
            kept.append(one)
    return kept


def families(answers: Answers) -> list[dict[str, Any]]:
    """How many of the sequences called virus are closest to which family, most first."""
    if answers.evidence is None:
        return []
    rows = np.flatnonzero(answers.sequences.call == Call.virus)
    found, labels = answers.evidence.evidence, answers.evidence.reference.labels
    groups: dict[str, list[int]] = defaultdict(list)
    for row, protein in zip(rows.tolist(), found.closest_virus[rows].tolist(), strict=True):
        name = labels[protein].family or UNNAMED if protein >= 0 else NO_RELATIVE
        groups[name].append(row)
    order = sorted(groups, key=lambda name: (name in (UNNAMED, NO_RELATIVE), -len(groups[name])))
    return [
        {
            "name": name,
            "sequences": len(groups[name]),
            "bases": int(answers.records.length[groups[name]].sum()),
            "identity": float(np.median(found.closest_identity[groups[name]])),
        }
        for name in order
    ]
