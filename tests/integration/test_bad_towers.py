"""Tower tables that are wrong give one message with site and column, or lose what is wrong with a count."""

from __future__ import annotations

from functools import lru_cache
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from fluxgrid.data.derived import derive
from fluxgrid.sources import SOURCES
from fluxgrid.variables import IGBP_CLASSES

CASES = yaml.safe_load((Path(__file__).parent / "tower_cases.yaml").read_text(encoding="utf-8"))
SITES, DAYS = 6, 400
QUICK = ("fit.epochs=1", "fit.validation=0.3")
MODELS = "models={small: {model: {kind: mlp, hidden: 4}}}"
COMMANDS = {
    "train": ("train", "train_my_towers", *QUICK, "model.hidden=4"),
    "evaluate": ("evaluate", "towers_benchmark", *QUICK, MODELS, "evaluation.folds=2", "evaluation.minimum=30"),
}


@lru_cache
def made() -> pd.DataFrame:
    """Return a good table: sites of 400 days from 1 January 2018 on; GPP is below 0 in winter, as it is measured."""
    rng, time = np.random.default_rng(0), pd.date_range("2018-01-01", periods=DAYS)
    parts = []
    for number in range(SITES):
        sun = derive("toa_radiation", time, np.array([38.0 + 2 * number]), "daily")[:, 0]
        shortwave, noise = sun * rng.uniform(0.3, 0.7, DAYS), rng.normal(size=(3, DAYS))
        temperature = 0.09 * (sun - 250) + 8 + 2 * noise[0]
        gpp, reco = 0.03 * (shortwave - 80) + noise[1] / 3, 1 + 0.1 * np.clip(temperature, 0, None)
        series = {
            "gpp": gpp, "reco": reco, "nee": reco - gpp + noise[2] / 5, "nee_qc": 1.0, "temperature_2m": temperature,
            "precipitation": rng.gamma(0.4, 6.0, DAYS), "shortwave": shortwave, "vpd": np.clip(0.03 * sun, 1, None),
            "wind_speed": rng.uniform(0.5, 6, DAYS),
        }  # fmt: skip
        facts = {"site": f"XX-S{number}", "date": time, "lat": 38.0 + 2 * number, "lon": number - 93.0}
        about = {"igbp": ("CRO", "DBF")[number % 2], "climate_group": "continental", "elevation": 300.0}
        parts.append(pd.DataFrame(facts | about | series))
    return pd.concat(parts, ignore_index=True)


def towers() -> pd.DataFrame:
    """Return a good table that may be changed."""
    return made().copy()


def edited(case: dict) -> pd.DataFrame:
    """Return the good table with a case's edits, dates as text."""
    table = towers()
    if every := case.get("every"):
        table["date"] = np.tile(pd.date_range("2018-01-01", periods=DAYS, freq=every), SITES)
    stamp = case.get("dates", "%Y-%m-%d %H:%M" if every else "%Y-%m-%d")
    table["date"] = table["date"].dt.strftime(stamp)
    rows = table.index[table["site"] == case.get("at", table["site"])][: case.get("rows")]
    for column, value in case.get("set", {}).items():
        table[column] = table.get(column, pd.Series(index=table.index, dtype=object)).astype(object)
        table.loc[rows, column] = np.nan if value is None else str(value)
    for column, factor in case.get("scale", {}).items():
        table.loc[rows, column] *= factor
    for column, more in case.get("add", {}).items():
        table.loc[rows, column] += more
    if case.get("reverse"):
        table = table.iloc[::-1]
    table = pd.concat([table.iloc[: case.get("head")], table.iloc[: case.get("twice", 0)]])
    return table.drop(columns=case.get("drop", [])).rename(columns=case.get("rename", {}))


def call(run, tmp_path: Path, command: str, table: pd.DataFrame, *words: str, **options) -> tuple[int, str, str]:
    """Write a table and run a command on it."""
    table.to_csv(tmp_path / "towers.csv", index=False, **options)
    return run(*COMMANDS[command], f"sites.path={tmp_path / 'towers.csv'}", f"out={tmp_path / 'out'}", *words)


# Both commands read sites by the same function: each case goes through one of them.
@pytest.mark.parametrize(
    ("case", "command"), list(zip(CASES, cycle(COMMANDS), strict=False)), ids=[case["what"] for case in CASES]
)
def test_wrong_tables(run, tmp_path, case, command):
    code, output, errors = call(run, tmp_path, command, edited(case), **case.get("csv", {}))
    assert code == 2
    assert errors.count("fluxgrid: ") == 1
    message = errors[errors.index("fluxgrid: ") :]
    assert [words for words in case["says"] if words not in message] == [], message
    assert output == ""
    assert not (tmp_path / "out").exists()


@pytest.fixture
def notes(tmp_path):
    """Return a function that reads a table, and gives the ids of its sites and what was noted."""

    def read(table: pd.DataFrame, name: str = "towers.csv") -> tuple[tuple[str, ...], str]:
        path = tmp_path / name
        table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)
        sites = SOURCES["tower_table"]().read_sites(path)
        return sites.ids, "\n".join(sites.notes)

    return read


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ({"set": {"igbp": "Maize"}, "at": "XX-S1"}, "igbp: no class 'Maize' (XX-S1); known are CRO, CSH"),
        ({"set": {"igbp": " "}, "at": "XX-S1"}, "igbp: 1 sites of no known class (XX-S1)"),
        ({"set": {"igbp": "GRA"}, "at": "XX-S1", "rows": 9}, "igbp: changes within 1 sites, the first counts (XX-S1)"),
        ({"set": {"shortwave": "inf"}, "at": "XX-S1", "rows": 4}, "shortwave: 4 values far outside 0 to 600 W m-2 set"),
        ({"set": {"gpp": "-inf"}, "at": "XX-S1", "rows": 4}, "gpp: 4 values far outside -40 to 80 g m-2 d-1 set missi"),
        ({"scale": {"vpd": 0.1}, "at": "XX-S1"}, "vpd: 400 values set missing at 1 sites (XX-S1): too small for hPa"),
        ({"scale": {"precipitation": 0.001}, "at": "XX-S1"}, "they seem to be in m d-1 or kg m-2 s-1; convert them"),
        ({"dates": "%Y-%m-%dT00:00-06:00"}, "the time zone of the dates was left out"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_what_is_left_out_is_counted(notes, case, said):
    ids, text = notes(edited(case))
    assert ids == tuple(f"XX-S{number}" for number in range(SITES))
    assert said in text


@pytest.mark.parametrize("dates", ["%Y%m%d", "%Y/%m/%d", "%Y-%m-%dT00:00:00Z", "%Y-%m-%d 00:00"])
def test_dates_of_other_spellings_are_the_same_days(notes, tmp_path, dates):
    assert len(notes(edited({"dates": dates}))[0]) == SITES
    site = SOURCES["tower_table"]().read_sites(tmp_path / "towers.csv")["XX-S0"]
    assert (f"{site.series.index[0]:%Y-%m-%d}", len(site.series)) == ("2018-01-01", DAYS)


def test_sites_by_number_and_with_spaces_and_dates_in_zones_of_parquet(notes):
    table = towers()
    numbered = table.assign(site=table["site"].str[-1].astype(int))
    assert notes(numbered)[0] == tuple("012345")
    padded = table.assign(site=np.where(table.index % 2, table["site"], table["site"] + " "))
    assert len(notes(padded)[0]) == SITES
    zoned = table.assign(date=table["date"].dt.tz_localize("America/Chicago"))
    ids, text = notes(zoned, "towers.parquet")
    assert len(ids) == SITES
    assert "time zone" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_what_was_dropped_is_printed(run, tmp_path, command):
    table = towers()
    lost = table["site"] == "XX-S1"
    table.loc[lost, ["gpp", "reco", "nee"]] = np.nan
    table.loc[table["site"] == "XX-S2", "shortwave"] = np.nan
    code, _, told = call(run, tmp_path, command, table)
    assert code == 0
    assert "1 sites dropped: no NEE, GPP or RECO at all (XX-S1)" in told
    assert "1 sites left out: no shortwave (at 1) (XX-S2)" in told


def test_a_class_that_only_one_fold_has_is_scored(run, tmp_path):
    """The model has never seen it: its column was zero in training."""
    table = towers()
    assert "WET" in IGBP_CLASSES
    table.loc[table["site"] == "XX-S1", "igbp"] = "WET"
    trees = "models={small: {model: {kind: tam_rl, hidden: 4, latent: 2}}, trees: {model: {kind: xgboost, rounds: 3}}}"
    code, output, _ = call(run, tmp_path, "evaluate", table, trees)
    assert code == 0
    assert "WET" in output
    scores = pd.read_csv(tmp_path / "out-evaluation" / "class.csv")
    wet = scores[scores["class"] == "WET"]
    assert set(wet["model"]) == {"small", "trees", "climatology", "ridge"}
    assert wet["rmse_q50"].notna().all()


def test_a_table_of_gpp_alone_trains_what_it_can_and_says_so(run, tmp_path):
    alone = towers().drop(columns=["reco", "nee"])
    code, _, told = call(run, tmp_path, "evaluate", alone)
    assert code == 0
    assert "GPP is the only flux observed: what a model says of the other two was never trained" in told
    trees = ("--overwrite", "models={trees: {model: {kind: lightgbm, rounds: 3}}}")
    code, _, told = call(run, tmp_path, "evaluate", alone, *trees)
    assert code == 2
    assert "None of the sites trained on observed reco" in told
