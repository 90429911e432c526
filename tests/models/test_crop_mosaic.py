"""The mosaic: which run grows which crop when, what of a cell adds up, and what its options change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fluxgrid.data.crop_inputs import CROP_TYPE, GPP, crop_features
from fluxgrid.models import Sizes, model_config, zero_state
from fluxgrid.models.crop_mosaic import (
    ANNUAL,
    COVER_STATICS,
    DYNAMIC,
    FLUXES,
    OTHER_COVER,
    PARTS,
    STATIC,
    CropMosaic,
)
from fluxgrid.models.network import Beside, read_nothing

BATCH = 4
COVERS = ("corn", "soybean", "other")


@pytest.fixture
def make_mosaic(make_spec, ready):
    """Return a function that builds a small one with some options."""

    def make(**options) -> CropMosaic:
        return ready(make_spec("kgml_ag", {"hidden": 8, "cover_hidden": 8} | options)).eval()

    return make


@pytest.fixture
def mosaic(make_mosaic) -> CropMosaic:
    return make_mosaic()


@pytest.fixture
def make_inputs(make_spec, set_calendar):
    """Return a function that makes scaled inputs of consecutive days."""

    def make(start: str, days: int) -> tuple[torch.Tensor, torch.Tensor]:
        random = torch.Generator().manual_seed(6)
        dynamic = torch.randn(BATCH, days, len(DYNAMIC), generator=random)
        return set_calendar(make_spec("kgml_ag"), dynamic, start), torch.randn(BATCH, len(STATIC), generator=random)

    return make


def physical(mosaic: CropMosaic, dynamic: torch.Tensor, static: torch.Tensor) -> tuple[dict, dict]:
    """Return the inputs by name in their units: (B, T) and (B,)."""
    days = (dynamic * mosaic.dynamic_scale[1] + mosaic.dynamic_scale[0]).numpy()
    soil = (static * mosaic.static_scale[1] + mosaic.static_scale[0]).numpy()
    return {n: days[..., i] for i, n in enumerate(DYNAMIC)}, {n: soil[:, i] for i, n in enumerate(STATIC)}


@torch.no_grad()
def parts_of(mosaic: CropMosaic, dynamic: torch.Tensor, static: torch.Tensor, state: torch.Tensor):
    """Return the components, the context and the taps of a run."""
    taps = mosaic.run(dynamic, static, state)
    return mosaic.components(mosaic.raw(taps.hidden), taps.context), taps.context, taps


@torch.no_grad()
def test_each_rotation_is_kgml_ag_with_corn_in_its_years(mosaic, make_inputs):
    """Two years by hand: 2003 is odd, 2004 even and a leap year; the first rotation has corn in 2003."""
    dynamic, static = make_inputs("2003-01-01", 365 + 366)
    found, _, taps = parts_of(mosaic, dynamic, static, zero_state(mosaic, BATCH))
    days, soil = physical(mosaic, dynamic, static)
    years = {2003: slice(0, 365), 2004: slice(365, 731)}
    expected = {}
    for rotation, crops in enumerate((("corn", "soybean"), ("soybean", "corn"))):
        state = torch.zeros(BATCH, mosaic.crop.state_size)
        for (year, steps), crop in zip(years.items(), crops, strict=True):
            code = np.full((BATCH, steps.stop - steps.start), {"corn": 1.0, "soybean": 5.0}[crop], np.float32)
            gpp = found[f"gpp_{crop}"][:, steps].numpy()
            features = crop_features({n: v[:, steps] for n, v in days.items()}, soil, code, gpp)
            result = mosaic.crop(mosaic.crop.scale(torch.from_numpy(features)), state)
            state = result.state
            for name, z in (("ra", result.ra), ("rh", result.rh)):
                expected[year, crop, name] = torch.relu(-mosaic.crop.physical(name, z))
            expected[year, crop, "yield"] = torch.relu(mosaic.crop.physical("yield", result.grain))
        own = taps.state.split([8, mosaic.crop.state_size, mosaic.crop.state_size], dim=1)[1 + rotation]
        mine, theirs = mosaic.crop.split(own), mosaic.crop.split(state)
        for name in ("basis", "ra", "rh"):  # the mosaic leaves the diagnostic NEE out
            torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=2e-5)
    # inputs are unscaled and scaled again in float32, 1e-6 of a z-score, and run through two years of gates
    close = {"rtol": 1e-4, "atol": 1e-4}
    for (year, crop, name), values in expected.items():
        mine = found[f"{name}_{crop}"][:, years[year]]
        torch.testing.assert_close(mine, values[:, None].expand_as(mine) if name == "yield" else values, **close)


def flat_context(odd: float, batch: int = 2, steps: int = 3) -> dict[str, torch.Tensor]:
    one = torch.ones(batch, steps)
    shares = {"corn": 0.4 * one, "soybean": 0.3 * one, "other": 0.2 * one}
    return {**shares, "odd": odd * one, "satellite": 7.0 * one, "grain": torch.zeros(batch, 2, steps)}


@pytest.mark.parametrize(("odd", "corn", "soybean"), [(1.0, 0, 1), (0.0, 1, 0)])
def test_corn_is_that_of_the_run_which_grows_it(mosaic, odd, corn, soybean):
    raw = {"cover": torch.zeros(2, 1, 3, len(PARTS))}
    for name in ("ra", "rh"):
        runs = torch.tensor([-3.0, -5.0])[None, :, None, None].expand(2, 2, 3, 1)  # z-scores, native signs
        raw[name] = runs
    part = mosaic.components(raw, flat_context(odd))
    for name in ("ra", "rh"):
        values = [float(torch.relu(-mosaic.crop.physical(name, torch.tensor(z)))) for z in (-3.0, -5.0)]
        assert float(part[f"{name}_corn"][0, 0]) == pytest.approx(values[corn])
        assert float(part[f"{name}_soybean"][0, 0]) == pytest.approx(values[soybean])


share = st.floats(0, 1, width=32)


@given(st.lists(share, min_size=6, max_size=6), st.booleans(), st.integers(0, 99))
def test_a_cell_is_the_sum_of_its_covers_by_their_shares(shares, odd, seed):
    """The shares of corn, soybean and the rest never exceed what there is, and the rest is what the others leave."""
    torch.manual_seed(seed)
    mosaic = model_config("kgml_ag", {"hidden": 2, "cover_hidden": 2}).build(
        Sizes(len(DYNAMIC), len(STATIC), len(FLUXES) + len(ANNUAL))
    )
    corn, soybean = shares[0], shares[1] * (1 - shares[0])
    days, soil = torch.zeros(1, 2, len(DYNAMIC)), torch.zeros(1, len(STATIC))
    for name, value in (("corn_fraction", corn), ("soybean_fraction", soybean), ("calendar_year", 2000.0 + odd)):
        days[..., DYNAMIC.index(name)] = value
    for name, value in zip(OTHER_COVER, shares[2:], strict=True):
        soil[:, STATIC.index(name)] = value
    context = mosaic._context(days, soil)
    other = min(sum(shares[2:]), 1 - corn - soybean)
    weight = {name: float(context[name][0, 0]) for name in COVERS}
    assert weight == pytest.approx({"corn": corn, "soybean": soybean, "other": other}, abs=1e-6)
    assert sum(weight.values()) <= 1 + 1e-6
    assert float(context["odd"][0, 0]) == float(odd)
    context["grain"] = 3 * torch.randn(1, 2, 2)
    raw = {"cover": torch.randn(1, 1, 2, len(PARTS)), "ra": torch.randn(1, 2, 2, 1), "rh": torch.randn(1, 2, 2, 1)}
    with torch.no_grad():
        part, cell = mosaic.components(raw, context), mosaic.finish(raw, context)
    assert all((values >= 0).all() for values in part.values())
    for i, flux in enumerate(FLUXES):
        total = sum(weight[cover] * part[f"{flux}_{cover}"] for cover in COVERS)
        torch.testing.assert_close(cell[..., i], total, rtol=1e-5, atol=1e-6)
    annual = dict(zip(ANNUAL, cell[..., len(FLUXES) :].unbind(-1), strict=True))
    assert torch.equal(annual["corn_yield"], part["yield_corn"])
    assert torch.equal(annual["soybean_yield"], part["yield_soybean"])
    harvest = weight["corn"] * part["yield_corn"] + weight["soybean"] * part["yield_soybean"]
    torch.testing.assert_close(annual["harvest_removal"], harvest, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "expected"),
    [((0.9, 0.6), (0.6, 0.4)), ((1.2, 1.0), (0.5, 0.5)), ((0.7, 0.3), (0.7, 0.3)), ((0.5, 0.2), (0.5, 0.2))],
)
def test_crops_that_claim_more_than_a_cell_share_it(mosaic, given, expected):
    days, soil = torch.zeros(1, 1, len(DYNAMIC)), torch.zeros(1, len(STATIC))
    for name, value in zip(("corn_fraction", "soybean_fraction"), given, strict=True):
        days[..., DYNAMIC.index(name)] = value
    soil[:, STATIC.index("grass_fraction")] = 0.4
    context = mosaic._context(days, soil)
    found = [float(context[name]) for name in COVERS]
    # float32
    assert found == pytest.approx([*expected, min(0.4, 1 - sum(expected))], abs=1e-6)


def test_shares_beyond_0_and_1_count_as_these(mosaic):
    days, soil = torch.zeros(1, 1, len(DYNAMIC)), torch.zeros(1, len(STATIC))
    days[..., DYNAMIC.index("corn_fraction")] = 1.05
    days[..., DYNAMIC.index("soybean_fraction")] = -0.05
    soil[:, STATIC.index("grass_fraction")] = 0.4
    context = mosaic._context(days, soil)
    assert [float(context[name]) for name in COVERS] == [1.0, 0.0, 0.0]


@torch.no_grad()
def test_yield_is_one_number_of_a_calendar_year(mosaic, make_inputs):
    dynamic, static = make_inputs("2003-12-20", 30)
    fluxes, _ = mosaic.predict(dynamic, static, zero_state(mosaic, BATCH))
    grain = fluxes[..., len(FLUXES) : len(FLUXES) + 2]
    assert torch.equal(grain[:, :12], grain[:, :1].expand(-1, 12, -1))
    assert torch.equal(grain[:, 12:], grain[:, 12:13].expand(-1, 18, -1))
    assert not torch.allclose(grain[:, 0], grain[:, 29])


@torch.no_grad()
def test_a_run_cut_at_the_end_of_a_year_is_one_run(mosaic, make_inputs):
    dynamic, static = make_inputs("2003-01-01", 365 + 366)
    whole, end = mosaic.predict(dynamic, static, zero_state(mosaic, BATCH))
    early, between = mosaic.predict(dynamic[:, :365], static, zero_state(mosaic, BATCH))
    late, last = mosaic.predict(dynamic[:, 365:], static, between)
    # the same products over another number of rows; yields are hundreds of g m-2
    torch.testing.assert_close(torch.cat([early, late], dim=1), whole, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(last, end, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_year_cut_short_is_the_same_before_the_residue(mosaic, make_inputs):
    dynamic, static = make_inputs("2004-01-01", 366)
    whole, _ = mosaic.predict(dynamic, static, zero_state(mosaic, BATCH))
    for days in (100, 298, 330):
        part, _ = mosaic.predict(dynamic[:, :days], static, zero_state(mosaic, BATCH))
        known = min(days, 298)
        torch.testing.assert_close(part[:, :known, :3], whole[:, :known, :3], rtol=1e-5, atol=1e-5)
    assert (part[:, 298:, 2] - whole[:, 298:330, 2]).abs().max() > 1e-3
    # GPP never hangs on what is to come; the products of all days have other numbers of rows and may round otherwise
    torch.testing.assert_close(part[..., 0], whole[:, :330, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("days", [334, 320, 299, 298])
def test_a_block_cut_short_is_the_same_bits_before_the_residue(make_mosaic, make_spec, set_calendar, days):
    """As a map runs it: 256 rows, one thread; products of other numbers of rows must not round otherwise."""
    mosaic = make_mosaic(cover_hidden=8 if days % 2 else 64)
    random = torch.Generator().manual_seed(1)
    dynamic = set_calendar(make_spec("kgml_ag"), torch.randn(256, 365, len(DYNAMIC), generator=random), "2019-01-01")
    static, state = torch.randn(256, len(STATIC), generator=random), zero_state(mosaic, 256)
    whole, _ = mosaic.predict(dynamic, static, state)
    part, _ = mosaic.predict(dynamic[:, :days].contiguous(), static, state)
    assert torch.equal(part[:, :298, : len(FLUXES)], whole[:, :298, : len(FLUXES)])


@torch.no_grad()
@pytest.mark.parametrize(("start", "step"), [("2003-10-01", 25), ("2004-10-01", 24), ("2003-10-27", 0)])
def test_the_residue_enters_on_its_days_also_where_a_record_begins_in_a_year(mosaic, make_inputs, start, step):
    """Day 298 from 0 is 26 October, in a leap year the 25th; another scale of the residue is first seen there."""
    dynamic, static = make_inputs(start, 60)
    one, _ = mosaic.predict(dynamic, static, zero_state(mosaic, BATCH))
    mosaic.crop.residue[0] += 500.0
    other, _ = mosaic.predict(dynamic, static, zero_state(mosaic, BATCH))
    differ = torch.nonzero((one[..., 2] != other[..., 2]).any(dim=0)).flatten().tolist()
    assert differ[0] == step
    assert torch.equal(one[..., :2], other[..., :2])


@torch.no_grad()
def test_crops_take_up_what_the_satellite_saw(make_mosaic, make_inputs):
    mosaic = make_mosaic(gpp="satellite")
    dynamic, static = make_inputs("2003-06-01", 20)
    part, context, _ = parts_of(mosaic, dynamic, static, zero_state(mosaic, BATCH))
    days, _ = physical(mosaic, dynamic, static)
    seen = np.maximum(days["gpp_satellite"], 0)
    for crop in ("corn", "soybean"):
        np.testing.assert_allclose(part[f"gpp_{crop}"], seen, rtol=1e-6)
    fluxes, _ = mosaic.predict(dynamic, static, zero_state(mosaic, BATCH))
    expected = (context["corn"] + context["soybean"]) * part["gpp_corn"] + context["other"] * part["gpp_other"]
    torch.testing.assert_close(fluxes[..., 0], expected, rtol=1e-5, atol=1e-6)
    # and it is what KGML-ag reads: another GPP, another respiration
    more = dynamic.clone()
    more[:, 5:, DYNAMIC.index("gpp_satellite")] += 1.0
    other, _, _ = parts_of(mosaic, more, static, zero_state(mosaic, BATCH))
    assert torch.equal(other["ra_corn"][:, :5], part["ra_corn"][:, :5])
    assert not torch.allclose(other["ra_corn"][:, 5:], part["ra_corn"][:, 5:])


@torch.no_grad()
def test_kgml_ag_reads_the_gpp_that_the_cell_is_said_to_take_up(mosaic, make_inputs, monkeypatch):
    dynamic, static = make_inputs("2003-06-01", 20)
    seen = {}
    scale = mosaic.crop.scale

    def listen(values, *which):
        if which:
            seen[which[0]] = values
        return scale(values, *which)

    monkeypatch.setattr(mosaic.crop, "scale", listen)
    part, _, _ = parts_of(mosaic, dynamic, static, zero_state(mosaic, BATCH))
    assert set(seen) == {GPP, CROP_TYPE}
    for number, (crop, code) in enumerate((("corn", 1.0), ("soybean", 5.0))):  # 2003 is odd
        assert torch.equal(seen[GPP][:, number], part[f"gpp_{crop}"])
        assert (seen[CROP_TYPE][:, number] == code).all()


@torch.no_grad()
def test_without_a_model_for_other_cover_such_cells_have_no_value(make_mosaic, make_inputs, crop_moments):
    mosaic, plain = make_mosaic(other="none"), make_mosaic()
    dynamic, static = make_inputs("2003-06-01", 5)
    static = torch.zeros_like(static)
    dynamic[..., [DYNAMIC.index("corn_fraction"), DYNAMIC.index("soybean_fraction")]] = 0.0
    for name in OTHER_COVER:
        mean, std = crop_moments[name]
        share = torch.tensor([0.0, 0.0049, 0.0051, 0.05])  # four covers: 0, 1.96, 2.04 and 20 %
        static[:, STATIC.index(name)] = (share - mean) / std
    fluxes, state = mosaic.predict(dynamic, static, zero_state(mosaic, BATCH))
    assert torch.isfinite(fluxes[:2]).all()
    assert fluxes[2:].isnan().all()
    assert torch.isfinite(state).all()
    assert torch.equal(fluxes[0], plain.predict(dynamic, static, zero_state(plain, BATCH))[0][0])


@torch.no_grad()
def test_without_a_model_for_other_cover_a_cell_is_its_crops(make_mosaic, make_inputs, crop_moments):
    mosaic, plain = make_mosaic(other="none"), make_mosaic()
    dynamic, static = make_inputs("2003-06-01", 5)
    static = torch.zeros_like(static)
    for name in OTHER_COVER:
        mean, std = crop_moments[name]
        static[:, STATIC.index(name)] = (0.0049 - mean) / std
    fluxes, _ = mosaic.predict(dynamic, static, zero_state(mosaic, BATCH))
    part, context, _ = parts_of(plain, dynamic, static, zero_state(plain, BATCH))
    assert (context["other"] > 0.01).any()
    for i, flux in enumerate(FLUXES):
        expected = context["corn"] * part[f"{flux}_corn"] + context["soybean"] * part[f"{flux}_soybean"]
        torch.testing.assert_close(fluxes[..., i], expected, rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_as_published_the_last_day_of_leap_years_has_no_value_and_leaves_no_trace(make_mosaic, make_inputs):
    mosaic, plain = make_mosaic(leap_day="none"), make_mosaic()
    dynamic, static = make_inputs("2004-01-01", 366 + 40)
    fluxes, _ = mosaic.predict(dynamic, static, zero_state(mosaic, BATCH))
    lost = torch.arange(406) == 365
    assert torch.equal(fluxes[..., 1:3].isnan(), lost[None, :, None].expand(BATCH, -1, 2))
    assert torch.isfinite(fluxes[..., [0, 3, 4, 5]]).all()
    early, between = plain.predict(dynamic[:, :365], static, zero_state(plain, BATCH))
    torch.testing.assert_close(fluxes[:, :365], early, rtol=1e-5, atol=1e-4)
    _, left = mosaic.predict(dynamic[:, :366], static, zero_state(mosaic, BATCH))
    crops = slice(mosaic.cover.hidden_size, None)  # other cover runs on
    torch.testing.assert_close(left[:, crops], between[:, crops], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_record_may_begin_on_the_day_left_out(make_mosaic, make_inputs):
    mosaic = make_mosaic(leap_day="none")
    dynamic, static = make_inputs("2004-12-31", 20)
    fluxes, _ = mosaic.predict(dynamic, static, zero_state(mosaic, BATCH))
    assert fluxes[:, 0, 1:3].isnan().all()
    assert torch.isfinite(fluxes[:, 1:]).all()
    _, one = mosaic.predict(dynamic[:, :1], static, zero_state(mosaic, BATCH))
    assert not one[:, mosaic.cover.hidden_size :].any()


def test_the_day_left_out_does_not_reach_gradients(make_mosaic, make_inputs):
    mosaic = make_mosaic(leap_day="none")
    dynamic, static = make_inputs("2004-12-28", 10)
    mosaic(dynamic, static, zero_state(mosaic, BATCH))[0].nan_to_num().sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in mosaic.parameters() if value.grad is not None)
    assert mosaic.crop.ra_head.weight.grad.any()


@torch.inference_mode()
@pytest.mark.parametrize("leap_day", ["run", "none"])
@pytest.mark.parametrize("start", ["2003-11-01", "2004-12-31"])
def test_what_is_read_on_the_way_is_what_is_read_of_states_that_are_kept(make_mosaic, make_inputs, leap_day, start):
    """Over the end of a year, from before it and from the last day of a leap year; compiled, and as torch does it."""
    mosaic = make_mosaic(leap_day=leap_day)
    dynamic, static = make_inputs(start, 450)
    state = 0.1 * torch.randn(BATCH, mosaic.state_size, generator=torch.Generator().manual_seed(1))
    kept = mosaic.run(dynamic, static, state)
    fluxes, last = mosaic.predict(dynamic, static, state)
    assert torch.equal(mosaic.advance(dynamic, static, state), last)
    # products over all days and over some of them may differ in their last bits
    torch.testing.assert_close(last, kept.state, rtol=0, atol=2e-6)
    expected = mosaic.finish(mosaic.raw(kept.hidden), kept.context)
    torch.testing.assert_close(fluxes, expected, rtol=2e-5, atol=2e-5, equal_nan=True)
    exact = mosaic.double()
    given = dynamic.double(), static.double(), state.double()
    kept, (fluxes, last) = exact.run(*given), exact.predict(*given)
    torch.testing.assert_close(last, kept.state, rtol=0, atol=1e-12)
    expected = exact.finish(exact.raw(kept.hidden), kept.context)
    torch.testing.assert_close(fluxes, expected, rtol=1e-9, atol=1e-9, equal_nan=True)


@torch.inference_mode()
@pytest.mark.parametrize("more", [lambda hidden: hidden, nn.Linear(8, 33), read_nothing])
def test_other_reads_change_no_bit_of_what_the_network_reads(mosaic, make_inputs, more):
    """A blend of no weight is the global model to the last bit: what stands beside a readout must not move it."""
    dynamic, static = make_inputs("2003-09-01", 100)
    state = zero_state(mosaic, BATCH)

    alone = mosaic.run_read(dynamic, static, state, mosaic.readouts)
    reads = {name: Beside(linear, more) for name, linear in mosaic.readouts.items()}
    beside = mosaic.run_read(dynamic, static, state, reads)
    assert torch.equal(alone.state, beside.state)
    for name, raw in alone.hidden.items():
        assert torch.equal(beside.hidden[name][..., : raw.shape[-1]], raw)


def test_reads_without_what_it_reads_itself_are_refused(mosaic, make_inputs):
    dynamic, static = make_inputs("2003-09-01", 3)
    for wrong in (read_nothing, nn.Linear(8, 5), Beside(nn.Linear(8, 5), read_nothing)):
        with pytest.raises(ValueError, match=r"What is read of 'cover' must be its readout, or `Beside` it"):
            mosaic.run_read(dynamic, static, zero_state(mosaic, BATCH), mosaic.readouts | {"cover": wrong})


def test_inputs_of_another_order_are_refused():
    config = model_config("kgml_ag", {})
    with pytest.raises(ValueError, match=r"kgml_ag reads dynamic temperature_2m, tmin.* and static crop_fraction"):
        config.build(Sizes(4, 3, 6))
    with pytest.raises(ValueError, match="in this order"):
        config.build(Sizes(len(DYNAMIC), len(STATIC), 2))


def test_its_inputs_are_named_once(make_spec):
    assert make_spec("kgml_ag", {}).inputs.dynamic == DYNAMIC
    assert len(set(DYNAMIC)) == len(DYNAMIC)
    assert len(set(STATIC)) == len(STATIC)
    assert STATIC[: len(COVER_STATICS)] == COVER_STATICS
    assert set(OTHER_COVER) < set(COVER_STATICS)
