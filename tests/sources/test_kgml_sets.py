"""Synthetic KGML-ag sets: both layouts, both axes, both formats, and what is refused."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.data.kgml import KGML_FEATURES, KGML_OUTPUTS, feature_index, published_scaler
from fluxgrid.errors import TableError
from fluxgrid.netcdf import save_netcdf
from fluxgrid.sources.kgml_layout import OUTPUTS
from fluxgrid.sources.kgml_sets import KGMLSet, read_kgml_set, scaler_of, write_kgml_set

SCALER = published_scaler(KGML_FEATURES)
OUT_SCALER = np.concatenate([published_scaler(KGML_OUTPUTS), [[300.0, 150.0]]])


def physical(sites=3, years=2, seed=0):
    """Return inputs (sites, days, 19), daily outputs (sites, days, 3) and yields (sites, years)."""
    rng = np.random.default_rng(seed)
    days = 365 * years
    x = (SCALER[:, 0] + 0.3 * SCALER[:, 1] * rng.normal(size=(sites, days, 19))).astype(np.float32)
    x[..., 7] = np.repeat(np.where((np.arange(sites)[:, None] + np.arange(years)) % 2, 5, 1), 365, axis=1)
    x[..., 8] = np.abs(x[..., 8])
    x[..., 9] = np.repeat(2001 + np.arange(years), 365)
    x[..., 10:] = x[:, :1, 10:]
    ra, rh = -0.5 * x[..., 8], -np.abs(rng.normal(1, 0.2, (sites, days)))
    daily = np.stack([ra, rh, -(x[..., 8] + ra + rh)], axis=-1)
    return x, daily.astype(np.float32), rng.uniform(100, 500, (sites, years)).astype(np.float32)


def prepared(scaled=True, **options):
    x, daily, grain = physical(**options)
    return {
        "X": ((x - SCALER[:, 0]) / SCALER[:, 1]).astype(np.float32) if scaled else x,
        "X_scaler": SCALER,
        "Y1": ((daily - OUT_SCALER[:3, 0]) / OUT_SCALER[:3, 1]).astype(np.float32),
        "Y1_scaler": OUT_SCALER[:3],
        "Y2": ((grain - OUT_SCALER[3, 0]) / OUT_SCALER[3, 1]).astype(np.float32)[..., None],
        "Y2_scaler": OUT_SCALER[3:],
    }


def deposited():
    x, daily, grain = physical()
    weather = np.concatenate([x[..., :9], daily[..., :2], np.repeat(grain, 365, axis=1)[..., None]], axis=-1)
    weather[:, 364::365, 11] = 0.0  # ecosys clears the field on the last day
    scaler, soil = scaler_of(weather), scaler_of(x[:, 0, 10:])
    return {
        "X": ((weather - scaler[:, 0]) / scaler[:, 1]).swapaxes(0, 1),
        "X_scaler": scaler,
        "Xsp": (x[:, 0, 10:] - soil[:, 0]) / soil[:, 1],
        "Xsp_scaler": soil,
    }


def save(folder, arrays, name="set.npz"):
    path = folder / name
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        data = {key: ([f"{key}{i}" for i in range(np.ndim(value))], value) for key, value in arrays.items()}
        save_netcdf(xr.Dataset(data), path)
    return path


def check(synthetic, years=2):
    x, daily, grain = physical(years=years)
    np.testing.assert_allclose(synthetic.features.reshape(x.shape), x, rtol=1e-4, atol=1e-4)  # float32 of z-scores
    for i, name in enumerate(OUTPUTS[:3]):
        np.testing.assert_allclose(getattr(synthetic, name).reshape(daily.shape[:2]), daily[..., i], atol=2e-5)
    np.testing.assert_allclose(synthetic.yield_, grain, rtol=1e-5)
    assert set(np.unique(synthetic.features[..., 7])) == {1.0, 5.0}
    assert synthetic.years.tolist() == list(range(2001, 2001 + years))
    assert synthetic.features.dtype == synthetic.ra.dtype == np.float32


@pytest.mark.parametrize("name", ["set.npz", "set.nc"])
@pytest.mark.parametrize("scaled", [True, False])
def test_prepared_sets_are_read_standardised_or_physical(tmp_path, name, scaled):
    synthetic = read_kgml_set(save(tmp_path, prepared(scaled), name))
    check(synthetic)
    np.testing.assert_array_equal(synthetic.scaler_features, SCALER)
    assert synthetic.scaler_outputs == {n: tuple(row) for n, row in zip(OUTPUTS, OUT_SCALER.tolist(), strict=True)}
    assert synthetic.source == name


def test_days_before_sites_are_turned(tmp_path):
    arrays = prepared()
    turned = {key: arrays[key].swapaxes(0, 1) for key in ("X", "Y1", "Y2")}
    check(read_kgml_set(save(tmp_path, arrays | turned)))


def test_yield_may_be_the_fourth_output(tmp_path):
    arrays = prepared()
    grain = np.repeat(arrays.pop("Y2"), 365, axis=1)
    arrays["Y"] = np.concatenate([arrays.pop("Y1"), grain], axis=2)
    arrays["Y_scaler"] = np.concatenate([arrays.pop("Y1_scaler"), arrays.pop("Y2_scaler")])
    check(read_kgml_set(save(tmp_path, arrays)))


def test_deposited_sets_get_year_soil_and_nee(tmp_path):
    synthetic = read_kgml_set(save(tmp_path, deposited()))
    check(synthetic)
    closure = synthetic.gpp + synthetic.ra + synthetic.rh + synthetic.nee
    np.testing.assert_allclose(closure, 0, atol=1e-5)
    np.testing.assert_allclose(synthetic.scaler_features[7], [3.0, 2.0])
    np.testing.assert_allclose(synthetic.scaler_features[9], [2001.5, 0.5])
    moments = [synthetic.nee.mean(dtype=float), synthetic.nee.std(dtype=float)]
    np.testing.assert_allclose(synthetic.scaler_outputs["nee"], moments, rtol=1e-6)


@pytest.mark.parametrize("name", ["again.npz", "again.nc"])
@given(sites=st.integers(1, 3), years=st.integers(1, 3), seed=st.integers(0, 9))
def test_what_is_written_reads_the_same(tmp_path_factory, name, sites, years, seed):
    folder = tmp_path_factory.mktemp("sets")
    first = read_kgml_set(save(folder, prepared(sites=sites, years=years, seed=seed)))
    second = read_kgml_set(write_kgml_set(folder / name, first))
    np.testing.assert_array_equal(second.features, first.features)
    for field in ("ra", "rh", "nee", "yield_"):
        np.testing.assert_allclose(getattr(second, field), getattr(first, field), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(second.years, first.years)
    assert second.scaler_outputs == first.scaler_outputs
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_physical_sets_without_scaler_get_their_own(tmp_path):
    arrays = prepared(scaled=False)
    del arrays["X_scaler"]
    synthetic = read_kgml_set(save(tmp_path, arrays))
    assert isinstance(synthetic, KGMLSet)
    np.testing.assert_allclose(synthetic.scaler_features[7], [3.0, 2.0])
    arrays = prepared()
    del arrays["X_scaler"]
    with pytest.raises(TableError, match=r"standardised.*no X_scaler"):
        read_kgml_set(save(tmp_path, arrays))


@pytest.mark.parametrize("suffix", [".sav", ".pt", ".pkl"])
def test_pickles_are_refused_unopened(tmp_path, suffix):
    path = tmp_path / f"set{suffix}"  # does not even exist
    with pytest.raises(TableError, match=r"(?s)pickled.*weights_only=True.*numpy.savez.*OUT.npz") as refused:
        read_kgml_set(path)
    assert "weights_only=False" not in str(refused.value)  # what we advise must not run code either


def test_unreadable_files(tmp_path):
    np.savez(tmp_path / "objects.npz", X=np.array([{}, None], dtype=object))
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    (tmp_path / "broken.nc").write_bytes(b"nothing")
    for name in ("objects.npz", "broken.npz", "broken.nc", "none.npz"):
        with pytest.raises(TableError, match="Cannot read the KGML set"):
            read_kgml_set(tmp_path / name)
    with pytest.raises(TableError, match=r"give a .npz or a NetCDF"):
        read_kgml_set(tmp_path / "set.csv")


def test_missing_arrays_are_named_with_what_was_found(tmp_path):
    arrays = prepared()
    del arrays["Y1_scaler"], arrays["Y2"]
    with pytest.raises(TableError, match=r"no array Y1_scaler; found X \(3, 730, 19\)") as error:
        read_kgml_set(save(tmp_path, arrays))
    assert "no array Y2;" in str(error.value)


def test_every_wrong_shape_is_listed(tmp_path):
    arrays = prepared() | {"Y1_scaler": np.ones((3, 3)), "Y2": np.ones((3, 4, 1))}
    arrays["Y1"] = arrays["Y1"][:, :-1]
    with pytest.raises(TableError, match=r"Y1 has the shape \(3, 729, 3\); it must be \(3, 730, 3\)") as error:
        read_kgml_set(save(tmp_path, arrays))
    assert "Y1_scaler has" in str(error.value)
    assert "Y2 has" in str(error.value)
    with pytest.raises(TableError, match="multiple of 365"):
        read_kgml_set(save(tmp_path, prepared() | {"X": np.ones((3, 366, 19))}))


def test_every_impossible_value_is_listed(tmp_path):
    arrays = prepared(scaled=False)
    arrays["X"][0, 3, 0] = np.nan
    arrays["X"][1, 400, 7] = 2
    arrays["X"][2, 400, 9] = 2007
    arrays["X"][..., 8] *= -1
    arrays["Y1_scaler"] = -arrays["Y1_scaler"]
    arrays["Y1"][:, :200, 1] = np.nan
    arrays["Y2_scaler"] = np.array([[-300.0, 1.0]])
    with pytest.raises(TableError) as error:
        read_kgml_set(save(tmp_path, arrays))
    for part in (
        "RADN: 0.05% of the days are NaN",
        "codes 2; known are 1 (corn), 5 (soybean)",
        "Crop_Type changes within a year",
        "Year: years must be consecutive",
        "GPP: the mean is",
        "ra: the mean is +",
        "rh: the mean is +",
        "rh: 27.40% of the values are NaN; what a process model says must be complete",
        "yield: the mean is",
    ):
        assert part in str(error.value)


def test_flipped_nee_is_found(tmp_path):
    arrays = prepared()
    arrays["Y1"][..., 2] *= -1
    arrays["Y1_scaler"] = arrays["Y1_scaler"] * np.array([[1, 1], [1, 1], [-1, 1]])
    with pytest.raises(TableError, match="nee: nearer to GPP"):
        read_kgml_set(save(tmp_path, arrays))


def test_names_that_are_no_set(tmp_path):
    synthetic = read_kgml_set(save(tmp_path, prepared()))
    with pytest.raises(TableError, match=r"name it .npz or .nc"):
        write_kgml_set(tmp_path / "set.pt", synthetic)
    assert feature_index("TCEC") == 18
