from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from fluxgrid.data.splits import validation_split
from fluxgrid.errors import ConfigError, TableError
from fluxgrid.models import MODELS, Checkpoint
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.prediction import Predictor
from fluxgrid.prediction.sites import predict_site
from fluxgrid.testing import small_sites
from fluxgrid.training import train as module
from fluxgrid.training.balance import Balance, Stratum
from fluxgrid.training.losses import LossSettings
from fluxgrid.training.settings import FitSettings
from fluxgrid.training.train import held_out_loss, train_model, training_domain

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
    first, best = (train_model(sites, spec, replace(QUICK, tries=tries)) for tries in (1, 3))
    assert best.validation == first.validation  # they compete on the same sites
    assert best.validation_loss <= first.validation_loss


def test_members_do_not_know_the_fluxes_of_the_part_they_are_trained_without(make_spec):
    """One epoch: there is none to choose, so not even that may hang on the part."""
    spec, sites = make_spec(settings={"hidden": 4}), small_sites(n=8)
    once = replace(QUICK, epochs=1, members=3)
    plain = train_model(sites, spec, once)
    part = plain.held_out[1]
    moved = replace(sites, sites=tuple(_richer(site) if site.id in part else site for site in sites))
    again = train_model(moved, spec, once)
    assert plain.sites == sites.ids
    assert sorted(i for held in plain.held_out for i in held) == sorted(sites.ids)
    assert plain.validation == ()
    assert plain.scaler == again.scaler
    for number in range(3):
        pairs = zip(*(t.model.members[number].state_dict().values() for t in (plain, again)), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs) == (number == 1)


def _richer(site):
    """Return a site with other fluxes."""
    return replace(site, series=site.series.assign(gpp=site.series.gpp * 3, nee=site.series.nee - site.series.gpp * 2))


@pytest.mark.parametrize(("kind", "settings"), [("lightgbm", TREES), ("ct_gru", {"hidden": 4})])
def test_members_differ_and_the_ensemble_is_their_mean(make_spec, kind, settings):
    spec, sites = make_spec(kind, settings), small_sites(n=8)
    lines = []
    trained = train_model(sites, spec, replace(QUICK, members=2), lines.append)
    fitted = [line for line in lines if not line.startswith("half-widths")]
    assert {line.split(",")[0] for line in fitted} == {"member 1/2", "member 2/2"}
    nothing = TrainingDomain.unknown(spec.sizes.dynamic + spec.sizes.static)
    members = [Predictor(Checkpoint(None, spec, trained.scaler, m, nothing, "")) for m in trained.model.members]
    first, second = (predict_site(each, sites.sites[0]) for each in members)
    both = predict_site(Predictor(Checkpoint(None, spec, trained.scaler, trained.model, nothing, "")), sites.sites[0])
    assert np.abs(first - second).to_numpy().max() > 1e-3
    np.testing.assert_allclose(both[["gpp", "reco"]], ((first + second) / 2)[["gpp", "reco"]], rtol=1e-6)
    assert (both["nee"] == both["reco"] - both["gpp"]).all()
    for flux in ("nee", "gpp", "reco"):
        spread = np.abs(first[flux] - second[flux]) / 2  # the standard deviation of two
        np.testing.assert_allclose(both[f"{flux}_spread"], spread, rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize(("kind", "members"), [("ct_gru", 1), ("lightgbm", 1), ("lightgbm", 2)])
def test_the_domain_belongs_to_the_training_sites(make_spec, kind, members):
    spec = make_spec(kind, {"hidden": 4} if kind == "ct_gru" else TREES)
    sites = small_sites(n=8)
    settings = replace(QUICK, members=members)
    trained = train_model(sites, spec, settings)
    domain = training_domain(trained, sites, spec, settings)
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


def test_an_nee_of_the_models_own_is_projected_with_the_errors_of_sites_held_back(make_spec):
    spec = make_spec(fluxes=("gpp", "reco", "nee"), closure="projected")
    trained = train_model(small_sites(n=8), spec, QUICK)
    assert trained.spec.error_variances.keys() == {"gpp", "reco", "nee"}
    assert all(value > 0 for value in trained.spec.error_variances.values())
    assert trained.model.head.scale.shape == (3,)


def test_terms_of_the_loss_change_what_is_learnt(make_spec):
    spec, sites = make_spec(fluxes=("gpp", "reco", "nee"), closure="free"), small_sites(n=8)
    arid = [replace(site, statics={**site.statics, "climate_group": 1.0}) for site in sites.sites[:3]]
    sites, few = replace(sites, sites=(*arid, *sites.sites[3:])), replace(QUICK, epochs=2)
    settings = [
        few,
        replace(few, loss=LossSettings(carbon_balance=0.0)),
        replace(few, loss=LossSettings(as_published=True)),
        replace(few, loss=LossSettings(classes=("climate_group",))),
    ]
    heads = [train_model(sites, spec, each).model.head.linear.weight for each in settings]
    assert all(not torch.equal(heads[0], other) for other in heads[1:])


def test_without_the_term_of_quality_the_balance_of_the_land_stays(make_spec, monkeypatch):
    sites, seen = small_sites(n=8), []
    arid = [replace(site, statics={**site.statics, "climate_group": 1.0}) for site in sites.sites[:4]]
    sites = replace(sites, sites=(*arid, *sites.sites[4:]))
    strata = (Stratum(("arid",), 0.9), Stratum(("continental",), 0.1))
    settings = replace(QUICK, epochs=1, balance=Balance("climate_group", strata), loss=LossSettings(quality=False))
    monkeypatch.setattr(module, "fit", lambda model, train, *_: seen.extend(train))
    train_model(sites, make_spec(), settings)
    weights = {sequence.site: np.unique(sequence.weights).tolist() for sequence in seen}
    assert all(len(values) == 1 for values in weights.values())  # whatever the quality of its days
    of_arid = {values[0] for name, values in weights.items() if name in {site.id for site in arid}}
    of_others = {values[0] for name, values in weights.items() if name not in {site.id for site in arid}}
    assert min(of_arid) > max(of_others)


def test_projected_needs_every_flux_at_sites_held_back(make_spec):
    spec, sites = make_spec(fluxes=("gpp", "reco", "nee"), closure="projected"), small_sites(n=8)
    alone = replace(sites, sites=tuple(replace(s, series=s.series.drop(columns=["gpp", "reco"])) for s in sites))
    with pytest.raises(TableError, match=r"none of these observed gpp, reco.*closure: derived"):
        train_model(alone, spec, replace(QUICK, epochs=1))


def test_several_tries_of_members_are_refused():
    with pytest.raises(ValueError, match="give tries or members"):
        replace(QUICK, members=2, tries=2)


def test_a_batch_of_one_site_is_not_normalised_over(make_spec):
    spec = make_spec("tam_rl", {"hidden": 4, "latent": 4, "window": 10, "stride": 5})
    with pytest.raises(ConfigError, match="normalises over the sites of a batch"):
        train_model(small_sites(n=6), spec, replace(QUICK, regime="meta"))


LAND = Balance("climate_group", (Stratum(("arid",), 0.8), Stratum(("continental",), 0.2)))


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"loss": LossSettings(quality=False)},
        {"loss": LossSettings(site_variance=1.0)},
        {"loss": LossSettings(classes=("climate_group",), quality=False, site_variance=0.5), "balance": LAND},
        {"balance": LAND},
    ],
)
def test_sites_held_out_are_scored_by_the_loss_that_chooses_the_epoch(make_spec, terms):
    """At the sites held back, both are one number, whatever weighs steps and sites; and each weight moves it."""
    spec, sites = make_spec(settings={"hidden": 4}), small_sites(n=8)
    other = [replace(s, statics={**s.statics, "climate_group": 1.0}) for s in sites.sites[::2]]  # arid
    quiet = replace(other[0], series=other[0].series.assign(gpp=other[0].series["gpp"] * 0.1))
    sites = replace(sites, sites=(quiet, *other[1:], *sites.sites[1::2]))
    settings = replace(QUICK, validation=0.49, **terms)
    trained = train_model(sites, spec, settings)
    assert len({sites[i].class_name("climate_group") for i in trained.validation}) == 2
    loss = held_out_loss(trained, sites, trained.validation, spec, settings)
    assert loss == pytest.approx(trained.validation_loss, rel=1e-6)
    plain = held_out_loss(trained, sites, trained.validation, spec, replace(QUICK, validation=0.49))
    assert (loss != plain) == bool(terms)
