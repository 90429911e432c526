from __future__ import annotations

import re
import shlex
import subprocess

import pytest

from fluxgrid.errors import ConfigError
from fluxgrid.scheduling import KINDS, read_when


def options(text: str) -> dict[str, str]:
    """Return the #SBATCH options; they end at the first command, and any after it would be lost."""
    found: dict[str, str] = {}
    commands = False
    for line in text.splitlines():
        commands |= bool(line) and not line.startswith("#")
        if line.startswith("#SBATCH"):
            assert not commands
            (word,) = shlex.split(line.removeprefix("#SBATCH "))
            key, _, value = word.removeprefix("--").partition("=")
            found[key] = value
    return found


@pytest.fixture
def job(make, fakes, odd, tmp_path):
    """Return a function that writes and runs a job: what came of it."""

    def start(codes=(0,), *words: str, waiting: str = "", submits: int = 0, **changes):
        place = tmp_path / odd
        place.mkdir(exist_ok=True)
        python = fakes.add("python", codes)
        fakes.add("squeue", says=waiting)
        fakes.add("sbatch", (submits,))
        row = {"python": str(python), "folder": str(tmp_path), "config": f"{place}/c.yaml", "place": str(place)}
        (file,) = KINDS["slurm"].render(make("slurm", **(row | changes)))
        path = place / file.name
        path.write_text(file.text)
        return fakes.run(["/bin/bash", str(path), *words], SLURM_JOB_ID="77"), str(path)

    return start


def test_bash_reads_it_and_the_options_are_slurms(make, odd):
    plain = odd.replace('"', "")  # SLURM's own quotes cannot hold quotes
    schedule = make("slurm", folder=f"/{plain}", timeout_s=(26 * 60 + 5) * 60, options={"cpus": 4, "memory": 8})
    (file,) = KINDS["slurm"].render(schedule)
    done = subprocess.run(["bash", "-n"], input=file.text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert file.text.startswith("#!/bin/bash\n#SBATCH ")
    assert options(file.text) == {
        "job-name": "fluxgrid-midwest",
        "time": "1-02:05:00",
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": "4",
        "mem": "8G",
        "requeue": "",
        "open-mode": "append",
        "output": f"/{plain}/fluxgrid-midwest.log".replace("%", "%%"),
    }


def test_a_job_asks_for_the_next_and_runs(job, fakes, odd, tmp_path):
    done, path = job(environment={"FLUXGRID_X": odd}, when=read_when("weekly", "Mon 06:00"))
    assert done.returncode == 0
    assert fakes.calls("python") == [[str(tmp_path), "-m", "fluxgrid", "refresh", f"{tmp_path / odd}/c.yaml"]]
    assert fakes.environments("python")[0]["FLUXGRID_X"] == odd
    ((_, begin, dependency, script),) = fakes.calls("sbatch")
    assert re.fullmatch(r"--begin=\d{4}-\d\d-\d\dT06:[0-2]\d:00", begin)
    assert (dependency, script) == ("--dependency=singleton", path)
    ((_, *asked),) = fakes.calls("squeue")
    assert "--name=fluxgrid-midwest" in asked


def test_a_job_that_waits_is_enough(job, fakes):
    done, _ = job(waiting="78")
    assert done.returncode == 0
    assert fakes.calls("sbatch") == []


def test_a_failure_does_not_end_the_chain(job, fakes):
    done, _ = job((3,))
    assert done.returncode == 3
    assert len(fakes.calls("sbatch")) == 1


def test_a_run_that_was_locked_out_is_no_failure(job):
    assert job((5,))[0].returncode == 0


@pytest.mark.parametrize(("words", "next_try"), [((), "2"), (("3",), "4"), (("4",), None)])
def test_a_source_that_is_away_is_asked_again(job, fakes, words, next_try):
    done, path = job((6,), *words, waiting="78")
    assert done.returncode == 6
    again = [["--begin=now+1800", "--dependency=afterany:77", path, next_try]] if next_try else []
    assert [call[1:] for call in fakes.calls("sbatch")] == again


def test_a_broken_chain_is_told(job):
    done, path = job(submits=1)
    assert done.returncode == 1
    assert f"do it by hand: sbatch {path}" in done.stderr


@pytest.mark.parametrize("folder", ['/a"b', "/a\\b"])
def test_a_folder_that_slurm_would_read_its_own_way_is_an_error(make, folder):
    with pytest.raises(ConfigError, match="use another folder"):
        KINDS["slurm"].render(make("slurm", folder=folder))
