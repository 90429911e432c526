"""Readers of published products, one file each; `SOURCES` holds them by name."""

from fluxgrid.sources import carbonbench, fluxnet, tower_table
from fluxgrid.sources.base import SOURCES, Screen, SiteSource

__all__ = ["SOURCES", "Screen", "SiteSource", "carbonbench", "fluxnet", "tower_table"]
