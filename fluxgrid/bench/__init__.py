"""How fast this machine makes maps: models end to end, what else could be used, and the limit both are held against.

Nothing here knows the run configuration. `fluxgrid.workflows.bench` puts the parts together.
"""
