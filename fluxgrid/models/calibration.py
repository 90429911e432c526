"""Calibration parameters phi_s: how the head of a place differs from the global model.

``affine``, ``linear`` and ``adapter`` change what is read out of the last hidden states h of each tap, whose global
readout is W h + b, and are exactly the global model at zero:

- affine: (1 + a) (W h + b) + c, two numbers for each output;
- linear: W h + b + A h + c;
- adapter: W (h + U relu(V h + v)) + b, a bottleneck of width r (Houlsby et al. 2019, arXiv:1902.00751).

All places share one pass of the backbone. ``lora`` adds a product of low rank to the weights by which steps act on each
other (recurrence, attention) and to the readouts (Hu et al. 2022, arXiv:2106.09685) and ``full`` is a whole theta_s;
both need a pass for each place.
FTBSC-KGML (Zeng et al. 2025, arXiv:2512.16013, Eq. 2 and 3) leaves the form of phi_s open: these are ours.
"""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

from fluxgrid.errors import ConfigError
from fluxgrid.models.network import Beside, Network, Read, read_nothing

Kind = Literal["affine", "linear", "adapter", "lora", "full"]
_CARRIES = re.compile(r"\.weight_hh|\.in_proj_weight$")
"""Names of weights by which steps act on each other: recurrence, and the projections of attention."""
KINDS: tuple[Kind, ...] = get_args(Kind)
ONE_PASS: tuple[Kind, ...] = ("affine", "linear", "adapter")
"""Kinds whose places share a pass of the backbone."""
MOST_COLUMNS = 96
"""Of a linear map that reads states for all places: wider ones take longer than the places of each row alone."""


class Heads(nn.Module):
    """Calibration parameters of P places for one network.

    Parameters
    ----------
    network : Network
        The shared backbone; not changed and not saved.
    kind : Kind
    places : int
        Number P.
    rank : int
        Width of the bottleneck, rank of the products.

    Raises
    ------
    ConfigError
        If the model is no `Network`: one that learnt from rows has no hidden states to read out.
    """

    def __init__(self, network: Network, kind: Kind, places: int, rank: int = 4):
        super().__init__()
        if not isinstance(network, Network):
            message = (
                f"A {type(network).__name__} has no hidden states for heads of places to read. Calibrate a network."
            )
            raise ConfigError(message)
        self.kind, self.places, self.rank = kind, places, rank
        self._network = (network,)  # in a tuple, so that its weights are not ours
        make = self._tap_parameters if kind in ONE_PASS else self._weight_parameters
        self.phi = nn.ParameterDict({name: nn.Parameter(value) for name, value in make(network).items()})

    @property
    def network(self) -> Network:
        """The shared backbone."""
        return self._network[0]

    @property
    def per_place(self) -> int:
        """Parameters of one place."""
        return sum(value[0].numel() for value in self.phi.values())

    def _tap_parameters(self, network: Network) -> dict[str, Tensor]:
        """Return fresh parameters of the taps: no change at all."""
        values = {}
        for tap, readout in network.readouts.items():
            outputs, width = readout.weight.shape
            if self.kind == "affine":
                values[f"{tap}_a"] = torch.zeros(self.places, outputs)
                values[f"{tap}_c"] = torch.zeros(self.places, outputs)
            elif self.kind == "linear":
                values[f"{tap}_A"] = torch.zeros(self.places, width, outputs)
                values[f"{tap}_c"] = torch.zeros(self.places, outputs)
            else:
                down = torch.randn(1, width, self.rank) / math.sqrt(width)
                values[f"{tap}_V"] = down.repeat(self.places, 1, 1)
                values[f"{tap}_v"] = torch.zeros(self.places, self.rank)
                values[f"{tap}_U"] = torch.zeros(self.places, self.rank, width)
        return values

    def _weight_parameters(self, network: Network) -> dict[str, Tensor]:
        """Return fresh changes of weights: zero in effect."""
        values, tuned = {}, network.tuned_names
        for name, weight in network.named_parameters():
            if name not in tuned:
                continue
            key = name.replace(".", "/")  # a parameter's name may hold no dot
            if self.kind == "full":
                values[key] = torch.zeros(self.places, *weight.shape)
            elif weight.dim() == 2 and (_CARRIES.search(name) or _is_readout(name, network)):
                rank = min(self.rank, *weight.shape)
                down = torch.randn(1, rank, weight.shape[1]) / math.sqrt(weight.shape[1])
                values[f"{key}|down"] = down.repeat(self.places, 1, 1)
                values[f"{key}|up"] = torch.zeros(self.places, weight.shape[0], rank)
        return values

    def raw(self, hidden: dict[str, Tensor], raw: dict[str, Tensor], place: Tensor) -> dict[str, Tensor]:
        """Return the readouts of calibrated heads.

        Parameters
        ----------
        hidden : dict of Tensor, (B, R, T, H)
            Last hidden states by tap.
        raw : dict of Tensor, (B, R, T, outputs)
            Readouts of the global model.
        place : Tensor of int, (B,)
            Whose head reads each row.

        Returns
        -------
        raw : dict of Tensor, (B, R, T, outputs)
        """
        return {tap: self._tap(tap, hidden[tap], raw[tap], place) for tap in raw}

    def _tap(self, tap: str, hidden: Tensor, raw: Tensor, place: Tensor) -> Tensor:
        """Return the readout of one tap."""
        if self.kind == "affine":
            a, c = (self.phi[f"{tap}_{part}"][place][:, None, None] for part in "ac")
            return (1.0 + a) * raw + c
        batch, runs, steps, width = hidden.shape
        rows = hidden.reshape(batch, runs * steps, width)
        if self.kind == "linear":
            c = self.phi[f"{tap}_c"][place][:, None]
            change = torch.baddbmm(c, rows, self.phi[f"{tap}_A"][place])
        else:
            down = torch.baddbmm(self.phi[f"{tap}_v"][place][:, None], rows, self.phi[f"{tap}_V"][place])
            up = self.phi[f"{tap}_U"][place] @ self.network.readouts[tap].weight.t()  # (B, rank, outputs)
            change = torch.relu(down) @ up
        return raw + change.view(batch, runs, steps, -1)

    def weights_of(self, place: int) -> dict[str, Tensor]:
        """Return all weights of the network with the changes of one place (kinds ``lora`` and ``full``)."""
        weights: dict[str, Tensor] = dict(self.network.named_parameters())
        for name, value in self.phi.items():
            key, _, part = name.partition("|")
            target = key.replace("/", ".")
            if self.kind == "full":
                weights[target] = weights[target] + value[place]
            elif part == "up":
                weights[target] = weights[target] + value[place] @ self.phi[f"{key}|down"][place]
        return weights

    def run_place(self, place: int, dynamic: Tensor, static: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return fluxes and state of a pass with the weights of one place."""
        return functional_call(self.network, self.weights_of(place), (dynamic, static, state))

    def penalty(self) -> Tensor:
        """Return the squared norm of each place's parameters, (P,): rho's term of Eq. 3, mu's of Eq. 2 for ``full``.

        Of a product of two factors only the one that is zero at the start counts.
        """
        counted = [v for k, v in self.phi.items() if not k.endswith(("_V", "|down"))]
        return torch.stack([v.square().flatten(1).sum(dim=1) for v in counted]).sum(dim=0)

    def state_size(self, slots: int) -> int:
        """Return the columns of the state for so many places per row: a state each where each has a pass."""
        return self.network.state_size * (1 if self.kind in ONE_PASS else 1 + slots)

    def blend(
        self, dynamic: Tensor, static: Tensor, state: Tensor, slots: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the blend of heads and global model, in evaluation mode and without gradients.

        Parameters
        ----------
        dynamic, static, state : Tensor
            (B, T, F), (B, S) and (B, `state_size`).
        slots : Tensor of int, (B, k)
            Places of each row, -1 for none.
        weights : Tensor, (B, k)
            Their weights; the rest is the global model's.

        Returns
        -------
        fluxes : Tensor, (B, T, O)
        state : Tensor, (B, `state_size`)
        """
        self.network.eval()
        with torch.inference_mode():
            blended = self._one_pass if self.kind in ONE_PASS else self._pass_each
            return blended(dynamic, static, state, slots, weights)

    def _one_pass(
        self, dynamic: Tensor, static: Tensor, state: Tensor, slots: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Blend heads over one pass of the backbone."""
        places, readouts = slots.clamp_min(0), self.network.readouts
        more = {tap: self._more_of(tap, places) for tap in readouts}
        reads = {tap: Beside(readout, more[tap]) for tap, readout in readouts.items()}
        taps = self.network.run_read(dynamic, static, state, reads)
        raws = {tap: self._raw_of_slots(tap, places, more[tap], found) for tap, found in taps.hidden.items()}
        rest = (1.0 - weights.sum(dim=1)).clamp_min(0.0)
        fluxes = torch.zeros((), device=weights.device)
        for k, weight in enumerate((rest, *weights.unbind(dim=1))):
            if k == 0 or bool((weight > 0).any()):
                raw = {tap: values[k] for tap, values in raws.items()}
                fluxes = fluxes + weight[:, None, None] * self.network.finish(raw, taps.context)
        return fluxes, taps.state

    def _more_of(self, tap: str, slots: Tensor) -> Read:
        """Return what is read beside the global model for k places of every row, slots (B, k).

        Nothing for ``affine``. Where places are few, the changes or bottlenecks of all of them: columns more in the
        products of the backbone take less time than states that are kept and fetched again.
        """
        if self.kind == "affine":
            return read_nothing
        change, offset = (self.phi[f"{tap}_{part}"] for part in ("Ac" if self.kind == "linear" else "Vv"))
        if offset.numel() > MOST_COLUMNS:
            return partial(self._read_slots, change[slots], offset[slots])
        every = nn.utils.skip_init(nn.Linear, change.shape[1], offset.numel(), device=offset.device)
        weight = change.transpose(1, 2).flatten(0, 1)
        every.weight, every.bias = (nn.Parameter(each, requires_grad=False) for each in (weight, offset.flatten()))
        return every

    @staticmethod
    def _read_slots(change: Tensor, offset: Tensor, hidden: Tensor) -> Tensor:
        """Return what places (B, k, H, m) and (B, k, m) of every row read of states (N, B, H): (N, B, k * m)."""
        columns = change.transpose(1, 2).flatten(2)
        return torch.baddbmm(offset.flatten(1)[:, None], hidden.transpose(0, 1), columns).transpose(0, 1)

    def _raw_of_slots(self, tap: str, slots: Tensor, more: Read, found: Tensor) -> list[Tensor]:
        """Return the readouts of the global model and of each of k places of every row, (B, R, T, outputs).

        Of slots (B, k), and of what was read, (B, R, T, outputs + m), with `more` beside the global model. They are
        laid out as those of the global model alone: else functions may round otherwise.
        """
        readout, count = self.network.readouts[tap], slots.shape[1]
        rows = found.permute(2, 1, 0, 3)  # (T, R, B, .), as they lie in memory
        raw, beside = rows[..., : readout.out_features].contiguous(), rows[..., readout.out_features :]
        if self.kind == "affine":
            a, c = (self.phi[f"{tap}_{part}"][slots] for part in "ac")  # (B, k, outputs)
            own = [(1.0 + a[:, k]) * raw + c[:, k] for k in range(count)]
        else:
            wide = readout.out_features if self.kind == "linear" else self.rank
            if isinstance(more, nn.Linear):  # of all places
                columns = slots[..., None] * wide + torch.arange(wide, device=slots.device)
                beside = beside.gather(-1, columns.flatten(1).expand(*rows.shape[:2], -1, -1))
            change = beside.unflatten(-1, (count, wide))  # (T, R, B, k, .)
            if self.kind == "adapter":
                up = self.phi[f"{tap}_U"][slots] @ readout.weight.t()  # (B, k, rank, outputs)
                change = torch.einsum("trbks,bkso->trbko", change.relu(), up)
            own = [raw + each for each in change.unbind(dim=-2)]
        return [each.permute(2, 1, 0, 3) for each in (raw, *own)]

    def _pass_each(
        self, dynamic: Tensor, static: Tensor, state: Tensor, slots: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Blend passes of the network with the weights of each place that a row wants."""
        size = self.network.state_size
        columns = list(state.split(size, dim=1)) if size else [state] * (1 + slots.shape[1])
        rest = (1.0 - weights.sum(dim=1)).clamp_min(0.0)[:, None, None]
        fluxes, columns[0] = self.network(dynamic, static, columns[0])
        fluxes = rest * fluxes
        for k in range(slots.shape[1]):
            after = columns[k + 1].clone()
            for place in slots[:, k].unique().tolist():
                if place >= 0:
                    # the whole block runs, for a product of fewer rows may round otherwise
                    own, last = self.run_place(place, dynamic, static, columns[k + 1])
                    mine = slots[:, k] == place
                    fluxes = fluxes + torch.where(mine, weights[:, k], 0.0)[:, None, None] * own
                    after[mine] = last[mine]
            columns[k + 1] = after
        return fluxes, torch.cat(columns, dim=1)

    def save(self, path: Path) -> None:
        """Write the parameters, safetensors."""
        save_file({name: value.detach().cpu().contiguous() for name, value in self.phi.items()}, path)

    def load(self, path: Path) -> None:
        """Read them; ValueError where names or shapes do not fit."""
        stored = load_file(path)
        wanted = {name: tuple(value.shape) for name, value in self.phi.items()}
        found = {name: tuple(value.shape) for name, value in stored.items()}
        if wanted != found:
            message = f"{path.name} holds {found}, these heads are {wanted}."
            raise ValueError(message)
        with torch.no_grad():
            for name, value in stored.items():
                self.phi[name].copy_(value)


def _is_readout(name: str, network: Network) -> bool:
    """Return whether a parameter is the weight of a readout."""
    weights = {id(readout.weight) for readout in network.readouts.values()}
    return any(key == name and id(value) in weights for key, value in network.named_parameters())
