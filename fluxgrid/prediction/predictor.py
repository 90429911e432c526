"""Predict a block of places: the one function behind maps, sites and scores.

A block always runs with `BLOCK` rows, padded with empty places, on one BLAS thread: a matrix product of another shape
may add in another order and give other last bits, and then a map would depend on its tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from fluxgrid.data.gaps import History
from fluxgrid.data.inputs import Histories, Inputs, Places, design, prepare
from fluxgrid.errors import ConfigError
from fluxgrid.models import Checkpoint, zero_state
from fluxgrid.models.calibrated import Calibration
from fluxgrid.models.calibration import ONE_PASS
from fluxgrid.models.ensemble import Ensemble, mean_of
from fluxgrid.models.network import Network
from fluxgrid.output.layers import whole_year
from fluxgrid.prediction.applicability import Applicability
from fluxgrid.prediction.blend import Blend
from fluxgrid.prediction.closure import close_fluxes
from fluxgrid.prediction.transfer import run_block
from fluxgrid.variables import MAP_FLUXES, STANDARD_ERROR_COVERAGE

BLOCK = 256
"""Places predicted together."""


@dataclass(frozen=True, eq=False)
class BlockState:
    """What one period hands to the next: the hidden state and the past that gap filling stands on.

    Parameters
    ----------
    hidden : ndarray, (n, K), float32
    histories : dict of str to History
    """

    hidden: np.ndarray
    histories: Histories

    def arrays(self) -> dict[str, np.ndarray]:
        """Return plain arrays whose first axis is the places, for storing."""
        past = {f"history.{name}.{k}": v for name, h in self.histories.items() for k, v in h.arrays().items()}
        return {"hidden": self.hidden, **past}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> BlockState:
        """Return the state stored as `arrays`."""
        parts: dict[str, dict[str, np.ndarray]] = {}
        for key, value in arrays.items():
            if key.startswith("history."):
                _, name, part = key.split(".")
                parts.setdefault(name, {})[part] = value
        return cls(arrays["hidden"], {name: History.from_arrays(part) for name, part in parts.items()})


@dataclass(frozen=True, eq=False)
class Fluxes:
    """Predictions of n places over T steps.

    Parameters
    ----------
    daily : dict of ndarray, (T, n), float32, g m-2 d-1
        ``nee``, ``gpp`` and ``reco``, NEE = RECO - GPP, and ``ra`` and ``rh`` where the model has them; NaN where an
        input of the step is missing.
    annual : dict of ndarray, (n,), float32
        Variables of a calendar year that the model gives; NaN unless the period is a whole year without a hole.
    applicability : ndarray, (T, n), float32
        Dissimilarity index.
    missing, filled, outside, provisional : ndarray of bool, (T, n)
        Input missing; an input filled, or the state passed over a hole this year; outside the area of applicability;
        hanging on days of the year that are still to come.
    spread : dict of ndarray, (T, n), float32, g m-2 d-1
        Of an ensemble: standard deviation of its members' ``nee``, ``gpp`` and ``reco``; NaN as above.
    """

    daily: dict[str, np.ndarray]
    annual: dict[str, np.ndarray]
    applicability: np.ndarray
    missing: np.ndarray
    filled: np.ndarray
    outside: np.ndarray
    provisional: np.ndarray
    spread: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def nee(self) -> np.ndarray:
        """NEE, (T, n)."""
        return self.daily["nee"]

    @property
    def gpp(self) -> np.ndarray:
        """GPP, (T, n)."""
        return self.daily["gpp"]

    @property
    def reco(self) -> np.ndarray:
        """RECO, (T, n)."""
        return self.daily["reco"]


class Predictor:
    """A checkpoint ready to predict, on one device.

    Parameters
    ----------
    checkpoint : Checkpoint
        The model.
    device : str
        ``cpu`` or ``cuda``; trees run on the CPU whatever is asked.
    calibration : str
        Which of the checkpoint's calibrations blends refer to; ``none`` for the global model.
    block : int
        Rows that places are padded to. Maps need them all alike; scores of single sites do not, and may save the rows.

    Raises
    ------
    ConfigError
        If the checkpoint has no calibration of that name.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu", calibration: str = "none", block: int = BLOCK):
        self.checkpoint = checkpoint
        self._block_rows = block
        self._heads = find_calibration(checkpoint, calibration).heads if calibration != "none" else None
        self.device = torch.device(device if checkpoint.spec.differentiable else "cpu")
        self._model = checkpoint.model
        if isinstance(self._model, torch.nn.Module | Ensemble):
            self._model.to(self.device)
        if self._heads is not None:
            self._heads.to(self.device)
        self._applicability = Applicability(checkpoint.domain, checkpoint.spec.inputs)

    def predict(
        self, places: Places, state: BlockState | None = None, blend: Blend | None = None
    ) -> tuple[Fluxes, BlockState]:
        """Predict one period at up to `BLOCK` places.

        Parameters
        ----------
        places : Places
            T steps (one year at most, or a record to be run in one go) at n places, no more than a block holds.
        state : BlockState, optional
            As returned for the period before; zeros if not given.
        blend : Blend, optional
            Weights of the calibrated places at each of these; without it the global model alone.

        Returns
        -------
        fluxes : Fluxes
        state : BlockState
            After the last step.

        Raises
        ------
        ValueError
            If there are more than `BLOCK` places.
        """
        n = len(places.latitude)
        inputs, histories, block = self._block(places, state, blend)
        outputs, members, hidden = self._run(block, blend)
        index, known = self._applicability(inputs, places.time), ~inputs.missing
        seen = _seen_holes(inputs.missing) if hidden.shape[1] else np.zeros_like(inputs.missing)
        daily = {name: _blank(values, inputs.missing) for name, values in self._closed(outputs).items()}
        closed = [self._closed(member) for member in members]
        spread = {name: spread_of([fluxes[name] for fluxes in closed]) for name in MAP_FLUXES if closed}
        result = Fluxes(
            daily={name: values[:, :n] for name, values in daily.items()},
            annual={name: values[:n] for name, values in self._annual(outputs, daily, places.time).items()},
            applicability=_blank(index, inputs.missing)[:, :n],
            missing=inputs.missing[:, :n],
            filled=((inputs.filled | seen) & known)[:, :n],
            outside=((index > self.checkpoint.domain.threshold) & known)[:, :n],
            provisional=(self._provisional(places.time)[:, None] & known)[:, :n],
            spread={name: _blank(values, inputs.missing)[:, :n] for name, values in spread.items()},
        )
        return result, _cut_state(BlockState(hidden, histories), n)

    def half_widths(self, fluxes: Fluxes, level: float = STANDARD_ERROR_COVERAGE) -> dict[str, np.ndarray]:
        """Return how far what was predicted may be off at a place nobody measured.

        Parameters
        ----------
        fluxes : Fluxes
            As `predict` returned them.
        level : float
            Coverage: one of `fluxgrid.models.uncertainty.LEVELS`.

        Returns
        -------
        half_widths : dict of ndarray, (T, n), float32, g m-2 d-1
            By flux; of one step, not of sums. Empty where the model has none.
        """
        uncertainty = self.checkpoint.uncertainty
        if uncertainty is None:
            return {}
        known = uncertainty.known(level)
        return {name: uncertainty.fluxes[name].half_width(level, fluxes.spread[name]) for name in known}

    def advance(self, places: Places, state: BlockState | None = None, blend: Blend | None = None) -> BlockState:
        """Return the state after a period whose fluxes nobody wants: that of `predict`, bit for bit, in less time.

        Parameters
        ----------
        places, state, blend
            As in `predict`.

        Returns
        -------
        state : BlockState
            After the last step.

        Raises
        ------
        ValueError
            If there are more than `BLOCK` places.
        """
        _, histories, block = self._block(places, state, blend)
        shared = blend is None or self._heads is None or self._heads.kind in ONE_PASS
        if shared and isinstance(self._model, Network | Ensemble):
            model = self._model
            (hidden,) = run_block(lambda *tensors: (model.advance(*tensors),), block, self.device)
        else:
            hidden = self._run(block, blend)[2]
        return _cut_state(BlockState(hidden, histories), len(places.latitude))

    def _block(
        self, places: Places, state: BlockState | None, blend: Blend | None
    ) -> tuple[Inputs, Histories, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return the inputs of a padded block, what gap filling stands on afterwards, and (B, T, F), (B, S), (B, K)."""
        spec = self.checkpoint.spec.inputs
        before = _pad_state(state, self._block_rows) if state else self._first_state(blend)
        inputs, histories = prepare(places.pad(self._block_rows), spec, before.histories)
        dynamic, static = design(inputs, spec, self.checkpoint.scaler)
        return inputs, histories, (dynamic, static, before.hidden)

    def _closed(self, outputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return the fluxes of a model's outputs (B, T, O), closed, (T, B)."""
        spec = self.checkpoint.spec
        # side by side for each step, as sums over the year expect them, whatever order a network leaves them in
        return close_fluxes({name: np.ascontiguousarray(outputs[..., i].T) for i, name in enumerate(spec.fluxes)}, spec)

    def _annual(
        self, outputs: np.ndarray, daily: dict[str, np.ndarray], time: pd.DatetimeIndex
    ) -> dict[str, np.ndarray]:
        """Return what is known of the calendar year, (B,); nothing of a part of it, or of one with a hole."""
        spec = self.checkpoint.spec
        whole = whole_year(time, spec.step)
        total = daily["nee"].sum(axis=0, dtype=np.float64).astype(np.float32)
        known = np.isfinite(total) & whole
        values = {name: outputs[:, -1, len(spec.fluxes) + i] for i, name in enumerate(spec.annual)}
        if "harvest_removal" in values:
            values["balance_after_harvest"] = total + values["harvest_removal"]
        return {name: np.where(known, row, np.float32(np.nan)) for name, row in values.items()}

    def _provisional(self, time: pd.DatetimeIndex) -> np.ndarray:
        """Return the steps whose fluxes will change when the year is complete, (T,)."""
        first, step = self.checkpoint.spec.whole_year_from, self.checkpoint.spec.step
        if first is None:
            return np.zeros(len(time), dtype=bool)
        ends = {time[0].year, time[-1].year}  # no other year of a record can be a part of one
        open_ = [year for year in ends if not whole_year(time[time.year == year], step)]
        return np.isin(time.year, open_) & np.asarray(time.day_of_year > first)

    def _first_state(self, blend: Blend | None) -> BlockState:
        """Return the state before any step."""
        if blend is None or self._heads is None:
            return BlockState(zero_state(self._model, self._block_rows).numpy(), {})
        width = self._heads.state_size(blend.places.shape[1])
        return BlockState(np.zeros((self._block_rows, width), np.float32), {})

    def _run(self, block: tuple[np.ndarray, np.ndarray, np.ndarray], blend: Blend | None) -> tuple[np.ndarray, ...]:
        """Run the model: (B, T, F), (B, S), (B, K) -> (B, T, O), members of an ensemble (M, B, T, O), (B, K)."""
        padded = None if blend is None or self._heads is None else blend.pad(self._block_rows)
        chosen = () if padded is None else (padded.places, padded.weights)
        return run_block(self._work, (*block, *chosen), self.device)

    def _work(
        self, dynamic: torch.Tensor, static: torch.Tensor, state: torch.Tensor, *chosen: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Do what `_run` says, on the device; `chosen` are the places of each row and their weights, (B, k)."""
        members = torch.empty(0, device=self.device)
        if isinstance(self._model, Ensemble):
            members, after = self._model.predict_members(dynamic, static, state)
            return mean_of(members), members, after
        if self._heads is None or not chosen:
            fluxes, after = self._model.predict(dynamic, static, state)
        else:
            places, weights = chosen
            fluxes, after = self._heads.blend(dynamic, static, state, places.long(), weights)
        return fluxes, members, after


def spread_of(members: Sequence[np.ndarray]) -> np.ndarray:
    """Return the standard deviation over members, cell by cell.

    Parameters
    ----------
    members : sequence of ndarray, float32, any one shape
        What each member says; two or more.

    Returns
    -------
    spread : ndarray, float32, same shape
        0 where all say the same. Added up member by member in double precision, so that no order of addition hangs on
        the shape.

    Examples
    --------
    >>> spread_of([np.float32([1, 3]), np.float32([1, 5])])
    array([0., 1.], dtype=float32)
    """
    mean = sum(each.astype(np.float64) for each in members) / len(members)
    return np.sqrt(sum((each - mean) ** 2 for each in members) / len(members)).astype(np.float32)


def find_calibration(checkpoint: Checkpoint, name: str) -> Calibration:
    """Return a calibration of a checkpoint.

    Raises
    ------
    ConfigError
        If it has none of that name.
    """
    if name not in checkpoint.calibrations:
        have = ", ".join(checkpoint.calibrations) or "none"
        message = (
            f"The model {checkpoint.spec.name!r} has no calibration {name!r}, it has {have}. Choose what it has "
            "(--calibration; none is the global model alone), or make it with `fluxgrid calibrate`."
        )
        raise ConfigError(message)
    return checkpoint.calibrations[name]


def _blank(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return values, (T, n), without one where an input is missing; the same array if none is."""
    return np.where(missing, np.float32(np.nan), values) if missing.any() else values


def _seen_holes(missing: np.ndarray) -> np.ndarray:
    """Return where the state has passed over a missing step of the same period, (T, n)."""
    return np.logical_or.accumulate(missing, axis=0) if missing.any() else missing


def _pad_state(state: BlockState, size: int) -> BlockState:
    """Return the state followed by empty places."""
    arrays = state.arrays()
    return BlockState.from_arrays(
        {k: np.pad(v, [(0, size - v.shape[0])] + [(0, 0)] * (v.ndim - 1)) for k, v in arrays.items()}
    )


def _cut_state(state: BlockState, n: int) -> BlockState:
    """Return the state of the first n places."""
    return BlockState.from_arrays({k: v[:n] for k, v in state.arrays().items()})


def join_states(states: list[BlockState]) -> dict[str, np.ndarray]:
    """Return the arrays of consecutive blocks as one, places along the first axis."""
    rows = [state.arrays() for state in states]
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}


def split_states(arrays: dict[str, np.ndarray], sizes: list[int]) -> Iterator[BlockState]:
    """Yield the state of each block from arrays made by `join_states`."""
    start = 0
    for size in sizes:
        yield BlockState.from_arrays({key: value[start : start + size] for key, value in arrays.items()})
        start += size
