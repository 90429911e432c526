"""The reference world: a synthetic Midwest whose weather, land and carbon fluxes are known wall to wall.

Everything is a pure function of place and date: two regions, tiles or periods that overlap agree bit for bit. Only the
errors of virtual towers and of county yields belong to one network or survey and its seed.
"""

from fluxgrid.simulation.covariates import FORCINGS, STATICS, TRUTH, simulate, true_fluxes
from fluxgrid.simulation.land import Places, places_at
from fluxgrid.simulation.parameters import WORLD_SOURCE, WORLD_VERSION, world_digest
from fluxgrid.simulation.towers import tower_truth, virtual_sites
from fluxgrid.simulation.world import build_truth, build_world, check_world, world_template
from fluxgrid.simulation.yields import county_yields

__all__ = [
    "FORCINGS",
    "STATICS",
    "TRUTH",
    "WORLD_SOURCE",
    "WORLD_VERSION",
    "Places",
    "build_truth",
    "build_world",
    "check_world",
    "county_yields",
    "places_at",
    "simulate",
    "tower_truth",
    "true_fluxes",
    "virtual_sites",
    "world_digest",
    "world_template",
]
