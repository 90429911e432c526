"""Closure: fluxes of a map add up to the last bit, and the projection is the constrained least-squares adjustment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.errors import ConfigError
from fluxgrid.prediction.closure import close_fluxes

VARIANCES = {"gpp": 0.8, "reco": 0.3, "nee": 0.5}


def random_outputs(*names: str, low: float = 0.0, shape=(6, 11)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {name: rng.uniform(low, 9.0, shape).astype(np.float32) for name in names}


def adjusted(gpp: float, reco: float, nee: float, variances: dict[str, float]) -> np.ndarray:
    """Return GPP and RECO nearest to what was said in units of its errors, NEE = RECO - GPP; by brute least squares."""
    weight = 1 / np.sqrt([variances["gpp"], variances["reco"], variances["nee"]])
    design = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    return np.linalg.lstsq(design * weight[:, None], np.array([gpp, reco, nee]) * weight)[0]


def assert_closed(fluxes: dict[str, np.ndarray]) -> None:
    for name, values in fluxes.items():
        assert values.dtype == np.float32, name
        assert name == "nee" or (values >= 0).all(), name
    assert np.array_equal(fluxes["nee"], fluxes["reco"] - fluxes["gpp"])
    if "ra" in fluxes:
        assert np.array_equal(fluxes["reco"], fluxes["ra"] + fluxes["rh"])


def test_derived_with_parts_of_respiration(make_spec):
    outputs = random_outputs("gpp", "ra", "rh")
    fluxes = close_fluxes(outputs, make_spec())
    assert list(fluxes) == ["nee", "gpp", "reco", "ra", "rh"]
    assert_closed(fluxes)
    for name in outputs:
        assert np.array_equal(fluxes[name], outputs[name])


def test_derived_with_respiration_as_a_whole(make_spec):
    outputs = random_outputs("gpp", "reco")
    fluxes = close_fluxes(outputs, make_spec())
    assert list(fluxes) == ["nee", "gpp", "reco"]
    assert_closed(fluxes)


def test_derived_cuts_at_zero_and_has_no_use_for_the_nee_of_the_model(make_spec):
    outputs = random_outputs("gpp", "ra", "rh", low=-3.0)
    fluxes = close_fluxes(outputs, make_spec())
    assert_closed(fluxes)
    assert (fluxes["gpp"][outputs["gpp"] < 0] == 0).all()
    with_nee = close_fluxes({**outputs, "nee": outputs["gpp"] + 5}, make_spec())
    assert np.array_equal(with_nee["nee"], fluxes["nee"])


def test_what_is_not_known_stays_unknown(make_spec):
    outputs = random_outputs("gpp", "ra", "rh")
    for values in outputs.values():
        values[2, 3] = np.nan
    for values in close_fluxes(outputs, make_spec()).values():
        assert np.argwhere(np.isnan(values)).tolist() == [[2, 3]]


def test_projected_is_constrained_least_squares(make_spec):
    spec = make_spec(closure="projected", error_variances=VARIANCES)
    outputs = random_outputs("gpp", "reco", low=4.0)  # far enough from zero to stay above it
    outputs["nee"] = outputs["reco"] - outputs["gpp"] + np.random.default_rng(0).normal(0, 1, (6, 11)).astype("f4")
    fluxes = close_fluxes(outputs, spec)
    assert_closed(fluxes)
    expected = np.array(
        [adjusted(*row, VARIANCES) for row in zip(*(outputs[n].ravel() for n in ("gpp", "reco", "nee")), strict=True)]
    )
    # float32 of numbers up to 10
    np.testing.assert_allclose(fluxes["gpp"].ravel(), expected[:, 0], rtol=0, atol=3e-6)
    np.testing.assert_allclose(fluxes["reco"].ravel(), expected[:, 1], rtol=0, atol=3e-6)
    np.testing.assert_allclose(fluxes["nee"].ravel(), expected[:, 1] - expected[:, 0], rtol=0, atol=5e-6)


@pytest.mark.parametrize(("certain", "kept"), [("gpp", "gpp"), ("reco", "reco"), ("nee", "nee")])
def test_what_is_certain_does_not_move(make_spec, certain, kept):
    variances = {name: 1e-9 if name == certain else 1.0 for name in VARIANCES}
    outputs = random_outputs("gpp", "reco", low=4.0)
    outputs["nee"] = outputs["reco"] - outputs["gpp"] + np.float32(0.5)
    fluxes = close_fluxes(outputs, make_spec(closure="projected", error_variances=variances))
    np.testing.assert_allclose(fluxes[kept], outputs[kept], rtol=0, atol=3e-6)


def test_projected_keeps_the_shares_of_respiration(make_spec):
    spec = make_spec(closure="projected", error_variances=VARIANCES)
    outputs = random_outputs("gpp", "ra", "rh", low=2.0)
    outputs["nee"] = outputs["ra"] + outputs["rh"] - outputs["gpp"] + np.float32(0.7)
    fluxes = close_fluxes(outputs, spec)
    assert_closed(fluxes)
    np.testing.assert_allclose(fluxes["ra"] / fluxes["rh"], outputs["ra"] / outputs["rh"], rtol=1e-5)
    whole = {"gpp": outputs["gpp"], "reco": outputs["ra"] + outputs["rh"], "nee": outputs["nee"]}
    np.testing.assert_allclose(fluxes["reco"], close_fluxes(whole, spec)["reco"], rtol=1e-6)


number = st.floats(-20, 20, width=32)


@given(st.lists(number, min_size=4, max_size=4), st.lists(st.floats(0.01, 10), min_size=3, max_size=3))
def test_projected_always_closes_and_is_never_negative(make_spec, values, variances):
    spec = make_spec(closure="projected", error_variances=dict(zip(VARIANCES, variances, strict=True)))
    outputs = {name: np.array([v], "f4") for name, v in zip(("gpp", "ra", "rh", "nee"), values, strict=True)}
    assert_closed(close_fluxes(outputs, spec))


def test_fluxes_that_close_already_stay(make_spec):
    outputs = random_outputs("gpp", "ra", "rh")
    outputs["nee"] = outputs["ra"] + outputs["rh"] - outputs["gpp"]
    fluxes = close_fluxes(outputs, make_spec(closure="projected", error_variances=VARIANCES))
    for name in outputs:
        np.testing.assert_allclose(fluxes[name], outputs[name], rtol=1e-5, atol=2e-6)


def test_free_leaves_all_as_they_are(make_spec):
    outputs = random_outputs("gpp", "reco", "nee")
    fluxes = close_fluxes(outputs, make_spec(closure="free"))
    assert {name: fluxes[name] is outputs[name] for name in outputs} == {"gpp": True, "reco": True, "nee": True}


@pytest.mark.parametrize(
    ("variances", "names", "text"),
    [
        ({}, ("gpp", "reco", "nee"), "without gpp, reco, nee use 'derived'"),
        ({"gpp": 1.0, "reco": 0.0, "nee": 1.0}, ("gpp", "reco", "nee"), "without reco use 'derived'"),
        (VARIANCES, ("gpp", "reco"), "without its own NEE use 'derived'"),
    ],
)
def test_projected_says_what_it_lacks(make_spec, variances, names, text):
    spec = make_spec(closure="projected", error_variances=variances)
    with pytest.raises(ConfigError, match=text):
        close_fluxes(random_outputs(*names), spec)
