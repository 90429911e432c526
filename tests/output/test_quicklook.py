"""The picture: it is made for every kind of map, and says what it must."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from fluxgrid.geo.region import find_region
from fluxgrid.models import load_checkpoint
from fluxgrid.output import quicklook, stream, summary
from fluxgrid.output.quicklook import draw_quicklook
from fluxgrid.output.ramps import Scale, round_limit
from fluxgrid.output.summary import period_means, summarise
from fluxgrid.output.totals import land_units
from fluxgrid.simulation import WORLD_SOURCE


def texts(example, monkeypatch, tmp_path, **changes) -> str:
    """Draw and return everything that is written in the picture."""
    figures = []
    monkeypatch.setattr(quicklook, "_write_caption", lambda figure, info: figures.append(figure))
    info = example.info.__class__(**{**vars(example.info), **changes})
    draw_quicklook([example.store], example.region, example.grid, example.land, info, tmp_path / "q.png")
    axes = [text for part in figures[0].axes for text in part.texts]
    return "\n".join(text.get_text() for text in [*figures[0].texts, *axes])


def test_png_for_each_kind_of_map(example, tmp_path):
    path = draw_quicklook([example.store], example.region, example.grid, example.land, example.info, tmp_path / "q.png")
    image = imread(path)
    assert image.shape[:2] == (1125, 1999) or image.shape[:2] == (1125, 2000)
    assert image[..., :3].std() > 0.05


def test_synthetic_maps_say_so_and_others_do_not(monthly, monkeypatch, tmp_path):
    assert "SYNTHETIC DATA" in texts(monthly, monkeypatch, tmp_path)
    assert "SYNTHETIC" not in texts(monthly, monkeypatch, tmp_path, synthetic=False)


def test_the_caption_of_the_first_map_is_whole_and_inside_the_picture(example):
    spec = load_checkpoint("default").spec
    caveats = ("Weather, land and fluxes are simulated: these are not observations.", *spec.caveats)
    sources = (*(text.strip(". ") for text in spec.sources), WORLD_SOURCE.strip(". "))
    figure = Figure(figsize=quicklook._SIZE, dpi=quicklook._DPI)
    FigureCanvasAgg(figure)
    info = replace(example.info, caveats=caveats, sources=sources, created="2026-11-30T00:00:00Z")
    quicklook._write_caption(figure, info)
    (caption,) = figure.texts
    words = caption.get_text().replace("\n", " ")
    assert all(text in words for text in (*caveats, *sources))
    box = caption.get_window_extent()
    assert box.x1 < 0.97 * figure.bbox.width
    assert box.y1 < 0.105 * figure.bbox.height  # the legend ends at 0.107
    wide = ("USDA-NASS CDL 2019, MODIS/MCD43A4.061.",) * 40
    quicklook._write_caption(figure, replace(info, caveats=wide, sources=wide))
    assert len(figure.texts[-1].get_text().splitlines()) == 4
    assert figure.texts[-1].get_window_extent().x1 < 0.97 * figure.bbox.width


def test_steps_without_a_value_are_not_steps_without_a_flux():
    """The annual sum is that of the mean rate, as in totals.csv."""
    days = pd.Series(1.0, index=pd.date_range("2019-01-01", "2019-12-31"))
    curves = pd.DataFrame(2.0, index=days.index, columns=["nee", "gpp", "reco"])
    curves.iloc[100:118] = np.nan
    year = summary.MapSummary(np.zeros((1, 1)), np.zeros((1, 1), bool), 1, curves, days, 1.0)
    assert year.annual_mean().tolist() == [730.0] * 3


def test_title_names_period_and_part_years_are_not_called_annual(daily, monthly, monkeypatch, tmp_path):
    part = texts(daily, monkeypatch, tmp_path)
    assert "Iowa, Jun–Jul 2019" in part
    assert "Annual" not in part
    whole = texts(monthly, monkeypatch, tmp_path)
    assert "Iowa, 2020" in whole
    assert "Annual NEE, g C m$^{-2}$ of land yr$^{-1}$" in whole


def test_a_year_in_course_is_summed_to_date_and_says_so(monthly, monkeypatch, tmp_path):
    whole = stream.open_map(monthly.store).load()
    fluxes = ["nee", "gpp", "reco"]
    short, early = (whole.assign(whole[fluxes].where(whole["time"].dt.month <= month)) for month in (7, 3))
    year = replace(monthly, store=short)
    written = texts(year, monkeypatch, tmp_path)
    assert "Iowa, 1 Jan to 31 Jul 2020" in written
    assert "NEE of 1 Jan to 31 Jul 2020, g C m$^{-2}$ of land\n" in written
    assert "Sum of 1 Jan to 31 Jul 2020, g C" in written
    assert "nnual" not in written
    land = land_units(year.region, year.grid, year.land, ("state",)).land[0].toarray().reshape(year.grid.shape)
    found = summarise([short], year.grid, land, "monthly")
    part = summarise([whole.isel(time=slice(0, 7))], year.grid, land, "monthly")
    pd.testing.assert_frame_equal(found.curves, part.curves)
    np.testing.assert_array_equal(found.rate, part.rate)
    days = np.asarray(monthly.times.days_in_month[:7], "float64")
    np.testing.assert_allclose(found.annual_mean()["gpp"], part.curves["gpp"] @ days)
    assert f"{part.curves['gpp'] @ days:,.0f}" in written
    assert not part.summed
    means = [period_means([one], "monthly")["gpp"] for one in (early, whole.isel(time=slice(0, 3)))]
    np.testing.assert_array_equal(*means)  # though it has under half of the year


def test_the_day_that_models_of_365_days_leave_out_is_no_day_to_come():
    times = pd.date_range("2019-01-01", "2020-12-31")
    nee = np.ones((len(times), 1, 1))
    nee[-1] = np.nan
    leap = xr.Dataset({"nee": (("time", "y", "x"), nee)}, coords={"time": times})
    assert stream.covered_steps([leap]) == [731]
    assert stream.covered_steps([leap.isel(time=slice(0, 600)), leap.isel(time=slice(600, None))]) == [600, 131]
    nee[-2] = np.nan
    assert stream.covered_steps([leap]) == [729]
    nee[:] = np.nan
    assert stream.covered_steps([leap]) == [731]


def test_summary_agrees_with_a_slow_sum(monthly):
    land = land_units(monthly.region, monthly.grid, monthly.land, ("state",)).land[0].toarray()
    land = land.reshape(monthly.grid.shape)
    short = summarise([monthly.store], monthly.grid, land, "monthly")
    nee, days = monthly.arrays["nee"], np.asarray(monthly.times.days_in_month, "float64")
    here = np.isfinite(nee)
    slow = np.nansum(nee * days[:, None, None], axis=0) / (here * days[:, None, None]).sum(axis=0).clip(1e-9)
    shown = here.mean(axis=0) > 0.5
    np.testing.assert_allclose(short.rate[shown], slow[shown], rtol=1e-5)
    assert np.isnan(short.rate[~shown]).all()
    means = [np.average(step[mask], weights=land[mask]) for step, mask in zip(nee, here & (land > 0), strict=True)]
    np.testing.assert_allclose(short.curves["nee"], means, rtol=1e-5)
    assert short.whole_years
    np.testing.assert_allclose(short.annual_mean()["nee"], means @ days, rtol=1e-5)
    assert short.doubtful.any()
    assert not short.doubtful.all()


def test_harvest_and_calibration_are_told_where_the_map_has_them(rich, monthly, monkeypatch, tmp_path):
    land = land_units(rich.region, rich.grid, rich.land, ("state",)).land[0].toarray().reshape(rich.grid.shape)

    def mean(name):
        known = np.isfinite(rich.arrays[name])
        return np.average(rich.arrays[name][known], weights=land[known])

    written = texts(rich, monkeypatch, tmp_path)
    balance = f"{mean('balance_after_harvest'):.0f}".replace("-", "−")
    assert f"Harvest removes {mean('harvest_removal'):.0f}; NEE + harvest {balance}" in written
    assert f"{1 - mean('calibration_global_weight'):.0%} heads of places, " in written
    plain = texts(monthly, monkeypatch, tmp_path)
    assert "Harvest" not in plain
    assert "calibrated" not in plain


def test_gpp_that_drives_the_model_is_called_an_input(monthly, monkeypatch, tmp_path):
    assert "GPP (input)" in texts(monthly, monkeypatch, tmp_path, gpp_is_driver=True)
    assert "GPP (input)" not in texts(monthly, monkeypatch, tmp_path)


@pytest.mark.parametrize("budget", [0, 10**9])
def test_period_means_agree_with_a_slow_mean(rich, tmp_path, write_years, monkeypatch, budget):
    monkeypatch.setattr(summary, "blocks", lambda shape: stream.blocks(shape, align=2, budget=budget))
    means = period_means([rich.store], "monthly")
    assert list(means) == ["nee", "gpp", "reco", "ra", "rh"]
    days = np.asarray(rich.times.days_in_month, "float64")
    known = np.isfinite(rich.arrays["nee"]).any(axis=0)
    for flux, mean in means.items():
        values = np.ma.masked_invalid(rich.arrays[flux])
        slow = np.ma.average(values, axis=0, weights=np.broadcast_to(days[:, None, None], values.shape))
        np.testing.assert_allclose(mean, slow.filled(np.nan), rtol=1e-6)
        assert (np.isnan(mean) == ~known).all()
    stores = write_years(rich, tmp_path, (2019, 2021))
    both, first, last = (period_means(part, "monthly")["nee"] for part in (stores, stores[:1], stores[1:]))
    np.testing.assert_allclose(both[known], ((first + last) / 2)[known], rtol=1e-6)  # years of one length


@pytest.fixture
def two_years(monthly, tmp_path, write_years):
    """Two years of months that differ."""
    return write_years(monthly, tmp_path, (2019, 2020))


def test_several_years_show_mean_and_range(monthly, two_years, tmp_path):
    land = np.where(monthly.land > 0, 1.0, 0.0)
    both = summarise(two_years, monthly.grid, land, "monthly")
    each = [summarise([store], monthly.grid, land, "monthly") for store in two_years]
    assert both.years == (2019, 2020)
    assert both.whole_years
    season = both.seasonal()
    assert len(season) == 12
    july = [one.curves["nee"].iloc[6] for one in each]
    assert season["nee", "min"].iloc[6] == pytest.approx(min(july))
    assert season["nee", "max"].iloc[6] == pytest.approx(max(july))
    means = [one.annual_mean()["gpp"] for one in each]
    assert both.annual_mean()["gpp"] == pytest.approx(np.mean(means))
    path = tmp_path / "q.png"
    draw_quicklook(two_years, monthly.region, monthly.grid, monthly.land, monthly.info, path)
    assert path.stat().st_size > 10_000


def test_leap_day_does_not_shift_the_season():
    times = pd.date_range("2019-01-01", "2020-12-31")
    curves = pd.DataFrame({name: np.asarray(times.month, "float64") for name in ("nee", "gpp", "reco")}, index=times)
    days = pd.Series(1.0, index=times)
    whole = summary.MapSummary(np.zeros((1, 1)), np.zeros((1, 1), bool), 1, curves, days, 1.0)
    season = whole.seasonal()
    assert len(season) == 365
    np.testing.assert_array_equal(season["nee", "min"], season["nee", "max"])
    assert whole.whole_years


@pytest.mark.parametrize("side", [1, 4])
def test_blocks_of_cells_change_nothing(daily, monkeypatch, side):
    monkeypatch.setattr(summary, "_LARGEST_SIDE", side)
    arguments = [daily.store], daily.grid, daily.land.astype("float64"), "daily"
    whole = summarise(*arguments)
    monkeypatch.setattr(summary, "blocks", lambda shape: stream.blocks(shape, align=2, budget=0))
    parts = summarise(*arguments)
    assert whole.thinning == -(-max(daily.grid.shape) // side)  # wider than a block, so that some keep nothing
    np.testing.assert_array_equal(parts.rate, whole.rate)
    np.testing.assert_array_equal(parts.doubtful, whole.doubtful)
    pd.testing.assert_frame_equal(parts.curves, whole.curves, rtol=1e-6)


def test_large_maps_are_thinned(daily, monkeypatch, tmp_path):
    monkeypatch.setattr(summary, "_LARGEST_SIDE", 4)
    short = summarise([daily.store], daily.grid, daily.land.astype("float64"), "daily")
    assert short.thinning == -(-max(daily.grid.shape) // 4)
    full = np.ma.masked_invalid(daily.arrays["nee"]).mean(axis=0).filled(np.nan)
    np.testing.assert_allclose(short.rate, full[:: short.thinning, :: short.thinning], rtol=1e-4)
    draw_quicklook([daily.store], daily.region, daily.grid, daily.land, daily.info, tmp_path / "q.png")


def test_region_without_states(daily, tmp_path):
    abroad = find_region("-96,49.5,-92,52")
    draw_quicklook([daily.store], abroad, daily.grid, np.ones(daily.grid.shape), daily.info, tmp_path / "q.png")


def test_ramp_is_centred_on_zero():
    assert round_limit(np.array([np.nan])) == 1
    assert round_limit(np.linspace(-0.037, 0.02, 1000)) == pytest.approx(0.04)
    stops = Scale("BrBG_r", -3, 3).stops(5)
    assert [value for value, _ in stops] == [-3, -1.5, 0, 1.5, 3]
    assert stops[2][1] == "#f5f5f4"
