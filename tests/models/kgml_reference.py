"""KGML-ag v11_3 from its equations, one day after the other in float64: slow and obvious, to check the fast one.

Liu et al. 2024, doi:10.1038/s41467-023-43860-5. Row vectors; ``w`` holds weights under the names of the state dict.
"""

from __future__ import annotations

import numpy as np

GPP = 8
"""Which of the 19 inputs is GPP."""


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def gru_cell(w, name, layer, x, h):
    """Return the state after one step: reset gate after the product, as Cho et al. 2014 in the form of cuDNN."""
    from_input = x @ w[f"{name}.weight_ih_l{layer}"].T + w[f"{name}.bias_ih_l{layer}"]
    from_state = h @ w[f"{name}.weight_hh_l{layer}"].T + w[f"{name}.bias_hh_l{layer}"]
    (in_r, in_z, in_n), (re_r, re_z, re_n) = (np.split(part, 3, axis=1) for part in (from_input, from_state))
    reset, update = sigmoid(in_r + re_r), sigmoid(in_z + re_z)
    candidate = np.tanh(in_n + reset * re_n)
    return (1 - update) * candidate + update * h


def gru(w, name, days, states):
    """Return the states of the last layer on each day, and those of all layers after the last."""
    states, outputs = list(states), []
    for x in days:
        for layer in range(len(states)):
            x = states[layer] = gru_cell(w, name, layer, x, states[layer])
        outputs.append(x)
    return outputs, states


def mlp(w, name, x):
    """Return the four linear layers with ReLU between."""
    for layer in (0, 2, 4):
        x = np.maximum(linear(w, f"{name}.{layer}", x), 0)
    return linear(w, f"{name}.6", x)


def yield_of(w, basis):
    """Return the z-score of the yield: softmax of tanh scores over the days, then the yield head."""
    scores = [np.tanh(mlp(w, "attention", day))[:, 0] for day in basis]
    total = sum(np.exp(score) for score in scores)
    context = sum((np.exp(score) / total)[:, None] * day for score, day in zip(scores, basis, strict=True))
    return mlp(w, "grain", context)[:, 0]


def residue_of(scalers, z, ra, grain):
    """Return the z-score of what the harvest leaves, (B,): ReLU(sum GPP + sum Ra - yield) in g m-2."""
    features, outputs, residue = scalers
    total = 0.0
    for day, ra_day in zip(z, ra, strict=True):
        total = total + day[:, GPP] * features[1, GPP] + features[0, GPP]
        total = total + ra_day * outputs[1, 0] + outputs[0, 0]
    left = np.maximum(total - (grain * outputs[1, 3] + outputs[0, 3]), 0)
    return (left - residue[0]) / residue[1]


def kgml_year(w, scalers, z, states):
    """Return a calendar year of z-scored inputs, a list of (B, 19) for each day.

    `states` holds those of the four GRUs, each a list of (B, H); `scalers` inputs (2, 19), outputs (2, 4) and residue
    (2,). Returns Ra, Rh and NEE (B, T), the yield (B,), the residue (B,) and the states after the year.
    """
    after = {}
    basis, after["basis"] = gru(w, "basis", z, states["basis"])
    days = [np.concatenate(row, axis=1) for row in zip(basis, z, strict=True)]
    hidden, after["ra"] = gru(w, "ra", days, states["ra"])
    ra = [linear(w, "ra_head", h)[:, 0] for h in hidden]
    grain = yield_of(w, basis)
    residue = residue_of(scalers, z, ra, grain)
    days = [
        np.concatenate([(residue if day in (298, 299) else 0 * residue)[:, None], b, x], axis=1)
        for day, (b, x) in enumerate(zip(basis, z, strict=True))
    ]
    hidden, after["rh"] = gru(w, "rh", days, states["rh"])
    rh = [linear(w, "rh_head", h)[:, 0] for h in hidden]
    days = [np.concatenate([a[:, None], b[:, None], x], axis=1) for a, b, x in zip(ra, rh, z, strict=True)]
    hidden, after["nee"] = gru(w, "nee", days, states["nee"])
    nee = [linear(w, "nee_head", h)[:, 0] for h in hidden]
    return np.stack(ra, axis=1), np.stack(rh, axis=1), np.stack(nee, axis=1), grain, residue, after
