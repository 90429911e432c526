"""What networks of windows take for a map, in modes exact and stride, against the published way of running them.

    python benchmarks/windows.py [--models tam_rl-128x2 transformer-128 ...] [--places 256] [--quick]

Each row is a model at the size that CarbonBench chose, with random weights, on its minimal inputs (20 forcings and
51 columns of classes), windows of 30 days, a stride of 15. Everything runs in one thread and one process, the ways in
turn, and each is given its least CPU time of several runs.

``published``: a window cut out for every day, all of its days encoded and read, as CarbonBench evaluates, 2048 windows
at once as in its script for ensembles. Of TAM-RL the inverse network also reads a support window and decodes both, step
by step. ``tuned``: the same with the better of several batch sizes. ``naive``: the same windows through the modules of
fluxgrid with torch's own cells, the last day read, tuned too. ``exact`` and ``stride`` are `predict` as a map calls it.
Pixel-days/s; ``MFLOP`` is the matrix work of one pixel-day, ``fair`` the ratio of the two speeds over the ratio of
their work; the errors are those of the fluxes against windows one by one in float64, over the largest flux.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fluxgrid.bench.flops import work_of
from fluxgrid.bench.published import PublishedTAMRL
from fluxgrid.data.windows import WindowMode
from fluxgrid.models import Sizes, model_config, zero_state
from fluxgrid.models.recurrent_network import RecurrentNetwork
from fluxgrid.models.tam_rl import TAMRL
from fluxgrid.models.windowed import WindowNetwork
from fluxgrid.upscaling.memory import keep_memory

SIZES = Sizes(dynamic=20, static=51, fluxes=3)
WINDOW, STRIDE = 30, 15
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm-256": ("lstm", {"hidden": 256}),
    "lstm-128": ("lstm", {"hidden": 128}),
    "ct_lstm-128": ("ct_lstm", {"hidden": 128}),
    "ct_lstm-256x2": ("ct_lstm", {"hidden": 256, "layers": 2}),
    "gru-128": ("gru", {"hidden": 128}),
    "gru-256x2": ("gru", {"hidden": 256, "layers": 2}),
    "ct_gru-128": ("ct_gru", {"hidden": 128}),
    "transformer-128": ("transformer", {}),
    "patch_transformer-128": ("patch_transformer", {}),
    "tam_rl-128": ("tam_rl", {"layers": 1, "latent": 32}),
    "tam_rl-128x2": ("tam_rl", {"layers": 2, "latent": 64}),
}
BATCHES = 128, 2048
"""Windows that published and naive ways are given at once; the last as CarbonBench's script for ensembles has it."""


def build(name: str) -> WindowNetwork:
    """Return a model with random weights, and a batch norm that has seen something."""
    torch.manual_seed(1)
    kind, options = MODELS[name]
    settings = {"window": WINDOW, "stride": STRIDE, "window_mode": "exact", "head": "linear", **options}
    network = model_config(kind, settings).build(SIZES).eval()
    with torch.no_grad():
        for key, value in network.named_buffers():
            if "running" in key:
                value.uniform_(0.5, 1.5)
    return network


def in_plain_torch(network: WindowNetwork) -> WindowNetwork:
    """Return a copy whose cells are torch's own."""
    plain = copy.deepcopy(network)
    name = plain.tap
    cell = getattr(plain, name) if isinstance(plain, RecurrentNetwork | TAMRL) else None
    if cell is not None:
        own = nn.LSTM if isinstance(cell, nn.LSTM) else nn.GRU
        torchs = own(cell.input_size, cell.hidden_size, cell.num_layers, batch_first=True)
        torchs.load_state_dict(cell.state_dict())
        setattr(plain, name, torchs.eval())
    return plain


def published(network: WindowNetwork) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function that gives the fluxes (N, O) of the last days of windows (N, W, F) as CarbonBench does."""
    if not isinstance(network, TAMRL):
        return lambda windows, static: last_day(network, network.encode(windows, static, WINDOW))
    module = PublishedTAMRL(network)
    # the support is another window of the site
    return lambda windows, static: module(windows, windows.roll(1, 0), static)[:, -1]


def last_day(network: WindowNetwork, hidden: Tensor) -> Tensor:
    """Return the fluxes (N, O) of the last of the days (N, W, H), all of them read."""
    days = torch.full(hidden.shape[:2], STRIDE - 1)
    return network.finish(network.raw({network.tap: hidden[:, None]}), {"day": days})[:, -1]


def naive(network: WindowNetwork) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function that reads the last day alone."""
    return lambda windows, static: last_day(network, network.encode(windows, static, 1))


def work(name: str, mode: WindowMode) -> float:
    """Return the matrix work of a pixel-day, FLOP."""
    counted = work_of(build(name).in_mode(mode))
    assert counted is not None
    return counted.delivered


def least(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the least CPU seconds of each way, run in turn."""
    found = dict.fromkeys(ways, math.inf)
    for number in range(repeats + 1):
        for name, way in ways.items():
            begun = time.process_time()
            way()
            if number:  # the first compiles
                found[name] = min(found[name], time.process_time() - begun)
    return found


def errors(network: WindowNetwork, record: Tensor, static: Tensor) -> float:
    """Return the largest error of both modes over the largest flux, against float64 windows of a few places."""
    few = slice(0, len(record), max(1, len(record) // 2))
    double = in_plain_torch(network).double()
    padded = torch.cat([record.new_zeros(len(record), WINDOW - 1, record.shape[2]), record], dim=1)[few].double()
    worst = 0.0
    for mode in ("exact", "stride"):
        found, _ = network.in_mode(mode).predict(record, static, zero_state(network, len(record)))
        for day in range(0, STRIDE):
            end = day if mode == "exact" else STRIDE - 1
            hidden = double.encode(padded[:, end : end + WINDOW], static[few].double(), STRIDE)
            which = torch.full((len(padded), 1), STRIDE - 1 - (end - day))
            said = double.raw({double.tap: hidden[:, None, STRIDE - 1 - (end - day), None]})
            expected = double.finish(said, {"day": which})[:, 0]
            worst = max(worst, float((found[few, day] - expected).abs().max() / expected.abs().max()))
    return worst


def measure(name: str, places: int, days: int, repeats: int) -> dict[str, float]:
    """Return pixel-days/s of each way, and the error."""
    network = build(name)
    random = torch.Generator().manual_seed(2)
    record = torch.randn(places, 8 * STRIDE, SIZES.dynamic, generator=random)
    static = torch.zeros(places, SIZES.static)
    static[torch.arange(places), torch.arange(places) % SIZES.static] = 1.0
    state = torch.randn(places, network.state_size, generator=random)
    stride, plain = network.in_mode("stride"), in_plain_torch(network)
    windows = torch.randn(max(BATCHES), WINDOW, SIZES.dynamic, generator=random)
    own = static.repeat(-(-max(BATCHES) // places), 1)[: max(BATCHES)]
    ways: dict[str, Callable[[], object]] = {
        "exact": lambda: network.predict(record[:, :days], static, state),
        "stride": lambda: stride.predict(record, static, state),
    }
    counts = {"exact": places * days, "stride": record.shape[0] * record.shape[1]}
    for way, run in (("published", published(plain)), ("naive", naive(plain))):
        for batch in BATCHES:
            ways[f"{way} {batch}"] = lambda run=run, batch=batch: run(windows[:batch], own[:batch])
            counts[f"{way} {batch}"] = batch
    with torch.inference_mode():
        seconds = least(ways, repeats)
        error = errors(network, record, static)
    speeds = {way: counts[way] / taken for way, taken in seconds.items()}
    best = {way: max(v for k, v in speeds.items() if k.startswith(way)) for way in ("published", "naive")}
    as_run = speeds[f"published {max(BATCHES)}"]
    return {
        "published": as_run,
        "tuned": best["published"],
        "naive": best["naive"],
        "exact": speeds["exact"],
        "stride": speeds["stride"],
        "error": error,
    }


def peak() -> float:
    """Return the FLOP/s of a product of squares of 2048."""
    left, right = torch.randn(2, 2048, 2048)
    return 2 * 2048**3 / least({"mm": lambda: left @ right}, 4)["mm"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--places", type=int, default=256)
    parser.add_argument("--quick", action="store_true", help="one run of each, of fewer days")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    print(f"one thread; a product of squares of 2048 reaches {peak() / 1e9:.0f} GFLOP/s")
    ways = "published", "tuned", "naive", "exact", "stride"
    heads = "/publ.", "/tuned", "/naive", "MFLOP exact", "stride", "GFLOP/s", "stride", "fair", "error"
    print(f"{'model':22}", *(f"{way:>9}" for way in ways), *(f"{head:>7}" for head in heads))
    for name in options.models:
        days, repeats = (16, 1) if options.quick else (32, 3)
        row = measure(name, options.places, days, repeats)
        exact, stride = work(name, "exact"), work(name, "stride")
        fair = row["stride"] / row["exact"] / (exact / stride)
        ratios = [f"{row['exact'] / row[way]:7.2f}" for way in ways[:3]]
        busy = [exact * row["exact"] / 1e9, stride * row["stride"] / 1e9]
        said = [f"{exact / 1e6:11.2f}", f"{stride / 1e6:7.3f}", *(f"{each:7.1f}" for each in busy), f"{fair:7.2f}"]
        print(f"{name:22}", *(f"{row[way]:9,.0f}" for way in ways), *ratios, *said, f"{row['error']:7.1e}", flush=True)


if __name__ == "__main__":
    main()
