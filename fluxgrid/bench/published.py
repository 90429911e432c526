"""TAM-RL as its published evaluation runs it, in plain torch: what `exact` must equal, and how much faster it is.

For each day its window and, beside it, a support window of the same place are encoded; codes are also decoded back to
the inputs by an LSTM that reads its own last state, step by step, and nothing of that is used (Rozanov et al. 2026,
arXiv:2603.09974). Of a code of 64 and 71 inputs the inverse network has 121,671 parameters, 75,456 of them used. The
scripts that evaluate the published models give 32 windows at once unless told otherwise, and the one that starts them
names a batch of 128 without telling them; 2048, and 128 for TAM-RL, are the batches of training. They cut each window
from a table of the site when it is asked for; that is not done here, all are cut in one copy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fluxgrid.models.tam_rl import TAMRL

BATCH = 32
"""Windows that the scripts of the published evaluation give at once."""
NAMED_BATCH = 128
"""Windows that the script which starts them names and does not tell them."""


class PublishedTAMRL(nn.Module):
    """TAM-RL with the weights of ours and the parts that ours leaves out, those with random weights.

    Parameters
    ----------
    network : TAMRL
    """

    scale: Tensor

    def __init__(self, network: TAMRL):
        super().__init__()
        inverse, latent, cell = network.inverse, network.latent, network.lstm
        inputs = network.channels + network.statics
        self.embedding, self.norm, self.code = inverse.embedding, inverse.norm, inverse.code
        self.encoder = nn.LSTM(latent, latent, bidirectional=True, batch_first=True)
        self.encoder.load_state_dict(dict(inverse.lstm.named_parameters()))
        self.start, self.decoder = nn.Linear(latent, latent), nn.LSTM(latent, latent, batch_first=True)
        self.decoded, self.static_out = nn.Linear(latent, inputs), nn.Linear(latent, latent)
        self.forcing, self.gain, self.film = network.forcing_encoder, network.modulation, network.film
        self.lstm = nn.LSTM(cell.input_size, cell.hidden_size, cell.num_layers, batch_first=True)
        self.lstm.load_state_dict(dict(cell.named_parameters()))
        self.head = network.head
        self.eval()

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the codes (N, latent) of windows (N, W, F + X), with what is decoded from them and dropped."""
        rows = F.leaky_relu(self.norm(self.embedding(inputs.flatten(0, 1))), 0.2).unflatten(0, inputs.shape[:2])
        code = self.code(self.encoder(rows)[1][0].sum(dim=0))
        self.static_out(code)
        state = self.start(code)[None], torch.zeros_like(code)[None]
        fed, decoded = torch.zeros_like(code)[:, None], torch.zeros_like(inputs)
        for day in range(inputs.shape[1]):
            fed, state = self.decoder(fed, state)
            decoded[:, day] = self.decoded(fed[:, 0])
        return code

    def forward(self, windows: Tensor, support: Tensor, static: Tensor) -> Tensor:
        """Return the fluxes (N, W, O) of windows (N, W, F) at places (N, X)."""
        place = static[:, None].expand(-1, windows.shape[1], -1)
        both = [torch.cat([part, place], dim=-1) for part in (windows, support)]
        code = self.encode(torch.cat(both))[: len(windows)][:, None].expand(-1, windows.shape[1], -1)
        gain = F.relu(self.gain(code)) + 1.0
        states = self.lstm(gain * self.forcing(windows) + gain)[0]
        gamma, beta = self.film(code).chunk(2, dim=-1)
        return self.head(states * (gamma + 1.0) + beta)


def predict_published(
    published: PublishedTAMRL, record: Tensor, static: Tensor, window: int, batch: int = BATCH
) -> Tensor:
    """Return the fluxes of the last day of every window of a record.

    Parameters
    ----------
    published : PublishedTAMRL
    record : Tensor, (B, W - 1 + T, F)
    static : Tensor, (B, X)
    window : int
        W.
    batch : int
        Windows run together.

    Returns
    -------
    fluxes : Tensor, (B, T, O)
    """
    cut = record.unfold(1, window, 1).transpose(2, 3)  # (B, T, W, F)
    places, days = cut.shape[:2]
    rows, where = cut.reshape(places * days, *cut.shape[2:]), static.repeat_interleave(days, dim=0)
    with torch.no_grad():
        parts = [
            published(part, part.roll(1, dims=0), at)[:, -1]
            for part, at in zip(rows.split(batch), where.split(batch), strict=True)
        ]
    return torch.cat(parts).view(places, days, -1)
