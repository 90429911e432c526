"""What satellites see: pure functions of place and calendar year, with gaps, errors and blind spots."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fluxgrid.simulation.land import COLUMNS, Places, places_at
from fluxgrid.simulation.observation import BANDS, OBSERVATION, SATELLITE, satellite
from fluxgrid.simulation.process import run_years

REFLECTANCES = [f"reflectance_{band}" for band in BANDS]


@pytest.fixture(scope="module")
def places():
    random = np.random.default_rng(3)
    return places_at(random.uniform(38.5, 44.5, 150), random.uniform(-97.0, -83.5, 150))


@pytest.fixture(scope="module")
def year(places):
    return next(iter(run_years(places, 2008, 2008)))


@pytest.fixture(scope="module")
def seen(places, year):
    return satellite(places, year)


def part_of(places: Places, part: slice) -> Places:
    statics = {name: values[part] for name, values in places.statics.items()}
    return Places(places.latitude[part], places.longitude[part], statics, places.shares[part])


def changed(year, **daily):
    return replace(year, daily=year.daily | daily)


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)


def test_part_of_the_places_or_of_the_names_has_the_same_bits(places, year, seen):
    assert tuple(seen) == SATELLITE
    few = part_of(places, slice(7, 18))
    alone = satellite(few, next(iter(run_years(few, 2008, 2008))))
    assert same(alone, {name: values[7:18] for name, values in seen.items()})
    some = ("reflectance_blue", "lai")
    assert same(satellite(places, year, some), {name: seen[name] for name in some})


def test_values_are_complete_and_possible_except_under_cloud(seen, year):
    for values in seen.values():
        assert values.shape == (150, 366)
        assert values.dtype == np.float64
    assert np.isfinite(seen["lai"]).all()
    assert np.isfinite(seen["gpp_satellite"]).all()
    assert seen["gpp_satellite"].min() >= 0.0
    assert 0.0 <= seen["lai"].min() < 0.5
    assert 3.5 < seen["lai"].max() < 7.0
    for name in REFLECTANCES:
        assert np.nanmin(seen[name]) > -0.05
        assert np.nanmax(seen[name]) < 1.0


def test_leaf_area_comes_in_steps_of_eight_days_from_new_year(seen):
    moves = (np.diff(seen["lai"], axis=1) != 0).any(axis=0)
    assert set(np.flatnonzero(moves) + 1) <= set(range(8, 366, 8))
    assert moves.sum() == 45


def test_leaf_area_follows_the_canopy_and_saturates(places, year, seen):
    assert np.corrcoef(seen["lai"].ravel(), year.daily["lai"].ravel())[0, 1] > 0.9
    full = satellite(places, changed(year, fpar=np.full_like(year.daily["fpar"], 0.99)), ["lai"])["lai"]
    bare = satellite(places, changed(year, fpar=np.zeros_like(year.daily["fpar"])), ["lai"])["lai"]
    p = OBSERVATION.leaf_area
    assert full.max() == pytest.approx(-np.log(1.0 - p.most_cover) / p.extinction)
    assert bare.min() == 0.0
    assert 0.0 < bare.mean() < 0.05


def test_half_of_the_overpasses_see_the_ground_in_all_bands_at_once(seen, year, places):
    usable = np.isfinite(seen["reflectance_red"])
    assert 0.38 < usable.mean() < 0.55
    for name in REFLECTANCES:
        assert np.array_equal(np.isfinite(seen[name]), usable)
    assert year.weather["cloud"][usable].mean() < year.weather["cloud"][~usable].mean() - 0.15
    overcast = replace(year, weather=year.weather | {"cloud": np.ones_like(year.weather["cloud"])})
    assert np.isnan(satellite(places, overcast, ["reflectance_nir"])["reflectance_nir"]).all()
    clear = replace(year, weather=year.weather | {"cloud": np.zeros_like(year.weather["cloud"])})
    assert np.isfinite(satellite(places, clear, ["reflectance_nir"])["reflectance_nir"]).all()


def test_leaves_are_dark_in_red_and_bright_in_the_infrared_and_snow_is_white(places, year):
    clear = replace(year, weather=year.weather | {"cloud": np.zeros_like(year.weather["cloud"])})
    nothing = np.zeros_like(year.daily["fpar"])

    def typical(**daily):
        views = satellite(places, changed(clear, **daily), REFLECTANCES)
        return {name: np.median(views[f"reflectance_{name}"]) for name in BANDS}

    bare = typical(fpar=nothing, snow=nothing)
    green = typical(fpar=nothing + 0.9, snow=nothing)
    snowy = typical(fpar=nothing, snow=nothing + 30.0)
    wet = typical(fpar=nothing, snow=nothing, soil_water=nothing + 1.0)
    dry = typical(fpar=nothing, snow=nothing, soil_water=nothing)
    assert (green["nir"] - green["red"]) / (green["nir"] + green["red"]) > 0.7
    assert (bare["nir"] - bare["red"]) / (bare["nir"] + bare["red"]) < 0.4
    assert all(snowy[band] > bare[band] + 0.15 for band in ("red", "nir", "blue"))
    assert snowy["swir"] < bare["swir"]
    assert all(wet[band] < dry[band] for band in BANDS)


def test_some_clouds_pass_unnoticed(places, year):
    clear = replace(year, weather=year.weather | {"cloud": np.zeros_like(year.weather["cloud"])})
    bare = changed(clear, fpar=np.full_like(year.daily["fpar"], 0.9), snow=np.zeros_like(year.daily["snow"]))
    blue = satellite(places, bare, ["reflectance_blue"])["reflectance_blue"]
    typical = np.median(blue, axis=1, keepdims=True)
    assert 0.01 < (blue > typical + 0.03).mean() < 0.05
    assert (blue < typical - 0.03).mean() < 0.001


def test_gpp_from_space_is_good_but_not_perfect(places, year, seen):
    crops = places.statics["crop_fraction"] > 0.5
    truth, estimate = year.daily["gpp"][crops], seen["gpp_satellite"][crops]
    explained = 1.0 - ((estimate - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    assert 0.78 < explained < 0.93
    assert estimate.mean() == pytest.approx(truth.mean(), rel=0.2)


def test_gpp_from_space_is_blind_to_the_stress_of_the_day(places, year, seen):
    stressed = changed(year, soil_water=np.zeros_like(year.daily["soil_water"]), gpp=0.0 * year.daily["gpp"])
    stressed = replace(stressed, weather=year.weather | {"vpd": 3.0 * year.weather["vpd"]})
    blind = satellite(places, stressed, ["gpp_satellite"])["gpp_satellite"]
    assert np.array_equal(blind, seen["gpp_satellite"])
    thinned = satellite(places, changed(year, fpar=0.5 * year.daily["fpar"]), ["gpp_satellite"])["gpp_satellite"]
    np.testing.assert_allclose(thinned, 0.5 * seen["gpp_satellite"], rtol=1e-9)


def test_the_error_of_gpp_is_smooth_in_space(year):
    line = places_at(np.full(60, 41.0), np.linspace(-96.0, -84.0, 60))
    grass = np.eye(line.shares.shape[1])[np.full(60, COLUMNS.index("grass"))]
    alike = Places(line.latitude, line.longitude, line.statics, grass)
    flat = replace(year, weather={"shortwave": np.full((60, 366), 250.0)}, daily={"fpar": np.full((60, 366), 0.6)})
    gpp = satellite(alike, flat, ["gpp_satellite"])["gpp_satellite"].mean(axis=1)
    assert 0.02 < gpp.std() / gpp.mean() < 0.15
    assert np.diff(gpp).std() < 0.5 * gpp.std()
