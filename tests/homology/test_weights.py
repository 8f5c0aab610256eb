from dataclasses import replace

import numpy as np
import pytest

from virnucpro.homology.weights import FEATURES, Points, Weights, search_weights


def test_weights_are_interpolated_between_lengths():
    weights = Weights.from_json({"lengths": [100, 10_000], "weights": [[0, 1, 0], [4, 3, 0]]}, 2)
    lengths = np.array([10, 100, 1000, 10_000, 10**7])
    odds = weights.log_odds(np.ones((5, 2)), lengths)
    assert odds.tolist() == pytest.approx([1, 1, 4, 7, 7])
    points = Points(weights.lengths, {"5%": (0.9, 0.5)})
    weights = replace(weights, points=points)
    assert points.at(lengths, "5%")[0].tolist() == pytest.approx([0.9, 0.9, 0.7, 0.5, 0.5])
    again = Weights.from_json(weights.to_json(), 2)
    assert again == weights
    assert again.log_odds(np.ones((5, 2)), lengths)[2] == odds[2]


@pytest.mark.parametrize(
    "data",
    [
        {"lengths": [2, 1], "weights": [[0, 0], [0, 0]]},
        {"lengths": [], "weights": []},
        {"lengths": [0], "weights": [[0, 0]]},
        {"lengths": [1], "weights": [[0, 0], [0, 0]]},
        {"lengths": [1], "weights": [[0, 0, 0]]},
        {"lengths": [1], "weights": [[0, float("nan")]]},
        {"lengths": [1], "weights": [[0, 1e9]]},
        {"lengths": [1], "weights": [1]},
        {"lengths": [1], "weights": [[0, 0]], "points": {"5%": [0.5, 0.6]}},
        {"lengths": [1], "weights": [[0, 0]], "points": {"5%": [1.5]}},
        {"lengths": [1], "weights": [[0, 0]], "points": {"1%": [0.9]}},
        {
            "lengths": [1, 2],
            "weights": [[0, 0], [0, 0]],
            "points": {"5%": [0.5, float("nan")]},
        },
    ],
)
def test_weights_that_are_none_are_refused(data):
    with pytest.raises(ValueError, match=r"evidence weight|points of a call"):
        Weights.from_json(data, 1)


def test_the_search_alone_has_weights():
    none = search_weights().log_odds(np.zeros((1, len(FEATURES))), np.array([1000]))
    assert -2 < none[0] < 0  # without any hit a cell is likelier
