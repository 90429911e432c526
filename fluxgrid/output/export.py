"""NetCDF files of several years side by side; light to import, for each process does so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from fluxgrid.errors import OutputError
from fluxgrid.geo.grid import Grid
from fluxgrid.output.info import MapInfo
from fluxgrid.output.netcdf import Compression, export_netcdf

_SMALL_BYTES = 300_000_000  # of stores: less is written here before processes have started

Export = tuple[Path, Path, slice]
"""Map store, NetCDF file and the steps of the store that it holds."""

Frame = tuple[Grid, MapInfo, np.ndarray, np.ndarray, Compression]
"""What all files of a map share: grid, what they say, share of land, of the region's land, compression."""


def export_all(exports: Sequence[Export], frame: Frame, lanes: int) -> list[Path]:
    """Export files side by side, one at a time in each process.

    Parameters
    ----------
    exports : sequence of Export
    frame : Frame
    lanes : int
        Most processes.

    Returns
    -------
    files : list of Path
        In the order of `exports`.

    Raises
    ------
    OutputError, DamagedMap
        Of the first file that failed; none is begun after that, and those begun are waited for.
    """
    processes = min(lanes, len(exports))
    if processes <= 1 or _bytes_of(exports[0][0]) * len(exports) < _SMALL_BYTES:
        return [_export(export, frame) for export in exports]
    try:
        # joblib's processes are neither forked, which would copy locks of libraries, nor do they run the user's script
        # again, which those of the standard library do
        with Parallel(n_jobs=processes, backend="loky", inner_max_num_threads=1) as run:
            return list(run(delayed(_export)(export, frame) for export in exports))
    except TerminatedWorkerError as error:
        message = "A process that was writing NetCDF died; memory may have run out."
        raise OutputError(message) from error
    finally:
        get_reusable_executor().shutdown(wait=True)


def _export(export: Export, frame: Frame) -> Path:
    """Export one file."""
    store, path, steps = export
    grid, info, land, region_land, compression = frame
    return export_netcdf(store, grid, info, path, land, steps, region_land, compression)


def _bytes_of(store: Path) -> int:
    """Return what a store takes on disk."""
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
