"""A simulated year of deliveries: a cube handed over week by week, late, revised and torn, and whole at last.

What happens in which week follows from the seed alone. The files are CF NetCDF with a status and a date of creation;
their values are those of the cube, but for preliminary and to be revised ones, which are off by a few per cent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from fluxgrid.netcdf import save_netcdf

Story = Literal[
    "on time",
    "late",
    "last",
    "lost",
    "preliminary",
    "revised",
    "revised in place",
    "revised at last",
    "truncated",
    "flipped",
    "copied",
]
"""What happens to a parcel of days."""
_USUAL: tuple[Story, ...] = ("late", "preliminary", "revised", "revised in place", "truncated", "flipped", "copied")

Damage = Literal["none", "truncated", "flipped", "half"]


@dataclass(frozen=True)
class Event:
    """Something that happens to a file of a source in a week."""

    week: int
    """Counted from 0."""
    story: Story
    name: str
    """Of the file."""
    variables: tuple[str, ...]
    first: int
    """First day of the year in it, counted from 0."""
    stop: int
    """One past the last."""
    status: Literal["provisional", "final"] = "final"
    true: bool = True
    """Whether the values are those of the cube; else they are off."""
    damage: Damage = "none"
    """How the file comes to be broken; ``half`` is the beginning of it under a temporary name."""
    gone: bool = False
    """Whether the file is taken away instead."""

    @property
    def finds(self) -> str:
        """Name under which it is seen in the folder."""
        return f".{self.name}.x7Gh2" if self.damage == "half" else self.name


@dataclass(frozen=True)
class Scenario:
    """The year of one seed.

    Parameters
    ----------
    seed : int
    days : int
        Of the year; those beyond the last week belong to it.
    streams : sequence of tuple of str
        Variables that come together. The first stream comes weekly, the others every fourth week.
    lost : int
        Parcels that never come.
    number : int
        Weeks, 8 or more.

    Examples
    --------
    >>> year = Scenario(3, 365, (("temperature_2m", "precipitation"), ("shortwave",)))
    >>> len(year.weeks()), year.weeks() == Scenario(3, 365, year.streams).weeks()
    (52, True)
    """

    seed: int
    days: int
    streams: tuple[tuple[str, ...], ...]
    lost: int = 0
    number: int = 52

    def weeks(self) -> tuple[tuple[Event, ...], ...]:
        """Return what happens in each week; after the last one all that is not lost is there and final."""
        return tuple(tuple(event for event in self._events if event.week == week) for week in range(self.number))

    def lost_days(self) -> dict[str, np.ndarray]:
        """Return the days, by variable, that never come."""
        found: dict[str, list[np.ndarray]] = {}
        for story, event in self._parcels:
            for name in event.variables if story == "lost" else ():
                found.setdefault(name, []).append(np.arange(event.first, event.stop))
        return {name: np.sort(np.concatenate(days)) for name, days in found.items()}

    @cached_property
    def _parcels(self) -> list[tuple[Story, Event]]:
        """What becomes of each parcel, and its plain delivery."""
        rng = np.random.default_rng(self.seed)
        plain = [event for stream in range(len(self.streams)) for event in self._plain(stream)]
        stories: list[Story] = [_USUAL[rng.integers(len(_USUAL))] if rng.random() < 0.45 else "on time" for _ in plain]
        early = [place for place, event in enumerate(plain) if event.week < 0.6 * self.number]
        picks = rng.permutation(early)[: 3 + self.lost].tolist()
        # one of each that a year must have: never before the end, and revised when it is long settled
        lost: list[Story] = ["lost"] * self.lost
        chosen: list[Story] = ["last", "revised at last", "preliminary", *lost]
        for place, story in zip(picks, chosen, strict=False):
            stories[place] = story
        return list(zip(stories, plain, strict=True))

    def _plain(self, stream: int) -> Iterator[Event]:
        """Yield the deliveries of a stream as they would be if all went well."""
        every = 1 if stream == 0 else 4
        first = 0
        for week in [*range(every - 1, self.number - 1, every), self.number - 1]:
            stop = self.days if week == self.number - 1 else 7 * (week + 1)
            yield Event(week, "on time", f"stream{stream}_{week:02d}.nc", self.streams[stream], first, stop)
            first = stop

    @cached_property
    def _events(self) -> list[Event]:
        """All events of the year, in order."""
        rng = np.random.default_rng([self.seed, 1])
        parcels = self._parcels
        return sorted(
            (event for story, plain in parcels for event in self._told(story, plain, rng)),
            key=lambda event: (event.week, event.name, event.gone),
        )

    def _told(self, story: Story, plain: Event, rng: np.random.Generator) -> Iterator[Event]:
        """Yield the events of a parcel."""
        delay, more = (int(n) for n in rng.integers(1, 7, 2))
        base = replace(plain, story=story)
        later = replace(base, week=min(plain.week + delay, self.number - 1))
        early = replace(base, name=plain.name.replace(".nc", "_prelim.nc"), status="provisional", true=False)
        wrong = replace(base, true=False)
        if plain.week == self.number - 1:
            story = "on time" if story != "lost" else story  # no time for more
        told: dict[Story, tuple[Event, ...]] = {
            "on time": (base,),
            "late": (later,),
            "last": (replace(base, week=self.number - 1),),
            "lost": (),
            "preliminary": (early, later, *self._cleared(early, later.week + more)),
            "revised": (replace(wrong, name=plain.name.replace(".nc", "_v0.nc")), later),
            "revised in place": (wrong, later),
            "revised at last": (wrong, replace(base, week=self.number - 2)),
            "truncated": (replace(base, damage="truncated"), later),
            "flipped": (replace(base, damage="flipped"), later),
            "copied": (replace(base, damage="half"), replace(base, week=plain.week + 1)),
        }
        yield from told[story]

    def _cleared(self, early: Event, week: int) -> Iterator[Event]:
        """Yield the tidying up of a preliminary file, if there is time for it."""
        if week < self.number:
            yield replace(early, week=week, gone=True)


def play(events: Sequence[Event], cube: xr.Dataset, folder: Path | str) -> None:
    """Let the events of a week happen in a folder.

    Parameters
    ----------
    events : sequence of Event
        Of one week.
    cube : Dataset
        Of the year, in memory or not, with the variables of the scenario.
    folder : path
        Where the files are dropped; made if missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for event in events:
        path = folder / event.finds
        if event.gone:
            path.unlink(missing_ok=True)
            continue
        _write(event, cube, path)
        if event.damage != "half":  # what was half copied now has its name
            (folder / replace(event, damage="half").finds).unlink(missing_ok=True)


def _write(event: Event, cube: xr.Dataset, path: Path) -> None:
    """Write a file as it comes to be in its week, with its time."""
    days = cube[list(event.variables)].isel(time=slice(event.first, event.stop)).load()
    days = days if event.true else days.map(_off, keep_attrs=True)
    issued = pd.Timestamp(cube.time.values[0]) + pd.Timedelta(weeks=event.week + 1, hours=6)
    about = {"status": event.status, "date_created": f"{issued:%Y-%m-%dT%H:%M:%SZ}", "Conventions": "CF-1.11"}
    days.attrs = {key: value for key, value in days.attrs.items() if key in ("title", "day_definition")} | about
    days = days.drop_encoding()
    for array in days.data_vars.values():
        # a flipped byte is then found by whoever reads it
        array.encoding = {"zlib": True, "fletcher32": True, "grid_mapping": "spatial_ref"}
        array.attrs.pop("grid_mapping", None)
    whole = path.with_name(f"{path.name}.whole.tmp")
    save_netcdf(days, whole)
    data = _damaged(whole.read_bytes(), event.damage)
    whole.write_bytes(data)
    os.utime(whole, (issued.timestamp(), issued.timestamp()))
    whole.replace(path)


def _off(values: xr.DataArray) -> xr.DataArray:
    """Return values that are wrong by a few per cent, in the same type."""
    return (values * 1.03 + 0.01).astype(values.dtype)


def _damaged(data: bytes, damage: Damage) -> bytes:
    """Return the bytes of a file as they come."""
    if damage in ("truncated", "half"):
        return data[: len(data) * 2 // 3]
    if damage == "flipped":
        place = _inside(data)
        return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
    return data


def _inside(data: bytes) -> int:
    """Return a place within compressed values, which begin with the mark of zlib."""
    mark = data.rfind(b"\x78\x5e")
    return (mark if mark >= 0 else len(data) // 2) + 12
