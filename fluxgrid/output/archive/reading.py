"""Reading a published year: plain zarr, but a chunk that is gone is an error, not an empty piece of map."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from zarr.storage import LocalStore

from fluxgrid.errors import DamagedMap
from fluxgrid.output.archive.layout import CHECKSUMS, STORE
from fluxgrid.output.store import readable


class PublishedStore(LocalStore):
    """The zarr store of a published year, read-only.

    To zarr a chunk without a file is full of fill values. In a version that was pruned while somebody reads it all
    chunks are without files: readers must not take that for a map without values.
    """

    def __init__(self, root: Path | str, *, read_only: bool = True) -> None:
        super().__init__(root, read_only=read_only)

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        """Return the bytes of a key, or None if it never had any."""
        return self._checked(key, await super().get(key, *args, **kwargs))

    def get_sync(self, key: str, *args: Any, **kwargs: Any) -> Any:
        """Return the bytes of a key, or None if it never had any."""
        return self._checked(key, super().get_sync(key, *args, **kwargs))

    def _checked(self, key: str, found: Any) -> Any:
        """Refuse that a chunk is missing if it was published."""
        if found is None and "/c/" in key and key in self._published:
            message = (
                f"{self.root / key} is missing: it was lost, or its version was pruned while it was being read. "
                "Open the archive again; if it is still missing, verify the version."
            )
            raise DamagedMap(message)
        return found

    @cached_property
    def _published(self) -> frozenset[str]:
        """Keys that have bytes."""
        path = self.root.parent / CHECKSUMS
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            message = f"Cannot read {path}: {error}. The version was pruned or is damaged; open the archive again."
            raise DamagedMap(message) from error
        return frozenset(line.split("  ", 1)[1].removeprefix(f"{STORE}/") for line in lines)


def archived(what: str) -> AbstractContextManager[None]:
    """Return `readable` with what to do about an archive."""
    return readable(what, "verify the version, then recompute and publish what it names, or read an older version")


def open_year(folder: Path) -> xr.Dataset:
    """Open one published year lazily, in the chunks of the store.

    Parameters
    ----------
    folder : Path
        Below ``years/<year>``.

    Returns
    -------
    dataset : Dataset
        Dims (time, y, x) or (y, x).

    Raises
    ------
    DamagedMap
        If it cannot be read.
    """
    with archived(f"the year {folder}"):
        return xr.open_zarr(PublishedStore(folder / STORE), consolidated=False, chunks={}, zarr_format=3)


def join_years(years: Mapping[int, xr.Dataset]) -> xr.Dataset:
    """Join years to one lazy series.

    Parameters
    ----------
    years : mapping of int to Dataset
        One at least.

    Returns
    -------
    dataset : Dataset
        Variables of each step (time, y, x); those of a whole year (year, y, x).
    """
    ordered = [years[year] for year in sorted(years)]
    constant = [name for name, variable in ordered[0].data_vars.items() if variable.dims == ("y", "x")]
    options: dict[str, Any] = {"coords": "minimal", "compat": "override", "join": "exact", "combine_attrs": "override"}
    series = xr.concat([year.drop_vars(constant) for year in ordered], "time", data_vars="minimal", **options)
    if constant:
        numbers = pd.Index(sorted(years), name="year")
        annual = [year[constant] for year in ordered]
        series = series.merge(xr.concat(annual, numbers, data_vars="all", **options), compat="override")
    return series.assign_attrs(ordered[-1].attrs)
