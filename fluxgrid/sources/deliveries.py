"""What a source now has: a folder or URL prefix of CF NetCDF files that somebody else drops, looked at again and again.

A look costs a listing where nothing changed: size and time of each file, or what the server says of it, are kept in a
small JSON file with what was found inside. Files change under the eyes of a look. One that is being copied, or cannot
be read, is no error: it waits, and is called damaged if the next look finds the very same bytes.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pandas as pd
from blake3 import blake3

from fluxgrid import clock
from fluxgrid.data.cube.build import as_mapping
from fluxgrid.data.cube.delivery import Delivery, OpenDelivery, Status, describe, grid_text, open_delivery
from fluxgrid.data.mapping import CubeMapping
from fluxgrid.errors import ConfigError, CubeError, SourceUnavailable
from fluxgrid.files import write_text
from fluxgrid.provenance import digest
from fluxgrid.sources.remote import INDEXES, ask_remote, fetch_remote, list_remote

_TEMPORARY = re.compile(r"(^[.~])|(\.(tmp|temp|part|partial|crdownload|filepart|download|lock)(\.|$))|(~$)")
_STATE_VERSION = 1
_RACY_NS = 2 * 10**9
"""A file changed so shortly before it was read may change again within one tick of its disk's clock."""


@dataclass(frozen=True)
class StatusRule:
    """How a file says whether its stream is preliminary or final."""

    attribute: str = "status"
    """Global attribute that says so; its first word counts, in any case."""
    in_name: bool = False
    """Whether the name of the file says so instead: the words below are then parts of it."""
    provisional: tuple[str, ...] = ("provisional", "preliminary")
    final: tuple[str, ...] = ("final",)
    otherwise: Status | None = None
    """What files are that do not say; they are refused if that is left open."""

    def of(self, name: str, attributes: Mapping[str, Any]) -> Status | None:
        """Return the status of a file; None if it does not say.

        Examples
        --------
        >>> StatusRule().of("w01.nc", {"status": "Provisional"}), StatusRule().of("w01.nc", {})
        ('provisional', None)
        >>> StatusRule(in_name=True, provisional=("_nrt",), final=("_v1",)).of("rain_v1_2018.nc", {})
        'final'
        """
        text = name.lower() if self.in_name else str(attributes.get(self.attribute, "")).lower()
        for status, words in (("provisional", self.provisional), ("final", self.final)):
            said = any(word.lower() in text if self.in_name else text.split()[:1] == [word.lower()] for word in words)
            if said:
                return "provisional" if status == "provisional" else "final"
        return self.otherwise


@dataclass(frozen=True)
class DeliverySource:
    """Where somebody drops files, and how they are to be read."""

    location: str
    """A folder, a file:// URL of one, or an http(s) prefix with an index file or a listing."""
    mapping: CubeMapping = field(default_factory=CubeMapping)
    """What the files do not say themselves about axes, names and units."""
    pattern: str = "*.nc"
    status: StatusRule = StatusRule()
    issued: str = "date_created"
    """Global attribute that says when the content came to be; the file's own time where it is missing."""
    settle: float = 5.0
    """Seconds for which a file must not have changed: a shorter time ago it may be still being copied."""
    reopen: int = 90
    """Days before the newest one for which a server is asked file by file whether they changed, where its index does
    not say."""
    copies: Path | None = None
    """Folder for copies of files behind a URL."""

    @property
    def remote(self) -> bool:
        """Whether it is behind a URL."""
        return urlsplit(self.location).scheme in ("http", "https")


@dataclass(frozen=True)
class Unusable:
    """A file that is there and cannot be used."""

    name: str
    reasons: tuple[str, ...]
    since: str
    """When it was first found so, UTC in ISO 8601."""


@dataclass(frozen=True)
class Look:
    """What a source has."""

    deliveries: tuple[Delivery, ...]
    """Files that can be used, by start, end and name."""
    waiting: tuple[Unusable, ...]
    """Files not yet readable: being copied, or read in vain for the first time."""
    damaged: tuple[Unusable, ...]
    """Files that cannot be read and are the same bytes as at the look before."""
    refused: tuple[Unusable, ...]
    """Files that can be read and not used: units, axes, no status."""
    gone: tuple[str, ...]
    """Names that were there at the look before and are not any more."""


@dataclass(frozen=True)
class _Listed:
    """A file as the listing has it."""

    name: str
    stamp: str
    """Changes when the file does; empty where the listing does not tell."""
    modified_ns: int
    path: Path
    """Where it is or shall be."""


@dataclass(frozen=True)
class _Entry:
    """What is remembered of a file."""

    stamp: str
    digest: str
    delivery: Delivery | None = None
    unreadable: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    since: str = ""
    racy: bool = False
    damaged: bool = field(default=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        values = {key: value for key, value in vars(self).items() if key != "damaged"}
        return values | {"delivery": self.delivery.to_dict() if self.delivery else None}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> _Entry:
        """Return what `to_dict` gave."""
        delivery = Delivery.from_dict(content["delivery"]) if content["delivery"] else None
        texts = {key: tuple(content[key]) for key in ("unreadable", "refused")}
        return cls(**{**content, **texts, "delivery": delivery})


def look(source: DeliverySource, state: Path | str) -> Look:
    """Find out what a source now has.

    Parameters
    ----------
    source : DeliverySource
    state : path
        JSON file in which looks remember what they found; made if missing, written only if anything changed. Lost or
        damaged it costs time and nothing else, but that ``since`` and ``seen`` begin anew.

    Returns
    -------
    look : Look

    Raises
    ------
    SourceUnavailable
        If folder or server cannot be reached, or all files of the look before are gone at once.
    ConfigError
        If the location is something else, or nothing says where copies shall be.
    OutputError
        If state or copies cannot be written.
    """
    _check(source)
    state = Path(state)
    rules = digest(source.location, source.mapping.model_dump(mode="json"), _rules(source))
    known = _read_state(state, rules)
    listed = list(_listed(source))
    if known and not listed:
        message = (
            f"{source.location} holds nothing of the {len(known)} files it held before. If it is a mounted disk, mount "
            f"it; if they are meant to be gone, remove {state}."
        )
        raise SourceUnavailable(message)
    since = _horizon(source, known)
    entries = {file.name: _entry(source, file, known.get(file.name), since) for file in listed}
    if entries != known:
        content = {"version": _STATE_VERSION, "rules": rules}
        write_text(state, json.dumps(content | {"files": {name: entry.to_dict() for name, entry in entries.items()}}))
    return _look(entries, tuple(sorted(known.keys() - entries.keys())))


def _check(source: DeliverySource) -> None:
    """Refuse locations that are none of ours."""
    scheme = urlsplit(source.location).scheme
    if scheme and "://" in source.location and scheme not in ("http", "https", "file"):
        message = f"{source.location} cannot be looked at: give a folder, or a URL of file, http or https."
        raise ConfigError(message)
    if source.remote and source.copies is None:
        message = f"{source.location} is behind a URL: say in which folder copies of its files shall be (copies)."
        raise ConfigError(message)


def _rules(source: DeliverySource) -> list[Any]:
    """Return all that decides what is found in a file."""
    rule = source.status
    return [rule.attribute, rule.in_name, rule.provisional, rule.final, rule.otherwise, source.issued]


def _read_state(path: Path, rules: str) -> dict[str, _Entry]:
    """Return what is remembered; nothing if it was found by other rules, or cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["version"], content["rules"]) != (_STATE_VERSION, rules):
            return {}
        return {name: _Entry.from_dict(entry) for name, entry in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _horizon(source: DeliverySource, known: Mapping[str, _Entry]) -> str:
    """Return the day before which a server is not asked again."""
    ends = [entry.delivery.end for entry in known.values() if entry.delivery]
    return str((pd.Timestamp(max(ends)) - timedelta(days=source.reopen)).date()) if ends else ""


def _listed(source: DeliverySource) -> Iterator[_Listed]:
    """Yield the files of a source, by name."""
    found = _remote_files(source) if source.remote else _files_of(source)
    return iter(sorted(found, key=lambda file: file.name))


def _remote_files(source: DeliverySource) -> Iterator[_Listed]:
    """Yield the files behind a URL."""
    assert source.copies is not None  # checked at the door
    for remote in list_remote(source.location):
        if remote.name not in INDEXES and _matches(remote.name, source.pattern):
            yield _Listed(remote.name, remote.stamp, remote.modified_ns, source.copies / remote.name)


def _files_of(source: DeliverySource) -> Iterator[_Listed]:
    """Yield the files of a folder."""
    parts = urlsplit(source.location)
    folder = Path(unquote(parts.path)) if parts.scheme == "file" else Path(source.location).expanduser()
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        message = (
            f"{folder} cannot be looked at ({error.strerror}). Check the path, mount the disk, or try again later."
        )
        raise SourceUnavailable(message) from error
    for path in paths:
        if not _matches(path.name, source.pattern):
            continue
        try:
            about = path.stat()
        except FileNotFoundError:  # moved away while we look
            continue
        except OSError as error:
            message = f"{path} cannot be looked at ({error.strerror}). Try again later."
            raise SourceUnavailable(message) from error
        if path.is_file():
            yield _Listed(path.name, f"{about.st_size} {about.st_mtime_ns}", about.st_mtime_ns, path)


def _matches(name: str, pattern: str) -> bool:
    """Return whether a name is that of a delivery, or of one being copied under another name."""
    if fnmatch.fnmatch(name, pattern):
        return True
    # the name that is meant, with what was put around it: .w01.nc.x7Gh2, w01.nc.part, w01.nc~
    bare = re.sub(r"^[.~]+|~+$", "", name)
    stems = [bare, *(bare[: cut.start()] for cut in re.finditer(r"\.", bare))]
    return bool(_TEMPORARY.search(name)) and any(fnmatch.fnmatch(stem, pattern) for stem in stems)


def _entry(source: DeliverySource, file: _Listed, known: _Entry | None, since: str | None) -> _Entry:
    """Return what there is to know of a file, from memory where it has not changed."""
    if _TEMPORARY.search(file.name):
        return _waits(known, "it has a temporary name")
    if not file.stamp:
        if known is not None and _settled(known, file, since):
            return known
        asked = ask_remote(source.location, file.name)
        if asked is None:
            return _waits(known, "it is listed but not there")
        file = replace(file, stamp=asked.stamp, modified_ns=asked.modified_ns)
    if known is not None and _same(known, file):
        return known
    if 0 <= clock.utc().timestamp() - file.modified_ns / 1e9 < source.settle:
        return _waits(known, f"it changed less than {source.settle:g} s ago")
    if source.remote:
        problem = fetch_remote(source.location, file.name, file.path, file.modified_ns)
        if problem is not None:
            return _waits(known, problem)
    return _read(source, file, known)


def _settled(known: _Entry, file: _Listed, since: str | None) -> bool:
    """Return whether a file is so old that its server is not asked about it."""
    return bool(since) and known.delivery is not None and known.delivery.end < str(since) and file.path.exists()


def _same(known: _Entry, file: _Listed) -> bool:
    """Return whether a file is as it was; what could not be read is always tried again."""
    readable = not (known.unreadable or known.racy) and file.path.exists()
    return readable and bool(file.stamp) and known.stamp == file.stamp


def _waits(known: _Entry | None, reason: str) -> _Entry:
    """Return the entry of a file that is not looked into."""
    since = known.since if known is not None and known.unreadable else _now()
    return _Entry("", "", unreadable=(reason,), since=since)


def _read(source: DeliverySource, file: _Listed, known: _Entry | None) -> _Entry:
    """Return what is found in a file."""
    try:
        before = file.path.stat()
        with file.path.open("rb") as content:
            found = blake3()
            while part := content.read(2**22):
                found.update(part)
    except OSError as error:
        return _waits(known, f"it cannot be read ({error.strerror})")
    stamp = file.stamp if source.remote else f"{before.st_size} {before.st_mtime_ns}"
    # what was changed within the last tick of a clock may be changed again without a trace
    racy = not source.remote and 0 <= int(clock.utc().timestamp() * 1e9) - before.st_mtime_ns < _RACY_NS
    base = _Entry(stamp, found.hexdigest(), racy=racy)
    if known is not None and known.digest == base.digest and known.delivery is not None:
        same = replace(known.delivery, path=str(file.path), size=before.st_size, modified_ns=before.st_mtime_ns)
        return replace(base, delivery=same)
    entry = _looked_into(source, replace(file, modified_ns=before.st_mtime_ns), base, known)
    after = file.path.stat() if file.path.exists() else None
    if after is None or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        return _waits(known, "it changed while it was read")
    if entry.delivery is None:
        return entry
    return replace(entry, delivery=replace(entry.delivery, size=before.st_size, modified_ns=before.st_mtime_ns))


def _looked_into(source: DeliverySource, file: _Listed, base: _Entry, known: _Entry | None) -> _Entry:
    """Return the entry of a file whose content is new, or was unreadable before."""
    same = known is not None and known.digest == base.digest
    since = known.since if known is not None and (same or known.unreadable) and known.since else _now()
    opened = None
    try:
        opened = open_delivery(file.path, as_mapping(source.mapping))
        problems, status = list(opened.problems), source.status.of(file.name, opened.reader.raw.attrs)
        if status is None:
            problems.append(_no_status(source.status, opened))
        if problems or status is None:
            return replace(base, refused=tuple(problems), since=since)
        return replace(base, delivery=_delivery(source, file, base.digest, status, opened))
    except CubeError as error:
        return replace(base, unreadable=(_first_line(error),), since=since, damaged=same)
    finally:
        if opened is not None:
            opened.close()


def _no_status(rule: StatusRule, opened: OpenDelivery) -> str:
    """Say that a file does not say whether it is final."""
    where = "its name" if rule.in_name else f"its attribute {rule.attribute!r}"
    given = "" if rule.in_name else f" ({opened.reader.raw.attrs.get(rule.attribute, 'missing')})"
    words = ", ".join((*rule.provisional, *rule.final))
    return f"{where}{given} says none of {words}; name another attribute, or what files are otherwise"


def _delivery(source: DeliverySource, file: _Listed, found: str, status: Status, opened: OpenDelivery) -> Delivery:
    """Return a file as a delivery, after reading all of it."""
    layout, attrs = opened.layout, opened.reader.raw.attrs
    assert layout.time is not None  # told as a problem before
    assert layout.grid is not None
    return Delivery(
        name=file.name,
        path=str(file.path),
        size=0,  # of the very bytes that were read; the caller knows
        modified_ns=0,
        digest=found,
        status=status,
        issued=_issued(attrs.get(source.issued), file),
        seen=_now(),
        start=str(layout.time[0].date()),
        end=str(layout.time[-1].date()),
        grid=grid_text(layout.grid),
        day_definition=str(source.mapping.day_definition or attrs.get("day_definition", "")),
        variables=describe(opened),
    )


def _issued(text: Any, file: _Listed) -> str:
    """Return when a content came to be: as it says, or else when the file was changed."""
    try:
        stamp = pd.Timestamp(str(text))
        stamp = stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")
        return str(stamp.strftime("%Y-%m-%dT%H:%M:%SZ"))
    except (ValueError, TypeError):
        return datetime.fromtimestamp(file.modified_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _first_line(error: Exception) -> str:
    """Return the first line of a message."""
    return str(error).splitlines()[0]


def _now() -> str:
    """Return the time in UTC, to the second, ISO 8601."""
    return clock.utc().strftime("%Y-%m-%dT%H:%M:%SZ")


def _look(entries: Mapping[str, _Entry], gone: tuple[str, ...]) -> Look:
    """Return what was found, sorted by what it is good for."""
    found = [entry.delivery for entry in entries.values() if entry.delivery]
    unreadable = {name: entry for name, entry in entries.items() if entry.unreadable}
    return Look(
        tuple(sorted(found, key=lambda delivery: (delivery.start, delivery.end, delivery.name))),
        tuple(Unusable(name, e.unreadable, e.since) for name, e in unreadable.items() if not e.damaged),
        tuple(Unusable(name, e.unreadable, e.since) for name, e in unreadable.items() if e.damaged),
        tuple(Unusable(name, e.refused, e.since) for name, e in entries.items() if e.refused),
        gone,
    )
