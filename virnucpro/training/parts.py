"""What the network and the known proteins say apart, and what was called, measured beside the
figures of the probabilities.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from virnucpro.training.contigs import Answered
from virnucpro.training.evaluation import Scored, by_class, measure
from virnucpro.training.metrics import curve

# of the closest viral protein: over the first, up to the second
IDENTITIES = {
    "no hit": (-1.0, 0.0),
    "under 30 %": (0.0, 0.3),
    "30 to 50 %": (0.3, 0.5),
    "over 50 %": (0.5, 1.0),
}
FALSE_POSITIVES = 0.05  # at which recall is compared
OF_CALLS = ("recall", "false_positive_rate", "f1", "mcc")


def measure_parts(answered: Answered, draws: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures by part and by length: of the default call; and where known proteins were searched,
    of the network alone and of the search alone, by class too, and the recall of all three by the
    identity of the closest viral protein.
    """
    whole = answered.scored
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for length in sorted(set(whole.length.tolist())):
        rows = whole.length == length
        part = whole.select(rows)
        if not part.virus.any() or part.virus.all():
            continue
        called = measure(_scored_by(part, answered.called[rows].astype(float)), draws)
        found["default call"][str(length)] = {name: called[name] for name in OF_CALLS}
        if np.isnan(answered.search[rows]).all():
            continue
        alone = {
            "network": _scored_by(part, answered.network[rows]),
            "search": _scored_by(part, answered.search[rows]),
        }
        for name, scored in alone.items():
            found[f"{name} alone"][str(length)] = measure(scored, draws)
            for category, figures in by_class(scored, draws).items():
                found[f"{name} alone, class {category}"][str(length)] = figures
        of_all = {**alone, "both": part}
        for name, figures in recall_by_identity(of_all, answered.identity[rows]).items():
            found[f"closest viral protein: {name}"][str(length)] = figures
    return dict(found)


def recall_by_identity(
    models: dict[str, Scored], identity: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Recall at FALSE_POSITIVES of each model and the number of viruses, by the identity [n] of
    their closest viral protein, NaN without a hit.
    """
    found: dict[str, dict[str, Any]] = {}
    closest = np.nan_to_num(identity)
    for model, scored in models.items():
        course = curve(scored.deciding, scored.virus)
        few = course.threshold[course.false_positive <= FALSE_POSITIVES]
        over = scored.deciding >= (few.min() if len(few) else np.inf)
        for name, (low, high) in IDENTITIES.items():
            mine = scored.virus & (closest > low) & (closest <= high)
            if mine.any():
                entry = found.setdefault(name, {"viruses": int(mine.sum())})
                entry[f"recall_at_5pct_of_{model}"] = round(float(over[mine].mean()), 4)
    return found


def _scored_by(part: Scored, value: np.ndarray) -> Scored:
    return replace(part, score=value, probability=value)
