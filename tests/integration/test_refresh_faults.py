"""A refresh in which everything goes wrong that can: killed, starved, locked out, at any stage, with real processes."""

from __future__ import annotations

import ctypes
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from fluxgrid.config_map import UpscaleConfig, load_config
from fluxgrid.errors import RunLocked
from fluxgrid.netcdf import save_netcdf
from fluxgrid.output import quicklook
from fluxgrid.output.archive import Archive
from fluxgrid.testing import small_cube
from fluxgrid.workflows.refresh import refresh
from fluxgrid.workflows.refresh_place import Refreshed, Request
from fluxgrid.workflows.runs import list_runs

SHAPE, CENTRE = (12, 40), (-93.5, 41.8)  # two tiles: 12 x 32 and 12 x 8
MONTHS = 15
"""Of the cube at first: the second year has three."""
STREAMS = (("temperature_2m", "precipitation"), ("shortwave",))
STAGES = ("look", "inputs", "survey", "compute", "check", "publish", "files", "report")
"""Of a refresh, in order; ``growth`` and the ``moving`` of its files are parts of ``inputs``."""
FED_STAGES = ("growth", "moving", "growth", "publish", "moving", "files", "growth", "compute")
FAST_KILLS, SLOW_KILLS = 8, 100  # each stage once
FAST_FED_KILLS, SLOW_FED_KILLS = 4, 32
# of Linux: PR_CAPBSET_DROP, CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
_DROP_CAPABILITY, _WRITES_ANYWHERE, _READS_ANYWHERE = 24, 1, 2


# --- regions that tests may harm -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """A cube that somebody extends, a model and a configuration."""

    folder: Path
    model: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def archive(self) -> Archive:
        return Archive.open(self.out / "archive")

    def values(self) -> dict[str, Any]:
        return {"region": "-95.5,41.25,-91.5,42.35", "cube": str(self.folder / "cube.zarr")}

    def config(self, **changes: Any) -> Path:
        path = self.folder / "run.yaml"
        values = {**self.values(), "model": str(self.model), "out": str(self.out), "threads": 1}
        path.write_text(yaml.safe_dump({**values, **changes}))
        return path

    def refresh(self, *allow: str, **changes: Any) -> Refreshed:
        return refresh(load_config(UpscaleConfig, str(self.config(**changes))), Request(allow))

    def deliver(self, number: int) -> None:
        """Bring so many more months than at first; when three years are full, revise a month each time."""
        cube = small_cube("monthly", SHAPE, "2019-01-01", 36, 4, CENTRE).isel(time=slice(0, MONTHS + number))
        cube = cube.drop_encoding()
        for revised in range(36 - MONTHS, number):
            cube["precipitation"][revised % 36] += 1
        for array in cube.data_vars.values():
            array.encoding = {"chunks": (3, 32, 32)[-array.ndim :], "grid_mapping": "spatial_ref"}
        shutil.rmtree(self.folder / "cube.zarr", ignore_errors=True)
        cube.to_zarr(self.folder / "cube.zarr", zarr_format=3, consolidated=False)

    def fresh(self, name: str) -> Region:
        """Return a region that was never refreshed, with the same model."""
        other = type(self)(self.folder.parent / name, self.model)
        other.folder.mkdir()
        return other


class Fed(Region):
    """A region whose cube grows from deliveries of ten days."""

    def values(self) -> dict[str, Any]:
        source = {"location": str(self.folder / "incoming"), "base": str(self.folder / "base.zarr"), "settle": 0}
        guards = {"missing_jump": 1.0, "totals_move": 10.0}
        values = {"region": "-94,41.2,-93,41.8", "start": "2019-01-01", "max_missing": 1.0}
        return values | {"refresh": {"source": source, "guards": guards}}

    @property
    def cube(self) -> Path:
        return self.out / "cube.zarr"

    def deliver(self, number: int) -> None:
        """Drop the file of ten days, the third after a year's first chunk, and those before it that are missing."""
        (self.folder / "incoming").mkdir(exist_ok=True)
        assert number <= 30, "the year is full"
        cube = small_cube(start="2019-01-01", periods=365)
        if not (self.folder / "base.zarr").exists():
            varying = [name for name, array in cube.data_vars.items() if array.ndim == 3 and name != "vpd"]
            base = cube.drop_vars(varying).isel(time=slice(0, 10)).drop_encoding()
            base.to_zarr(self.folder / "base.zarr", zarr_format=3, consolidated=False)
        days = cube[[name for stream in STREAMS for name in stream]]
        days.attrs |= {"status": "final", "date_created": "2019-02-01"}
        for part in range(number + 6):
            path = self.folder / "incoming" / f"{part:02d}.nc"
            if not path.exists():
                save_netcdf(days.isel(time=slice(10 * part, 10 * part + 10)), path)


@pytest.fixture
def place(tmp_path) -> Iterator[Path]:
    """A folder in memory where there is room: nothing here is about power failures, and disks of testers are busy."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="fluxgrid-", dir=memory))
    yield folder
    for path in folder.rglob("*/"):
        path.chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def trees(tools, tmp_path_factory) -> Path:
    """A monthly model."""
    cube = small_cube("monthly", (44, 57), "2019-01-01", 36, 4, CENTRE)
    return tools["write_model"](
        tmp_path_factory.mktemp("models") / "trees", cube, tools["spec_of"]("lightgbm", "monthly")
    )


@pytest.fixture
def region(trees, place) -> Region:
    made = Region(place / "region", trees)
    made.folder.mkdir()
    made.deliver(0)
    return made


@pytest.fixture
def fed(world, place) -> Fed:
    made = Fed(place / "fed", world.lightgbm)
    made.folder.mkdir()
    made.deliver(0)
    return made


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(quicklook, "draw_quicklook", lambda *args: args[-1].write_bytes(b"") or args[-1])


# --- processes -------------------------------------------------------------------------------------------------------


@dataclass
class Child:
    """A refresh in a process of its own."""

    pid: int
    lines: queue.SimpleQueue[tuple[float, str]]
    stages: list[tuple[str, float]] = field(default_factory=list)
    """Begun, and when."""
    error: str = ""
    done: str = ""
    status: int | None = None

    def until(self, stage: str | None) -> bool:
        """Wait until a stage begins, or the end; return whether it came to that."""
        while self.status is None:
            moment, line = self.lines.get(timeout=300)
            word, _, rest = line.partition(" ")
            if word == "stage":
                self.stages.append((rest, moment))
                if rest == stage:
                    return True
            elif word == "error":
                self.error = rest
            elif word == "done":
                self.done = rest
            elif word == "end":
                self.status = int(rest)
        return False

    def end(self) -> int:
        """Wait for its end and return its exit code, negative for a signal."""
        self.until(None)
        assert self.status is not None
        return os.waitstatus_to_exitcode(self.status)

    def again(self) -> int:
        """Return the exit code of the next that was started with it."""
        self.status = None
        return self.end()

    def kill(self) -> bool:
        """Kill it, and return whether that was what ended it."""
        with suppress(ProcessLookupError):  # it was faster
            os.kill(self.pid, signal.SIGKILL)
        return self.end() == -signal.SIGKILL


class Forge:
    """Starts refreshes as children of one process, which obeys permissions even if root runs the tests."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("refresh_child.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])},
            preexec_fn=obey_permissions,
        )
        self.lines: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        assert self.lines.get(timeout=300)[1].startswith("ready")

    def _listen(self) -> None:
        """Pass lines on, with the time."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put((time.perf_counter(), line.strip()))

    def start(self, config: Path, *allow: str, times: int = 1, **at: list[tuple[str, Any]]) -> Child:
        """Start a refresh, or several at once; at stages things may happen to them."""
        assert self.process.stdin is not None
        asked = {"config": str(config), "allow": allow, "times": times, "at": at}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        held = []
        while True:  # the child may be faster than its parent
            moment, line = self.lines.get(timeout=300)
            if line.startswith("child"):
                break
            held.append((moment, line))
        for one in held:
            self.lines.put(one)
        return Child(int(line.split()[1]), self.lines)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=300)


def obey_permissions() -> None:
    """Give up, before another program is run, what lets root read and write anywhere."""
    if os.geteuid() == 0:
        for right in (_WRITES_ANYWHERE, _READS_ANYWHERE):
            ctypes.CDLL(None).prctl(_DROP_CAPABILITY, right, 0, 0, 0)


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    made = Forge()
    yield made
    made.close()


# --- what must stay true ---------------------------------------------------------------------------------------------


class Witness:
    """Looks at a region after each fault: versions only grow, each is whole, files are those of a published one."""

    def __init__(self, region: Region):
        self.region = region
        self.seen: dict[int, Any] = {}
        self.lost = self.half = 0

    def look(self) -> None:
        """Count what is lost or half published since the last time."""
        out = self.region.out
        if not (out / "archive" / "archive.json").exists():
            self.lost += len(self.seen)
            return
        now = {version.id: version for version in self.region.archive.versions()}
        self.lost += sum(now.get(number) != version for number, version in self.seen.items())
        self.half += sum(bool(self.region.archive.verify(number)) for number in now.keys() - self.seen.keys())
        self.seen = now
        latest = out / "latest"
        if latest.is_symlink():
            about = json.loads((latest / "export.json").read_text())
            self.half += any((latest / name).stat().st_size != size for name, size in about["files"].items())
            self.half += about["version"] not in now

    def finish(self, other: Region, number: int) -> None:
        """Compare with a region that was refreshed once, when all had been delivered, byte for byte."""
        self.look()
        assert all(self.region.archive.verify(version) == [] for version in self.seen)
        other.deliver(number)
        other.refresh()
        assert content_of(self.region.archive) == content_of(other.archive)
        assert (self.lost, self.half) == (0, 0)


def content_of(archive: Archive) -> list[Any]:
    """Return every byte of the newest maps, and the key and hash of each unit; not when it was published."""
    units = {name: (unit.key, unit.digest, unit.values, unit.steps) for name, unit in archive.units().items()}
    return [units, {year: files_of(folder / "map.zarr") for year, folder in archive.folders().items()}]


def files_of(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- killed ----------------------------------------------------------------------------------------------------------


KILLS = pytest.mark.parametrize("kills", [FAST_KILLS, pytest.param(SLOW_KILLS, marks=pytest.mark.slow)])


@KILLS
def test_killed_at_random_nothing_is_lost_and_nothing_half_published(region, forge, litter, kills, capsys):
    """Killed at a random moment of each stage in turn; the next one goes on where it stopped."""
    killed_at_random(region, forge, litter, kills, STAGES, capsys)


@pytest.mark.parametrize("kills", [FAST_FED_KILLS, pytest.param(SLOW_FED_KILLS, marks=pytest.mark.slow)])
def test_killed_while_deliveries_come_nothing_is_lost(fed, forge, litter, kills, capsys):
    """As above, most of the kills while the cube grows."""
    killed_at_random(fed, forge, litter, kills, FED_STAGES, capsys)


def killed_at_random(region, forge, litter, kills, stages, capsys):
    """Kill refreshes, look after each, and compare in the end."""
    chance, witness, hits, finished, number = random.Random(kills), Witness(region), Counter(), 0, 0
    first = forge.start(region.config())
    assert first.end() == 0, first.error
    seconds = durations(first)
    while hits.total() < kills:
        stage = stages[hits.total() % len(stages)]
        if finished == number:  # nothing is left to do
            number += 1
            region.deliver(number)
        one = forge.start(region.config())
        if one.until(stage):
            time.sleep(chance.uniform(0, seconds.get(stage, 0.1)))
        if one.status is None and one.kill():
            hits[one.stages[-1][0]] += 1
        else:
            assert one.end() == 0, one.error
            seconds |= durations(one)
            finished += 1
        witness.look()
    last = forge.start(region.config())
    assert last.end() == 0, last.error
    versions = len(region.archive.versions())
    witness.finish(region.fresh("other"), number)
    assert litter(region.out) == []
    with capsys.disabled():
        where = ", ".join(f"{hits[stage]} in {stage}" for stage in (*STAGES, "growth", "moving") if hits[stage])
        print(f"\n{hits.total()} refreshes killed ({where}), {finished + 2} ended by themselves, {versions} versions;")
        print(f"{witness.lost} lost, {witness.half} half published, all files of the archive as those of one refresh")


def durations(child: Child) -> dict[str, float]:
    """Return how long each stage took, in seconds."""
    stages = child.stages
    ends = [moment for _, moment in stages[1:]] + [stages[-1][1] + 0.01]  # a report takes no longer
    return {name: end - begun for (name, begun), end in zip(stages, ends, strict=True)}


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(region, capsys):
    """Two worker processes; the one that has worked most is killed when the first unit is finished."""
    killed: list[str] = []

    def kill_a_worker() -> None:
        end = time.monotonic() + 300
        while not any((region.out / ".fluxgrid").glob("*/records/*/*.json")):
            if time.monotonic() > end:
                return
            time.sleep(0.001)
        processes = psutil.Process().children(recursive=True)
        workers = [one for one in processes if "spawn_main" in " ".join(one.cmdline())]
        busy = max(workers, key=lambda one: sum(one.cpu_times()[:2]))
        busy.kill()
        killed.append(f"{len(list((region.out / '.fluxgrid').glob('*/records/*/*.json')))} units were finished")

    region.deliver(21)  # three years
    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    done = region.refresh(workers=2)
    killer.join()
    assert killed
    assert done.report["computed"]["tiles"] == 2
    Witness(region).finish(region.fresh("other"), 21)
    with capsys.disabled():
        print(f"\na worker of two killed when {killed[0]} of 6: the archive is that of one process, byte for byte")


# --- disks and permissions that go in mid-run ------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What happens to a refresh at a stage, and how it must end."""

    stage: str
    action: str
    value: Any
    """A number, or a path in the folder of the region."""
    says: str
    code: int = 2


def survives(region: Region, forge: Forge, faults: list[Fault], capsys: Any, name: str) -> None:
    """Let each fault happen to a refresh that has something new, look, and compare in the end."""
    assert forge.start(region.config()).end() == 0
    witness, number, missed = Witness(region), 0, []
    for number, fault in enumerate(faults, 1):
        region.deliver(number)
        value = str(region.folder / fault.value) if isinstance(fault.value, str) else fault.value
        one = forge.start(region.config(), **{fault.stage: [(fault.action, value)]})
        code = one.end()
        allow_all(region.folder)
        if (code, fault.says in one.error, "traceback" in one.error) != (fault.code, True, False):
            missed.append(f"{fault}: {code} {one.error}")
        witness.look()
    assert not missed, "\n".join(missed)
    last = forge.start(region.config())
    assert last.end() == 0, last.error
    assert last.status is not None
    versions = len(region.archive.versions())
    witness.finish(region.fresh("other"), number)
    with capsys.disabled():
        print(f"\n{len(faults)} refreshes {name}, at {', '.join(fault.stage for fault in faults)}: one message each, ")
        print(f"{witness.lost} lost and {witness.half} half published of {versions} versions; then they went on")


def allow_all(folder: Path) -> None:
    """Give every right back, and room."""
    folder.chmod(0o755)
    for path in sorted(folder.rglob("*")):  # folders before what is in them
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    for filler in folder.rglob("filler"):
        filler.unlink()


DENIED, LARGE, FULL = "permission is denied", "larger than this process may write", "the disk is full"


def test_no_permission_in_mid_run_loses_nothing(region, forge, capsys):
    places = {"look": "out", "compute": "out/.fluxgrid", "publish": "out/archive", "files": "out/exports"}
    faults = [Fault(stage, "forbid", place, DENIED) for stage, place in places.items()]
    faults += [Fault("report", "forbid", "out/reports", DENIED)]
    faults += [Fault("survey", "hide", "cube.zarr/temperature_2m/c", "cube.zarr")]
    survives(region, forge, faults, capsys, "without permission")


def test_no_permission_to_deliveries_or_cube_loses_nothing(fed, forge, capsys):
    faults = [
        Fault("look", "hide", "incoming", "cannot be looked at (Permission denied)", 6),
        Fault("growth", "forbid", "out/cube.zarr.growth", DENIED),
        Fault("moving", "forbid", "out/cube.zarr", DENIED),
        Fault("growth", "hide", "out/cube.zarr/shortwave/c", DENIED),
    ]
    survives(fed, forge, faults, capsys, "without permission")


def test_no_room_in_mid_run_loses_nothing(region, forge, capsys):
    """A limit on the size of files stands for a disk that is full."""
    bytes_ = {"look": 10, "compute": 100, "publish": 300, "files": 3000, "report": 100}
    says = {"files": FULL}  # all that the library of NetCDF tells
    faults = [Fault(stage, "limit", most, says.get(stage, LARGE)) for stage, most in bytes_.items()]
    survives(region, forge, faults, capsys, "without room")


def test_no_room_for_the_cube_loses_nothing(fed, forge, capsys):
    bytes_ = {"look": 10, "growth": 300, "moving": 0}
    faults = [Fault(stage, "limit", most, LARGE) for stage, most in bytes_.items()]
    survives(fed, forge, faults, capsys, "without room")


@pytest.fixture
def small_disk(tmp_path, client, lacking) -> Iterator[Path]:
    """A file system of its own, of 24 MB; needs the right to mount one."""
    mount, umount = client("mount", "mount"), client("umount", "mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    words = [mount, "-t", "tmpfs", "-o", "size=24m", "fluxgrid-test", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        lacking(f"no file system can be mounted ({done.stderr.strip()}); run as root", "FLUXGRID_REQUIRE_CLIENTS")
    yield folder
    subprocess.run([umount, "-l", str(folder)], check=True)


def test_a_full_disk_in_mid_run_loses_nothing(small_disk, trees, forge, capsys):
    region = Region(small_disk / "region", trees)
    region.folder.mkdir()
    region.deliver(0)
    faults = [Fault(stage, "fill", "out", FULL) for stage in ("look", "compute", "publish", "files", "report")]
    survives(region, forge, faults, capsys, "with a full disk")


# --- two at once, and clocks -----------------------------------------------------------------------------------------


def test_two_at_once_publish_once(region, forge, capsys):
    """Both are forked in the same moment; each would take its time to compute."""
    both = forge.start(region.config(), times=2, compute=[("wait", 2)])
    codes = sorted((both.end(), both.again()))
    assert codes == [0, 5]
    assert both.error.startswith("5 Another run works in")
    assert len(region.archive.versions()) == 1
    with capsys.disabled():
        print(f"\ntwo refreshes at once: exit codes {codes[0]} and {codes[1]}, 1 version")


@pytest.mark.slow
def test_a_clock_that_moves_changes_no_order_and_no_map(region, forge, capsys):
    """The day is 400 days off in one direction, then in the other, also while a refresh runs."""
    turns = [{}, {"look": -400}, {"look": 400}, {"publish": -900}, {"look": -20, "files": 400}, {}]
    witness = Witness(region)
    for number, turn in enumerate(turns):
        region.deliver(number)
        one = forge.start(region.config(), **{stage: [("turn", days)] for stage, days in turn.items()})
        assert one.end() == 0, one.error
        witness.look()
    versions = region.archive.versions()
    assert [version.id for version in versions] == list(range(1, len(turns) + 1))
    times = [version.time for version in versions]
    assert times == sorted(set(times))
    for version in versions:
        assert region.archive.find(version.time) == version
        assert version.covered == f"2020-{4 + version.id - 1:02d}-01"
    assert len(list((region.out / "reports").glob("*.json"))) == len(turns)
    nothing = forge.start(region.config(), look=[("turn", -4000)])
    assert (nothing.end(), nothing.done) == (0, "up to date")
    assert list_runs(str(region.config()))[0]["version"] == 1
    pruned = region.archive.prune(2)
    assert pruned.versions == (1, 2, 3, 4)
    witness.seen = {version.id: version for version in region.archive.versions()}
    witness.finish(region.fresh("other"), len(turns) - 1)
    with capsys.disabled():
        print(f"\n{len(turns)} refreshes under clocks that move by up to 900 days: versions in order, maps the same")


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_moves_breaks_no_lock(region, forge, monkeypatch, days):
    one = forge.start(region.config(), look=[("turn", days)], compute=[("wait", 1.5)])
    assert one.until("compute")
    with pytest.raises(RunLocked, match=rf"process {one.pid} on .*last alive \d+ s ago"):
        region.refresh()
    assert one.end() == 0, one.error


# --- a flipped byte in the cube --------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [False, True], ids=["alone", "with a delivery"])
def test_a_flipped_byte_of_the_cube_is_named_and_mended(fed, new):
    """A chunk, an axis, the status of days and the ledger; no map is made of what was not delivered."""
    fed.refresh()
    before = content_of(fed.archive)
    names = ("shortwave/c/0/0/0", "x/c/0", "delivery_status/c/0", "../cube.zarr.growth/ledger.json")
    for name in names:
        data = bytearray((fed.cube / name).read_bytes())
        data[len(data) // 2] ^= 4
        (fed.cube / name).write_bytes(bytes(data))
    if new:
        fed.deliver(1)
    done = fed.refresh()
    assert done.status == ("published" if new else "repaired")
    assert [Path(text.partition(": ")[0]).name for text in done.report["damages"]] == ["ledger.json", "0", "0", "0"]
    assert all(any(str((fed.cube / name).resolve()) in text for text in done.report["damages"]) for name in names)
    other = fed.fresh("other")
    other.deliver(int(new))
    other.refresh()
    assert content_of(fed.archive) == content_of(other.archive)
    assert new or content_of(fed.archive) == before
    assert files_of(fed.cube) == files_of(other.cube)
    assert fed.refresh().status == "up to date"
