"""Inputs of KGML-ag from our variables: units, order, and two ways to the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from fluxgrid.data.crop_inputs import (
    CROP_FEATURES,
    CROP_FORCINGS,
    CROP_STATICS,
    CROP_TYPE,
    GPP,
    RADIATION,
    RECIPES,
    TSOC,
    YEAR,
    conversion,
    crop_features,
)
from fluxgrid.data.kgml import KGML_FEATURES
from fluxgrid.variables import VARIABLES

N, T = 3, 7


@pytest.fixture
def forcings() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.uniform(1, 9, (N, T)).astype(np.float32) for name in CROP_FORCINGS}


@pytest.fixture
def statics() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {name: rng.uniform(1, 9, N).astype(np.float32) for name in CROP_STATICS}


def features_of(forcings, statics) -> dict[str, np.ndarray]:
    codes, gpp = np.full((N, T), 5.0, np.float32), np.full((N, T), 2.5, np.float32)
    features = crop_features(forcings, statics, codes, gpp)
    assert features.shape == (N, T, 19)
    assert features.dtype == np.float32
    return dict(zip(CROP_FEATURES, np.moveaxis(features, -1, 0), strict=True))


def test_order_is_that_of_the_published_inputs():
    assert tuple(feature.name for feature in KGML_FEATURES) == CROP_FEATURES
    assert (RADIATION, CROP_TYPE, GPP, YEAR, TSOC) == (0, 7, 8, 9, 16)
    assert set(RECIPES) | {"Crop_Type", "GPP"} == set(CROP_FEATURES)


def test_all_that_is_read_are_variables_of_ours():
    used = {name for recipe in RECIPES.values() for name in recipe}
    assert used == {*CROP_FORCINGS, *CROP_STATICS}
    assert used <= set(VARIABLES)
    assert {VARIABLES[name].role for name in CROP_STATICS} == {"static"}


def test_units_are_those_of_the_published_inputs(forcings, statics):
    """By hand: 200 W m-2 are 17.28 MJ m-2 d-1, 1 hPa is 0.1 kPa, 4 m s-1 are 345.6 km d-1."""
    forcings |= {"shortwave": np.full((N, T), 200.0), "wind_speed": np.full((N, T), 4.0)}
    forcings |= {"tmax": np.full((N, T), 24.0), "tmin": np.full((N, T), 11.0)}
    forcings |= {"vapour_pressure": np.full((N, T), 14.0), "vapour_pressure_range": np.full((N, T), 4.0)}
    row = {name: float(values[0, 0]) for name, values in features_of(forcings, statics).items()}
    assert row["RADN"] == pytest.approx(200.0 * 86400 / 1e6)
    assert row["WIND"] == pytest.approx(4.0 * 86.4)
    assert (row["TMAX_AIR"], row["TDIF_AIR"]) == (24.0, 13.0)
    assert row["HDIF_AIR"] == pytest.approx(0.4)
    assert row["HMAX_AIR"] == pytest.approx(1.4 + 0.2)  # the day's highest is half a range above its mean
    assert (row["Crop_Type"], row["GPP"]) == (5.0, 2.5)


def test_units_in_the_table_of_variables_are_what_the_recipes_take():
    units = {name: VARIABLES[name].units for name in (*CROP_FORCINGS, *CROP_STATICS)}
    expected = {"shortwave": "W m-2", "vapour_pressure": "hPa", "vapour_pressure_range": "hPa", "wind_speed": "m s-1"}
    assert {name: units[name] for name in expected} == expected
    same = {feature.name: feature.units for feature in KGML_FEATURES}
    for feature, recipe in RECIPES.items():
        if list(recipe.values()) == [1.0] and feature not in ("PRECN", "Year"):
            assert units[next(iter(recipe))] == same[feature], feature


def test_soil_and_year_are_the_same_on_all_days(forcings, statics):
    found = features_of(forcings, statics)
    for name in ("TBKDS", "TSAND", "TSILT", "TFC", "TWP", "TKSat", "TSOC", "TPH", "TCEC"):
        assert (found[name] == found[name][:, :1]).all()
    np.testing.assert_array_equal(found["TSOC"][:, 0], statics["soc"])
    np.testing.assert_array_equal(found["Year"], forcings["calendar_year"])


def test_the_matrix_says_the_same_as_the_recipes(forcings, statics):
    names = ("lai", *CROP_STATICS[::-1], *CROP_FORCINGS[::-1], "forest_fraction")  # any order, and more than is needed
    everything = {**forcings, **{name: np.repeat(v[:, None], T, axis=1) for name, v in statics.items()}}
    rows = np.stack([everything.get(name, np.ones((N, T))) for name in names], axis=-1)
    found = rows.astype(np.float64) @ conversion(names)
    expected = np.stack(list(features_of(forcings, statics).values()), axis=-1)
    expected[..., [CROP_TYPE, GPP]] = 0
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_what_is_lost_is_named():
    names = tuple(name for name in (*CROP_FORCINGS, *CROP_STATICS) if name not in ("cec", "tmin"))
    with pytest.raises(ValueError, match=r"KGML-ag is made of cec, tmin too, and they are not among shortwave"):
        conversion(names)
