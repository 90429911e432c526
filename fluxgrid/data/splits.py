"""Folds of sites: which are trained on and which are held out, with sites of one place never parted.

CarbonBench's two splits, and its folds, are here too: the published rule, which knows no places, and the same without
the training sites that stand at the place of one held out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from fluxgrid.data.sites import Site, Sites
from fluxgrid.errors import ConfigError
from fluxgrid.registry import unknown_name
from fluxgrid.variables import CLIMATE_GROUPS

SplitKind = Literal["igbp", "koppen"]

CARBONBENCH_SEED = 56
"""Of CarbonBench's splits."""
RARE = 10
"""Most sites of a vegetation class that is parted by half and not by 80 to 20."""
_STRATA = {"igbp": "igbp", "koppen": "climate_group"}
PARTS = 5
"""Most parts that the sites are dealt into for the members of an ensemble."""


@dataclass(frozen=True)
class Fold:
    """One split of a set of sites."""

    train: tuple[str, ...]
    """Ids of the sites to learn from, in alphabetical order."""
    test: tuple[str, ...]
    """Ids of the sites held out, in alphabetical order."""


def site_folds(sites: Sites, n_folds: int = 5, seed: int = 0, stratify: str = "igbp") -> tuple[Fold, ...]:
    """Split sites into folds by group, balanced by number and by class.

    Every site is held out exactly once, and all sites of a group together. The folds depend on the sites and the
    seed alone, not on the order of the sites.

    Parameters
    ----------
    sites : Sites
    n_folds : int
        Number of folds, at least 2.
    seed : int
        Decides between equally good places.
    stratify : str
        Class variable spread evenly over the folds, as far as the groups allow.

    Returns
    -------
    folds : tuple of Fold

    Raises
    ------
    ConfigError
        If there are fewer groups than folds.
    """
    if n_folds < 2:
        message = f"{n_folds} folds cannot hold anything out; ask for 2 or more."
        raise ConfigError(message)
    parts = _deal(sites, [len(sites) / n_folds] * n_folds, seed, stratify)
    everything = set(sites.ids)
    return tuple(Fold(tuple(sorted(everything - set(part))), part) for part in parts)


def validation_split(sites: Sites, share: float = 0.2, seed: int = 0, stratify: str = "igbp") -> Fold:
    """Hold out a share of the sites, by group, to stop training on.

    Parameters
    ----------
    sites : Sites
        Usually the training sites of a fold.
    share : float
        Share of the sites to hold out, above 0 and below 1; at least one group is.
    seed : int
        Decides between equally good places.
    stratify : str
        Class variable held out in proportion, as far as the groups allow.

    Returns
    -------
    fold : Fold
        Its ``test`` are the sites to validate on.

    Raises
    ------
    ConfigError
        If the share is not between 0 and 1, or all sites are of one group.
    """
    if not 0 < share < 1:
        message = f"A validation share of {share:g} leaves nothing to learn from or to look at; choose 0.1 to 0.3."
        raise ConfigError(message)
    held = max(1, round(share * len(sites)))
    train, test = _deal(sites, [len(sites) - held, held], seed, stratify)
    return Fold(train, test)


def member_folds(sites: Sites, members: int, seed: int = 0) -> tuple[Fold, ...]:
    """Deal the sites to the members of an ensemble: each is trained without one part of them.

    The site groups are dealt into `PARTS` parts, or as many as there are members or groups; once every part has its
    member they are dealt anew, with the next seed. So every site is unseen by one member at least.

    Parameters
    ----------
    sites : Sites
    members : int
        2 or more.
    seed : int
        Of the first deal.

    Returns
    -------
    folds : tuple of Fold
        One for each member; its ``test`` are the sites the member is not trained on.

    Raises
    ------
    ConfigError
        If all sites are of one group.
    """
    parts = max(2, min(members, PARTS, len(set(sites.groups))))
    dealt = (site_folds(sites, parts, seed + number) for number in range(-(-members // parts)))
    return tuple(fold for folds in dealt for fold in folds)[:members]


def carbonbench_split(sites: Sites, by: SplitKind, seed: int = CARBONBENCH_SEED, groups: bool = True) -> Fold:
    """Split sites once into training and test by CarbonBench's rule.

    Parameters
    ----------
    sites : Sites
        Those of unknown class stand in neither part.
    by : {"igbp", "koppen"}
        Stratified by vegetation class, or by the main letter of Koeppen.
    seed : int
        The published one is 56.
    groups : bool
        Leave training sites out that are of the group of one held out: the test sites are the published ones in any
        case. False is as published.

    Returns
    -------
    fold : Fold

    Raises
    ------
    UnknownName
        If ``by`` is neither.
    ConfigError
        If the sites are too few for the rule.
    """
    if by not in _STRATA:
        error = unknown_name("split", by, _STRATA)
        raise error
    fold = published_split({site.id: kind for site in sites if (kind := _published_class(site, by))}, by, seed)
    if not groups:
        return fold
    group_of = dict(zip(sites.ids, sites.groups, strict=True))
    held = {group_of[name] for name in fold.test}
    train = tuple(name for name in fold.train if group_of[name] not in held)
    if not train:
        message = f"The {by} split of these {len(sites)} sites leaves none to train on that no test site stands beside."
        raise ConfigError(message)
    return Fold(train, fold.test)


def _published_class(site: Site, by: SplitKind) -> str | None:
    """Return the class of a site under its published name: what is drawn hangs on the order of the classes."""
    name = site.class_name(_STRATA[by])
    return name if name is None or by == "igbp" else "ABCDE"[CLIMATE_GROUPS.index(name)]


def published_split(classes: Mapping[str, str], by: SplitKind, seed: int = CARBONBENCH_SEED) -> Fold:
    """Split sites as the published code of CarbonBench does.

    Parameters
    ----------
    classes : mapping of str to str
        Class of each site, Koeppen's as the main letter; the split is made in the alphabetical order of the sites, as
        the published code does.
    by : {"igbp", "koppen"}
        With ``igbp`` half of the sites, rounded down, are drawn from each class of up to ten, and 20 % of all others,
        stratified by class; with ``koppen`` 20 % of all, stratified.
    seed : int

    Returns
    -------
    fold : Fold

    Raises
    ------
    ConfigError
        If the sites are too few for the rule.
    """
    table = pd.Series(dict(sorted(classes.items())), dtype=object)
    counts = Counter(table)
    rare = [name for name, count in counts.items() if count <= RARE] if by == "igbp" else []
    test: list[str] = []
    for name in rare:
        test += table[table == name].sample(counts[name] // 2, random_state=seed).index.tolist()
    common = table[~table.isin(rare)]
    if len(common):
        try:
            test += train_test_split(list(common.index), test_size=0.2, stratify=list(common), random_state=seed)[1]
        except ValueError as error:
            message = (
                f"{len(common)} sites cannot be split by {by} as CarbonBench does it ({error}). Give more sites, or "
                "take folds of site groups (evaluation.split: folds)."
            )
            raise ConfigError(message) from error
    if not test:
        message = f"The {by} split of {len(table)} sites holds none out; give more sites."
        raise ConfigError(message)
    held = set(test)
    return Fold(tuple(name for name in table.index if name not in held), tuple(sorted(held)))


def carbonbench_folds(
    sites: Sites, by: SplitKind, seed: int = CARBONBENCH_SEED, groups: bool = True, n_folds: int = 5
) -> tuple[Fold, ...]:
    """Return folds of the training sites of a split, by group and stratified by Koeppen's main letter.

    Parameters
    ----------
    sites : Sites
    by : {"igbp", "koppen"}
        The split whose test sites no fold sees.
    seed : int
        Of the split and of the folds.
    groups : bool
        See `carbonbench_split`.
    n_folds : int
        Number of folds, at least 2; the published number is 5.

    Returns
    -------
    folds : tuple of Fold
        For choosing hyperparameters. The published lists of sites were of an older revision, and no rule makes them.

    Raises
    ------
    UnknownName
        If ``by`` is neither.
    ConfigError
        If the sites are too few for the rule, or for the folds.
    """
    split = carbonbench_split(sites, by, seed, groups)
    return site_folds(sites.select(split.train), n_folds, seed, stratify="climate_group")


def _deal(sites: Sites, sizes: Sequence[float], seed: int, stratify: str) -> list[tuple[str, ...]]:
    """Deal the groups, largest first, into parts of about the given sizes; return the ids of each part."""
    groups = _shuffled_groups(sites, seed)
    if len(groups) < len(sizes):
        message = (
            f"{len(sites)} sites at {len(groups)} places (sites of one place are never parted) cannot be split into "
            f"{len(sizes)} parts; give sites of more places, or ask for fewer folds."
        )
        raise ConfigError(message)
    parts: list[list[Site]] = [[] for _ in sizes]
    for i, group in enumerate(groups):
        empty = [k for k, part in enumerate(parts) if not part]
        # The last groups are kept for parts that would otherwise stay empty.
        among = empty if len(empty) == len(groups) - i else range(len(sizes))
        room = _with_room(parts, sizes, among, len(group))
        best = min((_crowding(parts[k], sizes[k], group, stratify), k) for k in room)[1]
        parts[best] += group
    return [tuple(sorted(site.id for site in part)) for part in parts]


def _shuffled_groups(sites: Sites, seed: int) -> list[list[Site]]:
    """Return the sites by group, the largest group first, groups of one size in an order the seed decides."""
    groups: dict[str, list[Site]] = {}
    for site in sorted(sites, key=lambda site: site.id):
        groups.setdefault(site.group, []).append(site)
    names = np.random.default_rng(seed).permutation(sorted(groups))
    return sorted((groups[name] for name in names), key=len, reverse=True)


def _with_room(parts: list[list[Site]], sizes: Sequence[float], among: Sequence[int], n: int) -> list[int]:
    """Return the parts with room for n more sites, or else those that would overflow least."""
    excess = {k: len(parts[k]) + n - sizes[k] for k in among}
    # Whole sites do not divide evenly: first fill every part to the floor of its size, then to the ceiling.
    for allowed in (0.0, 1 - 1e-9):
        if room := [k for k, over in excess.items() if over <= allowed]:
            return room
    least = min(excess.values())
    return [k for k, over in excess.items() if over <= least]


def _crowding(part: list[Site], size: float, group: list[Site], stratify: str) -> tuple[float, float]:
    """Return how much of a group's classes, and of anything, a part holds already, per site it shall hold."""
    classes = [site.class_name(stratify) for site in part]
    alike = sum(classes.count(site.class_name(stratify)) for site in group)
    return alike / size, len(part) / size
