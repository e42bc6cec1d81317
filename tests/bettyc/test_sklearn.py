"""The estimators: scikit-learn's own checks, and its models as references."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Ridge, RidgeCV
from sklearn.model_selection import PredefinedSplit, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from bettyc.sklearn import TunedLogisticRegression, TunedRidge


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@parametrize_with_checks([TunedRidge(max_iter=2), TunedLogisticRegression(max_iter=3)])
def test_scikit_learns_checks(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


def test_the_last_fit_is_scikit_learns_ridge_regression() -> None:
    x, y = load_diabetes(return_X_y=True)

    model = TunedRidge(max_iter=5, random_state=0).fit(x, y)

    # sum of squares + alpha |w|^2, a penalty of its own for each feature by scaling the columns
    scaled = StandardScaler().fit_transform(x)
    weights = np.sqrt(model.penalty_)
    ridge = Ridge(alpha=1.0, solver="svd").fit(scaled / weights, y)
    np.testing.assert_allclose(model.predict(x), ridge.predict(scaled / weights), rtol=1e-8)


def test_one_penalty_is_as_good_as_that_of_a_grid() -> None:
    x, y = load_diabetes(return_X_y=True)
    model = TunedRidge(per_feature=False, max_iter=150, random_state=0).fit(x, y)

    _, val = model._split(np.zeros(len(x)))
    scaled = StandardScaler().fit_transform(x)
    part = np.full(len(x), -1)
    part[val] = 0
    alphas = np.logspace(-1, 4, 60)
    target = y - y.mean()
    grid = RidgeCV(
        alphas, fit_intercept=False, cv=PredefinedSplit(part), scoring="neg_mean_squared_error"
    ).fit(scaled, target)
    assert model.validation_loss_ <= -grid.best_score_ * (1 + 1e-4)
    assert model.penalty_ == pytest.approx(grid.alpha_, rel=0.25)


def test_a_penalty_per_feature_leaves_out_what_is_noise() -> None:
    """Three features of forty matter: one penalty for all cannot tell them from the others."""
    truth = np.array([2.0, -1.5, 1.0])
    ratios = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        x, new = random.normal(size=(400, 40)), random.normal(size=(2000, 40))
        y = x[:, :3] @ truth + random.normal(size=400)
        models = TunedRidge(random_state=0).fit(x, y), RidgeCV(np.logspace(-3, 3, 30)).fit(x, y)
        errors = [np.mean((model.predict(new) - new[:, :3] @ truth) ** 2) for model in models]
        ratios.append(errors[0] / errors[1])
        penalty = models[0].penalty_
        assert penalty[:3].max() < np.median(penalty[3:])
    assert np.mean(ratios) < 0.8


def test_the_last_fit_is_scikit_learns_softmax_regression() -> None:
    x, y = load_iris(return_X_y=True)
    scaled = StandardScaler().fit_transform(x)

    model = TunedLogisticRegression(per_feature=False, max_iter=20, random_state=0).fit(scaled, y)

    reference = LogisticRegression(C=1 / model.penalty_, tol=1e-10, max_iter=5000)
    reference.fit(scaled, y)
    np.testing.assert_allclose(model.coef_, reference.coef_, atol=1e-4)
    np.testing.assert_allclose(
        model.predict_proba(scaled), reference.predict_proba(scaled), atol=1e-4
    )


def test_classification_is_as_good_as_with_a_grid() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    names = np.array(["malignant", "benign"])[y]
    train, test, labels, others = train_test_split(x, names, random_state=0, stratify=names)

    tuned = TunedLogisticRegression(max_iter=30, random_state=0).fit(train, labels)
    grid = make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(
            Cs=10, l1_ratios=(0.0,), scoring="neg_log_loss", use_legacy_attributes=False
        ),
    ).fit(train, labels)

    assert tuned.score(test, others) >= grid.score(test, others) - 0.02
    assert set(tuned.predict(test)) == {"benign", "malignant"}


def test_mistakes() -> None:
    x, y = np.ones((4, 2)), np.arange(4.0)

    with pytest.raises(ValueError, match="validation_fraction is 1"):
        TunedRidge(validation_fraction=1.0).fit(x, y)
    with pytest.raises(ValueError, match="n_samples = 4 is too few"):
        TunedLogisticRegression().fit(x, [0, 1, 2, 3])
