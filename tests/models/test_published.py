"""Published weights by their names: networks written here with plain torch say the same."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fluxgrid.errors import CheckpointError, UnknownName
from fluxgrid.models import Sizes, model_config
from fluxgrid.models.published import NAMES, load_published

F, X, H, Z, OUT, W, S = 4, 6, 8, 4, 3, 12, 5
WINDOW = {"hidden": H, "window": W, "stride": S, "window_mode": "exact", "head": "linear"}
OWN = {
    "transformer": {"attention_heads": 2},
    "patch_transformer": {"attention_heads": 2, "as_published": True, "patch": 5},
    "tam_rl": {"latent": Z},
}


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(H, 2, 4 * H, 0.2, batch_first=True), 2)


def parts(kind: str) -> nn.ModuleDict:
    """Return the layers of a published network under the names it has there."""
    if kind == "mlp":
        layers = [nn.Linear(F + X, H), nn.ReLU(), nn.Dropout(0.2), nn.Linear(H, H), nn.ReLU(), nn.Dropout(0.2)]
        return nn.ModuleDict({"network": nn.Sequential(*layers, nn.Linear(H, OUT))})
    if kind == "gru":
        return nn.ModuleDict({"gru": nn.GRU(F, H, 1, batch_first=True), "fc": nn.Linear(H, OUT)})
    if kind == "transformer":
        return nn.ModuleDict({"embedding": nn.Linear(F + X, H), "transformer": encoder(), "fc": nn.Linear(H, OUT)})
    if kind == "patch_transformer":
        head = [nn.LayerNorm(2 * H), nn.Linear(2 * H, 4 * H), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4 * H, S * OUT)]
        return nn.ModuleDict(
            {
                "patch_embedding": nn.Linear(5 * F, H),
                "encoder": encoder(),
                "static_encoder": nn.Sequential(nn.Linear(X, H), nn.ReLU(), nn.Dropout(0.2)),
                "head": nn.Sequential(*head),
            }
        )
    if kind == "tam_rl":
        return nn.ModuleDict(
            {
                "dynamic_encoder": nn.Linear(F, H),
                "static_encoder": nn.Linear(Z, H),
                "film_layer_head": nn.Linear(Z, 2 * H),
                "encoder": nn.LSTM(H, H, 1, batch_first=True),
                "out": nn.Linear(H, OUT),
                "instance_encoder": nn.Sequential(nn.Linear(F + X, Z), nn.BatchNorm1d(Z), nn.LeakyReLU(0.2)),
                "temporal_encoder": nn.LSTM(Z, Z, bidirectional=True, batch_first=True),
                "code_linear": nn.Linear(Z, Z),
                "decode_linear": nn.Linear(Z, Z),
                "temporal_decoder": nn.LSTM(Z, Z, batch_first=True),
                "instance_decoder": nn.Linear(Z, F + X),
                "static_out": nn.Linear(Z, Z),
            }
        )
    cell = nn.GRU if kind.endswith("gru") else nn.LSTM
    width = H // 2 if kind.startswith("ct") else H
    layers = {
        "dynamic_encoder": nn.Linear(F, width),
        "encoder": cell(H, H, 1, batch_first=True),
        "out": nn.Linear(H, OUT),
    }
    if kind.startswith("ct"):
        layers["static_encoder"] = nn.Linear(X, width)
    return nn.ModuleDict(layers)


def say(kind: str, m: nn.ModuleDict, more: dict, x: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Return the z-scores of the last day of windows, as the published network forms them."""
    whole = torch.cat([x, place[:, None].expand(-1, W, -1)], dim=-1)
    if kind == "mlp":
        return m["network"](whole)[:, -1]
    if kind == "gru":
        return m["fc"](m["gru"](x)[0])[:, -1]
    if kind == "transformer":
        return m["fc"](m["transformer"](m["embedding"](whole) + more["pe"]))[:, -1]
    if kind == "patch_transformer":
        flat = x.permute(0, 2, 1).unfold(-1, 5, 5).permute(0, 2, 1, 3).flatten(2)
        code = m["encoder"](m["patch_embedding"](flat) + more["pos_embed"]).mean(dim=1)
        joined = torch.cat([code, m["static_encoder"](place)], dim=1)
        return m["head"](joined).view(-1, S, OUT)[:, -1]
    if kind == "tam_rl":
        rows = m["instance_encoder"](whole.flatten(0, 1)).view(len(x), W, -1)
        z = m["code_linear"](m["temporal_encoder"](rows)[1][0].sum(dim=0))[:, None].expand(-1, W, -1)
        s = torch.relu(m["static_encoder"](z)) + 1
        states = m["encoder"](s * m["dynamic_encoder"](x) + s)[0]
        gamma, beta = m["film_layer_head"](z).chunk(2, dim=-1)
        return m["out"](states * (gamma + 1) + beta)[:, -1]
    rows = m["dynamic_encoder"](x)
    if kind.startswith("ct"):
        rows = torch.cat([rows, m["static_encoder"](place[:, None].expand(-1, W, -1))], dim=-1)
    return m["out"](m["encoder"](rows)[0])[:, -1]


@pytest.mark.parametrize("kind", list(NAMES))
def test_the_same_weights_say_the_same(kind, tmp_path):
    torch.manual_seed(3)
    published, more = parts(kind).eval(), {}
    if kind == "tam_rl":
        with torch.no_grad():
            for value in (published["instance_encoder"][1].running_mean, published["instance_encoder"][1].running_var):
                value.uniform_(0.5, 1.5)
    if kind == "transformer":
        angle = torch.arange(W)[:, None] * 10_000.0 ** (-torch.arange(0, H, 2) / H)
        more["pe"] = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
    if kind == "patch_transformer":
        more["pos_embed"] = torch.randn(1, 2, H)
    save_file({**published.state_dict(), **more}, tmp_path / "weights.safetensors")
    options = {"hidden": H, "head": "linear"} if kind == "mlp" else {**WINDOW, **OWN.get(kind, {})}
    network = model_config(kind, options).build(Sizes(F, X, OUT))
    load_published(network, kind, tmp_path / "weights.safetensors")
    x, place = torch.randn(7, W, F), torch.randn(7, X)
    with torch.no_grad():
        expected = say(kind, published, more, x, place)
    found, _ = network.predict(x, place, torch.zeros(7, network.state_size))
    torch.testing.assert_close(found[:, -1], expected, rtol=1e-6, atol=1e-6)


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(parts("ct_lstm").state_dict(), path)
    bounded = model_config("ct_lstm", {"hidden": H}).build(Sizes(F, X, OUT))
    with pytest.raises(CheckpointError, match="head: linear"):
        load_published(bounded, "ct_lstm", path)
    wide = model_config("ct_lstm", {"hidden": 2 * H, "head": "linear"}).build(Sizes(F, X, OUT))
    with pytest.raises(CheckpointError, match="cannot be read into a ct_lstm"):
        load_published(wide, "ct_lstm", path)
    with pytest.raises(CheckpointError, match="cannot be read into a gru"):
        load_published(model_config("gru", {"hidden": H, "head": "linear"}).build(Sizes(F, X, OUT)), "gru", path)
    with pytest.raises(UnknownName, match=r"no network of CarbonBench named .ctlstm.\. Did you mean .ct_lstm."):
        load_published(wide, "ctlstm", path)
