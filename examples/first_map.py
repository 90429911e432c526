"""The first map in Python: a corner of Iowa in the built-in synthetic world.

python examples/first_map.py [FOLDER]
"""

from __future__ import annotations

import sys

import fluxgrid


def main(folder: str = "maps/first") -> None:
    """Make a small map and look at it."""
    fluxes = fluxgrid.upscale("-93.6,41.5,-93.0,42.1", start="2019-01-01", end="2019-12-31", out=folder)
    print(fluxes[["nee", "gpp", "reco"]])

    # north-up: latitude descends, so a slice runs from north to south
    story_county = fluxes.sel(lat=slice(42.1, 42.0), lon=slice(-93.6, -93.4))
    july = story_county.nee.sel(time="2019-07").mean()
    print(f"Mean NEE of July: {float(july):.2f} g C m-2 d-1 (negative: uptake by land)")

    annual = (fluxes.nee.sum("time") * fluxes.cell_area * fluxes.region_land_area_fraction).sum() / 1e12
    outside = ((fluxes.quality_flag & 32) > 0).mean()  # bit 32: outside the area of applicability
    print(f"Annual NEE of the box: {float(annual):.3f} Tg C, {float(outside):.0%} of it extrapolated")


if __name__ == "__main__":
    main(*sys.argv[1:2])
