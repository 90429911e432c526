"""The map carries all that its totals are made of."""

from __future__ import annotations

import pandas as pd
import pytest

from fluxgrid.netcdf import open_netcdf


def test_sum_over_the_map_is_the_region_of_totals(baseline):
    """The README's formula: a scientist who sums the map gets the number of totals.csv."""
    out = baseline["ct_gru"]
    files = sorted(out.glob("*.nc"))
    total = 0.0
    for file in files:
        with open_netcdf(file) as fluxes:
            area = fluxes.cell_area * fluxes.region_land_area_fraction
            total += float((fluxes.nee.astype("float64").sum("time") * area).sum()) / 1e12
            assert (fluxes.region_land_area_fraction <= fluxes.land_area_fraction + 1e-5).all()
    table = pd.read_csv(out / "totals.csv", dtype={"period": str})
    # years, and parts of years, which are named by their days; the months of this map are whole
    yearly = (table["period"].str.len() == 4) | table["period"].str.contains("/")
    rows = table[(table["level"] == "region") & (table["flux"] == "nee") & yearly]
    assert total == pytest.approx(rows["total_TgC"].sum(), rel=1e-5)  # shares are stored as float32
