"""Boosters of single classes, continued from those of all sites."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from fluxgrid.errors import ConfigError
from fluxgrid.testing import small_sites
from fluxgrid.training.settings import FitSettings
from fluxgrid.training.train import train_model
from fluxgrid.training.trees import fine_tuned_text, fit_trees
from fluxgrid.variables import IGBP_CLASSES

CRO, DBF, WET = (IGBP_CLASSES.index(name) for name in ("CRO", "DBF", "WET"))
KINDS = ["lightgbm", "xgboost"]
OPTIONS = {"rounds": 30, "depth": 3, "fine_tune": "igbp"}


@pytest.fixture(scope="module")
def sites():
    """Return towers of three classes; crops answer to light in the opposite way, and of wetlands there is one."""
    classes = [CRO, DBF, DBF, DBF, DBF] * 3 + [WET]
    made = []
    for site, kind in zip(small_sites(n=16), classes, strict=True):
        gpp = 15 - 0.03 * site.series["shortwave"] if kind == CRO else site.series["gpp"]
        made.append(replace(site, statics={**site.statics, "igbp": float(kind)}, series=site.series.assign(gpp=gpp)))
    return replace(small_sites(n=1), sites=tuple(made))


@pytest.fixture(scope="module")
def spec_of(make_spec):
    """Return a function that gives the spec of trees that know the class of a place."""

    def make(kind: str, **changes):
        inputs = replace(make_spec("lightgbm").inputs, classes=("climate_group", "igbp"))
        return make_spec(kind, {**OPTIONS, **changes}, inputs=inputs)

    return make


@pytest.fixture(scope="module")
def fitted(sites, spec_of, sequences_of):
    """Return a function that gives trees fitted to all but four of the towers, and two of these; fitted once each."""

    @cache
    def make(kind: str, **changes):
        spec = spec_of(kind, **changes)
        sequences = sequences_of(sites, spec)
        held = sequences[:2] + sequences[5:7]  # two crops, two forests
        trees = spec.build()
        fit_trees(trees, [s for s in sequences if s not in held], held[:2], seed=1)
        return trees, held[2:]

    return make


def predicted(trees, sequence) -> np.ndarray:
    dynamic, static = torch.from_numpy(sequence.dynamic[None]), torch.from_numpy(sequence.static[None])
    return trees.predict(dynamic, static, torch.zeros(1, 0))[0][0].numpy()


def error(trees, sequence) -> float:
    return float(np.nanmean(np.square(predicted(trees, sequence)[:, 0] - sequence.targets[:, 0])))


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_of_another_response_is_predicted_better(fitted, kind):
    tuned, (crop, forest) = fitted(kind, fine_tune_groups=1)
    base, _ = fitted(kind, fine_tune=None)
    assert error(tuned, crop) < 0.6 * error(base, crop)
    assert error(tuned, forest) < 0.8 * error(base, forest)


@pytest.mark.parametrize("kind", KINDS)
def test_places_of_no_or_too_rare_a_class_take_the_base(fitted, kind):
    tuned, (crop, _) = fitted(kind, fine_tune_groups=2)
    base, _ = fitted(kind, fine_tune=None)
    columns = tuned.sizes.classes["igbp"]
    unknown, wetland = crop.static.copy(), crop.static.copy()
    unknown[columns] = wetland[columns] = 0.0
    wetland[columns[WET]] = 1.0
    assert WET not in {kind for tuned in tuned.tuned for kind in tuned}
    for static in (unknown, wetland):
        place = replace(crop, static=static)
        np.testing.assert_array_equal(predicted(tuned, place), predicted(base, place))


@pytest.mark.parametrize("kind", KINDS)
def test_each_place_of_a_batch_gets_the_booster_of_its_class(fitted, kind):
    """The slow reference: one place at a time, one booster at a time."""
    tuned, held = fitted(kind, fine_tune_groups=1)
    places = [*held, replace(held[0], static=np.zeros_like(held[0].static))]
    together, _ = tuned.predict(
        torch.from_numpy(np.stack([s.dynamic for s in places])),
        torch.from_numpy(np.stack([s.static for s in places])),
        torch.zeros(3, 0),
    )
    for row, place, wanted in zip(together, places, (CRO, DBF, None), strict=True):
        np.testing.assert_array_equal(row.numpy(), predicted(tuned, place))
        rows = np.concatenate([place.dynamic, np.tile(place.static, (len(place.dynamic), 1))], axis=1)
        for flux in range(2):
            booster = tuned.tuned[flux].get(wanted, tuned.boosters[flux])
            np.testing.assert_allclose(row[:, flux], np.maximum(tuned.values(booster, rows), 0), rtol=1e-6)


def test_without_a_validation_site_of_the_class_few_trees_are_added(fitted):
    tuned, _ = fitted("xgboost", fine_tune_groups=1)
    assert tuned.added[0][WET] == tuned.added[1][WET] == tuned.config.fine_tune_rounds == 20
    assert tuned.added[0][CRO] > 20
    assert tuned.rounds[0] <= 30


@pytest.mark.parametrize("kind", KINDS)
def test_a_booster_that_does_no_better_at_its_validation_sites_is_not_kept(fitted, kind):
    """What the rows of the class teach goes one way, what its validation sites observed the other."""
    trees, (crop, _) = fitted(kind, fine_tune_groups=20)  # of its own: it is changed
    rows = np.concatenate([crop.dynamic, np.tile(crop.static, (len(crop.dynamic), 1))], axis=1)
    said, weight = trees.values(trees.boosters[0], rows), np.ones(len(rows))
    light = np.sign(crop.dynamic[:, 1])
    assert trees.tuned == [{}, {}]
    for sign, kept in ((1, False), (-1, True)):
        trees.tune_flux(0, CRO, (rows, said - 5 * light, weight), (rows, said + 5 * sign * light, weight), seed=1)
        assert (CRO in trees.tuned[0]) == kept


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_serves_the_same_classes(fitted, spec_of, tmp_path, kind):
    tuned, held = fitted(kind, fine_tune_groups=1)
    paths = tuned.save_weights(tmp_path)
    assert {path.name for path in paths} == {path.name for path in tmp_path.iterdir()}  # all of them are hashed
    loaded = spec_of(kind).build()
    loaded.load_weights(tmp_path)
    assert [sorted(kinds) for kinds in loaded.tuned] == [sorted(kinds) for kinds in tuned.tuned]
    assert loaded.added == tuned.added
    for place in held:
        np.testing.assert_array_equal(predicted(loaded, place), predicted(tuned, place))


def test_a_list_of_classes_that_does_not_fit_is_refused(fitted, spec_of, tmp_path):
    tuned, _ = fitted("lightgbm", fine_tune_groups=1)
    tuned.save_weights(tmp_path)
    (tmp_path / "fine_tuned.json").write_text(json.dumps([[0]]))
    with pytest.raises((ValueError, OSError)):
        spec_of("lightgbm").build().load_weights(tmp_path)


def test_the_class_must_be_among_the_inputs(make_spec):
    with pytest.raises(ConfigError, match=r"'igbp' is not a class among the inputs \(climate_group\)\. Name it"):
        make_spec("lightgbm", OPTIONS).build()


def test_training_says_which_classes_were_tuned(sites, spec_of):
    lines: list[str] = []
    spec = spec_of("xgboost", fine_tune_groups=2, rounds=8)
    settings = FitSettings(window=12, validation=0.25)
    trained = train_model(sites, spec, settings, lines.append)
    assert lines[-1] == fine_tuned_text(trained.model)
    assert lines[-1].startswith("fine-tuned by igbp: GPP CRO +")
    again = train_model(sites, spec, settings).model
    assert again.added == trained.model.added
