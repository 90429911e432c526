"""Peers that are trees: a deep booster each for GPP and RECO on the rows of the cube, through dask."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Protocol

import dask.array
import numpy as np
import xarray as xr

from fluxgrid.bench.checkpoints import target_rows
from fluxgrid.bench.cubes import CODEC
from fluxgrid.bench.peers import OUTPUTS, SIDE, Form, Peer, PeerData, Tuned
from fluxgrid.bench.timing import Run

DEPTH = 10
_LEAVES = 2**DEPTH - 1
_RATE = 0.03


class _TreesPeer(Peer, Protocol):
    """What both libraries share."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    install: ClassVar[str]
    compares: ClassVar[str] = "another model: each day by itself"

    def forms(self, cores: int) -> Sequence[Form]:
        """Return the forms worth trying."""
        return [{"workers": cores, "threads": 1}, {"workers": 1, "threads": cores}]

    def pixel_days(self, data: PeerData) -> int:
        """Return the pixel-days of one run."""
        height, width = data.settings.tree_cells
        return height * width * self.days(data)

    def days(self, data: PeerData) -> int:
        """Return the days that are predicted."""
        return min(data.settings.tree_days, data.days)

    def prepare(self, data: PeerData) -> None:
        """Train."""
        self.boosters(data)

    def boosters(self, data: PeerData) -> list[Any]:
        """Return the trained boosters of GPP and RECO, made once."""
        if self.name not in data.made:
            rows = [target_rows(data.settings.rows, len(data.names), seed) for seed in range(2)]
            with ThreadPoolExecutor(len(rows)) as pool:
                data.made[self.name] = list(pool.map(lambda row: self.train(row[0], row[1], data.settings.trees), rows))
        return data.made[self.name]

    def train(self, x: np.ndarray, y: np.ndarray, trees: int) -> Any:
        """Return a booster of rows (N, F) and targets (N,), trained on one thread."""
        raise NotImplementedError

    def values(self, booster: Any, threads: int) -> Callable[[np.ndarray], np.ndarray]:
        """Return what predicts rows on so many threads."""
        raise NotImplementedError

    def start(self, data: PeerData, form: Form) -> Run:
        """Make ready."""
        return self.start_fluxes(data, form, 2)

    def start_fluxes(self, data: PeerData, form: Form, fluxes: int) -> Run:
        """Make ready to predict and write GPP, RECO and NEE, or of one flux GPP alone."""
        predict = [self.values(booster, form["threads"]) for booster in self.boosters(data)[:fluxes]]
        cells, days = data.settings.tree_cells, self.days(data)
        out = data.work / f"{type(self).__name__}-{fluxes}.zarr"

        def block(*channels: np.ndarray) -> np.ndarray:
            rows = [data.scaled(number, values).ravel() for number, values in enumerate(channels)]
            table, shape = np.stack(rows, axis=-1), channels[0].shape
            return np.stack([one(table).astype(np.float32).reshape(shape) for one in predict])

        given = data.dataset(cells, SIDE, days)
        dims, channels = given[data.names[0]].dims, [given[name].data for name in data.names]
        chunks = ((fluxes,), *channels[0].chunks)
        # by name: dask would write the trees out, seconds of work, to make one up
        name = "-".join(map(str, (type(self).__name__, fluxes, *form.values())))
        lazy = dask.array.map_blocks(block, *channels, dtype=np.float32, new_axis=0, chunks=chunks, name=name)
        layers = [*lazy, lazy[1] - lazy[0]] if fluxes == 2 else [*lazy]
        result = xr.Dataset({name: (dims, layer) for name, layer in zip(OUTPUTS, layers, strict=False)})
        encoding = {name: {"compressors": [CODEC]} for name in result}

        def run() -> float:
            shutil.rmtree(out, ignore_errors=True)
            begun = time.perf_counter()
            writing = result.to_zarr(out, mode="w", compute=False, zarr_format=3, consolidated=False, encoding=encoding)
            writing.compute(scheduler="threads", num_workers=form["workers"])
            return time.perf_counter() - begun

        return run


class XGBoostDask(_TreesPeer):
    """XGBoost, its own thread-safe prediction in place."""

    name: ClassVar[str] = "XGBoost through dask"
    packages: ClassVar[tuple[str, ...]] = ("xgboost",)
    install: ClassVar[str] = "pip install 'fluxgrid[trees]'"

    def train(self, x: np.ndarray, y: np.ndarray, trees: int) -> Any:
        """Return a booster."""
        import xgboost

        settings = {"max_depth": DEPTH, "eta": _RATE, "tree_method": "hist", "nthread": 1}
        return xgboost.train(settings, xgboost.DMatrix(x, label=y), trees)

    def values(self, booster: Any, threads: int) -> Callable[[np.ndarray], np.ndarray]:
        """Return what predicts rows."""
        own = copy.copy(booster)  # each form sets threads on its own: XGBoost copies the trees

        def predict(rows: np.ndarray) -> np.ndarray:
            return own.inplace_predict(rows)

        own.set_param({"nthread": threads})
        predict(np.zeros((1, own.num_features()), np.float32))  # settings take effect at the next prediction
        return predict


def one_flux(data: PeerData, tuned: Tuned) -> Run:
    """Return what predicts and writes one flux by XGBoost, in the form that was best for all."""
    return XGBoostDask().start_fluxes(data, tuned.form, 1)


class LightGBMDask(_TreesPeer):
    """LightGBM, as its users call it."""

    name: ClassVar[str] = "LightGBM through dask"
    packages: ClassVar[tuple[str, ...]] = ("lightgbm",)
    install: ClassVar[str] = "pip install fluxgrid"

    def days(self, data: PeerData) -> int:
        """Return a ninth of the days: its prediction takes seven times as long as that of the other."""
        return max(super().days(data) // 9, 1)

    def train(self, x: np.ndarray, y: np.ndarray, trees: int) -> Any:
        """Return a booster."""
        import lightgbm

        settings = {
            "objective": "regression",
            "max_depth": DEPTH,
            "num_leaves": _LEAVES,
            "learning_rate": _RATE,
            "min_data_in_leaf": 5,
            "num_threads": 1,
            "verbosity": -1,
        }
        return lightgbm.train(settings, lightgbm.Dataset(x, y), trees)

    def values(self, booster: Any, threads: int) -> Callable[[np.ndarray], np.ndarray]:
        """Return what predicts rows."""
        return lambda rows: np.asarray(booster.predict(rows, num_threads=threads))
