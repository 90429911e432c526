"""Random fields: known values, unit variance, no direction, and no trace of what else was asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxgrid.simulation.arithmetic import cosine, exp
from fluxgrid.simulation.noise import (
    DAYS_AT_ONCE,
    Waves,
    _wave_table,
    hashed_uniforms,
    plane,
    random_field,
    uniforms,
)
from fluxgrid.simulation.patches import Patches, patchy_field

STORMS = Waves(13, 111, 190.0, 1.4, 400.0, 60.0)
LONGITUDE, LATITUDE = (part.ravel() for part in np.meshgrid(np.linspace(-97.3, -92.1, 7), np.linspace(44.4, 41.2, 5)))
DAYS = np.arange(4000.0, 4000.0 + DAYS_AT_ONCE + 37)
FIELDS = {
    "waves": lambda *where: random_field(STORMS, *where),
    "patches": lambda *where: patchy_field(Patches(3, 35.0), *where),
    "slow patches": lambda *where: patchy_field(Patches(4, 300.0, 11.5), *where),
    "white": lambda *where: hashed_uniforms(3, *where),
}


@pytest.mark.parametrize("name", FIELDS)
@settings(max_examples=15)
@given(data=st.data())
def test_any_part_equals_the_whole_bit_for_bit(name, data):
    whole = FIELDS[name](LATITUDE, LONGITUDE, DAYS)
    cells = data.draw(st.lists(st.integers(0, 34), min_size=1, max_size=11, unique=True))
    first = data.draw(st.integers(0, len(DAYS) - 1))
    days = slice(first, data.draw(st.integers(first + 1, len(DAYS))))
    np.testing.assert_array_equal(FIELDS[name](LATITUDE[cells], LONGITUDE[cells], DAYS[days]), whole[cells, days])


def test_the_field_is_the_sum_of_its_waves():
    amplitude, east, north, omega, phase = _wave_table(STORMS)
    x, y = plane(LATITUDE, LONGITUDE)
    angle = x[:, None, None] * east + y[:, None, None] * north + phase + DAYS[None, :, None] * omega
    expected = (amplitude * np.cos(angle)).sum(axis=2)
    np.testing.assert_allclose(random_field(STORMS, LATITUDE, LONGITUDE, DAYS), expected, atol=2e-5)


def test_a_map_is_the_field_at_day_zero():
    still = Waves(5, 33, 80.0, np.inf)
    field = random_field(still, LATITUDE, LONGITUDE)
    assert field.shape == (35,)
    np.testing.assert_array_equal(field, random_field(still, LATITUDE, LONGITUDE, np.array([0.0, 900.0]))[:, 1])


def test_a_field_of_waves_has_unit_variance_and_no_direction():
    longitude, latitude = np.meshgrid(np.arange(-106, -79, 0.3), np.arange(50, 34, -0.3))
    field = random_field(STORMS, latitude.ravel(), longitude.ravel(), np.arange(0.0, 400, 20)).T
    field = field.reshape(-1, *latitude.shape)
    assert abs(field.mean()) < 0.1
    assert field.std() == pytest.approx(1, abs=0.1)
    km = 0.3 * 111.2 * np.array([1.0, np.cos(np.deg2rad(40))])
    north, east = (np.diff(field, axis=axis).std() / width for axis, width in zip((1, 2), km, strict=True))
    assert north == pytest.approx(east, rel=0.15)


def test_patches_are_local_new_every_day_and_of_unit_variance():
    longitude = np.arange(-98.0, -90.0, 0.1)
    field = patchy_field(Patches(17, 35.0), np.full(80, 41.03), longitude, np.arange(3000.0))
    assert field.std(axis=1) == pytest.approx(1.0, abs=0.06)
    assert abs((field[:, 1:] * field[:, :-1]).mean()) < 0.02
    km = 0.1 * 111.2 * np.cos(np.deg2rad(40))
    near, far = (np.mean(field[k:] * field[:-k]) for k in (round(40.0 / km), round(110.0 / km)))
    assert near == pytest.approx(np.exp(-1), abs=0.06)
    assert abs(far) < 0.05


def test_a_map_of_patches_is_local_and_of_unit_variance():
    longitude, latitude = (part.ravel() for part in np.meshgrid(np.arange(-98, -90, 0.1), np.arange(45, 40, -0.1)))
    field = patchy_field(Patches(6, 12.0), latitude, longitude)
    assert field.std() == pytest.approx(1.0, abs=0.05)
    np.testing.assert_array_equal(patchy_field(Patches(6, 12.0), latitude[70:73], longitude[70:73]), field[70:73])
    rows = field.reshape(50, 80)
    assert (rows[:, 1:] * rows[:, :-1]).mean() > 0.4  # 8.5 km apart
    assert abs((rows[:, 5:] * rows[:, :-5]).mean()) < 0.06


def test_slow_patches_forget_over_their_days():
    field = patchy_field(Patches(5, 500.0, 20.0), np.array([41.0, 33.0]), np.array([-93.0, -106.0]), np.arange(60000.0))
    assert field.std(axis=1) == pytest.approx(1.0, abs=0.06)
    near, far = ((field[:, k:] * field[:, :-k]).mean(axis=1) for k in (23, 80))
    assert near == pytest.approx(np.exp(-1), abs=0.07)
    assert np.abs(far).max() < 0.06


def test_white_noise_is_uniform_and_without_memory():
    noise = hashed_uniforms(9, LATITUDE, LONGITUDE, np.arange(-1000.0, 1000.0))
    counts = np.histogram(noise, bins=20, range=(0, 1))[0]
    expected = noise.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 45  # chi square, 19 degrees of freedom, p = 0.0007
    assert (noise > 0).all()
    assert (noise < 1).all()
    centred = noise - 0.5
    assert abs((centred[:, 1:] * centred[:, :-1]).mean() * 12) < 0.02
    assert abs((centred[1:] * centred[:-1]).mean() * 12) < 0.02
    other = hashed_uniforms(10, LATITUDE, LONGITUDE, np.arange(-1000.0, 1000.0))
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.02


def test_streams_of_bits_are_frozen():
    assert uniforms(7, 2) == pytest.approx([0.8720734548204874, 0.2953653815137836], abs=1e-15)
    noise = hashed_uniforms(1, np.array([40.0]), np.array([-90.0]), np.array([0.0, 1.0]))
    assert noise[0] == pytest.approx([0.10557634, 0.12730226], abs=1e-8)


def test_exponential_and_cosine_agree_with_the_library():
    x = np.linspace(-60.0, 60.0, 2001)
    np.testing.assert_allclose([exp(value) for value in x], np.exp(x), rtol=1e-13)
    np.testing.assert_allclose([cosine(value) for value in x], np.cos(x), atol=1e-13)
    assert exp(-1e9) < 1e-300
    assert np.isfinite(exp(1e9))
    assert np.isnan(exp(np.nan))
