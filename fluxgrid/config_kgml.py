"""Configurations of KGML-ag: training, calibration and experiments; apart from the others, for they load torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fluxgrid.config import SitesConfig, Strict
from fluxgrid.training.calibrate import CalibrationSettings
from fluxgrid.training.kgml.recipe import Recipe
from fluxgrid.training.kgml.regimes import RegimeSettings
from fluxgrid.training.kgml.settings import Schedule

Regime = Literal["global", "site-only", "sdsa", "ftbsc"]


class HeadsConfig(Strict):
    """Heads of one kind of place."""

    name: Literal["state", "neighbourhood"]
    """How cells of a map choose among them."""
    fit: CalibrationSettings = CalibrationSettings()
    """Their form and how they are fitted."""

    @property
    def places(self) -> Literal["state", "site"]:
        """What a place is: all sites of a state, or each group of sites by itself."""
        return "state" if self.name == "state" else "site"


def _different(heads: tuple[HeadsConfig, ...]) -> tuple[HeadsConfig, ...]:
    """Refuse two kinds of heads of one name: a checkpoint keeps one."""
    names = [head.name for head in heads]
    if len(set(names)) < len(names):
        message = f"a name comes twice among {', '.join(names)}; a checkpoint holds one of each"
        raise ValueError(message)
    return heads


AllHeads = Annotated[tuple[HeadsConfig, ...], AfterValidator(_different)]


class CalibrateConfig(Strict):
    """`fluxgrid calibrate`."""

    model: str = "default"
    """Shipped checkpoint or folder: the global model."""
    sites: SitesConfig
    """Where its heads are fitted."""
    heads: AllHeads = (HeadsConfig(name="state"), HeadsConfig(name="neighbourhood"))
    """What is fitted."""
    out: str
    """Checkpoint folder with the model and its heads."""


class KGMLConfig(Strict):
    """`fluxgrid train` of KGML-ag with all other cover, in the reference world."""

    name: str = Field(pattern=r"^[A-Za-z0-9_\-]+$")
    """Name of the model."""
    description: str
    """One sentence for people: what it is trained on."""
    limits: str = ""
    """What its maps are not good for in a few words."""
    caveats: tuple[str, ...] = ()
    """The same in sentences; written into every product."""
    recipe: Recipe
    """Data and settings of the training."""
    towers: SitesConfig | None = None
    """Towers of step 5; without them it is left out."""
    calibration_sites: SitesConfig | None = None
    """Where heads are fitted; without them there are none."""
    heads: AllHeads = (HeadsConfig(name="state"), HeadsConfig(name="neighbourhood"))
    """What is fitted there."""
    stages: str | None = None
    """Folder that keeps finished steps, so that an interrupted training goes on."""
    out: str
    """Checkpoint folder."""


class VariantConfig(Strict):
    """Hyperparameters that site-only training and FTBSC tuning are tried with."""

    learning_rate: float = Field(gt=0)
    """Of training from scratch and of tuning."""
    batch: int = Field(ge=1)
    """Fields per optimiser step."""
    schedule: Schedule = "step"
    """Of the learning rate."""


class ExperimentConfig(Strict):
    """`fluxgrid experiment regimes` and `fluxgrid experiment sensitivity`."""

    settings: RegimeSettings = RegimeSettings()
    """States, data and training."""
    seeds: tuple[int, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    """Of training places, held-out years, weights and order."""
    regimes: tuple[Regime, ...] = ("global", "site-only", "ftbsc", "sdsa")
    """What is trained; cross-regional skill is that of the site-only models elsewhere."""
    groups: tuple[tuple[str, ...], ...] = (("IN", "IA"),)
    """States trained together from scratch, for the heat map."""
    share_state: str = "IA"
    """State whose data are cut..."""
    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.1, 0.25, 0.5)
    """...to these shares; the global model that is tuned to them sees no more of the state."""
    regions: int = Field(default=3, ge=2)
    """Regions of SDSA, found by k-means."""
    variants: dict[str, VariantConfig] = Field(default_factory=dict)
    """Of the sensitivity experiment, by name."""
    runs: str | None = None
    """Folder of trained models, which experiments may share; by default ``<out>/runs``."""
    out: str
    """Folder of tables and picture."""
