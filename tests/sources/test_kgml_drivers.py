"""Drivers of a county: what is read and refused, and what each assumption does to the 19 inputs."""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest

from fluxgrid.data.kgml import KGML_FEATURES, feature_index
from fluxgrid.errors import ConfigError, TableError
from fluxgrid.sources.kgml_assumptions import ALTERNATIVES, Assumptions, one_at_a_time, saturation_pressure
from fluxgrid.sources.kgml_drivers import complete_drivers, read_kgml_drivers

SOIL = {
    "bulk_density": 1.48, "field_capacity": 0.31, "wilting_point": 0.18, "saturated_hydraulic_conductivity": 29.5,
    "sand_content": 57.0, "silt_content": 684.0, "soc": 19.0,
}  # fmt: skip
INDEX = {feature.name: i for i, feature in enumerate(KGML_FEATURES)}


def county(start="2003-01-01", end="2004-12-31"):
    date = pd.date_range(start, end)
    season = -np.cos(2 * np.pi * date.day_of_year / 365)
    gpp = np.maximum(season, 0) * np.where(date.day_of_year == 366, np.nan, 1.0)
    weather = {
        "date": date, "fips": "17001", "temperature_2m": 11 + 14 * season, "relative_humidity": 70.0,
        "wind_speed": 4.0, "precipitation": 2.5, "shortwave_mj": 14 + 8 * season,
        "gpp_slope_corn": 18 * gpp + 0.1, "gpp_slope_soybean": 12 * gpp + 0.1,
    }  # fmt: skip
    return pd.DataFrame(weather | SOIL)


def read(folder, table):
    table.to_parquet(folder / "county.parquet")
    return read_kgml_drivers(folder / "county.parquet")


def test_inputs_are_in_the_published_order_and_units(tmp_path):
    drivers = read(tmp_path, county())
    features = complete_drivers(drivers)
    corn, soybean = features["corn"], features["soybean"]
    assert corn.shape == soybean.shape == (731, 19)
    assert corn.dtype == np.float32
    np.testing.assert_allclose(corn[:, INDEX["RADN"]], county()["shortwave_mj"], rtol=1e-6)
    np.testing.assert_allclose(corn[:, INDEX["WIND"]], 345.6)
    assert (corn[0, INDEX["Crop_Type"]], soybean[0, INDEX["Crop_Type"]]) == (1, 5)
    assert corn[[0, 730], INDEX["Year"]].tolist() == [2003, 2004]
    np.testing.assert_allclose(corn[0, 10:17], [1.48, 57, 684, 0.31, 0.18, 29.5, 19], rtol=1e-6)
    same = [i for i in range(19) if KGML_FEATURES[i].name not in ("Crop_Type", "GPP")]
    np.testing.assert_array_equal(corn[:, same], soybean[:, same])
    np.testing.assert_allclose(soybean[200, INDEX["GPP"]], county()["gpp_slope_soybean"][200], rtol=1e-6)


def test_leap_day_at_the_end_of_the_year_takes_gpp_of_the_day_before(tmp_path):
    drivers = read(tmp_path, county())
    assert drivers.table["gpp_corn"].iloc[-1] == drivers.table["gpp_corn"].iloc[-2] == pytest.approx(0.1)
    assert drivers.notes == ("GPP of 1 leap days at the end of the year is that of the day before",)
    assert read(tmp_path, county(end="2003-12-31")).notes == ()
    assert drivers.latitude == pytest.approx(39.99, abs=0.1)  # US Census gazetteer: Adams County, 39.99 N


@pytest.mark.parametrize(("field", "name", "assumptions"), [*one_at_a_time()])
def test_every_alternative_changes_what_it_names_and_stays_physical(tmp_path, field, name, assumptions):
    drivers = read(tmp_path, county("2000-01-01", "2000-12-31"))
    default, other = (complete_drivers(drivers, each)["corn"] for each in (None, assumptions))
    touched = {
        "temperature_range": {"TMAX_AIR", "TDIF_AIR"}, "above_mean": {"TMAX_AIR"}, "wind": {"WIND"}, "year": {"Year"},
        "vapour_pressure": {"HMAX_AIR", "HDIF_AIR"}, "vapour_range": {"HMAX_AIR", "HDIF_AIR"},
        "ph": {"TPH", "TCEC"}, "cec": {"TCEC"}, "gpp": {"GPP"},
    }[field]  # fmt: skip
    changed = {KGML_FEATURES[i].name for i in np.flatnonzero((default != other).any(axis=0))}
    assert changed == touched
    assert np.isfinite(other).all()
    vapour_max, vapour_range = other[:, INDEX["HMAX_AIR"]], other[:, INDEX["HDIF_AIR"]]
    assert np.all((vapour_range >= 0) & (vapour_range <= vapour_max) & (vapour_max < 5))
    assert np.all((other[:, INDEX["TDIF_AIR"]] > 0) & (other[:, INDEX["TDIF_AIR"]] < 25))
    assert 10 < other[0, INDEX["TCEC"]] < 40


def test_rules_invert_what_they_cite(tmp_path):
    drivers = read(tmp_path, county())
    swing = complete_drivers(drivers)["corn"][:, INDEX["TDIF_AIR"]]
    from fluxgrid.data.derived import daily_toa_radiation

    top = daily_toa_radiation(drivers.time.day_of_year.to_numpy(), np.array([drivers.latitude]))[:, 0] * 0.0864
    np.testing.assert_allclose(0.16 * top * np.sqrt(swing), county()["shortwave_mj"], rtol=1e-5)
    assumptions = Assumptions(temperature_range="bristow_campbell")
    swing = complete_drivers(drivers, assumptions)["corn"][:, INDEX["TDIF_AIR"]]
    b = 0.036 * np.exp(-0.154 * 9.9766)
    light = 0.7 * top * (1 - np.exp(-b * swing**2.4))
    clear = county()["shortwave_mj"] < 0.97 * 0.7 * top
    np.testing.assert_allclose(light[clear], county()["shortwave_mj"][clear], rtol=1e-4)  # float32 of the range


def test_vapour_pressure_is_ordered_by_what_is_assumed(tmp_path):
    drivers = read(tmp_path, county())
    names = ("constant_dewpoint", "mean_temperature", "mean_saturation")
    flat = Assumptions(vapour_range="constant_dewpoint")
    low, middle, high = (
        complete_drivers(drivers, replace(flat, vapour_pressure=name))["corn"][:, INDEX["HMAX_AIR"]] for name in names
    )
    # saturation is convex: harmonic mean of the extremes < value at the mean < their arithmetic mean
    assert np.all((low < middle) & (middle < high))
    warm = drivers.table["temperature_2m"].to_numpy()
    np.testing.assert_allclose(middle, 0.7 * saturation_pressure(warm), rtol=1e-6)


def test_published_share_of_the_vapour_range(tmp_path):
    corn = complete_drivers(read(tmp_path, county()))["corn"]
    ratio = corn[:, INDEX["HDIF_AIR"]] / corn[:, INDEX["HMAX_AIR"]]
    np.testing.assert_allclose(ratio, 0.42118 / 1.43317, rtol=1e-5)


def test_every_field_has_alternatives_with_sources():
    assert list(ALTERNATIVES) == [field.name for field in fields(Assumptions)]
    for alternatives in ALTERNATIVES.values():
        assert len(alternatives) >= 3
        assert all(each.source for each in alternatives.values())
    with pytest.raises(ConfigError, match=r"(?s)ph: 'sour' is none of.*cec: 'x' is none of"):
        Assumptions(ph="sour", cec="x")


def test_every_problem_is_listed(tmp_path):
    table = county()
    table.loc[5, "shortwave_mj"] = np.nan
    table.loc[6, "relative_humidity"] = 7000.0
    table.loc[7, "soc"] = 3.0
    table = pd.concat([table.drop(index=[9, 10]), table.loc[[3]]])
    with pytest.raises(TableError) as error:
        read(tmp_path, table)
    for part in (
        "date: 2 days of 2003-2004 are missing, such as 2003-01-10",
        "date: 1 days stand twice, such as 2003-01-04",
        "shortwave: 1 days are NaN, such as 2003-01-06",
        "relative_humidity: 70..7000, but % must lie in 0..105",
        "soc: 2 values",
    ):
        assert part in str(error.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(TableError, match="Cannot read the drivers"):
        read_kgml_drivers(tmp_path / "none.parquet")
    with pytest.raises(TableError, match="no column shortwave_mj\n  - no column silt_content"):
        read(tmp_path, county().drop(columns=["shortwave_mj", "silt_content"]))
    with pytest.raises(TableError, match="fips: 17001, 99999; there must be one county"):
        read(tmp_path, county().assign(fips=["17001", *["99999"] * 730]))


@pytest.mark.data
def test_adams_county_is_like_the_published_inputs(data_dir):
    drivers = read_kgml_drivers(data_dir / "county_17001_daily.parquet")
    assert len(drivers.time) == 6210
    assert "5 leap days" in drivers.notes[0]
    features = complete_drivers(drivers)
    corn, soybean = features["corn"], features["soybean"]
    # one county of the region: the means of its weather lie near the middle of the published inputs
    z = np.array([(corn[:, i].mean() - f.mean) / f.std for i, f in enumerate(KGML_FEATURES)])
    assert np.all(np.abs(z[:7]) < 0.5)
    assert np.all(np.abs(z[10:]) < 1.0)
    assert corn[:, feature_index("GPP")].sum() > 1.2 * soybean[:, feature_index("GPP")].sum()
    spread = corn[:, :6].std(axis=0) / [feature.std for feature in KGML_FEATURES[:6]]
    assert np.all((spread > 0.5) & (spread < 1.5))
