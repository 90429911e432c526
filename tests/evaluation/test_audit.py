"""Each diagnostic of the physics audit finds what was planted, and nothing in what keeps physics."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.errors import ConfigError
from fluxgrid.evaluation import audit
from fluxgrid.evaluation.audit import (
    ALL,
    CONSISTENCY_LIMITS,
    DIAGNOSTICS,
    FieldRun,
    Response,
    audit_model,
    audit_responses,
    audit_run,
)
from fluxgrid.evaluation.audit_picture import draw_audit
from fluxgrid.evaluation.audit_tables import SUMMARY, audit_table, drift

PLACES = np.array(["IA", "IA", "IN"])
YEARS = (slice(0, 4), slice(4, 9))


def closing_run(seed: int = 0) -> FieldRun:
    """Return 3 fields of 2 short years that keep all physics."""
    rng = np.random.default_rng(seed)
    gpp = rng.uniform(4.0, 10.0, (3, 9)).astype(np.float32)
    ra, rh = (-share * gpp for share in (np.float32(0.25), np.float32(0.5)))
    return FieldRun(PLACES, YEARS, gpp, ra, rh, -(gpp + ra + rh), np.full((3, 2), 1.5, np.float32))


def rising_curves(tilt: float = 1.0) -> dict[str, Response]:
    """Return responses that rise with every input."""
    curves = {}
    for feature in CONSISTENCY_LIMITS:
        values = np.array([-1.0, 0.0, 2.0])
        rows = tilt * values[:, None] * np.array([1.0, 2.0, 3.0])
        curves[feature] = Response(PLACES, values, -rows - 5, -rows - 5, rows)
    return curves


def test_a_run_that_keeps_physics_has_no_violation():
    values = audit_run(closing_run())
    minima = {"written_ra_minimum", "written_rh_minimum"}
    # float32 fluxes of 10 g m-2 d-1 close to 1e-6
    assert {name: value for name, value in values.items() if name not in minima and value > 1e-6} == {}
    assert min(values[name] for name in minima) > 0


def test_an_open_balance_is_found_and_measured():
    run = closing_run()
    nee = run.nee.copy()
    nee[0, 0] += 2.7
    values = audit_run(replace(run, nee=nee))
    respired = abs(float(run.ra[0, 0] + run.rh[0, 0]))
    assert values["balance_residual"] == pytest.approx(2.7 / 27, rel=1e-5)  # float32 sums
    assert values["balance_open_share"] == pytest.approx(1 / 27)
    assert values["balance_loss"] == pytest.approx((2.7 - 0.01 * respired) / 27, rel=1e-5)
    assert values["written_balance_error"] == 0, "the closure does not look at the network's NEE"


def test_what_is_open_within_the_tolerance_does_not_count():
    run = closing_run()
    values = audit_run(replace(run, nee=run.nee * np.float32(1.001)))
    assert values["balance_residual"] > 0
    assert values["balance_open_share"] == values["balance_loss"] == 0


@pytest.mark.parametrize("flux", ["ra", "rh"])
def test_respiration_of_the_wrong_sign_is_found_and_clamped(flux):
    run = closing_run()
    native = getattr(run, flux).copy()
    native[1, 2:4] = (0.5, 1.0)
    values = audit_run(replace(run, **{flux: native}))
    other = "rh" if flux == "ra" else "ra"
    assert values[f"{flux}_negative_share"] == pytest.approx(2 / 27)
    assert values[f"{flux}_negative_size"] == pytest.approx(1.5 / 27)
    assert values[f"written_{flux}_minimum"] == 0
    assert values[f"{other}_negative_share"] == values[f"{other}_negative_size"] == 0
    assert values["written_balance_error"] == 0


def test_yields_out_of_bounds_are_found():
    run = closing_run()
    grain = run.grain.copy()
    most = 0.5 * float(run.gpp[2, YEARS[1]].sum(dtype=np.float64))
    grain[0, 0], grain[2, 1] = -3.0, most + 9.0
    values = audit_run(replace(run, grain=grain))
    assert values["yield_outside_share"] == pytest.approx(2 / 6)
    assert values["yield_excess"] == pytest.approx(12 / 6, rel=1e-5)  # float32 yield


def test_years_that_give_more_than_they_took_are_found():
    run = closing_run()
    grain = run.grain.copy()
    left = run.gpp[1, YEARS[0]].sum(dtype=np.float64) + run.ra[1, YEARS[0]].sum(dtype=np.float64)
    grain[1, 0] = left + 6.0
    values = audit_run(replace(run, grain=grain))
    assert values["residue_short_share"] == pytest.approx(1 / 6)
    assert values["residue_shortfall"] == pytest.approx(1.0, rel=1e-5)


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 100))
def test_what_a_map_writes_closes_exactly_whatever_the_network_says(seed, scale):
    rng = np.random.default_rng(seed)
    gpp, ra, rh, nee = (scale * rng.normal(size=(4, 3, 9))).astype(np.float32)
    values = audit_run(FieldRun(PLACES, YEARS, gpp, ra, rh, nee, rng.normal(size=(3, 2)).astype(np.float32)))
    assert values["written_balance_error"] == 0
    assert values["written_ra_minimum"] >= 0
    assert values["written_rh_minimum"] >= 0


@given(seed=st.integers(0, 1000), tilt=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_consistency_does_not_see_scale_and_sees_sign(seed, tilt, shift):
    curve = np.random.default_rng(seed).normal(size=6)
    assert audit.consistency(tilt * curve + shift, curve) == pytest.approx(1.0, abs=1e-9)
    assert audit.consistency(-tilt * curve + shift, curve) == pytest.approx(-1.0, abs=1e-9)


def test_consistency_of_a_curve_that_does_not_move_is_not_a_number():
    assert math.isnan(audit.consistency(np.ones(4), np.arange(4.0)))


def test_falling_and_slope_use_the_distance_of_the_values():
    values = np.array([0.0, 1.0, 3.0])
    curve = np.array([0.0, 2.0, -2.0])
    assert audit.fall(curve, values) == 2.0
    assert audit.slope(curve, values) == pytest.approx(np.polyfit(values, curve, 1)[0])


def test_responses_that_rise_as_the_reference_have_no_violation():
    found = audit_responses(rising_curves(2.0), rising_curves())
    consistent = {name: value for name, value in found.items() if name.startswith("consistency")}
    assert consistent == pytest.approx(dict.fromkeys(consistent, 1.0))
    assert {found[name] for name in found if "_fall_" in name} == {0.0}
    assert found["rh_slope_TSOC"] == pytest.approx(4.0)  # mean of 2, 4 and 6
    assert found["yield_slope_Year"] == pytest.approx(4.0)


def test_responses_turned_round_are_found():
    curves = rising_curves()
    turned = replace(curves["TSOC"], rh=-curves["TSOC"].rh, grain=-curves["TSOC"].grain)
    found = audit_responses({**curves, "TSOC": turned}, rising_curves())
    assert found["consistency_rh_TSOC"] == pytest.approx(-1.0)
    assert found["consistency_ra_TSOC"] == pytest.approx(1.0)
    assert (found["consistency_rh"], found["consistency_ra"]) == pytest.approx((-1.0, 1.0))
    assert found["rh_slope_TSOC"] == pytest.approx(-2.0)
    assert found["rh_fall_TSOC"] == pytest.approx(4.0), "two slopes of -2"
    assert found["yield_fall_TSOC"] == pytest.approx(4.0)
    assert found["yield_fall_GPP"] == 0


@pytest.fixture
def table() -> pd.DataFrame:
    """Return an audit of a model whose balance is open by 1 in Indiana only, and that responds turned round there."""
    run, curves = closing_run(), rising_curves()
    nee = run.nee.copy()
    nee[2] += 1.0
    turned = {k: replace(each, rh=each.rh * np.array([1.0, 1.0, -1.0])) for k, each in curves.items()}
    parts = [audit_model("global", run, curves, curves)]
    parts.append(audit_model("calibrated", replace(run, nee=nee), turned, curves))
    return pd.concat(parts, ignore_index=True)


def value(table: pd.DataFrame, place: str, model: str, name: str, column: str = "value") -> float:
    """Return one number of a table."""
    rows = table[(table["place"] == place) & (table["model"] == model) & (table["diagnostic"] == name)]
    return float(rows[column].item())


def test_the_table_is_tidy_and_tells_places_apart(table):
    assert table.columns.tolist() == list(audit.COLUMNS)
    assert len(table) == 2 * 3 * len(DIAGNOSTICS)
    assert table["place"].unique().tolist() == ["IA", "IN", ALL]
    assert value(table, "IA", "calibrated", "balance_residual") == pytest.approx(0, abs=1e-6)
    assert value(table, "IN", "calibrated", "balance_residual") == pytest.approx(1, rel=1e-5)
    assert value(table, ALL, "calibrated", "balance_residual") == pytest.approx(1 / 3, rel=1e-5)
    assert value(table, "IN", "calibrated", "consistency_rh_GPP") == pytest.approx(-1)


def test_drift_is_calibrated_minus_global(table):
    found = drift(table)
    assert set(found["model"]) == {"calibrated"}
    np.testing.assert_allclose(found["drift"], found["value"] - found["global"])
    assert value(found, "IN", "calibrated", "balance_residual", "drift") == pytest.approx(1, rel=1e-5)
    assert value(found, "IA", "calibrated", "consistency_rh_GPP", "drift") == pytest.approx(0, abs=1e-12)


def test_drift_needs_the_global_model_everywhere(table):
    lost = table[(table["model"] != "global") | (table["place"] != "IN")]
    with pytest.raises(ConfigError, match="lacks at IN"):
        drift(lost)


def test_a_place_may_not_be_called_all():
    run, curves = closing_run(), rising_curves()
    with pytest.raises(ConfigError, match="none called 'all'; got all"):
        audit_model("global", replace(run, place=np.array(["IA", "IA", ALL])), curves, curves)


def test_markdown_names_every_diagnostic_and_the_place_that_drifts_most(table):
    text = audit_table(table)
    short, overall, by_place = text.split("\n\n")
    assert len(short.splitlines()) == 2 + len(SUMMARY)
    line = next(line for line in short.splitlines() if "of the network's NEE" in line)
    assert line.endswith("| 0.5 [0.1, 0.9] |"), "places between 0 (IA) and 1 (IN)"
    assert len(overall.splitlines()) == 2 + len(DIAGNOSTICS)
    assert [line.split(" | ")[0] for line in by_place.splitlines()[2:]] == ["| IA", "| IN", "| all"]
    line = next(line for line in overall.splitlines() if "of the network's NEE" in line)
    assert line.endswith("| 0.333 | 0.333 | 1 (IN) |")
    widths = {line.replace("\\|", "").count("|") for line in by_place.splitlines()}
    assert len(widths) == 1, "a bar in a title would be read as a column"


def test_markdown_of_the_global_model_alone_has_no_drift(table):
    text = audit_table(table[table["model"] == "global"])
    assert "drift" not in text
    assert len(text.splitlines()) == 2 + len(DIAGNOSTICS)


def test_a_diagnostic_that_is_not_a_number_is_a_dash(table):
    table.loc[table["diagnostic"] == "consistency_ra_Year", "value"] = np.nan
    line = next(line for line in audit_table(table).splitlines() if line.startswith("| Ra over Year"))
    assert line.endswith("| - | - | - | - |")
    table.loc[table["diagnostic"] == "consistency_ra", "value"] = np.nan
    line = next(line for line in audit_table(table).splitlines() if line.startswith("| Ra: least"))
    assert line.endswith("| - [-, -] | - [-, -] |")


def test_the_picture_is_a_png(table, tmp_path):
    for name, rows in {"both": table, "global": table[table["model"] == "global"]}.items():
        path = draw_audit(rows, tmp_path / f"{name}.png")
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_picture_refuses_what_was_not_audited(table, tmp_path):
    with pytest.raises(ConfigError, match="no 'beauty'; there are balance_residual"):
        draw_audit(table, tmp_path / "a.png", headlines=("beauty",))
    with pytest.raises(ConfigError, match="not of 'lora'"):
        draw_audit(table, tmp_path / "a.png", model="lora")
    with pytest.raises(ConfigError, match="unit are missing"):
        draw_audit(table.drop(columns="unit"), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
