"""What a publication would take away from readers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fluxgrid.errors import PublicationStopped
from fluxgrid.output.archive.build import Draft
from fluxgrid.output.archive.layout import UnitName, Version
from fluxgrid.output.archive.times import moment_of


@dataclass(frozen=True)
class Shrinkage:
    """What a publication would take away from readers."""

    covered: tuple[str, str] | None
    """End of what is covered, before and after, if it moves back."""
    units: tuple[tuple[UnitName, int, int], ...]
    """Units with fewer steps that have a net flux, and how many they had and would have."""
    values: int
    """Cell-steps with a net flux that are lost in these units."""

    def __bool__(self) -> bool:
        """Whether anything shrinks."""
        return self.covered is not None or bool(self.units)


class ArchiveWouldShrink(PublicationStopped):
    """A publication would cover less than the state before; ``shrinkage`` says what."""

    def __init__(self, message: str, shrinkage: Shrinkage) -> None:
        super().__init__(message)
        self.shrinkage = shrinkage


def shrinkage_of(drafts: Iterable[Draft], parent: Version | None, covered: str | None) -> Shrinkage:
    """Return what a publication would take away."""
    less: list[tuple[UnitName, int, int]] = []
    values = 0
    for draft in drafts:
        for tile, old in draft.before.items():
            new = draft.after[tile]
            if new.steps < old.steps:
                less.append(((tile, draft.year), old.steps, new.steps))
                values += old.values - new.values
    known = parent.covered if parent else None
    back = known and covered and moment_of(covered, end=False) < moment_of(known, end=False)
    return Shrinkage((known, covered) if back and known and covered else None, tuple(less), values)


def check_shrinkage(shrinkage: Shrinkage, allowed: bool) -> None:
    """Refuse a publication that covers less."""
    if allowed or not shrinkage:
        return
    parts = []
    if shrinkage.covered:
        parts.append("its end would move back from {} to {}".format(*shrinkage.covered))
    if shrinkage.units:
        (tile, year), before, after = shrinkage.units[0]
        parts.append(
            f"{len(shrinkage.units)} units would lose steps ({shrinkage.values} values), such as {tile} of {year}: "
            f"{before} before, {after} after"
        )
    message = (
        f"The archive would shrink: {'; '.join(parts)}. Nothing was published. Look whether a source failed; "
        "allow it by name (allow_shrink) if it is right."
    )
    raise ArchiveWouldShrink(message, shrinkage)
