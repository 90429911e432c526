"""Input that is wrong gives one clear message and an exit code, and leaves nothing half-written."""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import pytest
import shapely
import xarray as xr
import yaml

from fluxgrid import cli
from fluxgrid.data.cube import open_cube
from fluxgrid.testing import small_cube, write_cube

_DROP_CAPABILITY, _WRITES_ANYWHERE = 24, 1  # PR_CAPBSET_DROP and CAP_DAC_OVERRIDE of Linux
CASES = yaml.safe_load((Path(__file__).parent / "cases.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def broken(world, tools, tmp_path_factory) -> dict[str, str]:
    """Things that are wrong, by the names they have in cases.yaml."""
    folder = tmp_path_factory.mktemp("broken")
    cube = small_cube(shape=(5, 7), periods=40, start="2020-12-01")
    no_crs = cube.drop_vars("spatial_ref").drop_attrs(deep=False)
    bad_unit = cube.copy()
    bad_unit["temperature_2m"].attrs["units"] = "kg"
    bad_dims = cube.copy()
    bad_dims["precipitation"] = cube["precipitation"].isel(time=0, drop=True)
    three = bad_unit.assign(precipitation=bad_dims["precipitation"]).drop_vars("spatial_ref").drop_attrs(deep=False)
    cubes = {"NO_CRS": no_crs, "BAD_UNIT": bad_unit, "BAD_DIMS": bad_dims, "THREE_PROBLEMS": three}
    paths = {name: write_cube(ds, folder / f"{name.lower()}.zarr") for name, ds in cubes.items()}
    paths["TWO_LACKING"] = folder / "two_lacking.zarr"
    shutil.copytree(world.cube, paths["TWO_LACKING"])
    for name in ("shortwave", "crop_fraction"):
        shutil.rmtree(paths["TWO_LACKING"] / name)
    monthly = small_cube("monthly", shape=(45, 60), periods=24)
    opened = open_cube(write_cube(monthly, folder / "monthly.zarr"))
    paths["MONTHLY_MODEL"] = tools["write_model"](folder / "monthly", opened, tools["spec_of"]("ct_gru", "monthly"))
    paths["IN_THE_LAKE"] = folder / "in_the_lake.geojson"
    triangle = shapely.Polygon([(-87.4, 42.8), (-86.5, 42.8), (-87.4, 41.9)])
    gpd.GeoDataFrame(geometry=[triangle], crs=4326).to_file(paths["IN_THE_LAKE"], driver="GeoJSON")
    return {name: str(path) for name, path in (paths | _broken_models(world, folder)).items()}


def _broken_models(world, folder: Path) -> dict[str, Path]:
    """Return checkpoints that cannot be used, and what is none."""
    weights, spec = folder / "weights", folder / "spec"
    for copy in (weights, spec):
        shutil.copytree(world.ct_gru, copy)
    data = bytearray((weights / "weights.safetensors").read_bytes())
    data[-5] ^= 1
    (weights / "weights.safetensors").write_bytes(bytes(data))
    (spec / "spec.json").write_bytes((spec / "spec.json").read_bytes()[:200])
    (folder / "file").write_text("not a folder")
    return {
        "CORRUPT_WEIGHTS": weights,
        "TORN_SPEC": spec,
        "NO_CHECKPOINT": world.folder,
        "BELOW_A_FILE": folder / "file" / "map",
    }


def command_line(capsys, monkeypatch, words: list[str]) -> tuple[int, str, str]:
    """Run the command line in this process: exit code, output, errors; a traceback is an exception here."""
    monkeypatch.setattr(sys, "argv", ["fluxgrid", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, *capsys.readouterr()


@pytest.fixture
def fluxgrid(capsys, monkeypatch):
    """Return a function that runs `fluxgrid upscale`."""
    return lambda words: command_line(capsys, monkeypatch, words)


@pytest.mark.parametrize("case", CASES, ids=[case["what"] for case in CASES])
def test_wrong_input(world, broken, fluxgrid, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fluxgrid.upscaling.workers.CONNECT_SECONDS", 1)
    options = {key: broken.get(str(value)[1:], value) for key, value in case.get("options", {}).items()}
    out = Path(options.pop("out", tmp_path / "map"))
    code, output, errors = fluxgrid(world.command(out, *case.get("words", []), **options)[3:])
    assert code == case.get("code", 2)
    assert errors.startswith("fluxgrid: ")
    assert errors.count("fluxgrid: ") == 1
    assert [words for words in case["says"] if words not in errors] == [], errors
    assert output == ""
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


def test_the_handshake_lists_every_disagreement(world, broken, fluxgrid, tmp_path):
    words = world.command(tmp_path / "map", cube=broken["TWO_LACKING"], model=broken["MONTHLY_MODEL"], end="2022-01-31")
    code, _, errors = fluxgrid(words[3:])
    assert code == 2
    assert [line.split(":")[0].strip() for line in errors.splitlines()[1:]] == [
        "- variable 'shortwave'",
        "- variable 'crop_fraction'",
        "- time step",
        "- period",
    ]


def test_other_results_are_left_alone(world, baseline, fluxgrid, snapshot, tmp_path):
    out = tmp_path / "map"
    shutil.copytree(baseline["ct_gru"], out)
    before = snapshot(out)
    for words in ([], ["--resume"]):
        code, _, errors = fluxgrid(world.command(out, *words, model=str(world.lightgbm))[3:])
        assert code == 2
        assert (
            "other results (a map of south-of-the-lake by small-ct_gru, 2020-12-01 to 2021-01-31, the global model)"
            in errors
        )
        assert "--out" in errors
        assert "--overwrite" in errors
    assert snapshot(out) == before


@pytest.mark.parametrize("cube", [True, False], ids=["cube", "synthetic"])
def test_files_of_others_are_left_alone(world, fluxgrid, snapshot, tmp_path, cube):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.tex").write_text("It was a dark and stormy night.")
    (out / ".draft.tmp").write_text("not ours either")
    before = snapshot(tmp_path)
    changes = {} if cube else {"cube": None, "model": None, "region": "iowa", "resolution": 1}
    code, _, errors = fluxgrid(world.command(out, **changes)[3:])
    assert code == 2
    assert "chapter.tex" in errors
    assert snapshot(tmp_path) == before


def test_truncated_chunk_names_its_tile_and_can_be_mended(world, baseline, digests_of, fluxgrid, litter, tmp_path):
    """The other tiles are kept; the mended one is made, and the map is as if nothing had been."""
    cube, out = tmp_path / "cube.zarr", tmp_path / "map"
    shutil.copytree(world.cube, cube)
    chunk = cube / "shortwave" / "c" / "0" / "2" / "0"  # rows 40 on, columns to 23: only in tile r0032c0000
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    code, _, errors = fluxgrid(world.command(out, cube=str(cube))[3:])
    assert code == 3
    assert "1 of 5 tiles failed, so no map was written; the others are kept" in errors
    assert "tile r0032c0000: " in errors
    assert "Mend the cause and run the same command again (`fluxgrid upscale` with --resume)." in errors
    assert "shortwave/c/0/2/0 cannot be decoded" in errors
    assert litter(out) == []
    assert [path.name for path in out.iterdir()] == [".fluxgrid"]
    chunk.write_bytes(whole)
    code, output, _ = fluxgrid(world.command(out, "--resume", cube=str(cube))[3:])
    assert code == 0
    assert "Done" in output
    assert digests_of(out) == digests_of(baseline["ct_gru"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["units"]["computed"], manifest["units"]["kept"]) == (4, 16)


def test_block_of_nan_stops_the_map_unless_it_is_accepted(world, fluxgrid, manifest, tmp_path):
    cube, out = tmp_path / "cube.zarr", tmp_path / "map"
    ds = xr.open_zarr(world.cube, consolidated=False, decode_coords="all").load()
    ds["precipitation"][:, 3:25, 3:25] = float("nan")
    write_cube(ds, cube, chunks=(20, 24))
    code, _, errors = fluxgrid(world.command(out, cube=str(cube))[3:])
    assert code == 3
    assert "% of the land cells' steps have no value because an input is missing; 5% are allowed" in errors
    assert "--max-missing 1 --resume" in errors
    assert [path.name for path in out.iterdir()] == [".fluxgrid"]
    code, output, _ = fluxgrid(world.command(out, "--resume", cube=str(cube), max_missing=1)[3:])
    assert code == 0
    assert "Done: 7" in output
    assert manifest(out)["units"]["computed"] == 0
    assert 0.7 < manifest(out)["coverage"]["share"] < 0.8


def test_folder_without_permission(world, tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o500)

    def obey_permissions():  # root writes anywhere by this capability; without it the command is a user like others
        if os.geteuid() == 0:
            assert ctypes.CDLL(None).prctl(_DROP_CAPABILITY, _WRITES_ANYWHERE, 0, 0, 0) == 0

    command = world.command(tmp_path / "theirs" / "map")
    answer = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=obey_permissions, timeout=120, check=False
    )
    assert answer.returncode == 2
    assert "permission is denied; choose a folder you may write to (out)" in answer.stderr
    assert not list((tmp_path / "theirs").iterdir())


# The limits stop the run in its first tile, and in its first NetCDF file.
@pytest.mark.parametrize(("limit", "stage"), [(20_000, "Cannot write"), (600_000, "2020.nc")], ids=["tile", "export"])
def test_full_disk_is_said_once_and_the_run_goes_on_later(world, baseline, digests_of, litter, tmp_path, limit, stage):
    """A limit on the size of files stands for a full disk: both fail in the middle of a write."""
    out = tmp_path / "map"

    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = world.command(out, threads=1)
    answer = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit_files, timeout=120, check=False)
    assert answer.returncode == 2, answer.stderr
    told = [line for line in answer.stderr.splitlines() if not line.startswith("Predicting")]
    assert len(told) == 1, answer.stderr
    assert told[0].startswith("fluxgrid: Cannot write")
    assert stage in told[0]
    assert "--resume" in told[0]
    assert litter(out) == []
    assert not list(out.rglob("*.nc"))
    assert [path.name for path in out.iterdir()] == [".fluxgrid"]
    world.run(out, "resume")
    assert digests_of(out) == digests_of(baseline["ct_gru"])


def test_region_that_the_cube_holds_in_part_is_told(world, fluxgrid, manifest, tmp_path):
    code, _, errors = fluxgrid(world.command(tmp_path / "map", region="indiana")[3:])
    assert code == 0
    # the cube ends at 39.8 N, half-way up the state
    told = re.search(r"Note: The cube holds only ([\d.]+)% of Indiana: map and totals end where the cube ends", errors)
    assert 45 < float(told[1]) < 55
    assert "holds only" in manifest(tmp_path / "map")["warnings"][0]
