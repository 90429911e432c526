"""KGML-ag on maps: corn and soybean by KGML-ag, all other cover by a CT-GRU, added up by their shares of a cell.

KGML-ag knows corn and soybean and runs once for each. A field has one crop this year and, nearly always, the other the
next: the two runs are the two rotations, one with corn in odd years and one in even years, and each year the corn of a
cell is that of the run which grows it. The GPP that KGML-ag reads is, by default, that of the same CT-GRU, which tells
apart what the corn, the soybean and the rest of a cell take up; a satellite's GPP may be read instead, and then a map's
GPP of the crops is that driver's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from fluxgrid.data.crop_inputs import (
    CORN_CODE,
    CROP_FORCINGS,
    CROP_STATICS,
    CROP_TYPE,
    GPP,
    SOYBEAN_CODE,
    YEAR,
    conversion,
)
from fluxgrid.models.base import MODELS, STRICT, Sizes
from fluxgrid.models.kgml_ag import KGMLAg
from fluxgrid.models.network import Beside, Network, Read, Taps, read_nothing
from fluxgrid.models.recurrent import GRU, first_of, read_out, steps_first

COVER_FORCINGS = (
    *("temperature_2m", "tmin", "tmax", "precipitation", "shortwave", "vpd", "lai", "gpp_satellite"),
    *("corn_fraction", "soybean_fraction", "toa_radiation", "day_length"),
)
"""What the CT-GRU of all other cover reads each day."""
OTHER_COVER = ("small_grain_fraction", "grass_fraction", "forest_fraction", "wetland_fraction")
"""Shares of a cell that are neither corn nor soybean and have fluxes."""
COVER_STATICS = ("crop_fraction", *OTHER_COVER, "evergreen_fraction", "soc", "field_capacity", "wilting_point")
DYNAMIC = (*COVER_FORCINGS, *(n for n in CROP_FORCINGS if n not in COVER_FORCINGS), "day_of_year")
"""Order of the dynamic inputs."""
STATIC = (*COVER_STATICS, *(n for n in CROP_STATICS if n not in COVER_STATICS))
"""Order of the static inputs."""
FLUXES = ("gpp", "ra", "rh")
ANNUAL = ("corn_yield", "soybean_yield", "harvest_removal")
PARTS = ("gpp_corn", "gpp_soybean", "gpp_other", "ra_other", "rh_other")
"""What the CT-GRU predicts, per unit area of each cover, g m-2 d-1."""
_LITTLE = 0.02
"""Share of a cell without a model above which the cell has no value."""


@MODELS.register("kgml_ag")
@dataclass(frozen=True)
class CropMosaicConfig:
    """KGML-ag for corn and soybean, a CT-GRU for all other cover."""

    hidden: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    """Width of the four GRUs of KGML-ag; 64 as published."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Of KGML-ag, in training; 0.2 as published."""
    cover_hidden: Annotated[int, Field(gt=1, multiple_of=2)] = 64
    """Width of the CT-GRU."""
    gpp: Literal["predicted", "satellite"] = "predicted"
    """The GPP KGML-ag reads: the CT-GRU's for each crop, or ``gpp_satellite`` as it is."""
    other: Literal["ct_gru", "none"] = "ct_gru"
    """Who speaks for other cover; with none, cells that hold more than 2 % of it have no value."""

    year: Literal["calendar", "held"] = "calendar"
    """What KGML-ag reads as the year from step 3 on and on maps: the calendar's, as published, or the mean of its
    training years. It learns years by heart, and a year it has not seen is far from all it knows."""
    leap_day: Literal["run", "none"] = "run"
    """What 31 December of a leap year is: one more step, or, as published, a day without values that leaves no trace in
    the state of KGML-ag."""

    differentiable: ClassVar[bool] = True
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def build(self, sizes: Sizes) -> CropMosaic:
        """Return the network with fresh weights; ValueError where the inputs are not `DYNAMIC` and `STATIC`."""
        return CropMosaic(self, sizes)


class CropMosaic(Network):
    """See the module's text. B cells, T days, F = `DYNAMIC`, S = `STATIC`, O = `FLUXES` and `ANNUAL`."""

    to_features: Tensor
    dynamic_scale: Tensor
    static_scale: Tensor
    cover_scale: Tensor

    def __init__(self, config: CropMosaicConfig, sizes: Sizes):
        super().__init__()
        wanted = Sizes(len(DYNAMIC), len(STATIC), len(FLUXES) + len(ANNUAL))
        if sizes != wanted:
            message = f"kgml_ag reads dynamic {', '.join(DYNAMIC)} and static {', '.join(STATIC)}, in this order."
            raise ValueError(message)
        self.config = config
        self.crop = KGMLAg(config.hidden, config.dropout)
        half = config.cover_hidden // 2
        self.cover_forcing = nn.Linear(len(COVER_FORCINGS), half)
        self.cover_static = nn.Linear(len(COVER_STATICS), half)
        self.cover = GRU(config.cover_hidden, config.cover_hidden)
        self.cover_head = nn.Linear(config.cover_hidden, len(PARTS))
        self.state_size = config.cover_hidden + 2 * self.crop.state_size
        self.register_buffer("dynamic_scale", torch.stack([torch.zeros(len(DYNAMIC)), torch.ones(len(DYNAMIC))]))
        self.register_buffer("static_scale", torch.stack([torch.zeros(len(STATIC)), torch.ones(len(STATIC))]))
        self.register_buffer("cover_scale", torch.ones(len(PARTS)))
        self.register_buffer("to_features", torch.from_numpy(conversion((*DYNAMIC, *STATIC)).astype(np.float32)))
        for encoder in (self.cover_forcing, self.cover_static):
            nn.init.xavier_uniform_(encoder.weight)

    def set_input_scales(self, dynamic: Tensor, static: Tensor) -> None:
        """Set means and standard deviations of the inputs, (2, F) and (2, S), as the scaler of the model holds them."""
        self.dynamic_scale.copy_(dynamic)
        self.static_scale.copy_(static)

    def set_scale(self, scale: Tensor) -> None:
        """Set the typical size of the five parts, (5,), g m-2 d-1, > 0."""
        self.cover_scale.copy_(scale)

    @property
    def widest_layer(self) -> int:
        """Columns of a layer of KGML-ag, both rotations together."""
        return 2 * self.crop.hidden

    def run(self, dynamic: Tensor, static: Tensor, state: Tensor) -> Taps:
        """Return taps ``cover`` (B, 1, T, Hc), ``ra`` and ``rh`` (B, 2, T, H), and the state.

        The two runs are the rotations with corn in odd and in even years. `dynamic` must not mix places of different
        days: the calendar is read from its first row.
        """
        return self._run(dynamic, static, state, None)

    def run_read(self, dynamic: Tensor, static: Tensor, state: Tensor, reads: Mapping[str, Read]) -> Taps:
        """Return what `run` does, with what is read of the hidden states in their stead; they are not kept.

        All `reads` are those of `readouts`, or `Beside` them: KGML-ag reads the GPP of the CT-GRU, and the residue Ra.
        """
        for name, readout in self.readouts.items():
            read = reads[name]
            if (read.linear if isinstance(read, Beside) else read) is not readout:
                message = f"What is read of {name!r} must be its readout, or `Beside` it: the network reads it too."
                raise ValueError(message)
        return self._run(dynamic, static, state, reads)

    @property
    def idle_reads(self) -> dict[str, Read]:
        """Those of `readouts`: it reads them itself."""
        return dict(self.readouts)

    def _run(self, dynamic: Tensor, static: Tensor, state: Tensor, reads: Mapping[str, Read] | None) -> Taps:
        """Return the taps, or what is read of them."""
        dynamic = steps_first(dynamic)  # and so is all that is made of it
        cover_state, *crop_states = state.split([self.cover.hidden_size, *[self.crop.state_size] * 2], dim=1)
        cover_raw, cover, cover_last = self._cover(dynamic, static, cover_state, reads["cover"] if reads else None)
        days = dynamic * self.dynamic_scale[1] + self.dynamic_scale[0]
        soil = static * self.static_scale[1] + self.static_scale[0]
        context = self._context(days, soil)
        z = self.crop.scale(self._features(days, soil))
        taken_up = self.parts(cover_raw).unbind(dim=-1)[:2]
        if self.config.gpp == "satellite":
            taken_up = (context["satellite"], context["satellite"])
        odd, batch = context["odd"], len(dynamic)
        has_corn = torch.stack([odd, 1.0 - odd], dim=1)  # (B, 2, T)
        # both rotations are one block of 2 B rows, those of the first before those of the second
        own = z.transpose(0, 1)[:, None].repeat(1, 2, 1, 1).permute(2, 1, 0, 3)  # (B, 2, T, 19)
        crop = has_corn * CORN_CODE + (1.0 - has_corn) * SOYBEAN_CODE
        gpp = has_corn * taken_up[0][:, None] + (1.0 - has_corn) * taken_up[1][:, None]
        for column, values in ((CROP_TYPE, crop), (GPP, gpp)):
            own[..., column] = self.crop.scale(values, column)
        if self.config.year == "held":
            own[..., YEAR] = 0.0
        rows = own.permute(2, 1, 0, 3).flatten(1, 2).transpose(0, 1)  # (2 B, T, 19)
        run = self._rotations(rows, torch.cat(crop_states), days, _of_rotations(reads) if reads else None)
        hidden = {name: run[name].unflatten(0, (2, batch)).transpose(0, 1) for name in ("ra", "rh")}
        context["grain"] = run["grain"].unflatten(0, (2, batch)).transpose(0, 1)  # (B, 2, T)
        last = torch.cat([cover_last, *run["state"].split(batch)], dim=1)
        return Taps({"cover": cover[:, None], **hidden}, context, last)

    def cover_states(
        self, dynamic: Tensor, static: Tensor, state: Tensor, read: Read | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the states of the CT-GRU (B, T, Hc), and the last of them (B, Hc), from the one before (B, Hc).

        With `read` the first are what is read of them, (B, T, m), in evaluation mode and without gradients.
        `dynamic` and `static` begin with `COVER_FORCINGS` and `COVER_STATICS`, scaled; what follows is not read.
        """
        # copied: rows cut out of wider ones lie anywhere in memory, and a small product may round by where they lie
        forced = read_out(self.cover_forcing, steps_first(dynamic[..., : len(COVER_FORCINGS)]))
        place = self.cover_static(static[:, : len(COVER_STATICS)])
        hidden, last = self.cover([forced, place], state[None], read)
        return hidden, last[0]

    def _cover(
        self, dynamic: Tensor, static: Tensor, state: Tensor, read: Read | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the readout of the CT-GRU, its states (B, T, Hc) or what is read of them, and its last states."""
        if read is None:
            hidden, last = self.cover_states(dynamic, static, state)
            return read_out(self.cover_head, hidden), hidden, last
        own, last = self.cover_states(dynamic, static, state, read)
        return first_of(own, len(PARTS)), own, last

    def _rotations(self, z: Tensor, state: Tensor, days: Tensor, reads: Mapping[str, Read] | None) -> dict[str, Tensor]:
        """Run both rotations, (2 B, T, 19), calendar year by calendar year."""
        parts: dict[str, list[Tensor]] = {"ra": [], "rh": [], "grain": []}
        for steps, first_day in _years(days):
            length = steps.stop - steps.start
            # a year of 365 days is all that the published network has seen
            run = min(length, 365 - first_day) if self.config.leap_day == "none" else length
            # a record may begin on the day that is left out: it runs, and no trace of it is kept
            year = self.crop(z[:, steps][:, : max(run, 1)], state, first_day, False, reads)
            state = year.state if run else state
            for name in ("ra", "rh"):
                hidden = year.hidden[name]
                parts[name].append(hidden if run == length else F.pad(hidden[:, :run], (0, 0, 0, length - run)))
            parts["grain"].append(year.grain[:, None].expand(-1, length))
        joined = {name: rows[0] if len(rows) == 1 else torch.cat(rows, dim=1) for name, rows in parts.items()}
        return {"state": state, **joined}

    def _features(self, days: Tensor, soil: Tensor) -> Tensor:
        """Return the 19 inputs of KGML-ag in physical units, (B, T, 19), without crop and GPP."""
        varying, fixed = self.to_features.split([len(DYNAMIC), len(STATIC)])
        return (days.transpose(0, 1) @ varying).transpose(0, 1) + (soil @ fixed)[:, None]

    def _context(self, days: Tensor, soil: Tensor) -> dict[str, Tensor]:
        """Return shares of covers, parity of the year and the satellite's GPP, (B, T) each."""
        column = {name: days[..., i] for i, name in enumerate(DYNAMIC)}
        crops = torch.stack([column[name].clamp(0.0, 1.0) for name in ("corn_fraction", "soybean_fraction")])
        corn, soybean = crops / crops.sum(dim=0).clamp_min(1.0)  # a cell has no more than all of itself
        others = torch.stack([soil[:, STATIC.index(name)] for name in OTHER_COVER]).clamp(0.0, 1.0).sum(dim=0)
        odd = torch.remainder(column["calendar_year"].round(), 2.0)
        satellite = column["gpp_satellite"].clamp_min(0.0)
        context = {
            "corn": corn,
            "soybean": soybean,
            "other": torch.minimum(others[:, None].expand_as(corn), 1.0 - corn - soybean).clamp_min(0.0),
            "odd": odd,
            "satellite": satellite,
        }
        if self.config.leap_day == "none":
            context["left_out"] = (column["day_of_year"].round() > 365).float()
        return context

    def parts(self, raw: Tensor) -> Tensor:
        """Return `PARTS`, g m-2 d-1, >= 0, of the readout of the CT-GRU, (..., 5)."""
        return self.cover_scale * F.softplus(raw)

    @property
    def readouts(self) -> dict[str, nn.Linear]:
        """Of the CT-GRU, and of Ra and Rh of KGML-ag."""
        return {"cover": self.cover_head, "ra": self.crop.ra_head, "rh": self.crop.rh_head}

    @property
    def tuned_names(self) -> frozenset[str]:
        """All but those of KGML-ag's own NEE, which is a diagnostic."""
        return frozenset(name for name in super().tuned_names if not name.startswith("crop.nee"))

    def components(self, raw: Mapping[str, Tensor], context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the fluxes of each cover per unit of its area, (B, T) each, >= 0.

        ``gpp``, ``ra``, ``rh`` of ``corn``, ``soybean`` and ``other``, as ``gpp_corn`` and so on, g m-2 d-1; and
        ``yield_corn``, ``yield_soybean``, g m-2 and year.
        """
        parts = dict(zip(PARTS, self.parts(raw["cover"][:, 0]).unbind(dim=-1), strict=True))
        if self.config.gpp == "satellite":
            parts |= {"gpp_corn": context["satellite"], "gpp_soybean": context["satellite"]}
        odd = context["odd"]
        daily = {name: F.relu(-self.crop.physical(name, raw[name][..., 0])) for name in ("ra", "rh")}  # (B, 2, T)
        if self.config.leap_day == "none":  # not by hidden states, whose NaN would reach the gradients of heads
            daily = {k: torch.where(context["left_out"][:, None] > 0, torch.nan, v) for k, v in daily.items()}
        daily["yield"] = F.relu(self.crop.physical("yield", context["grain"]))
        for name, runs in daily.items():
            parts[f"{name}_corn"] = odd * runs[:, 0] + (1.0 - odd) * runs[:, 1]
            parts[f"{name}_soybean"] = odd * runs[:, 1] + (1.0 - odd) * runs[:, 0]
        return parts

    def finish(self, raw: Mapping[str, Tensor], context: Mapping[str, Tensor]) -> Tensor:
        """Return `FLUXES` of the cell, g m-2 d-1, and `ANNUAL`, g m-2, (B, T, 6)."""
        part = self.components(raw, context)
        corn, soybean, other = (context[name] for name in ("corn", "soybean", "other"))
        unknown = other > _LITTLE
        if self.config.other == "none":
            other = torch.zeros_like(other)
        rows = [corn * part[f"{f}_corn"] + soybean * part[f"{f}_soybean"] + other * part[f"{f}_other"] for f in FLUXES]
        rows += [part["yield_corn"], part["yield_soybean"]]
        rows.append(corn * part["yield_corn"] + soybean * part["yield_soybean"])
        fluxes = torch.stack(rows, dim=-1)
        if self.config.other == "none":
            fluxes = torch.where(unknown[..., None], torch.nan, fluxes)
        return fluxes


def _of_rotations(reads: Mapping[str, Read]) -> dict[str, Read]:
    """Return what reads the states of both rotations, (N, 2 B, H), as `reads` do those of one, (N, B, H)."""

    def of_both(read: Read) -> Read:
        return lambda hidden: read(hidden.unflatten(1, (2, -1)).flatten(0, 1)).unflatten(0, (-1, 2)).flatten(1, 2)

    def of(read: Read) -> Read:
        if isinstance(read, Beside):
            return Beside(read.linear, of(read.more))
        return read if isinstance(read, nn.Linear) or read is read_nothing else of_both(read)

    return {name: of(read) for name, read in reads.items()}


def _years(days: Tensor) -> list[tuple[slice, int]]:
    """Return the steps of each calendar year in days (B, T, F), and the day of the year its first step is, from 0."""
    year = days[0, :, DYNAMIC.index("calendar_year")].round()
    day = days[0, :, DYNAMIC.index("day_of_year")].round()
    cuts = [0, *(torch.nonzero(year.diff()).flatten() + 1).tolist(), len(year)]
    return [(slice(a, b), int(day[a]) - 1) for a, b in pairwise(cuts)]
