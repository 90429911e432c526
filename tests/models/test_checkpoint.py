from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fluxgrid.data.scaler import Scaler
from fluxgrid.errors import CheckpointError, OutputError, UnknownName
from fluxgrid.models import ModelSpec, load_checkpoint, save_checkpoint, shipped_checkpoints
from fluxgrid.models.checkpoint import find_checkpoint
from fluxgrid.models.domain import TrainingDomain
from fluxgrid.provenance import digest_files

NAMES = ("temperature_2m", "shortwave", "precipitation", "day_length", "crop_fraction")


def save(path: Path, spec, model, names=NAMES, width=10) -> Path:
    scaler = Scaler(names, (0.0,) * len(names), (1.0,) * len(names))
    domain = TrainingDomain(np.zeros(width), np.ones(width), np.ones(width), np.eye(width), 1.0, 0.5)
    save_checkpoint(path, spec, scaler, model, domain, "name: small\n", {"created": "today"})
    return path


@pytest.fixture(params=["ct_gru", "lightgbm"])
def folder(request, small_spec, ready, tmp_path) -> Path:
    spec = small_spec(request.param)
    return save(tmp_path / "model", spec, ready(spec))


@pytest.fixture
def network_folder(small_spec, ready, tmp_path) -> Path:
    spec = small_spec("ct_gru")
    return save(tmp_path / "model", spec, ready(spec))


def weights_of(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.name.startswith(("weights", "trees_0")))


def sign(folder: Path) -> None:
    """Make the digest fit again, as somebody who edits a checkpoint on purpose would."""
    file = folder / "provenance.json"
    row = json.loads(file.read_text())
    row["digest"] = digest_files([folder / part for part in row["parts"]])
    file.write_text(json.dumps(row))


def edit_spec(folder: Path, **changes) -> None:
    file = folder / "spec.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_one_changed_byte_of_the_weights_is_found(folder):
    file = weights_of(folder)
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is corrupt: the hash of its files is [0-9a-f]{32}.*Copy it again"):
        load_checkpoint(folder)


def test_an_edited_spec_is_found(folder):
    edit_spec(folder, step="daily")
    with pytest.raises(CheckpointError, match="is corrupt"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["weights", "scaler.json", "domain.safetensors", "provenance.json"])
def test_a_missing_file_is_named(folder, name):
    file = weights_of(folder) if name == "weights" else folder / name
    file.unlink()
    with pytest.raises(CheckpointError, match=rf"cannot be read \(FileNotFoundError.*{file.name}.*Train it again"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"parts": ["spec.json"]}', '{"parts": 3, "digest": "x"}'])
def test_broken_provenance_is_a_checkpoint_error(folder, text):
    (folder / "provenance.json").write_text(text)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(folder)


def test_weights_of_another_shape(network_folder):
    edit_spec(network_folder, settings={"hidden": 16})
    sign(network_folder)
    with pytest.raises(CheckpointError, match=r"(?s)cannot be read.*size mismatch for forcing_encoder"):
        load_checkpoint(network_folder)


def test_weights_of_other_names(network_folder):
    file = weights_of(network_folder)
    weights = load_file(file)
    weights["hed.linear.weight"] = weights.pop("head.linear.weight").clone()
    save_file(weights, file)
    sign(network_folder)
    with pytest.raises(CheckpointError, match=r"(?s)Missing key.*head\.linear\.weight"):
        load_checkpoint(network_folder)


def test_parts_that_do_not_fit_each_other_are_all_named(small_spec, ready, tmp_path):
    spec = small_spec("ct_gru")
    folder = save(tmp_path / "model", spec, ready(spec), names=("temperature_2m", "shortwave"), width=3)
    with pytest.raises(CheckpointError, match="do not fit each other") as caught:
        load_checkpoint(folder)
    for text in ("scaler.json has no precipitation", "no crop_fraction", "domain has 3 predictors, spec.json has 10"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "ct_gruu"}, r"no model named 'ct_gruu'\. Did you mean 'ct_gru'"),
        ({"settings": {"hidden": 8, "heads": 2}}, "heads"),
    ],
)
def test_an_architecture_this_installation_lacks(network_folder, changes, text):
    edit_spec(network_folder, **changes)
    sign(network_folder)
    with pytest.raises(CheckpointError, match=rf"(?s)asks for what this installation does not have.*{text}.*plug-in"):
        load_checkpoint(network_folder)


@pytest.mark.parametrize("changes", [{"colour": "red"}, {"inputs": {}}, {"inputs": 3}, {"fluxes": None}])
def test_a_spec_of_another_form(network_folder, changes):
    edit_spec(network_folder, **changes)
    sign(network_folder)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(network_folder)


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no spec\.json\. Give the folder"):
        find_checkpoint(tmp_path)


def test_a_name_that_is_nothing():
    with pytest.raises(UnknownName, match=r"named 'defualt'\. Did you mean 'default'"):
        load_checkpoint("defualt")


def test_the_shipped_default_loads_and_says_that_it_is_synthetic():
    loaded = load_checkpoint("default")
    assert loaded.path == shipped_checkpoints()["default"] == find_checkpoint("default")
    assert loaded.spec.synthetic
    assert loaded.spec.step == "daily"
    assert not loaded.model.training
    assert 0 < loaded.domain.threshold < 2


def test_files_may_be_read_by_everybody(folder):
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path.name


def test_nothing_is_overwritten_and_nothing_left_behind(folder, small_spec, ready):
    before = digest_files(sorted(folder.iterdir()))
    spec = small_spec("ct_gru")
    with pytest.raises(OutputError, match="Cannot write"):
        save(folder, spec, ready(spec))
    assert digest_files(sorted(folder.iterdir())) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_copy_is_as_good(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert load_checkpoint(copy).digest == load_checkpoint(str(folder)).digest


def test_spec_survives_its_json(make_spec):
    spec = make_spec(caveats=("one", "two"), sources=("A",), synthetic=True, description="text")
    again = ModelSpec.from_json(spec.to_json())
    assert again == spec
    assert again.to_json() == spec.to_json()
    assert spec.sizes.static == 1 + 5  # one number and five climate groups


def test_scale_of_the_head_is_kept(network_folder, tmp_path):
    loaded = load_checkpoint(network_folder)
    loaded.model.head.set_scale(torch.tensor([4.0, 5.0]))
    again = load_checkpoint(save(tmp_path / "scaled", loaded.spec, loaded.model))
    assert again.model.head.scale.tolist() == [4.0, 5.0]
