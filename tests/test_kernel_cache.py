"""Compiled kernels have a folder, and are compiled once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import event

from fluxgrid import kernel_cache


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_cache.tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)


@pytest.mark.parametrize("writable", [True, False])
def test_a_folder_is_found_only_where_numba_has_none(monkeypatch, tmp_path, writable):
    monkeypatch.setattr(kernel_cache, "_writable", lambda _: writable)
    kernel_cache.find_kernel_cache()
    folder = tmp_path / f"fluxgrid-kernels-{os.getuid()}"
    assert os.environ.get("NUMBA_CACHE_DIR") == (None if writable else str(folder))
    assert writable or folder.stat().st_mode & 0o777 == 0o700


def test_what_others_can_write_to_is_not_used(tmp_path):
    open_to_all = tmp_path / f"fluxgrid-kernels-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert kernel_cache._own_folder() != open_to_all


def test_a_file_in_its_place_is_not_used(tmp_path):
    (tmp_path / f"fluxgrid-kernels-{os.getuid()}").write_text("")
    assert kernel_cache._own_folder().is_dir()


def test_a_user_without_a_home_has_a_folder_too(monkeypatch, tmp_path):
    def homeless(_):
        raise RuntimeError

    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(kernel_cache, "_writable", lambda _: False)
    kernel_cache.find_kernel_cache()
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / f"fluxgrid-kernels-{os.getuid()}")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "chosen")
    kernel_cache.find_kernel_cache()
    assert os.environ["NUMBA_CACHE_DIR"] == "chosen"


def test_a_folder_that_is_missing_counts_by_the_one_above(tmp_path):
    assert kernel_cache._writable(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    assert not kernel_cache._writable(tmp_path / "file" / "b")


def test_fluxgrid_loads_where_no_folder_can_be_written(tmp_path):
    """Folders that are files stand for those that cannot be written: the tests may run as a user who may write all."""
    (tmp_path / "home").write_text("")
    program = (
        "from fluxgrid import kernel_cache as k; import os, pathlib\n"
        f"k._PACKAGE = pathlib.Path({str(tmp_path / 'home')!r}); k.find_kernel_cache()\n"
        "import fluxgrid.data.gaps\n"
        "print(os.environ['NUMBA_CACHE_DIR'])"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.strip() == str(tmp_path / f"fluxgrid-kernels-{os.getuid()}")


def test_threads_that_need_a_kernel_at_once_compile_it_once():
    @numba.njit(nogil=True)
    def kernel(values):
        return values.sum()

    start = threading.Barrier(6)

    def call(_):
        start.wait()
        return kernel(np.ones(3))

    with event.install_recorder("numba:compile") as recorder, ThreadPoolExecutor(6) as pool:
        assert list(pool.map(call, range(6))) == [3.0] * 6
    own = [e for _, e in recorder.buffer if e.is_start and e.data["dispatcher"] is kernel]
    assert len(own) == 1
