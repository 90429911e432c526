"""Programs and manifests of docs/refresh.md: they compile, and Kubernetes knows every key of their pods."""

from __future__ import annotations

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from distributed.cli import dask_scheduler, dask_worker

PAGE = (Path(__file__).parents[1] / "docs" / "refresh.md").read_text(encoding="utf-8")


def block(language: str, word: str) -> str:
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if word in text]
    return found


def manifest() -> dict:
    return yaml.safe_load(block("yaml", "DaskCluster"))


def test_the_program_for_slurm_compiles():
    compile(block("python", "SLURMCluster"), "on_slurm.py", "exec")


@pytest.mark.parametrize("part", ["worker", "scheduler"])
def test_pods_of_the_manifest_are_pods(part):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": part}, "spec": manifest()["spec"][part]["spec"]}
    kubernetes_validate.validate(pod, "1.31", strict=True)


def test_the_service_of_the_manifest_finds_the_scheduler_where_the_page_says():
    found = manifest()
    service, name = found["spec"]["scheduler"]["service"], found["metadata"]["name"]
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"{name}-scheduler"}, "spec": service}, "1.31"
    )
    assert service["selector"]["dask.org/cluster-name"] == name
    port = service["ports"][0]["port"]
    assert f"scheduler: tcp://{name}-scheduler:{port}" in PAGE
    (container,) = found["spec"]["scheduler"]["spec"]["containers"]
    assert {row["name"]: row["containerPort"] for row in container["ports"]}["tcp-comm"] == port


@pytest.mark.parametrize(("part", "program"), [("worker", dask_worker.main), ("scheduler", dask_scheduler.main)])
def test_dask_knows_the_options_of_all_commands(part, program):
    """Of the manifest and of the page's shell lines."""
    (container,) = manifest()["spec"][part]["spec"]["containers"]
    assert container["command"][:4] == ["python", "-m", "dask", part]
    told = CliRunner().invoke(program, ["--help"]).output
    lines = re.findall(rf"dask {part} ([^`#\n]*)", PAGE)
    used = {word for text in (" ".join(container["command"]), *lines) for word in re.findall(r"--[a-z-]+", text)}
    assert used
    assert [word for word in sorted(used) if word not in told] == []
