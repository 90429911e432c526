"""Regions, grids and tiles."""
