from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from fluxgrid.data.sites import Site, Sites
from fluxgrid.data.splits import (
    PARTS,
    carbonbench_folds,
    carbonbench_split,
    member_folds,
    site_folds,
    validation_split,
)
from fluxgrid.errors import ConfigError, UnknownName


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


def classed(classes, groups=None):
    """Return sites with class positions of vegetation and climate."""
    sites = make_sites(groups or range(len(classes)))
    changed = [
        replace(site, statics={"igbp": float(kind), "climate_group": float(kind % 5)})
        for site, kind in zip(sites, classes, strict=True)
    ]
    return replace(sites, sites=tuple(changed))


def published(table, by):
    """Return the test sites by the published steps on a table with a row per site, in order of their names."""
    if by == "koppen":
        return set(train_test_split(table.site, test_size=0.2, stratify=table.Koppen, random_state=56)[1])
    counts = table.IGBP.value_counts()
    rare = counts[counts <= 10].index.tolist()
    test = set()
    for name in rare:
        test |= set(table[name == table.IGBP].sample(counts[name] // 2, random_state=56).site)
    rest = table[~table.IGBP.isin(rare)]
    return test | set(train_test_split(rest.site, test_size=0.2, stratify=rest.IGBP, random_state=56)[1])


def published_table(sites):
    return pd.DataFrame(
        {
            "site": sites.ids,
            "Koppen": ["ABCDE"[int(site.statics["climate_group"])] for site in sites],
            "IGBP": [site.class_name("igbp") for site in sites],
        }
    )


@pytest.mark.parametrize("by", ["igbp", "koppen"])
def test_the_split_of_carbonbench_draws_the_published_sites(by):
    counts = [58, 7, 4, 71, 12, 20, 95, 76, 19, 30, 12, 2, 2, 2, 56, 10]  # about those of CarbonBench
    classes = np.random.default_rng(0).permutation(np.repeat(np.arange(16), counts)).tolist()
    sites = classed([*classes, 0, 0])
    unknown = [replace(site, statics={}) for site in sites.sites[-2:]]
    sites = replace(sites, sites=(*sites.sites[:-2], *unknown))
    fold = carbonbench_split(sites, by, groups=False)
    known = sites.select(sites.ids[:-2])
    assert set(fold.test) == published(published_table(known), by)
    assert sorted((*fold.train, *fold.test)) == sorted(known.ids)
    if by == "igbp":
        # 3 + 2 + 1 + 1 + 1 + 5 of the rare classes, and a fifth of the 449 others
        assert len(fold.test) == 3 + 2 + 1 + 1 + 1 + 5 + 90 == 103
    shuffled = replace(sites, sites=sites.sites[::-1])
    assert carbonbench_split(shuffled, by, groups=False) == fold


@settings(max_examples=20)
@given(st.lists(st.integers(0, 30), min_size=60, max_size=60), st.sampled_from(["igbp", "koppen"]))
def test_our_split_has_the_published_test_sites_and_parts_no_group(groups, by):
    sites = classed([i % 4 for i in range(60)], groups)
    everything = carbonbench_split(sites, by, groups=False)
    group_of = dict(zip(sites.ids, sites.groups, strict=True))
    held = {group_of[each] for each in everything.test}
    beside = [each for each in everything.train if group_of[each] not in held]
    if not beside:
        with pytest.raises(ConfigError, match="leaves none to train on"):
            carbonbench_split(sites, by)
        return
    fold = carbonbench_split(sites, by)
    assert fold.test == everything.test
    assert list(fold.train) == beside


def test_folds_of_carbonbench_never_see_its_test_sites():
    sites = classed([i % 4 for i in range(80)], [i // 2 for i in range(80)])
    split = carbonbench_split(sites, "koppen")
    folds = carbonbench_folds(sites, "koppen")
    assert len(folds) == 5
    assert sorted(each for fold in folds for each in fold.test) == sorted(split.train)
    for fold in folds:
        assert not set(fold.train) & set(fold.test)


def test_splits_of_too_few_sites():
    with pytest.raises(ConfigError, match="cannot be split by koppen as CarbonBench does it"):
        carbonbench_split(classed([0, 0, 0, 1]), "koppen")
    with pytest.raises(ConfigError, match="holds none out"):
        carbonbench_split(classed([0, 1, 2]), "igbp")
    with pytest.raises(UnknownName, match="Did you mean 'koppen'"):
        carbonbench_split(classed([0] * 20), "kopen")
    assert len(carbonbench_split(classed([0] * 20 + [1] * 5), "igbp").test) == 4 + 2
