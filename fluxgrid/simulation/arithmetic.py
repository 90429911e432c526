"""Exponential and cosine from IEEE additions and multiplications: the same bits on every machine, many at a time.

The functions of a C library differ between machines in their last digit, and a compiler cannot run them on several
numbers at once. These have no branches and no tables, so that loops around them are vectorised.
"""

from __future__ import annotations

import numpy as np

from fluxgrid.simulation.compiled import kernel

_SHIFT = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to a whole number, found in the lowest bits


@kernel
def exp(x):
    """Return the exponential of a number, for use inside kernels.

    Parameters
    ----------
    x : float
        Beyond -708 and 709 the value at these limits is returned.

    Returns
    -------
    y : float
        Relative error below 1e-13.

    Notes
    -----
    ``x = n ln 2 + r`` with a whole number n and ``|r| < 0.35``: Cody & Waite 1980, Software Manual for the Elementary
    Functions, ISBN 0-13-822064-6.

    Examples
    --------
    >>> round(exp(1.0), 12)
    2.718281828459
    """
    x = min(max(x, -708.0), 709.0)
    shifted = x * 1.4426950408889634 + _SHIFT
    n = shifted - _SHIFT
    r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10  # ln 2 in two parts
    # Estrin's order: the polynomial in pairs, so that few products wait for each other
    r2 = r * r
    r4 = r2 * r2
    low = (1.0 + r) + r2 * (0.5 + r * (1.0 / 6.0))
    middle = (1.0 / 24.0 + r * (1.0 / 120.0)) + r2 * (1.0 / 720.0 + r * (1.0 / 5040.0))
    high = (1.0 / 40320.0 + r * (1.0 / 362880.0)) + r2 * (1.0 / 3628800.0 + r * (1.0 / 39916800.0))
    p = low + r4 * (middle + r4 * high)
    power = (np.float64(shifted).view(np.int64) + np.int64(1023)) << np.int64(52)  # the bits of 2**n
    return p * np.int64(power).view(np.float64)


@kernel
def cosine(x):
    """Return the cosine of an angle, for use inside kernels.

    Parameters
    ----------
    x : float, rad
        Up to 1e6 either way.

    Returns
    -------
    y : float
        Error below 1e-14 near zero, 1e-10 at 1e6.

    Examples
    --------
    >>> abs(round(cosine(np.pi / 3.0), 12))
    0.5
    """
    turns = x * 0.15915494309189535
    shifted = turns + _SHIFT
    half = (turns - (shifted - _SHIFT)) * 3.141592653589793  # half the angle, within a quarter turn
    s = half * half
    p = -1.0 / 6402373705728000.0
    p = p * s + 1.0 / 20922789888000.0
    p = p * s - 1.0 / 87178291200.0
    p = p * s + 1.0 / 479001600.0
    p = p * s - 1.0 / 3628800.0
    p = p * s + 1.0 / 40320.0
    p = p * s - 1.0 / 720.0
    p = p * s + 1.0 / 24.0
    p = p * s - 0.5
    p = p * s + 1.0
    return 2.0 * p * p - 1.0


def rounded(values: np.ndarray) -> np.ndarray:
    """Return numbers rounded to single precision, so that other machines find the same.

    Sines, logarithms and powers of a mathematical library differ between machines in their last digit. Once rounded,
    one number in 1e8 does.

    Parameters
    ----------
    values : ndarray, float64
        Numbers.

    Returns
    -------
    rounded : ndarray, float64

    Examples
    --------
    >>> rounded(np.array([0.1, 0.1 + 1e-16])).tolist()
    [0.10000000149011612, 0.10000000149011612]
    """
    return np.asarray(values).astype(np.float32).astype(np.float64)
