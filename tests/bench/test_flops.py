"""The counts of matrix work against those worked out by hand and published with the architectures."""

from __future__ import annotations

import pytest

from fluxgrid.bench.flops import cell_macs, kgml_ag_macs, work_of
from fluxgrid.bench.published import PublishedTAMRL
from fluxgrid.models.base import Sizes, model_config
from fluxgrid.models.crop_mosaic import ANNUAL, DYNAMIC, FLUXES, STATIC
from fluxgrid.models.ensemble import Ensemble
from fluxgrid.models.kgml_ag import KGMLAg

CHANNELS, COLUMNS, FLUX_COUNT = 20, 51, 3


def work(kind: str, outputs: int = FLUX_COUNT, **settings):
    return work_of(model_config(kind, settings).build(Sizes(CHANNELS, COLUMNS, outputs)))


def test_a_day_of_one_layer_with_a_head_of_one_flux():
    assert work("gru", 1, hidden=128).delivered == 113_920
    assert work("lstm", 1, hidden=128).delivered == 151_808
    assert 2 * (cell_macs(3, CHANNELS, 128, 2) + 128) == 310_528
    assert 2 * (cell_macs(4, CHANNELS, 128, 2) + 128) == 413_952


# millions of multiplications with all exact shortcuts: CarbonBench's configurations, 20 inputs, 51 static columns;
# those counts take a window's first step for one like any other, and a transformer's first layer for the window's own
@pytest.mark.parametrize(
    ("kind", "settings", "millions", "less"),
    [
        ("lstm", {"hidden": 256}, 0.283, 0),
        ("lstm", {"hidden": 128}, 0.076, 0),
        ("ct_lstm", {"hidden": 256, "layers": 2}, 0.808, 0),
        ("gru", {"hidden": 128}, 0.057, 0),
        ("gru", {"hidden": 256, "layers": 2}, 0.606, 0),
        ("ct_gru", {"hidden": 128}, 0.057, 0),
        ("lstm", {"hidden": 256, "window_mode": "exact"}, 7.886, 4 * 256**2),
        ("ct_lstm", {"hidden": 256, "layers": 2, "window_mode": "exact"}, 23.614, 2 * 4 * 256**2),
        ("gru", {"hidden": 256, "layers": 2, "window_mode": "exact"}, 17.711, 2 * 3 * 256**2),
        ("ct_gru", {"hidden": 128, "window_mode": "exact"}, 1.483, 3 * 128**2),
        ("transformer", {"hidden": 128, "window_mode": "exact"}, 7.286, (30 * 3 * 128 - 20 * 3) * 128),
        (
            "tam_rl",
            {"hidden": 128, "latent": 64, "layers": 2, "window_mode": "exact"},
            8.913,
            2 * 4 * 128**2 + 8 * 64**2,
        ),
        ("tam_rl", {"latent": 32, "layers": 1, "window_mode": "exact"}, 4.203, 4 * 128**2 + 8 * 32**2),
    ],
)
def test_exact_and_streaming_counts(kind, settings, millions, less):
    assert work(kind, **settings).delivered / 2e6 == pytest.approx(millions - less / 1e6, abs=5e-4)


def test_a_transformer_of_patches_by_hand():
    one = 128 * 128
    layer = 9 * one + 2 * 7 * 128  # output, the wide ones, attention to seven patches
    inside = 7 * layer + 7 * (3 * one + layer) + 2 * 128 * 4 * 128  # queries, keys and values of the second layer alone
    exact, stride = (work("patch_transformer", window_mode=mode).delivered / 2 for mode in ("exact", "stride"))
    assert exact == 4 * 20 * 4 * 128 + inside + 4 * 128 * 3
    assert stride == pytest.approx(4 * 20 * 4 * 128 * 7 / 15 + inside / 15 + 4 * 128 * 3)


def test_the_published_inverse_network_has_the_parts_that_nothing_hangs_on():
    network = model_config("tam_rl", {"latent": 64, "layers": 2}).build(Sizes(CHANNELS, COLUMNS, FLUX_COUNT))
    published = PublishedTAMRL(network)
    unused = (published.start, published.decoder, published.decoded, published.static_out)
    assert sum(p.numel() for part in unused for p in part.parameters()) == 121_671 - 75_456
    assert sum(p.numel() for p in network.inverse.parameters()) == 75_456


@pytest.mark.parametrize("kind", ["gru", "tam_rl", "transformer"])
def test_a_stride_of_one_day_is_exact_and_a_longer_one_less(kind):
    exact, one, many = (
        work(kind, window_mode=mode, stride=stride).delivered
        for mode, stride in (("exact", 15), ("stride", 1), ("stride", 15))
    )
    assert one == pytest.approx(exact)
    assert many < exact / 5


def test_windows_do_no_work_while_they_spin_up_and_a_state_does_all_but_the_head():
    assert work("transformer").spin_up == 0
    gru = work("gru", hidden=64)
    assert gru.delivered - gru.spin_up == 2 * 64 * FLUX_COUNT


def test_kgml_ag_as_published_and_in_the_mosaic():
    assert 2 * kgml_ag_macs(KGMLAg(64)) == pytest.approx(297e3, rel=1e-3)
    assert kgml_ag_macs(KGMLAg(64)) == 40_512 + 28_224 + 52_992 + 16_320 + 10_272 + 3 * 64
    sizes = Sizes(len(DYNAMIC), len(STATIC), len(FLUXES) + len(ANNUAL))
    found = work_of(model_config("kgml_ag", {"hidden": 64, "cover_hidden": 64}).build(sizes))
    cover = 3 * 64 * (12 + 64) + 5 * 64
    assert found.delivered == 2 * (2 * (40_512 + 28_224 + 52_992 + 10_272 + 2 * 64) + cover)


def test_members_add_up_and_trees_have_no_matrix_work():
    config = model_config("gru", {"hidden": 8})
    one = config.build(Sizes(CHANNELS, 0))
    assert work_of(Ensemble([one, config.build(Sizes(CHANNELS, 0))])).delivered == 2 * work_of(one).delivered
    assert work_of(model_config("lightgbm", {}).build(Sizes(CHANNELS, 0))) is None
