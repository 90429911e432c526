"""Encoder layers over windows that share their days.

The first layer's queries, keys and values are linear in the embedding, and the embedding in the day, the place and the
position: the day's part is worked out once for all windows, the position's once for all days. Of the last layer, only
the positions that are read are queried and go through the rest of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fluxgrid.models.day_rows import DayRows

_ROWS = 1024
"""Rows that go through a layer together: what is between its products stays in the cache."""


def attend_shared(
    encoder: nn.TransformerEncoder,
    days: DayRows,
    embedding: tuple[Tensor, Tensor],
    positions: Tensor,
    offsets: Sequence[int],
    last: int,
) -> Tensor:
    """Return the codes of the last positions of windows, (M, last, H).

    Parameters
    ----------
    encoder : TransformerEncoder
        Layers with norm after, ReLU, no mask; in evaluation.
    days : DayRows
    embedding : tuple of Tensor, (H, F) and (1, H) or (B, H)
        What a day comes to, and what a place adds.
    positions : Tensor, (P, H)
        What a position adds.
    offsets : sequence of int, (P,)
        Day of the window that stands in each position.
    last : int
        Positions that are read, from the end.
    """
    layers, width = list(encoder.layers), positions.shape[1]
    first = layers[0].self_attn
    weight, place = embedding
    into = torch.cat([weight, first.in_proj_weight @ weight]).t().contiguous()  # (F, 4H): embedding, q, k, v
    place = torch.cat([place, torch.addmm(first.in_proj_bias, place, first.in_proj_weight.t())], dim=1)
    positions = torch.cat([positions, positions @ first.in_proj_weight.t()], dim=1)  # (P, 4H)
    steps = torch.tensor(offsets) * days.places
    abreast = _abreast(len(offsets), days.group)

    def fill(out: Tensor, rows: Tensor, places: Tensor) -> None:
        torch.index_select(place, 0, places if len(place) > 1 else torch.zeros_like(places), out=out)
        out.addmm_(rows, into)

    found = days.rows.new_empty(len(days), last, width)
    read, taken = (found.new_empty(days.group, last, width) for _ in range(2))
    for table, group in days.groups(4 * width, fill):
        begins = torch.from_numpy(group.first)
        for low in range(0, days.group, abreast):
            part = slice(low, low + abreast)
            rows = table[(begins[part, None] + steps).flatten()].view(abreast, len(offsets), -1).add_(positions)
            read[part], taken[part] = _before_the_last(layers, rows, last)
        out = found[group.wanted]
        ends = _finish(layers[-1], read.flatten(0, 1), taken.flatten(0, 1))
        out.copy_(ends.view(days.group, last, width)[: len(out)])
    return found


def _abreast(positions: int, group: int) -> int:
    """Return how many windows go through a layer together: a power of two, which divides the group."""
    fitting = max(1, _ROWS // positions)
    return min(1 << (fitting.bit_length() - 1), group)


def _before_the_last(layers: list[nn.TransformerEncoderLayer], rows: Tensor, last: int) -> tuple[Tensor, Tensor]:
    """Return what the last positions hold before the last layer, and what they take from all, (N, last, H) both.

    The rows (N, P, 4H) are the embedding and the first layer's queries, keys and values.
    """
    codes, queries, keys, values = rows.chunk(4, dim=-1)
    for layer, after in itertools.pairwise(layers):
        taken = _take(queries, keys, values, layer.self_attn.num_heads)
        codes = _finish(layer, codes.flatten(0, 1), taken.flatten(0, 1)).view_as(codes)
        keys, values, queries = _project(after.self_attn, codes, last if after is layers[-1] else codes.shape[1])
    kept = slice(codes.shape[1] - last, None)
    queries = queries[:, queries.shape[1] - last :]
    return codes[:, kept], _take(queries, keys, values, layers[-1].self_attn.num_heads)


def _project(attention: nn.MultiheadAttention, codes: Tensor, last: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys and values of all positions (N, P, H), and queries of the last."""
    width = codes.shape[2]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    if last == codes.shape[1]:
        queries, keys, values = F.linear(codes, weight, bias).chunk(3, dim=-1)
        return keys, values, queries
    keys, values = F.linear(codes, weight[width:], bias[width:]).chunk(2, dim=-1)
    queries = F.linear(codes[:, codes.shape[1] - last :].contiguous(), weight[:width], bias[:width])
    return keys, values, queries


def _take(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Return what positions take from all, (N, last, H)."""
    parts = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (queries, keys, values))
    return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


def _finish(layer: nn.TransformerEncoderLayer, codes: Tensor, taken: Tensor) -> Tensor:
    """Return a layer's output for rows (R, H) and what they take from all, (R, H)."""
    parts = [_finish_piece(layer, *pair) for pair in zip(codes.split(_ROWS), taken.split(_ROWS), strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _finish_piece(layer: nn.TransformerEncoderLayer, codes: Tensor, taken: Tensor) -> Tensor:
    """Return the same of a few rows: each what it was plus what it takes, normed, and so again with the wide layer."""
    codes = _norm(layer.norm1, layer.self_attn.out_proj(taken).add_(codes))
    wide = layer.linear1(codes).relu_()
    return _norm(layer.norm2, layer.linear2(wide).add_(codes))


def _norm(norm: nn.LayerNorm, rows: Tensor) -> Tensor:
    """Return normed rows."""
    return F.layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def in_pieces(rows: int) -> Iterator[slice]:
    """Yield slices of so many rows that go through a layer together."""
    yield from (slice(low, low + _ROWS) for low in range(0, rows, _ROWS))
