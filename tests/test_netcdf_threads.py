"""NetCDF is used by one thread of a process at a time, whichever library opened the file."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from operator import methodcaller

import numpy as np
import pytest
import xarray as xr

from fluxgrid.netcdf import join_netcdf, netcdf_file, open_netcdf, others_first, save_netcdf

# a child, for what this guards against is the end of the process: without the lock it dies within a second
_PROGRAM = """
import gc, sys, threading
import numpy as np, xarray as xr
from fluxgrid.netcdf import netcdf_file, open_netcdf, others_first, save_netcdf

path, copy = sys.argv[1:]
names = [f"v{i}" for i in range(6)]
values = np.random.default_rng(0).random((200, 400))
save_netcdf(xr.Dataset({name: (("time", "x"), values) for name in names}), path)
ended = threading.Event()
turns = forgotten = 0


def forget():
    global forgotten
    while not ended.is_set():
        dropped = [open_netcdf(path, chunks={})]
        dropped.append(dropped)  # a circle, so that the collector closes the file
        del dropped
        gc.collect()
        forgotten += 1


beside = threading.Thread(target=forget)
beside.start()
try:
    while turns < 5 or (forgotten < 5 and turns < 200):
        turns += 1
        with netcdf_file(path) as file:
            assert all((file[name][...] == values).all() for name in names)
        with open_netcdf(path, chunks={"x": 100}) as source, netcdf_file(copy, "w") as file:
            for dim, size in source.sizes.items():
                file.createDimension(dim, size)
            with others_first():
                read = source["v0"].values  # by threads of dask
            file.createVariable("v", "f8", source["v0"].dims, zlib=True)[...] = read
        save_netcdf(xr.Dataset({"v": (("time", "x"), read)}), copy)
        with open_netcdf(copy) as found:
            assert (found["v"].values == values).all()
finally:
    ended.set()
    beside.join()
print("ended" if forgotten >= 5 else f"only {forgotten} files were left to the collector")
"""


def test_files_that_the_collector_closes_do_not_end_the_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", _PROGRAM, str(tmp_path / "a.nc"), str(tmp_path / "b.nc")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "ended\n"
    assert not done.stderr, "nothing was said about files that could not be closed"


def test_the_lock_is_taken_twice_by_a_thread_and_goes_with_what_is_sent_elsewhere(tmp_path):
    one = xr.Dataset({"v": (("time", "x"), np.arange(6.0).reshape(2, 3))}, {"time": [0, 1], "x": [0, 1, 2]})
    save_netcdf(one, tmp_path / "a.nc")
    save_netcdf(one.assign_coords(time=[2, 3]), tmp_path / "b.nc")
    with open_netcdf(tmp_path / "a.nc", chunks={}) as lazy, netcdf_file(tmp_path / "b.nc") as file:
        with open_netcdf(tmp_path / "b.nc") as again:
            np.testing.assert_array_equal(file["v"][...], again["v"].values)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as elsewhere:  # it has a lock of its own
            sent = elsewhere.submit(methodcaller("compute"), lazy).result(timeout=120)
        np.testing.assert_array_equal(sent["v"].values, one["v"].values)
        with netcdf_file(tmp_path / "a.nc"), others_first():  # gives back all that it has taken
            np.testing.assert_array_equal(lazy["v"].values, one["v"].values)
        with pytest.raises(RuntimeError, match=r"c\.nc cannot be written by xarray while this thread has a file open"):
            save_netcdf(one, tmp_path / "c.nc")
        np.testing.assert_array_equal(file["v"][...], one["v"].values)


def test_files_are_joined_by_time_and_closed_together(tmp_path):
    one = xr.Dataset({"v": (("time", "x"), np.arange(6.0).reshape(2, 3))}, {"time": [0, 1], "x": [0, 1, 2]})
    paths = [tmp_path / f"{name}.nc" for name in "ba"]
    for path, start in zip(paths, (2, 0), strict=True):
        save_netcdf(one.assign_coords(time=[start, start + 1]), path)
    with join_netcdf(paths, {}, chunks={}) as joined:
        assert joined["time"].values.tolist() == [0, 1, 2, 3]
        assert joined["v"].chunks
        np.testing.assert_array_equal(joined["v"].values, np.tile(one["v"].values, (2, 1)))
    for path in paths:
        save_netcdf(one, path)  # HDF5 would refuse to write a file that is open
