"""Compiled kernels of recurrent cells: gates, forwards and backwards, and whole runs of steps; arrays only.

They stand in one file because numba's cache looks at the file of the kernel that is called, not at those it calls. The
runs multiply by `fluxgrid.models.packed_product` and must be called only where that is available; all are for numba,
and as plain Python take for ever.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fluxgrid import compiling
from fluxgrid.models.packed_product import SYMBOL

if compiling.AVAILABLE:
    from numba import types

_LIMIT = np.float32(9.02)
"""Beyond it tanh is 1 in single precision."""
# Least-squares fit of tanh(x) / x as a ratio of polynomials in x * x on the range above: relative error 7e-9.
_P0, _P1, _P2, _P3, _P4, _P5, _P6 = (
    np.float32(v)
    for v in (
        *(0.9999999932251311, 0.1308315627003667, 0.003103000688803497, 1.1144249630908925e-05),
        *(-2.018394453713397e-08, 5.257768981629798e-11, -8.436022558640926e-14),
    )
)
_Q1, _Q2, _Q3 = (np.float32(v) for v in (0.4641648323076848, 0.02449137836115934, 0.00025447502476958145))
# Chebyshev fit of exp on [-1, 1]: relative error 2.9e-8, of these coefficients in single precision 8.7e-8.
_E0, _E1, _E2, _E3, _E4, _E5, _E6, _E7, _E8 = (
    np.float32(v)
    for v in (
        *(1.000000000549551, 0.999999900943311, 0.4999999725452066, 0.16666798559827234, 0.04166688603183648),
        *(0.00832859610683971, 0.0013882759394879607, 0.00020469993358705144, 2.5499197531763066e-05),
    )
)
_ONE, _HALF = np.float32(1.0), np.float32(0.5)
_FRESH, _ADDED = np.float32(0.0), np.float32(1.0)
"""What of a product's output is kept."""

if compiling.AVAILABLE:
    _int, _float = types.int32, types.float32
    _array = types.CPointer(_float)
    _product = types.void(*[_int] * 6, _array, _int, _array, _int, _float, _array, _int)
    _sgemm: Any = types.ExternalFunction(SYMBOL, _product)
_ROWS_FIRST, _PLAIN, _PACKED = 101, 111, 151
"""First arguments of ``cblas_sgemm_compute``, of mkl_cblas.h."""

compiled = compiling.kernel(fastmath={"contract", "nnan", "ninf", "nsz"})
_inlined = compiling.kernel(forceinline=True)


@_inlined
def _tanh(x):
    """Return tanh to 4e-7, without a branch, so that loops over it become vector instructions."""
    x = min(max(x, -_LIMIT), _LIMIT)
    y = x * x
    top = _P0 + y * (_P1 + y * (_P2 + y * (_P3 + y * (_P4 + y * (_P5 + y * _P6)))))
    bottom = _ONE + y * (_Q1 + y * (_Q2 + y * _Q3))
    return min(max(x * top / bottom, -_ONE), _ONE)


@_inlined
def _sigmoid(x):
    """Return the logistic function."""
    return _HALF * _tanh(_HALF * x) + _HALF


@_inlined
def _parts(x):
    """Return what tanh is the ratio of: gates that are multiplied need one division in all."""
    x = min(max(x, -_LIMIT), _LIMIT)
    y = x * x
    top = _P0 + y * (_P1 + y * (_P2 + y * (_P3 + y * (_P4 + y * (_P5 + y * _P6)))))
    return x * top, _ONE + y * (_Q1 + y * (_Q2 + y * _Q3))


@_inlined
def _exp_of_tanh(x):
    """Return exp(tanh(x))."""
    y = _tanh(x)
    high = _E4 + y * (_E5 + y * (_E6 + y * (_E7 + y * _E8)))
    return _E0 + y * (_E1 + y * (_E2 + y * (_E3 + y * high)))


@compiled
def step(gates, recurrent, bias, before, inner, after):
    """Close the gates of one step: `gates` holds W_i x + b_i, and r, z, n afterwards; `recurrent` W_h h.

    Shapes: (B, 3H), (B, 3H), (3H,), (B, H), (B, H), (B, H); `inner` takes W_hn h + b_hn, `after` the new state.
    """
    width = before.shape[1]
    for b in range(len(before)):
        # rows in short loops over few arrays: a loop over many is not made into vector instructions
        both, new, given = gates[b, : 2 * width], gates[b, 2 * width :], recurrent[b, 2 * width :]
        for j in range(2 * width):
            both[j] = _sigmoid(both[j] + recurrent[b, j] + bias[j])
        c = inner[b]
        for j in range(width):
            c[j] = given[j] + bias[2 * width + j]
        for j in range(width):
            new[j] = _tanh(new[j] + both[j] * c[j])
        update, old, row = both[width:], before[b], after[b]
        for j in range(width):
            row[j] = new[j] + update[j] * (old[j] - new[j])


@compiled
def step_back(gates, inner, before, from_output, through, direct, for_input, for_recurrent, straight):
    """Turn the gradient of a step's state into that of its gates; the reverse of `step`.

    The state's gradient is `from_output` + `through` + `direct` (B, H): from the step's output, and from the step after
    it by way of its gates and past them. Fills the gradients of the input side (B, 3H), of the recurrent side (B, 3H),
    and the part that passes by the gates (B, H).
    """
    width = before.shape[1]
    for b in range(len(before)):
        r, z, n = gates[b, :width], gates[b, width : 2 * width], gates[b, 2 * width :]
        reset, update, new = for_input[b, :width], for_input[b, width : 2 * width], for_input[b, 2 * width :]
        kept, old, c = straight[b], before[b], inner[b]
        for j in range(width):
            kept[j] = from_output[b, j] + through[b, j] + direct[b, j]
        for j in range(width):
            new[j] = kept[j] * (_ONE - z[j]) * (_ONE - n[j] * n[j])
        for j in range(width):
            update[j] = kept[j] * (old[j] - n[j]) * (z[j] * (_ONE - z[j]))
        for j in range(width):
            reset[j] = new[j] * c[j] * (r[j] * (_ONE - r[j]))
        for j in range(2 * width):
            for_recurrent[b, j] = for_input[b, j]
        last = for_recurrent[b, 2 * width :]
        for j in range(width):
            last[j] = new[j] * r[j]
        for j in range(width):
            kept[j] = kept[j] * z[j]


@compiled
def close_states(gates, base, recurrent, bias, before, after):
    """Close the gates of one step and keep nothing for a gradient: `step` where r and z come halved.

    `gates` (B, 3H) holds W_i x, and W_h h too in the columns of r and z; `base` (1 or B, 3H) what comes on top, all
    biases but b_hn; all with the rows of r and z times a half. The first columns of `recurrent` (B, H or more) hold
    W_hn h, to which `bias` (H,) belongs.
    """
    width = before.shape[1]
    for b in range(len(before)):
        reset, update, new = gates[b, :width], gates[b, width : 2 * width], gates[b, 2 * width :]
        own, given = base[b if len(base) > 1 else 0], recurrent[b]
        of_update, of_new = own[width : 2 * width], own[2 * width :]
        old, row = before[b], after[b]
        for j in range(width):
            reset[j] = _HALF * _tanh(reset[j] + own[j]) + _HALF
        for j in range(width):
            z, under_z = _parts(update[j] + of_update[j])
            n, under_n = _parts(new[j] + of_new[j] + reset[j] * (given[j] + bias[j]))
            row[j] = _HALF * ((under_z + z) * old[j] * under_n + (under_z - z) * n) / (under_z * under_n)


@compiled
def close_cells(gates, base, cells, after):
    """Close the gates of one step of an LSTM, in which i, f and o come halved.

    The first columns of `gates` (B, 4H or more) hold W_i x + W_h h, `base` (1 or B, 4H) what comes on top, all with the
    rows of i, f and o times a half. Changes the cells (B, H) and fills the states after the step, `after` (B, H).
    """
    width = cells.shape[1]
    for b in range(len(cells)):
        own, g, c, h = base[b if len(base) > 1 else 0], gates[b], cells[b], after[b]
        g0, g1, g2, g3 = g[:width], g[width : 2 * width], g[2 * width : 3 * width], g[3 * width : 4 * width]
        o0, o1, o2, o3 = own[:width], own[width : 2 * width], own[2 * width : 3 * width], own[3 * width :]
        for j in range(width):
            i, under_i = _parts(g0[j] + o0[j])
            f, under_f = _parts(g1[j] + o1[j])
            new, under_n = _parts(g2[j] + o2[j])
            both = under_i * under_n
            c[j] = _HALF * ((under_f + f) * c[j] * both + (under_i + i) * new * under_f) / (under_f * both)
        for j in range(width):
            o, under_o = _parts(g3[j] + o3[j])
            new, under = _parts(c[j])
            h[j] = _HALF * (under_o + o) * new / (under_o * under)


@compiled
def _close_lstm(table, first, shift, column, product, states, cells):
    """Close the gates of one step of an LSTM, states and cells (N, H) in place.

    Row n reads its input side, W_i x + b, (4H,), in ``table[first[n] + shift]`` from `column` on, and W_h h in
    `product` (N, 4H).
    """
    width = cells.shape[1]
    for n in range(len(cells)):
        given, again = table[first[n] + shift, column : column + 4 * width], product[n]
        c, h = cells[n], states[n]
        for j in range(width):
            i, under_i = _parts(_HALF * (again[j] + given[j]))
            f, under_f = _parts(_HALF * (again[width + j] + given[width + j]))
            g, under_g = _parts(again[2 * width + j] + given[2 * width + j])
            o, under_o = _parts(_HALF * (again[3 * width + j] + given[3 * width + j]))
            both = under_i * under_g
            kept = (under_f + f) * c[j] * both + (under_i + i) * g * under_f
            cell = _HALF * kept / (under_f * both)
            c[j] = cell
            new, under = _parts(cell)
            h[j] = _HALF * (under_o + o) * new / (under_o * under)


@compiled
def _close_gru(table, first, shift, product, bias, states):
    """Close the gates of one step of a GRU, states (N, H) in place.

    Row n reads its input side, W_i x + b_i, (3H,), in ``table[first[n] + shift]``, and W_h h in `product` (N, 3H), to
    which `bias` (3H,) belongs.
    """
    width = product.shape[1] // 3
    for n in range(len(product)):
        given, again, h = table[first[n] + shift], product[n], states[n]
        for j in range(width):
            r = _sigmoid(given[j] + (again[j] + bias[j]))
            z, under_z = _parts(_HALF * (given[width + j] + (again[width + j] + bias[width + j])))
            c = again[2 * width + j] + bias[2 * width + j]
            n_, under_n = _parts(given[2 * width + j] + r * c)
            h[j] = _HALF * ((under_z + z) * h[j] * under_n + (under_z - z) * n_) / (under_z * under_n)


@compiled
def _scale_rows(table, first, shift, gain, states):
    """Put ``gain[n] * table[first[n] + shift]``, as many columns as the gain has, into the first columns of row n."""
    width = gain.shape[1]
    for n in range(len(gain)):
        given, own, into = table[first[n] + shift, :width], gain[n], states[n, :width]
        for j in range(width):
            into[j] = own[j] * given[j]


@compiled
def multiply_rows(rows, packed, kept, out, columns):
    """Put ``kept * out + rows @ weights`` into the first columns of `out` (M, .), of rows (M, K) and packed weights.

    To be called from compiled kernels, and only where `AVAILABLE`. Rows and `out` are C-contiguous and float32; `kept`
    is 0 or 1, float32; `columns` is N of the weights (K, N).
    """
    m, k = rows.shape
    where = rows.ctypes, k, packed.ctypes, columns, kept, out.ctypes, out.shape[1]
    _sgemm(_ROWS_FIRST, _PLAIN, _PACKED, m, columns, k, *where)


@compiled
def _multiply_inputs(inputs, maps, t, gates, columns):
    """Fill the first columns of the gates with what inputs side by side, a tuple of (T, B, k), bring in step t."""
    for k in range(len(inputs)):
        x = inputs[k][t]
        # a lone column is mostly zero, an event of a few days
        if k == 0 or x.shape[1] > 1 or x.any():
            multiply_rows(x, maps[k], _ADDED if k else _FRESH, gates, columns)


@compiled
def _take_readout(product, first, bias, said):
    """Move what was read of states, `said` (B, m), out of a product's columns from `first` on, and leave zeros."""
    for b in range(len(said)):
        columns, into = product[b, first:], said[b]
        for k in range(len(into)):
            into[k] = columns[k] + bias[k]
        for k in range(len(columns)):
            columns[k] = _FRESH


@compiled
def run_grus(
    inputs, maps, base, upper, onto, both, new, bias, readout, own_columns, n, states, handed, out, said, gates, product
):
    """Run the L layers of a GRU over T steps of a block of B places, all layers over n steps before the next n.

    Parameters
    ----------
    inputs : tuple of ndarray, (T, B, k)
        Side by side, as the lowest layer reads them; `maps` are their packed weights.
    base : ndarray, (1 or B, 3H)
        What comes on top in the lowest layer, as `close_states` has it.
    upper, onto : ndarray, (L - 1, .), (L - 1, 1, 3H)
        Packed input weights of the layers above, and what comes on top there.
    both, new, bias : ndarray, (L, .), (L, .), (L, H)
        Packed weights of the state for r and z, and for n, and b_hn. In the last layer columns of a linear map that
        reads the states follow those of n: what is read of a state comes with the product of the step after it.
    readout : ndarray, (m,)
        Bias of that map.
    own_columns : int
        Columns of `new` before those of the map, H or more.
    n : int
    states : ndarray, (L, B, H)
        Before the first step, and then after the last.
    handed : ndarray, (L - 1, 2 n, B, H)
        Room for what layers hand up, step t in row ``t % len``.
    out : ndarray, (S, B, H)
        States of the last layer in the same order: all of them where S = T, and 2 are enough.
    said : ndarray, (T, B, m)
        What is read of the last layer's states; m may be 0.
    gates, product : ndarray, (B, 3H), (B, own_columns + columns of the map)
        Room.
    """
    layers, _, width = states.shape
    steps = len(inputs[0])
    for first in range(0, steps, n):
        for layer in range(layers):
            is_last = layer == layers - 1
            own = out if is_last else handed[layer]
            on_top = base if layer == 0 else onto[layer - 1]
            columns = product.shape[1] if is_last else own_columns
            for t in range(first, min(first + n, steps)):
                old = states[layer] if t == 0 else own[(t - 1) % len(own)]
                if layer == 0:
                    _multiply_inputs(inputs, maps, t, gates, 3 * width)
                else:
                    below = handed[layer - 1]
                    multiply_rows(below[t % len(below)], upper[layer - 1], _FRESH, gates, 3 * width)
                if t > 0 or old.any():
                    multiply_rows(old, both[layer], _ADDED, gates, 2 * width)
                    multiply_rows(old, new[layer], _FRESH, product, columns)
                    if is_last:
                        _take_readout(product, own_columns, readout, said[max(t - 1, 0)])
                else:
                    product[:] = _FRESH  # an empty state adds nothing
                close_states(gates, on_top, product, bias[layer], old, own[t % len(own)])
    for layer in range(layers):
        own = out if layer == layers - 1 else handed[layer]
        states[layer] = own[(steps - 1) % len(own)]
    if said.shape[2]:
        multiply_rows(states[layers - 1], new[layers - 1], _FRESH, product, product.shape[1])
        _take_readout(product, own_columns, readout, said[steps - 1])


@compiled
def run_lstms(
    inputs, maps, base, upper, onto, recurrent, readout, own_columns, n, states, cells, handed, out, said, gates
):
    """Run the L layers of an LSTM over T steps of a block of B places, as `run_grus` does those of a GRU.

    `recurrent` (L, .) are packed weights of the states: `own_columns`, 4H or more, and in the last layer those of the
    map that reads them; `gates` (B, own_columns + those) are room. `cells` (L, B, H) are those before, and then after.
    """
    layers, _, width = states.shape
    steps = len(inputs[0])
    gates[:, 4 * width :] = _FRESH
    for first in range(0, steps, n):
        for layer in range(layers):
            is_last = layer == layers - 1
            own = out if is_last else handed[layer]
            on_top = base if layer == 0 else onto[layer - 1]
            columns = gates.shape[1] if is_last else own_columns
            for t in range(first, min(first + n, steps)):
                old = states[layer] if t == 0 else own[(t - 1) % len(own)]
                if layer == 0:
                    _multiply_inputs(inputs, maps, t, gates, 4 * width)
                else:
                    below = handed[layer - 1]
                    multiply_rows(below[t % len(below)], upper[layer - 1], _FRESH, gates, 4 * width)
                if t > 0 or old.any():  # an empty state adds nothing
                    multiply_rows(old, recurrent[layer], _ADDED, gates, columns)
                    if is_last:
                        _take_readout(gates, own_columns, readout, said[max(t - 1, 0)])
                close_cells(gates, on_top, cells[layer], own[t % len(own)])
    for layer in range(layers):
        own = out if layer == layers - 1 else handed[layer]
        states[layer] = own[(steps - 1) % len(own)]
    if said.shape[2]:
        gates[:] = _FRESH  # and added to, as in all other steps: a wide product may round otherwise
        multiply_rows(states[layers - 1], recurrent[layers - 1], _ADDED, gates, gates.shape[1])
        _take_readout(gates, own_columns, readout, said[steps - 1])


@compiled
def _close_relu(rows, bias):
    """Put relu(x + b) in the stead of rows (B, n)."""
    for b in range(len(rows)):
        row = rows[b]
        for j in range(len(bias)):
            row[j] = max(row[j] + bias[j], _FRESH)


@compiled
def pick_steps(rows, maps, b1, b2, b3, b4, picked):
    """Fill the mean `picked` (B, H) of the T rows of each place, (T, B, H), weighted as an attention weighs them.

    The weight of a row is the softmax over T of tanh(w4 relu(W3 relu(W2 relu(W1 x + b1) + b2) + b3) + b4). `maps` are
    packed W1 to W4, the last with a column of zeros, `b1` to `b4` their biases, (H,), (H,), (H / 2,), (1,). A tanh
    needs no largest taken off before it is the exponent, so that all is done on the way.
    """
    steps, batch, width = rows.shape
    one, two = np.empty((batch, width), np.float32), np.empty((batch, width), np.float32)
    three = np.empty((batch, len(b3)), np.float32)
    # two columns, one of them zero: a product of one rounds by where a row stands
    score, weights, total = np.empty((batch, 2), np.float32), np.empty(batch, np.float32), np.zeros(batch, np.float32)
    picked[:] = _FRESH
    for t in range(steps):
        x = rows[t]
        multiply_rows(x, maps[0], _FRESH, one, width)
        _close_relu(one, b1)
        multiply_rows(one, maps[1], _FRESH, two, width)
        _close_relu(two, b2)
        multiply_rows(two, maps[2], _FRESH, three, len(b3))
        _close_relu(three, b3)
        multiply_rows(three, maps[3], _FRESH, score, 2)
        for b in range(batch):
            weights[b] = score[b, 0]
        for b in range(batch):
            weights[b] = _exp_of_tanh(weights[b] + b4[0])
        for b in range(batch):
            total[b] += weights[b]
        for b in range(batch):
            weight, own, row = weights[b], picked[b], x[b]
            for j in range(width):
                own[j] += weight * row[j]
    for b in range(batch):
        own = picked[b]
        for j in range(width):
            own[j] /= total[b]


@compiled
def run_gru_windows(table, first, begin, stride, steps, recurrent, bias, states, out, product):
    """Run windows (N,) whose gates stand in ``table[first[n] + begin + t * stride]``, and keep their last states."""
    kept = len(out)
    states[:] = _FRESH
    product[:] = _FRESH  # an empty state adds nothing
    for t in range(steps):
        if t:
            multiply_rows(states, recurrent, _FRESH, product, product.shape[1])
        _close_gru(table, first, begin + t * stride, product, bias, states)
        if t >= steps - kept:
            out[t - steps + kept] = states


@compiled
def run_lstm_windows(table, first, begin, stride, steps, column, recurrent, cells, states, out, product):
    """Run windows as `run_gru_windows` does, of an LSTM whose gates stand from a column on."""
    kept = len(out)
    cells[:] = _FRESH
    product[:] = _FRESH
    for t in range(steps):
        if t:
            multiply_rows(states, recurrent, _FRESH, product, product.shape[1])
        _close_lstm(table, first, begin + t * stride, column, product, states, cells)
        if t >= steps - kept:
            out[t - steps + kept] = states


@compiled
def run_scaled_windows(table, first, stride, gain, into, recurrent, base, cells, states, out, scaled, gates):
    """Run an LSTM over windows whose inputs are ``gain[n] * table[first[n] + t * stride]``; all states are kept."""
    cells[:] = _FRESH
    for t in range(len(out)):
        _scale_rows(table, first, t * stride, gain, scaled)
        multiply_rows(scaled, into, _FRESH, gates, gates.shape[1])
        if t:
            multiply_rows(states, recurrent, _ADDED, gates, gates.shape[1])
        close_cells(gates, base, cells, states)
        out[t] = states
