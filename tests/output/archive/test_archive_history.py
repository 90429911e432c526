"""Publish, roll back, prune and open again in any order: every version left reads as a plain model says."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fluxgrid.output.archive import Archive

TILES = ("r0000c0000", "r0000c0004", "r0004c0000", "r0004c0004")


class History(RuleBasedStateMachine):
    """Each state of the model maps (tile, year) to the value published for it."""

    maker: Any

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.archive = self.maker.create(self.folder / "archive")
        self.model: dict[int, dict] = {}
        self.tags: dict[int, str] = {}
        self.open: tuple[xr.Dataset, dict] | None = None

    @property
    def newest(self) -> dict:
        return self.model[max(self.model)] if self.model else {}

    def add(self, version, state, tag=None) -> None:
        if state == self.newest and tag is None:
            assert version.id == max(self.model, default=0)
            return
        assert version.id == max(self.model, default=0) + 1
        assert {*self.archive.changed(version)} == {
            unit for unit in {*state, *self.newest} if state.get(unit) != self.newest.get(unit)
        }
        self.model[version.id] = state
        if version.tag:
            self.tags[version.id] = version.tag

    @initialize(value=st.integers(1, 3))
    def first(self, value) -> None:
        self.publish([2019], self.maker.tiles, value, True)

    @rule(
        years=st.lists(st.sampled_from([2019, 2020]), min_size=1, unique=True),
        tiles=st.sets(st.sampled_from(TILES)),
        value=st.integers(1, 3),
        tagged=st.booleans(),
    )
    def publish(self, years, tiles, value, tagged) -> None:
        staged = [self.maker.stage(year, value, sorted(tiles)) for year in years]
        tag = f"t{max(self.model, default=0) + 1}" if tagged else None
        version = self.archive.publish(staged, tag=tag)
        self.add(version, self.newest | {(tile, year): value for tile in tiles for year in years}, tag)

    @rule(data=st.data())
    def rollback(self, data) -> None:
        to = data.draw(st.sampled_from(sorted(self.model)))
        self.add(self.archive.rollback(to), self.model[to])

    @rule(keep=st.integers(1, 3), protect=st.booleans())
    def prune(self, keep, protect) -> None:
        gone = self.archive.prune(keep, None if protect else []).versions
        kept = {*sorted(self.model)[-keep:]} | ({*self.tags} if protect else set())
        assert {*gone} == self.model.keys() - kept
        self.model = {number: state for number, state in self.model.items() if number in kept}
        self.tags = {number: tag for number, tag in self.tags.items() if number in kept}
        self.open = None

    @rule()
    def reopen(self) -> None:
        self.archive = Archive.open(self.folder / "archive")

    @precondition(lambda self: self.newest)
    @rule(year=st.sampled_from([2019]))
    def keep_open(self, year) -> None:
        self.open = self.archive.years()[year], self.newest

    @invariant()
    def newest_reads_as_modelled(self) -> None:
        if self.model:
            self.check(max(self.model))
        if self.open:
            dataset, state = self.open
            assert self.maker.values(dataset) == {tile: state.get((tile, 2019)) for tile in self.maker.tiles}

    def check(self, number) -> None:
        state = self.model[number]
        years = self.archive.years(number)
        assert years.keys() == {year for _, year in state}
        for year, dataset in years.items():
            assert self.maker.values(dataset) == {tile: state.get((tile, year)) for tile in self.maker.tiles}
        assert {unit: found.key for unit, found in self.archive.units(number).items()} == {
            unit: f"key {value} 12" for unit, value in state.items()
        }

    def teardown(self) -> None:
        assert [version.id for version in self.archive.versions()] == sorted(self.model)
        for number in self.model:
            self.check(number)
            assert self.archive.verify(number) == []
        for number, tag in self.tags.items():
            assert self.archive.find(tag).id == number
        needed = {(y, f.folder) for v in self.archive.versions() for y, f in v.years.items()}
        there = {(int(path.parent.name), path.name) for path in self.folder.glob("archive/years/*/*")}
        assert there == needed
        shutil.rmtree(self.folder)


def test_random_history_against_a_plain_model(maker):
    assert maker.tiles == TILES
    machine = type("Tried", (History,), {"maker": maker})
    run_state_machine_as_test(machine, settings=settings(max_examples=3, stateful_step_count=7, deadline=None))


@pytest.mark.slow
def test_many_random_histories(maker):
    machine = type("Tried", (History,), {"maker": maker})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=20, deadline=None))
