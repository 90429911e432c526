from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fluxgrid.data.sites import Sites, class_index, climate_group_of, site_groups, sites_from_table
from fluxgrid.errors import TableError, UnknownName


def table(site="US-Aaa", days=11, **columns):
    data = {"site": site, "date": pd.date_range("2001-02-25", periods=days), "gpp": np.arange(days) - 3.0}
    return pd.DataFrame({**data, **columns})


def facts(*ids, **columns):
    index = pd.Index(ids, name="site")
    return pd.DataFrame({"latitude": 41.5, "longitude": -90.25, **columns}, index=index)


def build(frame, places=None, step="daily") -> Sites:
    return sites_from_table(frame, facts("US-Aaa") if places is None else places, step, "a table", "a citation")


def test_series_are_float32_on_a_complete_calendar_and_negative_fluxes_stay():
    frame = table(temperature_2m=1.0, colour="red").drop(index=[4, 5])
    site = build(frame)["US-Aaa"]
    assert list(site.series) == ["temperature_2m", "gpp"]
    assert site.series.shape == (11, 2)
    assert (site.series.dtypes == np.float32).all()
    assert site.series.index.freqstr == "D"
    assert site.series["gpp"].isna().sum() == 2
    assert site.series["gpp"].min() == -3


def test_monthly_calendar_is_complete_by_month_starts():
    frame = table(days=3).assign(date=pd.to_datetime(["2000-11-01", "2001-01-01", "2001-02-01"]))
    series = build(frame, step="monthly")["US-Aaa"].series
    assert [f"{time:%Y-%m-%d}" for time in series.index] == ["2000-11-01", "2000-12-01", "2001-01-01", "2001-02-01"]


def test_all_problems_are_told_at_once_with_site_and_column():
    late = table("US-Ccc").iloc[::-1]
    half_hourly = table("US-Ddd").assign(date=pd.date_range("2001-01-01", periods=11, freq="30min"))
    kelvin = table("US-Eee", temperature_2m=np.linspace(270, 300, 11))
    marked = table("US-Fff", nee=[-9999.0, *np.zeros(10)])
    frame = pd.concat([table("US-Bbb"), table("US-Bbb").iloc[:2], late, half_hourly, kelvin, marked], ignore_index=True)
    places = facts("US-Bbb", "US-Ccc", "US-Ddd", "US-Eee")
    places.loc["US-Ccc", "longitude"] = 270.0
    with pytest.raises(TableError) as error:
        build(frame, places)
    text = str(error.value)
    assert "US-Bbb, column date: 2 duplicated steps, the first 2001-02-25" in text
    assert "US-Ccc, column date: not in order of time" in text
    assert "US-Ddd, column date: times of day, 30 minutes apart" in text
    assert "US-Eee, column temperature_2m: 100 % of the values are far outside -70 to 60 degC, such as 285" in text
    assert "US-Fff, column nee: 1 values of -9999" in text
    assert "US-Fff: latitude is missing" in text
    assert "US-Ccc: longitude 270 is outside -180 to 180 degrees" in text


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (table().iloc[:0], "it has no rows"),
        (table().drop(columns="gpp"), "no column of a flux"),
        (table().assign(date="soon"), "column date: no dates"),
        (table().assign(lai="many"), "US-Aaa, column lai: 11 cells that are no numbers, such as 'many'"),
        (table().assign(date=[pd.NaT, *pd.date_range("2001-01-01", periods=10)]), "missing in 1 rows"),
    ],
)
def test_tables_that_cannot_be_used(frame, message):
    with pytest.raises(TableError, match=message):
        build(frame)


def test_a_monthly_table_with_other_days_is_refused():
    with pytest.raises(TableError, match="days other than the first of the month"):
        build(table(), step="monthly")


def test_single_broken_values_and_constant_marks_are_set_missing_and_noted():
    pressure = np.full(100, 99.0)
    pressure[7] = -8526.6  # an average over days of which some were -9999, as in the real table
    frame = table(days=100, pressure=pressure, co2=0.0, shortwave=-1.7)
    frame["gpp"] = 1.0
    sites = build(frame)
    series = sites["US-Aaa"].series
    assert series["pressure"].isna().sum() == 1
    assert series["co2"].isna().all()
    assert (series["shortwave"] == np.float32(-1.7)).all()  # sensor offset: near the range, left alone
    assert any("pressure: 1 values far outside 45 to 110 kPa set missing at US-Aaa" in note for note in sites.notes)


def test_sites_without_any_flux_are_dropped_with_a_count():
    frame = pd.concat([table(), table("US-Bbb").assign(gpp=np.nan)], ignore_index=True)
    sites = build(frame, facts("US-Aaa", "US-Bbb"))
    assert sites.ids == ("US-Aaa",)
    assert "1 sites dropped: no NEE, GPP or RECO at all (US-Bbb)" in sites.notes


def test_select_and_targets():
    frame = pd.concat(
        [table(f"US-{each}", nee=[1.0] * n + [np.nan] * (11 - n)) for each, n in zip("CAB", (3, 5, 0), strict=True)],
        ignore_index=True,
    )
    sites = build(frame, facts("US-A", "US-B", "US-C"))
    assert len(sites) == 3
    assert sites.select(["US-C", "US-A"]).ids == ("US-A", "US-C")
    assert sites.with_targets(["gpp", "nee"], 3).ids == ("US-A", "US-C")
    assert sites.with_targets(["nee"], 4).notes == ("2 sites left out: fewer than 4 steps of nee (US-B, US-C)",)
    assert len(sites.with_targets(["reco"])) == 0
    with pytest.raises(UnknownName, match="no site named 'US-X'"):
        sites.select(["US-X"])
    with pytest.raises(UnknownName, match="no site named 'US-X'"):
        sites["US-X"]


def test_classes_by_name_and_by_position():
    place = facts("US-Aaa", igbp=class_index("igbp", "DBF"), climate_group=np.nan, elevation=12.0)
    site = build(table(), place)["US-Aaa"]
    assert site.class_name("igbp") == "DBF"
    assert site.class_name("climate_group") is None
    assert site.class_name("koppen") is None
    assert site.statics["elevation"] == 12
    assert class_index("climate_group", "Continental") == climate_group_of("dfb") == 3
    assert np.isnan(class_index("igbp", "XYZ"))
    assert np.isnan(climate_group_of(" "))


def test_groups_link_chains_and_do_not_depend_on_order():
    latitude = [40.0, 40.08, 40.16, 41.0]  # 8.9 km from one to the next: the first and the third by the second
    ids = ["b", "c", "a", "d"]
    assert site_groups(ids, latitude, [0.0] * 4) == ("a", "a", "a", "d")
    assert site_groups(ids[::-1], latitude[::-1], [0.0] * 4) == ("d", "a", "a", "a")
    assert site_groups(ids, latitude, [0.0] * 4, distance_km=5) == tuple(ids)
    assert site_groups([], [], []) == ()


def test_groups_meet_across_the_date_line():
    assert len(set(site_groups(["a", "b"], [60.0, 60.0], [179.99, -179.99]))) == 1


@pytest.mark.data
@pytest.mark.parametrize("name", ["towers_daily", "towers_monthly"])
def test_real_neighbours_share_a_group(data_dir, name):
    places = pd.read_parquet(data_dir / f"{name}.parquet", columns=["site", "lat", "lon"]).groupby("site").first()
    groups = dict(zip(places.index, site_groups(list(places.index), places["lat"], places["lon"]), strict=True))
    assert groups["US-ARb"] == groups["US-ARc"]
    assert len({group for site, group in groups.items() if site.startswith("CA-NS")}) == 1
    assert len({group for site, group in groups.items() if site.startswith("US-Wi")}) == 1
    assert groups["US-Ha1"] != groups["US-NR1"]
    assert max(pd.Series(groups).value_counts()) <= 11
