"""The versioned archive of a region's maps, which a refresh publishes to."""

from fluxgrid.output.archive.archive import Archive, Difference, Pruned, check_tag
from fluxgrid.output.archive.build import StagedUnit, StagedYear
from fluxgrid.output.archive.check import Damage
from fluxgrid.output.archive.design import Design
from fluxgrid.output.archive.guards import ArchiveWouldShrink, Shrinkage
from fluxgrid.output.archive.layout import Unit, UnitName, Version

__all__ = [
    "Archive",
    "ArchiveWouldShrink",
    "Damage",
    "Design",
    "Difference",
    "Pruned",
    "Shrinkage",
    "StagedUnit",
    "StagedYear",
    "Unit",
    "UnitName",
    "Version",
    "check_tag",
]
