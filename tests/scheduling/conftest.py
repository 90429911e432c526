"""Schedules of odd paths, fake programs that write down what they are given, and clients that may be missing."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fluxgrid.scheduling import KINDS, Schedule, read_when

ODD = "a b 100% $HOME `id` \"q\" 'r' ü ${{ x }} %i #"


@pytest.fixture(scope="session")
def odd() -> str:
    """Return a name for folders and values that every scheduler has something to say about."""
    return ODD


@pytest.fixture(scope="session")
def fakes_in() -> type[Fakes]:
    """Return what makes fake programs in a folder."""
    return Fakes


@pytest.fixture(scope="session")
def make() -> Callable[..., Schedule]:
    """Return a function that makes a schedule of a kind; keywords replace fields, `options` are those of the kind."""

    def build(kind: str, **changes: Any) -> Schedule:
        options = {"image": "registry.example.org/fluxgrid:1", **changes.pop("options", {})}
        known = KINDS[kind].options
        row: dict[str, Any] = {
            "name": "fluxgrid-midwest",
            "config": "/maps/midwest.yaml",
            "folder": "/maps",
            "python": sys.executable,
            "when": read_when("weekly"),
            "timeout_s": 18000,
            "place": "/maps",
            "environment": {},
        }
        return Schedule(**(row | changes), options={**known, **{k: v for k, v in options.items() if k in known}})

    return build


@dataclass(frozen=True)
class Fakes:
    """Programs in a folder that stand in for real ones and record their calls."""

    folder: Path

    @property
    def path(self) -> str:
        """A PATH on which they come first."""
        return f"{self.folder}{os.pathsep}{os.environ['PATH']}"

    def add(self, name: str | Path, codes: tuple[int, ...] = (0,), says: str = "") -> Path:
        """Make a program that ends with these codes in turn (then the last one again) and prints something."""
        file = self.folder / name
        calls = self.folder / f"{file.name}.calls"
        calls.mkdir(parents=True)
        turns = " ".join(map(str, codes))
        file.write_text(
            f'#!/bin/sh\nset -- {shlex.quote(str(calls))} "$@"\ncalls=$1; shift\nn=$(ls "$calls" | grep -c args)\n'
            f'{{ printf \'%s\\0\' "$PWD" "$@"; }} >"$calls/args.$n"\nenv -0 >"$calls/env.$n"\n'
            f"printf '%s' {shlex.quote(says)}\nset -- {turns}\n"
            'while [ "$n" -gt 0 ] && [ $# -gt 1 ]; do shift; n=$((n - 1)); done\nexit "$1"\n'
        )
        file.chmod(0o755)
        return file

    def calls(self, name: str | Path) -> list[list[str]]:
        """Return working folder and arguments of each call."""
        return [record.split("\0")[:-1] for record in self._records(name, "args")]

    def environments(self, name: str | Path) -> list[dict[str, str]]:
        """Return the environment of each call."""
        return [dict(line.partition("=")[::2] for line in r.split("\0")[:-1]) for r in self._records(name, "env")]

    def _records(self, name: str | Path, what: str) -> list[str]:
        folder = self.folder / f"{Path(name).name}.calls"
        count = len(list(folder.glob(f"{what}.*")))
        return [os.fsdecode((folder / f"{what}.{n}").read_bytes()) for n in range(count)]

    def run(self, shell: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script with the fakes first on its PATH."""
        clean = {"PATH": self.path, "HOME": "/nowhere", "LC_ALL": "C.UTF-8"} | environment
        return subprocess.run(shell, env=clean, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def fakes(tmp_path: Path) -> Fakes:
    """Return a folder of fake programs, whose own path is odd too; `sleep` is one of them."""
    made = Fakes(tmp_path / f"bin {ODD.replace('/', '')}")
    made.add("sleep")
    return made
