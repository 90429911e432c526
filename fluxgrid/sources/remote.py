"""Files behind a URL: what there is, by an index or a listing, and copies of them here."""

from __future__ import annotations

import http.client
import json
import os
import posixpath
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from fluxgrid.errors import SourceUnavailable
from fluxgrid.files import atomic_path

INDEXES = ("index.json", "index.txt")
"""Looked for below a prefix, in this order, before its listing."""
_SECONDS = 60.0
"""For which a server may be silent."""
_WHOLE_SECONDS = 3600.0
"""That one answer may take, however steadily it trickles."""
_MOST_INDEX, _MOST_FILE = 2**26, 2**36
"""Bytes of an index or listing, and of a file: more is no list and no delivery."""
_PART = 2**20
_FAILURES = (OSError, http.client.HTTPException, ValueError)  # URLError is an OSError
_NAME = re.compile(r"[^/\\?#:]+")
_LONGEST_NAME = 200  # bytes; disks take 255, with what is put around it while it is copied


@dataclass(frozen=True)
class Remote:
    """What a server says of a file."""

    name: str
    stamp: str
    """Changes when the content does: ETag, or time and length; empty where the index does not say."""
    modified_ns: int = 0
    """When it was last changed, ns since 1970; 0 where that is not known."""


class _Links(HTMLParser):
    """Collect what a listing links to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the target of a link."""
        if tag == "a":
            self.found += [value for key, value in attrs if key == "href" and value]


class _Broken(Exception):
    """An answer that begins and is not sent whole."""


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follow a server to http and https only, never to a file of this machine or out of an encrypted connection."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the request that follows."""
        if not newurl.startswith(("http://", "https://")):
            message = f"it leads to {newurl}"
            raise urllib.error.URLError(message)
        if req.type == "https" and newurl.startswith("http://"):
            message = f"it leads from https to {newurl}, which anybody on the way may read and change"
            raise urllib.error.URLError(message)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SameScheme)


def list_remote(prefix: str) -> list[Remote]:
    """Return the files below a prefix: of ``index.json``, ``index.txt``, or else of the server's listing.

    ``index.json`` is a list of names, or of objects with ``name`` and, as far as known, ``etag`` (or ``digest``),
    ``size`` and ``modified`` (ISO 8601; UTC where it has no offset). ``index.txt`` has one name a line. Names with a
    folder are left out.

    Parameters
    ----------
    prefix : str
        http or https.

    Returns
    -------
    files : list of Remote

    Raises
    ------
    SourceUnavailable
        If the server cannot be reached, or answers with neither.
    """
    for index in INDEXES:
        text = _text(f"{prefix.rstrip('/')}/{index}", absent_is_none=True)
        if text is not None:
            return list(_of_json(text, prefix) if index.endswith("json") else _of_names(text.splitlines()))
    links, text = _Links(), _text(prefix.rstrip("/") + "/") or ""
    try:
        links.feed(text)
    except AssertionError as error:  # that is how the parser says that a mark is not closed
        message = f"{prefix} answers with no listing that can be read ({error}). Ask who runs it for an index.json."
        raise SourceUnavailable(message) from error
    return list(_of_names(urllib.parse.unquote(link) for link in links.found))


def _text(url: str, absent_is_none: bool = False) -> str | None:
    """Return a text behind a URL; None if the server says there is none."""
    with _answer(url, "GET", absent_is_none) as answer:
        if answer is None:
            return None
        try:
            return b"".join(_received(answer, _MOST_INDEX)).decode("utf-8", errors="replace")
        except _Broken as error:
            raise _unavailable(url, error) from error


def _of_json(text: str, prefix: str) -> Iterator[Remote]:
    """Yield the files of an index."""
    try:
        for entry in json.loads(text):
            about = {"name": entry} if isinstance(entry, str) else dict(entry)
            if not _plain(str(about["name"])):
                continue
            tag = about.get("etag") or about.get("digest") or ""
            when = str(about.get("modified") or "")
            ns = _since_1970(when) if when else 0
            parts = [str(part) for part in (tag, when, about.get("size") or "") if part]
            yield Remote(str(about["name"]), " ".join(parts), ns)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{prefix}/index.json is no list of files ({type(error).__name__}: {error}). Ask who writes it."
        raise SourceUnavailable(message) from error


def _since_1970(when: str) -> int:
    """Return a time of ISO 8601 in ns since 1970; one without an offset is UTC."""
    found = datetime.fromisoformat(when)
    aware = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return int(aware.timestamp() * 10**9)


def _of_names(names: Any) -> Iterator[Remote]:
    """Yield files of which only the names are known."""
    for name in dict.fromkeys(line.strip().removeprefix("./") for line in names):
        if _plain(name):
            yield Remote(name, "")


def _plain(name: str) -> bool:
    """Return whether a name is that of a file right below the prefix, and of none elsewhere."""
    file = bool(_NAME.fullmatch(name)) and name not in (".", "..") and posixpath.basename(name) == name
    return file and name.isprintable() and len(name.encode()) <= _LONGEST_NAME


def ask_remote(prefix: str, name: str) -> Remote | None:
    """Return what the server says of a file; None if it has it no more.

    Raises
    ------
    SourceUnavailable
        If it cannot be reached.
    """
    with _answer(_url(prefix, name), "HEAD", absent_is_none=True) as answer:
        return None if answer is None else _about(name, answer.headers)


def fetch_remote(prefix: str, name: str, path: Path, modified_ns: int = 0) -> str | None:
    """Copy a file to a path here, which appears whole; its time of change is that of the server.

    Parameters
    ----------
    prefix, name : str
    path : Path
    modified_ns : int
        When the index says it was changed, for servers that do not say themselves.

    Returns
    -------
    problem : str or None
        Why there is no copy although the server answered: the file is gone, or was not sent whole.

    Raises
    ------
    SourceUnavailable
        If the server cannot be reached.
    OutputError
        If the copy cannot be written.
    """
    with _answer(_url(prefix, name), "GET", absent_is_none=True) as answer:
        if answer is None:
            return "it is listed but not there"
        about = _about(name, answer.headers)
        try:
            with atomic_path(path) as temporary:
                with temporary.open("wb") as file:
                    file.writelines(_received(answer, _MOST_FILE))
                if about.modified_ns or modified_ns:
                    os.utime(temporary, ns=(about.modified_ns or modified_ns,) * 2)
        except _Broken as error:
            return f"it was not sent whole: {error}"
    return None


def _received(answer: Any, most: int) -> Iterator[bytes]:
    """Yield what a server sends, up to so many bytes.

    What the connection raises is told apart here from what the disk raises where the bytes are written: the one passes
    by itself, the other needs a person.
    """
    begun, sent, stated = time.monotonic(), 0, answer.headers.get("Content-Length", "")
    while True:
        try:
            part = answer.read1(_PART)  # not `read`, which waits for all of a part, however slowly it comes
        except _FAILURES as error:
            message = f"the connection broke after {sent} bytes ({error})"
            raise _Broken(message) from error
        if not part:
            break
        sent += len(part)
        if sent > most:
            message = f"it is larger than {most} bytes"
            raise _Broken(message)
        if time.monotonic() - begun > _WHOLE_SECONDS:
            message = f"it took more than {_WHOLE_SECONDS:g} s for {sent} bytes"
            raise _Broken(message)
        yield part
    if stated.isdecimal() and sent != int(stated):
        message = f"{sent} of {stated} bytes"
        raise _Broken(message)


def _url(prefix: str, name: str) -> str:
    """Return the URL of a file."""
    return f"{prefix.rstrip('/')}/{urllib.parse.quote(name)}"


def _about(name: str, headers: Any) -> Remote:
    """Return what the headers of an answer say."""
    when = headers.get("Last-Modified")
    parts = [headers.get("ETag"), when, headers.get("Content-Length")]
    return Remote(name, " ".join(str(part) for part in parts if part), _header_time(when))


def _header_time(when: str | None) -> int:
    """Return the time of a header in ns since 1970; 0 where there is none, or nobody can read it."""
    try:
        return int(parsedate_to_datetime(when).timestamp() * 10**9) if when else 0
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0


@contextmanager
def _answer(url: str, method: str, absent_is_none: bool = False) -> Iterator[Any]:
    """Give the answer of a server."""
    try:
        answer = _OPENER.open(urllib.request.Request(url, method=method), timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if absent_is_none and error.code in (404, 410):
            yield None
            return
        raise _unavailable(url, error) from error
    except _FAILURES as error:
        raise _unavailable(url, error) from error
    with answer:
        yield answer


def _unavailable(url: str, error: Exception) -> SourceUnavailable:
    """Return the error of a source that does not answer."""
    return SourceUnavailable(f"{url} cannot be reached ({error}). Check the address, or try again later.")
