"""Arrays of a synthetic KGML-ag set as files hold them, brought to one layout.

PyKGML stores a set in two ways, both with days before sites:

* *prepared*: ``X`` (days, sites, 19), ``Y1`` (days, sites, 3: Ra, Rh, NEE), ``Y2`` (years, sites, 1: Yield) with
  ``X_scaler`` (19, 2), ``Y1_scaler`` (3, 2), ``Y2_scaler`` (1, 2);
* *deposited*: ``X`` (days, sites, 12: nine inputs of the day, Ra, Rh, grain carbon) with ``X_scaler`` (12, 2), and
  ``Xsp`` (sites, 9: soil) with ``Xsp_scaler`` (9, 2). NEE is not stored: it is -(GPP + Ra + Rh) by definition.

Sites before days are taken as well, and ``Y`` and ``Y_scaler`` for ``Y1`` and ``Y1_scaler``. ``Y`` may hold the yield
of the year as its fourth column, repeated over the days.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fluxgrid.data.kgml import KGML_FEATURES, KGML_YEAR_DAYS, feature_index

Arrays = Mapping[str, np.ndarray]

OUTPUTS = ("ra", "rh", "nee", "yield")
_N = len(KGML_FEATURES)
_WEATHER = 9  # inputs of the day in the deposited layout, up to GPP
_DEPOSITED = _WEATHER + 3
_GRAIN_DAY = -2  # of the year: PyKGML reads the grain carbon of 30 December, before ecosys clears the field
_FIRST_YEAR = 2001
_ALIASES = {"Y": "Y1", "Y_scaler": "Y1_scaler", "Year": "years"}


@dataclass(frozen=True, eq=False)
class Layout:
    """One layout: physical units, sites before days."""

    features: np.ndarray
    """(sites, days, 19)"""
    daily: np.ndarray
    """(sites, days, 3): Ra, Rh, NEE"""
    grain: np.ndarray
    """(sites, years)"""
    scaler_features: np.ndarray | None
    """(19, 2), where the file has one for every input."""
    scaler_outputs: np.ndarray | None
    """(4, 2), where the file has one for every output."""


def known_names(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return the arrays by PyKGML's names."""
    return {_ALIASES.get(name, name): np.asarray(values) for name, values in arrays.items()}


def layout_problems(arrays: Arrays) -> list[str]:
    """Return what keeps arrays from being brought to one layout: missing ones, shapes, kinds, lengths."""
    missing = [name for name in _wanted(arrays) if name not in arrays]
    if missing:
        found = ", ".join(f"{name} {values.shape}" for name, values in arrays.items()) or "nothing"
        return [f"no array {name}; found {found}" for name in missing]
    kinds = [
        f"{name} holds {arrays[name].dtype}, not numbers"
        for name in _wanted(arrays)
        if arrays[name].dtype.kind not in "fiu"
    ]
    return kinds or [*_shape_problems(arrays)]


def to_layout(arrays: Arrays) -> Layout:
    """Return arrays without `layout_problems` in one layout."""
    return _deposited(arrays) if _is_deposited(arrays) else _prepared(arrays)


def _is_deposited(arrays: Arrays) -> bool:
    """Return whether the soil lies apart."""
    return "Xsp" in arrays


def _wanted(arrays: Arrays) -> list[str]:
    """Return the names of the arrays without which there is no set."""
    if _is_deposited(arrays):
        return ["X", "X_scaler", "Xsp", "Xsp_scaler"]
    has_yield = "Y1" in arrays and arrays["Y1"].ndim == 3 and arrays["Y1"].shape[2] == len(OUTPUTS)
    return ["X", "Y1", "Y1_scaler", *([] if has_yield else ["Y2", "Y2_scaler"])]


def _shape_problems(arrays: Arrays) -> Iterator[str]:
    """Yield what is wrong with the shapes."""
    x = arrays["X"]
    width = _DEPOSITED if _is_deposited(arrays) else _N
    if x.ndim != 3 or x.shape[2] != width or not x.size:
        yield f"X has the shape {x.shape}; it must be (sites, days, {width}) or (days, sites, {width})"
        return
    if all(length % KGML_YEAR_DAYS for length in x.shape[:2]):
        yield f"X has {x.shape[0]} x {x.shape[1]} sites and days; days must be a multiple of {KGML_YEAR_DAYS}"
        return
    sites, days = _sites_first(x).shape[:2]
    for name, shapes in _expected(arrays, sites, days).items():
        if name in arrays and arrays[name].shape not in shapes:
            right = " or ".join(map(str, shapes))
            yield f"{name} has the shape {arrays[name].shape}; it must be {right} with X {x.shape}"
    if not _is_deposited(arrays) and "X_scaler" not in arrays and not _is_physical(x):
        yield "X is standardised, because its years are no calendar years, and there is no X_scaler to undo it"


def _expected(arrays: Arrays, sites: int, days: int) -> dict[str, list[tuple[int, ...]]]:
    """Return the shapes each array may have."""
    years = days // KGML_YEAR_DAYS
    if _is_deposited(arrays):
        n_soil = _N - _WEATHER - 1
        return {
            "X_scaler": [(_DEPOSITED, 2)],
            "Xsp": [(sites, n_soil)],
            "Xsp_scaler": [(n_soil, 2)],
            "years": [(years,)],
        }
    n = 4 if arrays["Y1"].ndim == 3 and arrays["Y1"].shape[2] == 4 else 3
    turned = arrays["X"].shape[:2] != (sites, days)
    by_day, by_year = ((days, sites), (years, sites)) if turned else ((sites, days), (sites, years))
    return {
        "X_scaler": [(_N, 2)],
        "Y1": [(*by_day, n)],
        "Y1_scaler": [(n, 2)],
        "Y2": [by_year, (*by_year, 1)],
        "Y2_scaler": [(1, 2), (2,)],
        "years": [(years,)],
    }


def _sites_first(values: np.ndarray) -> np.ndarray:
    """Return (sites, days, n): days are the axis that is a multiple of 365; sites come first where both are."""
    return values if values.shape[1] % KGML_YEAR_DAYS == 0 else values.swapaxes(0, 1)


def _prepared(arrays: Arrays) -> Layout:
    """Return the prepared layout in physical units."""
    turned = _sites_first(arrays["X"]) is not arrays["X"]
    features, daily = (_float(_turn(arrays[name], turned)) for name in ("X", "Y1"))
    scaler = arrays.get("X_scaler")
    if scaler is not None and not _is_physical(features):
        features = _unscaled(features, scaler)
    both = arrays["Y1_scaler"]
    if daily.shape[2] == len(OUTPUTS):
        grain = daily[:, :, 3].reshape(len(daily), -1, KGML_YEAR_DAYS)[:, :, _GRAIN_DAY]
    else:
        both = np.concatenate([both, arrays["Y2_scaler"].reshape(1, 2)])
        grain = _float(_turn(arrays["Y2"], turned)).reshape(len(features), -1)
    return Layout(features, _unscaled(daily[:, :, :3], both[:3]), _unscaled(grain, both[3]), scaler, both)


def _deposited(arrays: Arrays) -> Layout:
    """Return the deposited layout in physical units; NEE and its scaler, and that of Year, are not in the file."""
    x = _unscaled(_float(_sites_first(arrays["X"])), arrays["X_scaler"])
    soil = _unscaled(_float(arrays["Xsp"]), arrays["Xsp_scaler"])
    sites, days = x.shape[:2]
    years = np.asarray(arrays.get("years", _FIRST_YEAR + np.arange(days // KGML_YEAR_DAYS)))
    features = np.empty((sites, days, _N), np.float32)
    features[:, :, :_WEATHER] = x[:, :, :_WEATHER]
    features[:, :, _WEATHER] = np.repeat(years, KGML_YEAR_DAYS)
    features[:, :, _WEATHER + 1 :] = soil[:, None, :]
    ra, rh = x[:, :, _WEATHER], x[:, :, _WEATHER + 1]
    daily = np.stack([ra, rh, -(x[:, :, feature_index("GPP")] + ra + rh)], axis=2)
    grain = x[:, :, _WEATHER + 2].reshape(sites, -1, KGML_YEAR_DAYS)[:, :, _GRAIN_DAY]
    year = np.array([[np.mean(years), np.std(years) or 1.0]])
    scaler = np.concatenate([arrays["X_scaler"][:_WEATHER], year, arrays["Xsp_scaler"]])
    return Layout(features, daily, grain, scaler, None)


def _is_physical(features: np.ndarray) -> bool:
    """Return whether inputs are in physical units: calendar years are thousands, standardised ones are not."""
    return bool(np.nanmedian(features[:, :, feature_index("Year")]) > 500)


def _turn(values: np.ndarray, turned: bool) -> np.ndarray:
    """Return an array with its first two axes exchanged where the file has days first."""
    return values.swapaxes(0, 1) if turned else values


def _float(values: np.ndarray) -> np.ndarray:
    """Return values as float32, masked ones NaN."""
    return np.asarray(np.ma.filled(np.ma.asarray(values, np.float32), np.nan))


def _unscaled(values: np.ndarray, scaler: np.ndarray) -> np.ndarray:
    """Return values (..., n), or (...) of one quantity, in physical units: computed in float64, given in float32."""
    mean, std = scaler[..., 0], scaler[..., 1]
    return (values * std + mean).astype(np.float32)
