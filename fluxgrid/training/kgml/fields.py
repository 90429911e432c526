"""Fields of corn and soybean of the reference world's process model: what KGML-ag is pretrained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fluxgrid.data.crop_inputs import CORN_CODE, CROP_FORCINGS, CROP_STATICS, GPP, SOYBEAN_CODE, crop_features
from fluxgrid.data.kgml import KGML_YEAR_DAYS
from fluxgrid.errors import ConfigError
from fluxgrid.simulation import Places, places_at
from fluxgrid.simulation.land import COLUMNS
from fluxgrid.simulation.process import KIND_OF, KINDS, run_years
from fluxgrid.sources.kgml_sets import KGMLSet

ROTATIONS = ("corn_soy", "soy_corn", "corn_corn")
"""Ways corn and soybean follow each other, names of the world's soil columns."""


@dataclass(frozen=True, eq=False)
class CropFields:
    """Fields under corn and soybean over whole calendar years."""

    time: pd.DatetimeIndex
    """Days, (T,)."""
    features: np.ndarray
    """Inputs of KGML-ag, (n, T, 19), float32, physical units; GPP is the process model's own."""
    ra: np.ndarray
    """Autotrophic respiration, (n, T), float32, g m-2 d-1, >= 0."""
    rh: np.ndarray
    """Heterotrophic respiration, the same."""
    grain: np.ndarray
    """Carbon in the harvested grain of each year, (n, Y), float32, g m-2."""
    latitude: np.ndarray
    """(n,), degrees."""
    longitude: np.ndarray
    """(n,), degrees."""
    place: np.ndarray
    """Which of the places asked for, (n,)."""

    def __len__(self) -> int:
        return len(self.latitude)

    @property
    def years(self) -> np.ndarray:
        """Calendar years, (Y,)."""
        return np.unique(self.time.year)

    def days(self, year: int) -> slice:
        """Return the days of a year."""
        first, last = np.searchsorted(self.time.year, [year, year + 1])
        return slice(int(first), int(last))

    @property
    def nee(self) -> np.ndarray:
        """NEE = Ra + Rh - GPP with the GPP of the inputs, (n, T), as the synthetic set defines it."""
        return self.ra + self.rh - self.features[..., GPP]

    def select(self, rows: np.ndarray | Sequence[int]) -> CropFields:
        """Return some of the fields."""
        names = ("features", "ra", "rh", "grain", "latitude", "longitude", "place")
        return replace(self, **{name: getattr(self, name)[np.asarray(rows)] for name in names})

    def between(self, first: int, last: int) -> CropFields:
        """Return some of the years, both included."""
        days = slice(self.days(first).start, self.days(last).stop)
        kept = (self.years >= first) & (self.years <= last)
        cut = {name: getattr(self, name)[:, days] for name in ("features", "ra", "rh")}
        return replace(self, time=self.time[days], grain=self.grain[:, kept], **cut)

    def with_gpp(self, gpp: np.ndarray) -> CropFields:
        """Return the same fields with the GPP of a driver, (n, T), among the inputs."""
        features = self.features.copy()
        features[..., GPP] = gpp
        return replace(self, features=features)


def fields_of_set(synthetic: KGMLSet) -> CropFields:
    """Return an externally made synthetic set as fields; its sites stand nowhere.

    Parameters
    ----------
    synthetic : KGMLSet
        From `fluxgrid.sources.kgml_sets.read_kgml_set`; years of 365 days.

    Returns
    -------
    fields : CropFields
        Our signs; 31 December of leap years is not among the days.
    """
    sites = len(synthetic.features)
    days = [pd.date_range(f"{year}-01-01", periods=KGML_YEAR_DAYS) for year in synthetic.years]
    flat = {name: getattr(synthetic, name).reshape(sites, -1) for name in ("ra", "rh")}
    nowhere = np.full(sites, np.nan)
    return CropFields(
        pd.DatetimeIndex(np.concatenate(days), name="time"),
        np.ascontiguousarray(synthetic.features.reshape(sites, -1, synthetic.features.shape[-1]), np.float32),
        -flat["ra"],
        -flat["rh"],
        synthetic.yield_.astype(np.float32),
        nowhere,
        nowhere,
        np.arange(sites),
    )


def grow_fields(
    latitude: np.ndarray, longitude: np.ndarray, first: int, last: int, rotations: Sequence[str] = ROTATIONS[:2]
) -> CropFields:
    """Run the process model on fields of one rotation each.

    Parameters
    ----------
    latitude, longitude : ndarray, (places,), degrees
    first, last : int
        Calendar years, both included.
    rotations : sequence of str
        Of `ROTATIONS`; each place has a field of each.

    Returns
    -------
    fields : CropFields
        Rotation by rotation, places inside.

    Raises
    ------
    ConfigError
        If a rotation is unknown or the years are out of order.
    """
    unknown = [name for name in rotations if name not in ROTATIONS]
    if unknown or last < first:
        message = (
            f"Fields need rotations of {', '.join(ROTATIONS)} and a first year up to the last, got {unknown} and "
            f"{first} to {last}."
        )
        raise ConfigError(message)
    places = places_at(latitude, longitude)
    parts = [_grow(places, first, last, COLUMNS.index(name)) for name in rotations]
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("features", "ra", "rh", "grain", "latitude", "longitude", "place")
    }
    return CropFields(time=parts[0].time, **joined)


def _grow(places: Places, first: int, last: int, column: int) -> CropFields:
    """Run one rotation at all places."""
    n = len(places.latitude)
    shares = np.zeros((n, len(COLUMNS)))
    shares[:, column] = 1.0
    rows = []
    for year in run_years(replace(places, shares=shares), first, last):
        corn = KINDS[KIND_OF[year.year % 2][column]] == "corn"
        code = np.full((n, len(year.time)), CORN_CODE if corn else SOYBEAN_CODE, np.float32)
        forcings = {name: year.weather[name] for name in CROP_FORCINGS[:-1]}
        forcings["calendar_year"] = np.full((n, len(year.time)), float(year.year))
        features = crop_features(forcings, {k: places.statics[k] for k in CROP_STATICS}, code, year.daily["gpp"])
        rows.append((year.time, features, year.daily["ra"], year.daily["rh"], year.annual["yield"][:, column]))
    time, features, ra, rh, grain = zip(*rows, strict=True)
    return CropFields(
        pd.DatetimeIndex(np.concatenate(time), name="time"),
        np.concatenate(features, axis=1),
        np.concatenate(ra, axis=1).astype(np.float32),
        np.concatenate(rh, axis=1).astype(np.float32),
        np.stack(grain, axis=1).astype(np.float32),
        places.latitude,
        places.longitude,
        np.arange(n),
    )
