"""What all torch networks share: weights in safetensors, prediction without gradients."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fluxgrid.models.heads import FluxHead

WEIGHTS = "weights.safetensors"


class Network(nn.Module):
    """A differentiable flux model; children define ``forward(dynamic, static, state) -> (fluxes, state)``."""

    head: FluxHead
    state_size: int

    def predict(self, dynamic: Tensor, static: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return fluxes (B, T, O) and state (B, K) in evaluation mode, without gradients."""
        self.eval()
        with torch.inference_mode():
            return self(dynamic, static, state)

    def save_weights(self, folder: Path) -> list[Path]:
        """Write ``weights.safetensors``."""
        path = folder / WEIGHTS
        save_file({name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, path)
        return [path]

    def load_weights(self, folder: Path) -> None:
        """Read ``weights.safetensors``; names and shapes must all fit. The network is left in evaluation mode."""
        try:
            self.load_state_dict(load_file(folder / WEIGHTS))
            self.eval()
        except RuntimeError as error:  # torch's word for names and shapes that do not fit
            raise ValueError(str(error)) from error
