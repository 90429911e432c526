"""What the benchmark must show: each criterion with its bar, its aim, and where in the report its figure stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fluxgrid.bench.scaling import growth

Report = dict[str, Any]
_ROUNDS = 5
"""Least number of rounds whose interval is judged."""


@dataclass(frozen=True)
class Criterion:
    """One criterion."""

    name: str
    """In words."""
    bar: float
    find: Callable[[Report], float | None]
    """Its figure in a report; None where it was not measured."""
    aim: float | None = None
    at_most: bool = False
    """Whether less is better."""

    def judge(self, report: Report) -> dict[str, Any]:
        """Return the criterion with what was measured, and whether it is met; None where it was not measured."""
        measured = self.find(report)
        met = None
        if measured is not None:
            met = measured <= self.bar if self.at_most else measured >= self.bar
        bound = "at most" if self.at_most else "at least"
        return {
            "criterion": self.name,
            "bound": bound,
            "bar": self.bar,
            "aim": self.aim,
            "measured": measured,
            "met": met,
        }


def judge_all(report: Report) -> list[dict[str, Any]]:
    """Return all criteria with what was measured.

    Parameters
    ----------
    report : dict
        As `fluxgrid bench --json` writes it.

    Returns
    -------
    rows : list of dict
        ``criterion``, ``bound``, ``bar``, ``aim``, ``measured``, ``met``.
    """
    return [criterion.judge(report) for criterion in CRITERIA]


def _row(report: Report, section: str, key: str, name: str) -> dict[str, Any]:
    """Return the row of a section that bears a name; an empty one where there is none."""
    rows = report.get(section) or []
    return next((row for row in rows if row[key] == name), {}) if isinstance(rows, list) else {}


def _model(name: str, figure: str) -> Callable[[Report], float | None]:
    """Return what finds a figure of a model."""
    return lambda report: _row(report, "models", "model", name).get(figure)


def _ratio(name: str, figure: str = "ratio") -> Callable[[Report], float | None]:
    """Return what finds a ratio, or the lower end of its interval, which of a few rounds says nothing."""

    def find(report: Report) -> float | None:
        row = _row(report, "ratios", "name", name)
        return row.get(figure) if figure == "ratio" or row.get("n", 0) >= _ROUNDS else None

    return find


def _worst_error(report: Report) -> float | None:
    """Return the largest error of the four networks that have a bar, if all of them were measured."""
    found = [_row(report, "models", "model", name).get("max_error") for name in HELD]
    known = [value for value in found if value is not None]
    return max(known) if len(known) == len(HELD) else None


def _worst_head(calibration: str) -> Callable[[Report], float | None]:
    """Return what finds the largest time ratio of a calibration over none."""

    def find(report: Report) -> float | None:
        rows = [row["time_ratio"] for row in report.get("heads") or [] if row["calibration"] == calibration]
        return max(rows) if rows else None

    return find


def _growth(axis: str) -> Callable[[Report], float | None]:
    """Return what finds the growth of memory along the region or the years."""

    def find(report: Report) -> float | None:
        rows = [row for row in report.get("scaling") or [] if row["axis"] == axis]
        return growth(rows) if rows else None

    return find


def _xgboost(name: str) -> Callable[[Report], float | None]:
    """Return what finds ours over XGBoost, of the trees that the criterion speaks of."""
    return lambda report: _ratio(name)(report) if report.get("trees") == 1000 else None


def _ensemble(figure: str) -> Callable[[Report], float | None]:
    """Return what finds a figure of the ensemble."""
    return lambda report: (report.get("ensembles") or {}).get(figure)


def _strides(report: Report) -> float | None:
    """Return the least that a network's stride gains over exact, of the ratio of their work."""
    return min((row["stride_of_work"] for row in report.get("strides") or []), default=None)


def _windows(figure: str) -> Callable[[Report], float | None]:
    """Return what finds a figure of TAM-RL's windows."""
    return lambda report: (report.get("windows") or {}).get(figure)


def _workers(report: Report) -> float | None:
    """Return the speed of two workers over one."""
    rows = {row["workers"]: row["tiles_per_s"] for row in report.get("workers") or []}
    return rows[2] / rows[1] if len(rows) == 2 else None


def _gpu(report: Report) -> float | None:
    """Return the largest difference of a GPU from the CPU."""
    rows = report.get("gpu")
    return max((row["max_difference"] for row in rows), default=None) if isinstance(rows, list) else None


HELD = ("GRU-128", "LSTM-128", "CT-LSTM 2 x 256", "KGML-ag")
"""Models whose share of the peak and error have a bar."""

CRITERIA = (
    Criterion("GRU-128: share of the peak", 0.70, _model("GRU-128", "share_of_peak"), 0.80),
    Criterion("LSTM-128: share of the peak", 0.75, _model("LSTM-128", "share_of_peak"), 0.85),
    Criterion("CT-LSTM 2 x 256: share of the peak", 0.85, _model("CT-LSTM 2 x 256", "share_of_peak"), 0.92),
    Criterion("KGML-ag: share of the peak, unfolded", 0.65, _model("KGML-ag", "share_of_peak"), 0.78),
    Criterion("these four: largest error over the flux's scale", 2e-6, _worst_error, at_most=True),
    Criterion("ours / best torch per chunk", 2.0, _ratio("ours / best torch per chunk"), 3.0),
    Criterion("ours / JAX scan, end to end: lower end", 0.95, _ratio("ours / JAX scan", "low")),
    Criterion("ours / JAX scan, compute only: lower end", 0.95, _ratio("ours / JAX scan, compute only", "low")),
    Criterion("ours / ONNX Runtime: lower end", 1.0, _ratio("ours / ONNX Runtime", "low")),
    Criterion("ours / XGBoost, GPP and RECO, depth 10, 1000 trees each", 15.0, _xgboost("ours / XGBoost")),
    Criterion("ours, three fluxes / the same XGBoost, one flux", 15.0, _xgboost("ours / XGBoost, one flux")),
    Criterion("a member of the ensemble / the single run", 0.95, _ensemble("member_speed")),
    Criterion("bytes read for the ensemble / for one member", 1.05, _ensemble("bytes_read_ratio"), at_most=True),
    Criterion("ten heads, one in each cell: time over none", 1.15, _worst_head("state"), at_most=True),
    Criterion("neighbourhood of ten heads: time over none", 1.25, _worst_head("neighbourhood"), at_most=True),
    Criterion("TAM-RL exact / published evaluation, batches of 32 as it runs", 3.5, _windows("ratio")),
    Criterion("TAM-RL exact / the same, batches of 128", 3.5, _windows("named_ratio")),
    Criterion("TAM-RL exact / published network, tuned here", 3.5, _windows("tuned_ratio")),
    Criterion("TAM-RL exact: difference from the published", 1e-5, _windows("difference"), at_most=True),
    Criterion("stride over exact / ratio of the work, the worst network", 0.8, _strides),
    Criterion("memory from x1 to x16 of the region: growth", 0.10, _growth("region"), at_most=True),
    Criterion("memory from 1 to 16 years: growth", 0.10, _growth("years"), at_most=True),
    Criterion("KGML-ag: peak memory, MB", 2000.0, _model("KGML-ag", "peak_rss_mb"), at_most=True),
    Criterion("two workers / one", 1.85, _workers),
    Criterion("GPU: largest difference from the CPU", 1e-5, _gpu, at_most=True),
)
"""In the order of the table."""
