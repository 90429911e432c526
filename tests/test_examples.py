"""The examples are programs; they run."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *words: str) -> None:
    runpy.run_path(str(EXAMPLES / name))["main"](*words)


def test_first_map(tmp_path, capsys):
    run("first_map.py", str(tmp_path / "first"))
    said = capsys.readouterr().out
    assert "Annual NEE of the box: -" in said  # crops and grass of the synthetic Iowa take up carbon
    assert (tmp_path / "first" / "quicklook.png").stat().st_size > 50_000


@pytest.mark.data
def test_real_map(tmp_path, capsys, data_dir, monkeypatch):
    monkeypatch.setenv("FLUXGRID_TEST_DATA", str(data_dir))
    run("real_map.py", str(tmp_path / "real"), "2")
    said = capsys.readouterr().out
    assert "Iowa, 2001-2002; climate only, no vegetation index" in said
    files = {path.name for path in (tmp_path / "real" / "iowa").iterdir()}
    assert {"iowa_2001.nc", "iowa_2002.nc", "totals.csv", "iowa.qlr", "manifest.json"} <= files
