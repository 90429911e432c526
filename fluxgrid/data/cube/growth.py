"""What a cube shall grow to, and what one growth changed: values, and how they stand in JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd

from fluxgrid.data.cube.delivery import Delivered
from fluxgrid.data.cube.stores import StorePath
from fluxgrid.data.mapping import CubeMapping
from fluxgrid.variables import VARIABLES

Days = Mapping[str, tuple[str, ...]]
"""By variable: days in ISO 8601, ascending; variables without any are left out."""


@dataclass(frozen=True)
class CubePlan:
    """What a cube shall be, whoever delivers; the same at each growth."""

    variables: tuple[str, ...]
    """Ours, that vary in time."""
    start: str
    """First day."""
    mapping: CubeMapping = field(default_factory=CubeMapping)
    """What deliveries do not say themselves."""
    base: StorePath | None = None
    """A cube that gives land and soil, and days that no final delivery gives; read when the new cube is made, and
    when a chunk with days of it is damaged."""
    base_mapping: CubeMapping | None = None
    """What the base does not say itself."""
    spin_up_years: int = 0
    """Years before the first day with which the cube begins, as many as the base gives each day of."""

    @property
    def starts(self) -> tuple[str, ...]:
        """Days with which the cube may begin: the first one, and so many whole years before it."""
        first = pd.Timestamp(self.start)
        return tuple(str((first - pd.DateOffset(years=n)).date()) for n in range(self.spin_up_years + 1))


@dataclass(frozen=True)
class Refused:
    """A delivery that is not for this cube."""

    name: str
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Drift:
    """A variable as it came now and the time before; for guards, which decide."""

    delivery: str
    """Name of the delivery."""
    after: Delivered
    before: Delivered | None = None
    """As the delivery before it, in the order of days, had it; None at the first time."""
    days_after: str = ""
    """When its days begin."""
    days_before: str = ""

    @property
    def changes(self) -> dict[str, tuple[str, str]]:
        """What describes it otherwise, before and after: ``units``, ``source``, ``day_definition`` or attributes."""
        if self.before is None:
            return {}
        one, other = dict(self.before.about), dict(self.after.about)
        pairs = {
            "units": (self.before.units, self.after.units),
            "source": (self.before.source, self.after.source),
            "day_definition": (self.days_before, self.days_after),
        } | {key: (one.get(key, ""), other.get(key, "")) for key in sorted(one.keys() | other.keys())}
        return {key: (old, new) for key, (old, new) in pairs.items() if old != new}

    @property
    def outside(self) -> bool:
        """Whether values leave the valid range of the variable, or are infinite."""
        low, high = self.after.low, self.after.high
        if low is None or high is None:
            return False
        least, most = VARIABLES[self.after.name].valid_range or (-math.inf, math.inf)
        return low < least or high > most or math.isinf(low) or math.isinf(high)


@dataclass(frozen=True)
class Growth:
    """What one growth changed, day by day."""

    new: Days = field(default_factory=dict)
    """Days that were missing and are not any more."""
    revised: Days = field(default_factory=dict)
    """Days whose values changed."""
    confirmed: Days = field(default_factory=dict)
    """Days whose status changed and no value."""
    missing: Days = field(default_factory=dict)
    """Days still missing, up to the last day of any variable."""
    provisional: Days = field(default_factory=dict)
    """Days known from preliminary streams alone."""
    refused: tuple[Refused, ...] = ()
    drift: tuple[Drift, ...] = ()
    """Of each delivery that gave a day, by variable."""
    files: int = 0
    """Files of the cube written or removed."""
    mended: tuple[str, ...] = ()
    """Files that were not what was written, and are again; one line each."""

    @property
    def changed(self) -> bool:
        """Whether the cube is another than before."""
        return self.files > 0

    def after(self, left: Growth | None) -> Growth:
        """Return both growths as one, this one following the other."""
        if left is None:
            return self
        new = _union(left.new, self.new)
        revised = _without(_union(left.revised, self.revised), new)
        confirmed = _without(_without(_union(left.confirmed, self.confirmed), new), revised)
        return replace(
            self,
            new=new,
            revised=revised,
            confirmed=confirmed,
            drift=(*left.drift, *self.drift),
            files=left.files + self.files,
            mended=(*left.mended, *self.mended),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Growth:
        """Return what `to_dict` gave, also by way of JSON."""
        values = dict(content)
        for key in ("new", "revised", "confirmed", "missing", "provisional"):
            values[key] = {name: tuple(days) for name, days in values[key].items()}
        values["refused"] = tuple(Refused(part["name"], tuple(part["problems"])) for part in values["refused"])
        values["mended"] = tuple(values.get("mended", ()))  # journals of before have none
        values["drift"] = tuple(_drift(part) for part in values["drift"])
        return cls(**values)


def _drift(content: Mapping[str, Any]) -> Drift:
    """Return a drift from what JSON holds of it."""
    before, after = (
        None if part is None else Delivered.from_dict(part) for part in (content["before"], content["after"])
    )
    assert after is not None  # always written
    return Drift(**{**content, "before": before, "after": after})


def _union(one: Days, other: Days) -> Days:
    """Return the days of both."""
    return {name: tuple(sorted({*one.get(name, ()), *other.get(name, ())})) for name in {**one, **other}}


def _without(one: Days, other: Days) -> Days:
    """Return the days of one that are not of the other."""
    kept = {name: tuple(day for day in days if day not in set(other.get(name, ()))) for name, days in one.items()}
    return {name: days for name, days in kept.items() if days}
