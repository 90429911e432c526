"""Peers that run the network in another engine: ONNX Runtime, and a scan of JAX."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import zarr

from fluxgrid.bench.peers import Form, Peer, PeerData, PlainGRU, Tiles, in_batches
from fluxgrid.bench.timing import Run

_EXTRA = "pip install 'fluxgrid[bench]'"


class OnnxRuntime(Peer):
    """The network as an ONNX graph in ONNX Runtime."""

    name: ClassVar[str] = "ONNX Runtime"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    install: ClassVar[str] = _EXTRA
    compares: ClassVar[str] = "same work"

    def forms(self, cores: int) -> Sequence[Form]:
        """Return the forms worth trying."""
        one = [{"workers": 1, "threads": cores, "batch": batch} for batch in (1024, 256)]
        many = [{"workers": cores, "threads": 1, "batch": batch} for batch in (1024, 256, 128)]
        return [*one, *many]

    def pixel_days(self, data: PeerData) -> int:
        """Return the pixel-days of one run."""
        return _pixel_days(data)

    def start(self, data: PeerData, form: Form) -> Run:
        """Make ready."""
        return _tiles(
            data, "onnx", in_batches(onnx_function(data.net, form["threads"]), form["batch"]), form["workers"]
        )


class JaxScan(Peer):
    """The network as a scan of JAX, compiled, in single precision."""

    name: ClassVar[str] = "JAX scan"
    packages: ClassVar[tuple[str, ...]] = ("jax",)
    install: ClassVar[str] = _EXTRA
    compares: ClassVar[str] = "same work"

    def forms(self, cores: int) -> Sequence[Form]:
        """Return the forms worth trying; JAX takes its own threads within each call.

        ``unroll`` is that of the scan; with ``inside`` the readout is done in each of its steps, otherwise afterwards.
        """
        kinds = [{"unroll": unroll, "inside": inside} for unroll, inside in ((1, 1), (1, 0), (4, 1))]
        many = [{"batch": batch, "workers": cores, **kind} for batch in (1024, 256) for kind in kinds]
        return [*many, {**many[0], "batch": 512}, {**many[0], "workers": 1}]

    def pixel_days(self, data: PeerData) -> int:
        """Return the pixel-days of one run."""
        return _pixel_days(data)

    def start(self, data: PeerData, form: Form) -> Run:
        """Make ready."""
        return _tiles(data, "jax", in_batches(jax_function(data.net, form), form["batch"]), form["workers"])


def _pixel_days(data: PeerData) -> int:
    """Return the pixel-days of the map that all fast peers make."""
    height, width = data.settings.peer_cells
    return height * width * data.days


def _tiles(data: PeerData, label: str, predict: Callable[[np.ndarray], np.ndarray], workers: int) -> Run:
    """Return what makes the map tile by tile."""
    out = data.work / f"{label}.zarr"
    sources = [zarr.open_array(data.cube / name, mode="r") for name in data.names]
    tiles = Tiles(data, data.settings.peer_cells, predict, workers, out, sources)

    def run() -> float:
        shutil.rmtree(out, ignore_errors=True)
        return tiles.run()

    return run


def onnx_function(net: PlainGRU, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the network in ONNX Runtime: scaled inputs (T, B, F) to GPP and RECO (T, B, 2)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(_graph(net), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def _graph(net: PlainGRU) -> bytes:
    """Return the network as an ONNX model; its GRU has one layer."""
    from onnx import TensorProto, helper, numpy_helper

    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    hidden = net.rnn.hidden_size

    def zrh(name: str) -> np.ndarray:
        """Return gates in the order of ONNX: update, reset, new; torch has reset, update, new."""
        reset, update, new = np.split(weights[f"rnn.{name}_l0"], 3)
        return np.concatenate([update, reset, new])

    constants = {
        "w": zrh("weight_ih")[None],
        "r": zrh("weight_hh")[None],
        "b": np.concatenate([zrh("bias_ih"), zrh("bias_hh")])[None],
        "axis": np.array([1], np.int64),
        "hw": np.ascontiguousarray(weights["head.weight"].T),
        "hb": weights["head.bias"],
        "scale": weights["scale"],
    }
    nodes = [
        helper.make_node("GRU", ["x", "w", "r", "b"], ["y"], hidden_size=hidden, linear_before_reset=1),
        helper.make_node("Squeeze", ["y", "axis"], ["h"]),  # (T, 1 direction, B, H) to (T, B, H)
        helper.make_node("MatMul", ["h", "hw"], ["p"]),
        helper.make_node("Add", ["p", "hb"], ["q"]),
        helper.make_node("Softplus", ["q"], ["s"]),
        helper.make_node("Mul", ["s", "scale"], ["fluxes"]),
    ]
    shape: list[str | int | None] = ["T", "B", net.rnn.input_size]
    graph = helper.make_graph(
        nodes,
        "gru",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("fluxes", TensorProto.FLOAT, ["T", "B", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def jax_function(net: PlainGRU, form: Form) -> Callable[[np.ndarray], np.ndarray]:
    """Return the network as a compiled scan, in a form: scaled inputs (T, B, F) to GPP and RECO (T, B, 2)."""
    import jax
    from jax import lax
    from jax import numpy as jnp

    cpu = jax.devices("cpu")[0]
    hidden = net.rnn.hidden_size
    weights = {name: jax.device_put(value.numpy(), cpu) for name, value in net.state_dict().items()}
    w_in, w_re = weights["rnn.weight_ih_l0"].T, weights["rnn.weight_hh_l0"].T
    b_in, b_re = weights["rnn.bias_ih_l0"], weights["rnn.bias_hh_l0"]
    head, inside = weights["head.weight"].T, bool(form["inside"])

    def step(h: Any, given: Any) -> Any:
        recurrent = h @ w_re + b_re
        gates = jax.nn.sigmoid(given[:, : 2 * hidden] + recurrent[:, : 2 * hidden])
        r, z = gates[:, :hidden], gates[:, hidden:]
        n = jnp.tanh(given[:, 2 * hidden :] + r * recurrent[:, 2 * hidden :])
        h = (1 - z) * n + z * h
        return h, h @ head if inside else h

    @jax.jit
    def run(x: Any) -> Any:
        given = x @ w_in + b_in  # all days in one product
        start = jnp.zeros((x.shape[1], hidden), jnp.float32)
        raw = lax.scan(step, start, given, unroll=form["unroll"])[1]
        return weights["scale"] * jax.nn.softplus((raw if inside else raw @ head) + weights["head.bias"])

    def predict(x: np.ndarray) -> np.ndarray:
        with jax.default_device(cpu):
            return np.asarray(run(x))

    return predict


def side_by_side(predict: Callable[[np.ndarray], np.ndarray], x: np.ndarray, batch: int, workers: int) -> None:
    """Predict (T, B, F) in batches of places on several threads, and let go of what comes out."""
    parts = [np.ascontiguousarray(x[:, i : i + batch]) for i in range(0, x.shape[1], batch)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(predict, parts))
