"""Fitting models to sites."""
