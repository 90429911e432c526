"""Sites that a configuration names: towers of a table, virtual towers, and cells of the world."""

from __future__ import annotations

import pytest

from fluxgrid.config import SitesConfig
from fluxgrid.errors import ConfigError, TableError, UnknownName
from fluxgrid.training.kgml.world_cells import world_cells
from fluxgrid.workflows.sites import describe, read_site_config

CELLS = {"states": ["IA"], "n": 2, "first": 2015, "last": 2015, "seed": 4}


def wanted(source: str = "world_cells", **changes) -> SitesConfig:
    return SitesConfig(source=source, **{"path": "built-in", "options": CELLS} | changes)


def test_cells_of_the_world_are_a_source():
    sites = read_site_config(wanted(), "daily")
    expected = world_cells(**CELLS)
    assert sites.ids == expected.ids
    for one, other in zip(sites, expected, strict=True):
        assert one.series.equals(other.series)
    about = describe(sites)
    assert (about["count"], about["years"], about["ids"]) == (2, [2015, 2015], list(expected.ids))
    assert "fluxgrid synthetic world" in about["source"]


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (
            {"options": {**CELLS, "frist": 1}},
            ConfigError,
            r"source 'world_cells' are wrong.*'frist'.*takes states, n, f",
        ),
        ({"options": {"n": 2}}, ConfigError, "source 'world_cells' are wrong.*missing"),
        ({"options": {**CELLS, "n": 0}}, ConfigError, "0 were asked for"),
        ({"options": {**CELLS, "states": ["XX"]}}, ConfigError, "XX: 0 cells"),
        ({"options": {**CELLS, "last": 2014}}, ConfigError, "cannot give any days"),
        ({"targets": ("nee",), "minimum": 400}, TableError, "observed nee at 400 steps or more"),
        ({"source": "wold_cells"}, UnknownName, "wold_cells"),
    ],
)
def test_wrong_options_are_one_clear_error(change, kind, text):
    with pytest.raises(kind, match=text):
        read_site_config(wanted(**change), "daily")


def test_cells_are_daily():
    with pytest.raises(ConfigError, match="is daily, but the configuration says step: monthly"):
        read_site_config(wanted(), "monthly")


def test_other_seeds_are_other_cells():
    one, other = (read_site_config(wanted(options={**CELLS, "seed": seed}), "daily") for seed in (1, 2))
    assert set(one.ids) != set(other.ids)
