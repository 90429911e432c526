"""Scaling of model inputs: mean and standard deviation, fitted on training sites only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation per named input.

    Parameters
    ----------
    names : tuple of str
        Inputs, in the order of the arrays that will be scaled.
    mean, std : tuple of float
        One per name, in the unit of the Variable table; ``std`` > 0.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, values: Mapping[str, np.ndarray]) -> Scaler:
        """Fit on training values, NaN ignored.

        Parameters
        ----------
        values : mapping of str to ndarray
            All training values of each input, any shape, physical units.

        Returns
        -------
        scaler : Scaler
            An input that never varies gets a standard deviation of 1.

        Examples
        --------
        >>> Scaler.fit({"elevation": np.array([1.0, 3.0, np.nan])}).mean
        (2.0,)
        """
        mean = tuple(float(np.nanmean(value.astype(np.float64))) for value in values.values())
        spread = (float(np.nanstd(value.astype(np.float64))) for value in values.values())
        return cls(tuple(values), mean, tuple(std if std > 1e-9 else 1.0 for std in spread))

    def apply(self, name: str, values: np.ndarray) -> np.ndarray:
        """Return z-scores of one input.

        Parameters
        ----------
        name : str
            The input.
        values : ndarray, any shape, physical units

        Returns
        -------
        scaled : ndarray, float32, same shape
        """
        index = self.names.index(name)
        return ((values - np.float32(self.mean[index])) / np.float32(self.std[index])).astype(np.float32, copy=False)

    def moments(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of some of the inputs, (F,) and (F,), float32."""
        index = [self.names.index(name) for name in names]
        mean, std = (np.array([values[i] for i in index], np.float32) for values in (self.mean, self.std))
        return mean, std

    def to_json(self) -> str:
        """Return the text stored in a checkpoint."""
        rows = {name: {"mean": m, "std": s} for name, m, s in zip(self.names, self.mean, self.std, strict=True)}
        return json.dumps(rows, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Scaler:
        """Return the scaler stored by `to_json`; KeyError, TypeError or ValueError where the text does not fit."""
        rows = json.loads(text)
        return cls(tuple(rows), tuple(r["mean"] for r in rows.values()), tuple(r["std"] for r in rows.values()))
