"""Volatile resources by handle: authorisation sessions, keys, transport and DAA sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from hwtpm.softtpm.engine.call import Refuse
from hwtpm.tpm12.const import ResourceType
from hwtpm.tpm12.rc import Rc

__all__ = ["HandleTable"]


class _Resource(Protocol):
    @property
    def handle(self) -> int: ...


T = TypeVar("T", bound=_Resource)


class HandleTable(Generic[T]):
    """Slots for one type of resource.

    Args:
        random: makes n random bytes; handles are random below the type's upper byte.
        kind: the type (Part 2 section 4.1), upper byte of all handles.
        limit: how many slots there are.
        full: the return code when all are taken.
    """

    def __init__(
        self, random: Callable[[int], bytes], kind: ResourceType, limit: int, full: Rc
    ) -> None:
        self._random = random
        self._kind = kind << 24
        self._full = full
        self._slots: dict[int, T] = {}
        self.limit = limit

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._slots.values()))

    def get(self, handle: int) -> T | None:
        """The resource with that handle."""
        return self._slots.get(handle)

    def new_handle(self) -> int:
        """A handle that nothing has.

        Raises:
            Refuse: all slots are taken.
        """
        if len(self._slots) >= self.limit:
            raise Refuse(self._full)
        handle = 0
        while handle == 0 or handle in self._slots:
            handle = int.from_bytes(self._random(3), "big") | self._kind
        return handle

    def put(self, resource: T) -> None:
        """Fill a slot under the resource's own handle."""
        self._slots[resource.handle] = resource

    def drop(self, handle: int) -> bool:
        """Empty a slot; False if it was empty."""
        return self._slots.pop(handle, None) is not None

    def clear(self) -> None:
        """Empty all slots."""
        self._slots.clear()
