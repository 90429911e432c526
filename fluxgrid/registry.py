"""Registries: a name, the thing it stands for, and a helpful answer to a name nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from fluxgrid.errors import UnknownName

T = TypeVar("T")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """Return the error for a name that is not known, with the nearest spelling.

    Parameters
    ----------
    kind : str
        What the name should have named ("model", "region").
    name : str
        The name given.
    known : iterable of str
        All names that would have been right.

    Returns
    -------
    error : UnknownName
        To be raised by the caller.
    """
    names = sorted(known)
    near = get_close_matches(name.lower(), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UnknownName(f"There is no {kind} named {name!r}.{hint} Known: {', '.join(names) or 'none'}.")


class Registry(Generic[T]):
    """Named things of one kind; other packages add theirs by an entry point.

    Parameters
    ----------
    kind : str
        What the registry holds, for messages: "model".
    group : str, optional
        Entry-point group that is looked into when a name is not found in-tree, such as ``fluxgrid.models``.
        Loading the entry point must register the name. Iteration lists its names too, and loads none.
    """

    def __init__(self, kind: str, group: str | None = None):
        self.kind = kind
        self.group = group
        self._things: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers a thing under a name.

        Raises
        ------
        ValueError
            If the name is taken: two things of one name is a defect of the code, not of the user's input.
        """

        def add(thing: T) -> T:
            if name in self._things:
                message = f"The {self.kind} {name!r} is registered twice."
                raise ValueError(message)
            self._things[name] = thing
            return thing

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._things:
            self._load_plugins(name)
        if name not in self._things:
            raise unknown_name(self.kind, name, set(self) - {name})
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._things.keys() | self.plugins.keys()))

    def __len__(self) -> int:
        return len(set(self))

    @property
    def plugins(self) -> dict[str, str]:
        """Entry points of other packages that are not loaded yet: name and ``module:object``."""
        points = entry_points(group=self.group) if self.group else ()
        return {point.name: point.value for point in points if point.name not in self._things}

    def _load_plugins(self, name: str) -> None:
        """Load the entry point of that name, if another package ships one."""
        if self.group:
            for point in entry_points(group=self.group, name=name):
                point.load()
