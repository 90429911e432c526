"""County yields of Quick Stats: units, what is dropped and counted, what is refused."""

import numpy as np
import pandas as pd
import pytest

from fluxgrid.errors import TableError
from fluxgrid.simulation.parameters import EXTENT
from fluxgrid.simulation.yields import YIELDS, county_yields
from fluxgrid.sources.nass import GRAIN, read_nass_yields

CORN = "CORN, GRAIN - YIELD, MEASURED IN BU / ACRE"
SOYBEANS = "SOYBEANS - YIELD, MEASURED IN BU / ACRE"


def row(value="160.5", item=CORN, year="2019", county="001", name="ADAMS", **columns):
    base = {
        "Program": "SURVEY", "Year": year, "Period": "YEAR", "Week Ending": "", "Geo Level": "COUNTY",
        "State": "ILLINOIS", "State ANSI": "17", "Ag District": "WEST", "County": name, "County ANSI": county,
        "Commodity": item.partition(",")[0], "Data Item": item, "Domain": "TOTAL",
        "Domain Category": "NOT SPECIFIED", "Value": value, "CV (%)": "",
    }  # fmt: skip
    return base | columns


def write(folder, *rows, name="yields.csv"):
    pd.DataFrame(rows).to_csv(folder / name, index=False)
    return folder / name


def test_bushels_become_carbon(tmp_path):
    yields = read_nass_yields(write(tmp_path, row("160.0"), row("50", SOYBEANS)))
    corn, soybean = (yields.table.set_index("crop").loc[crop] for crop in ("corn", "soybean"))
    # 1 bu/acre is 62.77 kg/ha of corn and 67.25 kg/ha of soybeans (USDA ERS Agricultural Handbook 697)
    assert corn.yield_t_ha == pytest.approx(160 * 0.06277, rel=1e-3)
    assert soybean.yield_t_ha == pytest.approx(50 * 0.06725, rel=1e-3)
    assert corn.yield_g_m2 == pytest.approx(corn.yield_t_ha * 100 * 0.845 * 0.45)
    assert soybean.yield_g_m2 == pytest.approx(soybean.yield_t_ha * 100 * 0.87 * 0.52)
    assert (corn.fips, corn.state, corn.year) == ("17001", "IL", 2019)
    assert np.isnan(corn.area_share)
    assert yields.notes == ()
    assert yields.source == "yields.csv"


def test_grain_is_that_of_the_world():
    for crop, grain in YIELDS.grain.items():
        assert (GRAIN[crop].carbon, GRAIN[crop].moisture) == (grain.carbon, grain.moisture)


def test_columns_are_those_of_the_world(tmp_path):
    table = read_nass_yields(write(tmp_path, row())).table
    world = county_yields(["IA"], [EXTENT.first_year])
    assert list(table) == list(world)
    assert [table[name].dtype.kind for name in table] == [world[name].dtype.kind for name in table]


def test_rows_without_a_county_value_are_counted(tmp_path):
    rows = [
        row(),
        row(" (D)", county="003"),
        row("(Z)", county="005"),
        row("(D)", county="007"),
        row(county="", name="OTHER (COMBINED) COUNTIES"),
        row(county="", name="OTHER COUNTIES"),
        row(Period="YEAR - AUG FORECAST"),
        row(Domain="IRRIGATION STATUS"),
        row(item="CORN, GRAIN, IRRIGATED - YIELD, MEASURED IN BU / ACRE"),
        row(county="", **{"Geo Level": "STATE"}),
    ]
    yields = read_nass_yields(write(tmp_path, *rows))
    assert yields.table[["fips", "crop"]].to_numpy().tolist() == [["17001", "corn"]]
    assert yields.notes == (
        "1 rows of other data items left out",
        "1 rows not of counties left out",
        "2 rows of other (combined) counties left out",
        "1 rows of other domains than TOTAL left out",
        "1 rows of forecasts and other periods than YEAR left out",
        "3 rows with a code for a value left out ((D) 2, (Z) 1)",
    )


def test_harvested_acres_give_the_share_of_the_county(tmp_path):
    acres = row("112,000", "CORN, GRAIN - ACRES HARVESTED")
    table = read_nass_yields(write(tmp_path, row(), acres)).table
    # Adams County: 871 square miles (US Census gazetteer), of which 640 acres each
    assert table["area_share"].item() == pytest.approx(112_000 / (871 * 640), rel=0.01)


def test_the_survey_comes_before_the_census(tmp_path):
    table = read_nass_yields(write(tmp_path, row("100", Program="CENSUS"), row("160"))).table
    assert table["yield_t_ha"].item() == pytest.approx(10.04, abs=0.01)


def test_names_of_the_api_and_folders_of_files(tmp_path):
    names = {
        "Program": "source_desc", "Year": "year", "Period": "reference_period_desc", "Geo Level": "agg_level_desc",
        "State ANSI": "state_ansi", "County ANSI": "county_ansi", "Data Item": "short_desc", "Domain": "domain_desc",
    }  # fmt: skip
    write(tmp_path, {names.get(key, key): value for key, value in row(county="3").items()}, name="a.csv")
    write(tmp_path, row(year="2018"), row(), name="b.csv")
    table = read_nass_yields(tmp_path).table
    assert table[["fips", "year"]].to_numpy().tolist() == [["17001", 2018], ["17001", 2019], ["17003", 2019]]


def test_every_problem_is_listed(tmp_path):
    rows = [
        row("many"),
        row("1600", county="003"),
        row("12", SOYBEANS, county="x5"),
        row("50", SOYBEANS, county="007"),
        row("51", SOYBEANS, county="007"),
        row(county="009", **{"State ANSI": "77"}),
    ]
    with pytest.raises(TableError) as error:
        read_nass_yields(write(tmp_path, *rows))
    for part in (
        "Value: 1 rows are no numbers, such as 'many' of state 17, county 001, 2019",
        "County ANSI: 1 rows are no numbers, such as 'x5' of",
        "State ANSI: 77 are no states",
        "corn: 1 yields outside 0..350 bu/acre, such as 1600 of state 17, county 003, 2019",
        "17007 2019 soybean: more than one value of the yield (survey)",
    ):
        assert part in str(error.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(TableError, match=r"no .csv file"):
        read_nass_yields(tmp_path)
    with pytest.raises(TableError, match=r"none.csv: "):
        read_nass_yields(tmp_path / "none.csv")
    path = write(tmp_path, {"Program": "SURVEY", "Value": "1"})
    with pytest.raises(TableError, match=r"no column Year; found Program, Value\n.*no column Period"):
        read_nass_yields(path)
    with pytest.raises(TableError, match="no county yields of corn or soybean in it; 1 rows with a code"):
        read_nass_yields(write(tmp_path, row("(D)")))
