"""The models that are measured: architecture, inputs, map."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fluxgrid.data.inputs import InputSpec
from fluxgrid.data.windows import WindowMode
from fluxgrid.models.crop_mosaic import ANNUAL, DYNAMIC, FLUXES, STATIC
from fluxgrid.models.spec import ModelSpec

FORCINGS = (
    *("temperature_2m", "tmin", "tmax", "precipitation", "shortwave", "longwave", "netrad", "vpd", "vapour_pressure"),
    *("vapour_pressure_range", "relative_humidity", "wind_speed", "pressure", "co2", "lai", "ndvi", "evi"),
    *("gpp_satellite", "corn_fraction", "soybean_fraction"),
)
"""The 20 channels of all models but KGML-ag, none of them computed."""
STATICS = ("elevation", "sand", "silt", "soc", "field_capacity")
CLASSES = ("igbp", "koppen")
"""With `STATICS` 51 columns, as many as CarbonBench's models have."""
SCALING_FORCINGS = FORCINGS[:6]
"""What the model of the scaling runs reads."""
CUBE_VARIABLES = (*FORCINGS, *dict.fromkeys((*STATICS, *STATIC)), *CLASSES)
"""Of the cube that all models share."""

Size = Literal["fast", "slow", "slowest", "peer_cells"]
"""Names of the settings that hold the cells."""


@dataclass(frozen=True)
class Entry:
    """A model that is measured."""

    name: str
    """As it stands in the table."""
    kind: str
    """Architecture."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Its options."""
    size: Size = "fast"
    """Which map it makes."""
    window_mode: WindowMode | None = None
    """How windows are cut, where the checkpoint is another's."""
    weights_of: str = ""
    """The entry whose checkpoint it runs; its own by default."""
    days: int = 0
    """How many times the few days of the slowest it maps, where there are so many; 0 for all."""
    members: int = 1
    """Of an ensemble."""
    spin_up_years: int = 1
    """As the model asks for."""
    placed: bool = True
    """Whether it reads static inputs."""
    forcings: tuple[str, ...] = FORCINGS
    """Dynamic inputs; KGML-ag has its own."""

    @property
    def checkpoint(self) -> str:
        """Name of its checkpoint."""
        return self.weights_of or self.name

    def spec(self) -> ModelSpec:
        """Return what the model eats and gives."""
        crops = self.kind == "kgml_ag"
        inputs = InputSpec(self.forcings, STATICS, CLASSES) if self.placed else InputSpec(self.forcings)
        return ModelSpec(
            name=self.name,
            kind=self.kind,
            settings=self.settings,
            step="daily",
            inputs=InputSpec(DYNAMIC, STATIC) if crops else inputs,
            spin_up_years=self.spin_up_years,
            day_definition="UTC",
            fluxes=FLUXES if crops else ("gpp", "reco"),
            annual=ANNUAL if crops else (),
            whole_year_from=298 if crops else None,
            members=self.members,
        )


def model_entries(factor: float = 1.0, trees: int = 1000) -> tuple[Entry, ...]:
    """Return the models of the table.

    Parameters
    ----------
    factor : float, > 0
        On all widths: 1 for those that the names say.
    trees : int
        Of each booster.

    Returns
    -------
    entries : tuple of Entry
    """

    def width(hidden: int) -> int:
        return max(8, int(hidden * factor))

    gru, lstm, wide = {"hidden": width(128)}, {"hidden": width(128)}, {"hidden": width(256), "layers": 2}
    crops = {"hidden": width(64), "cover_hidden": width(64)}
    tam = {"hidden": width(128), "layers": 2, "latent": width(64), "window_mode": "exact"}  # as published, IGBP split
    boosted = {"rounds": trees}
    return (
        Entry("GRU-128", "gru", gru, placed=False),
        Entry("LSTM-128", "lstm", lstm, placed=False),
        Entry("CT-LSTM 2 x 256", "ct_lstm", wide, size="slow"),
        Entry("CT-GRU-128", "ct_gru", {"hidden": width(128)}, size="slow"),
        Entry("KGML-ag", "kgml_ag", crops, size="slow", spin_up_years=2),
        *_pair("TAM-RL", "tam_rl", tam, (1, 12)),
        *_pair("Transformer", "transformer", {"hidden": width(128)}, (1, 12)),
        *_pair("GRU-128", "gru", gru, (2, 0), "peer_cells", weights_of="GRU-128", placed=False),
        *_pair("LSTM-128", "lstm", lstm, (2, 0), "peer_cells", weights_of="LSTM-128", placed=False),
        Entry("LightGBM", "lightgbm", boosted, "slow", days=9, spin_up_years=0, placed=False),
        Entry("XGBoost", "xgboost", boosted, "slow", days=9, spin_up_years=0, placed=False),
    )


def _pair(
    name: str,
    kind: str,
    settings: dict[str, Any],
    days: tuple[int, int],
    size: Size = "slowest",
    weights_of: str = "",
    placed: bool = True,
) -> tuple[Entry, Entry]:
    """Return a network in modes ``exact`` and ``stride``; the second maps more days, and so runs about as long."""
    first, second = f"{name} exact", f"{name} stride"
    exact = Entry(first, kind, settings, size, "exact", weights_of=weights_of, days=days[0], placed=placed)
    return exact, replace(exact, name=second, window_mode="stride", weights_of=weights_of or first, days=days[1])


def peer_entry(factor: float = 1.0) -> Entry:
    """Return the model that peers run too: GRU-128 over one year from an empty state, without spin-up."""
    settings = {"hidden": max(8, int(128 * factor))}
    return Entry("GRU-128, no spin-up", "gru", settings, placed=False, spin_up_years=0)


def ensemble_entry(members: int, factor: float = 1.0) -> Entry:
    """Return the ensemble of GRU-128."""
    settings = {"hidden": max(8, int(128 * factor))}
    return Entry(f"{members} x GRU-128", "gru", settings, size="slow", members=members, placed=False)


def scaling_entry(factor: float = 1.0) -> Entry:
    """Return the model of the scaling runs: GRU-128 on few inputs, so that a large cube is small on disk."""
    settings = {"hidden": max(8, int(128 * factor))}
    return Entry("GRU-128, 6 inputs", "gru", settings, placed=False, forcings=SCALING_FORCINGS)
