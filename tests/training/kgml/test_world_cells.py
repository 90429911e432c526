"""Cells of the world as sites: spread out, and true."""

from __future__ import annotations

import numpy as np
import pytest

from fluxgrid.errors import ConfigError
from fluxgrid.geo.sphere import great_circle_km
from fluxgrid.geo.state_of import state_of
from fluxgrid.simulation import FORCINGS, STATICS, simulate, true_fluxes
from fluxgrid.training.kgml.sample import draw_cells
from fluxgrid.training.kgml.world_cells import spread_cells, world_cells

STATES = ("IA", "IL")


@pytest.fixture(scope="module")
def cells():
    return world_cells(STATES, 3, 2015, 2016, seed=2)


def nearest(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the distance of each cell to the nearest other, km."""
    away = great_circle_km(latitude, longitude, latitude, longitude)
    np.fill_diagonal(away, np.inf)
    return away.min(axis=1)


def test_cells_stand_apart_inside_their_states():
    latitude, longitude = spread_cells(STATES, 12, seed=4)
    assert set(state_of(latitude, longitude)) == set(STATES)
    np.testing.assert_allclose((latitude - 0.05) % 0.1 % 0.0999, 0, atol=1e-3)  # centres of the lattice
    drawn = [nearest(*draw_cells(STATES, 12, seed)).min() for seed in range(5)]
    assert nearest(latitude, longitude).min() > 2 * max(drawn)


def test_cells_follow_the_seed_and_more_of_them_begin_with_the_few():
    few, many, other = spread_cells(STATES, 4, 1), spread_cells(STATES, 7, 1), spread_cells(STATES, 4, 2)
    for short, long in zip(few, many, strict=True):
        np.testing.assert_array_equal(short, long[:4])
    assert not np.array_equal(few[0], other[0])


def test_a_state_gives_no_cell_twice_and_no_more_than_it_has():
    latitude, longitude = spread_cells(("IA",), 200, 0, resolution=1.0)
    assert len(set(zip(latitude, longitude, strict=True))) == len(latitude) < 20


def test_sites_are_the_world(cells):
    assert (cells.step, len(cells)) == ("daily", 3)
    assert len(set(cells.groups)) == len(set(cells.ids)) == 3
    latitude, longitude = (np.array([getattr(site, name) for site in cells]) for name in ("latitude", "longitude"))
    time = next(iter(cells)).series.index
    assert (time[0].isoformat()[:10], time[-1].isoformat()[:10], len(time)) == ("2015-01-01", "2016-12-31", 731)
    truth = simulate(latitude, longitude, time) | true_fluxes(latitude, longitude, time)
    for i, site in enumerate(cells):
        for name in (*FORCINGS, "gpp", "ra", "rh", "reco", "nee"):
            np.testing.assert_array_equal(site.series[name], truth[name][:, i], err_msg=name)
        assert site.statics == pytest.approx({name: float(truth[name][i]) for name in STATICS}, nan_ok=True)


def test_their_source_says_that_they_are_invented(cells):
    assert "fluxgrid synthetic world" in cells.source
    assert "seed 2" in cells.source
    assert "not observations" in cells.citation


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"states": ("ZZ",)}, r"ZZ: 0 cells of the world, 2 were asked for\. Name states of the Midwest"),
        ({"n": 0}, r"IA: \d+ cells of the world, 0 were asked for"),
        ({"first": 2016, "last": 2015}, "cannot give any days"),
        ({"first": 1950}, "begin"),
    ],
)
def test_what_cannot_be_drawn_is_said(options, text):
    with pytest.raises(ConfigError, match=text):
        world_cells(**{"states": ("IA",), "n": 2, "first": 2015, "last": 2015} | options)
