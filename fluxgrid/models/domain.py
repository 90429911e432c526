"""The part of input space a model was trained in, kept with its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

DOMAIN = "domain.safetensors"


@dataclass(frozen=True, eq=False)
class TrainingDomain:
    """Training set in the space in which dissimilarity is measured (Meyer & Pebesma 2021).

    Parameters
    ----------
    mean, std, weight : ndarray, (K,), float64
        Standardisation and importance of each predictor.
    points : ndarray, (N, K), float64
        Training vectors, standardised and weighted.
    mean_distance : float
        Mean distance between training vectors.
    threshold : float
        Largest dissimilarity index still inside the area of applicability.
    """

    mean: np.ndarray
    std: np.ndarray
    weight: np.ndarray
    points: np.ndarray
    mean_distance: float
    threshold: float

    def save(self, folder: Path) -> Path:
        """Write ``domain.safetensors`` into a checkpoint folder."""
        path = folder / DOMAIN
        scalars = np.array([self.mean_distance, self.threshold])
        arrays = {"mean": self.mean, "std": self.std, "weight": self.weight, "scalars": scalars}
        # float32 halves the file; the distances that count are far above its rounding
        save_file({**arrays, "points": self.points.astype(np.float32)}, path)
        return path

    @classmethod
    def unknown(cls, predictors: int) -> TrainingDomain:
        """Return a domain of so many predictors that nothing lies outside of: scores do not ask for one."""
        ones = np.ones(predictors)
        return cls(0.0 * ones, ones, ones, np.zeros((1, predictors)), 1.0, np.inf)

    @classmethod
    def load(cls, folder: Path) -> TrainingDomain:
        """Read what `save` wrote."""
        arrays = load_file(folder / DOMAIN)
        mean_distance, threshold = map(float, arrays["scalars"])
        points = arrays["points"].astype(np.float64)
        return cls(arrays["mean"], arrays["std"], arrays["weight"], points, mean_distance, threshold)
