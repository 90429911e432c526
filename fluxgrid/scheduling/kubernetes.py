"""Kubernetes: a CronJob with its configuration and a volume for the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fluxgrid.scheduling.manifests import yaml_text
from fluxgrid.scheduling.schedule import File, Schedule, kind, refuse
from fluxgrid.scheduling.shell import EXIT_CODES, comment

_STORE = "/data"
_CONFIG = "/etc/fluxgrid/run.yaml"
_BACKOFF = 10
"""Kubernetes waits 10 s, 20 s, 40 s and so on, at most six minutes: some 30 minutes in all."""


@kind("kubernetes", here=lambda options: False, image=..., cpus=2, memory=4, storage=50, text="")  # noqa: ARG005
def kubernetes(schedule: Schedule) -> tuple[File, ...]:
    """Render a CronJob with a volume for the store and its configuration in a ConfigMap.

    The image has an interpreter with fluxgrid that is called ``python``; paths of this machine mean nothing in it, so
    the configuration goes along and its relative paths begin on the volume.
    """
    refuse("kubernetes", _problems(schedule))
    documents = (_config_map(schedule), _claim(schedule), _cron_job(schedule))
    return (File(f"{schedule.name}.yaml", _head(schedule) + "---\n".join(map(yaml_text, documents))),)


def _problems(schedule: Schedule) -> Iterator[str]:
    """Yield what is wrong with the name of the image."""
    image = schedule.options["image"]
    if not image or any(letter.isspace() for letter in image) or set("<>{}$") & set(image):
        yield f"--image {image!r} is no name of an image; give one such as registry.example.org/fluxgrid:0.1.0"


def _head(schedule: Schedule) -> str:
    """Return the comment above the manifests."""
    name = schedule.name
    return comment(
        f"{name}.yaml: fluxgrid refresh, {schedule.spread.words} UTC: some minutes after the time that was asked for,",
        "so that not all ask their sources at one moment.",
        "",
        f"Install: kubectl apply -f {name}.yaml    (Kubernetes 1.29 or later)",
        f"Run now: kubectl create job --from=cronjob/{name} {name}-now    Log: kubectl logs job/{name}-now",
        f"Remove: kubectl delete cronjob/{name} configmap/{name}; the volume claim, and so the store, stays.",
        "Exit codes: " + EXIT_CODES[0],
        EXIT_CODES[1] + " After 6 the pod is started again; any other failure ends the job, 5 as well.",
        "A run of memory too small is ended by the cluster (code 137): raise the limit.",
    )


def _labels(schedule: Schedule) -> dict[str, str]:
    """Return the labels of all objects."""
    return {"app.kubernetes.io/name": "fluxgrid", "app.kubernetes.io/instance": schedule.name}


def _metadata(schedule: Schedule) -> dict[str, Any]:
    """Return name and labels."""
    return {"name": schedule.name, "labels": _labels(schedule)}


def _config_map(schedule: Schedule) -> dict[str, Any]:
    """Return the configuration."""
    data = {_CONFIG.rpartition("/")[2]: schedule.options["text"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(schedule), "data": data}


def _claim(schedule: Schedule) -> dict[str, Any]:
    """Return the claim of the volume that the store lives on."""
    storage = {"requests": {"storage": f"{schedule.options['storage']}Gi"}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(schedule),
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": storage},
    }


def _cron_job(schedule: Schedule) -> dict[str, Any]:
    """Return the CronJob."""
    rules = [  # the first that fits decides: a pod that was evicted has an exit code too
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": "refresh", "operator": "NotIn", "values": [6]}},
    ]
    job = {
        "activeDeadlineSeconds": schedule.timeout_s,
        "backoffLimit": _BACKOFF,
        "podFailurePolicy": {"rules": rules},
        "template": {"metadata": {"labels": _labels(schedule)}, "spec": _pod(schedule)},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": _metadata(schedule),
        "spec": {
            "schedule": schedule.spread.cron,
            "timeZone": "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": schedule.when.interval_s // 2,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"spec": job},
        },
    }


def _pod(schedule: Schedule) -> dict[str, Any]:
    """Return the pod: one container, the volume and the configuration."""
    options = schedule.options
    # kernels that were compiled once are kept on the volume
    environment = {"XDG_CACHE_HOME": f"{_STORE}/.cache", **schedule.environment}
    container = {
        "name": "refresh",
        "image": options["image"],
        "command": ["python", "-m", "fluxgrid", "refresh", _CONFIG],
        "workingDir": _STORE,
        # in a value of env `$(NAME)` is replaced, and `$$` is a dollar sign
        "env": [{"name": name, "value": value.replace("$", "$$")} for name, value in sorted(environment.items())],
        "resources": {
            "requests": {"cpu": str(options["cpus"]), "memory": f"{options['memory']}Gi"},
            "limits": {"memory": f"{options['memory']}Gi"},
        },
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [
            {"name": "store", "mountPath": _STORE},
            {"name": "config", "mountPath": _CONFIG.rpartition("/")[0], "readOnly": True},
        ],
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 60,
        "containers": [container],
        "volumes": [
            {"name": "store", "persistentVolumeClaim": {"claimName": schedule.name}},
            {"name": "config", "configMap": {"name": schedule.name}},
        ],
    }
