"""How the functions of the world are compiled: no fast mathematics, so that the bits do not depend on the machine.

Compiling takes seconds the first time, and the first map waits for it: what is called inside kernels only is compiled
without the entry for Python that a kernel has. Python still runs it, as plain Python.
"""

from __future__ import annotations

import numba
from numba.extending import register_jitable

kernel = numba.njit(  # type: ignore[call-overload]  # the last option is missing in numba's annotations
    nogil=True, cache=True, error_model="numpy", no_cfunc_wrapper=True
)
"""Compile a function that Python calls; its code is kept between processes."""
part = register_jitable(error_model="numpy", no_cfunc_wrapper=True)
"""Compile a function that only kernels call, with each of them."""
inlined = register_jitable(error_model="numpy", no_cfunc_wrapper=True, forceinline=True)
"""Compile a function into the kernels that call it."""
