"""Fields are the process model's own, crop by crop; drawn cells lie where they were asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fluxgrid.data.crop_inputs import CROP_FEATURES, CROP_TYPE, GPP
from fluxgrid.errors import ConfigError
from fluxgrid.geo.state_of import state_of
from fluxgrid.simulation import places_at
from fluxgrid.simulation.land import COLUMNS
from fluxgrid.simulation.process import run_years
from fluxgrid.training.kgml.fields import ROTATIONS, grow_fields
from fluxgrid.training.kgml.sample import cells_of, draw_cells

PLACES = 3


def test_fields_cover_whole_years(grown):
    assert len(grown) == 2 * PLACES
    assert grown.features.shape == (6, 1096, 19)
    assert grown.ra.shape == grown.rh.shape == grown.nee.shape == (6, 1096)
    assert grown.grain.shape == (6, 3)
    assert {grown.features.dtype, grown.ra.dtype, grown.rh.dtype, grown.grain.dtype} == {np.dtype("float32")}
    assert grown.time.equals(pd.date_range("2003-01-01", "2005-12-31", name="time"))
    assert grown.years.tolist() == [2003, 2004, 2005]
    assert [grown.days(year) for year in grown.years] == [slice(0, 365), slice(365, 731), slice(731, 1096)]
    assert grown.place.tolist() == [0, 1, 2, 0, 1, 2]


def test_the_two_rotations_alternate_against_each_other(grown):
    codes = np.stack([grown.features[:, grown.days(year).start, CROP_TYPE] for year in grown.years], axis=1)
    assert codes[:PLACES].tolist() == [[1.0, 5.0, 1.0]] * PLACES  # corn in odd years
    assert codes[PLACES:].tolist() == [[5.0, 1.0, 5.0]] * PLACES
    for year in grown.years:  # one crop a year
        assert (np.ptp(grown.features[:, grown.days(year), CROP_TYPE], axis=1) == 0).all()


def test_corn_every_year_stays_corn():
    fields = grow_fields(np.array([42.0]), np.array([-93.5]), 2003, 2004, ["corn_corn"])
    assert (fields.features[..., CROP_TYPE] == 1.0).all()


def test_carbon_closes_and_signs_are_ours(grown):
    assert (grown.features[..., GPP] >= 0).all()
    assert (grown.ra >= 0).all()
    assert (grown.rh >= 0).all()
    assert (grown.grain > 30).all()
    np.testing.assert_array_equal(grown.nee, grown.ra + grown.rh - grown.features[..., GPP])
    corn = grown.features[:, [grown.days(y).start for y in grown.years], CROP_TYPE] == 1.0
    assert grown.grain[corn].mean() > 1.5 * grown.grain[~corn].mean()
    for row in range(len(grown)):  # what is harvested has grown
        for i, year in enumerate(grown.years):
            days = grown.days(year)
            gain = (grown.features[row, days, GPP] - grown.ra[row, days]).sum()
            assert 0 < grown.grain[row, i] < gain


def test_a_place_of_two_rotations_is_the_mean_of_its_fields(grown):
    """The process model of the towers, at places half of one rotation and half of the other."""
    places = places_at(grown.latitude[:PLACES], grown.longitude[:PLACES])
    shares = np.zeros((PLACES, len(COLUMNS)))
    shares[:, [COLUMNS.index(name) for name in ROTATIONS[:2]]] = 0.5
    years = list(run_years(replace(places, shares=shares), 2003, 2005))
    for name, values in (("gpp", grown.features[..., GPP]), ("ra", grown.ra), ("rh", grown.rh)):
        truth = np.concatenate([year.daily[name] for year in years], axis=1)
        np.testing.assert_allclose((values[:PLACES] + values[PLACES:]) / 2, truth, rtol=1e-5, atol=1e-6)
    for i, year in enumerate(years):
        for rotation in range(2):
            column = COLUMNS.index(ROTATIONS[rotation])
            found = grown.grain[rotation * PLACES : (rotation + 1) * PLACES, i]
            np.testing.assert_allclose(found, year.annual["yield"][:, column], rtol=1e-6)


def test_inputs_are_the_weather_and_soil_of_the_place(grown):
    places = places_at(grown.latitude[:PLACES], grown.longitude[:PLACES])
    year = next(iter(run_years(places, 2003, 2003)))
    column = {name: grown.features[:PLACES, :365, i] for i, name in enumerate(CROP_FEATURES)}
    np.testing.assert_allclose(column["TMAX_AIR"], year.weather["tmax"], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(column["RADN"], 0.0864 * year.weather["shortwave"], rtol=1e-5)
    np.testing.assert_allclose(column["TSOC"], np.repeat(places.statics["soc"][:, None], 365, axis=1), rtol=1e-6)
    assert (column["Year"] == 2003).all()


def test_a_field_does_not_depend_on_what_else_is_grown(grown):
    alone = grow_fields(grown.latitude[1:2], grown.longitude[1:2], 2004, 2004, ["soy_corn"])
    whole = grown.select([PLACES + 1]).between(2004, 2004)
    for name in ("features", "ra", "rh", "grain", "latitude"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name), err_msg=name)
    assert alone.time.equals(whole.time)


def test_parts_of_fields(grown):
    some = grown.select([4, 0])
    assert len(some) == 2
    np.testing.assert_array_equal(some.ra, grown.ra[[4, 0]])
    assert some.place.tolist() == [1, 0]
    late = grown.between(2004, 2005)
    assert late.years.tolist() == [2004, 2005]
    assert late.days(2004) == slice(0, 366)
    np.testing.assert_array_equal(late.rh, grown.rh[:, 365:])
    np.testing.assert_array_equal(late.grain, grown.grain[:, 1:])


def test_the_gpp_of_a_driver_takes_the_place_of_the_models(grown):
    driver = np.full_like(grown.ra, 3.0)
    other = grown.with_gpp(driver)
    assert (other.features[..., GPP] == 3.0).all()
    assert (grown.features[..., GPP] != 3.0).any()
    np.testing.assert_array_equal(other.nee, other.ra + other.rh - 3.0)
    np.testing.assert_array_equal(np.delete(other.features, GPP, axis=-1), np.delete(grown.features, GPP, axis=-1))


@pytest.mark.parametrize(("first", "last", "rotations"), [(2003, 2002, ROTATIONS), (2003, 2004, ["corn_soy", "wheat"])])
def test_fields_that_cannot_be_grown(first, last, rotations):
    with pytest.raises(ConfigError, match=r"Fields need rotations of corn_soy, soy_corn, corn_corn and a first year"):
        grow_fields(np.array([42.0]), np.array([-93.5]), first, last, rotations)


def test_drawn_cells_are_different_cells_of_the_states():
    latitude, longitude = draw_cells(("IA", "IL"), 60, seed=3)
    assert set(state_of(latitude, longitude)) == {"IA", "IL"}
    assert len(set(zip(latitude, longitude, strict=True))) == 60
    np.testing.assert_allclose((latitude - 0.05) / 0.1, np.round((latitude - 0.05) / 0.1), atol=1e-6)
    again, other = draw_cells(("IA", "IL"), 60, seed=3), draw_cells(("IA", "IL"), 60, seed=4)
    np.testing.assert_array_equal(again, (latitude, longitude))
    assert not np.array_equal(other[0], latitude)
    # more of the same draw begin with it
    np.testing.assert_array_equal(draw_cells(("IA", "IL"), 90, seed=3)[0][:60], latitude)


def test_drawn_cells_have_the_cropland_asked_for():
    latitude, longitude = draw_cells(("NE",), 20, seed=1, least_crop=0.5)
    shares = places_at(latitude, longitude).shares[:, :3].sum(axis=1)
    assert (shares >= 0.5).all()
    every = places_at(*cells_of(("NE",), 0.5)).shares[:, :3].sum(axis=1)
    assert (every < 0.5).any()


def test_too_many_cells_are_refused_with_how_many_there_are():
    held = len(cells_of(("IA",), 1.0)[0])
    with pytest.raises(ConfigError, match=rf"IA hold {held} cells of 1\.0 degrees.*500 were asked for"):
        draw_cells(("IA",), 500, seed=0, resolution=1.0)
