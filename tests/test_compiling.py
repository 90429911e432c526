"""Without numba the same maps are made, to rounding, by torch, numpy, scipy and the libraries of trees."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent
PROGRAM = TESTS / "prediction" / "bits_of_a_block.py"
KINDS = ("kgml_ag", "gru", "gru, exact", "lstm, stride", "ct_lstm", "tam_rl", "transformer", "lightgbm")
"""One for each way of predicting."""
_WITHOUT = "import sys; sys.modules['numba'] = sys.modules['llvmlite'] = None\n"
"""An import of either then fails, as where they are not installed."""
_spec = importlib.util.spec_from_file_location(PROGRAM.stem, PROGRAM)
bits = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bits)

_PREDICT = """
sys.path.insert(0, {folder!r})
import numpy as np, torch
import bits_of_a_block as bits
from fluxgrid import compiling
from fluxgrid.models import packed_product
assert not compiling.AVAILABLE and not packed_product.AVAILABLE
torch.set_num_threads(1)
for number, kind in enumerate({kinds!r}):
    predictor = bits.predictor_of(kind)
    fluxes, state = predictor.predict(bits.places_of(predictor))
    np.savez({out!r} + f"/{{number}}.npz", index=fluxes.applicability, missing=fluxes.missing, **fluxes.daily)
from fluxgrid.errors import ConfigError
from fluxgrid.upscaling.machine import ABSENT, Machine
machine = Machine.here()
assert (machine.numba, machine.products) == (ABSENT, "plain")  # another plan than with numba
try:
    bits.predictor_of("gru").checkpoint.in_precision("bf16")
except ConfigError as error:
    assert "needs numba" in str(error)
else:
    raise AssertionError
"""


def run_without_numba(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter that cannot import numba."""
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, "-c", _WITHOUT + program]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def without(tmp_path_factory) -> Path:
    """Return a folder with what an interpreter without numba predicts, kind by kind."""
    folder = tmp_path_factory.mktemp("without")
    done = run_without_numba(_PREDICT.format(folder=str(PROGRAM.parent), out=str(folder), kinds=KINDS))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(("number", "kind"), list(enumerate(KINDS)))
def test_every_model_predicts_the_same_to_rounding(without, number, kind):
    predictor = bits.predictor_of(kind)
    fluxes, _ = predictor.predict(bits.places_of(predictor))
    with np.load(without / f"{number}.npz") as found:
        np.testing.assert_array_equal(found["missing"], fluxes.missing)
        np.testing.assert_allclose(found["index"], fluxes.applicability, rtol=1e-6, atol=1e-6)
        largest = max(np.abs(values).max() for values in fluxes.daily.values())  # NEE is a difference of the others
        for name, values in fluxes.daily.items():
            assert np.abs(found[name] - values).max() < 2e-6 * largest, name  # single precision, other sums


def test_gaps_inputs_and_distances_are_right_without_numba():
    """Their own tests, which hold kernels against plain numpy, hold what stands for them too."""
    files = ("data/test_gaps.py", "data/test_input_kernels.py", "prediction/test_nearest.py")
    given = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *(str(TESTS / name) for name in files)]
    done = run_without_numba(f"import pytest; sys.exit(pytest.main({given!r}))")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_the_world_says_that_it_needs_numba(tmp_path):
    done = run_without_numba(
        f"sys.argv = ['fluxgrid', 'upscale', '--region', 'iowa', '--out', {str(tmp_path / 'map')!r}]\n"
        "from fluxgrid.cli import main\nsys.exit(main())"
    )
    assert done.returncode == 2, done.stderr
    assert "Install numba, or use data of your own" in done.stderr
    assert "Traceback" not in done.stderr
