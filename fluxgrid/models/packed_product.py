"""Matrix products that compiled kernels call themselves: MKL's, of weights that are packed once.

A recurrent network multiplies the same weights at every step. `torch.mm` packs them anew each time and needs Python,
and so the interpreter's lock, before and after each product. Torch's own library holds MKL, whose products of packed
weights give the same numbers; kernels that call them run many steps without Python. Where torch is built without MKL
(`AVAILABLE` is False) callers take `torch.mm`.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numba
import numpy as np
import torch
from llvmlite import binding
from numba import types

_ROWS_FIRST, _PLAIN, _PACKED, _SECOND = 101, 111, 151, 162  # of mkl_cblas.h
_SIZE, _PACK, _COMPUTE = "cblas_sgemm_pack_get_size", "cblas_sgemm_pack", "cblas_sgemm_compute"
_SYMBOL = "fluxgrid_sgemm_compute"
_ALIGNED = 64
"""Bytes that packed weights begin at a multiple of."""


def _find() -> ctypes.CDLL | None:
    """Return torch's library, and tell numba's linker where its product is; None where there is no such product."""
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        try:
            library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
            address = ctypes.cast(getattr(library, _COMPUTE), ctypes.c_void_p).value
            getattr(library, _SIZE).restype = ctypes.c_size_t
            getattr(library, _PACK).restype = None
        except (OSError, AttributeError):
            continue
        binding.add_symbol(_SYMBOL, address)
        return library
    return None


_LIBRARY = _find()
AVAILABLE = _LIBRARY is not None
"""Whether there are products of packed weights; `multiply_rows` and `pack` must not be called otherwise."""

_int, _float = types.int32, types.float32
_array = types.CPointer(_float)
_multiply = types.ExternalFunction(
    _SYMBOL, types.void(*[_int] * 6, _array, _int, _array, _int, _float, _array, _int)
)  # the arguments of cblas_sgemm_compute


@numba.njit(nogil=True, cache=True, error_model="numpy")
def multiply_rows(rows, packed, kept, out, columns):
    """Put ``kept * out + rows @ weights`` into the first columns of `out` (M, .), of rows (M, K) and packed weights.

    To be called from compiled kernels, and only where `AVAILABLE`. Rows and `out` are C-contiguous and float32; `kept`
    is 0 or 1, float32; `columns` is N of the weights (K, N).
    """
    m, k = rows.shape
    where = rows.ctypes, k, packed.ctypes, columns, kept, out.ctypes, out.shape[1]
    _multiply(_ROWS_FIRST, _PLAIN, _PACKED, m, columns, k, *where)


def pack(weights: np.ndarray, rows: int) -> np.ndarray:
    """Return weights as `multiply_rows` takes them.

    Parameters
    ----------
    weights : ndarray, (K, N), float32, C-contiguous
    rows : int
        M of the (M, K) that will be multiplied with them.

    Returns
    -------
    packed : ndarray, float32
        Opaque.
    """
    (inner, columns), library = weights.shape, _LIBRARY
    assert library is not None  # callers ask AVAILABLE
    size = getattr(library, _SIZE)(_SECOND, rows, columns, inner)
    buffer = np.zeros((size + _ALIGNED) // 4 + 1, np.float32)
    first = -buffer.ctypes.data % _ALIGNED // 4
    packed = buffer[first : first + -(-size // 4)]
    shape = (rows, columns, inner)
    places = [ctypes.c_void_p(array.ctypes.data) for array in (weights, packed)]
    one = ctypes.c_float(1.0)
    getattr(library, _PACK)(_ROWS_FIRST, _SECOND, _PLAIN, *shape, one, places[0], columns, places[1])
    return packed
