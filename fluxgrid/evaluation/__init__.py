"""Scores, protocols and simple baselines."""
