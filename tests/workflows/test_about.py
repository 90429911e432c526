"""What a map says about itself."""

import xarray as xr

from fluxgrid.simulation import world_digest
from fluxgrid.workflows.about import is_simulated


def test_a_copy_of_the_built_in_world_is_known_by_its_source():
    source = f"fluxgrid synthetic world 1.0, parameters {world_digest()}"
    assert is_simulated(xr.Dataset(attrs={"source": source, "title": "Mine"}))
    assert not is_simulated(xr.Dataset(attrs={"source": "ERA5-Land"}))
    assert not is_simulated(xr.Dataset())
