"""Linear models whose penalties are tuned by hypergradients, as scikit-learn estimators.

from bettyc.sklearn import TunedRidge
model = TunedRidge().fit(X, y)
model.penalty_, model.coef_, model.predict(X)

The model is fitted on one part of the rows and judged on the other; the derivative of the held-out
loss with respect to the logarithm of every penalty moves all of them at once. So there may be one
penalty per feature, where a grid search can afford one for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

import bettyc

if TYPE_CHECKING:
    from bettyc.runtime.run import Run

Array = NDArray[np.float64]

RIDGE = """
dim n, m, d
data train : { x: real[n, d], y: real[n] } from memory()
data val   : { x: real[m, d], y: real[m] } from memory()

level fit {
  var w : real[d] = zeros
  minimize sum((train.x @ w - train.y)^2) + sum(tune.penalty * w^2)
}

level tune {
  var penalty : PENALTY in positive = fill(1)
  minimize mean((val.x @ fit*.w - val.y)^2)
  optimizer = adam(lr = 0.1)
}

run { precision = fp64 }
"""

# The intercepts of a softmax are determined up to a common shift: the last term chooses one.
LOGISTIC = """
dim n, m, d, k = CLASSES
data train : { x: real[n, d], y: int<k>[n] } from memory()
data val   : { x: real[m, d], y: int<k>[m] } from memory()

def losses(w, b, s) = xent(s.x @ w + b, s.y)

level fit {
  var w : real[d, k] = zeros
  var b : real[k] = zeros
  minimize sum(losses(w, b, train)) + 0.5 * sum(SHARED * w^2) + 1e-6 * sumsq(b)
}

level tune {
  var penalty : PENALTY in positive = fill(1)
  minimize mean(losses(fit*.w, fit*.b, val))
  optimizer = adam(lr = 0.1)
}

run { precision = fp64 }
"""


class _Tuned(BaseEstimator):  # type: ignore[misc]
    """What both models share: the split, the scaling, the tuning, the last fit."""

    def __init__(
        self,
        *,
        per_feature: bool = True,
        initial_penalty: float | None = None,
        validation_fraction: float = 0.5,
        max_iter: int = 100,
        learning_rate: float = 0.1,
        random_state: Any = None,
    ) -> None:
        self.per_feature = per_feature
        self.initial_penalty = initial_penalty
        self.validation_fraction = validation_fraction
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.random_state = random_state

    def _tune(self, text: str, x: Array, y: NDArray[Any], groups: NDArray[Any]) -> dict[str, Any]:
        """The model's variables, fitted on all rows with the penalties that were best on the
        held-out ones. Sets what fitting tells about itself.
        """
        train, val = self._split(groups)
        shape = "real[d]" if self.per_feature else "real"
        program = bettyc.loads(
            text.replace("PENALTY", shape),
            filename=f"{type(self).__name__}.mlo",
            set={
                "run.steps": self.max_iter,
                "tune.optimizer.lr": self.learning_rate,
            },
        )
        parts = {"train": {"x": x[train], "y": y[train]}, "val": {"x": x[val], "y": y[val]}}
        run = program.compile(parts).start()
        self._begin(run, len(train))
        best, self.n_iter_ = np.inf, 0
        while self.n_iter_ < self.max_iter:
            penalty = run["tune"].penalty
            loss = run.step().loss["tune"]  # at the penalties before the update
            self.n_iter_ += 1
            if loss < best:
                best, kept = loss, penalty
        self.validation_loss_ = best
        self.penalty_ = kept.numpy()
        whole = {**parts, "train": {"x": x, "y": y}}
        found = program.compile(whole).layer("fit")(penalty=kept)
        return {name: value.detach().numpy() for name, value in found.items()}

    def _begin(self, run: Run, rows: int) -> None:
        """Penalties to begin with, one value for all: the held-out loss of many penalties may have
        local minima, and a coarse grid finds a good neighbourhood.
        """
        shape, start = run["tune"].penalty, self.initial_penalty

        def put(value: float) -> None:
            run["tune"].assign(penalty=shape * 0 + value)

        if start is None:
            grid, losses = rows * np.logspace(-4, 1, 6), []
            for value in grid:
                put(value)
                losses.append(float(run.hypergrad("tune").loss))
            start = float(grid[int(np.argmin(losses))])
        put(start)

    def _split(self, groups: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rows to fit and rows to judge; of every group some stay to fit."""
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}, not within (0, 1)"
            )
        random = check_random_state(self.random_state)
        train, val = [], []
        for group in np.unique(groups):
            rows = random.permutation(np.flatnonzero(groups == group))
            count = min(round(self.validation_fraction * len(rows)), len(rows) - 1)
            val.append(rows[:count])
            train.append(rows[count:])
        if not sum(map(len, val)):
            raise ValueError(f"n_samples = {len(groups)} is too few to hold any out for validation")
        return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))

    def _scaled(self, x: Array) -> Array:
        """Columns of mean 0 and variance 1, constant ones of value 0; remembers how."""
        self._mean = x.mean(0)
        spread = x.std(0)
        # a constant column has the spread of its rounding errors
        level = 10 * np.finfo(x.dtype).eps * np.abs(x).max(0)
        self._spread = np.where(spread > level, spread, 1.0)
        return np.where(spread > level, (x - self._mean) / self._spread, 0.0)


class TunedRidge(RegressorMixin, _Tuned):  # type: ignore[misc]
    """Ridge regression with one penalty per feature, tuned on held-out rows.

    Minimises sum((y - X w - b)^2) + sum(penalty * w^2) for features scaled to variance 1: a penalty
    is scikit-learn's alpha.

    per_feature: one penalty for each feature, else one for all. initial_penalty: where they begin;
    None for the best of a coarse grid.
    validation_fraction: of the rows, held out while penalties are tuned; the last fit uses all.
    Many penalties need many rows to be judged by.
    max_iter: updates of the penalties, each with an exact solve and an exact hypergradient.
    learning_rate: of Adam, in the logarithm of the penalties. random_state: of the split.

    Attributes: coef_ (features,), intercept_, penalty_ (features,) or (), validation_loss_ (mean
    squared error), n_iter_, n_features_in_, feature_names_in_.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """X: (rows, features). y: (rows,). Raises ValueError for what does not fit."""
        x, target = validate_data(
            self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2
        )
        target = np.asarray(target, np.float64)
        mean = target.mean()
        x = self._scaled(x)
        found = self._tune(RIDGE, x, target - mean, np.zeros(len(x)))
        self.coef_ = found["w"] / self._spread
        self.intercept_ = float(mean - self._mean @ self.coef_)
        return self

    def predict(self, X: ArrayLike) -> Array:
        """(rows,)."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, reset=False)
        return x @ self.coef_ + self.intercept_  # type: ignore[no-any-return]


class TunedLogisticRegression(ClassifierMixin, _Tuned):  # type: ignore[misc]
    """Softmax regression with one penalty per feature, tuned on held-out rows.

    Minimises the sum of cross entropies + 1/2 sum(penalty * w^2) for features scaled to variance 1:
    a penalty is scikit-learn's 1 / C.
    Parameters as of `TunedRidge`; every class keeps its share in both parts of the rows.

    Attributes: classes_ (classes,), coef_ (classes, features), intercept_ (classes,), penalty_,
    validation_loss_ (cross entropy), n_iter_, n_features_in_, feature_names_in_.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """X: (rows, features). y: (rows,), labels of any kind. Raises ValueError."""
        x, labels = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class only, {self.classes_[0]!r}; at least 2 are needed")
        x = self._scaled(x)
        shared = "tune.penalty[:, new]" if self.per_feature else "tune.penalty"
        text = LOGISTIC.replace("SHARED", shared).replace("CLASSES", str(len(self.classes_)))
        found = self._tune(text, x, codes.astype(np.int64), codes)
        self.coef_ = (found["w"] / self._spread[:, None]).T
        self.intercept_ = found["b"] - self.coef_ @ self._mean
        return self

    def _scores(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, reset=False)
        return x @ self.coef_.T + self.intercept_  # type: ignore[no-any-return]

    def decision_function(self, X: ArrayLike) -> Array:
        """Logits (rows, classes); of two classes the log odds of the second, (rows,)."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: ArrayLike) -> Array:
        """(rows, classes)."""
        scores = self._scores(X)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)  # type: ignore[no-any-return]

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of every row."""
        best = self._scores(X).argmax(1)
        return self.classes_[best]  # type: ignore[no-any-return]


__all__ = ["TunedLogisticRegression", "TunedRidge"]
