from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.data.scaler import Scaler

numbers = st.floats(-1e6, 1e6, allow_subnormal=False)
names = st.lists(st.sampled_from(["temperature_2m", "vpd", "lai", "elevation", "sand"]), min_size=1, unique=True)


@st.composite
def scalers(draw) -> Scaler:
    keys = draw(names)
    stds = st.floats(1e-6, 1e6)
    return Scaler(tuple(keys), tuple(draw(numbers) for _ in keys), tuple(draw(stds) for _ in keys))


@given(scalers())
def test_json_keeps_every_bit_and_the_order(scaler):
    assert Scaler.from_json(scaler.to_json()) == scaler
    assert list(json.loads(scaler.to_json())) == list(scaler.names)


def test_mean_and_spread_ignore_holes_and_shape():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 3, (11, 7)).astype(np.float32)
    values[2:4, 1] = np.nan
    scaler = Scaler.fit({"vpd": values, "lai": np.full((3, 1), 2.0, np.float32)})
    assert scaler.mean[0] == pytest.approx(np.nanmean(values.astype(np.float64)))
    scaled = scaler.apply("vpd", values)
    assert scaled.dtype == np.float32
    assert scaled.shape == values.shape
    assert np.nanmean(scaled) == pytest.approx(0, abs=1e-6)
    assert np.nanstd(scaled) == pytest.approx(1, rel=1e-6)
    assert np.isnan(scaled[2:4, 1]).all()


def test_what_never_varies_is_only_centred():
    scaler = Scaler.fit({"lai": np.full(4, 2.0)})
    assert scaler.std == (1.0,)
    assert scaler.apply("lai", np.array([2.5], np.float32)).tolist() == [0.5]


def test_large_numbers_do_not_lose_their_mean():
    """Pressure in Pa over many steps: float32 sums would drift."""
    values = np.full(300_000, 101_325.0, np.float32)
    assert Scaler.fit({"pressure": values}).mean == (101_325.0,)
