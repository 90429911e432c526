"""Ten members of an ensemble trained as one batched model, or one after the other: CPU seconds of a training step.

    python benchmarks/batched_members.py [--members 10] [--kinds mlp ct_gru transformer] [--batches 32 256] [--quick]

Each member has its own weights, windows and dropout. One after the other, a step is a forward pass, a backward pass and
AdamW of every member, with the layers that fluxgrid trains with. Batched, parameters are stacked, products become
batched products (`torch.vmap`; the GRU's steps in plain torch, `baddbmm` for the recurrence, for its compiled kernel
knows one member), and AdamW steps on the stack. On one thread both take the same multiplications, so what batching can
save is the work between them. First both are run without dropout and must say the same.

Prints, for each architecture and batch, milliseconds of a step of all members (least CPU time of several, the two in
turn) and their ratio, above 1 where the batched model is faster.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from fluxgrid.models import Sizes, model_config
from fluxgrid.models.network import Network
from fluxgrid.models.recurrent_network import RecurrentNetwork

SIZES = Sizes(dynamic=20, static=51)
"""CarbonBench's minimal inputs."""
WINDOW, HIDDEN = 30, 128
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}
"""Some thousand float32 operations in another order; the compiled gates are good to 4e-7."""

Predict = Callable[[Tensor, Tensor], Tensor]


class Part(nn.Module):
    """A method of a network as a module, so that it can be called with stacked weights."""

    def __init__(self, network: Network, method: Callable[..., Tensor]):
        super().__init__()
        self.network, self.method = network, method

    def forward(self, *given: Tensor) -> Tensor:
        """Return what the method does."""
        return self.method(self.network, *given)


class Stack:
    """Members of one architecture as one model: parameters (M, ...), inputs (M, B, W, F) and (M, B, X)."""

    def __init__(self, members: list[Network]):
        self.first = members[0]
        self.parameters, self.buffers = stack_module_state(list(members))

    def __call__(self, dynamic: Tensor, static: Tensor) -> Tensor:
        """Return the fluxes of all members, (M, B, T, O)."""
        if isinstance(self.first, RecurrentNetwork):
            rows = self._each(lambda network, *given: network.encode_inputs(*given), dynamic, static)
            return self._each(_read, self._gru(rows)[:, :, -self.first.stride :])
        return self._each(_say, dynamic, static)

    def _each(self, method: Callable[..., Tensor], *given: Tensor) -> Tensor:
        """Return what a method of the network does with the weights of each member."""
        part = Part(self.first, method)

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], *given: Tensor) -> Tensor:
            named = {f"network.{name}": value for name, value in (parameters | buffers).items()}
            return functional_call(part, named, given)

        return torch.vmap(one, randomness="different")(self.parameters, self.buffers, *given)

    def _gru(self, x: Tensor) -> Tensor:
        """Return the states (M, B, W, H) of one GRU layer over rows (M, B, W, I)."""
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        w_in, w_re, b_in, b_re = (self.parameters[f"gru.{name}"] for name in names)
        members, batch, steps, width = x.shape
        gates = torch.baddbmm(b_in[:, None], x.reshape(members, batch * steps, width), w_in.mT)
        rows = gates.view(members, batch, steps, -1).unbind(dim=2)  # W of (M, B, 3H)
        state, states = x.new_zeros(members, batch, w_re.shape[-1]), []
        for row in rows:
            again = torch.baddbmm(b_re[:, None], state, w_re.mT)
            (r, z, n), (r2, z2, n2) = row.chunk(3, dim=-1), again.chunk(3, dim=-1)
            new = torch.tanh(n + torch.sigmoid(r + r2) * n2)
            state = torch.lerp(new, state, torch.sigmoid(z + z2))
            states.append(state)
        return torch.stack(states, dim=2)


def _say(network: Network, dynamic: Tensor, static: Tensor) -> Tensor:
    """Return the fluxes (B, T, O) of windows."""
    return network(dynamic, static, dynamic.new_zeros(len(dynamic), network.state_size))[0]


def _read(network: RecurrentNetwork, states: Tensor) -> Tensor:
    """Return the fluxes (B, T, O) of hidden states (B, T, H)."""
    hidden = network.dropout(states)[:, None]
    return network.finish(network.raw({network.tap: hidden}), {})


def build(kind: str, dropout: float, members: int) -> list[Network]:
    """Return members with fresh weights, in training mode."""
    windows = {} if kind == "mlp" else {"window": WINDOW, "window_mode": "exact"}
    config = model_config(kind, {"hidden": HIDDEN, "dropout": dropout, **windows})
    torch.manual_seed(1)
    return [config.build(SIZES).train() for _ in range(members)]


def inputs(members: int, batch: int) -> tuple[Tensor, Tensor]:
    """Return windows (M, B, W, F) and static properties (M, B, X) of each member."""
    random = torch.Generator().manual_seed(2)
    return (
        torch.randn(members, batch, WINDOW, SIZES.dynamic, generator=random),
        torch.randn(members, batch, SIZES.static, generator=random),
    )


def step(predict: Predict, optimiser: torch.optim.Optimizer, dynamic: Tensor, static: Tensor, members: int = 1) -> None:
    """Take one optimiser step on a mean square, summed over members: their gradients do not mix."""
    optimiser.zero_grad()
    (predict(dynamic, static).square().mean() * members).backward()
    optimiser.step()


def check(kind: str) -> None:
    """Stop unless stacked members say, and learn, what they do by themselves."""
    members, (dynamic, static) = build(kind, 0.0, 3), inputs(3, 5)
    stack = Stack(members)
    together = stack(dynamic, static)
    apart = torch.stack([_say(m, d, s) for m, d, s in zip(members, dynamic, static, strict=True)])
    torch.testing.assert_close(together, apart, **TOLERANCE)
    together.square().sum().backward()
    apart.square().sum().backward()
    for name, value in stack.parameters.items():
        own = torch.stack([dict(m.named_parameters())[name].grad for m in members])
        torch.testing.assert_close(value.grad, own, **TOLERANCE)


def measure(kind: str, batch: int, members: int, seconds: float) -> tuple[float, float]:
    """Return the least CPU seconds of a step of all members: one after the other, and batched."""
    networks, (dynamic, static) = build(kind, 0.2, members), inputs(members, batch)
    stack = Stack(networks)
    optimisers = [torch.optim.AdamW(network.parameters(), 1e-4) for network in networks]
    of_stack = torch.optim.AdamW(stack.parameters.values(), 1e-4)

    def apart() -> None:
        for network, optimiser, windows, places in zip(networks, optimisers, dynamic, static, strict=True):
            step(functools.partial(_say, network), optimiser, windows, places)

    def together() -> None:
        step(stack, of_stack, dynamic, static, members)

    ways, least = (apart, together), [float("inf")] * 2
    for way in ways:
        way()  # compiles, and makes the optimiser's state
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        for number, way in enumerate(ways):
            begun = time.thread_time()
            way()
            least[number] = min(least[number], time.thread_time() - begun)
    return least[0], least[1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--kinds", nargs="+", default=["mlp", "ct_gru", "transformer"])
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--quick", action="store_true", help="three members, a second or one step of each")
    options = parser.parse_args()
    unknown = sorted(set(options.kinds) - {"mlp", "ct_gru", "transformer"})
    if unknown:
        sys.exit(f"No stacked form of {', '.join(unknown)} is written here; choose among mlp, ct_gru and transformer.")
    members, seconds = (3, 1.0) if options.quick else (options.members, 8.0)
    torch.set_num_threads(1)
    # attention is looped over members; written out in batched products it takes as long
    warnings.filterwarnings("ignore", "There is a performance drop")
    print(f"{'kind':12} {'batch':>5} {'apart ms':>9} {'batched ms':>10} {'ratio':>6}")
    for kind in options.kinds:
        check(kind)
        for batch in options.batches:
            apart, together = measure(kind, batch, members, seconds)
            print(f"{kind:12} {batch:5} {1e3 * apart:9.1f} {1e3 * together:10.1f} {apart / together:6.2f}", flush=True)


if __name__ == "__main__":
    main()
