from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.data.inputs import Places
from fluxgrid.prediction import BLOCK, BlockState, Fluxes
from fluxgrid.prediction.predictor import join_states, split_states


def some(places: Places, chosen) -> Places:
    """Return some of the places, in the order asked for."""
    return replace(
        places,
        latitude=places.latitude[chosen],
        forcings={name: values[:, chosen] for name, values in places.forcings.items()},
        statics={name: values[chosen] for name, values in places.statics.items()},
    )


def part(places: Places, steps: slice, halo: int) -> Places:
    """Return a run of steps with the halo the record has."""
    before, after = min(halo, steps.start), min(halo, len(places.time) - steps.stop)
    cut = slice(steps.start - before, steps.stop + after)
    forcings = {name: values[cut] for name, values in places.forcings.items()}
    return replace(places, time=places.time[steps], forcings=forcings, before=before, after=after)


def arrays_of(fluxes: Fluxes) -> dict[str, np.ndarray]:
    """Return everything predicted by name, places along the last axis."""
    rest = {field.name: getattr(fluxes, field.name) for field in fields(Fluxes)}
    spread = {f"{name}_spread": values for name, values in rest.pop("spread").items()}
    return {**rest.pop("daily"), **rest.pop("annual"), **spread, **rest}


def assert_same(one: Fluxes, other: Fluxes, places=slice(None), others=slice(None)) -> None:
    """Check that two results are the same bit for bit, at all or some of their places."""
    left, right = arrays_of(one), arrays_of(other)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name][..., places], right[name][..., others], err_msg=name)


def spoil(places: Places, name: str, step: int, place: int) -> Places:
    """Return the places with one value missing."""
    values = places.forcings[name].copy()
    values[step, place] = np.nan
    return replace(places, forcings={**places.forcings, name: values})


def test_nee_is_reco_minus_gpp_to_the_last_bit(predictor, make_places):
    fluxes, _ = predictor.predict(make_places())
    assert fluxes.nee.shape == (12, 7)
    assert {fluxes.nee.dtype, fluxes.gpp.dtype, fluxes.reco.dtype, fluxes.applicability.dtype} == {np.dtype("float32")}
    assert np.array_equal(fluxes.nee, fluxes.reco - fluxes.gpp)
    assert (fluxes.gpp >= 0).all()
    assert (fluxes.reco >= 0).all()


def test_padding_changes_nothing(predictor, make_places):
    places = make_places(9)
    alone, after = predictor.predict(places)
    padded, _ = predictor.predict(places.pad(BLOCK))
    assert_same(padded, alone, places=slice(0, 9))
    assert after.hidden.shape == (9, 8)


def test_a_block_that_is_too_large_is_refused(predictor, make_places):
    with pytest.raises(ValueError, match="A block holds up to 256 places, got 257; predict them in several blocks"):
        predictor.predict(make_places(BLOCK + 1))


def test_neighbours_change_nothing(predictor, make_places):
    """A place's bits do not depend on what stands in the other rows of its block, only on its own row."""
    places, others = make_places(9), make_places(9, seed=1)
    mixed = replace(
        others,
        latitude=np.where(np.arange(9) == 4, places.latitude, others.latitude),
        forcings={n: np.where(np.arange(9) == 4, places.forcings[n], others.forcings[n]) for n in places.forcings},
        statics={n: np.where(np.arange(9) == 4, places.statics[n], others.statics[n]) for n in places.statics},
    )
    assert_same(predictor.predict(places)[0], predictor.predict(mixed)[0], places=4, others=4)


def test_position_in_the_block_changes_rounding_at_most(predictor, make_places):
    """Kernels may treat the last rows of a product apart: 1e-6 of the flux is a few float32 roundings."""
    places = make_places(9)
    all_of_them = predictor.predict(places)[0]
    for place in (0, 5, 8):
        alone = predictor.predict(some(places, [place]))[0]
        np.testing.assert_allclose(alone.gpp[:, 0], all_of_them.gpp[:, place], rtol=1e-6)
        np.testing.assert_allclose(alone.reco[:, 0], all_of_them.reco[:, place], rtol=1e-6)
        np.testing.assert_array_equal(alone.applicability[:, 0], all_of_them.applicability[:, place])


def test_a_missing_input_leaves_the_step_empty_and_the_later_ones_flagged(predictor, make_places):
    places = spoil(make_places(), "precipitation", 4, 2)  # has no gap rule
    clean, _ = predictor.predict(make_places())
    fluxes, _ = predictor.predict(places)
    assert np.argwhere(fluxes.missing).tolist() == [[4, 2]]
    for name in ("nee", "gpp", "reco", "applicability"):
        assert np.argwhere(np.isnan(getattr(fluxes, name))).tolist() == [[4, 2]], name
    assert np.argwhere(fluxes.filled).tolist() == [[step, 2] for step in range(5, 12)]
    assert not fluxes.outside[4, 2]
    untouched = np.arange(7) != 2
    np.testing.assert_array_equal(fluxes.nee[:, untouched], clean.nee[:, untouched])
    np.testing.assert_array_equal(fluxes.nee[:4], clean.nee[:4])


def test_a_missing_static_empties_the_place(predictor, make_places):
    places = make_places()
    statics = {name: values.copy() for name, values in places.statics.items()}
    statics["crop_fraction"][1] = statics["climate_group"][6] = np.nan
    fluxes, _ = predictor.predict(replace(places, statics=statics))
    assert fluxes.missing.all(axis=0).tolist() == [False, True, False, False, False, False, True]
    assert np.isnan(fluxes.nee[:, [1, 6]]).all()
    assert not fluxes.filled[:, [1, 6]].any()


def test_a_filled_input_is_flagged(predictor, make_places):
    fluxes, _ = predictor.predict(spoil(make_places(), "temperature_2m", 6, 3))
    assert np.argwhere(fluxes.filled).tolist() == [[6, 3]]
    assert not fluxes.missing.any()
    assert np.isfinite(fluxes.nee).all()


def test_the_state_carries_over(predictor, make_places):
    """Two years one after the other are the two years in one go; the history of gap filling goes along."""
    places = spoil(spoil(make_places(end="2002-12-01"), "shortwave", 17, 1), "shortwave", 18, 1)
    halo = predictor.checkpoint.spec.inputs.halo
    whole, end = predictor.predict(places)
    early, between = predictor.predict(part(places, slice(0, 12), halo))
    late, last = predictor.predict(part(places, slice(12, 24), halo), between)
    assert whole.filled[17:19, 1].all()  # two steps are filled from the season of the year before
    # one run or two: the same float32 products, perhaps added in another order
    np.testing.assert_allclose(np.concatenate([early.nee, late.nee]), whole.nee, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([early.filled, late.filled]), whole.filled)
    np.testing.assert_allclose(last.hidden, end.hidden, rtol=1e-5, atol=1e-6)
    cold, _ = predictor.predict(part(places, slice(12, 24), halo))
    assert not np.allclose(cold.nee, late.nee, atol=1e-4)


def test_a_period_nobody_wants_hands_on_the_same_bits(predictor, make_places):
    places = spoil(make_places(), "shortwave", 3, 1)
    one, other = predictor.predict(places)[1].arrays(), predictor.advance(places).arrays()
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_stored_state_goes_on_with_the_same_bits(predictor, make_places):
    halo = predictor.checkpoint.spec.inputs.halo
    places = make_places(end="2002-12-01")
    _, state = predictor.predict(part(places, slice(0, 12), halo))
    stored = {name: array.copy() for name, array in state.arrays().items()}
    assert set(stored) > {"hidden", "history.shortwave.normal", "history.temperature_2m.clock"}
    assert {len(array) for array in stored.values()} == {7}
    rest = part(places, slice(12, 24), halo)
    assert_same(predictor.predict(rest, state)[0], predictor.predict(rest, BlockState.from_arrays(stored))[0])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_states_join_and_split(sizes):
    rng = np.random.default_rng(0)
    states = [BlockState(rng.normal(size=(size, 3)).astype(np.float32), {}) for size in sizes]
    again = list(split_states(join_states(states), sizes))
    assert len(again) == len(states)
    for one, other in zip(states, again, strict=True):
        np.testing.assert_array_equal(one.hidden, other.hidden)


def test_the_outside_is_what_lies_above_the_threshold(predictor, make_places):
    fluxes, _ = predictor.predict(make_places())
    threshold = predictor.checkpoint.domain.threshold
    np.testing.assert_array_equal(fluxes.outside, fluxes.applicability > threshold)
    assert 0 < fluxes.outside.mean() < 1
