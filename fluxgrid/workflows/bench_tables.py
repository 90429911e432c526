"""Tables of a benchmark for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

Report = dict[str, Any]

_COLUMNS = ("k pixel-days/s", "range", "of peak", "delivered", "max error", "peak MB", "ours / it")
_RATIO_OF = {
    "ours / torch per pixel": "torch in apply_ufunc, per pixel",
    "ours / xbatcher": "xbatcher + DataLoader",
    "ours / ONNX Runtime": "ONNX Runtime",
    "ours / JAX scan": "JAX scan",
    "ours / XGBoost": "XGBoost through dask",
    "ours / LightGBM": "LightGBM through dask",
}


def bench_tables(report: Report) -> Iterator[Table]:
    """Return what was measured, and the criteria.

    Parameters
    ----------
    report : dict
        Of `fluxgrid.workflows.bench.bench`.

    Yields
    ------
    table : Table
    """
    yield _measured(report)
    yield _criteria(report)


def _measured(report: Report) -> Table:
    """Return models, peers and the rest in one table."""
    table = Table(
        title=Text(_title(report)), caption=Text(_caption(report)), title_justify="left", caption_justify="left"
    )
    table.add_column("")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for row in report["models"]:
        table.add_row(row["model"], *_speed(row), *_shares(row), "")
    table.add_section()
    for row in report["peers"]:
        if row["pixel_days_per_s"] is None:
            table.add_row(row["peer"], Text(row["missing"]))  # its brackets are an extra of pip, not markup
        else:
            table.add_row(row["peer"], *_speed(row), "", "", "", "", _ratio_of(report, row["peer"]))
    table.add_section()
    for name, value in _others(report):
        table.add_row(name, value)
    return table


def _title(report: Report) -> str:
    """Say where and when, and the machine's limits."""
    machine = report["machine"]
    return (
        f"fluxgrid bench, {report['size']}, {report['date'][:10]}: {machine['processor'] or machine['machine']}, "
        f"{machine['cores']} cores, {machine['isa']}\n"
        f"products {machine['gemm_gflops']:.0f} GFLOP/s (at best {machine['gemm_gflops_best']:.0f}, on one thread "
        f"{machine['gemm_gflops_one_thread']:.0f}), copy "
        f"{machine['copy_gb_per_s']:.1f} GB/s, zarr read {machine['read_gb_per_s']:.2f} and written "
        f"{machine['write_gb_per_s']:.2f} GB/s"
    )


def _caption(report: Report) -> str:
    """Say what the columns are."""
    left = f" Left out: {', '.join(report['left_out'])}." if report["left_out"] else ""
    parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in report["parts"].items() if seconds >= 0.5)
    short = report["size"] != "full"
    start = " In short runs the start weighs most: no share or ratio is to be judged." if short else ""
    return (
        f"End to end from zarr to zarr, medians of {report['rounds']} runs in turns; of peak: matrix work of delivered "
        "and spin-up days over the\nproducts of squares; delivered: of delivered days alone. Error against torch in "
        "float64, over the largest value of the flux.\nPeers run GRU-128 over the same cells and days without spin-up, "
        f"trees boosters of their own; ours / it: GRU-128\nover it, per pixel-day, 95 % interval. GPU: {_gpu(report)}."
        f"{start}{left}\n{report['seconds']:.0f} s in all: {parts}."
    )


def _gpu(report: Report) -> str:
    """Say what a GPU did."""
    if isinstance(report["gpu"], str):
        return report["gpu"]
    return ", ".join(f"{row['model']} {row['pixel_days_per_s'] / 1e3:,.0f} k" for row in report["gpu"])


def _speed(row: Report) -> tuple[str, str]:
    """Return the rate and its range over the runs."""
    if "seconds" not in row:
        return f"{row['pixel_days_per_s'] / 1e3:,.1f}", "in its sweep"
    count, seconds = row["pixel_days"], row["seconds"]
    low, high = (count / seconds[end] / 1e3 for end in ("high", "low"))
    return f"{row['pixel_days_per_s'] / 1e3:,.1f}", f"{low:,.1f} to {high:,.1f}"


def _shares(row: Report) -> tuple[str, ...]:
    """Return shares, error and memory of a model."""
    shares = [f"{row[name]:.1%}" if row[name] is not None else "" for name in ("share_of_peak", "share_delivered")]
    error = f"{row['max_error']:.1e}" if row["max_error"] is not None else ""
    return (*shares, error, f"{row['peak_rss_mb']:.0f}" if row["peak_rss_mb"] is not None else "")


def _ratio_of(report: Report, peer: str) -> str:
    """Return how many times as fast ours is as a peer."""
    named = next((name for name, other in _RATIO_OF.items() if other == peer), "")
    row = next((r for r in report["ratios"] if named in (r["name"],) or (not named and r["other"] == peer)), None)
    return "" if row is None else f"{row['ratio']:.2f} {_interval(row)}"


def _interval(row: Report) -> str:
    """Return the interval of a ratio."""
    return "" if row["low"] is None else f"[{row['low']:.2f}, {row['high']:.2f}]"


def _others(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what stands in neither of the two."""
    ensemble, windows = report["ensembles"], report["windows"]
    yield f"a member of {ensemble['members']} x GRU-128 / the single run", f"{ensemble['member_speed']:.2f}"
    if ensemble["bytes_read_ratio"] is not None:
        yield f"bytes read for {ensemble['members']} members / for one", f"{ensemble['bytes_read_ratio']:.3f}"
    for row in report["heads"]:
        yield (
            f"{row['places']} heads {row['kind']}, {row['calibration']} / none",
            f"{row['time_ratio']:.2f} of the time",
        )
    yield "TAM-RL exact / as published, same windows", f"{windows['ratio']:.2f}"
    for row in report["strides"]:
        said = f"{row['stride_over_exact']:.1f} of {row['work_ratio']:.1f} in work: {row['stride_of_work']:.2f}"
        yield f"{row['model']} stride / exact", said
    for row in report["ratios"]:
        if row["name"] in ("ours / JAX scan, compute only", "ours / XGBoost, one flux"):
            yield row["name"], f"{row['ratio']:.2f} {_interval(row)}"
    for row in report["scaling"]:
        what = f"region {row['region']}, {row['years']} years: {row['cells']:,} cells"
        yield what, f"{row['pixel_days_per_s'] / 1e3:,.0f} k pixel-days/s, {row['peak_rss_mb']:.0f} MB"
    for row in report["workers"]:
        yield f"workers {row['workers']}", f"{row['tiles_per_s']:.2f} tiles/s"


def _criteria(report: Report) -> Table:
    """Return the criteria."""
    full = report["size"] == "full"
    title = "Criteria" if full else f"Criteria, which a {report['size']} benchmark shows and cannot judge"
    table = Table(title=Text(title), title_justify="left")
    for name in ("", "bar", "aim", "measured", ""):
        table.add_column(name, justify="left" if not name else "right")
    for row in report["criteria"]:
        sign = "<=" if row["bound"] == "at most" else ">="
        verdict = {True: "met", False: "NOT met" if full else "not met", None: "not measured"}[row["met"]]
        aim = "" if row["aim"] is None else f"{row['aim']:g}"
        measured = "" if row["measured"] is None else f"{row['measured']:.3g}"
        table.add_row(row["criterion"], f"{sign} {row['bar']:g}", aim, measured, verdict)
    return table
