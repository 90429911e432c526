from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.data.sites import Site, Sites
from fluxgrid.data.splits import PARTS, member_folds, site_folds, validation_split
from fluxgrid.errors import ConfigError


def make_sites(groups, classes=None) -> Sites:
    """Return sites with the given group numbers and class positions."""
    classes = classes or [0] * len(groups)
    empty = pd.DataFrame()
    sites = [
        Site(f"S{i:03d}", 0.0, 0.0, f"G{group}", {"igbp": float(kind)}, empty)
        for i, (group, kind) in enumerate(zip(groups, classes, strict=True))
    ]
    return Sites("daily", tuple(sites), "made", "none")


group_lists = st.lists(st.integers(0, 12), min_size=2, max_size=40).filter(lambda groups: len(set(groups)) >= 2)


@given(group_lists, st.integers(2, 6), st.integers(0, 5), st.data())
def test_folds_partition_the_sites_and_part_no_group(groups, n_folds, seed, data):
    n_folds = min(n_folds, len(set(groups)))
    classes = data.draw(st.lists(st.integers(0, 3), min_size=len(groups), max_size=len(groups)))
    sites = make_sites(groups, classes)
    folds = site_folds(sites, n_folds, seed)
    assert sorted(site for fold in folds for site in fold.test) == sorted(sites.ids)
    group_of = dict(zip(sites.ids, sites.groups, strict=True))
    for fold in folds:
        assert fold.test
        assert set(fold.train) == set(sites.ids) - set(fold.test)
        assert not {group_of[each] for each in fold.train} & {group_of[each] for each in fold.test}


@given(st.lists(st.integers(0, 4), min_size=10, max_size=60), st.integers(2, 6))
def test_folds_of_single_sites_are_of_one_size(classes, n_folds):
    sizes = [len(fold.test) for fold in site_folds(make_sites(range(len(classes)), classes), n_folds)]
    assert max(sizes) - min(sizes) <= 1


def test_classes_are_spread_evenly():
    sites = make_sites(range(50), [0] * 25 + [1] * 15 + [2] * 10)
    for fold in site_folds(sites, 5):
        assert Counter(sites[each].statics["igbp"] for each in fold.test) == {0: 5, 1: 3, 2: 2}


@given(group_lists, st.randoms(use_true_random=False))
def test_folds_do_not_depend_on_the_order_of_sites(groups, random):
    sites = make_sites(groups)
    shuffled = list(sites)
    random.shuffle(shuffled)
    assert site_folds(sites, 2, 3) == site_folds(Sites("daily", tuple(shuffled), "made", "none"), 2, 3)


def test_the_seed_decides():
    sites = make_sites(range(40))
    assert site_folds(sites, 4, seed=1) == site_folds(sites, 4, seed=1)
    assert site_folds(sites, 4, seed=1) != site_folds(sites, 4, seed=2)


@given(group_lists, st.floats(0.05, 0.9))
def test_validation_holds_out_whole_groups(groups, share):
    sites = make_sites(groups)
    fold = validation_split(sites, share)
    assert fold.train
    assert fold.test
    assert sorted(fold.train + fold.test) == sorted(sites.ids)
    group_of = dict(zip(sites.ids, sites.groups, strict=True))
    assert not {group_of[each] for each in fold.train} & {group_of[each] for each in fold.test}


def test_validation_share_is_met_and_stratified():
    sites = make_sites(range(50), [0] * 30 + [1] * 20)
    fold = validation_split(sites, 0.2)
    assert Counter(sites[each].statics["igbp"] for each in fold.test) == {0: 6, 1: 4}


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ConfigError, match=r"3 sites at 2 places .* cannot be split into 3 parts"):
        site_folds(make_sites([0, 0, 1]), 3)
    with pytest.raises(ConfigError, match="1 folds cannot hold anything out"):
        site_folds(make_sites([0, 1]), 1)
    with pytest.raises(ConfigError, match="validation share of 1"):
        validation_split(make_sites([0, 1]), 1.0)
    with pytest.raises(ConfigError, match="at 1 places"):
        validation_split(make_sites([0, 0]))


def test_unknown_classes_are_a_class_of_their_own():
    sites = make_sites(range(20), [np.nan] * 10 + [1] * 10)
    for fold in site_folds(sites, 5):
        assert sum(np.isnan(sites[each].statics["igbp"]) for each in fold.test) == 2


@given(group_lists, st.integers(2, 13), st.integers(0, 3))
def test_every_site_is_unseen_by_a_member_and_no_group_is_parted(groups, members, seed):
    sites = make_sites(groups)
    folds = member_folds(sites, members, seed)
    assert len(folds) == members
    parts = min(members, PARTS, len(set(groups)))
    assert sorted(site for fold in folds[:parts] for site in fold.test) == sorted(sites.ids)
    group_of = dict(zip(sites.ids, sites.groups, strict=True))
    for fold in folds:
        assert set(fold.train) == set(sites.ids) - set(fold.test) != set()
        assert not {group_of[each] for each in fold.train} & {group_of[each] for each in fold.test}


def test_a_second_round_of_members_is_dealt_anew():
    folds = member_folds(make_sites(range(30)), 2 * PARTS)
    first, second = ({fold.test for fold in part} for part in (folds[:PARTS], folds[PARTS:]))
    assert len(first) == len(second) == PARTS
    assert not first & second


def test_one_group_makes_no_ensemble():
    with pytest.raises(ConfigError, match="cannot be split into 2 parts"):
        member_folds(make_sites([0, 0, 0]), 5)
