"""How much is measured: sizes and rounds of the full benchmark, the quick one, and one for tests."""

from __future__ import annotations

from dataclasses import dataclass

from fluxgrid.models.calibration import ONE_PASS, Kind

Cells = tuple[int, int]


@dataclass(frozen=True)
class BenchSettings:
    """Sizes of a benchmark. Cells are (rows, columns), in whole blocks of 16 x 16, on two tiles of 32 at least."""

    name: str = "full"
    rounds: int = 7
    """Times that every entry runs, all in turns."""
    squares: tuple[int, ...] = (2048, 4096)
    """Sides of the products, of which the better one is the peak of a round."""
    days: int = 365
    """Days of a map; of fewer than a year the spin-up is as short, on the same days."""
    models: tuple[str, ...] | None = None
    """Models of the table; all by default."""
    fast: Cells = (32, 128)
    """Map of the models that are fast."""
    slow: Cells = (16, 64)
    """Map of the wide ones, of KGML-ag, and of trees."""
    slowest: Cells = (16, 64)
    """Map of the models that cut windows..."""
    slowest_days: int = 10
    """...over so many days; twelve times as many are a whole number of strides."""
    peer_cells: Cells = (32, 64)
    """Cells of the peers that are fast, and of ours beside them."""
    pixels: Cells = (8, 16)
    """Cells of the peer that goes pixel by pixel."""
    tree_cells: Cells = (32, 64)
    """Cells of the trees among the peers..."""
    tree_days: int = 18
    """...and the days that they predict, a quarter of a chunk of the cube."""
    rows: int = 20_000
    """Rows that trees are trained on."""
    trees: int = 1000
    """Trees of a booster."""
    hidden: float = 1.0
    """Factor on all widths."""
    members: int = 10
    """Of the ensemble."""
    heads: int = 10
    """Calibrated places..."""
    kinds: tuple[Kind, ...] = ONE_PASS
    """...of these kinds..."""
    heads_cells: Cells = (16, 64)
    """...and the map they are compared on."""
    sweep: bool = True
    """Whether each peer, and TAM-RL as published, is tuned first..."""
    sweep_days: int = 37
    """...on so many days, those that are fast."""
    children: tuple[str, ...] | None = None
    """Models whose memory is measured, in a process each, on two whole tiles; by default all that have weights of their
    own."""
    scaling: Cells | None = (128, 256)
    """The largest region, a sixteenth and a quarter of which are mapped too; None leaves scaling out."""
    years: tuple[int, ...] = (1, 4, 16)
    """Years of the smallest region."""
    worker_runs: int = 3
    """Times that one worker and two are compared."""
    windows: int = 2048
    """Windows that the published evaluation of TAM-RL and ours are compared on."""


FULL = BenchSettings()
"""Ten minutes are the aim; the README says how long it took."""

QUICK = BenchSettings(
    name="quick",
    rounds=2,
    days=12,
    models=("GRU-128", "LSTM-128", "CT-LSTM 2 x 256", "KGML-ag", "TAM-RL exact", "LightGBM", "XGBoost"),
    squares=(2048,),
    fast=(32, 64),
    slow=(16, 64),
    slowest_days=2,
    heads_cells=(16, 64),
    kinds=("linear",),
    members=2,
    peer_cells=(32, 64),
    pixels=(4, 8),
    tree_days=6,
    rows=2000,
    trees=40,
    sweep=False,
    children=(),
    scaling=None,
    windows=128,
)
"""A minute: the four networks that have a bar, TAM-RL, trees, all peers; ratios scatter more."""

TINY = BenchSettings(
    name="tiny",
    rounds=2,
    days=20,
    squares=(64,),
    fast=(16, 48),
    slow=(16, 48),
    slowest=(16, 48),
    slowest_days=3,
    peer_cells=(16, 48),
    pixels=(2, 2),
    tree_cells=(16, 48),
    tree_days=20,
    rows=300,
    trees=3,
    hidden=0.0625,
    members=2,
    heads=3,
    heads_cells=(16, 48),
    sweep=False,
    children=("GRU-128",),
    scaling=None,
    windows=64,
)
"""Less than a minute; its figures mean nothing, its shape is that of the others."""

SIZES = {size.name: size for size in (FULL, QUICK, TINY)}
"""By name."""
