"""What stops a publication: each guard has a name by which a person can override it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fluxgrid.errors import PublicationStopped, itemise
from fluxgrid.output.revision import Revision

GUARDS = {
    "shrink": "less would be covered than before",
    "missing": "the share of missing values jumps",
    "inputs": "units, names or ranges of an input are others than last time",
    "totals": "fluxes of the region move beyond a bound",
    "coverage": "tiles or too many land cells' steps have no value",
    "check": "the staged map is not sound",
    "rollback": "a person took the archive back to an older state",
}
"""Guards by name."""


@dataclass(frozen=True)
class Finding:
    """A guard that speaks."""

    guard: str
    text: str
    """What it found."""
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        """Say it in one line."""
        change = f": {self.before} before, {self.after} after" if self.before or self.after else ""
        return f"{self.guard}: {self.text}{change}"


def check_findings(findings: Iterable[Finding], allowed: Sequence[str]) -> None:
    """Stop unless every guard that speaks is overridden.

    Parameters
    ----------
    findings : iterable of Finding
    allowed : sequence of str
        Names of guards.

    Raises
    ------
    PublicationStopped
        Listing every finding that is not allowed.
    """
    stopping = [finding for finding in findings if finding.guard not in allowed]
    if stopping:
        names = " ".join(f"--allow {name}" for name in dict.fromkeys(finding.guard for finding in stopping))
        header = "Nothing was published; what was computed is kept, and readers see the state before. Guards found"
        message = f"{itemise(header, map(str, stopping))}\nLook at the sources. If it is right, publish with {names}."
        raise PublicationStopped(message)


def missing_findings(revisions: Iterable[Revision], jump: float) -> Iterator[Finding]:
    """Yield years whose share of missing values rises by more than a bound, 0 to 1."""
    for one in revisions:
        before, after = one.missing_before.share, one.missing_after.share
        if not one.is_new and after - before > jump:
            yield Finding("missing", f"values missing in {one.year}", f"{before:.2%}", f"{after:.2%}")


def coverage_findings(revisions: Iterable[Revision], most: float, absent: Mapping[int, int]) -> Iterator[Finding]:
    """Yield years with more missing values than allowed, 0 to 1, or with tiles that nobody has.

    Parameters
    ----------
    revisions : iterable of Revision
    most : float
        Largest share.
    absent : mapping of int to int
        Number of tiles that are neither published nor staged, by year.
    """
    for year, count in absent.items():
        if count:
            yield Finding("coverage", f"{count} tiles of {year} are neither published nor computed")
    for one in revisions:
        if (share := one.missing_after.share) > most:
            yield Finding(
                "coverage", f"{share:.1%} of {one.year} has no value; {most:.0%} may be missing (max_missing)"
            )


def totals_findings(revisions: Iterable[Revision], bound: float) -> Iterator[Finding]:
    """Yield fluxes of the region that move by more than a share of its largest flux before."""
    for one in revisions:
        scale = max((abs(old) for old, _ in one.common.values()), default=0.0)
        for flux, (old, new) in one.common.items():
            if scale and abs(new - old) > bound * scale:
                text = f"{flux.upper()} of {one.places[0]} in {one.year}, where both have a value"
                yield Finding("totals", text, f"{old:.4g} Tg C", f"{new:.4g} Tg C")


def check_problems(revisions: Iterable[Revision]) -> Iterator[Finding]:
    """Yield what is wrong with staged maps."""
    for one in revisions:
        for problem in one.problems:
            yield Finding("check", f"{one.year}, {problem}")


def input_findings(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Finding]:
    """Yield inputs that are described otherwise than last time.

    Parameters
    ----------
    before, after : mapping of str to str
        Unit and the like of each input, as text.
    """
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            yield Finding("inputs", f"{name} is described otherwise", before[name], after[name])
