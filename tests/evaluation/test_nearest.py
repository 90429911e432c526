"""The nearest tower: the right one, its record where it has one, its season elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fluxgrid.data.sites import class_index
from fluxgrid.evaluation.nearest import fit_nearest
from fluxgrid.testing import small_sites


@pytest.fixture
def towers():
    sites = small_sites("daily", n=3, start="2010-03-01", periods=400, missing=0.1)
    places = ((41.0, -93.0, "CRO"), (41.0, -94.0, "GRA"), (45.0, -93.0, "CRO"))
    moved = [
        replace(site, latitude=y, longitude=x, statics={**site.statics, "igbp": class_index("igbp", name)})
        for site, (y, x, name) in zip(sites, places, strict=True)
    ]
    return replace(sites, sites=tuple(moved))


def asked(towers, latitude, longitude, name, index):
    nan = pd.DataFrame(np.nan, index=index, columns=towers.sites[0].series.columns)
    statics = {"igbp": class_index("igbp", name)}
    return replace(towers.sites[0], id="XX-Ask", latitude=latitude, longitude=longitude, statics=statics, series=nan)


def test_the_nearest_of_the_same_class_is_taken(towers):
    nearest = fit_nearest(towers)
    index = towers.sites[0].series.index
    assert nearest.nearest(asked(towers, 41.0, -93.9, "CRO", index)).id == towers.sites[0].id
    assert nearest.nearest(asked(towers, 44.0, -93.9, "CRO", index)).id == towers.sites[2].id
    assert nearest.nearest(asked(towers, 44.0, -93.9, "WET", index)).id == towers.sites[2].id


def test_its_record_where_it_has_one_and_its_season_elsewhere(towers):
    tower = towers.sites[1]
    later = pd.date_range(tower.series.index[-1] + pd.Timedelta(days=1), periods=30, name="time")
    index = tower.series.index.append(later)
    found = fit_nearest(towers).predict(asked(towers, 41.0, -94.1, "GRA", index))
    known = tower.series["gpp"].notna()
    np.testing.assert_allclose(found["gpp"][tower.series.index][known], tower.series["gpp"][known], rtol=1e-6)
    assert found.loc[later, "gpp"].notna().any()
    assert set(found.columns) == {"gpp", "reco", "nee"}
