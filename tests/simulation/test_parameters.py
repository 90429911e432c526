"""The one file of parameters: checked, hashed, and the same in every table made from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from fluxgrid.simulation import parameters, world_digest
from fluxgrid.simulation.parameters import Extent, load_section

ROOT = Path(__file__).parents[2]


@pytest.fixture
def document(monkeypatch):
    """A small document in place of the file."""
    small = {"version": "9", "extent": {"bounds": [-100, -80, 36, 49], "first_year": 2004, "source": "nobody"}}
    monkeypatch.setattr(parameters, "_document", lambda: small)
    return small


def test_the_digest_follows_every_number_and_no_citation(document):
    before = world_digest()
    document["extent"]["source"] = "somebody"
    assert world_digest() == before
    document["extent"]["first_year"] = 2005
    changed = world_digest()
    assert changed != before
    document["version"] = "10"
    assert world_digest() not in (before, changed)


def test_a_section_is_checked(document):
    assert load_section("extent", Extent).first_year == 2004
    document["extent"]["first_yaer"] = 2004
    with pytest.raises(ValidationError, match="first_yaer"):
        load_section("extent", Extent)
    del document["extent"]["first_yaer"], document["extent"]["first_year"]
    with pytest.raises(ValidationError, match="first_year"):
        load_section("extent", Extent)


@pytest.mark.parametrize(("name", "least"), [("README.md", 2), ("docs/reference_world.md", 1)])
def test_tables_are_of_this_world(name, least):
    """A table made from another world must be made again."""
    digests = re.findall(r"digest[ `]+([0-9a-f]{16})", (ROOT / name).read_text(encoding="utf-8"))
    assert len(digests) >= least  # one for every table
    assert set(digests) == {world_digest()}
