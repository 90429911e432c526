"""Fit the two slopes of the world's satellite GPP, one of C3 and one of C4 plants, so that its map is unbiased.

    python scripts/fit_slopes.py

Prints `slope_c3` and `slope_c4` of the section `observation` of `fluxgrid/simulation/world.yaml`: least squares of true
daily GPP on greenness x PAR over the Midwest, shared between C3 and C4 plants by the area of corn. Run it again, and
copy the numbers, when parameters of photosynthesis or canopy have changed; the world's digest changes with them.
"""

from __future__ import annotations

import numpy as np
import shapely

from fluxgrid.geo.grid import Grid
from fluxgrid.geo.region import find_region
from fluxgrid.simulation.land import Places, crop_shares, places_at
from fluxgrid.simulation.observation import OBSERVATION
from fluxgrid.simulation.process import YearOfWorld, run_years

YEARS = 2006, 2015
SPACING = 0.5  # degrees


def light_on_leaves(year: YearOfWorld) -> np.ndarray:
    """Return PAR on the green leaves of each composite, MJ m-2 d-1, (n, time)."""
    width, fpar = OBSERVATION.composite_days, year.daily["fpar"]
    green = np.empty_like(fpar)
    for first in range(0, fpar.shape[1], width):
        green[:, first : first + width] = fpar[:, first : first + width].mean(axis=1, keepdims=True)
    return green * OBSERVATION.par_share * 0.0864 * year.weather["shortwave"]


def corn_share(places: Places, year: int) -> np.ndarray:
    """Return the part of the vegetation that is corn, (n, 1)."""
    return crop_shares(places, [year])[0] / np.maximum(places.shares.sum(axis=1, keepdims=True), 0.02)


def main() -> None:
    """Print the slopes and how much of GPP they explain."""
    region = find_region("midwest")
    grid = Grid.from_bounds(region.bounds, SPACING)
    longitude, latitude = (values.ravel() for values in grid.lonlat())
    inside = shapely.contains_xy(region.polygon, longitude, latitude)
    places = places_at(latitude[inside], longitude[inside])
    columns, gpp = [], []
    for year in run_years(places, *YEARS):
        light, corn = light_on_leaves(year), corn_share(places, year.year)
        columns.append(np.stack([(light * (1.0 - corn)).ravel(), (light * corn).ravel()], axis=1))
        gpp.append(year.daily["gpp"].ravel())
    light, truth = np.concatenate(columns), np.concatenate(gpp)
    slopes = np.linalg.lstsq(light, truth, rcond=None)[0]
    unexplained = ((light @ slopes - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    print(
        f"slope_c3: {slopes[0]:.2f}\nslope_c4: {slopes[1]:.2f}\nR2 without errors of retrieval: {1 - unexplained:.2f}"
    )


if __name__ == "__main__":
    main()
