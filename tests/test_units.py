"""Units: exact, refusing what is ambiguous, lazy where the values are lazy."""

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.errors import UnitError
from fluxgrid.units import check_units, compare_units, convert
from fluxgrid.variables import VARIABLES


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [
        (300.15, "K", "degC", 27.0),
        (212.0, "degF", "degC", 100.0),
        (1.0, "kg m-2 s-1", "mm d-1", 86400.0),
        (3.0, "kg m-2 d-1", "mm d-1", 3.0),
        (0.002, "m d-1", "mm d-1", 2.0),
        (1.1574074074074074e-8, "kg m-2 s-1", "g m-2 d-1", 1.0),
        (8.64, "MJ m-2 d-1", "W m-2", 100.0),
        (101325.0, "Pa", "kPa", 101.325),
        (0.4, "1", "ppm", 4e5),
        (410.0, "umol mol-1", "ppm", 410.0),
        (50.0, "%", "1", 0.5),
        (1.3, "g cm-3", "Mg m-3", 1.3),
        (2.0, "kPa", "hPa", 20.0),
        (5.0, "kg m**-2 s**-1", "kg m-2 s-1", 5.0),
    ],
)
def test_known_conversions(value, source, target, expected):
    assert convert(np.array([value]), source, target)[0] == pytest.approx(expected, rel=1e-12)


def test_months_are_converted_by_their_true_length():
    rates = np.full((3, 5, 7), 84.0, dtype="float32")
    result = convert(rates, "mm month-1", "mm d-1", days=[31, 28, 30])
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[:, 0, 0], [84 / 31, 3.0, 2.8], rtol=1e-7)
    np.testing.assert_allclose(convert(rates, "kg m-2 month-1", "mm d-1", days=[31, 28, 30]), result)
    carbon = convert(rates, "g m-2 month-1", "g m-2 d-1", days=[31, 28, 30])
    np.testing.assert_allclose(carbon, result)


def test_a_month_without_calendar_is_refused():
    with pytest.raises(UnitError, match="months differ in length"):
        convert(np.ones(3), "mm month-1", "mm d-1")
    with pytest.raises(UnitError, match="one number per step"):
        convert(np.ones((3, 2)), "mm month-1", "mm d-1", days=[31, 28])
    with pytest.raises(UnitError, match="counts in years"):
        convert(np.ones(3), "mm yr-1", "mm d-1")


def test_months_on_both_sides_need_no_calendar():
    np.testing.assert_allclose(convert(np.ones(2), "kg m-2 month-1", "g m-2 month-1"), 1000)


@pytest.mark.parametrize("units", ["gC m-2 d-1", "g C m-2 d-1", "gC/m2/day", "kg C m-2 s-1"])
def test_carbon_in_the_unit_is_told_the_cf_way(units):
    with pytest.raises(UnitError, match=r"write '(k?)g( ?m-2|/m2).*say carbon in the variable's name"):
        convert(np.ones(1), units, "g m-2 d-1")


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        ("W m-2", "mm d-1", "Cannot convert 'W m-2' to 'mm d-1': they measure different things"),
        ("mm", "mm d-1", "amount of one step, write units: 'mm d-1'"),
        ("J m-2", "W m-2", "'J m-2 d-1'"),
        ("mm (see IGBP-DIS)", "m3 m-3", "cannot be read"),
        ("furlongz", "m", "cannot be read"),
        ("kg m-2 h-1", "mm h-1", "different things"),
        ("0.1 mm d-1", "mm d-1", "cannot be read"),
        ("kg m-2", "m", "different things"),
    ],
)
def test_impossible_conversions(source, target, text):
    with pytest.raises(UnitError, match=text.replace("(", r"\(").replace(")", r"\)")):
        check_units(source, target)
    assert compare_units(source, target) == "impossible"


def test_relation():
    assert compare_units("Celsius", "degC") == "same"
    assert compare_units("kg m-2 d-1", "mm d-1") == "same"
    assert compare_units("mm month-1", "mm d-1") == "convertible"
    assert compare_units("m3 m-3", "1") == "same"


def test_every_unit_of_the_table_reads():
    # in another spelling: the same text is the same unit and is not read
    assert all(compare_units(f"1 {variable.units}", variable.units) == "same" for variable in VARIABLES.values())


def test_lazy_arrays_stay_lazy_and_agree():
    values = np.arange(3 * 5 * 7, dtype="float32").reshape(3, 5, 7)
    lazy = convert(da.from_array(values, chunks=(2, 5, 3)), "mm month-1", "mm d-1", days=[31, 29, 31])
    assert isinstance(lazy, da.Array)
    assert lazy.dtype == np.float32
    np.testing.assert_array_equal(lazy.compute(), convert(values, "mm month-1", "mm d-1", days=[31, 29, 31]))


def test_integers_become_float32():
    assert convert(np.array([1, 2]), "km", "m").dtype == np.float32
    assert convert(np.array([1, 2]), "m", "m").dtype == np.float32


@given(
    value=st.floats(-1e6, 1e6),
    pair=st.sampled_from([("K", "degC"), ("kg m-2 s-1", "g m-2 d-1"), ("mm month-1", "mm d-1"), ("hPa", "kPa")]),
    days=st.integers(28, 31),
)
def test_conversions_invert(value, pair, days):
    there = convert(np.array([value]), *pair, days=[days])
    back = convert(there, pair[1], pair[0], days=[days])
    np.testing.assert_allclose(back, [value], rtol=1e-9, atol=1e-9)
