"""From covariates at places to the arrays a model eats; one function for sites, training and maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fluxgrid.data.derived import derive
from fluxgrid.data.gaps import GapRule, History, fill_gaps
from fluxgrid.data.input_kernels import Rows, mark_unknown, scale_rows, screen
from fluxgrid.data.scaler import Scaler
from fluxgrid.data.steps import Step
from fluxgrid.errors import ConfigError, itemise
from fluxgrid.variables import PLACE, VARIABLES, get_variable

_ROLES = {"dynamic": ("forcing", "tower", "derived"), "static": ("static",), "classes": ("class",)}


@dataclass(frozen=True)
class InputSpec:
    """Which inputs a model takes, in the order of its tensors.

    Parameters
    ----------
    dynamic : tuple of str
        Forcings and derived variables, one channel each.
    static : tuple of str
        Numbers that do not vary in time.
    classes : tuple of str
        Class variables, one-hot: as many columns as the variable has classes.
    gaps : mapping of str to GapRule
        How missing steps of a forcing are filled; a forcing that is not named is not filled.

    Raises
    ------
    UnknownName
        If a name is not in the Variable table.
    ConfigError
        Listing every variable that stands in the wrong place or twice, such as a flux among the inputs.
    """

    dynamic: tuple[str, ...]
    static: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    gaps: Mapping[str, GapRule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*self.dynamic, *self.static, *self.classes, *self.gaps):
            get_variable(name)
        if problems := list(self._problems()):
            raise ConfigError(itemise("The inputs of the model are wrong", problems))

    def _problems(self) -> Iterator[str]:
        """Yield one line for each variable in the wrong place or named twice."""
        if not self.dynamic:
            yield "dynamic: a model needs at least one input that varies in time"
        for place, roles in _ROLES.items():
            for name in getattr(self, place):
                role = VARIABLES[name].role
                right = [other for other, its in _ROLES.items() if role in its]
                if role not in roles:
                    yield f"{place}: {name} is a {role} variable, " + (
                        f"name it under {right[0]}" if right else "no input"
                    )
        for name in self.gaps:
            if name not in self.forcings:
                yield f"gaps: {name} is not a forcing named under dynamic, so there is nothing to fill"
        named = Counter((*self.dynamic, *self.static, *self.classes))
        yield from (f"{name} is named {count} times" for name, count in named.items() if count > 1)

    @property
    def forcings(self) -> tuple[str, ...]:
        """Dynamic inputs that must be read; the others are computed from place and date."""
        return tuple(name for name in self.dynamic if VARIABLES[name].role != "derived")

    @property
    def names(self) -> tuple[str, ...]:
        """Everything a cube or a site must bring."""
        return (*self.forcings, *self.static, *self.classes)

    @property
    def n_dynamic(self) -> int:
        """Channels of the dynamic tensor."""
        return len(self.dynamic)

    @property
    def static_columns(self) -> tuple[str, ...]:
        """Names of the columns of the static tensor."""
        one_hot = (f"{name}={label}" for name in self.classes for label in VARIABLES[name].classes)
        return (*self.static, *one_hot)

    @property
    def class_columns(self) -> dict[str, range]:
        """Columns of the static tensor that hold each class variable."""
        first, found = len(self.static), {}
        for name in self.classes:
            found[name] = range(first, first + len(VARIABLES[name].classes))
            first = found[name].stop
        return found

    @property
    def halo(self) -> int:
        """Steps before and after a period that gap filling may look at."""
        return max((rule.linear_steps for rule in self.gaps.values()), default=0)


@dataclass(frozen=True, eq=False)
class Places:
    """Covariates of n places over T steps: the pixels of a block, or one site.

    Parameters
    ----------
    time : DatetimeIndex, (T,)
        Starts of the steps.
    step : Step
        Daily or monthly.
    latitude : ndarray, (n,), degrees
    forcings : mapping of str to ndarray, (before + T + after, n), float32
        NaN where missing; `before` and `after` steps around the period are a halo for gap filling.
    statics : mapping of str to ndarray, (n,), float32
        NaN where unknown; class variables as indices.
    before, after : int
        Steps of the halo that the record really has.
    longitude : ndarray, (n,), degrees, optional
        Needed where it is an input.
    """

    time: pd.DatetimeIndex
    step: Step
    latitude: np.ndarray
    forcings: Mapping[str, np.ndarray]
    statics: Mapping[str, np.ndarray]
    before: int = 0
    after: int = 0
    longitude: np.ndarray | None = None

    def pad(self, size: int) -> Places:
        """Return the same places followed by empty ones, `size` in all; ValueError if there are more already."""
        extra = size - len(self.latitude)
        if extra < 0:
            message = f"A block holds up to {size} places, got {len(self.latitude)}; predict them in several blocks."
            raise ValueError(message)
        if extra == 0:
            return self
        wide = {k: np.pad(v, ((0, 0), (0, extra)), constant_values=np.nan) for k, v in self.forcings.items()}
        flat = {k: np.pad(v, (0, extra), constant_values=np.nan) for k, v in self.statics.items()}
        latitude = np.pad(self.latitude, (0, extra))
        longitude = None if self.longitude is None else np.pad(self.longitude, (0, extra))
        return Places(self.time, self.step, latitude, wide, flat, self.before, self.after, longitude)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Gap-filled inputs in physical units, with what is known of their quality.

    Parameters
    ----------
    dynamic : mapping of str to ndarray, (T, n), float32
    static : mapping of str to ndarray, (n,), float32
    missing : ndarray of bool, (T, n)
        An input of this step, or a static input of this place, is not known.
    filled : ndarray of bool, (T, n)
        An input of this step was filled.
    """

    dynamic: Mapping[str, np.ndarray]
    static: Mapping[str, np.ndarray]
    missing: np.ndarray
    filled: np.ndarray


Histories = dict[str, History]
"""Past of each gap-filled forcing: what the harmonic fill of the next year stands on."""


def prepare(places: Places, spec: InputSpec, histories: Histories) -> tuple[Inputs, Histories]:
    """Fill gaps and compute derived variables.

    Parameters
    ----------
    places : Places
        One calendar year at most, or a whole record whose past is empty.
    spec : InputSpec
        Which inputs, and how their gaps are filled.
    histories : dict of str to History
        Past of each gap-filled forcing, as returned for the year before; empty at the start.

    Returns
    -------
    inputs : Inputs
    histories : dict of str to History
        Including this period.

    Notes
    -----
    A value outside its Variable's `credible_range` (a -9999 nobody declared) is not known, as at the door of the sites.
    """
    core = slice(places.before, places.before + len(places.time))
    forcings, whole = _credible_forcings(places.forcings, spec.forcings)
    dynamic: dict[str, np.ndarray] = {}
    filled = np.zeros((len(places.time), len(places.latitude)), dtype=bool)
    past = dict(histories)
    for name in spec.dynamic:
        if VARIABLES[name].role == "derived":
            dynamic[name] = _derived(name, places)
            continue
        values = forcings[name]
        rule, dynamic[name] = spec.gaps.get(name), values[core]
        if rule is None:
            continue
        history = past.get(name) or History.empty(values.shape[1], rule)
        if name not in whole:
            done = fill_gaps(values[core], places.time, rule, history, values[: core.start], values[core.stop :])
            dynamic[name], filled = done.values, filled | done.mask
        past[name] = history.add(values[core], places.time)
    static = {name: _credible(name, places.statics[name]) for name in (*spec.static, *spec.classes)}
    missing = np.zeros_like(filled)
    mark_unknown(Rows([dynamic[name] for name in spec.forcings if name not in whole]), missing)
    if static:
        missing |= ~np.isfinite(list(static.values())).all(axis=0)
    return Inputs(dynamic, static, missing, filled), past


def _credible_forcings(
    forcings: Mapping[str, np.ndarray], names: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], frozenset[str]]:
    """Return forcings, NaN where they cannot be true, and the names of those of which every value is known.

    What needs no change is not copied.
    """
    ranges = np.array([VARIABLES[name].credible_range for name in names], np.float32).reshape(-1, 2)
    low, high = np.ascontiguousarray(ranges.T)
    whole, credible = screen(Rows([forcings[name] for name in names]), low, high)
    fit = {n: forcings[n] if ok else _credible(n, forcings[n]) for n, ok in zip(names, credible, strict=True)}
    return fit, frozenset(np.array(names)[whole].tolist())


def _credible(name: str, values: np.ndarray) -> np.ndarray:
    """Return the values of a variable, NaN where they cannot be true."""
    low, high = VARIABLES[name].credible_range
    return np.where((values >= low) & (values <= high), values, np.float32(np.nan))


def _derived(name: str, places: Places) -> np.ndarray:
    """Return a derived variable, (T, n): what hangs on latitude and date alone once for each latitude."""
    if name in PLACE:
        return derive(name, places.time, places.latitude, places.step, places.longitude)
    latitude, which = np.unique(places.latitude, return_inverse=True)
    return np.take(derive(name, places.time, latitude, places.step), which, axis=1)


def design(inputs: Inputs, spec: InputSpec, scaler: Scaler) -> tuple[np.ndarray, np.ndarray]:
    """Scale and stack inputs into the arrays of a model; what is missing becomes the training mean.

    Parameters
    ----------
    inputs : Inputs
        Gap-filled inputs.
    spec : InputSpec
        Order of the channels.
    scaler : Scaler
        Fitted on training sites.

    Returns
    -------
    dynamic : ndarray, (n, T, n_dynamic), float32
    static : ndarray, (n, n_static), float32
        Scaled numbers first, then one-hot columns; an unknown class is all zero.
    """
    mean, std = scaler.moments(spec.dynamic)
    # (n, T, F), step after step in memory
    dynamic = scale_rows(Rows([inputs.dynamic[name] for name in spec.dynamic]), mean, std).swapaxes(0, 1)
    columns = [scaler.apply(name, inputs.static[name])[:, None] for name in spec.static]
    columns += [one_hot(inputs.static[name], len(VARIABLES[name].classes)) for name in spec.classes]
    empty = np.empty((dynamic.shape[0], 0), dtype=np.float32)
    static = np.concatenate([empty, *columns], axis=1)
    return dynamic, np.nan_to_num(static, copy=False)


def one_hot(index: np.ndarray, n_classes: int) -> np.ndarray:
    """Return one-hot rows of class indices.

    Parameters
    ----------
    index : ndarray, (n,), float
        Position of the class, NaN where unknown.
    n_classes : int

    Returns
    -------
    rows : ndarray, (n, n_classes), float32

    Examples
    --------
    >>> one_hot(np.array([1.0, np.nan]), 3)
    array([[0., 1., 0.],
           [0., 0., 0.]], dtype=float32)
    """
    return (index[:, None] == np.arange(n_classes)).astype(np.float32)
