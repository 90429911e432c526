"""What a map says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class MapInfo:
    """Everything a map's files tell a reader beside the numbers.

    Examples
    --------
    >>> info = MapInfo("Fluxes of Iowa", "A test.", "iowa", "Iowa", "daily", True, "ct-gru", "A GRU.", "UTC", 0.5)
    >>> info.full_title
    'Synthetic: Fluxes of Iowa'
    """

    title: str
    """One line."""
    summary: str
    """A paragraph: what was made, from what, how."""
    region_name: str
    """Catalogue name, used in file names: ``midwest``."""
    region_title: str
    """Name for people: ``US Midwest``."""
    step: Literal["daily", "monthly"]
    """Length of a time step."""
    synthetic: bool
    """True where covariates or fluxes are invented; title, metadata and picture then say so."""
    model_name: str
    """Short name of the model."""
    model_text: str
    """One sentence about the model."""
    day_definition: str
    """Which day a daily step is: ``UTC`` or ``local standard time``."""
    applicability_threshold: float
    """Dissimilarity index above which a cell is outside the area of applicability, unitless."""
    caveats: tuple[str, ...] = ()
    """What the map is not good for, most important first."""
    sources: tuple[str, ...] = ()
    """Citations of the data and methods used."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Further global attributes: commit, versions, hashes of checkpoint and configuration."""
    created: str = ""
    """When, as ISO 8601 in UTC."""
    calibration: str = "none"
    """How cells get their heads: ``none``, the global model; ``state``; ``neighbourhood``."""
    gpp_is_driver: bool = False
    """True where GPP is an input of the model and not predicted: its errors are the driver's, not the model's."""

    @property
    def full_title(self) -> str:
        """The title, with the word synthetic in front where it belongs and is missing."""
        says_so = "synthetic" in self.title.lower()
        return f"Synthetic: {self.title}" if self.synthetic and not says_so else self.title
