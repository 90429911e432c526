"""What a map can hold, and what it cannot."""

from __future__ import annotations

import pandas as pd
import pytest

from fluxgrid.errors import UnknownName
from fluxgrid.output.layers import Layers, whole_year


def test_the_default_is_what_every_map_holds():
    assert list(Layers().dtypes) == ["nee", "gpp", "reco", "quality_flag", "applicability"]
    assert Layers().step_bytes == 17


def test_order_is_steps_then_years_then_calibration():
    layers = Layers(("nee", "gpp", "reco", "ra", "rh"), ("harvest_removal",), ("Iowa",))
    assert list(layers.dtypes)[5:] == [
        "quality_flag",
        "applicability",
        "harvest_removal",
        "calibration_id",
        "calibration_weight",
        "calibration_global_weight",
    ]
    assert layers.dims("rh") == ("time", "y", "x")
    assert layers.dims("harvest_removal") == layers.dims("calibration_id") == ("y", "x")
    with pytest.raises(KeyError):
        layers.dims("corn_yield")


def test_half_widths_stand_after_the_fluxes():
    layers = Layers(errors=("nee", "reco"))
    assert list(layers.dtypes) == ["nee", "gpp", "reco", "nee_se", "reco_se", "quality_flag", "applicability"]
    assert layers.dims("nee_se") == ("time", "y", "x")
    assert layers.step_bytes == 25
    with pytest.raises(ValueError, match="ra_se has no ra beside it"):
        Layers(errors=("ra",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("nee", "gpp"),), "reco is missing; every map has nee, gpp, reco"),
        ((("nee", "gpp", "reco", "corn_yield"),), "corn_yield is of role annual, not flux"),
        ((("nee", "gpp", "reco"), ("ra",)), "ra is of role flux, not annual"),
        ((("nee", "gpp", "reco", "ra", "ra"),), "ra stands twice"),
        ((("nee", "gpp", "reco"), (), ("Iowa", "Iowa")), "places stand twice"),
    ],
)
def test_layers_no_map_can_have_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Layers(*arguments)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="corn_yield"):
        Layers(annual=("corn_yeild",))


@pytest.mark.parametrize(
    ("first", "last", "frequency", "step", "whole"),
    [
        ("2019-01-01", "2019-12-31", "D", "daily", True),
        ("2019-01-02", "2019-12-31", "D", "daily", False),
        ("2020-01-01", "2020-12-01", "MS", "monthly", True),
        ("2020-01-01", "2020-11-01", "MS", "monthly", False),
        ("2019-01-01", "2020-12-01", "MS", "monthly", False),
    ],
)
def test_a_calendar_year_is_whole_or_not(first, last, frequency, step, whole):
    assert whole_year(pd.date_range(first, last, freq=frequency), step) == whole
