from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxgrid.provenance import digest, digest_arrays, digest_files, git_commit, now, versions

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(values, max_size=4))
def test_equal_parts_equal_digest(parts):
    assert digest(*parts) == digest(*parts)
    assert re.fullmatch("[0-9a-f]{32}", digest(*parts))


def test_a_digest_does_not_change_between_versions():
    """Keys of finished work hang on it: if this fails, every unfinished run starts again."""
    assert digest("midwest", 2019, {"b": 1.5, "a": [True, None]}) == "bfaab5c624151b3ad4b2c51fb07eaad0"


def test_order_of_keys_does_not_matter_order_and_borders_of_parts_do():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest("a", "b") != digest("b", "a")
    assert digest("ab") != digest("a", "b")
    assert digest(1) != digest("1")


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return {
        "hidden": np.arange(35, dtype=np.float32).reshape(5, 7),
        "clock": np.array([[2019, 183]]),
        "none": np.empty((5, 0)),
    }


def test_a_digest_of_arrays_is_that_of_their_values(arrays):
    found = digest_arrays(arrays)
    assert digest_arrays(dict(reversed(arrays.items()))) == found
    assert digest_arrays({**arrays, "hidden": np.asfortranarray(arrays["hidden"])}) == found
    assert digest_arrays({**arrays, "hidden": np.repeat(arrays["hidden"], 2, axis=0)[::2]}) == found


def test_a_digest_of_arrays_sees_bits_types_shapes_and_names(arrays):
    found = digest_arrays(arrays)
    changed = arrays["hidden"].copy()
    changed[4, 6] = np.nextafter(changed[4, 6], np.float32(99))
    assert digest_arrays({**arrays, "hidden": changed}) != found
    assert digest_arrays({**arrays, "hidden": arrays["hidden"].view(np.int32)}) != found
    assert digest_arrays({**arrays, "hidden": arrays["hidden"].reshape(7, 5)}) != found
    assert digest_arrays({"state": arrays["hidden"]}) != digest_arrays({"hidden": arrays["hidden"]})
    assert digest_arrays({**arrays, "none": np.empty((4, 0))}) != found


def test_a_digest_of_files_sees_names_contents_and_order(tmp_path):
    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other"
    for path, text in ((one, "a"), (two, "b"), (other, "a")):
        path.write_text(text)
    found = digest_files([one, two])
    assert found == digest_files([one, two])
    assert len({found, digest_files([two, one]), digest_files([other, two]), digest_files([one])}) == 4
    two.write_text("c")
    assert digest_files([one, two]) != found


def test_versions_time_and_commit():
    assert {"python", "machine", "processor", "fluxgrid", "torch", "numpy", "xarray"} <= set(versions())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", now())
    assert re.fullmatch(r"unknown|[0-9a-f]{7,40}(-dirty)?|.+-g[0-9a-f]+(-dirty)?|v.+", git_commit())
