"""Peers in processes of their own: what one leaves behind - threads, memory, settings - slows no other, nor ours."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.context import BaseContext

from fluxgrid.bench.child import end_with_parent
from fluxgrid.bench.peers import Peer, PeerData, Tuned, tune
from fluxgrid.bench.timing import Run

More = Callable[[PeerData, Tuned], Run]
"""Makes another run of a tuned peer; a function of a module, for it travels to the process."""


class Apart:
    """A process for each peer that is installed, kept from its preparation to its last run.

    Parameters
    ----------
    peers : sequence of Peer
    data : PeerData
        What all are given.
    """

    def __init__(self, peers: Sequence[Peer], data: PeerData):
        context = _context()
        self.data = data
        self._pools = {
            peer.name: ProcessPoolExecutor(1, context, initializer=_begin, initargs=(peer, data))
            for peer in peers
            if not peer.lacking()
        }

    def prepare(self) -> None:
        """Start the processes, two at a time, which import and train what serves all forms, each booster on a thread.

        Nothing else should run: threads of a product that wait for each other take a multiple of the time.
        """
        longest_first = [self._pools[name] for name in reversed(self._pools)]  # trees stand last, and are trained
        with ThreadPoolExecutor(2) as two:
            list(two.map(lambda pool: pool.submit(_prepare).result(), longest_first))

    def tune(self, peer: Peer) -> Tuned:
        """Return a peer in the best of its forms, as `fluxgrid.bench.peers.tune` does, with what runs it over there."""
        if peer.name not in self._pools:
            return tune(peer, self.data)
        tuned = self._pools[peer.name].submit(_tune).result()
        return replace(tuned, run=self._told(peer, peer.name))

    def add(self, peer: Peer, name: str, more: More) -> Run:
        """Return another run of a peer that was tuned, under a name."""
        self._pools[peer.name].submit(_add, name, more).result()
        return self._told(peer, name)

    def close(self) -> None:
        """End the processes."""
        with ThreadPoolExecutor(len(self._pools) or 1) as ending:  # side by side, and none is left when the next begins
            list(ending.map(lambda pool: pool.shutdown(cancel_futures=True), self._pools.values()))

    def _told(self, peer: Peer, name: str) -> Run:
        """Return what has a peer run once; the time is taken over there."""
        pool = self._pools[peer.name]
        return lambda: pool.submit(_once, name).result()


def _context() -> BaseContext:
    """Return what starts processes: copies of one that has imported what all need, or new ones where none is copied.

    A fork of this process, full of threads, could hang; the one that is copied has only those that libraries start
    when they are imported, which survive a fork on Linux. If this process has such a one already, it is copied.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [__name__, "dask.array", "fluxgrid.bench.peers_xarray", "fluxgrid.bench.peers_trees"]
    )
    return context


@dataclass(eq=False)
class _Held:
    """What the process of a peer holds."""

    peer: Peer
    data: PeerData
    tuned: Tuned | None = None
    runs: dict[str, Run] = field(default_factory=dict)


_HELD: list[_Held] = []
"""Of this process, if it is one of a peer."""


def _begin(peer: Peer, data: PeerData) -> None:
    """Take the peer."""
    end_with_parent()
    _HELD.append(_Held(peer, data))


def _prepare() -> None:
    """Prepare the peer."""
    (held,) = _HELD
    held.peer.prepare(held.data)


def _tune() -> Tuned:
    """Tune the peer; what runs it stays here."""
    (held,) = _HELD
    held.tuned = tune(held.peer, held.data)
    assert held.tuned.run is not None  # what is not installed has no process
    held.runs[held.peer.name] = held.tuned.run
    return replace(held.tuned, run=None)


def _add(name: str, more: More) -> None:
    """Make another run and warm it up."""
    (held,) = _HELD
    assert held.tuned is not None  # it was tuned first
    held.runs[name] = more(held.data, held.tuned)
    held.runs[name]()


def _once(name: str) -> float:
    """Run once and return the seconds."""
    return _HELD[0].runs[name]()
