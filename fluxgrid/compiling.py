"""Compiling of kernels by numba, which may be missing or fail to be imported.

Without it networks run on plain torch, trees by their libraries, inputs and gaps in numpy, distances in scipy: slower,
and the same to rounding. The reference world, and what stands on it, and products of bfloat16 need it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

try:
    import numba
except (ImportError, OSError):  # an interpreter or a numpy that it does not know yet; a library that cannot be loaded
    AVAILABLE = False
else:
    AVAILABLE = True

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(**options: Any) -> Callable[[Function], Function]:
    """Return what compiles a function that leaves Python's lock alone and is kept between processes.

    Parameters
    ----------
    **options
        Of `numba.njit`, on top of those.

    Returns
    -------
    compile : callable
        Gives the function back as it is where numba is missing: callers ask `AVAILABLE` for another way.
    """
    if not AVAILABLE:
        return lambda function: function
    return numba.njit(nogil=True, cache=True, error_model="numpy", **options)
