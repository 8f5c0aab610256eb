"""Windows drawn by group, from a part of the records, harder groups more often."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from virnucpro.training.bundle.sampling import WindowRules, WindowSampler, segment_weights
from virnucpro.training.store import Store


class GroupSampler(WindowSampler):
    """A WindowSampler of the records `keep` (bool [R]) alone, without a copy of their bases.

    `pull` (float [R], or None): how much more often a record's group is drawn within its category.
    """

    def __init__(
        self, store: Store, rules: WindowRules, keep: np.ndarray, pull: np.ndarray | None = None
    ):
        rows = np.flatnonzero(keep[store.record])
        part = replace(
            store,
            start=store.start[rows],
            length=store.length[rows],
            record=store.record[rows],
            offset=store.offset[rows],
        )
        self.store, self.rules = part, rules
        weight = segment_weights(part, rules)
        if pull is not None:
            category = np.unique(part.labels.category, return_inverse=True)[1][part.record]
            before = np.bincount(category, weights=weight)
            weight = weight * pull[part.record]
            after = np.bincount(category, weights=weight)
            weight *= (before / np.maximum(after, 1e-300))[category]
        weight = weight * (part.length >= min(rules.shortest, rules.length))
        self.cumulative = np.cumsum(weight / weight.sum())
