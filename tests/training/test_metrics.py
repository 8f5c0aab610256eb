import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    roc_auc_score,
    roc_curve,
)

from virnucpro.training.metrics import (
    at_threshold,
    auprc,
    auroc,
    bootstrap_groups,
    calibration_error,
    recall_at,
)

RNG = np.random.default_rng(11)
Y = RNG.random(600) < 0.4
SCORE = np.round(RNG.normal(Y * 1.0, 1.0), 1)  # with ties
WEIGHT = RNG.random(600)


def test_ranking_figures_equal_scikit_learn():
    assert auroc(SCORE, Y) == pytest.approx(roc_auc_score(Y, SCORE))
    assert auroc(SCORE, Y, WEIGHT) == pytest.approx(roc_auc_score(Y, SCORE, sample_weight=WEIGHT))
    assert auprc(SCORE, Y, WEIGHT) == pytest.approx(
        average_precision_score(Y, SCORE, sample_weight=WEIGHT)
    )
    fpr, tpr, _ = roc_curve(Y, SCORE, drop_intermediate=False)
    assert recall_at(SCORE, Y, 0.05) == pytest.approx(np.interp(0.05, fpr, tpr))


def test_call_figures_equal_scikit_learn():
    found = at_threshold(SCORE, Y, 0.5)
    assert found["f1"] == pytest.approx(f1_score(Y, SCORE >= 0.5))
    assert found["mcc"] == pytest.approx(matthews_corrcoef(Y, SCORE >= 0.5))


def test_unscored_rank_last():
    score = np.array([0.9, np.nan, 0.1, np.nan])
    assert auroc(score, np.array([True, True, False, False])) == pytest.approx(0.625)
    assert at_threshold(score, np.array([True, True, False, False]), 0.0)["recall"] == 0.5


def test_calibration_error_of_true_and_of_too_bold_probabilities():
    p = RNG.random(200_000)
    y = RNG.random(200_000) < p
    assert calibration_error(p, y) < 0.01
    assert calibration_error(np.where(p > 0.5, 0.99, 0.01), y, bins=10) == pytest.approx(
        0.24, abs=0.01
    )


def test_intervals_grow_with_groups_that_differ():
    groups = np.repeat([f"g{i}" for i in range(20)], 50)
    apart = np.repeat(np.arange(20) % 2, 50).astype(float)
    mixed = np.tile(np.arange(50) % 2, 20).astype(float)

    def width(values):
        low, high = bootstrap_groups(
            lambda w: (w * values).sum() / w.sum(), groups, np.full(1000, "one"), 200
        )
        return high - low

    assert width(mixed) < 1e-9 and width(apart) == pytest.approx(
        2 * 1.96 * 0.5 / np.sqrt(20), rel=0.3
    )
