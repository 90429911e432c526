"""KGML-ag in the predictor: what is provisional, what a year gives, and heads of places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fluxgrid.errors import ConfigError
from fluxgrid.models.calibrated import Calibration
from fluxgrid.models.calibration import KINDS, ONE_PASS, Heads
from fluxgrid.models.crop_mosaic import ANNUAL, DYNAMIC, FLUXES, OTHER_COVER
from fluxgrid.models.places import CalibratedPlaces
from fluxgrid.prediction import BLOCK, BlockState, Predictor
from fluxgrid.prediction.blend import Blend, global_blend

# The same float32 products over another number of days, in another order of addition at worst; fluxes are of order 10.
ROUNDING = {"rtol": 1e-5, "atol": 2e-5}
DAILY = ("nee", "gpp", "reco", "ra", "rh")
YEARLY = (*ANNUAL, "balance_after_harvest")


@pytest.fixture(scope="module")
def whole(crop_predictor, make_crop_places):
    """Return the fluxes and the state of 2001."""
    return crop_predictor.predict(make_crop_places("2001-01-01", "2001-12-31"))


def test_fluxes_close_to_the_last_bit(whole):
    fluxes, _ = whole
    assert tuple(fluxes.daily) == DAILY
    assert all(values.dtype == np.float32 and values.shape == (365, 3) for values in fluxes.daily.values())
    assert np.array_equal(fluxes.nee, fluxes.reco - fluxes.gpp)
    assert np.array_equal(fluxes.reco, fluxes.daily["ra"] + fluxes.daily["rh"])
    assert all((fluxes.daily[name] >= 0).all() for name in DAILY[1:])
    assert fluxes.gpp.std() > 0.1


def test_a_finished_year_is_final_and_has_its_sums(whole):
    fluxes, _ = whole
    assert not fluxes.provisional.any()
    assert tuple(fluxes.annual) == YEARLY
    assert all(values.dtype == np.float32 and np.isfinite(values).all() for values in fluxes.annual.values())
    # a sum of 365 float32
    balance = fluxes.nee.sum(axis=0, dtype=np.float64) + fluxes.annual["harvest_removal"]
    np.testing.assert_allclose(fluxes.annual["balance_after_harvest"], balance, rtol=1e-5, atol=1e-3)


def test_the_harvest_is_the_crops_yields_by_their_shares(whole, make_crop_places):
    fluxes, _ = whole
    places = make_crop_places("2001-01-01", "2001-12-31")
    share = {crop: places.forcings[f"{crop}_fraction"][0] for crop in ("corn", "soybean")}
    expected = sum(share[crop] * fluxes.annual[f"{crop}_yield"] for crop in share)
    assert (expected > 0).all()
    # shares are scaled and scaled back in float32
    np.testing.assert_allclose(fluxes.annual["harvest_removal"], expected, rtol=1e-5)


@pytest.mark.parametrize("end", ["2001-06-30", "2001-10-25", "2001-10-26", "2001-11-30", "2001-12-30"])
def test_a_year_cut_short_is_the_same_until_the_residue_and_provisional_after(
    crop_predictor, make_crop_places, whole, end
):
    fluxes, _ = crop_predictor.predict(make_crop_places("2001-01-01", end))
    steps = len(fluxes.nee)
    for name in DAILY:
        known = min(steps, 298)
        np.testing.assert_allclose(fluxes.daily[name][:known], whole[0].daily[name][:known], **ROUNDING, err_msg=name)
    np.testing.assert_array_equal(fluxes.provisional, np.repeat(np.arange(steps)[:, None] >= 298, 3, axis=1))
    assert all(np.isnan(values).all() for values in fluxes.annual.values())


def test_provisional_days_do_change(crop_predictor, make_crop_places, whole):
    fluxes, _ = crop_predictor.predict(make_crop_places("2001-01-01", "2001-11-30"))
    change = np.abs(fluxes.daily["rh"][298:] - whole[0].daily["rh"][298:334])
    assert change.max() > 1e-4
    assert not np.allclose(fluxes.nee[298:], whole[0].nee[298:334], **ROUNDING)


def test_a_leap_year_has_366_days(crop_predictor, make_crop_places):
    fluxes, _ = crop_predictor.predict(make_crop_places("2004-01-01", "2004-12-31"))
    assert fluxes.nee.shape == (366, 3)
    assert np.isfinite(fluxes.nee).all()
    assert not fluxes.missing.any()
    assert not fluxes.provisional.any()
    assert np.isfinite(fluxes.annual["corn_yield"]).all()
    short, _ = crop_predictor.predict(make_crop_places("2004-01-01", "2004-12-30"))
    assert short.provisional[298:].all()
    assert np.isnan(short.annual["corn_yield"]).all()


def test_years_one_after_the_other_are_one_run(crop_predictor, make_crop_places, whole):
    record, end = crop_predictor.predict(make_crop_places("2001-01-01", "2002-12-31"))
    late, last = crop_predictor.predict(make_crop_places("2002-01-01", "2002-12-31"), whole[1])
    for name in DAILY:
        pieces = np.concatenate([whole[0].daily[name], late.daily[name]])
        np.testing.assert_allclose(pieces, record.daily[name], **ROUNDING, err_msg=name)
    np.testing.assert_allclose(last.hidden, end.hidden, **ROUNDING)
    assert not record.provisional.any()
    # a record of two years has no one yield
    assert all(np.isnan(values).all() for values in record.annual.values())
    cold, _ = crop_predictor.predict(make_crop_places("2002-01-01", "2002-12-31"))
    assert not np.allclose(cold.nee, late.nee, atol=1e-4)


def test_only_the_last_year_of_a_record_is_provisional(crop_predictor, make_crop_places):
    fluxes, _ = crop_predictor.predict(make_crop_places("2001-01-01", "2002-11-15"))
    assert np.flatnonzero(fluxes.provisional[:, 0]).tolist() == list(range(365 + 298, 365 + 319))


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("2001-03-01", "2001-12-31", (239, 306)),  # 26 October to the end: what January took up is not known
        ("2001-11-15", "2001-12-31", (0, 47)),
        ("2001-10-20", "2002-12-31", (6, 73)),  # the whole year after it is final
        ("2001-01-01", "2001-10-25", (0, 0)),
    ],
)
def test_a_year_whose_beginning_is_missing_stays_provisional(crop_predictor, make_crop_places, start, end, expected):
    fluxes, _ = crop_predictor.predict(make_crop_places(start, end))
    np.testing.assert_array_equal(fluxes.provisional[:, 0], np.isin(np.arange(len(fluxes.nee)), range(*expected)))


def test_a_stored_state_goes_on_with_the_same_bits(crop_predictor, make_crop_places, whole):
    stored = {name: array.copy() for name, array in whole[1].arrays().items()}
    rest = make_crop_places("2002-01-01", "2002-12-31")
    one, two = (crop_predictor.predict(rest, state)[0] for state in (whole[1], BlockState.from_arrays(stored)))
    for name in DAILY:
        np.testing.assert_array_equal(one.daily[name], two.daily[name])


def test_a_hole_leaves_the_day_empty_and_the_place_without_its_year(crop_predictor, make_crop_places, whole):
    places = make_crop_places("2001-01-01", "2001-12-31")
    forcings = {name: values.copy() for name, values in places.forcings.items()}
    forcings["wind_speed"][150, 1] = np.nan
    fluxes, _ = crop_predictor.predict(replace(places, forcings=forcings))
    for name in DAILY:
        assert np.argwhere(np.isnan(fluxes.daily[name])).tolist() == [[150, 1]]
    assert np.argwhere(fluxes.missing).tolist() == [[150, 1]]
    assert fluxes.filled[151:, 1].all()
    for name in YEARLY:
        assert np.isnan(fluxes.annual[name]).tolist() == [False, True, False], name
        np.testing.assert_array_equal(fluxes.annual[name][[0, 2]], whole[0].annual[name][[0, 2]])


def test_empty_places_of_a_block_change_nothing(crop_predictor, make_crop_places):
    """Their calendar is that of the others, for the network reads the calendar of the first row."""
    places = make_crop_places("2001-12-20", "2002-01-10")
    alone, _ = crop_predictor.predict(places)
    padded, _ = crop_predictor.predict(places.pad(BLOCK))
    for name in DAILY:
        np.testing.assert_array_equal(padded.daily[name][:, :3], alone.daily[name])


def test_crops_take_up_what_the_satellite_saw(make_crop_checkpoint, make_crop_places):
    checkpoint = make_crop_checkpoint({"gpp": "satellite"}, gpp_is_driver=True)
    places = make_crop_places("2001-06-01", "2001-06-20")
    crops = {f"{crop}_fraction": np.full_like(places.forcings["lai"], 0.5) for crop in ("corn", "soybean")}
    places = replace(places, forcings={**places.forcings, **crops})
    fluxes, _ = Predictor(checkpoint).predict(places)
    # scaled and scaled back in float32
    np.testing.assert_allclose(fluxes.gpp, places.forcings["gpp_satellite"], rtol=1e-5, atol=1e-5)


def test_where_no_model_applies_there_is_no_value_though_no_input_is_missing(make_crop_checkpoint, make_crop_places):
    checkpoint = make_crop_checkpoint({"other": "none"})
    places = make_crop_places("2001-01-01", "2001-12-31")
    statics = {**places.statics, **{name: np.zeros(3, np.float32) for name in OTHER_COVER}}
    statics["grass_fraction"] = np.array([0.0, 0.3, 0.0], np.float32)
    fluxes, _ = Predictor(checkpoint).predict(replace(places, statics=statics))
    assert np.isnan(fluxes.nee).all(axis=0).tolist() == [False, True, False]
    assert np.isfinite(fluxes.nee[:, [0, 2]]).all()
    assert not fluxes.missing.any()
    assert np.isnan(fluxes.annual["corn_yield"]).tolist() == [False, True, False]


def test_a_model_without_an_nee_of_its_own_cannot_be_free(make_crop_checkpoint, make_crop_places):
    with pytest.raises(ConfigError, match=r"Closure 'free' of .* needs the model's own nee, reco"):
        Predictor(make_crop_checkpoint(closure="free")).predict(make_crop_places("2001-01-01", "2001-01-03"))


PLACES = CalibratedPlaces(
    ("IA", "IL"), np.array([42.0, 40.0]), np.array([-93.5, -89.0]), np.zeros((2, 1)), ("temperature_2m",), np.ones(1),
    ("IA", "IL"),
)  # fmt: skip


@pytest.fixture(params=KINDS)
def calibrated(request, make_crop_checkpoint):
    """Return the checkpoint with random heads of two places, for every kind of phi_s."""
    checkpoint = make_crop_checkpoint()
    torch.manual_seed(5)
    heads = Heads(checkpoint.model, request.param, len(PLACES), rank=2)
    with torch.no_grad():
        for value in heads.phi.values():
            value.normal_(0.0, 0.3)
    return replace(checkpoint, calibrations={"state": Calibration("state", heads, PLACES)})


def test_calibrated_places_in_the_predictor(calibrated, make_crop_places, whole):
    predictor = Predictor(calibrated, calibration="state")
    places = make_crop_places("2001-01-01", "2001-12-31")
    blend = Blend(np.array([[0, -1], [-1, -1], [1, 0]]), np.array([[1.0, 0.0], [0.0, 0.0], [0.5, 0.25]]))
    mixed, state = predictor.predict(places, blend=blend)
    assert tuple(mixed.daily) == DAILY
    assert np.array_equal(mixed.nee, mixed.reco - mixed.gpp)
    assert all((mixed.daily[name] >= 0).all() for name in DAILY[1:])
    assert not np.allclose(mixed.gpp[:, 0], whole[0].gpp[:, 0], atol=1e-3)
    np.testing.assert_allclose(mixed.nee[:, 1], whole[0].nee[:, 1], **ROUNDING)
    alone = [predictor.predict(places, blend=Blend(np.full((3, 1), i), np.ones((3, 1))))[0].daily for i in range(2)]
    for name in ("gpp", "ra", "rh"):
        np.testing.assert_allclose(mixed.daily[name][:, 0], alone[0][name][:, 0], **ROUNDING)
        expected = 0.5 * alone[1][name] + 0.25 * alone[0][name] + 0.25 * whole[0].daily[name]
        np.testing.assert_allclose(mixed.daily[name][:, 2], expected[:, 2], **ROUNDING)
    if calibrated.calibrations["state"].heads.kind in ONE_PASS:
        # the yields feed the residue and stay global
        np.testing.assert_allclose(mixed.annual["corn_yield"], whole[0].annual["corn_yield"], rtol=1e-5)
        np.testing.assert_array_equal(state.hidden, whole[1].hidden)


def test_calibrated_years_one_after_the_other_are_one_run(calibrated, make_crop_places):
    predictor = Predictor(calibrated, calibration="state")
    blend = Blend(np.array([[0, -1], [-1, -1], [1, 0]]), np.array([[0.8, 0.0], [0.0, 0.0], [0.5, 0.25]]))
    early, between = predictor.predict(make_crop_places("2001-12-01", "2001-12-31"), blend=blend)
    between = BlockState.from_arrays(between.arrays())
    late, last = predictor.predict(make_crop_places("2002-01-01", "2002-01-31"), between, blend)
    record, end = predictor.predict(make_crop_places("2001-12-01", "2002-01-31"), blend=blend)
    np.testing.assert_allclose(np.concatenate([early.nee, late.nee]), record.nee, **ROUNDING)
    np.testing.assert_allclose(last.hidden, end.hidden, **ROUNDING)


def test_years_of_spin_up_hand_on_the_same_bits(calibrated, make_crop_places):
    predictor = Predictor(calibrated, calibration="state")
    blend = Blend(np.array([[0, -1], [-1, -1], [1, 0]]), np.array([[0.8, 0.0], [0.0, 0.0], [0.5, 0.25]]))
    places = make_crop_places("2001-10-01", "2001-12-31")
    for given in (blend, None):
        expected = predictor.predict(places, blend=given)[1]
        np.testing.assert_array_equal(predictor.advance(places, blend=given).hidden, expected.hidden)


def test_without_weights_or_without_blend_it_is_the_global_model(calibrated, make_crop_places, crop_predictor):
    places = make_crop_places("2001-05-01", "2001-05-20")
    expected, _ = crop_predictor.predict(places)
    predictor = Predictor(calibrated, calibration="state")
    np.testing.assert_array_equal(predictor.predict(places)[0].nee, expected.nee)
    np.testing.assert_allclose(predictor.predict(places, blend=global_blend(3))[0].nee, expected.nee, **ROUNDING)
    np.testing.assert_array_equal(Predictor(calibrated).predict(places)[0].nee, expected.nee)


def test_a_calibration_nobody_made_is_named(make_crop_checkpoint):
    with pytest.raises(ConfigError, match=r"'small' has no calibration 'stat', it has none\. Choose"):
        Predictor(make_crop_checkpoint(), calibration="stat")


def test_the_calendar_reaches_the_network(crop_predictor, make_crop_places, whole):
    """Another year with the same weather is another year: the rotations change places, and with them the fluxes."""
    places = make_crop_places("2001-01-01", "2001-12-31")
    moved = replace(places, time=places.time + (pd.Timestamp("2002-01-01") - pd.Timestamp("2001-01-01")))
    fluxes, _ = crop_predictor.predict(moved)
    assert not np.allclose(fluxes.nee, whole[0].nee, atol=1e-4)
    assert {"calendar_year", "day_of_year"} < set(DYNAMIC)
    assert crop_predictor.checkpoint.spec.fluxes == FLUXES
