from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

import fluxgrid
from fluxgrid import cli
from fluxgrid.errors import IncompleteMap

HEAVY = {"torch", "xarray", "pandas", "numpy", "dask", "zarr", "geopandas", "lightgbm", "matplotlib", "scipy"}


def fresh(code: str) -> str:
    """Run Python code in a fresh process and return what it printed."""
    environment = os.environ | {"COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys, json, contextlib, io\n"
        "from fluxgrid.cli import main\n"
        "sys.argv = ['fluxgrid', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main()\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))\n"
    )
    loaded = set(json.loads(fresh(code)))
    assert "typer" in loaded
    assert not loaded & HEAVY


def test_maps_import_pictures_and_processes_when_they_need_them():
    code = (
        "import sys, json\n"
        "import fluxgrid.workflows.upscale, fluxgrid.workflows.refresh_run, fluxgrid.workflows.plan\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))\n"
    )
    loaded = set(json.loads(fresh(code)))
    assert "torch" in loaded
    assert not loaded & {"matplotlib", "distributed", "pint"}


def test_import_fluxgrid_imports_nothing_heavy_but_offers_everything():
    code = (
        "import sys, json, fluxgrid\n"
        "loaded = sorted({name.split('.')[0] for name in sys.modules})\n"
        "print(json.dumps([loaded, dir(fluxgrid)]))"
    )
    loaded, names = json.loads(fresh(code))
    assert not set(loaded) & HEAVY
    assert {"open_cube", "load_model", "upscale", "open_map", "find_region"} <= set(names)


def test_every_public_name_can_be_imported():
    for name in fluxgrid.__all__:
        assert getattr(fluxgrid, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'upscal'"):
        _ = fluxgrid.upscal


def test_help_lists_the_commands(run):
    code, out, _ = run("--help")
    assert code == 0
    for command in "upscale train calibrate audit evaluate cube schedule regions models sources".split():
        assert f"\n  {command} " in out


@pytest.mark.parametrize(
    "command", [["upscale"], ["train"], ["audit"], ["evaluate"], ["schedule"], ["cube", "check"], ["cube", "info"]]
)
def test_every_command_has_help(run, command):
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert "Usage: fluxgrid" in out


def test_an_audit_is_of_kgml_ag_alone(run):
    code, _, err = run("audit", "ct_gru")
    assert code == 2
    assert "Give a checkpoint of kind 'kgml_ag'" in err


def test_version(run):
    assert run("--version") == (0, f"{fluxgrid.__version__}\n", "")


def test_regions(run):
    code, out, _ = run("regions")
    assert code == 0
    for name in ("midwest", "cornbelt", "conus"):
        assert any(line.startswith(f"{name} ") for line in out.splitlines())


def test_models(run):
    code, out, _ = run("models")
    assert code == 0
    assert any(line.startswith("ct_gru ") for line in out.splitlines())
    assert any(line.startswith("lightgbm ") for line in out.splitlines())
    assert "checkpoint default: kgml_ag, daily." in out


@pytest.mark.parametrize(("command", "group"), [("models", "fluxgrid.models"), ("sources", "fluxgrid.sources")])
def test_plug_ins_are_listed_even_where_they_cannot_be_imported(run, monkeypatch, command, group):
    point = EntryPoint("mine", "not_installed:Mine", group)
    monkeypatch.setattr("fluxgrid.registry.entry_points", lambda **asked: [point] if asked["group"] == group else [])
    code, out, _ = run(command)
    assert code == 0
    assert any(line.split() == ["mine", "plug-in", "not_installed:Mine"] for line in out.splitlines())


def test_sources(run):
    code, out, _ = run("sources")
    assert code == 0
    assert any(line.startswith("tower_table ") for line in out.splitlines())
    assert any(line.startswith("fluxnet ") for line in out.splitlines())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["upscale", "--region", "midwst"], "midwest"),
        (["upscale", "regoin=iowa"], "regoin: There is no key named 'regoin'. Did you mean 'region'?"),
        (["upscale", "region=["], "The override 'region=[' cannot be read."),
        (["upscale", "midwest", "conus"], "'conus' is neither a configuration in first place nor key=value."),
        (["plan", "conus"], "conus is a region: say --region conus."),
        (["upscale", "Iowa"], "Iowa is a region: say --region Iowa."),
        (["upscale", "--region", "iowa", "--tile", "33"], "tile: input should be a multiple of 32 (given 33)"),
        (["upscale", "--region", "iowa", "--start", "soon"], "start: "),
        (["upscale", "--resume", "--overwrite"], "--resume goes on, --overwrite starts again: give one of them."),
        (["train"], "sites: field required"),
        (["evaluate", "no_such_run"], "There is no configuration file or shipped configuration named 'no_such_run'."),
        (["cube", "info", "no_such_cube.nc"], "no_such_cube.nc"),
        (["cube", "check", "a.nc", "--model", "defalt"], "Did you mean 'default'?"),
    ],
)
def test_an_error_of_the_user_is_one_message_and_exit_code_2(run, words, text):
    code, out, err = run(*words)
    assert code == 2
    assert err.startswith("fluxgrid: ")
    assert text in err
    assert "Traceback" not in out + err
    assert out == ""


@pytest.mark.parametrize("words", [["upscal"], ["upscale", "--tile", "many"], ["cube", "check"], ["regions", "--x"]])
def test_wrong_usage_is_exit_code_2_with_usage(run, words):
    code, _, err = run(*words)
    assert code == 2
    assert "Usage: fluxgrid" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [[], ["cube"]])
def test_nothing_asked_gives_help(run, words):
    code, out, err = run(*words)
    assert code == 2
    assert "Usage: fluxgrid" in out + err


def test_each_error_class_has_its_exit_code(run, monkeypatch):
    def fail(*_):
        message = "12 tiles [failed] at 100%"
        raise IncompleteMap(message)

    monkeypatch.setattr("fluxgrid.workflows.train.train", fail)
    monkeypatch.setattr("fluxgrid.config.load_config", lambda *_: None)
    code, _, err = run("train", "x")
    assert code == 3
    assert err == "fluxgrid: 12 tiles [failed] at 100%\n"  # brackets are text, not markup


def test_an_interrupt_is_130(run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fluxgrid.config.load_config", stop)
    code, _, err = run("train", "x")
    assert code == 130
    assert "--resume" in err


def test_a_defect_keeps_its_traceback(monkeypatch):
    def break_down(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("fluxgrid.config.load_config", break_down)
    monkeypatch.setattr(sys, "argv", ["fluxgrid", "train", "x"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_options_win_over_the_file_and_text_stays_text(run, monkeypatch):
    """A region called `no` is Norway's problem in YAML, not ours."""
    seen = {}

    def remember(config, mode, dry_run, shown):
        seen.update(config=config, mode=mode, dry_run=dry_run)
        raise IncompleteMap

    monkeypatch.setattr("fluxgrid.workflows.upscale.upscale", remember)
    code, _, _ = run(
        "upscale", "midwest", "max_missing=0.2", "--region", "no", "--start", "2019-02-01", "--tile", "64", "--resume",
        "--dry-run",
    )  # fmt: skip
    assert code == 3
    assert (seen["config"].region, seen["config"].tile, seen["config"].max_missing) == ("no", 64, 0.2)
    assert (seen["config"].start.isoformat(), seen["config"].end.isoformat()) == ("2019-02-01", "2019-12-31")
    assert (seen["mode"], seen["dry_run"]) == ("resume", True)
