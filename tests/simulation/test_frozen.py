"""The world is frozen: the same places and days give the same values, until its version says otherwise.

Frozen is what leaves the world: single precision. Values are worked out in a process of its own with an empty cache of
compiled code, because numba looks only at the file of the outermost function when it decides whether a cache is stale.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fluxgrid.simulation import WORLD_VERSION, world_digest

STORED = Path(__file__).with_name("frozen_world.json")
_PROGRAM = """
import json
import numpy as np
import pandas as pd
from fluxgrid.simulation import county_yields, simulate, true_fluxes, virtual_sites

place = np.array([42.2, 47.3, 41.0, 39.9, 37.2]), np.array([-93.8, -91.5, -102.5, -88.8, -90.1])
days = pd.date_range("2010-01-01", "2011-12-31", freq="13D")
world = simulate(*place, days) | true_fluxes(*place, days)
values = {
    name: [float(np.nanmean(array[..., i], dtype=np.float64)) for i in range(5)] for name, array in world.items()
}
for site in virtual_sites(7, "2009-01-01", "2011-12-31"):
    series = site.series[["gpp", "reco", "nee", "nee_qc", "lai"]].mean().tolist()
    values[site.id] = [site.latitude, site.longitude, *series]
yields = county_yields(("IA",), range(2010, 2012), seed=1)
values["yields"] = [float(mean) for mean in yields.groupby("crop")["yield_g_m2"].mean()]
print(json.dumps(values))
"""


def test_values_are_those_stored_for_this_version(tmp_path):
    """A formula that changes values needs a new `version` in world.yaml, and every table made anew."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True, check=True
    ).stdout
    found = {"version": WORLD_VERSION, "digest": world_digest(), "values": json.loads(said)}
    if not STORED.exists():
        STORED.write_text(json.dumps(found, indent=1) + "\n")
        pytest.fail(f"{STORED.name} was missing and has been written; look at it and commit it.")
    stored = json.loads(STORED.read_text())
    assert (stored["version"], stored["digest"]) == (WORLD_VERSION, world_digest())
    assert found["values"].keys() == stored["values"].keys()
    for name, expected in stored["values"].items():
        np.testing.assert_allclose(found["values"][name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
