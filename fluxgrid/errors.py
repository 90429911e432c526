"""Every error fluxgrid raises for a reason the user can mend.

A message says what is wrong, the value given, what would be right and what to do next. The command line prints it
without a traceback and ends with the ``exit_code`` of its class; anything that is not a `FluxgridError` keeps its
traceback, because it is a defect of ours.
"""

from __future__ import annotations

from collections.abc import Iterable


class FluxgridError(Exception):
    """Base of all errors fluxgrid raises on purpose."""

    exit_code = 2


class ConfigError(FluxgridError):
    """A configuration is wrong, or a path in it leads nowhere."""


class TrainingDiverged(ConfigError):
    """The loss at the sites held out was never finite."""


class UnknownName(FluxgridError):
    """A name is not in the registry or table that was asked for it."""


class RegionNotFound(FluxgridError):
    """A region is not in the catalogue, not a readable polygon file and not a box."""


class GridError(FluxgridError):
    """A grid cannot be built, or two grids do not fit each other."""


class UnitError(FluxgridError):
    """A unit cannot be read, or cannot be converted to the one wanted."""


class CubeError(FluxgridError):
    """A cube of covariates breaks its contract; the message lists every problem."""


class IncompatibleCube(CubeError):
    """A sound cube and a model do not fit each other; the message lists every disagreement."""


class TableError(FluxgridError):
    """A tower table cannot be used; the message names site and column."""


class CheckpointError(FluxgridError):
    """A checkpoint folder is missing a part, is corrupt, or does not describe its own weights."""


class OutputExists(FluxgridError):
    """The output folder holds other or unfinished results."""


class OutputError(FluxgridError):
    """Results cannot be written: read-only folder, full disk."""


class DamagedMap(OutputError):
    """A piece of a map store cannot be read back."""


class TileMismatch(FluxgridError):
    """A piece of a map does not fit the place it is written to."""


class IncompleteMap(FluxgridError):
    """A run ended with failed tiles, or with more missing cells than allowed."""

    exit_code = 3


class PublicationStopped(FluxgridError):
    """A guard stopped a publication."""

    exit_code = 4


class RunLocked(FluxgridError):
    """Another run holds the lock."""

    exit_code = 5


class SourceUnavailable(FluxgridError):
    """A source of data cannot be reached; trying again later may help."""

    exit_code = 6


class ClusterUnavailable(FluxgridError):
    """A dask cluster cannot be reached, or has no worker yet; trying again later may help."""

    exit_code = 6


def itemise(header: str, problems: Iterable[str]) -> str:
    """Return one message that lists every problem under its header.

    Parameters
    ----------
    header : str
        What is wrong, without a full stop.
    problems : iterable of str
        One line each.

    Returns
    -------
    message : str

    Examples
    --------
    >>> print(itemise("The cube cannot be used", ["no CRS", "y ascends"]))
    The cube cannot be used:
      - no CRS
      - y ascends
    """
    return "\n".join([f"{header}:", *(f"  - {problem}" for problem in problems)])
