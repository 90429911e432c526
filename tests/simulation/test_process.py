"""The process model: balances, limits, directions, and independence of what is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from fluxgrid.simulation import layout, process
from fluxgrid.simulation.hidden import hidden_fields
from fluxgrid.simulation.land import COLUMNS, places_at
from fluxgrid.simulation.parameters import EXTENT

LATITUDE, LONGITUDE = np.array([42.2, 47.3, 41.0, 39.9, 37.2]), np.array([-93.8, -91.5, -102.5, -88.8, -90.1])
FIRST = EXTENT.first_year
CORN, SOYBEAN = COLUMNS.index("corn_soy"), COLUMNS.index("soy_corn")


def run(places, first, last, **options):
    return list(process.run_years(places, first, last, **options))


@pytest.fixture(scope="module")
def places():
    return places_at(LATITUDE, LONGITUDE)


@pytest.fixture(scope="module")
def columns():
    """Each soil column alone, in central Illinois."""
    n = len(COLUMNS)
    return replace(places_at(np.full(n, 39.9), np.full(n, -88.8)), shares=np.eye(n))


@pytest.fixture(scope="module")
def eighteen_years(columns):
    stocks = []
    return run(columns, FIRST, FIRST + 17, stocks=stocks), stocks


def of_columns(years, name):
    """Return annual values of each column, (year, column)."""
    diagonal = np.arange(len(COLUMNS))
    return np.array([year.annual[name][diagonal, diagonal] for year in years])


def test_carbon_closes_over_eighteen_years(columns, eighteen_years):
    years, stocks = eighteen_years
    change = stocks[-1].carbon(columns.shares) - stocks[0].carbon(columns.shares)
    flow = {name: of_columns(years, name).sum(axis=0) for name in ("gpp", "ra", "rh", "export")}
    np.testing.assert_allclose(change, flow["gpp"] - flow["ra"] - flow["rh"] - flow["export"], atol=1e-8)
    for year, before, after in zip(years, stocks[:-1], stocks[1:], strict=True):
        change = after.carbon(columns.shares) - before.carbon(columns.shares)
        nee = (year.daily["ra"] + year.daily["rh"] - year.daily["gpp"]).sum(axis=1)
        np.testing.assert_allclose(change, -nee - of_columns([year], "export")[0], atol=1e-8)


def test_water_closes_over_eighteen_years(columns, eighteen_years):
    years, stocks = eighteen_years
    for year, before, after in zip(years, stocks[:-1], stocks[1:], strict=True):
        change = after.water(columns.shares) - before.water(columns.shares)
        rain = year.weather["precipitation"].sum(axis=1)
        out = sum(of_columns([year], name)[0] for name in ("evaporation", "drainage", "runoff"))
        np.testing.assert_allclose(change, rain - out, atol=1e-8)


def test_stocks_and_fluxes_are_never_negative(eighteen_years):
    years, stocks = eighteen_years
    assert all((state.columns >= 0).all() and (state.places[:, layout.SNOW] >= 0).all() for state in stocks)
    for year in years:
        for name in ("gpp", "ra", "rh", "lai", "fpar", "evaporation", "snow"):
            assert (year.daily[name] >= 0).all(), name
        assert ((year.daily["soil_water"] >= 0) & (year.daily["soil_water"] <= 1)).all()
        assert (year.daily["fpar"] < 1).all()


def test_litter_starts_near_its_steady_state(eighteen_years):
    _, stocks = eighteen_years
    for part, bound in ((layout.STRUCTURAL, 0.35), (layout.ACTIVE, 0.35)):
        start = stocks[0].columns[:, :, part].diagonal()
        later = np.mean([state.columns[:, :, part].diagonal() for state in stocks[2:]], axis=0)
        assert (np.abs(later / start - 1.0) < bound).all()


def test_forests_grow_and_crops_are_harvested(eighteen_years):
    years, stocks = eighteen_years
    wood = [state.columns[:, :, layout.STEM].diagonal()[COLUMNS.index("deciduous")] for state in stocks]
    assert (np.diff(wood) > 0).all()
    taken = of_columns(years, "yield")
    crops = [COLUMNS.index(name) for name in ("corn_soy", "soy_corn", "corn_corn", "small_grain")]
    assert (taken[:, crops] > 30).all()
    assert (np.delete(taken, crops, axis=1) == 0).all()
    assert (of_columns(years, "export")[:, crops] > taken[:, crops]).all()


def test_corn_and_soybean_alternate(eighteen_years):
    years, _ = eighteen_years
    odd = np.array([year.year % 2 == 1 for year in years])
    gpp = of_columns(years, "gpp")
    assert gpp[odd, CORN].mean() > 1.15 * gpp[~odd, CORN].mean()
    assert gpp[~odd, SOYBEAN].mean() > 1.15 * gpp[odd, SOYBEAN].mean()


def test_any_part_equals_the_whole_bit_for_bit(places):
    whole = run(places, FIRST, FIRST + 3)
    some = np.array([4, 1, 2])
    part = run(places_at(LATITUDE[some], LONGITUDE[some]), FIRST + 2, FIRST + 2)
    assert [year.year for year in part] == [FIRST + 2]
    for name in layout.DAILY:
        np.testing.assert_array_equal(part[0].daily[name], whole[2].daily[name][some])
    for name in layout.ANNUAL:
        np.testing.assert_array_equal(part[0].annual[name], whole[2].annual[name][some])


def test_a_place_has_the_bits_it_has_alone():
    """More places than go side by side, the last block not full, some of them without some columns."""
    latitude, longitude = np.linspace(37.0, 47.0, 21), np.linspace(-101.0, -84.0, 21)
    together = places_at(latitude, longitude)
    assert (together.shares == 0).any(axis=0).any()
    (whole,) = run(together, FIRST, FIRST)
    for i in (0, 15, 16, 20):
        (alone,) = run(places_at(latitude[i : i + 1], longitude[i : i + 1]), FIRST, FIRST)
        for name in layout.DAILY:
            np.testing.assert_array_equal(alone.daily[name][0], whole.daily[name][i])
        for name in layout.ANNUAL:
            np.testing.assert_array_equal(alone.annual[name][0], whole.annual[name][i])


def test_canopy_and_water_do_not_need_carbon(places):
    full, bare = run(places, FIRST, FIRST + 1), run(places, FIRST, FIRST + 1, with_carbon=False)
    for one, other in zip(full, bare, strict=True):
        for name in ("lai", "fpar", "evaporation", "soil_water", "snow"):
            np.testing.assert_array_equal(one.daily[name], other.daily[name])
        assert (other.daily["gpp"] == 0).all()


def with_weather(monkeypatch, **change):
    """Let the process model see other weather."""

    class Changed(process.Outlook):
        def weather(self, time, keep=True):
            air = super().weather(time, keep)
            return air | {name: edit(air[name]) for name, edit in change.items()}

    monkeypatch.setattr(process, "Outlook", Changed)


def test_no_light_no_uptake(places, monkeypatch):
    with_weather(monkeypatch, shortwave=np.zeros_like)
    (year,) = run(places, FIRST, FIRST)
    assert (year.daily["gpp"] == 0).all()
    assert (year.daily["rh"] > 0).all()


def test_drought_lowers_uptake_and_decay(places, monkeypatch):
    (wet,) = run(places, FIRST, FIRST)
    with_weather(monkeypatch, precipitation=lambda rain: 0.3 * rain)
    (dry,) = run(places, FIRST, FIRST)
    summer = slice(151, 243)
    for name in ("gpp", "rh", "evaporation"):
        assert (dry.daily[name][:, summer].sum(axis=1) < wet.daily[name][:, summer].sum(axis=1)).all(), name


def test_a_richer_soil_respires_more(places):
    richer = replace(places, statics={**places.statics, "soc": places.statics["soc"] * 1.5})
    (one,), (other,) = run(places, FIRST, FIRST), run(richer, FIRST, FIRST)
    assert (other.daily["rh"].sum(axis=1) > 1.02 * one.daily["rh"].sum(axis=1)).all()
    np.testing.assert_array_equal(other.daily["gpp"], one.daily["gpp"])


def test_snow_falls_and_melts(places):
    (year,) = run(places, FIRST, FIRST, with_carbon=False)
    snow = year.daily["snow"]
    assert snow[1, :59].mean() > 10  # the north woods in winter
    assert (snow[:, 151:243] == 0).all()


def test_hidden_fields_are_smooth_and_of_the_stated_spread():
    latitude, longitude = (axis.ravel() for axis in np.meshgrid(np.arange(36, 49, 0.5), np.arange(-104, -81, 0.5)))
    here = hidden_fields(latitude, longitude)
    there = hidden_fields(latitude + 0.09, longitude)  # 10 km on
    far = hidden_fields(latitude + 2.0, longitude)  # 220 km on
    for name, transform in (("planting_shift", np.asarray), ("efficiency", np.log), ("turnover", np.log)):
        near, distant = (np.corrcoef(transform(here[name]), transform(other[name]))[0, 1] for other in (there, far))
        assert near > 0.97, name
        assert distant < 0.6, name
    assert here["planting_shift"].std() == pytest.approx(6.0, rel=0.3)
    assert np.log(here["efficiency"]).std() == pytest.approx(0.10, rel=0.3)
    assert ((here["removal"] > 0) & (here["removal"] < 1)).all()


_PLAIN = """
import numpy as np
from fluxgrid.simulation import process
from fluxgrid.simulation.land import places_at
years = list(process.run_years(places_at(np.array([42.2]), np.array([-93.8])), {year}, {year}))
print(*[repr(float(years[0].daily[name].sum())) for name in ("gpp", "ra", "rh", "evaporation", "snow")])
"""


def test_the_compiled_kernel_is_the_plain_one():
    """Numba must not change what the lines say: the same program with the compiler switched off."""
    said = subprocess.run(
        [sys.executable, "-c", _PLAIN.format(year=FIRST)],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    (year,) = run(places_at(np.array([42.2]), np.array([-93.8])), FIRST, FIRST)
    ours = [year.daily[name].sum() for name in ("gpp", "ra", "rh", "evaporation", "snow")]
    # noise is in single precision, and plain Python adds it up in double here and there
    np.testing.assert_allclose([float(word) for word in said], ours, rtol=1e-6)
