"""fluxgrid turns flux-tower models into maps."""
