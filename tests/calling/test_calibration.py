"""Calibration against scikit-learn's fit, prevalence against mixtures of known share, fdr against
its definition.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from virnucpro.calling.calibration import (
    Calibration,
    design,
    estimate_prevalence,
    expected_fdr,
    expit,
    fdr_by_source,
    prevalence_by_source,
    shift_prevalence,
)
from virnucpro.calling.regions import RegionLimits
from virnucpro.errors import ModelError
from virnucpro.homology.weights import Weights
from virnucpro.training.calibrate import fit

FEATURES = (
    "intercept",
    "logit_score",
    "log_length",
    "scored_fraction",
    "log_open_frames",
    "logit_score*log_open_frames",
)


def labelled(n=4000, share=0.3, seed=0):
    """Sequences whose scores are drawn so that the truth is a logistic model of the score and the
    length.
    """
    rng = np.random.default_rng(seed)
    is_virus = rng.random(n) < share
    length = rng.integers(300, 20_000, n)
    score = expit(rng.normal(np.where(is_virus, 1.0, -1.0), 1.5))
    return score, length, rng.random(n), rng.integers(1, 80, n), is_virus


def test_fit_equals_scikit_learn():
    linear = pytest.importorskip(
        "sklearn.linear_model", reason="scikit-learn comes with the train extra"
    )
    score, length, fraction, frames, is_virus = labelled()
    ours = fit(FEATURES, score, length, fraction, frames, is_virus, ridge=1e-12)
    matrix = design(FEATURES, score, length, fraction, frames)
    theirs = linear.LogisticRegression(C=1e10, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(
        matrix, is_virus
    )
    np.testing.assert_allclose(ours.coefficients, theirs.coef_[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        ours.probability(score, length, fraction, frames),
        theirs.predict_proba(matrix)[:, 1],
        atol=1e-4,
    )


def test_probabilities_mean_what_they_say_on_new_sequences():
    score, length, fraction, frames, is_virus = labelled(20_000, seed=1)
    calibration = fit(FEATURES, *labelled(20_000))
    p = calibration.probability(score, length, fraction, frames)
    for low in np.arange(0, 1, 0.1):
        inside = (p >= low) & (p < low + 0.1)
        assert abs(p[inside].mean() - is_virus[inside].mean()) < 0.06


def test_separable_classes_stay_finite():
    calibration = fit(
        ("intercept", "logit_score"), [0.1, 0.2, 0.8, 0.9] * 5, *[[1000] * 20] * 3, [0, 0, 1, 1] * 5
    )
    assert np.isfinite(calibration.coefficients).all()
    assert calibration.probability(0.9, 1000, 1, 1)[0] > 0.95


def test_one_class_is_refused():
    with pytest.raises(ModelError):
        fit(("intercept",), [0.5], [100], [1], [1], [1])


def test_json_round_trip():
    calibration = replace(fit(FEATURES, *labelled(500)), regions=RegionLimits(0.65, 0.45))
    for evidence in (None, Weights((500, 3000), ((0.5, 1.0, *[0.1] * 6), (0.25, 2.0, *[0.0] * 6)))):
        whole = replace(calibration, evidence=evidence)
        assert Calibration.from_json(json.loads(json.dumps(whole.to_json()))) == whole


@pytest.mark.parametrize(
    "change",
    [
        {"method": "spline"},
        {"features": ["intercept", "magic"]},
        {"coefficients": [1.0]},
        {"coefficients": [1, float("nan")]},
        {"training_prevalence": 1},
        {"features": None},
        {"coefficients": ["x", 1]},
        {"regions": {"opens": 0.4, "stays": 0.5}},
        {"regions": {"open": 0.5}},
        {"regions": 3},
        {"ranges": [1]},
        {"ranges": {"log_length": [2, 1]}},
        {"ranges": {"log_length": [0, float("inf")]}},
        {"ranges": {"magic": [0, 1]}},
        {"features": "ab", "coefficients": [1, 2]},
        {"features": ["intercept", "intercept"]},
        {"coefficients": [0, 1e30]},
        {"coefficients": [0, 10**400]},
        {"training_prevalence": float("nan")},
        {"method": ["logistic"]},
        {"evidence": None},
        {"evidence": {"lengths": [500], "weights": [[0, 1]]}},
    ],
)
def test_unusable_calibrations_are_refused(change):
    good = {
        "method": "logistic",
        "features": ["intercept", "logit_score"],
        "coefficients": [0, 1],
        "training_prevalence": 0.5,
    }
    Calibration.from_json(good)
    with pytest.raises(ModelError):
        Calibration.from_json(good | change)


def test_beyond_the_lengths_seen_a_feature_stays_at_its_limit():
    calibration = fit(FEATURES, *labelled(2000))
    p = calibration.probability([0.7] * 3, [10**4, 2 * 10**4, 10**8], [0.5] * 3, [40] * 3)
    assert p[0] != p[1] and p[1] == pytest.approx(p[2], abs=1e-3)


def test_a_probability_does_not_depend_on_its_company():
    score, length, fraction, frames, _ = labelled(1000)
    calibration = fit(FEATURES, *labelled(1000))
    together = calibration.probability(score, length, fraction, frames)
    alone = [
        calibration.probability(*row)[0]
        for row in zip(score, length, fraction, frames, strict=True)
    ]
    np.testing.assert_array_equal(together, alone)


def test_scores_of_0_and_1_have_a_probability():
    calibration = Calibration(("intercept", "logit_score"), (0.0, 1.0))
    np.testing.assert_allclose(
        calibration.probability([0.0, 1.0], [1, 1], [1, 1], [1, 1]), [1e-6, 1 - 1e-6], rtol=1e-6
    )


def test_prevalence_shift_is_bayes_rule():
    p = np.array([0.01, 0.5, 0.9])
    likelihood_ratio = p / (1 - p) / (0.3 / 0.7)
    odds = likelihood_ratio * 0.05 / 0.95
    np.testing.assert_allclose(shift_prevalence(p, 0.3, 0.05), odds / (1 + odds))
    np.testing.assert_allclose(shift_prevalence(p, 0.3, 0.3), p)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.8])
def test_estimated_prevalence_is_near_the_true_share(share):
    rng = np.random.default_rng(3)
    x = rng.normal(np.where(rng.random(20_000) < share, 1.5, -1.5), 1.0)
    p = expit(3 * x)  # the exact posterior of two unit normals at +-1.5 with equal priors
    assert estimate_prevalence(p, 0.5) == pytest.approx(share, abs=0.01)


def test_expected_fdr_is_the_mean_of_one_minus_p_at_or_above():
    p = np.round(np.random.default_rng(0).random(200), 2)  # with ties
    np.testing.assert_allclose(expected_fdr(p), [(1 - p[p >= x]).mean() for x in p])


def test_fdr_needs_a_thousand_of_a_source_or_a_prevalence():
    rng = np.random.default_rng(0)
    p = rng.random(2500)
    source = np.repeat([0, 1, 2], [1000, 999, 501]).astype(np.int32)
    eligible = np.ones(2500, bool)
    fdr = fdr_by_source(p, source, eligible, 0.5, None)
    assert np.isfinite(fdr[:1000]).all() and np.isnan(fdr[1000:]).all()
    share = prevalence_by_source(p, source, eligible, 0.5)
    assert list(share) == [0]
    np.testing.assert_allclose(fdr[:1000], expected_fdr(shift_prevalence(p[:1000], 0.5, share[0])))

    eligible[5] = False
    assert np.isnan(fdr_by_source(p, source, eligible, 0.5, None)).all()
    fdr = fdr_by_source(p, source, eligible, 0.5, 0.1)  # the probabilities are already at it
    assert np.isnan(fdr[5]) and np.isfinite(np.delete(fdr, 5)).all()
    np.testing.assert_allclose(fdr[1000:1999], expected_fdr(p[1000:1999]))
