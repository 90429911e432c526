"""County yields of corn and soybean from the Quick Stats of the National Agricultural Statistics Service (USDA NASS).

Export of quickstats.nass.usda.gov ("Spreadsheet", a CSV), or the same table from its API, whose columns have other
names. Wanted are the data items ``CORN, GRAIN - YIELD, MEASURED IN BU / ACRE`` and ``SOYBEANS - YIELD, MEASURED IN
BU / ACRE`` by county; with ``CORN, GRAIN - ACRES HARVESTED`` and ``SOYBEANS - ACRES HARVESTED`` beside them, the share
of the county is known too.

References
----------
Bushels and their moisture: USDA ERS Agricultural Handbook 697 (1992), Weights, Measures, and Conversion Factors for
Agricultural Commodities. Carbon of corn grain: 0.45, Prince et al. 2001,
doi:10.1890/1051-0761(2001)011[1194:NPPOUS]2.0.CO;2. Carbon of soybeans: 0.52 from 40 % protein, 20 % oil and
35 % carbohydrate with 0.53, 0.77 and 0.45 g C g-1 (Penning de Vries et al. 1989, Simulation of Ecophysiological
Processes of Growth in Several Annual Crops).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from fluxgrid.errors import TableError, itemise
from fluxgrid.geo import boundaries

CITATION = "USDA National Agricultural Statistics Service, Quick Stats, quickstats.nass.usda.gov (public domain)"

_POUND_KG = 0.45359237
_ACRE_M2 = 4046.8564224
_EQUAL_AREA = "EPSG:5070"
_YIELD = " - YIELD, MEASURED IN BU / ACRE"
_AREA = " - ACRES HARVESTED"
_ITEMS = {"CORN, GRAIN": "corn", "SOYBEANS": "soybean"}
# Columns of the web export by those of the API and, in capitals, of the bulk files.
_API_NAMES = {
    "source_desc": "Program",
    "year": "Year",
    "reference_period_desc": "Period",
    "agg_level_desc": "Geo Level",
    "state_ansi": "State ANSI",
    "state_fips_code": "State ANSI",
    "county_ansi": "County ANSI",
    "short_desc": "Data Item",
    "domain_desc": "Domain",
    "value": "Value",
}
_WANTED = ("Program", "Year", "Period", "State ANSI", "County ANSI", "Data Item", "Domain", "Value")
# Withheld, less than half the unit, not available, not applicable, too few reports, low or high variation
_WITHHELD = ("(D)", "(Z)", "(NA)", "(X)", "(S)", "(L)", "(H)")


@dataclass(frozen=True)
class Grain:
    """From the bushel that is traded to its carbon."""

    bushel_lb: float
    """Pounds of a standard bushel."""
    moisture: float
    """Share of water in it."""
    carbon: float
    """Share of carbon in its dry matter."""
    most: float
    """Bushels per acre above which a county yield is a slip: no state has reached two thirds of it."""

    def t_ha(self, bushels: pd.Series) -> pd.Series:
        """Return grain at market moisture, t ha-1, of bushels per acre."""
        return bushels * (self.bushel_lb * _POUND_KG / 1000 / (_ACRE_M2 / 1e4))

    def carbon_g_m2(self, bushels: pd.Series) -> pd.Series:
        """Return carbon in grain, g m-2, of bushels per acre."""
        return 100 * self.t_ha(bushels) * ((1 - self.moisture) * self.carbon)


GRAIN = MappingProxyType({"corn": Grain(56.0, 0.155, 0.45, 350.0), "soybean": Grain(60.0, 0.13, 0.52, 120.0)})
"""What a bushel of each crop holds."""


@dataclass(frozen=True, eq=False)
class CountyYields:
    """Yields as the survey published them."""

    table: pd.DataFrame
    """A row for each county, year and crop, in the columns of `fluxgrid.simulation.county_yields`: ``fips``, ``state``
    (postal code), ``year``, ``crop``, ``yield_g_m2`` (g C m-2), ``yield_t_ha`` (at market moisture), ``area_share``
    (of the county, NaN where unknown) and ``error`` (NaN: NASS does not publish it in this table)."""
    notes: tuple[str, ...]
    """What was left out, counted."""
    source: str
    """Name of the file or folder."""


def read_nass_yields(path: Path | str) -> CountyYields:
    """Read county yields from Quick Stats.

    Parameters
    ----------
    path : path
        A CSV, or a folder of them: Quick Stats gives at most 50,000 rows at once.

    Returns
    -------
    yields : CountyYields
        Of the survey where it and the census both report. Rows without a county, withheld values, forecasts, other
        items and other domains are left out and counted in the notes.

    Raises
    ------
    TableError
        If nothing can be read, columns are missing, values are no yields, or two rows contradict each other. The
        message lists every problem.

    Examples
    --------
    >>> bushels = pd.Series([160.0])
    >>> GRAIN["corn"].t_ha(bushels).round(2).item(), GRAIN["corn"].carbon_g_m2(bushels).round().item()
    (10.04, 382.0)
    """
    path = Path(path)
    rows = _read(path)
    rows, notes = _kept(rows)
    _refuse(path, [*_problems(rows)])
    yields = _one_each(rows[rows["kind"] == "yield"])
    _refuse(
        path, [] if len(yields) else [f"no county yields of corn or soybean in it; {'; '.join(notes) or 'no rows'}"]
    )
    return CountyYields(_table(yields, _one_each(rows[rows["kind"] == "area"])), notes, path.name)


def _read(path: Path) -> pd.DataFrame:
    """Return all rows as text, with the names of the web export."""
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    _refuse(path, [] if files else ["no .csv file in the folder"])
    tables, problems = [], []
    for file in files:
        try:
            table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            problems.append(f"{file.name}: {error}")
            continue
        table = table.rename(columns=lambda name: _API_NAMES.get(str(name).lower(), str(name)))
        table = table.loc[:, ~table.columns.duplicated()].apply(lambda column: column.str.strip())
        missing = [name for name in _WANTED if name not in table]
        problems += [f"{file.name}: no column {name}; found {', '.join(table)}" for name in missing]
        tables.append(table)
    _refuse(path, problems)
    return pd.concat(tables, ignore_index=True)


def _kept(rows: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows that say something about a county, and notes of the others, each counted under one reason."""
    crop = rows["Data Item"].str.upper().str.partition(" - ")[0].map(_ITEMS)
    kinds = {name + kind: word for name in _ITEMS for kind, word in ((_YIELD, "yield"), (_AREA, "area"))}
    kind = rows["Data Item"].str.upper().map(kinds)
    rows = rows.assign(crop=crop, kind=kind)
    notes = []
    for reason, out in (
        ("of other data items", lambda r: r["kind"].isna()),
        ("not of counties", lambda r: ~r.get("Geo Level", pd.Series("COUNTY", r.index)).str.upper().eq("COUNTY")),
        ("of other (combined) counties", lambda r: r["County ANSI"].eq("")),
        ("of other domains than TOTAL", lambda r: ~r["Domain"].str.upper().eq("TOTAL")),
        ("of forecasts and other periods than YEAR", lambda r: ~r["Period"].str.upper().eq("YEAR")),
        ("with a code for a value", lambda r: r["Value"].str.upper().isin(_WITHHELD)),
    ):
        dropped = out(rows)
        if dropped.any():
            codes = rows["Value"][dropped & rows["Value"].isin(_WITHHELD)].value_counts().items()
            detail = f" ({', '.join(f'{code} {n}' for code, n in codes)})" if "code" in reason else ""
            notes.append(f"{int(dropped.sum())} rows {reason} left out{detail}")
            rows = rows[~dropped]
    return _numbers(rows), tuple(notes)


def _numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with values as numbers and codes as five digits; what is none becomes NaN."""
    codes = [pd.to_numeric(rows[name], errors="coerce") for name in ("State ANSI", "County ANSI")]
    code = codes[0] * 1000 + codes[1]
    return rows.assign(
        fips=code.map(lambda number: f"{int(number):05d}", na_action="ignore"),
        year=pd.to_numeric(rows["Year"], errors="coerce"),
        number=pd.to_numeric(rows["Value"].str.replace(",", ""), errors="coerce"),
        survey=rows["Program"].str.upper().eq("SURVEY"),
    )


def _problems(rows: pd.DataFrame) -> Iterator[str]:
    """Yield what is wrong with the rows that are kept."""
    for column, name in (("fips", "County ANSI"), ("year", "Year"), ("number", "Value")):
        wrong = rows[rows[column].isna()]
        if len(wrong):
            first = wrong.iloc[0]
            yield f"{name}: {len(wrong)} rows are no numbers, such as {first[name]!r} of {_where(first)}"
    known = set(boundaries.states()["fips"])
    strange = sorted({str(code)[:2] for code in rows["fips"].dropna()} - known)
    if strange:
        yield f"State ANSI: {', '.join(strange)} are no states"
    for crop, grain in GRAIN.items():
        values = rows[(rows["crop"] == crop) & (rows["kind"] == "yield")]
        wrong = values[(values["number"] <= 0) | (values["number"] > grain.most)]
        if len(wrong):
            first = wrong.iloc[0]
            yield (
                f"{crop}: {len(wrong)} yields outside 0..{grain.most:g} bu/acre, such as {first['number']:g} of "
                f"{_where(first)}; the item must be in bushels per acre"
            )
    keys = ["fips", "year", "crop", "kind", "survey"]
    twice = rows.groupby(keys)["number"].nunique()
    for key in twice[twice > 1].index[:5]:
        yield f"{key[0]} {key[1]:g} {key[2]}: more than one value of the {key[3]} ({'survey' if key[4] else 'census'})"


def _where(row: pd.Series) -> str:
    """Return the words that tell a row."""
    return f"state {row['State ANSI']}, county {row['County ANSI']}, {row['Year']}"


def _one_each(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each county, year and crop; the survey comes before the census."""
    return rows.sort_values("survey", ascending=False, kind="stable").drop_duplicates(["fips", "year", "crop"])


def _table(yields: pd.DataFrame, areas: pd.DataFrame) -> pd.DataFrame:
    """Return yields in our units, in the order of counties, years and crops."""
    keys = ["fips", "year", "crop"]
    yields = yields.merge(areas[[*keys, "number"]].rename(columns={"number": "acres"}), on=keys, how="left")
    states = boundaries.states().set_index("fips")["postal"]
    parts = [
        part.assign(
            yield_g_m2=GRAIN[str(crop)].carbon_g_m2(part["number"]), yield_t_ha=GRAIN[str(crop)].t_ha(part["number"])
        )
        for crop, part in yields.groupby("crop")
    ]
    table = pd.concat(parts).assign(year=lambda t: t["year"].astype("int64"), error=float("nan"))
    table["state"] = table["fips"].str[:2].map(states)
    table["area_share"] = table["acres"] * _ACRE_M2 / table["fips"].map(_county_areas(set(table["fips"])))
    columns = ["fips", "state", "year", "crop", "yield_g_m2", "yield_t_ha", "area_share", "error"]
    return table.sort_values(keys)[columns].reset_index(drop=True)


def _county_areas(fips: set[str]) -> pd.Series:
    """Return the areas of counties, m2, by their codes."""
    counties = boundaries.counties()
    counties = counties[counties["fips"].isin(fips)]
    return pd.Series(counties.to_crs(_EQUAL_AREA).area.to_numpy(), counties["fips"].to_numpy())


def _refuse(path: Path, problems: list[str]) -> None:
    """Raise if there are problems."""
    if problems:
        raise TableError(itemise(f"The yields {path} cannot be used", problems))
