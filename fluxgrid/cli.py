"""The command line: parse, call a workflow, print, exit code. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from fluxgrid.errors import ConfigError, FluxgridError, UnknownName

if TYPE_CHECKING:
    from fluxgrid.config import TrainConfig, UpscaleConfig
    from fluxgrid.registry import Registry
    from fluxgrid.upscaling.folder import Mode
    from fluxgrid.workflows.experiment import Kind
    from fluxgrid.workflows.train import TrainOutcome
    from fluxgrid.workflows.upscale import Outcome

app = typer.Typer(
    name="fluxgrid",
    help="Turn flux-tower models into maps of NEE, GPP and RECO.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cube_app = typer.Typer(help="Look at, check and rechunk covariate cubes.", no_args_is_help=True)
app.add_typer(cube_app, name="cube")
world_app = typer.Typer(help="Build, describe and score maps on the reference world.", no_args_is_help=True)
app.add_typer(world_app, name="world")
experiment_app = typer.Typer(help="Compare ways of training on the reference world.", no_args_is_help=True)
app.add_typer(experiment_app, name="experiment")
runs_app = typer.Typer(help="List, compare, take back and remove what refreshes published.", no_args_is_help=True)
app.add_typer(runs_app, name="runs")

_out = Console(soft_wrap=True)
_err = Console(stderr=True, soft_wrap=True)

INTERRUPTED = 130
_YEARS_TOLD = 3  # at the end of a run; totals.csv has them all


def main() -> None:
    """Run the command line; errors a user can mend are printed without a traceback."""
    try:
        code = app(standalone_mode=False)
    except FluxgridError as error:
        for text in (f"fluxgrid: {error}", *getattr(error, "__notes__", ())):
            _err.print(text, markup=False, highlight=False)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        # typer may carry its own copy of click: what they have in common is this method and this attribute
        if not hasattr(error, "show") or not hasattr(error, "exit_code"):
            raise
        error.show()
        code = error.exit_code
    if code == INTERRUPTED:  # typer itself catches Control-C and answers with this code, saying nothing
        _err.print(
            "fluxgrid: interrupted. What is finished is kept; an upscale goes on with --resume, a refresh by itself.",
            markup=False,
        )
    _leave(code if isinstance(code, int) else 0)


def _leave(code: int) -> NoReturn:
    """End the process with a code.

    Python ends daemon threads inside whatever they do; inside the code of a tile's network that aborts the process,
    with another code. The system ends them quietly: nothing is lost by it, no more than by a kill.
    """
    execute = sys.modules.get("fluxgrid.upscaling.execute")  # imported where tiles were run, and nowhere else
    if execute is not None and execute.tiles_at_work():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


Overrides = Annotated[
    list[str] | None, typer.Argument(help="A configuration (file or shipped name) and key.sub=value overrides.")
]


def _split(words: list[str] | None) -> tuple[str | None, list[str]]:
    """Return the configuration, if one is named, and the overrides."""
    words = list(words or [])
    path = words.pop(0) if words and "=" not in words[0] else None
    stray = [word for word in words if "=" not in word]
    if stray:
        message = f"{stray[0]!r} is neither a configuration in first place nor key=value."
        raise ConfigError(message)
    return path, words


def _map_config(path: str | None, options: list[str]) -> UpscaleConfig:
    """Return the configuration of a map; a region given in its place is told from one."""
    from fluxgrid.config import UpscaleConfig, load_config

    try:
        return load_config(UpscaleConfig, path, options)
    except UnknownName as error:
        from fluxgrid.geo.region import find_region

        with suppress(FluxgridError):
            find_region(path or "")
            error.add_note(f"{path} is a region: say --region {path}.")
        raise


@app.command()
def upscale(  # one parameter for each option of the contract
    config: Overrides = None,
    region: Annotated[str | None, typer.Option(help="Name, polygon file, or W,S,E,N.")] = None,
    cube: Annotated[str | None, typer.Option(help="Covariates: zarr store or NetCDF. Left out: synthetic.")] = None,
    mapping: Annotated[str | None, typer.Option(help="Mapping YAML of the cube.")] = None,
    model: Annotated[str | None, typer.Option(help="Shipped checkpoint or folder.")] = None,
    start: Annotated[str | None, typer.Option(help="First day, YYYY-MM-DD.")] = None,
    end: Annotated[str | None, typer.Option(help="Last day, YYYY-MM-DD.")] = None,
    calibration: Annotated[
        str | None, typer.Option(help="How a cell gets its head: none, state or neighbourhood.")
    ] = None,
    resolution: Annotated[float | None, typer.Option(help="Cell size of the synthetic world, degrees.")] = None,
    tile: Annotated[int | None, typer.Option(help="Tile size in cells; does not change the map.")] = None,
    window_mode: Annotated[
        str | None, typer.Option(help="How a network of windows cuts the record: exact, stride or stream.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of matrix products: fp32, or bf16, faster and less exact (GRUs, CPU).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; 1 means threads.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each process.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a running dask scheduler.")] = None,
    allow_mixed: Annotated[
        bool | None, typer.Option("--allow-mixed", help="Let workers differ from this machine.")
    ] = None,
    max_missing: Annotated[float | None, typer.Option(help="Largest share of cells without a value.")] = None,
    compression: Annotated[
        str | None, typer.Option(help="Of NetCDF: zlib, or zstd, which is faster but NOT read by every program.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Run folder [maps/REGION].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands in the run folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it will take; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Predict maps of NEE, GPP and RECO for a region."""
    if resume and overwrite:
        message = "--resume goes on, --overwrite starts again: give one of them."
        raise ConfigError(message)
    given = {
        "region": region, "cube": cube, "mapping": mapping, "model": model, "start": start, "end": end,
        "calibration": calibration, "window_mode": window_mode, "precision": precision, "resolution": resolution,
        "tile": tile, "device": device, "workers": workers, "threads": threads,
        "scheduler": scheduler, "allow_mixed": allow_mixed, "max_missing": max_missing, "out": out,
        "compression": compression,
    }  # fmt: skip
    from fluxgrid.workflows.progress import shown, silent
    from fluxgrid.workflows.upscale import upscale as run

    path, overrides = _split(config)
    options = [*overrides, *(f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None)]
    mode: Mode = "resume" if resume else "overwrite" if overwrite else "new"
    outcome = run(_map_config(path, options), mode, dry_run, silent if as_json else shown)
    _tell_upscale(outcome, as_json)


def _tell_upscale(outcome: Outcome, as_json: bool) -> None:
    """Print what an upscale did, or would do."""
    if as_json:
        _print_json(_outcome_row(outcome))
        return
    for warning in outcome.warnings:
        _err.print(f"Note: {warning}", markup=False)
    if outcome.estimate is not None:
        _tell_estimate(outcome.estimate)
        return
    if outcome.published is None:
        _say(f"{outcome.out} is up to date.")
        return
    manifest = outcome.manifest or {}
    _say(
        f"Done: {manifest['coverage']['share']:.1%} of the land cells of {manifest['region']} in "
        f"{manifest['seconds']:.0f} s ({manifest['pixel_days_per_s'] / 1e6:.2f} M pixel-days/s)"
    )
    _tell_totals(manifest)
    if steps := manifest.get("border_step"):
        ratios = ", ".join(f"{name.upper()} {ratio:.2f}" for name, ratio in steps.items())
        _say(f"Jumps across state borders over jumps inside states (1: no border shows): {ratios}")
    for path in (*outcome.published.all, outcome.published.manifest):
        _say(f"  {path}")


def _tell_totals(manifest: dict[str, Any]) -> None:
    """Print the carbon of the whole region in the last years of a map."""
    years = list(manifest.get("totals_TgC", {}).items())
    for period, fluxes in years[-_YEARS_TOLD:]:
        carbon = ", ".join(f"{name.upper()} {fluxes[name]:,.4g}" for name in ("nee", "gpp", "reco") if name in fluxes)
        _say(f"Carbon in {period}: {carbon} Tg (NEE = RECO - GPP, negative where land takes it up)")
    if years and manifest.get("synthetic"):
        _say("This is simulated, not observed.")


def _outcome_row(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome for machines."""
    from dataclasses import asdict

    return {
        "status": outcome.status,
        "out": str(outcome.out),
        "estimate": asdict(outcome.estimate) if outcome.estimate else None,
        "manifest": outcome.manifest,
        "warnings": list(outcome.warnings),
    }


def _tell_estimate(estimate: Any) -> None:
    """Print what a run will take."""
    table = Table(show_header=False, box=None)
    off = f" (to {estimate.cells_error:.1%})" if estimate.cells_error else ""
    others = ", ".join(f"{n}: {_span(s)}" for n, s in estimate.seconds_by_lanes.items() if n != estimate.lanes)
    parts = (("predict", estimate.predict_seconds), ("read", estimate.read_seconds), ("write", estimate.write_seconds))
    rows = {
        "tiles": f"{estimate.tiles:,}",
        "cells to predict": f"{estimate.cells:,}{off}",
        "years": f"{estimate.years}",
        "pixel-days": f"{estimate.pixel_days:,} and {estimate.spin_up_pixel_days:,} of spin-up",
        "bytes read": f"{_bytes(estimate.bytes_read)}; about {_bytes(estimate.bytes_read_compressed)} compressed",
        "bytes written": f"{_bytes(estimate.bytes_written)} before compression, store and NetCDF",
        "memory": f"{estimate.memory_bytes / 1e9:.1f} GB",
        "disk": f"at most {_bytes(estimate.disk_bytes)}",
        "time": f"{_span(estimate.seconds)} on {estimate.lanes} threads like this machine's: "
        + ", ".join(f"{name} {_span(seconds)}" for name, seconds in parts),
        "on other workers": f"of one thread each: {others}",
        "on a GPU": estimate.gpu,
    }
    for key, value in rows.items():
        table.add_row(key, value)
    _out.print(table)


def _span(seconds: float) -> str:
    """Return a time for people."""
    for limit, size, unit in ((100, 1, "s"), (100 * 60, 60, "min"), (72 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:,.1f} days"


def _bytes(count: float) -> str:
    """Return a number of bytes for people."""
    for limit, size, unit in ((1e9, 1e6, "MB"), (1e12, 1e9, "GB")):
        if count < limit:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e12:,.2f} TB"


@app.command()
def refresh(
    config: Overrides = None,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="GUARD", help="Publish although this guard speaks; may be repeated.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Name of the version that is published.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a running dask scheduler, whose workers compute what changed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Bring an archive of maps up to its inputs: recompute what changed, check, publish by one commit, report."""
    from fluxgrid.config_map import UpscaleConfig, load_config
    from fluxgrid.workflows.progress import shown, silent
    from fluxgrid.workflows.refresh import refresh as run
    from fluxgrid.workflows.refresh_place import Request
    from fluxgrid.workflows.refresh_report import report_text

    path, overrides = _split(config)
    overrides += [] if scheduler is None else [f"scheduler={scheduler}"]
    request = Request(tuple(allow or ()), tag)
    done = run(load_config(UpscaleConfig, path, overrides), request, silent if as_json else shown)
    if as_json:
        _print_json({"status": done.status, "out": str(done.out), "report": done.report})
        return
    _say(report_text(done.report) if done.report else f"{done.out} is up to date.")
    for file in done.files:
        _say(f"  {file}")


Archived = Annotated[str, typer.Argument(metavar="CONFIG", help="Run configuration, or the folder of an archive.")]


@runs_app.command("list")
def runs_list(
    where: Archived, as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False
) -> None:
    """List the published versions of an archive, the newest last."""
    from fluxgrid.workflows.runs import list_runs, runs_text

    rows = list_runs(where)
    if as_json:
        _print_json({"versions": rows})
        return
    _say(runs_text(rows))


@runs_app.command("diff")
def runs_diff(
    where: Archived,
    before: Annotated[str, typer.Argument(help="Number, tag or date.")],
    after: Annotated[str | None, typer.Argument(help="Number, tag or date [the newest].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Say which tiles and years differ between two versions, and by how much."""
    from fluxgrid.workflows.runs import diff_runs, diff_text

    row = diff_runs(where, before, after)
    if as_json:
        _print_json(row)
        return
    _say(diff_text(row))


@runs_app.command("rollback")
def runs_rollback(
    where: Archived,
    to: Annotated[str, typer.Argument(help="Number, tag or date.")],
    tag: Annotated[str | None, typer.Option(help="Name of the new version.")] = None,
) -> None:
    """Publish an old state again as the newest version; refreshes then stop until one says --allow rollback."""
    from fluxgrid.workflows.runs import rollback_runs

    for line in rollback_runs(where, to, tag):
        _say(line)


@runs_app.command("prune")
def runs_prune(
    where: Archived, keep: Annotated[int, typer.Option(min=1, help="How many of the newest versions stay.")]
) -> None:
    """Remove old versions; those with a tag stay."""
    from fluxgrid.workflows.runs import prune_runs

    for line in prune_runs(where, keep):
        _say(line)


@app.command()
def plan(
    config: Overrides = None,
    region: Annotated[str | None, typer.Option(help="Name, polygon file, or W,S,E,N; of any size.")] = None,
    resolution: Annotated[str | None, typer.Option(help="Size of a cell: 0.05 (degrees), 250m or 1km.")] = None,
    start: Annotated[str | None, typer.Option(help="First day, YYYY-MM-DD.")] = None,
    end: Annotated[str | None, typer.Option(help="Last day, YYYY-MM-DD.")] = None,
    model: Annotated[str | None, typer.Option(help="Shipped checkpoint or folder.")] = None,
    calibration: Annotated[
        str | None, typer.Option(help="How a cell gets its head: none, state or neighbourhood.")
    ] = None,
    cube: Annotated[str | None, typer.Option(help="Plan the map of this cube; it has its own cells.")] = None,
    mapping: Annotated[str | None, typer.Option(help="Mapping YAML of the cube.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each process.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Say what a map would take: cells, bytes, memory, disk and time, from rates measured now; writes nothing."""
    from fluxgrid.workflows.plan import plan as run

    given = {
        "region": region, "start": start, "end": end, "model": model, "calibration": calibration, "cube": cube,
        "mapping": mapping, "workers": workers, "threads": threads,
    }  # fmt: skip
    path, overrides = _split(config)
    options = [*overrides, *(f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None)]
    _tell_upscale(run(_map_config(path, options), resolution), as_json)


@app.command()
def train(
    config: Overrides = None,
    search: Annotated[bool, typer.Option("--search", help="First search for settings (resumable).")] = False,
    trials: Annotated[int | None, typer.Option(min=1, help="Settings to try [search.trials].")] = None,
) -> None:
    """Train a model on towers and write its checkpoint."""
    from fluxgrid.config import TrainConfig, is_kgml, load_config

    path, overrides = _split(config)
    if trials is not None and not search:
        message = f"--trials {trials} is of a search; say --search as well."
        raise ConfigError(message)
    if search:
        if is_kgml(path):
            message = f"{path} is a recipe, whose steps are not searched. Leave --search out."
            raise ConfigError(message)
        _search(load_config(TrainConfig, path, [*overrides, *([f"search.trials={trials}"] if trials else [])]))
        return
    if is_kgml(path):
        from fluxgrid.config_kgml import KGMLConfig
        from fluxgrid.workflows.train_kgml import train_kgml

        outcome = train_kgml(load_config(KGMLConfig, path, overrides), _report)
    else:
        settings = load_config(TrainConfig, path, overrides)
        from fluxgrid.workflows.train import train as run

        outcome = run(settings, _report)
    _tell_checkpoint(outcome)


def _search(config: TrainConfig) -> None:
    """Search for settings and train with the best."""
    from fluxgrid.workflows.search import best_text, search

    outcome = search(config, _report)
    _say(f"Best of {len(outcome.trials)} trials: loss {outcome.best.loss:.4f}, mean of {config.search.folds} folds")
    _say(best_text(outcome.best.settings))
    _say(f"Trials, picture and best.yaml: {outcome.folder}")
    _tell_checkpoint(outcome.trained)


def _tell_checkpoint(outcome: TrainOutcome) -> None:
    """Print what was trained."""
    _say(f"{outcome.checkpoint}: trained on {outcome.sites} sites; area of applicability up to {outcome.threshold:.3f}")


@app.command()
def calibrate(config: Overrides = None) -> None:
    """Fit heads of places to a trained model and write it with them."""
    from fluxgrid.config import load_config
    from fluxgrid.config_kgml import CalibrateConfig
    from fluxgrid.workflows.calibrate import bandwidth_text, run_calibrate

    path, overrides = _split(config)
    outcome = run_calibrate(load_config(CalibrateConfig, path, overrides), _report)
    for made in outcome.made:
        first, last = made.loss
        _say(
            f"{made.calibration.name}: {made.calibration.about}; {made.calibration.heads.per_place} numbers each, "
            f"error {first:.3f} to {last:.3f} of the variance where they were fitted, {made.seconds:.0f} s"
        )
    if text := bandwidth_text(outcome.made):
        _say(text)
    names = " or ".join(made.calibration.name for made in outcome.made)
    _say(f"{outcome.checkpoint}: choose with `fluxgrid upscale --model {outcome.checkpoint} --calibration {names}`")


@app.command()
def audit(
    model: Annotated[str, typer.Argument(help="Shipped checkpoint or folder.")] = "default",
    calibration: Annotated[str, typer.Option(help="Which of its heads: state or neighbourhood.")] = "state",
    out: Annotated[str | None, typer.Option(help="Folder of tables and picture [MODEL-audit].")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier audit.")] = False,
) -> None:
    """Audit the physics of a KGML-ag model and of its heads, place by place, on the reference world."""
    from pathlib import Path

    from fluxgrid.evaluation.audit_tables import audit_summary
    from fluxgrid.models import load_checkpoint
    from fluxgrid.training.kgml.audit import CALIBRATED
    from fluxgrid.workflows.audit import audit as run

    folder = Path(out).expanduser() if out else Path(f"{Path(model).name}-audit")
    outcome = run(load_checkpoint(model), calibration, folder, report=_report, overwrite=overwrite)
    _say(audit_summary(outcome.table, CALIBRATED))
    _say(f"Tables and picture: {folder}")


@app.command()
def evaluate(
    config: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the tables that stand there.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes, one thread each.")] = 1,
) -> None:
    """Score models at sites held out from training, beside simple baselines; goes on where it stopped."""
    from fluxgrid.config import TrainConfig, load_config
    from fluxgrid.evaluation.published import published_text
    from fluxgrid.evaluation.tables import as_text
    from fluxgrid.workflows.evaluate import evaluate as run

    path, overrides = _split(config)
    settings = load_config(TrainConfig, path, overrides)
    outcome = run(settings, _report, overwrite, jobs)
    _say(outcome.about)
    _say("Median [quartiles] over sites held out; fluxes in g m-2 d-1")
    _say(as_text(outcome.overall))
    for table in outcome.by_class.values():
        _say("")
        _say(as_text(table))
    _say("")
    _say("R2 site by site against the first model: median difference with the 95 % interval of a bootstrap over sites")
    _say(outcome.pairs.round(3).to_string(index=False))
    if len(outcome.coverage):
        _say("")
        _say("Share of the steps of sites held out that lie within the half-width, each site group weighing the same")
        _say(outcome.coverage.round(3).to_string(index=False))
    if text := published_text(outcome.published, settings.evaluation.split):
        _say("")
        _say(text)
    _say(f"Tables: {outcome.folder}")


@cube_app.command("check")
def cube_check(
    path: Annotated[str, typer.Argument(help="Zarr store or NetCDF.")],
    mapping: Annotated[str | None, typer.Option(help="Mapping YAML.")] = None,
    model: Annotated[str | None, typer.Option(help="Also look for the inputs of this model.")] = None,
) -> None:
    """List every problem of a cube and suggest its mapping; exit code 2 if there is one."""
    from fluxgrid.workflows.cube import check

    report = check(path, mapping, model)
    for note in report.notes:
        _say(f"note: {note}")
    for problem in report.problems:
        _say(f"PROBLEM: {problem}")
    if report.suggestion and (report.problems or not mapping):
        _say("Suggested mapping:")
        _say(report.suggestion)
    if report.problems:
        raise typer.Exit(2)
    _say(f"{path} is a sound cube.")


@cube_app.command("info")
def cube_info(
    path: Annotated[str, typer.Argument(help="Zarr store or NetCDF.")],
    mapping: Annotated[str | None, typer.Option(help="Mapping YAML.")] = None,
) -> None:
    """Say what a cube holds."""
    from fluxgrid.data.cube import grid_of, open_cube, rechunk_advice
    from fluxgrid.workflows.cube import tile_reading

    cube = open_cube(path, mapping)
    grid, time = grid_of(cube), cube.indexes["time"]
    _say(str(cube.attrs.get("title", "")))
    _say(f"{len(time)} {cube.attrs['step']} steps, {time[0]:%Y-%m-%d} to {time[-1]:%Y-%m-%d}")
    _say(f"{grid.shape[0]} x {grid.shape[1]} cells, bounds {grid.bounds} (W, E, S, N), {cube.attrs['crs']}")
    for name, variable in cube.data_vars.items():
        _say(f"  {name:24s} {variable.attrs.get('units', ''):10s} {', '.join(map(str, variable.dims))}")
    reading = tile_reading(cube)
    _say(f"A map decodes {reading.factor:.1f} times the bytes it needs (tiles of 32 cells, year by year)")
    for advice in rechunk_advice(cube, reading):
        _err.print(f"Note: {advice}", markup=False)


@cube_app.command("rechunk")
def cube_rechunk(
    source: Annotated[str, typer.Argument(help="Zarr store or NetCDF.")],
    target: Annotated[str, typer.Argument(help="Zarr store to make.")],
    mapping: Annotated[str | None, typer.Option(help="Mapping YAML, where the file does not name its axes.")] = None,
    memory: Annotated[float, typer.Option(min=0.01, help="Most GB of the arrays held at a time.")] = 1.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that stands there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Copy a cube into chunks of many steps and few cells, which maps read fast; values, names and units stay."""
    from fluxgrid.workflows.cube import rechunk
    from fluxgrid.workflows.progress import shown, silent

    made = rechunk(source, target, mapping, overwrite, int(memory * 1e9), silent if as_json else shown)
    if as_json:
        from dataclasses import asdict

        _print_json({**asdict(made), "path": str(made.path)})
        return
    steps, rows, cols = made.chunks
    _say(f"{made.path}: {len(made.variables)} variables in chunks of {steps} steps x {rows} x {cols} cells, read back")
    _say(
        f"{made.bytes_read / 1e9:.2f} GB of values, {made.bytes_on_disk / 1e9:.2f} GB on disk; the source still stands"
    )


@world_app.command("build")
def world_build(
    region: Annotated[str, typer.Option(help="Name, polygon file, or W,S,E,N.")],
    out: Annotated[str, typer.Option(help="Zarr store to make, such as cube.zarr.")],
    start: Annotated[str | None, typer.Option(help="First day, YYYY-MM-DD [a demo year].")] = None,
    end: Annotated[str | None, typer.Option(help="Last day, YYYY-MM-DD [end of the first year].")] = None,
    resolution: Annotated[float, typer.Option(help="Cell size, degrees.")] = 0.1,
    variables: Annotated[str | None, typer.Option(help="Covariates, separated by commas [all].")] = None,
    truth: Annotated[bool, typer.Option("--truth", help="Also write the true fluxes, to OUT_truth.")] = False,
) -> None:
    """Write the covariates of the reference world for a region, and the truth if wanted."""
    from fluxgrid.workflows.progress import shown
    from fluxgrid.workflows.world_build import build
    from fluxgrid.workflows.world_truth import world_text

    names = [name.strip() for name in variables.split(",") if name.strip()] if variables is not None else None
    outcome = build(region, out, _day(start), _day(end), resolution, names, truth, shown)
    _say(f"{outcome.days} days, {outcome.shape[0]} x {outcome.shape[1]} cells of the {world_text()}:")
    for path in filter(None, (outcome.cube, outcome.truth)):
        _say(f"  {path}")


@world_app.command("describe")
def world_describe(
    region: Annotated[str, typer.Option(help="Name, polygon file, or W,S,E,N.")] = "midwest",
    year: Annotated[int, typer.Option(help="Calendar year.")] = 2019,
    resolution: Annotated[float, typer.Option(help="Cell size, degrees.")] = 0.25,
    out: Annotated[str | None, typer.Option(help="Folder of pictures and tables [world/REGION_YEAR].")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands there.")] = False,
) -> None:
    """Show the truth of a year: maps, seasonal curves and totals by cover and state."""
    from fluxgrid.workflows.progress import shown
    from fluxgrid.workflows.world_describe import describe
    from fluxgrid.workflows.world_tables import describe_tables

    outcome = describe(region, year, out, resolution, overwrite, shown)
    _print_tables(describe_tables(outcome))
    _say(f"Pictures and tables: {outcome.folder}")


@world_app.command("score")
def world_score(
    paths: Annotated[list[str], typer.Argument(metavar="MAP...", help="Run folder, zarr store or NetCDF files.")],
    region: Annotated[str | None, typer.Option(help="Score this region only [the map's own].")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of tables and picture [MAP-score].")] = None,
    json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write the JSON here too.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Score a map that was not made on this world.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier score.")] = False,
) -> None:
    """Score a map of NEE, GPP and RECO against the truth of the reference world."""
    from fluxgrid.workflows.progress import shown
    from fluxgrid.workflows.world_score import score_map
    from fluxgrid.workflows.world_tables import score_tables

    outcome = score_map(paths, out, region, json_file, force, overwrite, shown)
    _print_tables(score_tables(outcome))
    _say(f"Tables and picture: {outcome.folder}")


Jobs = Annotated[int, typer.Option(min=1, help="Processes, one thread each.")]
ListRuns = Annotated[bool, typer.Option("--dry-run", help="List the runs and which of them stand; train nothing.")]


@experiment_app.command("regimes")
def experiment_regimes(config: Overrides = None, jobs: Jobs = 1, dry_run: ListRuns = False) -> None:
    """Train one model for all states, one for each, and one tuned to each, and score them everywhere."""
    _experiment("regimes", config, jobs, dry_run)


@experiment_app.command("sensitivity")
def experiment_sensitivity(config: Overrides = None, jobs: Jobs = 1, dry_run: ListRuns = False) -> None:
    """Try site-only training and tuning with other hyperparameters."""
    _experiment("sensitivity", config, jobs, dry_run)


def _experiment(kind: Kind, words: list[str] | None, jobs: int, dry_run: bool) -> None:
    """Run an experiment, or list its runs."""
    from fluxgrid.config import load_config
    from fluxgrid.config_kgml import ExperimentConfig
    from fluxgrid.workflows.experiment import experiment, plan

    path, overrides = _split(words)
    config = load_config(ExperimentConfig, path, overrides)
    if dry_run:
        runs = plan(config, kind)
        for planned in runs:
            _say(f"{'stands' if planned.stands else 'to do ':6s}  {planned.path}")
        _say(f"{sum(planned.stands for planned in runs)} of {len(runs)} runs stand.")
        return
    outcome = experiment(config, kind, jobs, _report)
    _print_tables(table.rich() for table in outcome.tables)
    _say(f"Tables and picture: {outcome.folder}")


def _day(text: str | None) -> date | None:
    """Return the day an option gives."""
    try:
        return date.fromisoformat(text) if text is not None else None
    except ValueError as error:
        message = f"{text!r} is no day. Write it as YYYY-MM-DD, such as 2019-07-01 (--start, --end)."
        raise ConfigError(message) from error


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="A minute: fewer models, all peers, smaller.")] = False,
    json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write all figures here.")] = None,
    tiny: Annotated[bool, typer.Option("--tiny", hidden=True)] = False,
) -> None:
    """Measure how fast this machine makes maps, against its limit and its peers; 10 to 20 minutes on two cores."""
    from fluxgrid.workflows.bench import bench as run
    from fluxgrid.workflows.bench_tables import bench_tables

    outcome = run("tiny" if tiny else "quick" if quick else "full", json_file, _report)
    _print_tables(bench_tables(outcome.report))
    if outcome.file is not None:
        _say(f"All figures: {outcome.file}")


@app.command()
def schedule(
    config: Annotated[str, typer.Argument(help="Run configuration: a file or shipped name.")],
    kind: Annotated[str, typer.Option(help="systemd, cron, kubernetes, slurm or github-actions.")],
    every: Annotated[str, typer.Option(help="daily, weekly or monthly.")] = "weekly",
    at: Annotated[
        str | None, typer.Option(help='"06:00", "Mon 06:00" or "15 06:00" [06:00, on Monday, on the first].')
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder to write the files to. Left out: they are printed.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that stand there.")] = False,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Write the value of this variable too; may be repeated.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of files, units and jobs [fluxgrid-CONFIG].")] = None,
    timeout: Annotated[float, typer.Option(help="Hours after which a run is ended.")] = 5.0,
    system: Annotated[bool, typer.Option("--system", help="systemd: units of the system, not of the user.")] = False,
    image: Annotated[str | None, typer.Option(help="kubernetes: image with fluxgrid. No default.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="kubernetes, slurm: processors [2].")] = None,
    memory: Annotated[int | None, typer.Option(min=1, help="kubernetes, slurm: GB of memory [4].")] = None,
    storage: Annotated[int | None, typer.Option(min=1, help="kubernetes: GB of the volume [50].")] = None,
    runner: Annotated[str | None, typer.Option(help="github-actions: labels, by commas [self-hosted].")] = None,
    install: Annotated[str | None, typer.Option(help="github-actions: what pip installs on GitHub's runner.")] = None,
) -> None:
    """Print or write files with which the system's scheduler runs `fluxgrid refresh` unattended."""
    from fluxgrid.workflows.schedule import Request
    from fluxgrid.workflows.schedule import schedule as run

    options = {
        "system": system or None, "image": image, "cpus": cpus, "memory": memory, "storage": storage, "runner": runner,
        "install": install,
    }  # fmt: skip
    done = run(config, Request(kind, every, at, out, overwrite, tuple(env or ()), name, timeout, options))
    for note in done.notes:
        _err.print(f"Note: {note}", markup=False, highlight=False, emoji=False)
    if done.folder is not None:
        _say(f"{done.folder}: {', '.join(file.name for file in done.files)}; each says how to install it")
        return
    for file in done.files:  # as they are: the console would replace :names: of emoji
        head = f"# ==== {file.name} ====\n" if len(done.files) > 1 else ""
        typer.echo(head + file.text, nl=False)


@app.command()
def regions() -> None:
    """List the named regions; every US state works too, by name or postal code."""
    from fluxgrid.geo.region import region_catalogue

    _tell_names(region_catalogue())


@app.command()
def models() -> None:
    """List architectures and shipped checkpoints."""
    from fluxgrid.models import MODELS, load_checkpoint, shipped_checkpoints

    _tell_names(_titles(MODELS, lambda model: (model.__doc__ or "").partition("\n")[0]))
    for name in shipped_checkpoints():
        spec = load_checkpoint(name).spec
        _say(f"checkpoint {name}: {spec.kind}, {spec.step}. {spec.description}")


@app.command()
def sources() -> None:
    """List the readers of tower data."""
    from fluxgrid.sources import SOURCES

    _tell_names(_titles(SOURCES, lambda source: source.title))
    _say("Made up, for trials: synthetic (virtual towers; options n, start, end, seed) and world_cells (cells of the")
    _say("reference world with their true fluxes; options states, n, first, last, seed), both with path: built-in")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Say the version.")] = False) -> None:
    """Turn flux-tower models into maps of NEE, GPP and RECO."""
    if version:
        from fluxgrid import __version__

        _say(__version__)
        raise typer.Exit


def _titles(registry: Registry[Any], title: Callable[[Any], str]) -> dict[str, str]:
    """Return what each name of a registry means; plug-ins are named and not loaded: a broken one must not hide all."""
    plugins = registry.plugins
    return {name: f"plug-in {plugins[name]}" if name in plugins else title(registry[name]) for name in registry}


def _tell_names(names: dict[str, str]) -> None:
    """Print names with what they mean."""
    width = max(map(len, names), default=0)
    for name, title in names.items():
        _say(f"{name:{width}s}  {title}")


def _say(text: str) -> None:
    """Print plain text."""
    with suppress(BrokenPipeError):
        _out.print(text, markup=False, highlight=False)


def _print_tables(tables: Iterable[Table]) -> None:
    """Print tables at their own width, so that a narrow terminal or a pipe loses no column."""
    for table in tables:
        with suppress(BrokenPipeError):
            needed = _out.measure(table, options=_out.options.update(width=1000)).maximum
            Console(width=max(_out.width, needed)).print(table, "")


def _report(line: str) -> None:
    """Print a line of progress."""
    _err.print(line, markup=False, highlight=False)


def _print_json(row: dict[str, Any]) -> None:
    """Print JSON, one document."""
    _say(json.dumps(row, indent=2))
