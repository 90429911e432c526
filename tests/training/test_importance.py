from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fluxgrid.testing import small_sites
from fluxgrid.training.importance import permutation_importance


class OneInput:
    """A model whose GPP is one scaled channel and whose RECO is one static column, both squared."""

    state_size = 0

    def __init__(self, channel: int, column: int):
        self.channel, self.column = channel, column

    def predict(self, dynamic, static, state):
        gpp = dynamic[..., self.channel].square()
        reco = static[:, None, self.column].square().expand_as(gpp)
        return torch.stack([gpp, reco], dim=-1), state


def taught(sequences, model):
    """Return the sequences with the model's own fluxes as targets."""
    rows = []
    for sequence in sequences:
        fluxes, _ = model.predict(
            torch.from_numpy(sequence.dynamic[None]), torch.from_numpy(sequence.static[None]), None
        )
        gpp, reco = fluxes[0].numpy().T
        targets = np.stack([gpp, reco, reco - gpp], axis=1)
        targets[: sequence.spin_up] = np.nan
        rows.append(replace(sequence, targets=targets))
    return rows


def test_the_inputs_that_matter_are_found(make_spec, sequences_of):
    spec, model = make_spec(), OneInput(channel=1, column=0)
    sequences = taught(sequences_of(small_sites(), spec), model)
    found = permutation_importance(model, sequences, spec.inputs, window=12, seed=3)
    assert found.shape == (4 + 1 + 5,)
    assert np.flatnonzero(found).tolist() == [1, 4]  # shortwave and crop_fraction


def test_columns_of_one_class_are_shuffled_together(make_spec, sequences_of):
    """Half of the sites of another climate: each column of the class is as important as the class."""
    sites = small_sites(n=6)
    half = [replace(s, statics={**s.statics, "climate_group": float(2 + i % 2)}) for i, s in enumerate(sites)]
    spec, model = make_spec(), OneInput(channel=0, column=3)
    sequences = taught(sequences_of(replace(sites, sites=tuple(half)), spec), model)
    found = permutation_importance(model, sequences, spec.inputs, window=36, seed=1)
    assert found[4] == 0
    assert found[5] > 0
    assert (found[5:] == found[5]).all()


def test_same_seed_same_importance_and_few_windows_are_enough(make_spec, sequences_of):
    spec, model = make_spec(), OneInput(channel=2, column=0)
    sequences = taught(sequences_of(small_sites(), spec), model)
    one, two = (permutation_importance(model, sequences, spec.inputs, 12, seed=3, most=5) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert one[2] == one.max()


def test_a_model_that_uses_nothing_counts_all_alike(make_spec, sequences_of):
    spec = make_spec()
    model = OneInput(channel=0, column=0)
    sequences = taught(sequences_of(small_sites(), spec), model)
    model.predict = lambda dynamic, static, state: (torch.zeros(*dynamic.shape[:2], 2), state)
    assert permutation_importance(model, sequences, spec.inputs, 12, seed=3).tolist() == [1.0] * 10
