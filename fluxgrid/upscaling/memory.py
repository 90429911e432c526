"""Keep freed memory in the process while tiles run, for a block asks for the same tens of megabytes again and again."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, see malloc.h of the GNU C library
_LARGEST, _USUAL = 2**30, 2**17


def keep_memory() -> bool:
    """Tell the allocator not to give memory back to the system after each use.

    Large arrays are mapped anew each time by default and the system clears their pages, which costs a recurrent network
    a third of its speed. The process then holds on to the most it has needed, thread by thread: what one thread freed
    is of no use to another. `release_memory` ends that.

    Returns
    -------
    kept : bool
        Whether the system's C library knows how; False leaves everything as it was.
    """
    return _set_thresholds(_LARGEST, 2**31 - 1) is not None


def release_memory() -> bool:
    """Give freed memory of all threads back to the system, now and, from here on, as soon as it is freed.

    Returns
    -------
    released : bool
        Whether the system's C library knows how; False leaves everything as it was.
    """
    library = _set_thresholds(_USUAL, _USUAL)
    if library is None:
        return False
    library.malloc_trim(0)
    return True


def _set_thresholds(mapped: int, trimmed: int) -> ctypes.CDLL | None:
    """Set from which size on arrays are mapped, and how much free memory is held; return the library that can."""
    try:
        library = ctypes.CDLL(None)
        done = library.mallopt(_MMAP_THRESHOLD, mapped) and library.mallopt(_TRIM_THRESHOLD, trimmed)
    except (OSError, AttributeError):  # not the GNU C library
        return None
    return library if done else None
