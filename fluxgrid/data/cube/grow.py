"""A cube that grows with what is delivered: by whole chunks of time, rewriting only the chunks whose values change.

Chunk files of days that did not change stay as they are, and with them the digests of their years. All files of a
growth are written aside first and moved into the cube at the end, the one that makes new days visible last, so that a
reader never meets half a chunk or an axis without its values, and a growth that was killed is finished by the next.
Beside ``cube.zarr`` stands ``cube.zarr.growth``: the ledger of who gave which day and, while a growth runs, its files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import zarr

from fluxgrid.data.chunk_files import UNREADABLE, ChunkFiles, chunk_files
from fluxgrid.data.cube.build import UNSTATED
from fluxgrid.data.cube.chunks import TILE_CHUNK
from fluxgrid.data.cube.delivery import Delivered, Delivery, OpenDelivery, grid_text, open_delivery
from fluxgrid.data.cube.grown_store import STATUS, encoded, longer_files, new_files, series_files, time_values
from fluxgrid.data.cube.growth import CubePlan, Days, Drift, Growth, Refused
from fluxgrid.data.cube.kept import (
    LEDGER,
    SUMS,
    CubeDamage,
    adopt,
    clear_litter,
    cube_damages,
    has_sums,
    keep,
    listed_sums,
    remove_file,
    restore,
)
from fluxgrid.data.cube.ledger import (
    MISSING,
    NOBODY,
    PROVISIONAL,
    Ledger,
    Take,
    reach_of,
    read_ledger,
    takes,
    write_ledger,
)
from fluxgrid.data.cube.staging import Staging, done, unfinished
from fluxgrid.data.cube.stores import zarr_folder
from fluxgrid.data.cube.window import CubeReader, open_reader
from fluxgrid.errors import CubeError, SourceUnavailable, itemise
from fluxgrid.files import output_error
from fluxgrid.locks import held, is_lock

_MOST_VALUES = 2**26
"""Values of deliveries held at a time: 256 MB."""
_MOST_AHEAD = 400
"""Days a delivery may begin after all others: more is a wrong date, not a gap."""
_DESCRIPTIONS = ("title", "source", "citation", "day_definition")
_TIMELESS = ("static", "class")

Holes = dict[tuple[str, int], set[tuple[int, int]]]
"""By variable and step of chunks along time: places of chunks that are damaged."""


def growth_folder(cube: Path | str) -> Path:
    """Return where the ledger of a cube stands, and what is under way.

    Examples
    --------
    >>> growth_folder("data/midwest.zarr").name
    'midwest.zarr.growth'
    """
    return Path(cube).with_name(f"{Path(cube).name}.growth")  # of the whole name: era5.v1 and era5.v2 are two cubes


def is_grown(cube: Path | str) -> bool:
    """Return whether a cube grows from deliveries; an empty folder beside it is what a growth leaves that found none.

    Parameters
    ----------
    cube : path

    Returns
    -------
    grown : bool
    """
    folder = growth_folder(cube)
    return folder.is_dir() and any(not is_lock(path.name) for path in folder.iterdir())


def delivery_status(cube: Path | str, names: Sequence[str] | None = None) -> np.ndarray:
    """Return what is known of each day of a grown cube.

    Parameters
    ----------
    cube : path
    names : sequence of str, optional
        Variables that matter, such as those of a model; all by default. The one of which least is known decides.

    Returns
    -------
    status : ndarray, (time,), int8
        0 missing, 1 provisional, 2 known.

    Raises
    ------
    CubeError
        If the cube has no ledger, or one that cannot be read.
    """
    ledger = read_ledger(growth_folder(cube) / LEDGER)
    if ledger is None:
        message = f"{cube} was not grown from deliveries: {growth_folder(cube) / LEDGER} is missing."
        raise CubeError(message)
    return ledger.combined(names)


def grow(
    cube: Path | str,
    deliveries: Sequence[Delivery],
    plan: CubePlan,
    remember: Callable[[Growth], None] = lambda _: None,
) -> Growth:
    """Bring a cube up to what is delivered; it is made if it does not exist.

    It holds all days from its first one to the end of the chunk with the last day delivered; days that nobody delivered
    are NaN. Of several deliveries of a day the one of the greatest `Delivery.rank` gives it whole. Days never go again:
    not when their delivery is gone, and a final day not for a provisional one. Files of the cube that are not what was
    written are found first, and written again from copies or from the deliveries that gave them. One process at a time
    makes a cube grow.

    Parameters
    ----------
    cube : path
        A zarr store of this function, or nothing yet.
    deliveries : sequence of Delivery
        All that the source has now; their order does not matter.
    plan : CubePlan
        The same each time.
    remember : callable
        Called with what changes when the cube is written, before the growth counts as done: what it keeps, such as a
        drift that a guard must not miss, is kept whenever the process ends. Then it may be called again with the same.

    Returns
    -------
    growth : Growth
        Deliveries on another grid, or with dates far off, are refused in it and take no part.

    Raises
    ------
    CubeError
        If there is no usable delivery to begin with, if a cube stands there that this function did not make or that the
        plan does not fit, if a delivery cannot be read, or if the cube is damaged and its deliveries are gone.
    SourceUnavailable
        If a delivery changed or went away while it was read: nothing has changed, and a new look is needed.
    RunLocked
        If another process makes it grow.
    OutputError
        If the cube cannot be written.
    """
    cube = Path(cube)
    fresh = not growth_folder(cube).exists()
    try:
        with ExitStack() as stack:
            try:
                growth_folder(cube).mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(held(growth_folder(cube), None, lambda who: _busy(cube, who)))
            except OSError as error:
                raise output_error(error, growth_folder(cube)) from error
            return _grow(cube, deliveries, plan, remember, lock.check)
    finally:
        if fresh:
            with suppress(OSError):  # refused: nothing stays beside somebody else's cube
                growth_folder(cube).rmdir()


def _busy(cube: Path, who: str) -> str:
    """Say that another process is at it."""
    return f"Another process grows {cube}{who}. Nothing was changed; try again when it has ended."


def _grow(
    cube: Path,
    deliveries: Sequence[Delivery],
    plan: CubePlan,
    remember: Callable[[Growth], None],
    check: Callable[[], None],
) -> Growth:
    """Bring a cube up to what is delivered, which no other process does meanwhile."""
    aside = growth_folder(cube)
    left = _finish(aside, cube, remember)
    known = read_ledger(aside / LEDGER)
    damages = _mended(cube, aside, known) if known is not None and cube.is_dir() else []
    if known is not None or cube.exists():
        known = _checked(cube, known, plan)
    mended = tuple(str(damage) for damage in damages)
    holes = _holes(cube, damages, known) if known is not None else {}
    base = _open_base(plan) if plan.base is not None and known is None else _base_again(cube, known, plan, holes)
    founding = [base.delivery] if base is not None and known is None else []
    fitting, refused = _fitting([*deliveries, *founding], known, plan)
    before = known or Ledger(_first_day(plan, base), fitting[0].grid, plan.variables, 0)
    after = before.extended(_whole_chunks(reach_of(fitting, before.start)))
    wanted = {name: found for name in after.variables if (found := takes(after, fitting, name))}
    if known is not None and not wanted and not holes:
        return replace(_state_of(before), refused=refused, mended=mended).after(left)
    if known is None and not wanted:
        message = f"There is nothing to make a cube of: no day delivered is {before.start} or later. Begin earlier."
        raise CubeError(message)
    with Staging(aside, cube) as staging:
        givers = [*fitting, *([base.delivery] if base else [])]
        again = _given_again(cube, before, wanted, givers, holes) if holes else {}
        grown = _Growing(cube, staging, before, after, base, holes).run(wanted, again, plan)
        _check_again(cube, before, wanted, holes, staging.sums)
        grown = replace(grown, refused=refused, files=staging.files, mended=mended)
        ledger = after.swept().to_dict()
        staging.publish({"ledger": ledger, "growth": grown.to_dict(), "sums": staging.sums}, check)
        _finish(aside, cube, remember)
    return grown.after(left)


def _finish(aside: Path, cube: Path, remember: Callable[[Growth], None]) -> Growth | None:
    """Finish what a journal says, and return the growth it speaks of."""
    note = unfinished(aside, cube)
    if note is None:
        return None
    write_ledger(aside / LEDGER, note["ledger"])
    keep(cube, aside, note.get("sums", {}))  # one of before had none: then all is adopted
    growth = Growth.from_dict(note["growth"])
    remember(growth)
    done(aside)
    return growth


def _mended(cube: Path, aside: Path, ledger: Ledger) -> list[CubeDamage]:
    """Find what of a cube is not what was written, and mend all but chunks along time."""
    if not has_sums(aside):  # of a fluxgrid that kept none: it can only be taken as it is
        write_ledger(aside / LEDGER, ledger.to_dict())
        adopt(cube, aside)
        return []
    clear_litter(cube)
    damages = cube_damages(cube, aside)
    lists = [damage.path.stem for damage in damages if damage.path.parent == aside / SUMS]
    if lists:
        adopt(cube, aside, lists)
        damages += [damage for damage in cube_damages(cube, aside, lists) if damage not in damages]
    restore(cube, aside, damages)
    return damages


def _holes(cube: Path, damages: Sequence[CubeDamage], ledger: Ledger) -> Holes:
    """Return the chunks of a cube that are to be made again; what belongs to no day delivered is removed."""
    found: Holes = {}
    for damage in damages:
        if damage.chunk is None:
            continue
        name, step, place = damage.chunk
        if damage.problem == "never written" and not _belongs(cube, ledger, name, step, place):
            remove_file(damage.path)
        elif (step + 1) * TILE_CHUNK[0] <= ledger.days:
            found.setdefault((name, step), set()).add(place)
    return found


def _belongs(cube: Path, ledger: Ledger, name: str, step: int, place: tuple[int, int]) -> bool:
    """Return whether a chunk is of days that somebody delivered, and of cells that the cube has."""
    if name not in ledger.variables or not (_held(ledger, name, step) != NOBODY).any():
        return False
    shape = zarr.open_array(cube / name, mode="r").shape
    return place[0] * TILE_CHUNK[1] < shape[1] and place[1] * TILE_CHUNK[2] < shape[2]


def _held(ledger: Ledger, name: str, step: int) -> np.ndarray:
    """Return who holds each day of a chunk of time."""
    return ledger.holders[name][step * TILE_CHUNK[0] : (step + 1) * TILE_CHUNK[0]]


def _needs_base(ledger: Ledger, holes: Holes) -> bool:
    """Return whether days of damaged chunks are those of the base."""
    holders = {int(holder) for name, step in holes for holder in _held(ledger, name, step) if holder != NOBODY}
    return any(not ledger.sources[holder].path for holder in holders)


def _given_again(
    cube: Path, ledger: Ledger, wanted: Mapping[str, Sequence[Take]], deliveries: Sequence[Delivery], holes: Holes
) -> dict[str, list[Take]]:
    """Return, by variable, the days of damaged chunks that nobody new gives, from those who gave them."""
    current = {delivery.digest: delivery for delivery in deliveries}
    found: dict[str, list[Take]] = {}
    lost = []
    for (name, step), places in sorted(holes.items()):
        days = step * TILE_CHUNK[0] + np.arange(TILE_CHUNK[0])
        new = np.isin(days, np.concatenate([days_ for _, days_ in wanted.get(name, ())] or [np.arange(0)]))
        held = np.where(new, NOBODY, _held(ledger, name, step))
        for holder in np.unique(held[held != NOBODY]):
            source = ledger.sources[holder]
            if source.digest in current:
                found.setdefault(name, []).append((current[source.digest], days[held == holder]))
                continue
            files = ", ".join(_chunk_names(name, step, places))
            lost.append(f"{files}: {(held == holder).sum()} of its days are from {source.name}, which is gone")
    if lost:
        raise _unmendable(cube, lost)
    return found


def _unmendable(cube: Path, lost: Sequence[str]) -> CubeError:
    """Return the error that chunks cannot be made again."""
    header = (
        f"{cube} is damaged, and what could mend it is not at its source. Put the files back, restore the chunks "
        "from a copy, or grow a new cube at another path"
    )
    return CubeError(itemise(header, lost))


def _chunk_names(name: str, step: int, places: Iterable[tuple[int, int]]) -> list[str]:
    """Return the files of chunks of one step of time."""
    return [f"{name}/c/{step}/{row}/{col}" for row, col in sorted(places)]


def _base_again(cube: Path, ledger: Ledger | None, plan: CubePlan, holes: Holes) -> _Base | None:
    """Return the base, if damaged chunks hold days of it; `_given_again` says what they lack if there is none."""
    if ledger is None or plan.base is None or not _needs_base(ledger, holes):
        return None
    try:
        return _open_base(plan)
    except CubeError as error:
        needed = {hole: places for hole, places in holes.items() if _needs_base(ledger, {hole: places})}
        files = [key for (name, step), places in sorted(needed.items()) for key in _chunk_names(name, step, places)]
        raise _unmendable(cube, [f"{key}: has days of the base. {error}" for key in files]) from error


def _check_again(
    cube: Path, ledger: Ledger, wanted: Mapping[str, Sequence[Take]], holes: Holes, sums: Mapping[str, str | None]
) -> None:
    """Hold chunks made again, into which no fresh day enters, against what was written."""
    lost = []
    for (name, step), places in sorted(holes.items()):
        if _within(wanted.get(name, ()), step * TILE_CHUNK[0]):
            continue
        listed, held = listed_sums(growth_folder(cube), str(step)), _held(ledger, name, step)
        givers = ", ".join(ledger.sources[holder].name for holder in np.unique(held[held != NOBODY]))
        lost += [
            f"{key}: made again from {givers or 'nothing'} it is not what was written, so that has changed since"
            for key in _chunk_names(name, step, places)
            if key in listed and sums.get(key) != listed[key]
        ]
    if lost:
        raise _unmendable(cube, lost)


def _checked(cube: Path, ledger: Ledger | None, plan: CubePlan) -> Ledger:
    """Refuse a cube that this plan did not make."""
    if ledger is None or zarr_folder(cube) is None:
        lost = f"its ledger {growth_folder(cube) / LEDGER}" if ledger is None else "the cube itself"
        message = (
            f"{cube} cannot grow: {lost} is missing. Restore it, or grow a new cube at another path; a cube that "
            "stands can be its base."
        )
        raise CubeError(message)
    pairs = {
        "first day": (ledger.start, ledger.start if ledger.start in plan.starts else plan.starts[0]),
        "variables": (", ".join(ledger.variables), ", ".join(plan.variables)),
    }
    problems = [f"{what}: {has}, asked for is {asked}" for what, (has, asked) in pairs.items() if has != asked]
    if problems:
        header = f"{cube} was grown by another plan; grow a new cube at another path, with this one as its base"
        raise CubeError(itemise(header, problems))
    return ledger


def _fitting(
    deliveries: Sequence[Delivery], known: Ledger | None, plan: CubePlan
) -> tuple[list[Delivery], tuple[Refused, ...]]:
    """Return the deliveries for the grid and time of a cube, and the others with what is wrong with them."""
    useful = [d for d in deliveries if {variable.name for variable in d.variables} & set(plan.variables)]
    if known is None and not useful:
        message = (
            f"There is nothing to make a cube of: none of {len(deliveries)} deliveries holds "
            f"{' or '.join(plan.variables) or 'a variable'}. Check variables and mapping."
        )
        raise CubeError(message)
    grid = known.grid if known else _usual_grid(useful)
    ordered = sorted(useful, key=lambda delivery: (delivery.start, delivery.end, delivery.digest))
    reach = pd.Timestamp(known.date(known.reach() - 1) if known else ordered[0].end)
    fitting, refused = [], []
    for delivery in ordered:
        problems = [] if delivery.grid == grid else [f"its grid is {delivery.grid}; the cube's is {grid}. Regrid it"]
        if pd.Timestamp(delivery.start) > reach + pd.Timedelta(days=_MOST_AHEAD):
            problems.append(
                f"it begins on {delivery.start}, more than {_MOST_AHEAD} days after all before it ({reach.date()}). "
                "Check its dates"
            )
        if problems:
            refused.append(Refused(delivery.name, tuple(problems)))
        else:
            reach = max(reach, pd.Timestamp(delivery.end))
            fitting.append(delivery)
    return fitting, tuple(refused)


def _usual_grid(deliveries: Sequence[Delivery]) -> str:
    """Return the grid of a new cube: that of its base, or the one most deliveries are on."""
    based = [delivery.grid for delivery in deliveries if not delivery.path]
    grids = [delivery.grid for delivery in deliveries]
    return based[0] if based else max(sorted(set(grids)), key=grids.count)


def _first_day(plan: CubePlan, base: _Base | None) -> str:
    """Return the first day of a new cube: years before the plan's own are no spin-up if they lack a variable."""
    held = {variable.name for variable in base.delivery.variables} if base else set()
    if base is None or not set(plan.variables) <= held or base.delivery.end < _day_before(plan.starts[0]):
        return plan.starts[0]
    return min((day for day in plan.starts if day >= base.delivery.start), default=plan.starts[0])


def _day_before(day: str) -> str:
    """Return the day before one in ISO 8601."""
    return str((pd.Timestamp(day) - pd.Timedelta(days=1)).date())


def _whole_chunks(days: int) -> int:
    """Return the days of the chunks that hold so many."""
    return -(-days // TILE_CHUNK[0]) * TILE_CHUNK[0]


def _state_of(ledger: Ledger) -> Growth:
    """Return what is missing and provisional in a cube."""
    status = {name: ledger.status(name)[: ledger.reach()] for name in ledger.variables}
    return Growth(
        missing=_days(ledger, {name: codes == MISSING for name, codes in status.items()}),
        provisional=_days(ledger, {name: codes == PROVISIONAL for name, codes in status.items()}),
    )


def _days(ledger: Ledger, chosen: Mapping[str, np.ndarray]) -> Days:
    """Return the days that are chosen, by variable."""
    return {name: ledger.dates(np.flatnonzero(mask)) for name, mask in chosen.items() if mask.any()}


@dataclass(frozen=True, eq=False)
class _Base:
    """A cube that others grow on, and what it would be as a delivery."""

    reader: CubeReader
    delivery: Delivery


def _open_base(plan: CubePlan) -> _Base:
    """Open the base of a plan."""
    assert plan.base is not None  # the caller looked
    reader = open_reader(plan.base, plan.base_mapping)
    time, grid = reader.layout.time, reader.layout.grid
    assert time is not None  # open_reader raises otherwise
    assert grid is not None
    varying = [field for field in reader.layout.fields if field.variable.role not in _TIMELESS]
    variables = tuple(Delivered(f.variable.name, f.source, f.units, (), 0.0, None, None) for f in varying)
    about = str(reader.raw.attrs.get("day_definition", ""))
    ends = (str(time[0].date()), str(time[-1].date()))
    name = f"base {plan.base}"
    # issued before everything, so that any final delivery beats it
    delivery = Delivery(name, "", 0, 0, name, "final", "", "", *ends, grid_text(grid), about, variables)
    return _Base(reader, delivery)


class _Growing:
    """One growth under way."""

    def __init__(self, cube: Path, staging: Staging, before: Ledger, after: Ledger, base: _Base | None, holes: Holes):
        self.cube, self.staging, self.before, self.after, self.base = cube, staging, before, after, base
        self.holes = holes
        self.opened: dict[str, OpenDelivery] = {}
        self.altered = {name: np.zeros(after.days, bool) for name in after.variables}

    def run(self, wanted: Mapping[str, Sequence[Take]], again: Mapping[str, Sequence[Take]], plan: CubePlan) -> Growth:
        """Stage all files, enter all days in the ledger, and return what changes; days given again are no change."""
        self.mapping = plan.mapping
        taken = [delivery for found in (wanted, again) for parts in found.values() for delivery, _ in parts]
        frame = self._frame(taken) if self.before.days == 0 else {}
        for first in range(0, self.after.days, TILE_CHUNK[0]):
            for name in {**wanted, **again}:
                self._block(name, _within(wanted.get(name, ()), first), _within(again.get(name, ()), first))
            self._close()
        drift = tuple(self._drift(wanted))
        for name, parts in wanted.items():
            for take in parts:
                self.after.give(name, take)
        self._stage_series()
        longer = self.after.days > self.before.days
        for key, data in (frame or (longer_files(self.cube, self.after.days) if longer else {})).items():
            self.staging.put(key, data)
        _check_unchanged(taken)
        return replace(self._changes(), drift=drift)

    def _frame(self, taken: Sequence[Delivery]) -> dict[str, bytes]:
        """Return the metadata of a new cube, and stage its land and soil."""
        if self.base is not None:
            layout, attrs = self.base.reader.layout, self.base.reader.raw.attrs
        else:
            opened = self._open(taken[0])
            layout, attrs = opened.layout, opened.reader.raw.attrs
        assert layout.grid is not None  # a delivery or base without grid is refused before
        self.shape = layout.grid.shape
        about = {key: str(getattr(self.mapping, key) or attrs.get(key, UNSTATED)) for key in _DESCRIPTIONS}
        about |= {"step": "daily", "Conventions": "CF-1.11"}
        still = self._stage_still() if self.base is not None else ()
        return new_files(layout.grid, self.after.start, self.after.days, self.after.variables, still, about)

    def _stage_still(self) -> tuple[str, ...]:
        """Stage what does not vary in time, tile by tile, and return its names."""
        assert self.base is not None  # the caller looked
        names = [f.variable.name for f in self.base.reader.layout.fields if f.variable.role in _TIMELESS]
        for name in names:
            for place, rows, cols in _tiles(slice(0, self.shape[0]), self.shape[1]):
                values = self.base.reader.read(name, slice(0, 1), rows, cols)
                self._stage_chunk(f"{name}/c/{place[0]}/{place[1]}", _padded(values[np.newaxis])[0])
        return tuple(names)

    def _block(self, name: str, fresh: Sequence[Take], again: Sequence[Take]) -> None:
        """Stage the chunks of a variable, of the same steps of time, whose values change."""
        parts = [*fresh, *again]
        if not parts:
            return
        days = np.concatenate([days for _, days in parts])
        stored = self._stored(name)
        ny, nx = self.shape
        # whole rows of tiles at a time, for files of others are cut by days
        height = max(1, _MOST_VALUES // (len(days) * nx * TILE_CHUNK[1])) * TILE_CHUNK[1]
        for top in range(0, ny, height):
            band = slice(top, min(top + height, ny))
            values = np.concatenate([self._read(name, take, band) for take in parts])
            for place, rows, cols in _tiles(band, nx):
                part = values[:, rows.start - top : rows.stop - top, cols]
                self._tile(name, days, part, stored, (rows, cols), place)
        unchanged = np.concatenate([days for _, days in again] or [np.arange(0)])
        self.altered[name][unchanged] = False

    def _tile(
        self,
        name: str,
        days: np.ndarray,
        fresh: np.ndarray,
        stored: ChunkFiles | None,
        cells: tuple[slice, slice],
        place: tuple[int, int],
    ) -> None:
        """Stage one chunk if any of its days changes."""
        step = int(days[0]) // TILE_CHUNK[0]
        old = np.full((TILE_CHUNK[0], *fresh.shape[1:]), np.nan, np.float32)
        hole = place in self.holes.get((name, step), ())
        if stored is not None and not hole and (step + 1) * TILE_CHUNK[0] <= self.before.days:
            try:
                stored.read([slice(step * TILE_CHUNK[0], (step + 1) * TILE_CHUNK[0]), *cells], old)
            except UNREADABLE as error:
                message = f"{error}. Restore the chunk from a copy, or grow the cube anew at another path."
                raise CubeError(message) from error
        new = old.copy()
        new[days % TILE_CHUNK[0]] = fresh
        new[np.isnan(new)] = np.nan  # one NaN, so that equal values are equal bits
        differs = (old.view(np.uint32) != new.view(np.uint32)).any(axis=(1, 2))
        if differs.any() or hole:
            self.altered[name][step * TILE_CHUNK[0] + np.flatnonzero(differs)] = True
            self._stage_chunk(f"{name}/c/{step}/{place[0]}/{place[1]}", _padded(new))

    def _stage_chunk(self, key: str, chunk: np.ndarray) -> None:
        """Stage a chunk; one without values has no file, as zarr has it."""
        if not np.isnan(chunk).all():
            self.staging.put(key, encoded(chunk))
        elif (self.cube / key).exists():
            self.staging.remove(key)

    def _stored(self, name: str) -> ChunkFiles | None:
        """Return the chunks of a variable as they stand; None in a new cube."""
        if self.before.days == 0:
            return None
        array = zarr.open_array(self.cube / name, mode="r")
        self.shape = (array.shape[1], array.shape[2])
        files = chunk_files(array)
        if files is None or files.chunks != TILE_CHUNK:
            message = (
                f"{self.cube / name} is not as this cube was grown (chunks {array.chunks}). Restore it from a copy."
            )
            raise CubeError(message)
        return files

    def _read(self, name: str, take: Take, rows: slice) -> np.ndarray:
        """Return days of a delivery, (T, y, x), in our unit."""
        delivery, days = take
        reader = self.base.reader if self.base and not delivery.path else self._open(delivery).reader
        inside = days - (pd.Timestamp(delivery.start) - pd.Timestamp(self.after.start)).days
        span = slice(int(inside[0]), int(inside[-1]) + 1)
        try:
            return reader.read(name, span, rows, slice(0, self.shape[1]))[inside - inside[0]]
        except CubeError as error:
            message = f"{delivery.name}: {error}"
            raise CubeError(message) from error

    def _open(self, delivery: Delivery) -> OpenDelivery:
        """Return a delivery opened, once for all that is read of it at a time."""
        if delivery.digest not in self.opened:
            self.opened[delivery.digest] = open_delivery(delivery.path, self.mapping)
        return self.opened[delivery.digest]

    def _close(self) -> None:
        """Let go of all deliveries."""
        for opened in self.opened.values():
            opened.close()
        self.opened.clear()

    def _stage_series(self) -> None:
        """Stage time and status where they change."""
        old = np.full(self.after.days, MISSING, np.int8)
        if self.before.days:
            old[: self.before.days] = self.before.combined()
        new = self.after.combined()
        for first in range(0, self.after.days, TILE_CHUNK[0]):
            part = slice(first, first + TILE_CHUNK[0])
            if first >= self.before.days or (old[part] != new[part]).any():
                self._stage_all(series_files(STATUS, new[part], first // TILE_CHUNK[0]))
        time = time_values(self.after.start, self.before.days, self.after.days)
        self._stage_all(series_files("time", time, self.before.days // TILE_CHUNK[0]))

    def _stage_all(self, files: Iterator[tuple[str, bytes]]) -> None:
        """Stage files."""
        for key, data in files:
            self.staging.put(key, data)

    def _drift(self, wanted: Mapping[str, Sequence[Take]]) -> Iterator[Drift]:
        """Yield how what came differs from what came before it."""
        for name, parts in wanted.items():
            last = self.before.last_of(name) if self.before.days else None
            for delivery in sorted((d for d, _ in parts if d.path), key=lambda d: (d.start, d.end, d.digest)):
                after = delivery.variable(name)
                assert after is not None  # the ledger takes it for that
                before = last.variable(name) if last is not None and last.path else None
                days = last.day_definition if last is not None else ""
                yield Drift(delivery.name, after, before, delivery.day_definition, days if before else "")
                last = delivery

    def _changes(self) -> Growth:
        """Return what changes, day by day."""
        new, revised, confirmed = {}, {}, {}
        for name in self.after.variables:
            old = np.full(self.after.days, MISSING, np.int8)
            if self.before.days:
                old[: self.before.days] = self.before.status(name)
            now = self.after.status(name)
            new[name] = (old == MISSING) & (now != MISSING)
            revised[name] = self.altered[name] & ~new[name]
            confirmed[name] = (old != now) & ~new[name] & ~revised[name]
        days = {key: _days(self.after, part) for key, part in zip("nrc", (new, revised, confirmed), strict=True)}
        return replace(_state_of(self.after), new=days["n"], revised=days["r"], confirmed=days["c"])


def _within(parts: Sequence[Take], first: int) -> list[Take]:
    """Return what of takes lies in one chunk of time."""
    inside = [(delivery, days[(days >= first) & (days < first + TILE_CHUNK[0])]) for delivery, days in parts]
    return [(delivery, days) for delivery, days in inside if len(days)]


def _tiles(rows: slice, width: int) -> Iterator[tuple[tuple[int, int], slice, slice]]:
    """Yield place, rows and columns of the chunks of a band that begins at a whole chunk."""
    for top in range(rows.start, rows.stop, TILE_CHUNK[1]):
        for left in range(0, width, TILE_CHUNK[2]):
            place = (top // TILE_CHUNK[1], left // TILE_CHUNK[2])
            yield place, slice(top, min(top + TILE_CHUNK[1], rows.stop)), slice(left, min(left + TILE_CHUNK[2], width))


def _padded(values: np.ndarray) -> np.ndarray:
    """Return values, (T, h, w), with the cells that a chunk has beyond the grid, NaN."""
    chunk = np.full((len(values), *TILE_CHUNK[1:]), np.nan, np.float32)
    chunk[:, : values.shape[1], : values.shape[2]] = values
    return chunk


def _check_unchanged(deliveries: Sequence[Delivery]) -> None:
    """Refuse files that are not those that were looked at."""
    problems = []
    for delivery in {d.digest: d for d in deliveries if d.path}.values():
        try:
            about = Path(delivery.path).stat()
            same = (about.st_size, about.st_mtime_ns) == (delivery.size, delivery.modified_ns)
        except OSError:
            same = False
        if not same:
            problems.append(f"{delivery.name} changed or went away while it was read")
    if problems:
        raise SourceUnavailable(itemise("The cube is as it was; look at the source again", problems))
