"""RISE's map from a regression of the scores on the masks, where the paper takes a mean over masks.

Both estimate the same: the covariance of the score with what a mask keeps of a pixel, over the share that masks keep::

    S(x) = Cov(f(M), M(x)) / E[M(x)]

A mean over N masks estimates each pixel's covariance from the raw scores, so what every other pixel does to them is
noise. A linear model f = c + sum_b beta_b X_b of a mask's averages X_b over small patches explains most of it at once;
its covariance with M(x) is then known without noise, because how masks are drawn is known::

    S(x) = sum_b beta_b Cov(X_b, M(x)) / p

and, as rows and columns are upsampled and shifted apart, Cov is a product of one matrix for the rows and one for the
columns: S = (1 - p) C_y beta C_x^T. What a similarity has beyond a linear model is uncorrelated with it and adds noise,
no bias. beta is the ridge regression's (Hoerl, Kennard, Technometrics 1970), with an intercept that is not penalised.

Measured on 20 photographs (EfficientNet-Lite0 at 112 px, r with a map of 8,000 independent masks): 0.890, 0.941 and
0.964 at 128, 256 and 512 independent masks against 0.762, 0.869 and 0.922 for the mean; 0.918, 0.955 and 0.974 with
the "hadamard" masks. Smoother priors of beta changed nothing, and neither did finer patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from transforms.core.records import Float64

PATCHES = 2
"""Patches a side of a cell: what a mask can vary over less than half of a cell, no map of cells this large shows."""

RIDGE = 1.0
"""The prior's ratio of noise to signal in a score: 0.1 to 10 differ by 0.02 in r at 128 masks, and by 0.003 at 512."""


@dataclass(frozen=True)
class Regression:
    """The regression of the first n' masks' scores. ``features`` X float64 [n', K], less their mean.

    ``factor`` is the Cholesky factor of the regression's smaller system: of K patches (``primal``) or of n' masks. None
    where the masks do not differ.
    """

    features: Float64
    primal: bool
    factor: tuple[Float64, bool] | None

    @classmethod
    def of(cls, features: Float64) -> Regression:
        """Of ``features`` [n', K]."""
        centred = features - features.mean(axis=0)
        primal = centred.shape[0] > centred.shape[1]
        system = centred.T @ centred if primal else centred @ centred.T
        penalty = RIDGE * float(np.trace(system)) / len(features)
        if not penalty > 0:
            return cls(centred, primal, None)
        system[np.diag_indices_from(system)] += penalty
        return cls(centred, primal, cho_factor(system, lower=True, overwrite_a=True, check_finite=False))

    def coefficients(self, score: Float64) -> Float64:
        """beta float64 [K] of one reference's scores [n']: 0 where they are all equal."""
        if self.factor is None:
            return np.zeros(self.features.shape[1])
        above = score - score[0]  # exactly 0 where all scores are equal, which a rounded mean alone is not
        above -= above.mean()
        if self.primal:
            coefficients: Float64 = cho_solve(self.factor, self.features.T @ above, check_finite=False)
            return coefficients
        weights: Float64 = cho_solve(self.factor, above, check_finite=False)
        return weights @ self.features
