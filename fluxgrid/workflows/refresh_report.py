"""The report of a refresh: JSON for machines, HTML with the picture for people, a few lines for the log."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxgrid import clock
from fluxgrid.config_map import UpscaleConfig
from fluxgrid.errors import FluxgridError
from fluxgrid.files import write_text
from fluxgrid.output.exports import QUICKLOOK
from fluxgrid.provenance import now

if TYPE_CHECKING:
    from fluxgrid.output.archive import StagedUnit
    from fluxgrid.output.guards import Finding
    from fluxgrid.output.revision import Revision
    from fluxgrid.upscaling.tile import TileReport


def success_row(
    config: UpscaleConfig,
    reasons: Mapping[str, int],
    reports: Sequence[TileReport],
    staged: Mapping[int, Mapping[str, StagedUnit]],
    revisions: Sequence[Revision],
    findings: Sequence[Finding],
) -> dict[str, Any]:
    """Return what is known before a publication, for JSON.

    Parameters
    ----------
    config : UpscaleConfig
    reasons : mapping of str to int
        How many tiles began to change for which reason.
    reports : sequence of TileReport
    staged : mapping
        By year, tiles to publish.
    revisions : sequence of Revision
    findings : sequence of Finding

    Returns
    -------
    row : dict
    """
    return {
        "region": str(config.region or ""),
        "why": dict(reasons),
        "computed": {"tiles": len(reports), "units": sum(report.done for report in reports)},
        "changed": {str(year): sorted(tiles) for year, tiles in staged.items()},
        "totals": [row for one in revisions for row in _total_rows(one)],
        "missing": {str(r.year): [r.missing_before.share, r.missing_after.share] for r in revisions},
        "guards": guard_rows(findings),
    }


def guard_rows(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return what guards found, for JSON."""
    return [{"guard": f.guard, "text": f.text, "before": f.before, "after": f.after} for f in findings]


def _total_rows(one: Revision) -> list[dict[str, Any]]:
    """Return the totals of a year, by place and flux, Tg of carbon; before is None in a new year."""
    return [
        {
            "year": one.year,
            "place": place,
            "flux": flux,
            "before_TgC": None if one.is_new else round(float(one.before[flux][number]), 6),
            "after_TgC": round(float(one.after[flux][number]), 6),
        }
        for number, place in enumerate(one.places)
        for flux in one.after
    ]


def failure_row(config: UpscaleConfig, error: Exception, seconds: float, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report of a refresh that failed, with what was known by then."""
    code = getattr(error, "exit_code", 1)
    return {
        **known,
        "region": str(config.region or ""),
        "status": "stopped by a guard" if code == 4 else "failed",
        "exit_code": code,
        "error": str(error) if isinstance(error, FluxgridError) else f"{type(error).__name__}: {error}",
        "started": now(),
        "seconds": {"all": round(seconds, 2)},
    }


def report_text(row: Mapping[str, Any]) -> str:
    """Return the report as lines for a log."""
    lines = [f"{row.get('region', '')}: {row['status']}" + (f", version {row['version']}" if "version" in row else "")]
    if why := row.get("why"):
        lines.append("why: " + ", ".join(f"{reason} ({count} tiles)" for reason, count in why.items()))
    if computed := row.get("computed"):
        lines.append(f"computed: {computed['units']} units of {computed['tiles']} tiles")
    lines += [f"changed: {year}, {len(tiles)} tiles" for year, tiles in row.get("changed", {}).items()]
    region: dict[tuple[int, str], Mapping[str, Any]] = {}
    for total in row.get("totals", ()):  # the region comes before its states
        region.setdefault((total["year"], total["flux"]), total)
    lines += [
        f"{t['flux'].upper()} {t['year']}: {_number(t['before_TgC'])} -> {t['after_TgC']:.4g} Tg C"
        for t in region.values()
    ]
    lines += [f"repaired: {text}" for text in row.get("damages", ())]
    lines += [f"guard {guard['guard']}: {guard['text']}" for guard in row.get("guards", ())]
    lines += [f"warning: {text}" for text in row.get("warnings", ())]
    lines += [f"error: {row['error']}"] if "error" in row else []
    if seconds := row.get("seconds"):
        lines.append("seconds: " + ", ".join(f"{name} {value:g}" for name, value in seconds.items()))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    """Return a total, or that there was none."""
    return "none" if value is None else f"{value:.4g}"


def write_reports(folder: Path, row: Mapping[str, Any], export: Path | None = None) -> tuple[Path, ...]:
    """Write a report as JSON and HTML, named by the time.

    Parameters
    ----------
    folder : Path
    row : mapping
    export : Path, optional
        Exported version, whose picture is shown.

    Returns
    -------
    files : tuple of Path
        JSON first.

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    status = re.sub(r"[^a-z]+", "-", str(row["status"]))
    stem = f"{clock.utc():%Y%m%dT%H%M%S}-{status}"
    names = (f"{stem}-{count}" if count else stem for count in range(1000))
    stem = next(name for name in names if not (folder / f"{name}.json").exists())
    files = folder / f"{stem}.json", folder / f"{stem}.html"
    put_reports(files, row, export)
    return files


def put_reports(files: tuple[Path, ...], row: Mapping[str, Any], export: Path | None = None) -> None:
    """Write a report into files that `write_reports` named."""
    for file, text in zip(files, (json.dumps(row, indent=1), _page(row, export)), strict=True):
        write_text(file, text)


def _page(row: Mapping[str, Any], export: Path | None) -> str:
    """Return the HTML page; it needs no other file."""
    title = html.escape(f"{row.get('region', '')}: {row['status']}")
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<title>{title}</title>",
        "<style>body{font:15px sans-serif;max-width:70em;margin:2em auto;color:#222}table{border-collapse:collapse}"
        "td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child"
        "{text-align:left}img{max-width:100%}pre{white-space:pre-wrap}</style>",
        f"<h1>{title}</h1><pre>{html.escape(report_text(row))}</pre>",
    ]
    if totals := row.get("totals"):
        cells = (
            [t["place"], t["year"], t["flux"].upper(), _number(t["before_TgC"]), f"{t['after_TgC']:.4g}"]
            for t in totals
        )
        parts.append(_table(("place", "year", "flux", "before, Tg C", "after, Tg C"), cells))
    if guards := row.get("guards"):
        cells = ([g["guard"], g["text"], g["before"], g["after"]] for g in guards)
        parts.append("<h2>Guards</h2>" + _table(("guard", "what", "before", "after"), cells))
    picture = export / QUICKLOOK if export else None
    if picture is not None and picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode()
        parts.append(f"<img alt='Map of the newest year' src='data:image/png;base64,{data}'>")
    return "\n".join(parts) + "\n</html>\n"


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return an HTML table."""
    lines = ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
    first = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f"<table><tr>{first}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
