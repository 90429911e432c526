"""What a tower table says of columns it does not know, and of NEE with the wrong sign."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fluxgrid.errors import TableError
from fluxgrid.sources import SOURCES


def table(sign: float) -> pd.DataFrame:
    dates = pd.date_range("2001-01-01", periods=24, freq="MS")
    gpp = 4 - 4 * np.cos(2 * np.pi * (dates.month - 1) / 12)
    reco = 1 + 0.5 * gpp
    facts = {"site": "XX-One", "lat": 41.0, "lon": -93.0, "igbp": "GRA"}
    return pd.DataFrame(
        {"date": dates, "gpp": gpp, "reco": reco, "nee": sign * (reco - gpp), "TA_F": 1.0, "Vpd": 2.0}
    ).assign(**facts)


def read(path, sign: float):
    table(sign).to_csv(path, index=False)
    return SOURCES["tower_table"]().read_sites(path)


def test_unknown_columns_are_named_with_the_nearest_spelling(tmp_path):
    notes = read(tmp_path / "towers.csv", 1.0).notes
    assert "columns not known and left out: TA_F, Vpd (vpd?)" in notes


def test_uptake_written_as_positive_nee_is_refused(tmp_path):
    with pytest.raises(TableError, match=r"XX-One, column nee: it runs against reco - gpp.*change its sign"):
        read(tmp_path / "towers.csv", -1.0)
