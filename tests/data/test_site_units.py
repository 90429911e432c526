from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fluxgrid.data.site_units import blank_small_units


def year(site: str, days: int = 365, **factors: float) -> pd.DataFrame:
    """Return a year of a humid place with short summers, columns times a factor."""
    time = pd.date_range("2001-01-01", periods=days)
    summer = -np.cos(2 * np.pi * (np.arange(days) - 15) / 365)
    temperature = 5 + 12 * summer
    saturation = 6.108 * np.exp(17.27 * temperature / (237.3 + temperature))
    series = {
        "temperature_2m": temperature,
        "vpd": saturation * np.linspace(0.05, 0.2, days),  # never drier than 80 %
        "shortwave": 110 + 100 * summer,
        "precipitation": np.where(np.arange(days) % 20, 0.0, 2.0),  # a desert's
        "gpp": np.clip(0.4 * summer, -0.1, None),
        "reco": 0.5,
    }
    table = pd.DataFrame({"site": site, "date": time} | series)
    return table.assign(**{name: table[name] * factor for name, factor in factors.items()})


def test_small_but_right_is_left_alone():
    table = year("XX-Dry")
    found, notes = blank_small_units(table, "daily")
    assert notes == ()
    assert found is table


@pytest.mark.parametrize(
    ("factors", "blanked", "unit"),
    [
        ({"vpd": 0.1}, ["vpd"], "kPa"),
        ({"shortwave": 0.0864}, ["shortwave"], "MJ m-2 d-1"),
        ({"precipitation": 0.001}, ["precipitation"], "m d-1"),
        ({"gpp": 0.001, "reco": 0.001}, ["gpp", "reco"], "kg m-2 d-1"),
    ],
)
def test_a_wrong_unit_is_set_missing_at_its_site_alone(factors, blanked, unit):
    table = pd.concat([year("XX-Bad", **factors), year("XX-Dry")], ignore_index=True)
    found, notes = blank_small_units(table, "daily")
    bad = table["site"] == "XX-Bad"
    assert found.loc[bad, blanked].isna().all(axis=None)
    pd.testing.assert_frame_equal(found.drop(columns=blanked), table.drop(columns=blanked))
    pd.testing.assert_frame_equal(found[~bad], table[~bad])
    assert len(notes) == 1
    assert notes[0].startswith(f"{', '.join(reversed(blanked)) if len(blanked) == 1 else 'gpp, reco'}: ")
    assert "values set missing at 1 sites (XX-Bad): too small for" in notes[0]
    assert unit in notes[0]


def test_a_winter_by_itself_tells_no_unit():
    table = year("XX-Cold", days=60, vpd=0.1, shortwave=0.5, gpp=0.01, reco=0.01, precipitation=0.01)
    assert blank_small_units(table, "daily")[1] == ()


def test_nothing_but_zeros_is_no_unit():
    assert blank_small_units(year("XX-Dry", precipitation=0.0), "daily")[1] == ()


@pytest.mark.data
@pytest.mark.parametrize(("name", "step", "count"), [("towers_daily", "daily", 1), ("towers_monthly", "monthly", 0)])
def test_real_towers_have_the_units_they_say_but_for_vpd_of_three(data_dir, name, step, count):
    assert len(blank_small_units(pd.read_parquet(data_dir / f"{name}.parquet"), step)[1]) == count
