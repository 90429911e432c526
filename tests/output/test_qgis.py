"""The layer definitions: well-formed, relative, timed; and, where QGIS is installed, loaded by it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from fluxgrid.errors import OutputError
from fluxgrid.netcdf import netcdf_file
from fluxgrid.output.netcdf import export_netcdf
from fluxgrid.output.qgis import write_qlr

CLIENT = Path(__file__).with_name("qgis_client.py")
SYSTEM = {"PATH": "/usr/bin:/bin", "QT_QPA_PLATFORM": "offscreen", "HOME": os.environ.get("HOME", "/tmp")}


@pytest.fixture
def run_folder(example, tmp_path):
    """A run folder: the map and both layer definitions."""
    folder = tmp_path / "run"
    folder.mkdir()
    file = shutil.copy(example.netcdf, folder)
    write_qlr(folder / "iowa.qlr", [file], example.info)
    write_qlr(folder / "iowa_mesh.qlr", [file], example.info, "mesh")
    return folder


def layers(path: Path) -> list[ET.Element]:
    return ET.parse(path).getroot().findall("maplayers/maplayer")


def test_paths_are_relative(example, run_folder):
    name = example.netcdf.name
    sources = [layer.findtext("datasource") for layer in layers(run_folder / "iowa.qlr")]
    assert sources == [f'NETCDF:"./{name}":{flux}' for flux in ("nee", "gpp", "reco")]
    assert [layer.findtext("datasource") for layer in layers(run_folder / "iowa_mesh.qlr")] == [f"./{name}"]
    assert str(run_folder) not in (run_folder / "iowa.qlr").read_text()


def test_each_band_has_its_time(example, run_folder):
    for layer in layers(run_folder / "iowa.qlr"):
        temporal = layer.find("temporal")
        assert temporal.attrib == {"enabled": "1", "mode": "3", "fetchMode": "0"}
        ranges = temporal.findall("ranges/range")
        assert [int(r.get("band")) for r in ranges] == list(range(1, len(example.times) + 1))
        assert [r.get("begin") for r in ranges] == [f"{time:%Y-%m-%dT00:00:00Z}" for time in example.times]
        assert [r.get("end") for r in ranges][:-1] == [r.get("begin") for r in ranges][1:]
        assert {(r.get("includeBeginning"), r.get("includeEnd")) for r in ranges} == {("1", "0")}


def test_nee_alone_is_visible_and_centred_on_zero(run_folder):
    root = ET.parse(run_folder / "iowa.qlr").getroot()
    checked = {leaf.get("name")[:3]: leaf.get("checked") for leaf in root.iter("layer-tree-layer")}
    assert checked == {"NEE": "Qt::Checked", "GPP": "Qt::Unchecked", "REC": "Qt::Unchecked"}
    nee, gpp, reco = (layer.find("pipe/rasterrenderer") for layer in layers(run_folder / "iowa.qlr"))
    assert float(nee.get("classificationMin")) == -float(nee.get("classificationMax")) < 0
    assert float(gpp.get("classificationMin")) == float(reco.get("classificationMin")) == 0
    items = nee.findall("rastershader/colorrampshader/item")
    assert items[len(items) // 2].get("value") == "0"


def test_still_band_is_the_step_of_strongest_uptake(example, run_folder):
    renderer = layers(run_folder / "iowa.qlr")[0].find("pipe/rasterrenderer")
    with netcdf_file(example.netcdf) as file:
        means = file["nee"][:].mean(axis=(1, 2))
    assert int(renderer.get("band")) == int(np.argmin(means)) + 1


def test_every_leaf_has_its_layer(run_folder):
    root = ET.parse(run_folder / "iowa.qlr").getroot()
    assert [leaf.get("id") for leaf in root.iter("layer-tree-layer")] == [
        e.text for e in root.iterfind(".//maplayer/id")
    ]


def test_files_of_several_years_are_grouped_by_flux(monthly, tmp_path, write_years):
    files = []
    for store in write_years(monthly, tmp_path, (2019, 2020)):
        target = tmp_path / f"iowa_{store.stem}.nc"
        files.append(export_netcdf(store, monthly.grid, monthly.info, target, monthly.land))
    root = ET.parse(write_qlr(tmp_path / "iowa.qlr", files, monthly.info)).getroot()
    groups = root.findall("layer-tree-group/layer-tree-group/layer-tree-group")
    assert [(group.get("name"), group.get("checked")) for group in groups] == [
        ("NEE", "Qt::Checked"),
        ("GPP", "Qt::Unchecked"),
        ("RECO", "Qt::Unchecked"),
    ]
    assert [leaf.get("name")[:8] for leaf in groups[0]] == ["NEE 2019", "NEE 2020"]
    ranges = {layer.find("pipe/rasterrenderer").get("classificationMax") for layer in layers(tmp_path / "iowa.qlr")[:2]}
    assert len(ranges) == 1


def test_annual_variables_are_untimed_layers_of_their_own(rich, tmp_path):
    raster, mesh = (
        write_qlr(tmp_path / f"{kind}.qlr", [shutil.copy(rich.netcdf, tmp_path)], rich.info, kind)
        for kind in ("raster", "mesh")
    )
    names = [layer.findtext("layername") for layer in layers(raster)]
    assert [name.split()[0] for name in names[:5]] == ["NEE", "GPP", "RECO", "RA", "RH"]
    assert names[5:] == [
        f"{name} 2020" for name in ("Corn yield", "Soybean yield", "Harvest removal", "Balance after harvest")
    ]
    for layer in layers(raster)[5:]:
        assert layer.find("temporal") is None
        renderer = layer.find("pipe/rasterrenderer")
        assert renderer.get("band") == "1"
        assert renderer.find(".//rampLegendSettings").get("suffix") == " g C m⁻²"
    balance = layers(raster)[-1].find("pipe/rasterrenderer")
    assert float(balance.get("classificationMin")) == -float(balance.get("classificationMax")) < 0
    assert layers(mesh)[0].findtext("layername") == "NEE, GPP, RECO, RA, RH 2020"
    groups = [part.get("group") for part in layers(mesh)[0].findall("mesh-renderer-settings/scalar-settings")]
    assert len(set(groups)) == 5


def test_half_widths_are_layers_that_are_switched_off(unsure, tmp_path):
    raster, mesh = (
        write_qlr(tmp_path / f"{kind}.qlr", [shutil.copy(unsure.netcdf, tmp_path)], unsure.info, kind)
        for kind in ("raster", "mesh")
    )
    root = ET.parse(raster).getroot()
    checked = {leaf.get("name").split(" 2019")[0]: leaf.get("checked") for leaf in root.iter("layer-tree-layer")}
    assert checked.pop("NEE") == "Qt::Checked"
    assert set(checked.values()) == {"Qt::Unchecked"}
    assert list(checked)[2:] == ["NEE half-width", "GPP half-width", "RECO half-width"]
    folder = root.find("layer-tree-group/layer-tree-group/layer-tree-group")
    assert (folder.get("name"), folder.get("checked")) == ("Half-widths of single steps", "Qt::Unchecked")
    scale = layers(raster)[3].find("pipe/rasterrenderer")
    assert float(scale.get("classificationMin")) == 0
    with netcdf_file(unsure.netcdf) as file:
        names = sorted(v.long_name for v in file.variables.values() if v.dimensions[-2:] == ("lat", "lon"))
    shown = layers(mesh)[0].find("mesh-renderer-settings/active-dataset-group").get("scalar")
    assert names[int(shown)].startswith("net ecosystem exchange")


def test_no_file_is_a_clear_error(monthly, tmp_path):
    with pytest.raises(OutputError, match="There is no NetCDF file"):
        write_qlr(tmp_path / "iowa.qlr", [], monthly.info)
    (tmp_path / "torn.nc").write_bytes(b"CDF")
    with pytest.raises(OutputError, match=r"Cannot read the map .*torn.nc"):
        write_qlr(tmp_path / "iowa.qlr", [tmp_path / "torn.nc"], monthly.info)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raster", "mesh"])
def test_qgis_loads_rich_maps(system_python, rich_example, tmp_path, kind):
    path = write_qlr(tmp_path / "iowa.qlr", [shutil.copy(rich_example.netcdf, tmp_path)], rich_example.info, kind)
    report = load(system_python, path, tmp_path / "q.png", "2020-07-01T00:00:00Z")
    assert report["ok"]
    assert all(layer["valid"] for layer in report["layers"])
    assert [layer["timed"] for layer in report["layers"]] == ([True] if kind == "mesh" else [True] * 5 + [False] * 4)
    if kind == "mesh":
        assert report["layers"][0]["group"].startswith("net ecosystem exchange")


def load(system_python: str, *arguments: object) -> dict:
    command = [system_python, str(CLIENT), *map(str, arguments)]
    done = subprocess.run(command, env=SYSTEM, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("REPORT "))
    return json.loads(line.removeprefix("REPORT "))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iowa.qlr", "iowa_mesh.qlr"])
def test_qgis_loads_and_draws_all_layers_after_a_move(system_python, example, run_folder, tmp_path, name):
    moved = tmp_path / "elsewhere"
    run_folder.rename(moved)
    report = load(system_python, moved / name, tmp_path / "q.png", f"{example.times[3]:%Y-%m-%dT00:00:00Z}")
    assert report["ok"]
    assert len(report["layers"]) == (1 if "mesh" in name else 3)
    for layer in report["layers"]:
        assert layer["valid"]
        assert layer["timed"]
        assert layer["crs"] == f"EPSG:{example.grid.crs.epsg}"
    first = report["layers"][0]
    assert first["range"][0] == -first["range"][1] < 0
    assert report["colours"] > 5
    if "mesh" in name:
        assert first["group"].startswith("net ecosystem exchange")
        assert first["times"] == [f"{t:%Y-%m-%dT00:00:00Z}" for t in (example.times[0], example.times[-1])]
