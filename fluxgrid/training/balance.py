"""Weights that make the towers stand for the land: post-stratification by a class of the site.

Towers are not a sample of the land: most stand in forest. Where the class is not among the inputs, a model learns the
mean over towers of a climate; with these weights it learns the mean over the land of that climate, as far as classes
tell them apart. The estimator is the poststratified mean of survey sampling (Holt & Smith 1979, doi 10.2307/2344652).
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Series
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


def class_weights(classes: Series[str], steps: Series[int]) -> dict[str, float]:
    """Return the weight of each class that is present: all steps / (classes x its steps).

    Parameters
    ----------
    classes : sequence of str
        Of each site.
    steps : sequence of int
        Training steps of each site.

    Returns
    -------
    weights : dict of str to float
        A class without steps has none.

    Examples
    --------
    >>> class_weights(["CRO", "GRA", "CRO"], [10, 60, 10])
    {'CRO': 2.0, 'GRA': 0.6666666666666666}
    """
    counts: dict[str, int] = {}
    for name, count in zip(classes, steps, strict=True):
        counts[name] = counts.get(name, 0) + count
    present = {name: count for name, count in sorted(counts.items()) if count}
    return {name: sum(present.values()) / (len(present) * count) for name, count in present.items()}


def balance_classes(sequences: list[Sequence], sites: Sites, variables: Series[str]) -> list[Sequence]:
    """Return sequences weighted so that the classes of each variable count alike.

    Parameters
    ----------
    sequences : list of Sequence
        Training sites.
    sites : Sites
        Hold the sites of the sequences.
    variables : sequence of str
        Class variables; weights are multiplied over them. Sites without a class are one class of their own.

    Returns
    -------
    sequences : list of Sequence
    """
    seen = [int(np.isfinite(sequence.targets).any(axis=1).sum()) for sequence in sequences]
    factors = np.ones(len(sequences))
    for variable in variables:
        names = [sites[sequence.site].class_name(variable) or "" for sequence in sequences]
        weights = class_weights(names, seen)
        factors *= [weights.get(name, 1.0) for name in names]
    return [replace(s, weights=s.weights * np.float32(f)) for s, f in zip(sequences, factors, strict=True)]


_QUIET = 0.1
"""Share of the common deviation that is added to a site's own: where hardly anything moves, most is noise."""


def balance_variances(sequences: list[Sequence], exponent: float) -> list[Sequence]:
    """Return sequences whose fluxes are emphasised where they vary little.

    Parameters
    ----------
    sequences : list of Sequence
        Training sites.
    exponent : float, 0 to 1
        Of the ratio of variances; 0 leaves them as they are.

    Returns
    -------
    sequences : list of Sequence
        ``emphasis`` is (1.1 s / (s_site + 0.1 s))^(2 exponent) by flux, with the standard deviations s of all sites
        together and s_site of its own; 1 for a site that varies as all do.
    """
    if not exponent:
        return sequences
    values = np.concatenate([sequence.targets for sequence in sequences])
    common = _deviations(values)
    found = []
    for sequence in sequences:
        own = _deviations(sequence.targets)
        ratio = (1 + _QUIET) * common / (own + _QUIET * common)
        emphasis = np.where(np.isfinite(ratio), ratio, 1.0) ** (2 * exponent)
        found.append(replace(sequence, emphasis=(sequence.emphasis * emphasis).astype(np.float32)))
    return found


def _deviations(targets: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each flux (T, 3), NaN where it was never observed."""
    columns = (column[np.isfinite(column)].astype(np.float64) for column in targets.T)
    return np.array([column.std() if len(column) else np.nan for column in columns])


def _totals(sequences: list[Sequence], strata: list[int | None]) -> Mapping[int | None, float]:
    """Return the weight of the observed steps of each stratum."""
    totals: dict[int | None, float] = {}
    for sequence, stratum in zip(sequences, strata, strict=True):
        seen = np.isfinite(sequence.targets).any(axis=1)
        totals[stratum] = totals.get(stratum, 0.0) + float(sequence.weights[seen].sum())
    return {stratum: max(total, 1e-9) for stratum, total in totals.items()}
