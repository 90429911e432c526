"""Wrong units that no valid range shows, because they make values too small: kPa for hPa, MJ for W, kg for g.

They are found from what the largest values of a site should be. Bounds lie, with a margin, between what the wrong unit
gives anywhere and the least of 193 monthly sites of FLUXNET2015 and 50 daily ones in the right unit. What differs by a
few per cent (1 umol m-2 s-1 of CO2 is 1.038 g m-2 d-1 of carbon) cannot be told from values at all.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from fluxgrid.data.site_checks import some
from fluxgrid.data.steps import STEPS_PER_YEAR, Step
from fluxgrid.variables import MAP_FLUXES, VARIABLES

_HIGH = 0.99  # quantile of a site's values: its largest, but for single broken ones
_YEAR = 0.8  # share of a year that must be known, so that winter alone is not taken for a unit

# The least of the highest values, and units that make less. Least found: shortwave 208 W m-2, precipitation 1.0 mm d-1.
_LEAST = {"shortwave": (60.0, "MJ m-2 d-1"), "precipitation": (0.1, "m d-1 or kg m-2 s-1")}
# The greatest of the three fluxes counts: GPP alone hardly differs from 0 where a forest burnt. Least found: 0.47.
_LEAST_FLUX = (0.05, "kg m-2 d-1 or a rate per second")
# VPD as a share of saturation in warm steps. In hPa least found 0.165 (Ghana), in kPa at most 0.1 of saturation.
_LEAST_SHARE, _WARM, _WARM_SHARE_OF_YEAR = 0.11, 10.0, 0.16


def blank_small_units(table: pd.DataFrame, step: Step) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Set a site's column missing where it must be in a unit that makes its values too small.

    Parameters
    ----------
    table : DataFrame
        Columns ``site`` and series by the names of VARIABLES.
    step : {"daily", "monthly"}

    Returns
    -------
    table : DataFrame
        A copy where anything changed.
    notes : tuple of str
        Column, sites and count of what was set missing, with the unit it seems to have.
    """
    changed: dict[str, pd.Series] = {}
    notes = []
    for names, sites, unit in _suspects(table, step):
        if len(sites):
            there = table["site"].isin(sites)
            changed |= {name: changed.get(name, table[name]).mask(there) for name in names}
            count = int(table.loc[there, list(names)].notna().sum().sum())
            notes.append(
                f"{', '.join(names)}: {count} values set missing at {len(sites)} sites ({some(sites)}): too small for "
                f"{VARIABLES[names[0]].units}, they seem to be in {unit}; convert them"
            )
    return (table.assign(**changed) if changed else table), tuple(notes)


def _suspects(table: pd.DataFrame, step: Step) -> Iterator[tuple[tuple[str, ...], pd.Index, str]]:
    """Yield columns, the sites where they are too small, and the unit they seem to have."""
    enough = _YEAR * STEPS_PER_YEAR[step]
    for name, (least, unit) in _LEAST.items():
        if name in table:
            high = _highest(table[name], table["site"], enough)
            yield (name,), high.index[(high > 0) & (high < least)], unit
    fluxes = tuple(name for name in MAP_FLUXES if name in table)
    if fluxes:
        least, unit = _LEAST_FLUX
        high = _highest(table[list(fluxes)].abs().max(axis=1), table["site"], enough)
        yield fluxes, high.index[(high > 0) & (high < least)], unit
    if {"vpd", "temperature_2m"} <= set(table):
        share = (table["vpd"] / _saturation(table["temperature_2m"])).where(table["temperature_2m"] > _WARM)
        high = _highest(share, table["site"], _WARM_SHARE_OF_YEAR * STEPS_PER_YEAR[step] + 1)
        yield ("vpd",), high.index[(high > 0) & (high < _LEAST_SHARE)], "kPa"


def _highest(values: pd.Series, site: pd.Series, enough: float) -> pd.Series:
    """Return the largest value of each site with enough of them."""
    by_site = values.groupby(site)
    return by_site.quantile(_HIGH)[by_site.count() >= enough]


def _saturation(temperature: pd.Series) -> pd.Series:
    """Return the vapour pressure of saturated air, hPa, at a temperature in degC (Allen et al. 1998, eq. 11)."""
    return pd.Series(6.108 * np.exp(17.27 * temperature / (237.3 + temperature)), temperature.index)
