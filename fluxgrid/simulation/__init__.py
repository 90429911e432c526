"""The built-in synthetic world: weather, land and known fluxes anywhere in the central US.

Everything is a pure function of place and date: two regions, tiles or periods that overlap agree bit for bit.
"""

from fluxgrid.simulation.carbon import true_fluxes
from fluxgrid.simulation.parameters import WORLD_VERSION, world_digest
from fluxgrid.simulation.towers import virtual_sites
from fluxgrid.simulation.weather import simulate
from fluxgrid.simulation.world import build_world, check_world, world_template

__all__ = [
    "WORLD_VERSION",
    "build_world",
    "check_world",
    "simulate",
    "true_fluxes",
    "virtual_sites",
    "world_digest",
    "world_template",
]
