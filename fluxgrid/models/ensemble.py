"""Ensembles: several members of one architecture that speak as one model.

Members were trained with other seeds and without other sites, so their spread says how far the fluxes hang on both
(Krogh & Vedelsby 1995, Advances in Neural Information Processing Systems 7). Members run one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fluxgrid.data.windows import WindowMode
from fluxgrid.models.base import FluxModel
from fluxgrid.models.network import Network
from fluxgrid.models.windowed import WindowNetwork


class Ensemble:
    """M members behind the contract of `FluxModel`; it says the mean of what they say.

    Members that carry a state of their own have them side by side, member by member. Where the state is the last inputs
    (windows), or there is none, all share one.

    Parameters
    ----------
    members : sequence of FluxModel
        Of one architecture and one set of options; two or more.
    """

    def __init__(self, members: Sequence[FluxModel]):
        self.members = tuple(members)
        first = self.members[0]
        self.shares_state = not first.state_size or (isinstance(first, WindowNetwork) and first.keeps_inputs_only)
        self.state_size = first.state_size * (1 if self.shares_state else len(self.members))

    def predict(self, dynamic: Tensor, static: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of the members' fluxes, (B, T, O), and the state (B, K) after the last step."""
        fluxes, after = self.predict_members(dynamic, static, state)
        return mean_of(fluxes), after

    def predict_members(self, dynamic: Tensor, static: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fluxes of each member, (M, B, T, O), g m-2 d-1, and the state (B, K) after the last step."""
        found = [m.predict(dynamic, static, own) for m, own in zip(self.members, self._states(state), strict=True)]
        return torch.stack([fluxes for fluxes, _ in found]), self._joined([after for _, after in found])

    def advance(self, dynamic: Tensor, static: Tensor, state: Tensor) -> Tensor:
        """Return the state that `predict` returns, in less time where it can be had without the fluxes."""
        pairs = list(zip(self.members, self._states(state), strict=True))
        return self._joined([_advance(m, dynamic, static, own) for m, own in pairs[: 1 if self.shares_state else None]])

    def to(self, device: torch.device) -> Ensemble:
        """Move the members that are networks, and return the ensemble."""
        for member in self.members:
            if isinstance(member, nn.Module):
                member.to(device)
        return self

    @property
    def window_mode(self) -> WindowMode | None:
        """How the members cut a record; None where they see no windows."""
        first = self.members[0]
        return first.window_mode if isinstance(first, WindowNetwork) else None

    @property
    def window_modes(self) -> tuple[WindowMode, ...]:
        """Modes that the members know."""
        first = self.members[0]
        return first.window_modes if isinstance(first, WindowNetwork) else ()

    def in_mode(self, mode: WindowMode) -> Ensemble:
        """Return an ensemble of windows that shares these weights and cuts a record in another way."""
        return Ensemble([member.in_mode(mode) for member in self.members if isinstance(member, WindowNetwork)])

    def save_weights(self, folder: Path) -> list[Path]:
        """Write the weights of each member into a folder of its own, ``member-0`` and so on."""
        paths = []
        for number, member in enumerate(self.members):
            own = _folder(folder, number)
            own.mkdir()
            paths += member.save_weights(own)
        return paths

    def load_weights(self, folder: Path) -> None:
        """Read the weights of all members."""
        for number, member in enumerate(self.members):
            member.load_weights(_folder(folder, number))

    def _states(self, state: Tensor) -> Sequence[Tensor]:
        """Return the state of each member."""
        if self.shares_state:
            return [state] * len(self.members)
        return [part.contiguous() for part in state.chunk(len(self.members), dim=1)]

    def _joined(self, states: list[Tensor]) -> Tensor:
        """Return the states of the members as one."""
        return states[0] if self.shares_state else torch.cat(states, dim=1)


def members_of(model: FluxModel) -> tuple[FluxModel, ...]:
    """Return the members of an ensemble; any other model is its own and only one."""
    return model.members if isinstance(model, Ensemble) else (model,)


def mean_of(fluxes: Tensor) -> Tensor:
    """Return the mean over members, (...), of fluxes (M, ...).

    In double precision, one member after another: members that agree give their own bits, and no library chooses an
    order of addition by the shape.
    """
    return (sum(part.double() for part in fluxes) / len(fluxes)).float()


def _advance(member: FluxModel, dynamic: Tensor, static: Tensor, state: Tensor) -> Tensor:
    """Return the state of one member after the last step."""
    if isinstance(member, Network):
        return member.advance(dynamic, static, state)
    return member.predict(dynamic, static, state)[1]


def _folder(folder: Path, number: int) -> Path:
    """Return where the weights of a member stand."""
    return folder / f"member-{number}"
