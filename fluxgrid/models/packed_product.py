"""Matrix products that compiled kernels call themselves: MKL's, of weights that are packed once.

A recurrent network multiplies the same weights at every step. `torch.mm` packs them anew each time and needs Python,
and so the interpreter's lock, before and after each product. Torch's own library holds MKL, whose products of packed
weights give the same numbers (and here the same bits); kernels that call them run many steps without Python. Where
torch is built without MKL, or numba is missing (`AVAILABLE` is False), callers take `torch.mm`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fluxgrid import compiling

if compiling.AVAILABLE:
    from llvmlite import binding

_ROWS_FIRST, _PLAIN, _PACKED, _SECOND = 101, 111, 151, 162  # of mkl_cblas.h
_SIZE, _PACK, _COMPUTE = "cblas_sgemm_pack_get_size", "cblas_sgemm_pack", "cblas_sgemm_compute"
SYMBOL = "fluxgrid_sgemm_compute"
"""Name of ``cblas_sgemm_compute`` for numba's linker."""
_ALIGNED = 64
"""Bytes that packed weights begin at a multiple of."""


def _works(library: ctypes.CDLL) -> bool:
    """Return whether a small product comes out right: another build may take other types of numbers."""
    rows, weights = np.arange(20, dtype=np.float32).reshape(5, 4), np.arange(12, dtype=np.float32).reshape(4, 3)
    (packed,), found = _pack(library, [weights], 5), np.zeros((5, 3), np.float32)
    given, where, out = (ctypes.c_void_p(array.ctypes.data) for array in (rows, packed, found))
    order = _ROWS_FIRST, _PLAIN, _PACKED, 5, 3, 4
    getattr(library, _COMPUTE)(*order, given, 4, where, 3, ctypes.c_float(0.0), out, 3)
    return np.array_equal(found, rows @ weights)


def _pack(library: ctypes.CDLL, weights: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Do what `pack` does."""
    sizes = [getattr(library, _SIZE)(_SECOND, rows, *each.shape[::-1]) for each in weights]
    length = -(-max(sizes, default=0) // _ALIGNED) * _ALIGNED // 4
    # empty: the library asks for megabytes for any weights, and touches little of them
    buffer = np.empty(len(weights) * length + _ALIGNED // 4, np.float32)
    first = -buffer.ctypes.data % _ALIGNED // 4
    table = buffer[first : first + len(weights) * length].reshape(len(weights), length)
    for each, packed in zip(weights, table, strict=True):
        inner, columns = each.shape
        given, where = (ctypes.c_void_p(array.ctypes.data) for array in (each, packed))
        shape = rows, columns, inner
        getattr(library, _PACK)(_ROWS_FIRST, _SECOND, _PLAIN, *shape, ctypes.c_float(1.0), given, columns, where)
    return table


def _find() -> ctypes.CDLL | None:
    """Return torch's library, and tell numba's linker where its product is; None where there is no such product."""
    if not compiling.AVAILABLE:
        return None
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        try:
            library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
            address = ctypes.cast(getattr(library, _COMPUTE), ctypes.c_void_p).value
            getattr(library, _SIZE).restype = ctypes.c_size_t
            getattr(library, _PACK).restype = getattr(library, _COMPUTE).restype = None
        except (OSError, AttributeError):
            continue
        if not _works(library):
            continue
        binding.add_symbol(SYMBOL, address)
        return library
    return None


_LIBRARY = _find()
AVAILABLE = _LIBRARY is not None
"""Whether there are products of packed weights; the symbol and `pack` must not be used otherwise."""


def pack(weights: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Return weights as the product of packed weights takes them.

    Parameters
    ----------
    weights : sequence of ndarray, (K, N), float32, C-contiguous
        L of them, of any shapes.
    rows : int
        M of the (M, K) that will be multiplied with them.

    Returns
    -------
    packed : ndarray, (L, .), float32
        Opaque; the rows are as long as the longest needs, and begin where the product wants it.
    """
    assert _LIBRARY is not None  # callers ask AVAILABLE
    return _pack(_LIBRARY, weights, rows)
