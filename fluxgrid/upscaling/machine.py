"""What decides the last bits of a map besides its inputs: instruction set, processor, libraries.

MKL, torch and numba choose their code by the processor, and another version of one of them may add in another order.
A plan therefore counts its machine, and every process that works on it is compared with it.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache

import torch

from fluxgrid import compiling
from fluxgrid.errors import ConfigError, itemise
from fluxgrid.models import NUMERICS_VERSION, packed_product
from fluxgrid.provenance import versions

ABSENT = "none"


@dataclass(frozen=True)
class Machine:
    """One process's hardware and libraries; equal machines give equal bits."""

    machine: str
    """Architecture, ``x86_64``."""
    isa: str
    """Widest vector instructions that torch uses, ``AVX512``."""
    processor: str
    """Model name: libraries choose kernels and the sizes of their blocks by it."""
    gpu: str
    """Model name where a GPU predicts, else ``none``."""
    numerics: str
    """`NUMERICS_VERSION` of fluxgrid."""
    fluxgrid: str
    torch: str
    numpy: str
    scipy: str
    numba: str
    lightgbm: str
    xgboost: str
    products: str
    """``packed``, or ``plain`` where torch is built without MKL or numba cannot be imported."""

    @classmethod
    def here(cls, device: str = "cpu") -> Machine:
        """Return the machine this process runs on.

        Parameters
        ----------
        device : str
            What predicts, ``cpu`` or ``cuda``.
        """
        return _here(device.split()[0])

    def differences(self, other: Machine) -> list[str]:
        """Return one text for each field in which another machine differs.

        Examples
        --------
        >>> from dataclasses import replace
        >>> one = Machine.here()
        >>> one.differences(replace(one, isa="AVX2"))[0].startswith("isa AVX2 instead of ")
        True
        """
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return [f"{name} {found} instead of {wanted}" for name, wanted, found in pairs if wanted != found]

    def text(self) -> str:
        """Return the machine in one line, for records and manifests."""
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items() if value != ABSENT)


@lru_cache
def _here(device: str) -> Machine:
    """Look once."""
    found = versions()
    if not compiling.AVAILABLE:
        found["numba"] = ABSENT  # installed perhaps, and not to be imported
    return Machine(
        machine=found["machine"],
        isa=torch.backends.cpu.get_cpu_capability(),
        processor=found["processor"] or platform.processor(),
        gpu=_gpu() if device == "cuda" else ABSENT,
        numerics=str(NUMERICS_VERSION),
        **{name: found.get(name, ABSENT) for name in ("fluxgrid", "numpy", "scipy", "numba", "lightgbm")},
        # the distribution's name says whether it is the one with CUDA; the numbers come from the same version
        xgboost=found.get("xgboost", found.get("xgboost-cpu", ABSENT)),
        torch=torch.__version__,
        products="packed" if packed_product.AVAILABLE else "plain",
    )


def _gpu() -> str:
    """Return the model of the GPU and the CUDA that torch was built for."""
    if not torch.cuda.is_available():
        return ABSENT
    return f"{torch.cuda.get_device_name()} CUDA {torch.version.cuda}"


def check_machines(planner: Machine, workers: Mapping[str, Machine]) -> None:
    """Refuse workers that may give other bits than the planner's machine.

    Parameters
    ----------
    planner : Machine
        Where the map is planned.
    workers : mapping of str to Machine
        By address.

    Raises
    ------
    ConfigError
        Naming every worker and field that differs.
    """
    differing = {address: planner.differences(machine) for address, machine in sorted(workers.items())}
    problems = [f"{address}: {', '.join(found)}" for address, found in differing.items() if found]
    if problems:
        header = (
            f"{len(problems)} of {len(workers)} workers of the cluster run on another machine or with other libraries "
            "than this process, and may give other bits"
        )
        advice = (
            "Use workers like this machine, start `fluxgrid upscale` on a machine like them, or accept a map whose "
            "last bits depend on which worker made a tile (--allow-mixed)."
        )
        message = f"{itemise(header, problems)}\n{advice}"
        raise ConfigError(message)
