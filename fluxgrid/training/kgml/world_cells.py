"""Cells of the reference world as sites whose fluxes are known without error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fluxgrid.data.sites import Site, Sites
from fluxgrid.errors import ConfigError
from fluxgrid.geo.sphere import great_circle_km
from fluxgrid.simulation import FORCINGS, STATICS, WORLD_VERSION, places_at, world_digest
from fluxgrid.simulation.covariates import simulate_places, true_fluxes_of
from fluxgrid.training.kgml.sample import cells_of

_CANDIDATES = 12
"""Cells looked at for each one kept."""


def spread_cells(states: Sequence[str], n: int, seed: int, resolution: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Return cells of states that stand apart from each other, n of them.

    Each is the farthest from those before it among some drawn at random (best candidate, Mitchell 1991,
    doi:10.1145/122718.122736).

    Raises
    ------
    ConfigError
        If there is none to choose from, or none is asked for.

    Examples
    --------
    >>> latitude, longitude = spread_cells(("IA",), 5, 0)
    >>> len(latitude), bool(great_circle_km(latitude, longitude, latitude, longitude)[0, 1:].min() > 100)
    (5, True)
    """
    latitude, longitude = cells_of(states, resolution)
    if n < 1 or not len(latitude):
        message = (
            f"{', '.join(states) or 'No state'}: {len(latitude)} cells of the world, {n} were asked for. Name states "
            "of the Midwest by their postal codes and ask for 1 cell or more."
        )
        raise ConfigError(message)
    random = np.random.default_rng(seed)
    kept = [int(random.integers(len(latitude)))]
    nearest = np.full(len(latitude), np.inf)
    while len(kept) < min(n, len(latitude)):
        last = kept[-1:]
        away = great_circle_km(latitude, longitude, latitude[last], longitude[last])[:, 0]
        nearest = np.minimum(nearest, away)
        drawn = random.integers(len(latitude), size=_CANDIDATES * len(kept))
        kept.append(int(drawn[np.argmax(nearest[drawn])]))
    return latitude[kept], longitude[kept]


def world_cells(states: Sequence[str], n: int, first: int, last: int, seed: int = 1) -> Sites:
    """Return cells of the reference world as sites.

    Parameters
    ----------
    states : sequence of str
        Postal codes.
    n : int
        Cells, spread over the states.
    first, last : int
        Calendar years, both included.
    seed : int
        Of the places.

    Returns
    -------
    sites : Sites
        Daily; covariates of the whole cell, true ``gpp``, ``ra``, ``rh``, ``reco`` and ``nee``; each cell a group.

    Raises
    ------
    ConfigError
        If the states hold no cell, none is asked for, or the years are out of order or before the world begins.
    """
    places = places_at(*spread_cells(states, n, seed))
    time = pd.date_range(f"{first}-01-01", f"{last}-12-31", name="time")
    known = simulate_places(places, time, (*FORCINGS, *STATICS)) | true_fluxes_of(places, time)
    sites = []
    for i in range(len(places.latitude)):
        series = pd.DataFrame({k: v[:, i] for k, v in known.items() if v.ndim == 2}, index=time)
        statics = {name: float(known[name][i]) for name in STATICS}
        where = float(places.latitude[i]), float(places.longitude[i])
        name = f"cell-{where[0]:.2f}N-{-where[1]:.2f}W"
        sites.append(Site(name, *where, name, statics, series))
    source = f"fluxgrid synthetic world {WORLD_VERSION}, parameters {world_digest()}, true cells drawn with seed {seed}"
    return Sites("daily", tuple(sites), source, "Synthetic: cells of the fluxgrid world, not observations.")
