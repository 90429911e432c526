"""KGML-ag by itself, on inputs of one's own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from fluxgrid.errors import ConfigError
from fluxgrid.models import load_checkpoint
from fluxgrid.models.crop_mosaic import CropMosaic
from fluxgrid.training.kgml.cover import hold_year

Runner = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


def native_runner(checkpoint: str) -> Runner:
    """Return the KGML-ag of a checkpoint as a function of its 19 inputs, native signs.

    Parameters
    ----------
    checkpoint : str
        Shipped checkpoint or folder, of the architecture ``kgml_ag``.

    Returns
    -------
    run : callable
        Takes features (n, T, 19), float32, physical units in the order of `fluxgrid.data.kgml.KGML_FEATURES`, and the
        calendar year of each day (T,). Returns ``ra``, ``rh``, ``nee`` (n, T), g m-2 d-1 with Ra, Rh <= 0 (not
        clipped), and ``yield`` (n, runs of equal years), g m-2. Years follow each other from a state of zero; put those
        of a spin-up in front. A model that holds the year reads its own, as on maps.

    Raises
    ------
    ConfigError
        If the checkpoint is of another architecture.
    """
    loaded = load_checkpoint(checkpoint)
    if not isinstance(loaded.model, CropMosaic):
        message = f"{checkpoint!r} is {loaded.spec.kind}, not kgml_ag. Train one with `fluxgrid train train_default`."
        raise ConfigError(message)
    mosaic, network = loaded.model, loaded.model.crop

    @torch.inference_mode()
    def run(features: np.ndarray, years: np.ndarray) -> dict[str, np.ndarray]:
        """Run year after year."""
        given = hold_year(np.ascontiguousarray(features, np.float32), mosaic)
        z = network.scale(torch.from_numpy(given))
        state = z.new_zeros(len(z), network.state_size)
        cuts = [0, *(np.flatnonzero(np.diff(years)) + 1).tolist(), len(years)]
        rows: dict[str, list[torch.Tensor]] = {"ra": [], "rh": [], "nee": [], "yield": []}
        for start, stop in pairwise(cuts):
            year = network(z[:, start:stop], state)
            state = year.state
            outputs = zip(rows, (year.ra, year.rh, year.nee, year.grain[:, None]), strict=True)
            for name, values in outputs:
                rows[name].append(network.physical(name, values))
        return {name: torch.cat(parts, dim=1).numpy() for name, parts in rows.items()}

    return run
