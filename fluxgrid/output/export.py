"""NetCDF files of several years side by side; light to import, for each process does so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from fluxgrid.errors import OutputError
from fluxgrid.geo.grid import Grid
from fluxgrid.output.info import MapInfo
from fluxgrid.output.netcdf import Compression, export_netcdf

_SMALL_BYTES = 300_000_000  # of stores: less is written here before processes have started

_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}

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
        Of the first file that failed, when all others are finished too.
    """
    processes = min(lanes, len(exports))
    if processes <= 1 or _bytes_of(exports[0][0]) * len(exports) < _SMALL_BYTES:
        return [_export(export, frame) for export in exports]
    # joblib's processes are neither forked, which would copy locks of libraries, nor do they run the user's script
    # again, which those of the standard library do; a pool of its own leaves alone the one a user may have
    with ProcessPoolExecutor(processes, env=_ONE_THREAD) as pool:
        waiting = [pool.submit(_try_export, export, frame) for export in exports]
        try:
            found = [future.result() for future in waiting]
        except TerminatedWorkerError as error:
            message = "A process that was writing NetCDF died; memory may have run out."
            raise OutputError(message) from error
        finally:
            for future in waiting:
                future.cancel()
    for failed in found:
        if isinstance(failed, Exception):
            raise failed
    return [path for path in found if isinstance(path, Path)]


def _try_export(export: Export, frame: Frame) -> Path | Exception:
    """Export one file, or return what went wrong: an error raised here would end the others half-way."""
    try:
        return _export(export, frame)
    except Exception as error:  # noqa: BLE001
        return error


def _export(export: Export, frame: Frame) -> Path:
    """Export one file."""
    store, path, steps = export
    grid, info, land, region_land, compression = frame
    return export_netcdf(store, grid, info, path, land, steps, region_land, compression)


def _bytes_of(store: Path) -> int:
    """Return what a store takes on disk."""
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
