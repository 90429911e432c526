"""The map does not depend on how it was made: tiles, threads, processes, order, interruption."""

from __future__ import annotations

import random
import shutil

import pytest

from fluxgrid.errors import IncompleteMap
from fluxgrid.upscaling import run as run_module


@pytest.mark.parametrize("kind", ["ct_gru", "lightgbm"])
@pytest.mark.parametrize("changes", [{"tile": 64, "threads": 1}, {"tile": 96}], ids=["64", "96"])
def test_tile_size_and_threads_do_not_change_the_map(world, baseline, digests_of, tmp_path, kind, changes):
    world.run(tmp_path / "map", model=str(getattr(world, kind)), **changes)
    assert digests_of(tmp_path / "map") == digests_of(baseline[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ct_gru", "lightgbm"])
def test_two_processes_give_the_same_map(world, baseline, digests_of, tmp_path, kind):
    """Also proven, in the fast tests, by the two processes of which one is killed."""
    world.run(tmp_path / "map", model=str(getattr(world, kind)), workers=2, threads=1)
    assert digests_of(tmp_path / "map") == digests_of(baseline[kind])


def test_order_of_tiles_does_not_change_the_map(world, baseline, digests_of, tmp_path, monkeypatch):
    monkeypatch.setattr("fluxgrid.upscaling.execute.sorted", _shuffled, raising=False)
    world.run(tmp_path / "map", threads=1)
    assert digests_of(tmp_path / "map") == digests_of(baseline["ct_gru"])


def _shuffled(items, key):
    return random.Random(5).sample(list(items), len(items))


def test_period_in_parts_needs_the_same_spin_up_and_gives_the_same_december(world, baseline, digests_of, tmp_path):
    world.run(tmp_path / "map", end="2020-12-31")
    december, both = digests_of(tmp_path / "map"), digests_of(baseline["ct_gru"])
    assert {name: both[name] for name in december if ".nc" in name} == {
        name: value for name, value in december.items() if ".nc" in name
    }


@pytest.mark.parametrize("kind", ["ct_gru", "lightgbm"])
def test_resume_after_failed_tiles_gives_the_same_map(
    world, baseline, digests_of, tmp_path, power_going_late, kind, manifest
):
    """Tiles fail in their last year; what was done is kept, and its state is read back."""
    out, model = tmp_path / "map", str(getattr(world, kind))
    told = r"4 of 5 tiles failed.*others are kept(.|\n)*the power went"
    with power_going_late(), pytest.raises(IncompleteMap, match=told):
        world.run(out, model=model)
    assert not list(out.glob("*.nc"))
    world.run(out, "resume", model=model)
    assert digests_of(out) == digests_of(baseline[kind])
    assert manifest(out)["units"]["computed"] == 4


def test_resume_with_other_tiles_starts_again_and_gives_the_same_map(
    world, baseline, digests_of, tmp_path, monkeypatch, manifest
):
    out = tmp_path / "map"
    with monkeypatch.context() as patch:
        patch.setattr("fluxgrid.workflows.upscale.publish", _fail)
        with pytest.raises(KeyboardInterrupt):
            world.run(out, tile=64)
    world.run(out, "resume", tile=32)
    assert digests_of(out) == digests_of(baseline["ct_gru"])
    assert manifest(out)["units"]["kept"] == 0


def _fail(*_args):
    raise KeyboardInterrupt


def _torn(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flipped(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


DAMAGE = {
    "records": {"r0000c0000/2020.json": _torn, "r0000c0032/2021.json": lambda _: b'["key"]'},
    # the unit after a damaged state has to be made again, so its record goes too
    "states": {"r0000c0032/spin-up-1-2020.npz": _torn, "r0032c0000/spin-up-0-2019.npz": _flipped},
    "store": {"gpp/c/0/0/0": _torn, "nee/c/0/0/1": _flipped, "quality_flag/c/0/1/0": None},
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_work_is_made_again(world, baseline, digests_of, tmp_path, kind):
    out = tmp_path / "map"
    shutil.copytree(baseline["ct_gru"], out)
    (out / "manifest.json").unlink()
    work = next((out / ".fluxgrid").iterdir())
    for name, change in DAMAGE[kind].items():
        path = work / ("2020.zarr" if kind == "store" else kind) / name
        path.unlink() if change is None else path.write_bytes(change(path.read_bytes()))
    for record in work.glob("records/*/*20*.json") if kind == "states" else ():
        record.unlink() if "2019" not in record.name else None
    world.run(out, "resume")
    assert digests_of(out) == digests_of(baseline["ct_gru"])


def test_stores_begun_by_a_killed_run_are_made_again(world, baseline, digests_of, tmp_path, monkeypatch):
    """Tiles without a cell to predict have no record: their reasons must be in the store from its first moment."""
    out = tmp_path / "map"
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "write_tile", _fail)
        with pytest.raises(KeyboardInterrupt):
            world.run(out)
    assert not list(out.rglob("20*.zarr"))
    world.run(out, "resume")
    assert digests_of(out) == digests_of(baseline["ct_gru"])
    assert not list(out.rglob("draft-*"))
