"""How time and memory of `fluxgrid upscale` grow with the region: one process per size, measured by the system.

    python benchmarks/scaling.py [--region midwest] [--resolutions 0.2 0.1 0.05]

Prints one row per resolution: cells, whole-process seconds, peak resident memory, pixel-days per second of prediction.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run(region: str, resolution: float) -> dict[str, float]:
    """Return what one map took."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "map"
        words = ["upscale", "--region", region, "--resolution", str(resolution), "--out", str(out), "--json"]
        begun = time.perf_counter()
        child = subprocess.Popen([sys.executable, "-m", "fluxgrid", *words], stdout=subprocess.PIPE)
        answer = child.stdout.read() if child.stdout else b""
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begun
        if status:
            sys.exit(f"fluxgrid ended with {os.waitstatus_to_exitcode(status)}")
        manifest = json.loads(answer)["manifest"]
    return {
        "cells": manifest["coverage"]["cell_steps"] / 365,
        "seconds": seconds,
        "peak_gb": usage.ru_maxrss * 1024 / 1e9,
        "pixel_days_per_s": manifest["pixel_days_per_s"],
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--region", default="midwest")
    parser.add_argument("--resolutions", type=float, nargs="+", default=[0.2, 0.1, 0.05])
    options = parser.parse_args()
    print(f"{'degrees':>8} {'cells':>9} {'seconds':>8} {'peak GB':>8} {'M pixel-days/s':>15}")
    for resolution in options.resolutions:
        row = run(options.region, resolution)
        rate = row["pixel_days_per_s"] / 1e6
        print(
            f"{resolution:8g} {row['cells']:9,.0f} {row['seconds']:8.0f} {row['peak_gb']:8.2f} {rate:15.2f}", flush=True
        )


if __name__ == "__main__":
    main()
