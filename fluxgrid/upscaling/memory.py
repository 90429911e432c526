"""Keep freed memory in the process: a block asks for the same tens of megabytes again and again."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, see malloc.h of the GNU C library
_LARGEST = 2**30


@cache
def keep_memory() -> bool:
    """Tell the allocator not to give memory back to the system after each use; once per process.

    Large arrays are mapped anew each time by default and the system clears their pages, which costs a recurrent network
    a third of its speed. The process then holds on to the most it has needed.

    Returns
    -------
    kept : bool
        Whether the system's C library knows how; False leaves everything as it was.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not the GNU C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
