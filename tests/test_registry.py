from __future__ import annotations

import pytest

from fluxgrid import registry
from fluxgrid.errors import UnknownName
from fluxgrid.registry import Registry, unknown_name


@pytest.fixture
def things() -> Registry[int]:
    made = Registry[int]("model", group="fluxgrid.models")
    made.register("ct_gru")(1)
    made.register("lightgbm")(2)
    return made


class Point:
    """An entry point of another package, which registers its thing when it is loaded."""

    def __init__(self, load, name="my_gru"):
        self.load, self.name, self.value = load, name, "my_package.gru"


def test_names_in_order(things):
    assert list(things) == ["ct_gru", "lightgbm"]
    assert len(things) == 2
    assert things["lightgbm"] == 2


def test_a_name_is_given_once(things):
    with pytest.raises(ValueError, match="The model 'ct_gru' is registered twice"):
        things.register("ct_gru")(3)
    assert things["ct_gru"] == 1


def test_a_decorator_gives_back_what_it_registers():
    made = Registry[type]("thing")

    @made.register("a")
    class A:
        pass

    assert made["a"] is A


@pytest.mark.parametrize(("name", "near"), [("ct_gruu", "ct_gru"), ("LightGBM", "lightgbm"), ("ligthgbm", "lightgbm")])
def test_an_unknown_name_gets_the_nearest(things, name, near):
    with pytest.raises(
        UnknownName, match=rf"no model named '{name}'\. Did you mean '{near}'\? Known: ct_gru, lightgbm\."
    ):
        things[name]


def test_a_name_far_from_all_and_a_registry_without_any():
    assert str(unknown_name("region", "zzz", ["b", "a"])) == "There is no region named 'zzz'. Known: a, b."
    assert str(unknown_name("region", "zzz", [])) == "There is no region named 'zzz'. Known: none."


def test_another_package_plugs_in(things, monkeypatch):
    asked = []

    def points(group, name="my_gru"):
        asked.append((group, name))
        return [Point(lambda: things.register("my_gru")(7))] if name == "my_gru" else []

    monkeypatch.setattr(registry, "entry_points", points)
    assert things["ct_gru"] == 1
    assert asked == []  # what is in-tree needs no plug-in
    assert things["my_gru"] == 7
    assert asked == [("fluxgrid.models", "my_gru")]
    assert things["my_gru"] == 7
    assert len(asked) == 1
    with pytest.raises(UnknownName):
        things["other"]


def test_a_plug_in_that_registers_another_name_is_not_taken_for_it(things, monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda **_: [Point(lambda: things.register("mine")(7))])
    with pytest.raises(UnknownName, match="Did you mean 'mine'"):
        things["miner"]


def test_a_plug_in_is_listed_without_being_loaded(things, monkeypatch):
    point = Point(lambda: pytest.fail("loaded"))
    monkeypatch.setattr(registry, "entry_points", lambda group, name="my_gru": [point] if name == "my_gru" else [])
    assert list(things) == ["ct_gru", "lightgbm", "my_gru"]
    assert len(things) == 3
    assert things.plugins == {"my_gru": "my_package.gru"}
    with pytest.raises(UnknownName, match=r"Did you mean 'my_gru'\? Known: ct_gru, lightgbm, my_gru"):
        things["my_gruu"]
    point.load = lambda: things.register("my_gru")(7)
    assert things["my_gru"] == 7
    assert (list(things), things.plugins) == (["ct_gru", "lightgbm", "my_gru"], {})


def test_without_a_group_nobody_is_asked(monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda **_: pytest.fail("asked"))
    with pytest.raises(UnknownName):
        Registry[int]("thing")["a"]


def test_architectures_and_sources_are_open_to_other_packages():
    from fluxgrid.models import MODELS
    from fluxgrid.sources import SOURCES

    assert (MODELS.group, SOURCES.group) == ("fluxgrid.models", "fluxgrid.sources")
