"""Sites that a configuration names: towers of a table, virtual towers, and cells of the world."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fluxgrid.config import SitesConfig
from fluxgrid.errors import ConfigError, TableError, UnknownName
from fluxgrid.testing import small_sites
from fluxgrid.training.kgml.world_cells import world_cells
from fluxgrid.workflows.sites import describe, read_site_config, with_classes

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


def test_a_configuration_may_give_classes_that_the_source_leaves_out():
    sites = small_sites(n=3)
    bare = replace(sites, sites=(replace(sites.sites[0], statics={"igbp": float("nan")}), *sites.sites[1:]))
    first, second, _ = with_classes(bare, {"T-000": {"igbp": "DBF"}, "T-001": {"igbp": "WET"}})
    assert first.class_name("igbp") == "DBF"
    assert second.class_name("igbp") == sites.sites[1].class_name("igbp")  # what the source says stands
    with pytest.raises(ConfigError) as caught:
        with_classes(bare, {"T-009": {"igbp": "DBF"}, "T-001": {"igbp": "DBFF", "colour": "red"}})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "DBFF" in lines[1]
    assert "T-001.colour" in lines[2]
    assert with_classes(bare, {"T-009": {"igbp": "DBF"}}).notes[-1] == "sites.classes: T-009 not among the sites"
