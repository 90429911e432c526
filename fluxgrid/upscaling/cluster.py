"""What the workers of a running cluster must have in common with this process: machine, cube, run folder."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from fluxgrid.data.cube import open_cube
from fluxgrid.errors import ClusterUnavailable, ConfigError, FluxgridError, itemise
from fluxgrid.files import output_error
from fluxgrid.provenance import digest
from fluxgrid.upscaling.machine import Machine, check_machines
from fluxgrid.upscaling.plan import CubeSource, Plan

if TYPE_CHECKING:
    from distributed import Client, Worker

WORKER_SECONDS = 15
"""How long a scheduler may take to have its first worker."""

GPU = "GPU"
"""What a worker with a GPU is started with: ``dask worker ADDRESS --resources GPU=1``."""


@dataclass(frozen=True)
class Look:
    """What a worker sees."""

    machine: Machine
    problems: tuple[str, ...]
    """Files it cannot see as this process does."""
    gpus: float = 0.0
    """How many it says it has to give, of its own accord: dask does not look for them."""


def look(device: str, cube: CubeSource, facts: str, probe: str, token: str, dask_worker: Worker | None = None) -> Look:
    """Look at this process from inside a worker.

    Parameters
    ----------
    device : str
        ``cpu`` or ``cuda``.
    cube : CubeSource
    facts : str
        `cube_facts` as the planner has them.
    probe : str
        File that the planner wrote into the run folder.
    token : str
        What stands in it.
    dask_worker : Worker, optional
        Given by dask.

    Returns
    -------
    look : Look
    """
    problems = [*_cube_problems(cube, facts), *_folder_problems(Path(probe), token)]
    gpus = dask_worker.state.total_resources.get(GPU, 0.0) if dask_worker is not None else 0.0
    return Look(Machine.here(device), tuple(problems), gpus)


def _cube_problems(cube: CubeSource, facts: str) -> Iterator[str]:
    """Yield why a cube cannot be used here."""
    try:
        if cube_facts(open_cube(cube.path, cube.mapping)) != facts:
            yield f"another cube stands at {cube.path}"
    except (FluxgridError, OSError, ValueError, KeyError) as error:
        yield f"cannot open the cube {cube.path} ({str(error).splitlines()[0]})"


def _folder_problems(probe: Path, token: str) -> Iterator[str]:
    """Yield why results cannot be written here."""
    try:
        if probe.read_text(encoding="utf-8") != token:
            yield f"another folder stands at {probe.parent}"
            return
        own = _probe_path(probe.parent)
        own.write_text(token, encoding="utf-8")
        own.unlink()
    except OSError as error:
        yield f"cannot read and write the run folder {probe.parent} ({error.strerror})"


def cube_facts(cube: xr.Dataset) -> str:
    """Return a hash of a cube's axes and variables; its values count later, unit by unit."""
    time = cube.indexes["time"]
    sizes = {str(name): size for name, size in cube.sizes.items()}
    return digest(sizes, str(time[0]), str(time[-1]), sorted(map(str, cube.data_vars)))


def check_cluster(client: Client, plan: Plan, cube: xr.Dataset, device: str, out: Path) -> None:
    """Refuse a running cluster whose workers cannot make this map as this process would.

    Parameters
    ----------
    client : Client
    plan : Plan
    cube : Dataset
        As this process sees it.
    device : str
        ``cpu`` or ``cuda``.
    out : Path
        Run folder; exists.

    Raises
    ------
    ClusterUnavailable
        If there is no worker.
    ConfigError
        If one lacks fluxgrid, does not see cube or run folder, has no GPU where one predicts, or, unless the plan is
        `mixed`, differs from this machine. All of them are named.
    OutputError
        If this process cannot write to the run folder.
    """
    threads_of(client)
    with _probe(out.resolve()) as (probe, token):
        asked = device, plan.cube, cube_facts(cube), str(probe), token
        answers = client.run(look, *asked, on_error="return")
    check_answers(answers, plan)


def threads_of(client: Client) -> list[int]:
    """Return the threads of each worker of a running cluster.

    Raises
    ------
    ClusterUnavailable
        If it has no worker.
    """
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except TimeoutError as error:
        message = f"The scheduler has no worker after {WORKER_SECONDS} s. Start some with `dask worker ADDRESS`."
        raise ClusterUnavailable(message) from error
    return list(client.nthreads().values())


def check_answers(answers: dict[str, Look | BaseException], plan: Plan) -> None:
    """Raise for what workers answered.

    Parameters
    ----------
    answers : dict of str to Look or exception
        By address of the worker.
    plan : Plan

    Raises
    ------
    ConfigError
        As in `check_cluster`.
    """
    problems = []
    for address, found in sorted(answers.items()):
        if isinstance(found, BaseException):
            problems.append(f"{address}: cannot run fluxgrid ({type(found).__name__}: {found})")
        else:
            problems += [f"{address}: {problem}" for problem in found.problems]
    if problems:
        advice = (
            "Install this version of fluxgrid for every worker, and give --cube and --out on a file system that this "
            "machine and all workers see under the same paths."
        )
        message = f"{itemise('Workers of the cluster cannot make this map', problems)}\n{advice}"
        raise ConfigError(message)
    looks = {address: found for address, found in sorted(answers.items()) if isinstance(found, Look)}
    if not plan.mixed:
        check_machines(plan.machine, {address: found.machine for address, found in looks.items()})
    if plan.device.startswith("cuda"):
        _check_gpus(looks)


def _check_gpus(looks: dict[str, Look]) -> None:
    """Refuse workers that would run several tiles on a GPU at a time, or would never get one."""
    problems = [f"{address}: {GPU}={found.gpus:g}" for address, found in looks.items() if found.gpus != 1]
    if problems:
        header = "A GPU predicts one tile at a time, so each worker must have exactly one to give, and these do not"
        advice = (
            f"Start one worker for each GPU with `dask worker ADDRESS --resources {GPU}=1` (CUDA_VISIBLE_DEVICES says "
            "which GPU is its own), or say --device cpu."
        )
        message = f"{itemise(header, problems)}\n{advice}"
        raise ConfigError(message)


@contextmanager
def _probe(out: Path) -> Iterator[tuple[Path, str]]:
    """Write a file for workers to look for, and take it away again."""
    probe, token = _probe_path(out), uuid.uuid4().hex
    try:
        probe.write_text(token, encoding="utf-8")
    except OSError as error:
        raise output_error(error, probe) from error
    try:
        yield probe, token
    finally:
        probe.unlink(missing_ok=True)


def _probe_path(folder: Path) -> Path:
    """Return a new name that a later run takes for litter, should this process be killed."""
    return folder / f".probe.{uuid.uuid4().hex[:8]}.tmp"
