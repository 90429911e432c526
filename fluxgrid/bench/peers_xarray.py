"""Peers on xarray: plain torch in `map_blocks` and `apply_ufunc`, and the generator of xbatcher with a DataLoader."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import dask.array
import numpy as np
import torch
import xarray as xr

from fluxgrid.bench.cubes import CODEC
from fluxgrid.bench.machine import torch_threads
from fluxgrid.bench.peers import OUTPUTS, SIDE, Form, Peer, PeerData, run_plain, scaled
from fluxgrid.bench.settings import Cells
from fluxgrid.bench.timing import Run

_TORCH = "pip install fluxgrid"
_DIMS = ("y", "x", "time")
_ENCODING: dict[str, Any] = {flux: {"compressors": [CODEC]} for flux in OUTPUTS}


def _cut(chunk: int, cells: Cells) -> tuple[int, int]:
    """Return the cells of a chunk, no more than there are."""
    return min(chunk, cells[0]), min(chunk, cells[1])


def write_lazily(result: xr.Dataset, data: PeerData, name: str, workers: int) -> None:
    """Compute a lazy result on threads and write it to zarr, over what stands there."""
    path = data.work / f"{name}.zarr"
    lazy = result.to_zarr(path, mode="w", compute=False, zarr_format=3, consolidated=False, encoding=_ENCODING)
    lazy.compute(scheduler="threads", num_workers=workers)


def with_nee(fluxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return GPP, RECO and NEE of (..., 2)."""
    gpp, reco = fluxes[..., 0], fluxes[..., 1]
    return gpp, reco, reco - gpp


def _timed(work: Callable[[], Any], data: PeerData, name: str) -> Run:
    """Return what runs once, from an empty place to write to."""

    def run() -> float:
        shutil.rmtree(data.work / f"{name}.zarr", ignore_errors=True)
        with torch_threads(torch.get_num_threads()):
            begun = time.perf_counter()
            work()
            return time.perf_counter() - begun

    return run


class _PerChunk(Peer, Protocol):
    """What the peers that work chunk by chunk share."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = _TORCH
    compares: ClassVar[str] = "same work"

    def pixel_days(self, data: PeerData) -> int:
        """Return the pixel-days of one run."""
        height, width = data.settings.peer_cells
        return height * width * data.days


class MapBlocks(_PerChunk):
    """Plain torch, a chunk at a time, by `xarray.map_blocks`."""

    name: ClassVar[str] = "torch in xr.map_blocks, per chunk"

    def forms(self, cores: int) -> Sequence[Form]:
        """Return the forms worth trying."""
        one = [{"chunk": SIDE, "batch": batch, "workers": cores, "threads": 1} for batch in (256, 128, 1024)]
        return [
            *one,
            {"chunk": 16, "batch": 256, "workers": cores, "threads": 1},
            {**one[0], "workers": 1, "threads": cores},
        ]

    def start(self, data: PeerData, form: Form) -> Run:
        """Make ready."""
        cells, net = data.settings.peer_cells, data.net
        chunk, given = _cut(form["chunk"], cells), data.dataset(cells, form["chunk"])

        def block(part: xr.Dataset) -> xr.Dataset:
            shape = (part.sizes["y"], part.sizes["x"], part.sizes["time"])
            x = np.empty((*shape, len(data.names)), np.float32)
            for channel, name in enumerate(data.names):
                x[..., channel] = data.scaled(channel, part[name].transpose(*_DIMS).values)
            flat = run_plain(net, x.reshape(-1, shape[2], len(data.names)), form["batch"], form["threads"])
            fluxes = with_nee(flat.reshape(*shape, 2))
            return xr.Dataset({n: (_DIMS, v) for n, v in zip(OUTPUTS, fluxes, strict=True)}, coords=part.coords)

        def work() -> None:
            empty = dask.array.empty((*cells, data.days), chunks=(*chunk, data.days), dtype=np.float32)
            template = xr.Dataset({name: (_DIMS, empty) for name in OUTPUTS}, coords=given.coords)
            write_lazily(xr.map_blocks(block, given, template=template), data, "map_blocks", form["workers"])

        return _timed(work, data, "map_blocks")


class ApplyUfunc(_PerChunk):
    """Plain torch, a chunk at a time, by `xarray.apply_ufunc`."""

    name: ClassVar[str] = "torch in apply_ufunc, per chunk"

    def forms(self, cores: int) -> Sequence[Form]:
        """Return the forms worth trying."""
        many = [{"workers": cores, "threads": 1, "batch": batch} for batch in (256, 1024)]
        one = [{"workers": 1, "threads": cores, "batch": batch} for batch in (256, 1024)]
        return [*many, *one]

    def start(self, data: PeerData, form: Form) -> Run:
        """Make ready."""
        return _ufunc(data, data.settings.peer_cells, form, "ufunc", per_pixel=False)


class PerPixel(Peer):
    """Plain torch, a pixel at a time, by `xarray.apply_ufunc` with ``vectorize``."""

    name: ClassVar[str] = "torch in apply_ufunc, per pixel"
    packages: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = _TORCH
    compares: ClassVar[str] = "same work on fewer cells"

    def forms(self, cores: int) -> Sequence[Form]:
        """Return the forms worth trying."""
        return [{"workers": cores, "threads": 1, "batch": 1}, {"workers": 1, "threads": cores, "batch": 1}]

    def pixel_days(self, data: PeerData) -> int:
        """Return the pixel-days of one run."""
        return data.settings.pixels[0] * data.settings.pixels[1] * data.days

    def start(self, data: PeerData, form: Form) -> Run:
        """Make ready."""
        return _ufunc(data, data.settings.pixels, form, "pixels", per_pixel=True)


def _ufunc(data: PeerData, cells: Cells, form: Form, label: str, *, per_pixel: bool) -> Run:
    """Return a run of `apply_ufunc` over chunks, or over single pixels."""
    net = data.net
    # half a small subset in each chunk, so that every worker has one
    given = data.dataset(cells, max(cells[1] // 2, 1) if per_pixel else SIDE)

    def function(*channels: np.ndarray) -> tuple[np.ndarray, ...]:
        shape = channels[0].shape  # (y, x, T), or (T,)
        x = np.stack([data.scaled(number, values) for number, values in enumerate(channels)], axis=-1)
        flat = run_plain(net, x.reshape(-1, shape[-1], len(channels)), form["batch"], form["threads"])
        return with_nee(flat.reshape(*shape, 2))

    def work() -> None:
        fluxes = xr.apply_ufunc(
            function,
            *(given[name] for name in data.names),
            input_core_dims=[["time"]] * len(data.names),
            output_core_dims=[["time"]] * len(OUTPUTS),
            dask="parallelized",
            vectorize=per_pixel,
            output_dtypes=[np.float32] * len(OUTPUTS),
        )
        write_lazily(xr.Dataset(dict(zip(OUTPUTS, fluxes, strict=True))), data, label, form["workers"])

    return _timed(work, data, label)


class XBatcher(_PerChunk):
    """Patches of xbatcher through a DataLoader of torch, all days of a patch at once."""

    name: ClassVar[str] = "xbatcher + DataLoader"
    packages: ClassVar[tuple[str, ...]] = ("xbatcher",)
    install: ClassVar[str] = "pip install 'fluxgrid[bench]'"

    def forms(self, cores: int) -> Sequence[Form]:
        """Return the forms worth trying; ``loaders`` are processes that cut patches while the network runs."""
        first = {"patch": 32, "batch": 1, "threads": cores, "loaders": 0}
        small = {**first, "patch": 16}
        return [first, small, {**small, "loaders": cores}, {**first, "patch": 8, "batch": 4}]

    def start(self, data: PeerData, form: Form) -> Run:
        """Make ready."""
        import xbatcher

        cells, net = data.settings.peer_cells, data.net
        side = min(form["patch"], *cells)
        sizes = {"time": data.days, "y": side, "x": side}
        patches = _Patches(xbatcher.BatchGenerator(data.dataset(cells), sizes, preload_batch=False), data.names)
        # a fork of this process, full of threads, could hang
        apart: Any = {"multiprocessing_context": "spawn", "persistent_workers": True} if form["loaders"] else {}
        loader: Any = torch.utils.data.DataLoader(
            patches, batch_size=form["batch"], num_workers=form["loaders"], **apart
        )

        def work() -> None:
            parts = [run_plain(net, batch.flatten(0, 1).numpy(), side * side, form["threads"]) for batch in loader]
            maps = np.concatenate(parts).reshape(len(patches), side, side, data.days, 2)
            rows, cols = cells[0] // side, cells[1] // side
            whole = maps.reshape(rows, cols, side, side, data.days, 2).swapaxes(1, 2)
            fluxes = with_nee(whole.reshape(rows * side, cols * side, data.days, 2))
            xr.Dataset({n: (_DIMS, v) for n, v in zip(OUTPUTS, fluxes, strict=True)}).to_zarr(
                data.work / "xbatcher.zarr", mode="w", zarr_format=3, consolidated=False, encoding=_ENCODING
            )

        return _timed(work, data, "xbatcher")


class _Patches(torch.utils.data.Dataset[Any]):
    """Patches as torch wants them, (places, T, F)."""

    def __init__(self, generator: Any, names: Sequence[str]):
        self.generator, self.names = generator, names

    def __len__(self) -> int:
        return len(self.generator)

    def __getitem__(self, index: int) -> torch.Tensor:
        part = self.generator[index].load()
        channels = [scaled(name, part[name].transpose(*_DIMS).values) for name in self.names]
        return torch.from_numpy(np.stack(channels, axis=-1)).flatten(0, 1)
