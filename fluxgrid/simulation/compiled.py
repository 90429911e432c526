"""How the functions of the world are compiled: no fast mathematics, so that the bits do not depend on the machine.

Compiling takes seconds the first time, and the first map waits for it: what is called inside kernels only is compiled
without the entry for Python that a kernel has. Python still runs it, as plain Python; a kernel as plain Python would
take days, so that there is no world without numba.
"""

from __future__ import annotations

import functools
from typing import Any

from fluxgrid import compiling
from fluxgrid.errors import ConfigError


def _refuse(function: Any) -> Any:
    """Return what says why a kernel is not there."""

    @functools.wraps(function)
    def refuse(*given: Any, **named: Any) -> None:  # noqa: ARG001
        message = (
            "The built-in world is computed by kernels of numba, which cannot be imported here (`python -c 'import "
            "numba'` says why). Install numba, or use data of your own: --cube for maps, a table of sites for training."
        )
        raise ConfigError(message)

    return refuse


def _as_it_is(function: Any) -> Any:
    """Return a function that nothing but refused kernels calls."""
    return function


if compiling.AVAILABLE:
    from numba.extending import register_jitable

    kernel: Any = compiling.kernel(no_cfunc_wrapper=True)
    """Compile a function that Python calls; its code is kept between processes."""
    part: Any = register_jitable(error_model="numpy", no_cfunc_wrapper=True)
    """Compile a function that only kernels call, with each of them."""
    inlined: Any = register_jitable(error_model="numpy", no_cfunc_wrapper=True, forceinline=True)
    """Compile a function into the kernels that call it."""
else:
    kernel, part, inlined = _refuse, _as_it_is, _as_it_is
