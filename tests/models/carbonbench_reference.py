"""The networks of CarbonBench on one window, a step and a number at a time, in float64: slow and obvious.

Each takes weights by name, a window (W, F) and a place (X,), and gives what the head reads of each step, (W, H).
"""

from __future__ import annotations

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def linear(w, name, x):
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def run_lstm(w, name, rows, layers=1, suffix=""):
    """Return the states after each row: gates i, f, g, o; c = f c + i g; h = o tanh(c)."""
    for layer in range(layers):
        part = {k: w[f"{name}.{k}_l{layer}{suffix}"] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        h = c = np.zeros(part["weight_hh"].shape[1])
        states = []
        for x in rows:
            gates = part["weight_ih"] @ x + part["bias_ih"] + part["weight_hh"] @ h + part["bias_hh"]
            i, f, g, o = np.split(gates, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            states.append(h)
        rows = states
    return np.array(rows)


def run_gru(w, name, rows, layers=1):
    """Return the states after each row: gates r, z, n; h = (1 - z) n + z h."""
    for layer in range(layers):
        part = {k: w[f"{name}.{k}_l{layer}"] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        h, states = np.zeros(part["weight_hh"].shape[1]), []
        for x in rows:
            (xr, xz, xn), (hr, hz, hn) = (
                np.split(part[f"weight_{k}"] @ v + part[f"bias_{k}"], 3) for k, v in (("ih", x), ("hh", h))
            )
            z = sigmoid(xz + hz)
            h = (1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * h
            states.append(h)
        rows = states
    return np.array(rows)


def two_codes(w, window, place):
    return [np.concatenate([linear(w, "forcing_encoder", x), linear(w, "static_encoder", place)]) for x in window]


def lstm(w, window, place, layers):
    return run_lstm(w, "lstm", [linear(w, "forcing_encoder", x) for x in window], layers)


def ct_lstm(w, window, place, layers):
    return run_lstm(w, "lstm", two_codes(w, window, place), layers)


def gru(w, window, place, layers):
    return run_gru(w, "gru", window, layers)


def ct_gru(w, window, place, layers):
    return run_gru(w, "gru", two_codes(w, window, place), layers)


def norm(w, name, x):
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return w[f"{name}.weight"] * x + w[f"{name}.bias"]


def attend(w, name, rows, heads):
    """Return each row plus what it takes from all rows, then normed: softmax(q k / sqrt(d)) v, head by head."""
    projected = rows @ w[f"{name}.in_proj_weight"].T + w[f"{name}.in_proj_bias"]
    q, k, v = np.split(projected, 3, axis=1)
    taken = []
    for one in range(heads):
        part = np.split(np.arange(q.shape[1]), heads)[one]
        score = q[:, part] @ k[:, part].T / np.sqrt(len(part))
        share = np.exp(score - score.max(axis=1, keepdims=True))
        taken.append(share / share.sum(axis=1, keepdims=True) @ v[:, part])
    return np.array([linear(w, f"{name}.out_proj", row) for row in np.concatenate(taken, axis=1)])


def encode(w, rows, layers, heads):
    for layer in range(layers):
        name = f"encoder.layers.{layer}"
        rows = rows + attend(w, f"{name}.self_attn", rows, heads)
        rows = np.array([norm(w, f"{name}.norm1", row) for row in rows])
        wide = [linear(w, f"{name}.linear2", np.maximum(linear(w, f"{name}.linear1", row), 0)) for row in rows]
        rows = np.array([norm(w, f"{name}.norm2", row + more) for row, more in zip(rows, wide, strict=True)])
    return rows


def transformer(w, window, place, layers, heads=2):
    width = w["embedding.bias"].shape[0]
    rows = []
    for t, x in enumerate(window):
        position = [
            (np.sin if j % 2 == 0 else np.cos)(t * np.exp((j - j % 2) * -np.log(1e4) / width)) for j in range(width)
        ]
        rows.append(linear(w, "embedding", np.concatenate([x, place])) + position)
    return encode(w, np.array(rows), layers, heads)


def patch_transformer(w, window, place, layers, heads=2, patch=4, as_published=False):
    """Return the one code of the window."""
    count = len(window) // patch
    first = 0 if as_published else len(window) - count * patch
    rows = []
    for i in range(count):
        days = window[first + i * patch : first + (i + 1) * patch]
        flat = [day[channel] for channel in range(window.shape[1]) for day in days]
        rows.append(linear(w, "embedding", np.array(flat)) + w["positions"][0, i])
    code = encode(w, np.array(rows), layers, heads).mean(axis=0)
    joined = np.concatenate([code, np.maximum(linear(w, "static_encoder.0", place), 0)])
    return np.maximum(linear(w, "joint.1", norm(w, "joint.0", joined)), 0)


def tam_rl(w, window, place, layers):
    rows = []
    for x in window:
        y = linear(w, "inverse.embedding", np.concatenate([x, place]))
        y = (y - w["inverse.norm.running_mean"]) / np.sqrt(w["inverse.norm.running_var"] + 1e-5)
        y = w["inverse.norm.weight"] * y + w["inverse.norm.bias"]
        rows.append(np.where(y > 0, y, 0.2 * y))
    forward = run_lstm(w, "inverse.lstm", rows)[-1]
    backward = run_lstm(w, "inverse.lstm", rows[::-1], suffix="_reverse")[-1]
    code = linear(w, "inverse.code", forward + backward)
    gain = np.maximum(linear(w, "modulation", code), 0) + 1
    states = run_lstm(w, "lstm", [gain * linear(w, "forcing_encoder", x) + gain for x in window], layers)
    gamma, beta = np.split(linear(w, "film", code), 2)
    return states * (gamma + 1) + beta


def mlp(w, window, place, layers):
    rows = []
    for x in window:
        y = np.maximum(linear(w, "layers.0", np.concatenate([x, place])), 0)
        rows.append(np.maximum(linear(w, "layers.3", y), 0))
    return np.array(rows)
