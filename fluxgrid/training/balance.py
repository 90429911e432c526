"""Weights that make the towers stand for the land: post-stratification by a class of the site.

Towers are not a sample of the land: most stand in forest. Where the class is not among the inputs, a model learns the
mean over towers of a climate; with these weights it learns the mean over the land of that climate, as far as classes
tell them apart. The estimator is the poststratified mean of survey sampling (Holt & Smith 1979, doi 10.2307/2344652).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

from fluxgrid.data.sites import Site, Sites
from fluxgrid.errors import ConfigError
from fluxgrid.registry import unknown_name
from fluxgrid.training.sequences import Sequence
from fluxgrid.variables import get_variable


@dataclass(frozen=True)
class Stratum:
    """Classes that count together, and their share of the land."""

    classes: tuple[str, ...]
    """Names of classes."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Share of the land they cover; the shares of all strata need not sum to 1."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Balance:
    """How sites are weighted; sites of a class in no stratum keep the mean weight."""

    variable: str
    """Class variable, such as ``igbp``."""
    strata: tuple[Stratum, ...]
    """What covers the land."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        known = get_variable(self.variable).classes
        if not known:
            message = f"balance.variable: {self.variable!r} has no classes; give igbp, climate_group or koppen."
            raise ConfigError(message)
        for name in (name for stratum in self.strata for name in stratum.classes):
            if name not in known:
                error = unknown_name(f"class of {self.variable}", name, known)
                raise error

    def stratum_of(self, site: Site) -> int | None:
        """Return the position of a site's stratum, or None."""
        name = site.class_name(self.variable)
        return next((i for i, stratum in enumerate(self.strata) if name in stratum.classes), None)


def balance_sequences(sequences: list[Sequence], sites: Sites, balance: Balance | None) -> list[Sequence]:
    """Return sequences whose weights sum, stratum by stratum, to the strata's shares of the land.

    Parameters
    ----------
    sequences : list of Sequence
        Sites of one split.
    sites : Sites
        Hold the sites of the sequences.
    balance : Balance, optional
        Without it the sequences are returned as they are.

    Returns
    -------
    sequences : list of Sequence
        The mean weight of all observed steps stays the same.
    """
    if balance is None:
        return sequences
    strata = [balance.stratum_of(sites[sequence.site]) for sequence in sequences]
    totals = _totals(sequences, strata)
    present = {stratum: balance.strata[stratum].share for stratum in totals if stratum is not None}
    inside, land = sum(totals[s] for s in present), sum(present.values())
    factors: dict[int | None, float] = {s: share / land * inside / totals[s] for s, share in present.items()}
    factors[None] = 1.0
    scaled = zip(sequences, strata, strict=True)
    return [replace(s, weights=(s.weights * np.float32(factors[stratum]))) for s, stratum in scaled]


def _totals(sequences: list[Sequence], strata: list[int | None]) -> Mapping[int | None, float]:
    """Return the weight of the observed steps of each stratum."""
    totals: dict[int | None, float] = {}
    for sequence, stratum in zip(sequences, strata, strict=True):
        seen = np.isfinite(sequence.targets).any(axis=1)
        totals[stratum] = totals.get(stratum, 0.0) + float(sequence.weights[seen].sum())
    return {stratum: max(total, 1e-9) for stratum, total in totals.items()}
