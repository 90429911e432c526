"""Closure: from what a model says to fluxes that add up, NEE = RECO - GPP and RECO = RA + RH."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fluxgrid.errors import ConfigError
from fluxgrid.models.spec import ModelSpec


def close_fluxes(outputs: Mapping[str, np.ndarray], spec: ModelSpec) -> dict[str, np.ndarray]:
    """Return the fluxes a map holds, closed exactly in single precision.

    Parameters
    ----------
    outputs : mapping of str to ndarray, float32, any one shape, g m-2 d-1
        What the model predicts: ``gpp`` with ``reco``, or with ``ra`` and ``rh``; ``nee`` where it has its own.
    spec : ModelSpec
        Its closure: ``derived`` forms NEE from the others; ``projected`` moves all three to the nearest fluxes that
        close, each by its share of the error variance; ``free`` leaves all as they are, for scores, not for maps.

    Returns
    -------
    fluxes : dict of ndarray, float32
        ``nee``, ``gpp``, ``reco``, and ``ra`` and ``rh`` where the model has them; all but NEE >= 0 unless free.

    Raises
    ------
    ConfigError
        If the closure is ``projected`` without error variances, or it or ``free`` without an NEE of the model's own.

    Notes
    -----
    The projection is the least-squares adjustment of three measurements under one linear condition: the residual is
    shared in proportion to the variances (Mikhail & Ackermann 1976, Observations and Least Squares, section 4).
    Adjusted GPP and RECO below zero are set to it, RA and RH keep their shares of RECO.
    """
    if spec.closure == "projected":
        return _projected(outputs, spec)
    if spec.closure == "free":
        if lacking := [name for name in ("nee", "gpp", "reco") if name not in outputs]:
            message = f"Closure 'free' of {spec.name!r} needs the model's own {', '.join(lacking)}; use 'derived'."
            raise ConfigError(message)
        return {name: outputs[name] for name in ("nee", "gpp", "reco")}
    respired = {name: np.maximum(outputs[name], 0.0) for name in ("ra", "rh") if name in outputs}
    reco = respired["ra"] + respired["rh"] if respired else np.maximum(outputs["reco"], 0.0)
    gpp = np.maximum(outputs["gpp"], 0.0)
    return {"nee": reco - gpp, "gpp": gpp, "reco": reco, **respired}


def _projected(outputs: Mapping[str, np.ndarray], spec: ModelSpec) -> dict[str, np.ndarray]:
    """Return the nearest fluxes that close."""
    missing = [name for name in ("gpp", "reco", "nee") if not spec.error_variances.get(name, 0.0) > 0.0]
    if missing or "nee" not in outputs:
        message = (
            f"Closure 'projected' of {spec.name!r} needs the model's own NEE and the error variances of gpp, reco and "
            f"nee (> 0); without {', '.join(missing) or 'its own NEE'} use 'derived'."
        )
        raise ConfigError(message)
    raw = dict(outputs)
    reco = raw["ra"] + raw["rh"] if "ra" in raw else raw["reco"]
    variance = {name: spec.error_variances[name] for name in ("gpp", "reco", "nee")}
    share = {name: np.float32(value / sum(variance.values())) for name, value in variance.items()}
    open_ = raw["nee"] - (reco - raw["gpp"])
    gpp = np.maximum(raw["gpp"] - share["gpp"] * open_, 0.0)
    adjusted = np.maximum(reco + share["reco"] * open_, 0.0)
    fluxes = {"gpp": gpp, "reco": adjusted}
    if "ra" in raw:
        part = np.divide(raw["ra"], reco, out=np.zeros_like(reco), where=reco > 0)
        ra = adjusted * np.clip(part, 0.0, 1.0)
        fluxes |= {"ra": ra, "rh": np.maximum(adjusted - ra, 0.0)}
        fluxes["reco"] = fluxes["ra"] + fluxes["rh"]
    return {"nee": fluxes["reco"] - gpp, **fluxes}
