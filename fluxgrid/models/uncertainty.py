"""How far the fluxes of an ensemble are off at a place nobody measured: conformal half-widths, kept with its weights.

A half-width is ``factor * sqrt(spread**2 + floor**2)``: the spread of the members on that step, never less than a
floor, times a factor that held at sites the members were not trained on (`fluxgrid.training.conformal`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fluxgrid.variables import STANDARD_ERROR_COVERAGE

UNCERTAINTY = "uncertainty.json"

LEVELS = (STANDARD_ERROR_COVERAGE, 0.9)
"""Coverages that half-widths are fitted for."""

_MEANING = (
    "half-width = factor * sqrt(spread**2 + floor**2), spread: standard deviation of the members on that step. The "
    "given share of the steps of a site of no training group, in the mean over such sites, was observed within the "
    "half-width of what is predicted (null: too few site groups to say). It is of one step: errors of neighbouring "
    "steps and cells go together, so half-widths must not be averaged down in sums and means."
)


@dataclass(frozen=True)
class FluxUncertainty:
    """Half-widths of one flux."""

    floor: float
    """Least spread that counts, g m-2 d-1."""
    factors: Mapping[float, float | None]
    """By coverage; None where there were too few site groups for it."""
    groups: int
    """Site groups that the factors stand on."""
    steps: int
    """Their days or months together."""

    def half_width(self, level: float, spread: np.ndarray) -> np.ndarray:
        """Return the half-width of every step.

        Parameters
        ----------
        level : float
            Coverage, one of those fitted.
        spread : ndarray, any shape, g m-2 d-1
            Standard deviation of the members.

        Returns
        -------
        half_width : ndarray, float32, same shape, g m-2 d-1

        Raises
        ------
        KeyError
            If there is none at that level.

        Examples
        --------
        >>> FluxUncertainty(3.0, {0.9: 2.0}, 20, 400).half_width(0.9, np.array([0.0, 4.0]))
        array([ 6., 10.], dtype=float32)
        """
        factor = self.factors.get(level)
        if factor is None:
            raise KeyError(level)
        scale = np.sqrt(spread.astype(np.float64) ** 2 + self.floor**2)
        return (factor * scale).astype(np.float32)


@dataclass(frozen=True)
class Uncertainty:
    """Half-widths of the fluxes of an ensemble."""

    fluxes: Mapping[str, FluxUncertainty]
    """By flux; one that no training site observed is not there."""

    def known(self, level: float = STANDARD_ERROR_COVERAGE) -> tuple[str, ...]:
        """Return the fluxes that have a half-width at a level."""
        return tuple(name for name, flux in self.fluxes.items() if flux.factors.get(level) is not None)

    def text(self, level: float = STANDARD_ERROR_COVERAGE) -> str:
        """Return one sentence for people, such as a map's metadata."""
        about = ", ".join(
            f"{name} {self.fluxes[name].groups} site groups and {self.fluxes[name].steps} steps"
            for name in self.known(level)
        )
        return (
            f"coverage target {level:g} for one step of a site of no training group; conformal, site groups taken as "
            f"exchangeable: {about or 'too few site groups'}"
        )

    def save(self, folder: Path) -> Path:
        """Write ``uncertainty.json`` into a checkpoint folder."""
        rows = {
            name: {
                "floor": flux.floor,
                "factors": {f"{level:g}": factor for level, factor in flux.factors.items()},
                "groups": flux.groups,
                "steps": flux.steps,
            }
            for name, flux in self.fluxes.items()
        }
        path = folder / UNCERTAINTY
        path.write_text(json.dumps({"meaning": _MEANING, "fluxes": rows}, indent=2), encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: Path) -> Uncertainty:
        """Read what `save` wrote; ValueError, KeyError or TypeError where it does not fit."""
        rows = json.loads((folder / UNCERTAINTY).read_text(encoding="utf-8"))["fluxes"]
        if not isinstance(rows, dict):
            message = f"{UNCERTAINTY} holds no table of fluxes: {rows!r}"
            raise ValueError(message)
        return cls({name: _flux_of(row) for name, row in rows.items()})


def _flux_of(row: dict) -> FluxUncertainty:
    """Return the half-widths of one flux from JSON."""
    factors = {float(level): None if factor is None else float(factor) for level, factor in row["factors"].items()}
    floor = float(row["floor"])
    if not all(np.isfinite(value) and value >= 0 for value in (floor, *(f for f in factors.values() if f is not None))):
        message = f"{UNCERTAINTY} holds a floor or factor that is no number of 0 or more: {row}"
        raise ValueError(message)
    return FluxUncertainty(floor, factors, int(row["groups"]), int(row["steps"]))
