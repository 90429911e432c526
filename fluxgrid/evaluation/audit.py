"""Physics audit: how far KGML-ag keeps to carbon balance, signs, bounds and responses, place by place.

Each diagnostic is a function of what a network says of fields; the closed ones are of what a map would write. The drift
of a calibration is its diagnostics minus those of the global model on the same fields (the evaluation that Zeng et al.
2025, arXiv:2512.16013, name as future work). Native signs of KGML-ag: GPP >= 0, Ra <= 0, Rh <= 0, and NEE positive to
the atmosphere, so that GPP + Ra + Rh + NEE = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fluxgrid.data.inputs import InputSpec
from fluxgrid.errors import ConfigError
from fluxgrid.models.spec import ModelSpec
from fluxgrid.prediction.closure import close_fluxes

TOLERANCE = 0.01
"""Share of |Ra + Rh| by which the balance may be open, of Liu et al. 2024 (doi:10.1038/s41467-023-43860-5)."""
ALL = "all"
"""What stands for all places together."""
GLOBAL = "global"
"""Name of the model that drift is counted from."""
COLUMNS = ("place", "model", "diagnostic", "value", "unit")
"""Of the table."""

_DERIVED = ModelSpec("audit", "kgml_ag", {}, "daily", InputSpec(("shortwave",)), 0, "UTC")


@dataclass(frozen=True, eq=False)
class FieldRun:
    """What a network says of n fields on T days of Y whole years, before any clamp or closure; native signs."""

    place: np.ndarray
    """Name of each field's place, (n,), str."""
    years: tuple[slice, ...]
    """Days of each year, Y of them."""
    gpp: np.ndarray
    """The GPP it reads, (n, T), float32, g m-2 d-1."""
    ra: np.ndarray
    """(n, T), float32, g m-2 d-1."""
    rh: np.ndarray
    """The same."""
    nee: np.ndarray
    """The network's own, not that of the closure; the same."""
    grain: np.ndarray
    """Yield, (n, Y), float32, g m-2."""

    def rows(self, index: np.ndarray) -> FieldRun:
        """Return some of the fields."""
        names = ("place", "gpp", "ra", "rh", "nee", "grain")
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return sums over each year, (n, Y), float64, of daily values (n, T)."""
        return np.stack([values[:, days].sum(axis=1, dtype=np.float64) for days in self.years], axis=1)

    def written(self) -> dict[str, np.ndarray]:
        """Return the daily fluxes a map of the field would hold, our signs, (n, T), float32, g m-2 d-1."""
        return close_fluxes({"gpp": self.gpp, "ra": -self.ra, "rh": -self.rh}, _DERIVED)


@dataclass(frozen=True, eq=False)
class Response:
    """What a network says of n fields when one input is set to each of V values; means over days, native signs."""

    place: np.ndarray
    """Name of each field's place, (n,), str."""
    values: np.ndarray
    """Of the input, rising, (V,), standard deviations."""
    ra: np.ndarray
    """(V, n), g m-2 d-1."""
    rh: np.ndarray
    """The same."""
    grain: np.ndarray
    """Yield, (V, n), standard deviations."""

    def rows(self, index: np.ndarray) -> Response:
        """Return some of the fields."""
        columns = {name: getattr(self, name)[:, index] for name in ("ra", "rh", "grain")}
        return replace(self, place=self.place[index], **columns)


def balance_residual(run: FieldRun) -> float:
    """Return mean |GPP + Ra + Rh + NEE| of the network's own NEE, g m-2 d-1; 0 closes."""
    return float(np.abs(_open(run)).mean())


def balance_open_share(run: FieldRun, tolerance: float = TOLERANCE) -> float:
    """Return the share of days with |GPP + Ra + Rh + NEE| > tolerance |Ra + Rh|, 0 to 1."""
    return float((np.abs(_open(run)) > tolerance * np.abs(_respired(run))).mean())


def balance_loss(run: FieldRun, tolerance: float = TOLERANCE) -> float:
    """Return mean ReLU(|GPP + Ra + Rh + NEE| - tolerance |Ra + Rh|), g m-2 d-1: the balance term of L_phys."""
    return float(np.maximum(np.abs(_open(run)) - tolerance * np.abs(_respired(run)), 0.0).mean())


def _respired(run: FieldRun) -> np.ndarray:
    """Return Ra + Rh, (n, T), float64."""
    return run.ra.astype(np.float64) + run.rh


def _open(run: FieldRun) -> np.ndarray:
    """Return GPP + Ra + Rh + NEE, (n, T), float64."""
    return _respired(run) + run.gpp + run.nee


def written_balance_error(run: FieldRun) -> float:
    """Return max |NEE - (RECO - GPP)| of what a map writes, g m-2 d-1 in single precision; must be 0."""
    flux = run.written()
    return float(np.abs(flux["nee"] - (flux["reco"] - flux["gpp"])).max())


def written_minimum(run: FieldRun, name: str) -> float:
    """Return min of ``ra`` or ``rh`` of what a map writes, g m-2 d-1, our sign; must not be below 0."""
    return float(run.written()[name].min())


def negative_share(native: np.ndarray) -> float:
    """Return the share of days on which a respiration takes carbon up: native R > 0, 0 to 1."""
    return float((native > 0).mean())


def negative_size(native: np.ndarray) -> float:
    """Return mean ReLU(R) of a respiration of native sign over all days, g m-2 d-1: what the border's clamp cuts."""
    return float(np.maximum(native, 0.0).mean(dtype=np.float64))


def yield_outside_share(run: FieldRun) -> float:
    """Return the share of years with a yield below 0 or above 0.5 sum GPP, 0 to 1."""
    return float((_yield_excess(run) > 0).mean())


def yield_excess(run: FieldRun) -> float:
    """Return mean ReLU(yield - 0.5 sum GPP) + mean ReLU(-yield), g m-2: the bounds' term of L_phys."""
    return float(_yield_excess(run).mean())


def _yield_excess(run: FieldRun) -> np.ndarray:
    """Return how far each year's yield is out of its bounds, (n, Y), g m-2."""
    return np.maximum(run.grain - 0.5 * run.sums(run.gpp), 0.0) + np.maximum(-run.grain, 0.0)


def residue_short_share(run: FieldRun) -> float:
    """Return the share of years with sum GPP + sum Ra - yield < 0, 0 to 1: the residue's ReLU cuts, carbon is lost."""
    return float((_residue(run) < 0).mean())


def residue_shortfall(run: FieldRun) -> float:
    """Return mean ReLU(yield - sum GPP - sum Ra), g m-2: carbon harvested and respired that was not taken up."""
    return float(np.maximum(-_residue(run), 0.0).mean())


def _residue(run: FieldRun) -> np.ndarray:
    """Return sum GPP + sum Ra - yield, (n, Y), g m-2."""
    return run.sums(run.gpp) + run.sums(run.ra) - run.grain


def consistency(curve: np.ndarray, reference: np.ndarray) -> float:
    """Return Pearson's correlation of two response curves (V,), -1 to 1; NaN where one does not move.

    Examples
    --------
    >>> round(consistency(np.array([0.0, 1.0, 2.0]), np.array([5.0, 4.0, 3.0])), 6)
    -1.0
    """
    a, b = (np.asarray(each, np.float64) - np.mean(each, dtype=np.float64) for each in (curve, reference))
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else float("nan")


def fall(curve: np.ndarray, values: np.ndarray) -> float:
    """Return sum_i ReLU(-(r_i - r_(i-1)) / (x_i - x_(i-1))), unit of r per unit of x; 0 for a curve that never falls.

    Examples
    --------
    >>> fall(np.array([0.0, 1.0, 0.5]), np.array([0.0, 1.0, 2.0]))
    0.5
    """
    return float(np.maximum(-np.diff(curve) / np.diff(values), 0.0).sum())


def slope(curve: np.ndarray, values: np.ndarray) -> float:
    """Return the least-squares slope of a curve r (V,) over x (V,), unit of r per unit of x.

    Examples
    --------
    >>> slope(np.array([1.0, 3.0, 5.0]), np.array([0.0, 1.0, 2.0]))
    2.0
    """
    x = np.asarray(values, np.float64) - np.mean(values, dtype=np.float64)
    return float(x @ np.asarray(curve, np.float64) / (x @ x))


@dataclass(frozen=True)
class Diagnostic:
    """What a row of the table is."""

    title: str
    unit: str
    wanted: str
    """What a model that keeps physics has."""


@dataclass(frozen=True)
class _Measured(Diagnostic):
    """A diagnostic of a run."""

    measure: Callable[[FieldRun], float]


_MEASURES = {
    "balance_residual": _Measured("|GPP + Ra + Rh + NEE| of the network's NEE", "g m-2 d-1", "0", balance_residual),
    "balance_open_share": _Measured("share of days open beyond 1 % of |Ra + Rh|", "1", "0", balance_open_share),
    "balance_loss": _Measured("mass-balance term of L_phys", "g m-2 d-1", "0", balance_loss),
    "written_balance_error": _Measured("max |NEE - (RECO - GPP)| as written", "g m-2 d-1", "0", written_balance_error),
    "ra_negative_share": _Measured("share of days with raw Ra below 0", "1", "0", lambda run: negative_share(run.ra)),
    "ra_negative_size": _Measured("mean of raw Ra below 0", "g m-2 d-1", "0", lambda run: negative_size(run.ra)),
    "rh_negative_share": _Measured("share of days with raw Rh below 0", "1", "0", lambda run: negative_share(run.rh)),
    "rh_negative_size": _Measured("mean of raw Rh below 0", "g m-2 d-1", "0", lambda run: negative_size(run.rh)),
    "written_ra_minimum": _Measured("least Ra as written", "g m-2 d-1", ">= 0", lambda r: written_minimum(r, "ra")),
    "written_rh_minimum": _Measured("least Rh as written", "g m-2 d-1", ">= 0", lambda r: written_minimum(r, "rh")),
    "yield_outside_share": _Measured("share of years with yield outside 0 to GPP / 2", "1", "0", yield_outside_share),
    "yield_excess": _Measured("yield outside 0 to GPP / 2", "g m-2", "0", yield_excess),
    "residue_short_share": _Measured("share of years with less GPP than Ra and yield", "1", "0", residue_short_share),
    "residue_shortfall": _Measured("GPP lacking for Ra and yield", "g m-2", "0", residue_shortfall),
}

CONSISTENCY_LIMITS = {"TSOC": 0.9, "GPP": 0.8, "RADN": 0.8, "TMAX_AIR": 0.8, "Year": 0.8}
"""Inputs whose responses are audited, and the least correlation that step 5 of Liu et al. 2024 leaves unpunished."""
YIELD_RISES_WITH = ("GPP", "TSOC", "Year")
"""Inputs with which the yield must not fall."""
_RISES = {"rh_{}_TSOC": "|Rh|", **{f"yield_{{}}_{feature}": "yield" for feature in YIELD_RISES_WITH}}
_SD = {"|Rh|": "g m-2 d-1 per s.d.", "yield": "s.d. per s.d."}

DIAGNOSTICS: dict[str, Diagnostic] = {
    **_MEASURES,
    **{
        f"consistency_{flux}_{feature}": Diagnostic(
            f"{flux.capitalize()} over {feature}: correlation with the global curve", "1", f">= {least}"
        )
        for feature, least in CONSISTENCY_LIMITS.items()
        for flux in ("ra", "rh")
    },
    **{
        f"consistency_{flux}": Diagnostic(
            f"{flux.capitalize()}: least correlation of a response with the global one",
            "1",
            f">= {min(CONSISTENCY_LIMITS.values())}",
        )
        for flux in ("ra", "rh")
    },
    **{
        pattern.format(part): Diagnostic(f"{what} over {pattern.rsplit('_')[-1]}: {words}", _SD[what], wanted)
        for pattern, what in _RISES.items()
        for part, words, wanted in (("fall", "sum of falling slopes (L_phys)", "0"), ("slope", "slope", "> 0"))
    },
}
"""All diagnostics in the order of the tables."""


def audit_run(run: FieldRun) -> dict[str, float]:
    """Return the diagnostics of fluxes and yields.

    Parameters
    ----------
    run : FieldRun

    Returns
    -------
    values : dict of str to float
        By name of `DIAGNOSTICS`.
    """
    return {name: each.measure(run) for name, each in _MEASURES.items()}


def audit_responses(curves: Mapping[str, Response], reference: Mapping[str, Response]) -> dict[str, float]:
    """Return the diagnostics of response curves, each the mean over fields.

    Parameters
    ----------
    curves : mapping of str to Response
        By input, `CONSISTENCY_LIMITS`.
    reference : mapping of str to Response
        The same of the global model, at the same fields.

    Returns
    -------
    values : dict of str to float
        By name of `DIAGNOSTICS`.
    """
    found = {
        f"consistency_{flux}_{feature}": consistency(_mean(curves[feature], flux), _mean(reference[feature], flux))
        for feature in CONSISTENCY_LIMITS
        for flux in ("ra", "rh")
    }
    for flux in ("ra", "rh"):
        known = [
            value for name, value in found.items() if name.startswith(f"consistency_{flux}_") and not np.isnan(value)
        ]
        found[f"consistency_{flux}"] = min(known, default=float("nan"))
    rising = {"rh_{}_TSOC": -_mean(curves["TSOC"], "rh")}
    rising |= {f"yield_{{}}_{feature}": _mean(curves[feature], "grain") for feature in YIELD_RISES_WITH}
    for pattern, curve in rising.items():
        values = curves[pattern.rsplit("_")[-1]].values
        found |= {pattern.format("fall"): fall(curve, values), pattern.format("slope"): slope(curve, values)}
    return found


def _mean(response: Response, name: str) -> np.ndarray:
    """Return a curve averaged over fields, (V,), float64."""
    return np.asarray(getattr(response, name).mean(axis=1, dtype=np.float64))


def audit_model(
    model: str, run: FieldRun, curves: Mapping[str, Response], reference: Mapping[str, Response]
) -> pd.DataFrame:
    """Return all diagnostics of one model, at each place and at all together.

    Parameters
    ----------
    model : str
        Its name in the table.
    run : FieldRun
    curves, reference : mapping of str to Response
        Of the model and of the global one, by input, at the same fields.

    Returns
    -------
    table : DataFrame
        Columns `COLUMNS`; places in the order of their first field, then `ALL`.

    Raises
    ------
    ConfigError
        If a place is called as `ALL` is, or has no field among the responses.
    """
    places = list(dict.fromkeys(run.place.tolist()))
    answered = set(next(iter(curves.values())).place.tolist())
    if wrong := [place for place in places if place == ALL or place not in answered]:
        message = (
            f"The audit needs responses of fields of every place, and none called {ALL!r}; got {', '.join(wrong)}. "
            "Rename the place, or vary the inputs of some of its fields too."
        )
        raise ConfigError(message)
    rows = []
    for place in (*places, ALL):
        own, its = _part(curves, place), _part(reference, place)
        values = audit_run(run.rows(_at(run.place, place))) | audit_responses(own, its)
        rows += [(place, model, name, values[name], each.unit) for name, each in DIAGNOSTICS.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _at(names: np.ndarray, place: str) -> np.ndarray:
    """Return which fields a row of the table is about, bool (n,)."""
    return np.ones(len(names), bool) if place == ALL else names == place


def _part(curves: Mapping[str, Response], place: str) -> dict[str, Response]:
    """Return the responses at a place."""
    return {feature: each.rows(_at(each.place, place)) for feature, each in curves.items()}
