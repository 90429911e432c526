"""The table of KGML-ag's inputs: order, uniqueness and what the standardised codes must be."""

import numpy as np

from fluxgrid.data.kgml import KGML_CROPS, KGML_FEATURES, KGML_OUTPUTS, feature_index, published_scaler


def test_order_of_the_published_inputs():
    names = [feature.name for feature in KGML_FEATURES]
    assert len(names) == len(set(names)) == 19
    assert (names[0], names[7], names[8], names[9], names[-1]) == ("RADN", "Crop_Type", "GPP", "Year", "TCEC")
    assert [output.name for output in KGML_OUTPUTS] == ["ra", "rh", "nee"]


def test_published_scalers_hang_together():
    scaler = published_scaler(KGML_FEATURES)
    assert scaler.shape == (19, 2)
    assert np.all(scaler[:, 1] > 0)
    codes = (np.array(list(KGML_CROPS.values())) - scaler[7, 0]) / scaler[7, 1]
    np.testing.assert_allclose(codes, [-1, 1], atol=1e-3)  # as the published inputs show them
    np.testing.assert_allclose(scaler[9], [np.mean(np.arange(2001, 2019)), np.std(np.arange(2001, 2019))], rtol=1e-5)
    gpp, outputs = scaler[feature_index("GPP"), 0], published_scaler(KGML_OUTPUTS)[:, 0]
    # NEE of the synthetic set is -(GPP + Ra + Rh) by definition; its scaler is of nearly the same sites
    assert abs(gpp + outputs.sum()) < 0.1
