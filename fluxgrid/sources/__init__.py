"""Readers of published products, one file each; `SOURCES` holds them by name."""

from fluxgrid.sources import fluxnet, tower_table
from fluxgrid.sources.base import SOURCES, Screen, SiteSource

__all__ = ["SOURCES", "Screen", "SiteSource", "fluxnet", "tower_table"]
