"""Random fields on a lattice: local in space and time, hashed from node and date, and without periods."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from pydantic import ConfigDict

from fluxgrid.simulation.compiled import kernel, part
from fluxgrid.simulation.noise import mix, plane


@dataclass(frozen=True)
class Patches:
    """A random field on a lattice of space and time: without waves, it has no period that could meet the year's."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    seed: int
    spacing_km: float
    """Distance of the nodes; the correlation falls to 1/e over 1.15 times as much."""
    days: float = 1.0
    """The same in time; 1 and less: new every day."""


def patchy_field(
    patches: Patches, latitude: np.ndarray, longitude: np.ndarray, days: np.ndarray | None = None
) -> np.ndarray:
    """Return a random field of mean 0 and variance 1 that is smooth over its spacing and independent beyond.

    Parameters
    ----------
    patches : Patches
        Seed and spacing in space and time.
    latitude, longitude : ndarray, (n,), degrees
        Places.
    days : ndarray, (time,), days since 2000-01-01, optional
        Whole days; None for a map.

    Returns
    -------
    field : ndarray, (n, time) or (n,), float32

    Notes
    -----
    White noise on a lattice, hashed from node and date and spread by cubic B-splines.

    Examples
    --------
    >>> patchy_field(Patches(1, 35.0), np.array([40.0, 41.0]), np.array([-90.0, -90.0]), np.arange(3.0)).shape
    (2, 3)
    """
    return PatchesAt.of(patches, latitude, longitude).on(days)


@dataclass(frozen=True, eq=False)
class PatchesAt:
    """A random field at its places, of which the days are still open."""

    patches: Patches
    weights: np.ndarray
    """Of the nodes around each place, (n, 16), float32."""
    keys: np.ndarray
    """Of these nodes, (n, 16)."""
    nodes: np.ndarray
    """All of them, once each."""
    index: np.ndarray
    """Where the nodes around each place stand among all, (n, 16)."""

    @classmethod
    def of(cls, patches: Patches, latitude: np.ndarray, longitude: np.ndarray) -> PatchesAt:
        """Return the field at places given in degrees, (n,)."""
        weights, keys = _nodes(*plane(latitude, longitude), patches.spacing_km)
        nodes, index = np.unique(keys, return_inverse=True)
        return cls(patches, weights, keys, nodes, index.reshape(keys.shape))

    def on(self, days: np.ndarray | None) -> np.ndarray:
        """Return the field on days since 2000-01-01, (n, time), or without days, (n,); float32."""
        seed = np.uint64(self.patches.seed)
        if days is None:
            return _patchy_map(seed, self.weights, self.keys)
        days = np.ascontiguousarray(days, dtype=np.float64)
        if self.patches.days > 1.0:
            knot, shares = _knots(self.patches.days, days.tobytes())
            first = int(knot.min()) - 1
            course = np.empty(int(knot.max()) + 3 - first, dtype=np.float32)
            return _slow_patches(seed, self.weights, self.keys, knot - 1 - first, shares, first, course)
        return _spread(self.weights, self.index, _node_noise(seed, self.nodes, days.astype(np.int64)))


@lru_cache(maxsize=256)
def _knots(spacing: float, days: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the knot before each day, (time,), and the weights of the four around it, (4, time), float32."""
    knot, along = np.divmod(np.frombuffer(days, dtype=np.float64) / spacing, 1.0)
    shares = np.stack(_splines(along))
    return knot.astype(np.int64), (shares / np.sqrt((shares**2).sum(axis=0))).astype(np.float32)


@part
def _splines(t):
    """Return the weights of the four nodes around a point at t between the middle two: cubic B-splines."""
    u = 1.0 - t
    inner, outer = 3.0 * t * t * t - 6.0 * t * t + 4.0, 3.0 * u * u * u - 6.0 * u * u + 4.0
    return u * u * u / 6.0, inner / 6.0, outer / 6.0, t * t * t / 6.0


@part
def _squares(weights):
    """Return the sum of the squares of four weights."""
    w_0, w_1, w_2, w_3 = weights
    return ((w_0 * w_0 + w_1 * w_1) + w_2 * w_2) + w_3 * w_3


@kernel
def _nodes(x, y, spacing):
    """Return weights of unit variance, float32, and keys of the 16 nodes around each place, (n, 16)."""
    weights, keys = np.empty((len(x), 16), dtype=np.float32), np.empty((len(x), 16), dtype=np.int64)
    for i in range(len(x)):
        column, row = np.floor(x[i] / spacing), np.floor(y[i] / spacing)
        across, up = _splines(x[i] / spacing - column), _splines(y[i] / spacing - row)
        scale = 1.0 / np.sqrt(_squares(across) * _squares(up))
        for k in range(16):
            weights[i, k] = up[k // 4] * across[k % 4] * scale
            keys[i, k] = (np.int64(row) + k // 4 - 1) * 65536 + (np.int64(column) + k % 4 - 1)
    return weights, keys


@part
def _bell(key, step):
    """Return a number of variance 1, nearly normal: the sum of four uniform numbers of 16 bits."""
    bits = mix(key + np.uint64(step) * np.uint64(0x9E3779B97F4A7C15))
    total = np.int64(bits & np.uint64(0xFFFF)) + np.int64((bits >> np.uint64(16)) & np.uint64(0xFFFF))
    total += np.int64((bits >> np.uint64(32)) & np.uint64(0xFFFF)) + np.int64(bits >> np.uint64(48))
    return (np.float64(total) - 131070.0) * 2.6428743e-05  # sqrt(3) / 2**16


@part
def _node_key(seed, node):
    """Return the key of the noise of a node."""
    step = np.uint64(0x9E3779B97F4A7C15)
    return mix(mix(seed * step + step) + np.uint64(node))


@kernel
def _node_noise(seed, nodes, days):
    """Return the daily noise of nodes, (nodes, time), float32."""
    out = np.empty((len(nodes), len(days)), dtype=np.float32)
    for i in range(len(nodes)):
        key = _node_key(seed, nodes[i])
        for d in range(len(days)):
            out[i, d] = _bell(key, days[d])
    return out


@kernel
def _spread(weights, index, noise):
    """Return the weighted sum of the nodes around each place, (n, time), float32."""
    out = np.zeros((len(weights), noise.shape[1]), dtype=np.float32)
    for i in range(len(weights)):
        row = out[i]
        for k in range(0, 16, 4):
            w_0, w_1, w_2, w_3 = weights[i, k], weights[i, k + 1], weights[i, k + 2], weights[i, k + 3]
            n_0, n_1 = noise[index[i, k]], noise[index[i, k + 1]]
            n_2, n_3 = noise[index[i, k + 2]], noise[index[i, k + 3]]
            for d in range(len(row)):
                row[d] += (w_0 * n_0[d] + w_1 * n_1[d]) + (w_2 * n_2[d] + w_3 * n_3[d])
    return out


@kernel
def _slow_patches(seed, weights, keys, knot, shares, first, course):
    """Return a field whose nodes lie several days apart, (n, time), float32: spread in space, then in time.

    ``knot`` counts from the first, ``course`` is room for all of them.
    """
    out = np.empty((len(weights), len(knot)), dtype=np.float32)
    s_0, s_1, s_2, s_3 = shares[0], shares[1], shares[2], shares[3]
    for i in range(len(weights)):
        for j in range(len(course)):
            course[j] = 0.0
        for k in range(16):
            key = _node_key(seed, keys[i, k])
            for j in range(len(course)):
                course[j] += weights[i, k] * np.float32(_bell(key, first + j))
        row = out[i]
        for d in range(len(knot)):
            j = knot[d]
            row[d] = (s_0[d] * course[j] + s_1[d] * course[j + 1]) + (s_2[d] * course[j + 2] + s_3[d] * course[j + 3])
    return out


@kernel
def _patchy_map(seed, weights, keys):
    """Return a field without time, (n,), float32."""
    out = np.zeros(len(weights), dtype=np.float32)
    for i in range(len(weights)):
        for k in range(16):
            out[i] += weights[i, k] * np.float32(_bell(_node_key(seed, keys[i, k]), 0))
    return out
