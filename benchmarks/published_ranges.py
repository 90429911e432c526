"""Set the real monthly maps beside published figures.

    fluxgrid train train_towers_monthly && fluxgrid upscale conus_monthly && fluxgrid upscale midwest_monthly
    python benchmarks/published_ranges.py maps/conus_monthly maps/midwest_monthly

The published figures are not of the same years, grids or inputs: they say whether a number is of the right size.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd

PUBLISHED = {
    # conterminous US, Pg C yr-1: low, high, where from
    "gpp": (6.91, 7.33, "Xiao et al. 2010, EC-MOD, 2001-2006, doi 10.1016/j.rse.2009.10.013"),
    "nee": (-0.70, -0.51, "Xiao et al. 2011, EC-MOD, 2001-2006, doi 10.1016/j.agrformet.2010.09.002"),
}


def annual(folder: Path) -> pd.DataFrame:
    """Return the region's yearly totals (Tg C) and means (g m-2), years by flux."""
    table = pd.read_csv(folder / "totals.csv", dtype={"fips": str, "period": str})
    rows = table[(table["level"] == "region") & (table["period"].str.len() == 4)]
    return rows.pivot_table(index="period", columns="flux", values=["total_TgC", "sum_g_m2", "share_covered"])


def seasonal(folder: Path) -> pd.DataFrame:
    """Return the region's mean seasonal cycle, g m-2 d-1, months by flux."""
    table = pd.read_csv(folder / "totals.csv", dtype={"fips": str, "period": str})
    rows = table[(table["level"] == "region") & (table["period"].str.len() == 7)].copy()
    start = pd.to_datetime(rows["period"])
    rows["rate"] = rows["sum_g_m2"] / start.dt.days_in_month
    rows["month"] = start.dt.month
    return rows.pivot_table(index="month", columns="flux", values="rate")


def county_gpp(folder: Path) -> pd.DataFrame | None:
    """Return monthly GPP of Adams County, Illinois: the map beside SLOPE corn and soybean, g m-2 d-1."""
    data = os.environ.get("FLUXGRID_TEST_DATA")
    if not data:
        return None
    table = pd.read_csv(folder / "totals.csv", dtype={"fips": str, "period": str})
    rows = table[(table["fips"] == "17001") & (table["flux"] == "gpp") & (table["period"].str.len() == 7)]
    start = pd.to_datetime(rows["period"])
    ours = (rows["sum_g_m2"] / start.dt.days_in_month).groupby(start.dt.month).mean().rename("map")
    daily = pd.read_parquet(Path(data) / "county_17001_daily.parquet")
    crops = daily.groupby(daily["date"].dt.month)[["gpp_slope_corn", "gpp_slope_soybean"]].mean()
    return pd.concat([ours, crops], axis=1)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("conus", "midwest"):
        parser.add_argument(name, type=Path, help=f"run folder of the {name} map")
    options = parser.parse_args()
    conus, midwest = options.conus, options.midwest
    if lost := [str(folder) for folder in (conus, midwest) if not (folder / "totals.csv").is_file()]:
        parser.error(f"no totals.csv in {', '.join(lost)}; make the maps first")
    totals = annual(conus)["total_TgC"] / 1000
    print("Conterminous US, Pg C per year, mean of the years [least, largest]")
    for flux, (low, high, source) in PUBLISHED.items():
        years = totals.loc["2001":"2006", flux]
        print(
            f"  {flux}: 2001-2006 {years.mean():.2f} [{years.min():.2f}, {years.max():.2f}]; "
            f"published {low} to {high} ({source})"
        )
    print(f"  reco: {totals.loc['2001':'2006', 'reco'].mean():.2f}")
    print("Midwest, g C m-2 per year, mean of 2000-2020 [least, largest]")
    for flux, years in annual(midwest)["sum_g_m2"].items():
        print(f"  {flux}: {years.mean():.0f} [{years.min():.0f}, {years.max():.0f}]")
    print("Midwest, mean seasonal cycle, g C m-2 d-1")
    print(seasonal(midwest).round(1).T.to_string())
    county = county_gpp(midwest)
    if county is not None:
        print("Adams County, Illinois: monthly GPP, g C m-2 d-1 (SLOPE, 2000-2016)")
        print(county.round(1).T.to_string())
        summer = county.loc[7]
        print(f"  July: the map has {summer['map'] / np.mean(summer[1:]):.0%} of the mean of corn and soybean")


if __name__ == "__main__":
    main()
