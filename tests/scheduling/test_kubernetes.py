from __future__ import annotations

import re

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.errors import ConfigError
from fluxgrid.scheduling import KINDS, read_when
from fluxgrid.scheduling.manifests import yaml_text

OLDEST = "1.29"
"""As the file says; the schemas of 1.27 and 1.28 ask for a key of failure policies that is optional."""
TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")))


def documents(schedule):
    (file,) = KINDS["kubernetes"].render(schedule)
    return list(yaml.safe_load_all(file.text))


def as_a_container_gets_it(value: str) -> str:
    """Return a value after Kubernetes' expansion: $(NAME) is a variable, $$ a dollar sign."""
    assert not re.search(r"(?<!\$)(\$\$)*\$\(", value), "a variable"
    return value.replace("$$", "$")


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("every", ["daily", "weekly", "monthly"])
def test_the_manifests_are_valid(make, version, every):
    found = documents(make("kubernetes", when=read_when(every), environment={"A": "1"}, options={"text": "a: 1\n"}))
    assert [document["kind"] for document in found] == ["ConfigMap", "PersistentVolumeClaim", "CronJob"]
    for document in found:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_check_sees_a_wrong_key(make):
    job = documents(make("kubernetes"))[2]
    job["spec"]["concurrency"] = "Forbid"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, OLDEST, strict=True)


def test_one_run_at_a_time_and_what_its_codes_mean(make):
    cron = documents(make("kubernetes", timeout_s=777))[2]["spec"]
    job = cron["jobTemplate"]["spec"]
    assert re.fullmatch(r"\d+ 6 \* \* 1", cron["schedule"])
    assert (cron["timeZone"], cron["concurrencyPolicy"]) == ("Etc/UTC", "Forbid")
    assert 0 < cron["startingDeadlineSeconds"] < 7 * 86400
    assert (job["activeDeadlineSeconds"], job["backoffLimit"]) == (777, 10)
    evicted, failed = job["podFailurePolicy"]["rules"]
    assert evicted["action"] == "Ignore"
    assert (failed["action"], failed["onExitCodes"]["operator"], failed["onExitCodes"]["values"]) == (
        "FailJob",
        "NotIn",
        [6],
    )
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a failure policy asks for it
    assert failed["onExitCodes"]["containerName"] == pod["containers"][0]["name"]


def test_volume_image_resources_and_configuration(make):
    text = "region: iowa\nout: maps/iowa\n"
    options = {"text": text, "cpus": 3, "memory": 7, "storage": 11, "image": "example.org/f@sha256:ab"}
    config, claim, cron = documents(make("kubernetes", options=options))
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "example.org/f@sha256:ab"
    assert container["resources"]["requests"] == {"cpu": "3", "memory": "7Gi"}
    assert claim["spec"]["resources"]["requests"]["storage"] == "11Gi"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (key,) = config["data"]
    assert container["command"] == ["python", "-m", "fluxgrid", "refresh", f"{mounts['config']}/{key}"]
    assert config["data"][key] == text
    assert container["workingDir"] == mounts["store"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["store"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert volumes["config"]["configMap"]["name"] == config["metadata"]["name"]


@given(TEXT)
def test_any_value_comes_through(make, value):
    cron = documents(make("kubernetes", environment={"A": value}))[2]
    (container,) = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    found = {row["name"]: as_a_container_gets_it(row["value"]) for row in container["env"]}
    assert found == {"A": value, "XDG_CACHE_HOME": "/data/.cache"}


@pytest.mark.parametrize("image", ["", "IMAGE NAME", "<image>", "${IMAGE}"])
def test_a_placeholder_is_no_image(make, image):
    with pytest.raises(ConfigError, match="is no name of an image"):
        documents(make("kubernetes", options={"image": image}))


@pytest.mark.parametrize("text", ["1e3", "y", "N", "0o17", "0b1", "1_0", "=", ".5", "12:30:45", "+1", "~"])
def test_texts_that_some_yaml_takes_for_another_thing_are_quoted(text):
    assert yaml_text({"value": text}) == f"value: '{text}'\n"


@pytest.mark.parametrize("text", ["midwest", "python -m", "/data/a", "America/Chicago", "nowhere"])
def test_other_texts_are_not(text):
    assert yaml_text({"value": text}) == f"value: {text}\n"
