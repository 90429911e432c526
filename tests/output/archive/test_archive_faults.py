"""What goes wrong on real machines: killed writers, readers meanwhile, damaged files, full and read-only disks."""

from __future__ import annotations

import ctypes
import json
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fluxgrid.errors import DamagedMap, FluxgridError
from fluxgrid.output.archive import Archive
from fluxgrid.output.archive.layout import WORK

_DROP_CAPABILITY, _WRITES_ANYWHERE = 24, 1  # PR_CAPBSET_DROP and CAP_DAC_OVERRIDE of Linux

VALUES = (2, 3)
"""Published in turn. No chunk of them is all fill values, so that each publication touches the disk equally often."""

_WRITER = """
    import json, os, random, resource, signal, sys, time
    from pathlib import Path
    from fluxgrid.errors import FluxgridError
    from fluxgrid.output.archive import Archive, StagedUnit, StagedYear

    path, job = sys.argv[1], json.loads(sys.argv[2])
    staged = [
        [StagedYear(Path(store), {tile: StagedUnit(*unit) for tile, unit in units.items()}) for store, units in years]
        for years in job["staged"]
    ]

    def publish(turns=1):
        archive = Archive.open(path)
        for _ in range(turns):
            archive.publish(staged[archive._seen % len(staged)])
"""


def run_script(code: str, archive: Path, job: dict, **options) -> subprocess.Popen:
    """Start a process that can publish what is staged, without any helper of these tests."""
    script = textwrap.dedent(_WRITER) + textwrap.dedent(code)
    words = [sys.executable, "-c", script, str(archive), json.dumps(job)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def answer_of(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def make_job(maker, values, years=(2019, 2020), **more) -> dict:
    """Return, for a process, what to publish: whole years of each value in turn."""
    staged = [
        [
            (str(year.path), {tile: [unit.key, unit.digest] for tile, unit in year.units.items()})
            for year in (maker.stage(number, value) for number in years)
        ]
        for value in values
    ]
    return {"staged": staged, **more}


def check_whole(maker, archive: Archive, values, newest: bool = False) -> None:
    """Every version is of one value, in all tiles of both years, and it is the one that was next."""
    for version in archive.versions()[-1 if newest else 0 :]:
        years = archive.years(version)
        right = dict.fromkeys(maker.tiles, float(values[(version.id - 1) % len(values)]))
        assert {year: maker.values(dataset) for year, dataset in years.items()} == {2019: right, 2020: right}
    assert archive.verify() == []


_KILLED = """
    # removals are left out, for a writer first removes what killed ones left; the last touch is the end of its own
    TOUCHES = ("os.rename", "os.link", "os.mkdir", "os.symlink", "shutil.rmtree")

    def in_child(work):
        "Run something in a forked process, which has what is slow to import, and return how it ended."
        child = os.fork()
        if not child:
            try:
                work()
            finally:
                os._exit(0)
        return child

    def counting(then):
        "Call a function at each touch of the disk that can change it."
        count = 0
        def hook(event, arguments):
            nonlocal count
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes or event in TOUCHES:
                count += 1
                then(count)
        sys.addaudithook(hook)

    def killed(point):
        def stop(count):
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)
        counting(stop)
        publish()

    def measure():
        last = 0
        def remember(count):
            nonlocal last
            last = count
        counting(remember)
        publish()
        os.write(write, str(last).encode())

    read, write = os.pipe()
    os.waitpid(in_child(measure), 0)
    total = int(os.read(read, 99))
    print(total, flush=True)
    points = [int(point * total) if 0 < point < 1 else total + point for point in job["points"]]
    for point in points or range(1, total + 1, 5):
        _, status = os.waitpid(in_child(lambda: killed(point)), 0)
        print("killed" if os.WIFSIGNALED(status) else f"ended by itself at {point}", flush=True)
        input()
    for wait in job.get("waits", ()):
        child = in_child(lambda: publish(turns=9))
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print("killed", flush=True)
        input()
"""


def kill_and_check(maker, archive: Archive, values, **job) -> tuple[int, int]:
    """Kill writers one after the other and look at the archive after each.

    Returns how many were killed, and how many versions they made.
    """
    process = run_script(_KILLED, archive.path, make_job(maker, values, **job), stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert int(process.stdout.readline()) > 100  # touches of the disk by one publication
    killed = 0
    for line in process.stdout:
        assert line == "killed\n"
        killed += 1
        check_whole(maker, Archive.open(archive.path), values, newest=True)
        process.stdin.write("\n")
        process.stdin.flush()
    answer_of(process)
    return killed, len(Archive.open(archive.path).versions()) - 1


def finish(maker, archive: Archive, values) -> None:
    """Publish after the kills: it works, and nothing unfinished is left."""
    archive = Archive.open(archive.path)
    check_whole(maker, archive, values)
    turn = archive.newest().id % len(values)
    archive.publish([maker.stage(year, values[turn]) for year in (2019, 2020)])
    archive.prune(3)
    check_whole(maker, archive, values)
    assert not (archive.path / WORK).exists()
    needed = {(str(y), f.folder) for v in archive.versions() for y, f in v.years.items()}
    assert {path.parts[-2:] for path in archive.path.glob("years/*/*")} == needed


def test_killed_writer_loses_nothing_and_half_publishes_nothing(archive, maker):
    """Killed at the last touches of the disk, where a version becomes visible, and at some before."""
    killed, made = kill_and_check(maker, archive, VALUES, points=[0.4, -3, -2, -1, 0])
    assert killed == 5
    assert 0 < made < 3
    finish(maker, archive, VALUES)


@pytest.mark.slow
def test_many_killed_writers(archive, maker):
    """A kill at every 5th touch of the disk, and a hundred at any moment of a writer that goes on and on."""
    chance = random.Random(0)
    waits = [chance.uniform(0.02, 2.0) for _ in range(100)]
    killed, made = kill_and_check(maker, archive, VALUES, points=[], waits=waits)
    print(f"{killed} writers killed, {made} versions made by them, none lost, none half published")
    assert killed > 120
    finish(maker, archive, VALUES)


_READER = """
    import numpy as np, xarray as xr
    seen = []
    while not seen or seen[-1] < job["last"]:
        archive = Archive.open(path)
        version = archive.newest()
        if version is None:
            continue
        kept = archive.years(version)
        folder = max((Path(path) / "versions").iterdir())
        plain = {year: xr.open_zarr(folder / f"{year}.zarr", consolidated=False) for year in (2019, 2020)}
        values = {float(value) for dataset in kept.values() for value in np.unique(dataset["nee"].values)}
        (value,) = values
        assert value == version.id, (value, version)
        assert {float(v) for year in plain.values() for v in np.unique(year["nee"].values)} == {float(int(folder.name))}
        seen.append(version.id)
        print("seen", flush=True)
    print(json.dumps(seen), flush=True)
"""


def test_reader_never_sees_half_a_publication_nor_less(archive, maker):
    values = (1, 2, 3, 4, 5)
    for value in values:
        for year in (2019, 2020):
            maker.stage(year, value)
    archive.publish([maker.stage(year, 1) for year in (2019, 2020)])
    first = archive.years()
    process = run_script(_READER, archive.path, make_job(maker, (1,), last=5))
    assert process.stdout is not None
    assert process.stdout.readline() == "seen\n"
    for value in values[1:]:
        archive.publish([maker.stage(year, value) for year in (2019, 2020)])
    seen = json.loads(answer_of(process).splitlines()[-1])
    assert seen == sorted(seen)
    assert len({*seen}) > 1
    assert {year: maker.values(dataset) for year, dataset in first.items()} == dict.fromkeys(
        (2019, 2020), dict.fromkeys(maker.tiles, 1)
    )


def damaged(archive: Archive, files: list[Path]) -> list[Path]:
    """Return every damaged path that opening and verifying the newest version name."""
    try:
        archive = Archive.open(archive.path)
        return [Path(damage.path) for damage in archive.verify()]
    except FluxgridError as error:
        return [path for path in files if str(path) in str(error)]


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "flipped":
        spoiled = bytearray(content)
        spoiled[len(content) // 2] ^= 1
        path.write_bytes(spoiled)
    elif how == "truncated":
        path.write_bytes(content[:-1])
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["flipped", "truncated", "lost"])
def test_every_damaged_file_is_named(archive, maker, how):
    """Each file of a small archive in turn."""
    archive.publish([maker.stage(2019, 1)])
    files = [path for path in archive.path.rglob("*") if path.is_file()]
    assert len(files) > 70
    for path in files:
        content = path.read_bytes()
        spoil(path, how)
        found = damaged(archive, files)
        assert path in found, f"{path} {how}: {found}"
        assert all(other in (path, *path.parents) for other in found), f"{path} {how}: {found}"
        path.write_bytes(content)
    assert damaged(archive, files) == []


def test_lost_links_and_strange_files_are_named(archive, maker):
    version = archive.publish([maker.stage(2019, 1)])
    link = archive.path / "versions" / version.name / "2019.zarr"
    strange = archive.path / "years" / "2019" / version.years[2019].folder / "map.zarr" / "nee" / "c" / "0" / "9" / "9"
    link.rename(link.with_name("2020.zarr"))
    strange.parent.mkdir()
    strange.write_bytes(b"")
    assert {damage.path for damage in archive.verify()} == {link, strange}


@pytest.mark.parametrize("how", ["flipped", "truncated", "lost"])
def test_damage_is_repaired_by_publishing_the_unit_again(archive, maker, how):
    archive.publish([maker.stage(2019, 1)])
    folder = archive.folders()[2019] / "map.zarr"
    spoil(folder / "gpp" / "c" / "0" / "0" / "2", how)  # the second tile of the first row
    (damage,) = archive.verify()
    assert (damage.year, damage.tile, damage.variable) == (2019, "r0000c0004", "gpp")
    assert str(damage).startswith("tile r0000c0004, 2019, gpp: ")
    with pytest.raises((DamagedMap, ValueError, RuntimeError)):
        archive.years()[2019]["gpp"].values  # noqa: B018
    version = archive.publish([maker.stage(2019, 1, ["r0000c0004"])])
    assert archive.changed(version) == (("r0000c0004", 2019),)
    assert archive.verify() == []
    assert archive.diff(1, 2).values == ()


@pytest.mark.parametrize("name", ["units.json", "checksums.txt", "map.zarr/zarr.json", "map.zarr/time/c/0"])
def test_damaged_lists_are_repaired_by_publishing_the_year_again(archive, maker, name):
    archive.publish([maker.stage(2019, 1), maker.stage(2020, 1)])
    spoil(archive.folders()[2019] / name, "flipped")
    assert [damage.tile for damage in archive.verify()] == [None]
    assert archive.publish([maker.stage(2019, 1)]).id == 2
    assert archive.verify() == []
    assert maker.values(archive.years()[2019]) == dict.fromkeys(maker.tiles, 1)


def test_unknown_needs_of_a_damaged_version_stop_pruning(archive, maker, files_of):
    for value in (1, 2, 3):
        archive.publish([maker.stage(2019, value)])
    spoil(archive.path / "versions" / "000002" / "version.json", "flipped")
    before = files_of(archive.path)
    with pytest.raises(DamagedMap, match=r"versions/000002/version.json"):
        archive.prune(1)
    assert files_of(archive.path) == before
    assert maker.values(archive.years(1)[2019]) == dict.fromkeys(maker.tiles, 1)
    assert maker.values(archive.years()[2019]) == dict.fromkeys(maker.tiles, 3)


_NO_ROOM = """
    for limit in job["limits"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            publish()
        except FluxgridError as error:
            print(type(error).__name__, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(sorted(os.listdir(path)))

    folders = [root for root, _, _ in os.walk(path)]
    for folder in folders:
        os.chmod(folder, 0o500)
    try:
        publish()
    except FluxgridError as error:
        print(type(error).__name__, error)
    print(float(Archive.open(path).at()["nee"].mean()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a limit on file size stands for a full disk; POSIX only")
def test_full_and_read_only_disks_are_clear_errors_and_change_nothing(archive, maker, files_of):
    archive.publish([maker.stage(year, 1) for year in (2019, 2020)])
    before = files_of(archive.path)
    limits = [1, 100, 1000, 3000, 5000]  # bytes: the first metadata, a chunk, lists

    def obey_permissions():  # root writes anywhere by this capability
        if os.geteuid() == 0:
            assert ctypes.CDLL(None).prctl(_DROP_CAPABILITY, _WRITES_ANYWHERE, 0, 0, 0) == 0

    process = run_script(_NO_ROOM, archive.path, make_job(maker, VALUES, limits=limits), preexec_fn=obey_permissions)
    *full, listed, read_only, mean = answer_of(process).splitlines()
    for folder in (archive.path, *archive.path.rglob("*/")):
        folder.chmod(0o700)
    assert len(full) == len(limits)
    assert all("OutputError Cannot write" in line and "larger than this process may write" in line for line in full)
    assert listed == "['README.txt', 'archive.json', 'versions', 'years']"
    assert read_only.startswith("OutputError Cannot write")
    assert "permission is denied" in read_only
    assert mean == "1.0"
    assert files_of(archive.path) == before
