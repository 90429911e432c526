"""Synthetic sets for KGML-ag made elsewhere, from ``.npz`` or NetCDF, and the way to write one.

The layouts that are read are those of `fluxgrid.sources.kgml_layout`. Pickled files (``.sav``, ``.pt``, ``.pkl``) are
never opened, because reading one runs whatever code it holds.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from fluxgrid.data.kgml import KGML_CROPS, KGML_FEATURES, KGML_YEAR_DAYS, feature_index
from fluxgrid.errors import TableError, itemise
from fluxgrid.files import atomic_path
from fluxgrid.netcdf import open_netcdf, save_netcdf
from fluxgrid.sources.kgml_layout import OUTPUTS, Layout, known_names, layout_problems, to_layout

_NETCDF = (".nc", ".nc4", ".cdf")
_PICKLED = (".sav", ".pt", ".pth", ".pkl", ".pickle")
_WHOLE = tuple(feature_index(name) for name in ("Crop_Type", "Year"))
_DIMS = {
    "X": ("site", "day", "feature"),
    "X_scaler": ("feature", "moment"),
    "Y1": ("site", "day", "output"),
    "Y1_scaler": ("output", "moment"),
    "Y2": ("site", "year"),
    "Y2_scaler": ("annual", "moment"),
    "years": ("year",),
}


@dataclass(frozen=True, eq=False)
class KGMLSet:
    """Inputs and outputs of KGML-ag at some sites through consecutive years of 365 days."""

    features: np.ndarray
    """(sites, years, 365, 19), float32, physical units in the order of `KGML_FEATURES`."""
    ra: np.ndarray
    """(sites, years, 365), float32, g C m-2 d-1, <= 0."""
    rh: np.ndarray
    """(sites, years, 365), float32, g C m-2 d-1, <= 0."""
    nee: np.ndarray
    """(sites, years, 365), float32, g C m-2 d-1, positive to the atmosphere."""
    yield_: np.ndarray
    """(sites, years), float32, g C m-2 yr-1 in harvested grain."""
    scaler_features: np.ndarray
    """(19, 2), float64: mean and population standard deviation."""
    scaler_outputs: dict[str, tuple[float, float]]
    """Mean and population standard deviation of ``ra``, ``rh``, ``nee`` and ``yield``."""
    years: np.ndarray
    """(years,), int64: calendar years, consecutive."""
    source: str
    """Where it came from."""

    @property
    def gpp(self) -> np.ndarray:
        """Gross primary production, (sites, years, 365), g C m-2 d-1, the input of that name."""
        return self.features[..., feature_index("GPP")]


def read_kgml_set(path: Path | str) -> KGMLSet:
    """Read a synthetic set.

    Parameters
    ----------
    path : path
        ``.npz`` or NetCDF. Inputs may be standardised or physical, outputs are standardised.

    Returns
    -------
    synthetic : KGMLSet
        Scalers are those of the file; where it has none for inputs in physical units, or lays them out as the deposit
        of KGML-ag does, they are worked out from the values.

    Raises
    ------
    TableError
        If the file is pickled or cannot be read, an array is missing or has another shape, or values cannot be what
        they are said to be. The message lists every problem.

    References
    ----------
    PyKGML (github.com/DigitalAgUMN/PyKGML); Liu et al. 2024, doi:10.1038/s41467-023-43860-5.
    """
    path = Path(path)
    arrays = known_names(_load(path))
    _refuse(path, layout_problems(arrays))
    layout = to_layout(arrays)
    _refuse(path, [*_input_problems(layout.features), *_output_problems(layout)])
    return _assemble(layout, path.name)


def write_kgml_set(path: Path | str, synthetic: KGMLSet) -> Path:
    """Write a synthetic set so that `read_kgml_set` and users of PyKGML can read it.

    Parameters
    ----------
    path : path
        Ends in ``.npz`` or ``.nc``. The file appears whole or not at all.
    synthetic : KGMLSet
        What to write: ``X`` (sites, days, 19) in physical units, ``Y1`` (sites, days, 3) and ``Y2`` (sites, years)
        standardised, with their scalers.

    Returns
    -------
    path : Path

    Raises
    ------
    TableError
        If the name ends otherwise.
    OutputError
        If it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npz" and path.suffix not in _NETCDF:
        message = f"Cannot write a KGML set as {path.name}: name it .npz or .nc."
        raise TableError(message)
    arrays = _file_arrays(synthetic)
    with atomic_path(path) as temporary:
        if path.suffix == ".npz":
            np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
        else:
            variables = {name: (_DIMS[name], values) for name, values in arrays.items()}
            names = {"feature": [feature.name for feature in KGML_FEATURES], "output": list(OUTPUTS[:3])}
            attributes = {"title": "Synthetic set for KGML-ag", "source": synthetic.source}
            packed = {name: {"zlib": True, "complevel": 1} for name in ("X", "Y1")}
            save_netcdf(xr.Dataset(variables, names, attributes), temporary, encoding=packed)
    return path


def scaler_of(values: np.ndarray) -> np.ndarray:
    """Return mean and population standard deviation of the columns of an array.

    Parameters
    ----------
    values : ndarray, (..., n)
        NaN is left out.

    Returns
    -------
    scaler : ndarray, (n, 2), float64
        A column that never changes has the standard deviation 1, so that it is standardised to zero.

    Examples
    --------
    >>> scaler_of(np.array([[1.0, 5.0], [3.0, 5.0]])).tolist()
    [[2.0, 1.0], [5.0, 1.0]]
    """
    flat = np.asarray(values, np.float64).reshape(-1, values.shape[-1])
    mean, std = np.nanmean(flat, axis=0), np.nanstd(flat, axis=0)
    return np.stack([mean, np.where(std > 0, std, 1.0)], axis=1)


def _load(path: Path) -> dict[str, np.ndarray]:
    """Return every array of a file."""
    if path.suffix in _PICKLED:
        message = (
            f"{path} is a pickled file: opening it may run whatever code it holds, so fluxgrid does not. Ask its maker "
            "for .npz or NetCDF. A file of plain tensors alone can be converted without running code:\n"
            '  python -c "import sys, torch, numpy; d = torch.load(sys.argv[1], weights_only=True); '
            'numpy.savez(sys.argv[2], **{k: numpy.asarray(v) for k, v in d.items()})" IN OUT.npz\n'
            "and give the .npz."
        )
        raise TableError(message)
    if path.suffix != ".npz" and path.suffix not in _NETCDF:
        message = f"Cannot read {path} as a KGML set: give a .npz or a NetCDF file (.nc)."
        raise TableError(message)
    try:
        if path.suffix in _NETCDF:
            with open_netcdf(path, decode_times=False) as dataset:
                return {str(name): array.to_numpy() for name, array in dataset.data_vars.items()}
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        message = f"Cannot read the KGML set {path}: {error}. Give a .npz without pickled objects, or NetCDF."
        raise TableError(message) from error


def _refuse(path: Path, problems: list[str]) -> None:
    """Raise if there are problems."""
    if problems:
        raise TableError(itemise(f"The KGML set {path} cannot be used", problems))


def _input_problems(features: np.ndarray) -> Iterator[str]:
    """Yield what cannot be true of inputs (sites, days, 19)."""
    share = np.isnan(features).mean(axis=(0, 1))
    for position in np.flatnonzero(share):
        yield f"{KGML_FEATURES[position].name}: {share[position]:.2%} of the days are NaN; inputs must be complete"
    yearly = np.round(features).reshape(len(features), -1, KGML_YEAR_DAYS, features.shape[2])
    crop, year = (yearly[..., position] for position in _WHOLE)
    strange = sorted({float(code) for code in np.unique(crop[np.isfinite(crop)])} - {*KGML_CROPS.values()})
    if strange:
        known = ", ".join(f"{code:g} ({name})" for name, code in KGML_CROPS.items())
        yield f"Crop_Type: codes {', '.join(f'{code:g}' for code in strange[:5])}; known are {known}"
    if (crop != crop[:, :, :1]).any():
        yield "Crop_Type changes within a year"
    if (year != year[:1, :, :1]).any() or (np.diff(year[0, :, 0]) != 1).any():
        yield f"Year: years must be consecutive, of {KGML_YEAR_DAYS} days and the same at every site"
    gpp = _mean(features[:, :, feature_index("GPP")])
    if gpp < 0:
        yield f"GPP: the mean is {gpp:.3g} g m-2 d-1; uptake is positive here, the sign looks flipped"


def _output_problems(layout: Layout) -> Iterator[str]:
    """Yield what cannot be true of outputs."""
    values = (*(layout.daily[:, :, i] for i in range(3)), layout.grain)
    for name, each in zip(OUTPUTS, values, strict=True):
        if (share := np.isnan(each).mean()) > 0:
            yield f"{name}: {share:.2%} of the values are NaN; what a process model says must be complete"
    ra, rh, nee, grain = values
    for name, mean in (("ra", _mean(ra)), ("rh", _mean(rh))):
        if mean > 0:
            yield f"{name}: the mean is {mean:+.3g} g m-2 d-1; respiration is negative here, the sign looks flipped"
    gain = layout.features[:, :, feature_index("GPP")] + ra + rh
    if _mean(np.abs(nee + gain)) > _mean(np.abs(nee - gain)):
        yield "nee: nearer to GPP + Ra + Rh than to its negative; release is positive here, the sign looks flipped"
    if _mean(grain) < 0:
        yield f"yield: the mean is {_mean(grain):.3g} g m-2; it must be positive"


def _mean(values: np.ndarray) -> float:
    """Return the mean of what is not NaN, NaN where nothing is."""
    there = values[np.isfinite(values)]
    return float(there.mean(dtype=np.float64)) if there.size else float("nan")


def _assemble(layout: Layout, source: str) -> KGMLSet:
    """Return a sound layout as a set."""
    features, daily = layout.features, layout.daily
    features[..., list(_WHOLE)] = np.round(features[..., list(_WHOLE)])  # standardised in float32 they come back askew
    scaler = layout.scaler_features if layout.scaler_features is not None else scaler_of(features)
    outputs = layout.scaler_outputs
    if outputs is None:
        outputs = np.concatenate([scaler_of(daily), scaler_of(layout.grain[..., None])])
    sites = len(features)
    yearly = features.reshape(sites, -1, KGML_YEAR_DAYS, features.shape[2])
    ra, rh, nee = (daily[:, :, i].reshape(yearly.shape[:3]) for i in range(3))
    pairs = {name: (float(mean), float(std)) for name, (mean, std) in zip(OUTPUTS, outputs, strict=True)}
    years = yearly[0, :, 0, feature_index("Year")].astype(np.int64)
    return KGMLSet(yearly, ra, rh, nee, layout.grain, np.asarray(scaler, np.float64), pairs, years, source)


def _file_arrays(synthetic: KGMLSet) -> dict[str, np.ndarray]:
    """Return the arrays of a file."""
    sites, n = len(synthetic.features), synthetic.features.shape[-1]
    scaler = np.array([synthetic.scaler_outputs[name] for name in OUTPUTS])
    daily = np.stack([synthetic.ra, synthetic.rh, synthetic.nee], axis=-1).reshape(sites, -1, 3)
    return {
        "X": synthetic.features.reshape(sites, -1, n).astype(np.float32),
        "X_scaler": np.asarray(synthetic.scaler_features, np.float64),
        "Y1": ((daily - scaler[:3, 0]) / scaler[:3, 1]).astype(np.float32),
        "Y1_scaler": scaler[:3],
        "Y2": ((synthetic.yield_ - scaler[3, 0]) / scaler[3, 1]).astype(np.float32),
        "Y2_scaler": scaler[3:],
        "years": np.asarray(synthetic.years, np.int64),
    }
