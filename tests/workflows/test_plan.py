"""`fluxgrid plan`, and that it says what `upscale --dry-run` says."""

from __future__ import annotations

import json

import pytest

from fluxgrid.workflows.plan import read_resolution


def test_a_plan_says_what_a_dry_run_says(run, tiny_kgml):
    where = ["--region", "iowa", "--model", str(tiny_kgml)]
    code, out, _ = run("plan", *where, "--resolution", "0.4", "--json")
    assert code == 0
    planned = json.loads(out)
    dry = json.loads(run("upscale", *where, "--resolution", "0.4", "--dry-run", "--json")[1])
    counts = ("tiles", "cells", "years", "pixel_days", "spin_up_pixel_days", "bytes_read", "bytes_written")
    for name in (*counts, "memory_bytes", "disk_bytes"):
        assert planned["estimate"][name] == dry["estimate"][name], name
    assert planned["out"] == dry["out"]
    assert planned["warnings"] == dry["warnings"] == []
    code, out, _ = run("plan", *where, "--resolution", "5km", "--workers", "8")
    assert code == 0
    for word in ("cells to predict", "bytes read", "8 threads", "on a GPU", "not measured"):
        assert word in out


@pytest.mark.parametrize("text", ["", "fine", "-3", "0", "5 miles"])
def test_what_is_no_size_of_a_cell_is_told(run, text):
    code, _, err = run("plan", "--region", "iowa", f"--resolution={text}")
    assert code == 2
    assert "250m" in err
    assert read_resolution("2e-2deg") == (0.02, False)
