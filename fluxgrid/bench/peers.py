"""What could be used instead: each peer makes the same map from the same cube with the same weights.

A peer says in which forms it can run (chunk, batch, threads); the best of a short sweep is what it is measured in. One
that is not installed is named with what would install it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import xarray as xr
import zarr
from torch import Tensor, nn

from fluxgrid.bench.cubes import CODEC, middle
from fluxgrid.bench.settings import BenchSettings, Cells
from fluxgrid.bench.timing import Run, fastest
from fluxgrid.models import Checkpoint, load_checkpoint
from fluxgrid.models.gru import GRUNetwork

Form = dict[str, int]
"""How a peer runs: ``chunk`` and ``batch`` in places, ``workers`` and ``threads`` of each."""

OUTPUTS = ("gpp", "reco", "nee")
SIDE = 32
"""Of a chunk of the cube, in cells."""


class PlainGRU(nn.Module):
    """`torch.nn.GRU` with a linear readout, as a user writes it, with the weights of ours.

    Parameters
    ----------
    network : GRUNetwork
    """

    scale: Tensor

    def __init__(self, network: GRUNetwork):
        super().__init__()
        cell, head = network.cell, network.head.linear
        self.rnn = nn.GRU(cell.input_size, cell.hidden_size, cell.num_layers, batch_first=True)
        self.head = nn.Linear(cell.hidden_size, head.out_features)
        self.rnn.load_state_dict(dict(cell.named_parameters()))
        self.head.load_state_dict(head.state_dict())
        self.register_buffer("scale", network.head.scale.clone())
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return GPP and RECO, (B, T, 2), g m-2 d-1, of scaled inputs (B, T, F)."""
        return self.scale * nn.functional.softplus(self.head(self.rnn(x)[0]))


def scaled(name: str, values: np.ndarray) -> np.ndarray:
    """Return z-scores of a channel."""
    mean, span = middle(name)
    return (values - np.float32(mean)) / np.float32(span / 2)


@dataclass(frozen=True, eq=False)
class PeerData:
    """What all peers are given."""

    cube: Path
    names: tuple[str, ...]
    """Channels, in order."""
    model: Path
    """Checkpoint of ours, whose weights they run."""
    work: Path
    """Folder for what they write."""
    steps: slice
    """Days of the cube that are mapped."""
    settings: BenchSettings
    cores: int
    made: dict[str, Any] = field(default_factory=dict)
    """What takes long to make and serves several forms: the checkpoint, trained trees."""

    @property
    def checkpoint(self) -> Checkpoint:
        """Our model, loaded once."""
        if "checkpoint" not in self.made:
            self.made["checkpoint"] = load_checkpoint(self.model)
        return self.made["checkpoint"]

    @property
    def net(self) -> PlainGRU:
        """The network in plain torch."""
        network = self.checkpoint.model
        assert isinstance(network, GRUNetwork)
        return PlainGRU(network)

    @property
    def days(self) -> int:
        """Days that are mapped."""
        return self.steps.stop - self.steps.start

    @property
    def compute_days(self) -> int:
        """Days that networks alone are compared over: half of those that are mapped."""
        return max(self.days // 2, 1)

    @property
    def blocks(self) -> int:
        """Blocks of 256 cells of the map."""
        height, width = self.settings.peer_cells
        return max(height * width // 256, 1)

    def scaled(self, channel: int, values: np.ndarray) -> np.ndarray:
        """Return z-scores of a channel."""
        return scaled(self.names[channel], values)

    def dataset(self, cells: Cells, chunk: int = SIDE, days: int | None = None) -> xr.Dataset:
        """Return the mapped part of the cube, lazy, in chunks of all days and ``chunk`` cells a side."""
        opened = xr.open_zarr(self.cube, consolidated=False, chunks={})[list(self.names)].drop_vars("spatial_ref")
        steps = slice(self.steps.start, self.steps.start + (days or self.days))
        part = opened.isel(time=steps, y=slice(0, cells[0]), x=slice(0, cells[1]))
        return part.chunk(time=-1, y=chunk, x=chunk)


class Peer(Protocol):
    """One thing that could be used instead; it travels to a process of its own."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    """Modules it needs."""
    install: ClassVar[str]
    """How to get them."""
    compares: ClassVar[str]
    """What it is to ours: ``same work``, or in which way it is another."""

    def lacking(self) -> list[str]:
        """Return the modules it needs that are not installed."""
        return [name for name in self.packages if find_spec(name) is None]

    def prepare(self, data: PeerData) -> None:  # noqa: ARG002
        """Do what takes long and serves all forms; by default import what it needs."""
        for name in self.packages:
            import_module(name)

    def forms(self, cores: int) -> Sequence[Form]:
        """Return the forms worth trying; the first is a sound choice."""
        ...

    def pixel_days(self, data: PeerData) -> int:
        """Return the pixel-days of one run."""
        ...

    def start(self, data: PeerData, form: Form) -> Run:
        """Make ready in a form and return what runs once."""
        ...


@dataclass(frozen=True)
class Tuned:
    """A peer in its best form, or the reason why there is none."""

    peer: Peer
    form: Form = field(default_factory=dict)
    sweep: tuple[dict[str, Any], ...] = ()
    """Each form that was tried, with its pixel-days a second."""
    run: Run | None = None
    missing: str = ""
    """What to install."""


def tune(peer: Peer, data: PeerData) -> Tuned:
    """Return a peer in the best of its forms.

    Parameters
    ----------
    peer : Peer
    data : PeerData
        Whose settings say whether forms are tried, over so many of its days, or the first is taken.

    Returns
    -------
    tuned : Tuned
        Forms are compared as `fluxgrid.bench.timing.fastest` does.
    """
    if lost := peer.lacking():
        return Tuned(peer, missing=f"not installed ({', '.join(lost)}): {peer.install}")
    if not data.settings.sweep:
        form = peer.forms(data.cores)[0]
        return Tuned(peer, form, run=_warm(peer, data, form))
    first = data.steps.start
    part = replace(data, steps=slice(first, min(first + data.settings.sweep_days, data.steps.stop)))
    forms, count = peer.forms(data.cores), peer.pixel_days(part)
    best, seconds = fastest((number, peer.start(part, form)) for number, form in enumerate(forms))
    sweep = tuple({**form, "pixel_days_per_s": count / seconds[number]} for number, form in enumerate(forms))
    return Tuned(peer, forms[best], sweep, _warm(peer, data, forms[best]))


def _warm(peer: Peer, data: PeerData, form: Form) -> Run:
    """Return what runs a peer, having run once."""
    run = peer.start(data, form)
    run()
    return run


@dataclass(frozen=True, eq=False)
class Tiles:
    """The cube tile by tile without xarray: read, predict, write, several tiles side by side."""

    data: PeerData
    cells: Cells
    predict: Callable[[np.ndarray], np.ndarray]
    """From scaled inputs (T, B, F) to GPP and RECO (T, B, 2)."""
    workers: int
    out: Path
    sources: list[Any]
    """Arrays of the channels, opened."""

    def run(self) -> float:
        """Make the map and return the seconds it took."""
        begun = time.perf_counter()
        shape, chunks = (self.data.days, *self.cells), (self.data.days, SIDE, SIDE)
        group = zarr.open_group(self.out, mode="w")
        layout: Any = {"shape": shape, "chunks": chunks, "dtype": "f4", "compressors": [CODEC]}
        targets = [group.create_array(name, **layout) for name in OUTPUTS]
        height, width = self.cells
        tiles = [
            (slice(r, min(r + SIDE, height)), slice(c, min(c + SIDE, width)))
            for r in range(0, height, SIDE)
            for c in range(0, width, SIDE)
        ]
        with ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(lambda tile: self._tile(targets, tile), tiles))
        return time.perf_counter() - begun

    def _tile(self, targets: list[Any], tile: tuple[slice, slice]) -> None:
        """Make one tile."""
        shape = tuple(part.stop - part.start for part in tile)
        x = np.empty((self.data.days, shape[0] * shape[1], len(self.sources)), np.float32)
        for channel, source in enumerate(self.sources):
            values = source[(self.data.steps, *tile)].reshape(self.data.days, -1)
            x[:, :, channel] = self.data.scaled(channel, values)
        fluxes = self.predict(x).reshape(self.data.days, *shape, 2)
        layers = (fluxes[..., 0], fluxes[..., 1], fluxes[..., 1] - fluxes[..., 0])
        for target, values in zip(targets, layers, strict=True):
            target[(slice(None), *tile)] = values


def in_batches(predict: Callable[[np.ndarray], np.ndarray], batch: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that predicts (T, B, F) in batches of places; all have one shape where they can."""

    def run(x: np.ndarray) -> np.ndarray:
        parts = [predict(np.ascontiguousarray(x[:, i : i + batch])) for i in range(0, x.shape[1], batch)]
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    return run


def run_plain(net: PlainGRU, x: np.ndarray, batch: int, threads: int) -> np.ndarray:
    """Return GPP and RECO (B, T, 2) of scaled inputs (B, T, F), in batches, on so many threads of torch."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        return torch.cat([net(part) for part in torch.from_numpy(x).split(batch)]).numpy()
