"""Records and states: whole, torn, or of another run."""

from __future__ import annotations

import numpy as np
import pytest

from fluxgrid.data.gaps import GapRule, History
from fluxgrid.prediction import BlockState
from fluxgrid.prediction.predictor import join_states, split_states
from fluxgrid.upscaling.records import Record, load_state, read_record, save_state, write_record

RECORD = Record("key", "state", "output", 35, 2, 0.5, "x86_64 AVX2")


def states() -> list[BlockState]:
    rng = np.random.default_rng(1)
    history = History.empty(3, GapRule(2, harmonics=1))
    return [
        BlockState(rng.normal(size=(3, 4)).astype(np.float32), {"vpd": history}),
        BlockState(rng.normal(size=(2, 4)).astype(np.float32), {"vpd": History.empty(2, GapRule(2, harmonics=1))}),
    ]


def test_record_round_trip(tmp_path):
    write_record(tmp_path / "a" / "2019.json", RECORD)
    assert read_record(tmp_path / "a" / "2019.json") == RECORD


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"key": "a"}', '{"key": "a", "more": 1}', "\x00\xff"])
def test_what_is_no_record_is_none(tmp_path, text):
    (tmp_path / "2019.json").write_bytes(text.encode("latin-1"))
    assert read_record(tmp_path / "2019.json") is None
    assert read_record(tmp_path / "absent.json") is None


def test_state_round_trip(tmp_path):
    digest = save_state(tmp_path / "2019.npz", states())
    loaded = load_state(tmp_path / "2019.npz", digest)
    assert loaded is not None
    for before, after in zip(states(), split_states(loaded, [3, 2]), strict=True):
        for name, value in before.arrays().items():
            assert np.array_equal(value, after.arrays()[name]), name
    assert save_state(tmp_path / "again.npz", states()) == digest


def test_torn_changed_or_other_states_are_none(tmp_path):
    path = tmp_path / "2019.npz"
    digest = save_state(path, states())
    assert load_state(path, "another") is None
    data = path.read_bytes()
    for torn in (b"", data[:10], data[: len(data) // 2], data[:-30]):
        path.write_bytes(torn)
        assert load_state(path, digest) is None
    for place in range(100, len(data), 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 8]) + data[place + 1 :])
        loaded = load_state(path, digest)
        same = loaded is not None and all(np.array_equal(v, loaded[k]) for k, v in join_states(states()).items())
        assert loaded is None or same, f"byte {place}"
    path.unlink()
    assert load_state(path, digest) is None
