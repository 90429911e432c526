"""Area of applicability: how unlike its training set an input is.

The dissimilarity index (DI) of Meyer & Pebesma (2021, doi 10.1111/2041-210X.13650): distance to the nearest training
vector in the space of standardised predictors weighted by importance, over the mean distance between training vectors.
The threshold is the largest DI that training vectors reach against vectors of *other* folds, outliers removed (above
the third quartile by more than 1.5 interquartile ranges).

A vector is one calendar month at one place: monthly means of the dynamic inputs beside the static ones. Daily weather
would make every storm look new; a month is what the seasons of a place are made of.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from fluxgrid.data.input_kernels import Rows, mean_rows
from fluxgrid.data.inputs import Inputs, InputSpec, one_hot
from fluxgrid.errors import TableError
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.prediction.nearest import NearestPoints
from fluxgrid.variables import VARIABLES


def month_starts(time: pd.DatetimeIndex) -> np.ndarray:
    """Return the index of the first step of each calendar month in `time`, (M,)."""
    month = time.year.to_numpy() * 12 + time.month.to_numpy()
    return np.flatnonzero(np.diff(month, prepend=month[0] - 1))


def month_vectors(inputs: Inputs, spec: InputSpec, time: pd.DatetimeIndex) -> np.ndarray:
    """Return the predictor vectors of each month and place.

    Parameters
    ----------
    inputs : Inputs
        T steps at n places.
    spec : InputSpec
        Order of the predictors.
    time : DatetimeIndex, (T,)

    Returns
    -------
    vectors : ndarray, (M, n, K), float64
        Means over the steps of the month at which no input is missing; NaN where there is none.
    """
    starts, varying = month_starts(time), [inputs.dynamic[name] for name in spec.dynamic]
    flat = [inputs.static[name][:, None].astype(np.float64) for name in spec.static]
    flat += [one_hot(inputs.static[name], len(VARIABLES[name].classes)).astype(np.float64) for name in spec.classes]
    place = np.concatenate([np.empty((inputs.missing.shape[1], 0)), *flat], axis=1)  # (n, S)
    vectors = np.empty((len(starts), len(place), len(varying) + place.shape[1]))
    mean_rows(Rows(varying), starts, inputs.missing, vectors)
    vectors[..., len(varying) :] = place
    return vectors


def fit_domain(vectors: np.ndarray, importance: np.ndarray, folds: np.ndarray) -> TrainingDomain:
    """Return the training domain and its threshold.

    Parameters
    ----------
    vectors : ndarray, (N, K)
        Month vectors of the training sites, finite.
    importance : ndarray, (K,), >= 0
        Importance of each predictor in the model.
    folds : ndarray of int, (N,)
        Cross-validation fold of the vector's site.

    Returns
    -------
    domain : TrainingDomain

    Raises
    ------
    TableError
        If all vectors are of one fold.
    """
    mean, std = vectors.mean(axis=0), vectors.std(axis=0)
    std = np.where(std > 1e-9, std, 1.0)
    weight = importance / max(float(importance.mean()), 1e-12)
    points = (vectors - mean) / std * weight
    spread = _mean_distance(points)
    if len(np.unique(folds)) < 2:
        message = (
            "All training months stand at one place, so nothing says how far the model may be carried. Train on towers "
            "of two site groups or more."
        )
        raise TableError(message)
    own = np.full(len(points), np.nan)
    for fold in np.unique(folds):
        inside = folds == fold
        own[inside] = cKDTree(points[~inside]).query(points[inside])[0] / spread
    return TrainingDomain(mean, std, weight, points, spread, _upper_whisker(own))


def _mean_distance(points: np.ndarray, most: int = 3000) -> float:
    """Return the mean distance between all pairs of vectors, from at most `most` evenly chosen ones."""
    chosen = np.unique(np.linspace(0, len(points) - 1, min(most, len(points))).astype(int))
    return float(pdist(points[chosen]).mean())


def _upper_whisker(values: np.ndarray) -> float:
    """Return the largest value that a box plot would not draw as an outlier."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(values[values <= high + 1.5 * (high - low)].max())


class Applicability:
    """Dissimilarity of inputs to a training domain; what is searched is built once.

    Parameters
    ----------
    domain : TrainingDomain
        Of the model that predicts.
    spec : InputSpec
        Inputs of the same model.
    """

    def __init__(self, domain: TrainingDomain, spec: InputSpec):
        self.domain = domain
        self.spec = spec
        self._points = NearestPoints(domain.points)

    def __call__(self, inputs: Inputs, time: pd.DatetimeIndex) -> np.ndarray:
        """Return the dissimilarity index of each step.

        Parameters
        ----------
        inputs : Inputs
            T steps at n places.
        time : DatetimeIndex, (T,)

        Returns
        -------
        index : ndarray, (T, n), float32
            The month's value at each of its steps; NaN where an input is missing all month.
        """
        vectors = month_vectors(inputs, self.spec, time)  # (M, n, K)
        rows = ((vectors - self.domain.mean) / self.domain.std * self.domain.weight).reshape(-1, vectors.shape[-1])
        known = np.isfinite(rows).all(axis=1)
        index = np.full(len(rows), np.nan, dtype=np.float32)
        index[known] = self._points.distances(rows[known]) / self.domain.mean_distance
        months = index.reshape(vectors.shape[:2])
        steps = np.diff(np.append(month_starts(time), len(time)))
        return np.repeat(months, steps, axis=0)
