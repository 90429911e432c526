"""Products of bfloat16 numbers: near those of single precision, said in the digest, refused where they do not apply."""

import numpy as np
import pandas as pd
import pytest
import torch

from fluxgrid.data.inputs import Places
from fluxgrid.errors import ConfigError
from fluxgrid.models import Checkpoint, load_checkpoint
from fluxgrid.models.recurrent import GRU
from fluxgrid.prediction import Predictor
from fluxgrid.variables import VARIABLES


def some_places(checkpoint, n=40, days=30):
    """Return places with plausible weather in summer."""
    rng, spec = np.random.default_rng(4), checkpoint.spec.inputs

    def values(name, *shape):
        low, high = VARIABLES[name].valid_range
        return (low + (high - low) * rng.uniform(0.4, 0.6, shape)).astype(np.float32)

    time = pd.date_range("2019-06-01", periods=days)
    forcings = {name: values(name, days, n) for name in spec.forcings}
    statics = {name: values(name, n) for name in spec.static}
    return Places(time, "daily", np.full(n, 42.0), forcings, statics, longitude=np.full(n, -93.0))


@pytest.mark.parametrize("name", ["default", "ct_gru"])
def test_fluxes_are_near_those_of_single_precision(name):
    plain, coarse = load_checkpoint(name), load_checkpoint(name, precision="bf16")
    assert plain.digest != coarse.digest
    places = some_places(plain)
    expected, found = (Predictor(each).predict(places)[0] for each in (plain, coarse))
    for flux in ("gpp", "reco", "nee"):
        scale = np.nanmax(np.abs(expected.daily[flux]))
        off = np.nanmax(np.abs(found.daily[flux] - expected.daily[flux])) / scale
        # factors have 8 bits, 0.4 %, and states hand errors on from day to day
        assert 0 < off < 5e-2
    np.testing.assert_array_equal(found.nee, found.reco - found.gpp)


def test_states_stay_single_and_gradients_exact():
    cell, x = GRU(5, 8), torch.randn(3, 7, 5)
    expected = cell(x)[0]
    cell.factors = torch.bfloat16
    torch.testing.assert_close(cell(x)[0], expected)  # with gradients nothing changes
    with torch.no_grad():
        found, last = cell.eval()(x)
    assert found.dtype == last.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=2e-2)


def test_a_model_without_such_cells_is_refused(make_spec, tmp_path):
    spec = make_spec("lstm")
    checkpoint = Checkpoint(tmp_path, spec, None, spec.build(), None, "")
    with pytest.raises(ConfigError, match="--precision bf16 is for GRUs"):
        checkpoint.in_precision("bf16")
