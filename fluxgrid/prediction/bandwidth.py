"""How far a calibration carries, chosen by leaving places out.

Each place is predicted by the heads of the others, as a cell without a tower of its own would be. The error of a blend
is a quadratic form in its weights, so that outputs are needed once and every bandwidth costs a few products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
import pandas as pd

from fluxgrid.errors import itemise
from fluxgrid.models.places import Bandwidth, CalibratedPlaces
from fluxgrid.prediction.blend import kept_weights, kernel, place_distances

_TIE = 1e-9
"""Relative difference of errors that is rounding."""
_NUMBERS = ["ground_km", "climate", "shrink", "most"]


@dataclass(frozen=True)
class BandwidthGrid:
    """The bandwidths tried: all combinations of these numbers.

    Ours, no paper's. Along the ground from the spacing of neighbouring towers to a third of a continent; in climate
    from a quarter of the spread over places to so wide that it hardly tells places of one region apart; ``shrink`` from
    near trust in a single place (0.95 of the weight where it stands) to a half; ``most`` bounds the cost of a map.
    """

    ground_km: tuple[float, ...] = (50.0, 100.0, 200.0, 400.0, 800.0)
    climate: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    shrink: tuple[float, ...] = (0.05, 0.3, 1.0)
    most: tuple[int, ...] = (4, 8)

    def __iter__(self) -> Iterator[Bandwidth]:
        """Yield every bandwidth of the grid."""
        for numbers in product(self.ground_km, self.climate, self.shrink, self.most):
            yield Bandwidth(*numbers)

    def at_edge(self, bandwidth: Bandwidth) -> tuple[str, ...]:
        """Return the numbers of a bandwidth that are the least or the most that was tried: the best may lie beyond."""
        return tuple(n for n in _NUMBERS if getattr(bandwidth, n) in (min(getattr(self, n)), max(getattr(self, n))))


DEFAULT_GRID = BandwidthGrid()


@dataclass(frozen=True, eq=False)
class PlaceErrors:
    """Squared error at each place of any blend of heads: base - 2 cross.w + w.gram.w, with w the weights of the heads.

    With r the residual of the global model at a held-out sample and d_p what the head of place p adds to it, the blend
    leaves r - sum_p w_p d_p, whose mean square is this form.

    Parameters
    ----------
    gram : ndarray, (P, P, P), float64
        Of each place, the mean of d_p d_q.
    cross : ndarray, (P, P), float64
        Of each place, the mean of d_p r.
    base : ndarray, (P,), float64, >= 0
        Mean square error of the global model.

    Raises
    ------
    ValueError
        If the shapes do not fit or a value is not finite.
    """

    gram: np.ndarray
    cross: np.ndarray
    base: np.ndarray

    def __post_init__(self) -> None:
        p = len(self.base)
        shapes = {"gram": (p, p, p), "cross": (p, p), "base": (p,)}
        problems = [
            f"{name}: shape {getattr(self, name).shape}, expected {shape}"
            for name, shape in shapes.items()
            if getattr(self, name).shape != shape
        ]
        problems += [f"{name}: not all finite" for name in shapes if not np.isfinite(getattr(self, name)).all()]
        if problems:
            raise ValueError(itemise("The errors at places do not fit together", problems))

    @classmethod
    def from_outputs(
        cls,
        global_outputs: Sequence[np.ndarray],
        head_outputs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        scale: float | Sequence[np.ndarray] = 1.0,
    ) -> PlaceErrors:
        """Return the errors of held-out samples.

        Parameters
        ----------
        global_outputs : sequence of ndarray, (m,)
            Of the global model at each place's own samples; several fluxes may follow each other.
        head_outputs : sequence of ndarray, (P, m)
            Of every place's head at the same samples.
        targets : sequence of ndarray, (m,)
            What was observed in them. Samples with a NaN in target or outputs do not count.
        scale : float, or sequence of ndarray, (m,), > 0
            What errors are divided by, such as the standard deviation of the flux of each sample.

        Raises
        ------
        ValueError
            If the sequences differ in length, or naming each place whose shapes differ or without a sample.
        """
        scales: Sequence[float | np.ndarray] = (
            [float(scale)] * len(targets) if isinstance(scale, int | float) else list(scale)
        )
        if not len(global_outputs) == len(head_outputs) == len(targets) == len(scales):
            counts = [len(each) for each in (global_outputs, head_outputs, targets, scales)]
            message = f"Global outputs, outputs of heads, targets and scales are of {counts} places; give all for each."
            raise ValueError(message)
        rows = list(zip(global_outputs, head_outputs, targets, scales, strict=True))
        if problems := [text for q, row in enumerate(rows) if (text := _problem(q, len(rows), *row[:3]))]:
            raise ValueError(itemise("The outputs at places cannot be compared", problems))
        forms = [_form(out, heads, target, divisor) for out, heads, target, divisor in rows]
        gram, cross, base = (np.array(part, np.float64) for part in zip(*forms, strict=True))
        return cls(gram, cross, base)

    def blended(self, index: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the mean square error at each place of a blend.

        Parameters
        ----------
        index : ndarray of int, (P, k)
            Heads that each place blends.
        weights : ndarray, (P, k)

        Returns
        -------
        mse : ndarray, (P,)
        """
        place = np.arange(len(self.base))[:, None]
        gram = self.gram[place[:, :, None], index[:, :, None], index[:, None, :]]  # (P, k, k)
        square = np.einsum("pi,pij,pj->p", weights, gram, weights)
        return self.base - 2 * (self.cross[place, index] * weights).sum(axis=1) + square


def _problem(q: int, count: int, outputs: np.ndarray, heads: np.ndarray, target: np.ndarray) -> str:
    """Say what is wrong with the samples of a place, if anything."""
    wanted = np.shape(target), (count, *np.shape(target))
    if (np.shape(outputs), np.shape(heads)) != wanted or np.ndim(target) != 1:
        return (
            f"place {q}: target {np.shape(target)}, global outputs {np.shape(outputs)}, heads {np.shape(heads)}; "
            f"expected (m,), (m,) and ({count}, m)"
        )
    return "" if _counted(outputs, heads, target).any() else f"place {q}: no sample without NaN; leave the place out"


def _counted(outputs: np.ndarray, heads: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return which samples are known in all outputs and in the target, (m,)."""
    return np.isfinite(target) & np.isfinite(outputs) & np.isfinite(heads).all(axis=0)


def _form(
    outputs: np.ndarray, heads: np.ndarray, target: np.ndarray, scale: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return gram (P, P), cross (P,) and base of one place."""
    counted = _counted(outputs, heads, target)
    divisor = np.broadcast_to(np.asarray(scale, np.float64), np.shape(target))[counted]
    known = np.asarray(outputs, np.float64)[counted]
    residual = (np.asarray(target, np.float64)[counted] - known) / divisor
    added = (np.asarray(heads, np.float64)[:, counted] - known) / divisor
    count = len(residual)
    return added @ added.T / count, added @ residual / count, float(residual @ residual) / count


def choose_bandwidth(
    places: CalibratedPlaces,
    errors: PlaceErrors,
    grid: BandwidthGrid = DEFAULT_GRID,
    groups: Sequence[str] | None = None,
) -> tuple[Bandwidth, pd.DataFrame]:
    """Return the bandwidth whose blends err least at places whose own head is left out.

    Parameters
    ----------
    places : CalibratedPlaces
        P places; a bandwidth they have already is not looked at.
    errors : PlaceErrors
        Of the same places in the same order.
    grid : BandwidthGrid, optional
        What is tried.
    groups : sequence of str, (P,), optional
        Places of one group tell of the same ground, such as the towers of one farm: a place is predicted without any of
        its group. Each is a group of its own when left out.

    Returns
    -------
    bandwidth : Bandwidth
        Of least mean error over places; among ties the smoothest, that is the widest along the ground, then in climate,
        then the nearest to the global model, then of most places.
    table : DataFrame
        One row a bandwidth: ground_km, climate, shrink, most, ``mse`` (mean over places), ``relative`` (the same over
        that of the global model), ``relative_place`` (mean over places of the ratio), ``better`` (share of places
        where the blend errs less than the global model), ``global_weight`` (mean), ``chosen``. Where the chosen
        ``relative`` is not below 1 the heads do not carry, and the global model is the better map. Being the least of
        many, the chosen error is a little too low: score a map at other places.

    Raises
    ------
    ValueError
        If places, errors and groups are not of one number.

    Notes
    -----
    Leave-one-out cross-validation of a kernel's bandwidth: Haerdle, W. and Marron, J. S. (1985): Optimal bandwidth
    selection in nonparametric regression function estimation, https://doi.org/10.1214/aos/1176349748
    """
    names = np.asarray(places.names if groups is None else groups)
    if not len(places) == len(errors.base) == len(names):
        message = (
            f"There are {len(places)} places, errors of {len(errors.base)} and {len(names)} groups; give one of each."
        )
        raise ValueError(message)
    ground, climate = place_distances(places.latitude, places.longitude, places.climate, places)
    allowed = names[:, None] != names
    candidates = list(grid)
    rows = []
    for bandwidth in candidates:
        index, weights = kept_weights(np.where(allowed, kernel(ground, climate, bandwidth), 0.0), bandwidth)
        score = _score(errors, errors.blended(index, weights))
        rows.append({**asdict(bandwidth), **score, "global_weight": 1 - float(weights.sum(axis=1).mean())})
    table = pd.DataFrame(rows)
    near = table[table["mse"] <= table["mse"].min() + _TIE * errors.base.mean()]
    best = near.sort_values(_NUMBERS, ascending=False).index[0]
    table["chosen"] = table.index == best
    return candidates[best], table


def _score(errors: PlaceErrors, mse: np.ndarray) -> dict[str, float]:
    """Return the columns of the table that follow from the errors at places, (P,)."""
    tiny = np.finfo(np.float64).tiny  # where the global model is perfect, a blend can only be worse
    return {
        "mse": float(mse.mean()),
        "relative": float(mse.mean() / max(errors.base.mean(), tiny)),
        "relative_place": float((mse / np.maximum(errors.base, tiny)).mean()),
        "better": float((mse < errors.base).mean()),
    }
