from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxgrid.data.derived import derive
from fluxgrid.data.gaps import GapRule, History, fill_gaps
from fluxgrid.data.inputs import Inputs, InputSpec, Places, design, one_hot, prepare
from fluxgrid.data.scaler import Scaler
from fluxgrid.data.steps import calendar
from fluxgrid.errors import ConfigError, UnknownName
from fluxgrid.variables import VARIABLES

SPEC = InputSpec(
    ("precipitation", "day_length", "temperature_2m"), ("sand",), ("climate_group",), {"temperature_2m": GapRule(1)}
)


@pytest.fixture
def places() -> Places:
    rng = np.random.default_rng(0)
    time = calendar("2001-06-01", "2001-06-11", "daily")  # 11 days, 3 places, a halo of 1 step on either side
    forcings = {name: rng.normal(size=(13, 3)).astype(np.float32) for name in ("precipitation", "temperature_2m")}
    statics = {"sand": np.array([400.0, 500, 600], np.float32), "climate_group": np.array([0.0, 4, 2], np.float32)}
    return Places(time, "daily", np.array([30.0, 40.0, 50.0]), forcings, statics, before=1, after=1)


def test_names_of_a_spec():
    assert SPEC.forcings == ("precipitation", "temperature_2m")
    assert SPEC.names == ("precipitation", "temperature_2m", "sand", "climate_group")
    assert SPEC.static_columns == (
        "sand", "climate_group=tropical", "climate_group=arid", "climate_group=temperate",
        "climate_group=continental", "climate_group=polar",
    )  # fmt: skip
    assert (SPEC.n_dynamic, SPEC.halo, InputSpec(("vpd",)).halo) == (3, 1, 0)


def test_places_bring_their_coordinates(places):
    spec = InputSpec(("temperature_2m", "latitude", "longitude"))
    there = replace(places, longitude=np.array([-90.0, -91.0, 15.0])).pad(4)
    inputs, _ = prepare(there, spec, {})
    np.testing.assert_array_equal(inputs.dynamic["longitude"][[0, -1]], [[-90, -91, 15, 0]] * 2)
    np.testing.assert_array_equal(inputs.dynamic["latitude"][0], [30, 40, 50, 0])
    with pytest.raises(ValueError, match="these places come without it"):
        prepare(places, spec, {})


def test_what_towers_alone_know_is_an_input_too():
    spec = InputSpec(("era5_temperature_2m", "mod09ga_b01"), gaps={"mod09ga_b01": GapRule(9, ends=True)})
    assert spec.names == ("era5_temperature_2m", "mod09ga_b01")


@pytest.mark.parametrize("change", [{"dynamic": ("rainfal",)}, {"static": ("sandd",)}, {"gaps": {"tmn": GapRule(1)}}])
def test_a_spec_of_unknown_variables_is_refused(change):
    with pytest.raises(UnknownName, match="There is no variable named"):
        InputSpec(**({"dynamic": ("vpd",)} | change))


def test_a_spec_lists_every_variable_in_the_wrong_place():
    with pytest.raises(ConfigError, match="The inputs of the model are wrong") as caught:
        InputSpec(("gpp", "vpd", "vpd", "sand"), ("igbp",), ("lai",), {"tmin": GapRule(1), "day_length": GapRule(1)})
    for text in (
        "dynamic: gpp is a flux variable, no input",
        "dynamic: sand is a static variable, name it under static",
        "static: igbp is a class variable, name it under classes",
        "classes: lai is a forcing variable, name it under dynamic",
        "gaps: tmin is not a forcing named under dynamic",
        "gaps: day_length is not a forcing",
        "vpd is named 2 times",
    ):
        assert text in str(caught.value)
    with pytest.raises(ConfigError, match="at least one input that varies in time"):
        InputSpec((), ("sand",))


def test_the_halo_serves_filling_and_is_cut_off(places):
    places.forcings["temperature_2m"][1, 0] = np.nan  # the first day: its left neighbour is in the halo
    places.forcings["temperature_2m"][11, 2] = np.nan  # the last day: its right neighbour is
    places.forcings["temperature_2m"][5:7, 1] = np.nan  # two days: longer than the rule
    places.forcings["precipitation"][4, 2] = np.nan  # no rule
    inputs, histories = prepare(places, SPEC, {})
    around = places.forcings["temperature_2m"][[0, 2], 0].astype(np.float64)
    assert inputs.dynamic["temperature_2m"].shape == (11, 3)
    assert inputs.dynamic["temperature_2m"][0, 0] == pytest.approx(around.mean(), rel=1e-6)
    assert np.argwhere(inputs.filled).tolist() == [[0, 0], [10, 2]]
    assert np.argwhere(inputs.missing).tolist() == [[3, 2], [4, 1], [5, 1]]
    assert set(histories) == {"temperature_2m"}
    np.testing.assert_array_equal(inputs.dynamic["precipitation"], places.forcings["precipitation"][1:12])


def test_a_step_is_filled_if_any_of_its_inputs_is(places):
    spec = InputSpec(
        ("precipitation", "temperature_2m"), gaps={n: GapRule(1) for n in ("precipitation", "temperature_2m")}
    )
    places.forcings["precipitation"][3, 1] = places.forcings["temperature_2m"][8, 0] = np.nan
    assert np.argwhere(prepare(places, spec, {})[0].filled).tolist() == [[2, 1], [7, 0]]


def test_values_that_cannot_be_true_are_not_known(places):
    places.forcings["precipitation"][4, 2] = -9999
    places.forcings["temperature_2m"][8, 1] = 1e20  # filled like any other hole
    places.statics["sand"][0] = 32767
    inputs, _ = prepare(places, SPEC, {})
    assert inputs.missing[:, 0].all()
    assert np.argwhere(inputs.missing[:, 1:]).tolist() == [[3, 1]]
    assert np.argwhere(inputs.filled).tolist() == [[7, 1]]
    assert abs(inputs.dynamic["temperature_2m"]).max() < 10


def test_days_are_longer_in_the_north_in_june(places):
    length = prepare(places, SPEC, {})[0].dynamic["day_length"]
    assert (np.diff(length, axis=1) > 0).all()


def test_an_unknown_static_is_missing_at_every_step(places):
    places.statics["climate_group"][1] = np.nan
    inputs, _ = prepare(places, SPEC, {})
    assert inputs.missing.all(axis=0).tolist() == [False, True, False]


def test_the_design_keeps_the_order_and_puts_the_mean_where_something_is_missing(places):
    places.forcings["precipitation"][3, 2] = np.nan
    places.statics["sand"][0] = np.nan
    scaler = Scaler(
        ("sand", "temperature_2m", "precipitation", "day_length"), (500.0, 1.0, 2.0, 12.0), (50.0, 2.0, 4.0, 1.0)
    )
    inputs, _ = prepare(places, SPEC, {})
    dynamic, static = design(inputs, SPEC, scaler)
    assert dynamic.shape == (3, 11, 3)
    assert static.shape == (3, 6)
    assert {dynamic.dtype, static.dtype} == {np.dtype("float32")}
    np.testing.assert_allclose(dynamic[1, :, 2], (inputs.dynamic["temperature_2m"][:, 1] - 1) / 2, rtol=1e-6)
    assert dynamic[2, 2, 0] == 0
    assert static.tolist() == [[0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [2, 0, 0, 1, 0, 0]]


def test_without_static_inputs_the_table_is_empty(places):
    spec = InputSpec(("day_length",))
    inputs, _ = prepare(places, spec, {})
    _, static = design(inputs, spec, Scaler(("day_length",), (12.0,), (1.0,)))
    assert static.shape == (3, 0)
    assert not inputs.missing.any()


def test_an_unknown_class_is_no_class():
    assert one_hot(np.array([2.0, np.nan, 7.0]), 3).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_padding_adds_empty_places(places):
    padded = places.pad(5)
    assert padded.latitude.tolist() == [30, 40, 50, 0, 0]
    for name in places.forcings:
        np.testing.assert_array_equal(padded.forcings[name][:, :3], places.forcings[name])
        assert np.isnan(padded.forcings[name][:, 3:]).all()
    assert np.isnan(padded.statics["sand"][3:]).all()
    assert (padded.before, padded.after) == (1, 1)
    assert places.pad(3) is places
    with pytest.raises(ValueError, match="holds up to 2 places, got 3"):
        places.pad(2)


def credible(name: str, values: np.ndarray) -> np.ndarray:
    low, high = VARIABLES[name].credible_range
    return np.where((values >= low) & (values <= high), values, np.float32(np.nan))


def prepare_one_by_one(places: Places, spec: InputSpec) -> Inputs:
    """Do what `prepare` does from an empty past, every variable by itself and every place for its own latitude."""
    core = slice(places.before, places.before + len(places.time))
    dynamic, filled = {}, np.zeros((len(places.time), len(places.latitude)), dtype=bool)
    for name in spec.dynamic:
        if VARIABLES[name].role == "derived":
            dynamic[name] = derive(name, places.time, places.latitude, places.step, places.longitude)
            continue
        values = credible(name, places.forcings[name])
        dynamic[name] = values[core]
        if name in spec.gaps:
            past = History.empty(values.shape[1], spec.gaps[name])
            around = values[: core.start], values[core.stop :]
            done = fill_gaps(values[core], places.time, spec.gaps[name], past, *around)
            dynamic[name], filled = done.values, filled | done.mask
    static = {name: credible(name, places.statics[name]) for name in (*spec.static, *spec.classes)}
    missing = np.zeros_like(filled)
    for values in (*(dynamic[name] for name in spec.forcings), *static.values()):
        missing |= ~np.isfinite(values)
    return Inputs(dynamic, static, missing, filled)


def design_one_by_one(inputs: Inputs, spec: InputSpec, scaler: Scaler) -> tuple[np.ndarray, np.ndarray]:
    """Do what `design` does, every variable by itself."""
    dynamic = np.stack([scaler.apply(name, inputs.dynamic[name]).T for name in spec.dynamic], axis=-1)
    columns = [scaler.apply(name, inputs.static[name])[:, None] for name in spec.static]
    columns += [one_hot(inputs.static[name], len(VARIABLES[name].classes)) for name in spec.classes]
    return np.nan_to_num(dynamic), np.nan_to_num(np.concatenate(columns, axis=1))


@given(st.lists(st.tuples(st.integers(0, 38), st.sampled_from([np.nan, -9999.0, np.inf, -np.inf, 1e20])), max_size=6),
       st.lists(st.tuples(st.integers(0, 38), st.sampled_from([np.nan, 1e20])), max_size=6),
       st.lists(st.tuples(st.integers(0, 2), st.sampled_from([np.nan, -1e9])), max_size=2),
       st.lists(st.sampled_from([30.0, 41.7, -12.0]), min_size=3, max_size=3))  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_all_variables_at_once_are_those_one_by_one(places, rain, air, soil, latitudes):
    forcings = {name: values.copy() for name, values in places.forcings.items()}
    statics = {name: values.copy() for name, values in places.statics.items()}
    holes = (forcings["precipitation"], rain), (forcings["temperature_2m"], air), (statics["sand"], soil)
    for values, changes in holes:
        for where, value in changes:
            values.reshape(-1)[where] = value
    spec = replace(SPEC, dynamic=(*SPEC.dynamic, "toa_radiation", "day_of_year", "latitude"))
    there = replace(places, latitude=np.array(latitudes), forcings=forcings, statics=statics)
    scaler = Scaler((*spec.dynamic, *spec.static), (1.0, 12.0, 2.5, 300.0, 160.0, 40.0, 500.0), (3.0,) * 7)
    found, expected = prepare(there, spec, {})[0], prepare_one_by_one(there, spec)
    assert list(found.dynamic) == list(expected.dynamic) == list(spec.dynamic)
    for name in spec.dynamic:
        np.testing.assert_array_equal(found.dynamic[name], expected.dynamic[name], err_msg=name)
    for name in ("missing", "filled"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    pairs = zip(design(found, spec, scaler), design_one_by_one(expected, spec, scaler), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_derived_once_for_each_latitude_is_that_of_each_place(places):
    rng = np.random.default_rng(2)
    latitude = np.concatenate([np.repeat(rng.uniform(-90, 90, 16), 16), [90.0, -90.0, np.nan, np.nan]])
    wide = replace(places, latitude=latitude, forcings={}, statics={})
    spec = InputSpec(("toa_radiation", "day_length", "calendar_year"))
    found = prepare(wide, spec, {})[0]
    for name in spec.dynamic:
        np.testing.assert_array_equal(found.dynamic[name], derive(name, places.time, latitude, "daily"), err_msg=name)
    assert not found.missing.any()


def test_forcings_without_a_hole_are_not_copied_and_never_changed(places):
    before = {name: values.copy() for name, values in places.forcings.items()}
    inputs, _ = prepare(places, SPEC, {})
    assert np.shares_memory(inputs.dynamic["precipitation"], places.forcings["precipitation"])
    places.forcings["precipitation"][4, 2] = before["precipitation"][4, 2] = -9999
    design(prepare(places, SPEC, {})[0], SPEC, Scaler((*SPEC.dynamic, "sand"), (0.0,) * 4, (1.0,) * 4))
    for name, values in before.items():
        np.testing.assert_array_equal(places.forcings[name], values)
