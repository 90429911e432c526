"""Predict a site: the map's own function on a 1 x 1 tile."""

from __future__ import annotations

import pandas as pd

from fluxgrid.data.records import site_places
from fluxgrid.data.sites import Site
from fluxgrid.prediction.predictor import BlockState, Predictor
from fluxgrid.variables import MAP_FLUXES


def predict_site(predictor: Predictor, site: Site) -> pd.DataFrame:
    """Return the fluxes of a site over its whole record.

    Parameters
    ----------
    predictor : Predictor
        The model.
    site : Site
        Its series has the model's time step.

    Returns
    -------
    fluxes : DataFrame
        Index of the site's series; columns nee, gpp, reco, g m-2 d-1, NaN where an input is missing. Of an ensemble
        also the standard deviation of its members: nee_spread, gpp_spread, reco_spread.
    """
    spec = predictor.checkpoint.spec
    time = pd.DatetimeIndex(site.series.index)
    state: BlockState | None = None
    parts = []
    for segment in spec.segments(time, 0):
        places = site_places(site, spec.step, spec.inputs, segment.steps)
        if not segment.scored:
            state = predictor.advance(places, state)
            state = BlockState(state.hidden, {}) if segment.recycled else state
            continue
        fluxes, state = predictor.predict(places, state)
        row = {name: fluxes.daily[name] for name in MAP_FLUXES}
        row |= {spread_name(name): values for name, values in fluxes.spread.items()}
        parts.append(pd.DataFrame({name: values[:, 0] for name, values in row.items()}))
    return pd.concat(parts, ignore_index=True).set_index(time)


def spread_name(flux: str) -> str:
    """Return the column of the members' spread of a flux."""
    return f"{flux}_spread"
