"""What is told of the heads that cells take."""

from __future__ import annotations

import numpy as np

from fluxgrid.prediction.blend import Blend
from fluxgrid.upscaling.heads import uncalibrated_warning


def test_cells_that_no_place_speaks_for_are_told():
    blend = Blend(np.array([[0], [-1], [-1], [0]]), np.array([[0.9], [0.0], [0.0], [1.0]]))
    wanted = np.array([[True, True], [False, True]])
    (warning,) = uncalibrated_warning(blend, wanted)
    assert warning.startswith("33% of the cells have no calibrated place")
    assert uncalibrated_warning(blend, np.array([[True, False], [False, True]])) == ()
    assert uncalibrated_warning(blend, np.zeros((2, 2), bool)) == ()
