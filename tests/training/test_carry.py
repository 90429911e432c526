"""How far heads carry: means over years by hand, and places left out together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fluxgrid.models import Sizes, model_config
from fluxgrid.models.calibration import Heads
from fluxgrid.models.places import CalibratedPlaces
from fluxgrid.prediction.bandwidth import BandwidthGrid, PlaceErrors
from fluxgrid.training import carry
from fluxgrid.training.calibrate import Evidence, outputs_of, pass_backbone

OUTPUTS, PLACES, DAYS = ("gpp", "reco"), 5, 40
YEARS = np.repeat([0, 1], 20)
GRID = BandwidthGrid((50.0, 200.0, 800.0), (4.0,), (0.05, 1.0), (2,))


def places(latitude: np.ndarray) -> CalibratedPlaces:
    names = tuple(f"p{i}" for i in range(PLACES))
    climate = np.zeros((PLACES, 1))
    return CalibratedPlaces(names, latitude, np.full(PLACES, -90.0), climate, ("vpd",), np.ones(1), ("",) * PLACES)


@pytest.fixture
def case():
    """Return heads of five places and a pass at eight rows of theirs, some days not observed."""
    torch.manual_seed(2)
    network = model_config("ct_gru", {"hidden": 6, "dropout": 0.0}).build(Sizes(3, 2, 2)).eval()
    network.set_scale(torch.tensor([5.0, 3.0]))
    heads = Heads(network, "affine", PLACES)
    with torch.no_grad():
        for value in heads.phi.values():
            value.normal_(0.0, 0.4)
    random = torch.Generator().manual_seed(3)
    place = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    fluxes = {name: 4 * torch.rand(8, DAYS, generator=random) for name in OUTPUTS}
    fluxes["gpp"][1, :7] = torch.nan
    fluxes["reco"][3, 20:] = torch.nan
    rows = torch.randn(8, DAYS, 3, generator=random), torch.randn(8, 2, generator=random)
    return heads, pass_backbone(network, Evidence(*rows, fluxes, place, (slice(0, 20), slice(20, 40))), 1, 1)


def caught(monkeypatch, heads, passed) -> dict:
    """Return what the choice of a bandwidth is given."""
    seen = {}

    def choose(places, errors, grid):
        seen.update(errors=errors, grid=grid, places=places)
        return None, None

    monkeypatch.setattr(carry, "choose_bandwidth", choose)
    where = places(np.linspace(38, 46, PLACES))
    carry.bandwidth_of(heads, OUTPUTS, passed, where, GRID)
    return seen


def yearly(values: np.ndarray) -> np.ndarray:
    """Return the mean of each year, (rows, 2), NaN where no day is known."""
    parts = [values[:, :20], values[:, 20:]]
    return np.stack([np.ma.masked_invalid(part).mean(axis=1).filled(np.nan) for part in parts], axis=1)


@torch.no_grad()
def test_errors_are_those_of_yearly_means(case, monkeypatch):
    heads, passed = case
    seen = caught(monkeypatch, heads, passed)
    known = {**passed.fluxes, "nee": passed.fluxes["reco"] - passed.fluxes["gpp"]}
    who = [None, *range(PLACES)]
    said = []
    for head in who:
        place = passed.place if head is None else torch.full_like(passed.place, head)
        out = outputs_of(heads.network, None if head is None else heads, passed, place)
        said.append({"gpp": out[..., 0], "reco": out[..., 1], "nee": out[..., 1] - out[..., 0]})
    truth, means = {}, [{} for _ in who]
    for name, values in known.items():
        rows = yearly(values.numpy())
        spread = np.nanstd(rows, ddof=1)
        truth[name] = rows / spread
        for head, row in zip(said, means, strict=True):
            # days that nobody observed count in neither mean
            row[name] = yearly(torch.where(torch.isfinite(values), head[name], torch.nan).numpy()) / spread
    stacks = [np.stack([row[name] for name in ("gpp", "reco", "nee")], axis=1) for row in (truth, *means)]
    own = [(passed.place == place).numpy() for place in range(PLACES)]
    expected = PlaceErrors.from_outputs(
        [stacks[1][rows].ravel() for rows in own],
        [np.stack([head[rows].ravel() for head in stacks[2:]]) for rows in own],
        [stacks[0][rows].ravel() for rows in own],
    )
    for name in ("base", "cross", "gram"):
        np.testing.assert_allclose(getattr(seen["errors"], name), getattr(expected, name), rtol=1e-3, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("alike", [True, False])
def test_heads_of_like_neighbours_carry_and_those_of_unlike_ones_do_not(case, alike):
    """The truth of each place is that of its own head; two clusters of places, alike inside or of opposite signs."""
    heads, passed = case
    where = places(np.array([38.0, 38.2, 38.4, 45.0, 45.2]))
    sign = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0] if alike else [1.0, -1.0, 1.0, -1.0, 1.0])
    for name, value in heads.phi.items():
        value.copy_(0.3 * sign[:, None] if name.endswith("_c") else torch.zeros_like(value))
    truth = outputs_of(heads.network, heads, passed)
    passed.fluxes.update({name: truth[..., i] for i, name in enumerate(OUTPUTS)})
    bandwidth, table = carry.bandwidth_of(heads, OUTPUTS, passed, where, GRID)
    assert len(table) == 6
    best = table[table["chosen"]]
    assert len(best) == 1
    assert float(best["relative"].iloc[0]) == pytest.approx(table["relative"].min())
    if alike:
        assert bandwidth.ground_km < 800
        assert bandwidth.shrink == 0.05
        assert float(best["relative"].iloc[0]) < 0.2
    else:
        assert float(best["relative"].iloc[0]) > 0.8
