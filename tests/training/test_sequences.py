from __future__ import annotations

from dataclasses import replace

import numpy as np

from fluxgrid.data.sites import Sites
from fluxgrid.testing import small_sites


def test_the_first_year_stands_in_front_as_spin_up(make_spec, sequences_of):
    sites = small_sites(periods=30)
    sequence = sequences_of(sites, make_spec(spin_up_years=2))[1]
    assert (sequence.site, sequence.group, sequence.spin_up) == ("T-001", "T-001", 24)
    assert sequence.dynamic.shape == (24 + 30, 4)
    np.testing.assert_array_equal(sequence.dynamic[:12], sequence.dynamic[24:36])
    np.testing.assert_array_equal(sequence.dynamic[12:24], sequence.dynamic[24:36])
    assert np.isnan(sequence.targets[:24]).all()
    observed = sites["T-001"].series
    np.testing.assert_array_equal(sequence.targets[24:], observed[["gpp", "reco", "nee"]])
    np.testing.assert_array_equal(sequence.weights[24:], observed["nee_qc"])
    assert {sequence.dynamic.dtype, sequence.static.dtype, sequence.targets.dtype} == {np.dtype("float32")}


def test_a_record_shorter_than_a_year(make_spec, sequences_of):
    sequence = sequences_of(small_sites(periods=5), make_spec())[0]
    assert sequence.spin_up == 5
    assert len(sequence.dynamic) == 10


def test_what_was_not_observed_is_not_a_target(make_spec, sequences_of):
    """A missing input empties the step's targets, an unknown quality counts in full, a missing flux is a hole."""
    sites = small_sites(n=2)
    series = sites["T-000"].series.copy()
    series.iloc[20, series.columns.get_loc("precipitation")] = np.nan  # has no gap rule
    series.iloc[21, series.columns.get_loc("temperature_2m")] = np.nan  # is filled
    series.iloc[22, series.columns.get_loc("nee_qc")] = np.nan
    series = series.drop(columns="reco")
    changed = Sites("monthly", (replace(sites["T-000"], series=series), sites["T-001"]), "made", "none")
    sequence = sequences_of(changed, make_spec())[0]
    targets = sequence.targets[12:]
    assert np.isnan(targets[20]).all()
    assert np.isfinite(targets[21, [0, 2]]).all()
    assert np.isnan(targets[:, 1]).all()
    assert sequence.weights[12 + 22] == 1
    assert np.isfinite(sequence.dynamic).all()


def test_inputs_are_scaled_to_mean_0_and_spread_1(make_spec, sequences_of):
    sequences = sequences_of(small_sites(), make_spec())
    dynamic = np.concatenate([s.dynamic[s.spin_up :] for s in sequences])
    np.testing.assert_allclose(dynamic.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(dynamic.std(axis=0), 1, rtol=1e-5)
    assert sequences[0].static[1:].tolist() == [0, 0, 0, 1, 0]  # continental
