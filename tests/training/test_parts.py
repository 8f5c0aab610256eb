import numpy as np
import pytest

from virnucpro.training.contigs import Answered
from virnucpro.training.evaluation import Scored
from virnucpro.training.parts import measure_parts


def answered(searched: bool) -> Answered:
    """Ten viruses, of which the network knows half and the search the other half, and ten cells."""
    virus, half = np.arange(20) < 10, np.arange(20) % 2 == 0
    network = np.where(virus & half, 0.9, np.where(virus, 0.3, 0.2))
    search = np.where(virus & ~half, 0.95, 0.4)
    both = np.where(virus, 0.9, 0.1)
    group = np.array([f"g{i % 10 // 2}" for i in range(20)])
    category = np.where(virus, "viral", "bacteria")
    none, length = np.full(20, np.nan), np.full(20, 500)
    return Answered(
        Scored(network, both, virus, category, group, length),
        np.ones(20),
        np.ones(20),
        network,
        search if searched else none,
        np.where(virus & ~half, 0.4, np.nan) if searched else none,
        both > 0.95 if searched else both > 0.5,
    )


def test_network_and_search_are_measured_apart_and_by_identity():
    found = measure_parts(answered(True), 10)
    assert found["network alone"]["500"]["auroc"][0] == pytest.approx(1.0)
    assert found["search alone"]["500"]["recall"][0] == pytest.approx(0.5)
    assert found["network alone, class bacteria"]["500"]["false_positive_rate"][0] == 0
    assert found["closest viral protein: no hit"]["500"] == {
        "viruses": 5,
        "recall_at_5pct_of_network": 1.0,
        "recall_at_5pct_of_search": 0.0,
        "recall_at_5pct_of_both": 1.0,
    }
    assert found["closest viral protein: 30 to 50 %"]["500"]["recall_at_5pct_of_search"] == 1.0
    assert found["default call"]["500"]["recall"][0] == 0  # the calls, not 0.5 on the probability


def test_without_a_search_only_the_calls_stand_beside():
    found = measure_parts(answered(False), 10)
    assert list(found) == ["default call"] and found["default call"]["500"]["recall"][0] == 1
