from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from fluxgrid.data.splits import validation_split
from fluxgrid.errors import ConfigError, TableError
from fluxgrid.models import MODELS, Checkpoint
from fluxgrid.prediction import Predictor
from fluxgrid.prediction.sites import predict_site
from fluxgrid.testing import small_sites
from fluxgrid.training.settings import FitSettings
from fluxgrid.training.train import train_model, training_domain

QUICK = FitSettings(epochs=2, batch=8, window=12, validation=0.3)
TREES = {"rounds": 15, "rows_per_leaf": 3}


def perturbed(sites, ids, factor: float = 3.0):
    """Return the sites with series and statics of some of them changed."""
    changed = [
        replace(s, series=s.series * factor, statics={**s.statics, "crop_fraction": 0.01}) if s.id in ids else s
        for s in sites
    ]
    return replace(sites, sites=tuple(changed))


def test_the_scaler_does_not_know_the_validation_sites(make_spec):
    """A leak would show: their inputs are tripled and nothing of scaler or trees' training rows moves."""
    spec, sites = make_spec("lightgbm", TREES), small_sites(n=8)
    held = validation_split(sites, QUICK.validation, QUICK.seed).test
    plain, moved = train_model(sites, spec, QUICK), train_model(perturbed(sites, held), spec, QUICK)
    assert plain.validation == moved.validation == held
    assert plain.scaler == moved.scaler
    assert plain.validation_loss != moved.validation_loss
    assert train_model(perturbed(sites, plain.sites[:1]), spec, QUICK).scaler != plain.scaler


def test_sites_that_are_not_given_cannot_leak(make_spec):
    """Folds are cut before training: the same training sites give the same model whatever the others hold."""
    spec, sites = make_spec(settings={"hidden": 4}), small_sites(n=8)
    train = sites.ids[:6]
    one = train_model(sites.select(train), spec, QUICK)
    two = train_model(perturbed(sites, sites.ids[6:]).select(train), spec, QUICK)
    assert one.scaler == two.scaler
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[name]), name


def test_trees_trained_twice_are_the_same(make_spec):
    spec, sites = make_spec("lightgbm", TREES), small_sites(n=8)
    one, two = (train_model(sites, spec, QUICK).model for _ in range(2))
    assert [b.model_to_string() for b in one.boosters] == [b.model_to_string() for b in two.boosters]


def test_trees_learn(make_spec):
    lines = []
    trained = train_model(small_sites(n=8), make_spec("lightgbm", {"rounds": 60}), QUICK, lines.append)
    assert trained.validation_loss < 0.3
    assert lines[-1].startswith("trees: ")


def test_of_several_seeds_the_best_is_kept(make_spec):
    spec, sites = make_spec(), small_sites(n=8)
    first, best = (train_model(sites, spec, replace(QUICK, members=members)) for members in (1, 3))
    assert best.validation == first.validation  # members compete on the same sites
    assert best.validation_loss <= first.validation_loss


def test_sites_without_an_input_are_left_out_and_none_left_is_an_error(make_spec):
    sites = small_sites(n=6)
    without = replace(sites.sites[2], series=sites.sites[2].series.drop(columns="shortwave"))
    unknown = replace(sites.sites[3], statics={"crop_fraction": np.nan, "climate_group": 3.0})
    some = replace(sites, sites=(*sites.sites[:2], without, unknown, *sites.sites[4:]))
    trained = train_model(some, make_spec("lightgbm", TREES), QUICK)
    assert {*trained.sites, *trained.validation} == {"T-000", "T-001", "T-004", "T-005"}
    with pytest.raises(
        TableError, match=r"all inputs of small: shortwave is lacking at 1 of 2 sites; crop_fraction.*Drop an input"
    ):
        train_model(replace(sites, sites=(without, unknown)), make_spec(), QUICK)


def test_one_group_cannot_be_split(make_spec):
    sites = small_sites(n=3)
    together = replace(sites, sites=tuple(replace(site, group="one") for site in sites))
    with pytest.raises(ConfigError, match="cannot be split"):
        train_model(together, make_spec(), QUICK)


def test_an_architecture_nobody_can_train_is_refused(make_spec, monkeypatch):
    @dataclass(frozen=True)
    class Fixed:
        """Gives zeros."""

        differentiable: ClassVar[bool] = False

        def build(self, sizes):
            return self

    monkeypatch.setitem(MODELS._things, "fixed", Fixed)
    with pytest.raises(ConfigError, match="does not know how to train the architecture 'fixed'"):
        train_model(small_sites(), make_spec("fixed", {}), QUICK)


@pytest.mark.parametrize("kind", ["ct_gru", "lightgbm"])
def test_the_domain_belongs_to_the_training_sites(make_spec, kind):
    spec = make_spec(kind, {"hidden": 4} if kind == "ct_gru" else TREES)
    sites = small_sites(n=8)
    trained = train_model(sites, spec, QUICK)
    domain = training_domain(trained, sites, spec, QUICK)
    assert domain.points.shape == (len(trained.sites) * 36, spec.sizes.dynamic + spec.sizes.static)
    assert 0 < domain.threshold < 5
    predictor = Predictor(Checkpoint(None, spec, trained.scaler, trained.model, domain, ""))
    fluxes = predict_site(predictor, sites.sites[0])
    assert np.isfinite(fluxes.to_numpy()).all()


def test_a_large_training_set_is_thinned_by_years(make_spec, monkeypatch):
    monkeypatch.setattr("fluxgrid.training.train.DOMAIN_POINTS", 100)
    spec, sites = make_spec("lightgbm", TREES), small_sites(n=8)  # 288 months
    trained = train_model(sites, spec, QUICK)
    domain = training_domain(trained, sites, spec, QUICK)
    assert len(domain.points) in (len(trained.sites) * 12, len(trained.sites) * 24)
    assert len(domain.points) <= 144
