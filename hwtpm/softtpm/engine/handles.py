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
        self._slots: dict[int, T | None] = {}  # None: what `_later` is going to make
        self._later: dict[int, Callable[[], T]] = {}
        self._filled: list[int] = []  # since `begin`
        self.limit = limit
        self.changes = 0  # grows whenever a slot is filled or emptied

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[T]:
        return iter([found for handle in self.handles if (found := self.get(handle)) is not None])

    @property
    def handles(self) -> tuple[int, ...]:
        """The taken handles, in the order in which their slots were filled."""
        return tuple(self._slots)

    def get(self, handle: int) -> T | None:
        """The resource with that handle."""
        resource = self._slots.get(handle)
        if resource is None and handle in self._later:
            resource = self._slots[handle] = self._later[handle]()
            del self._later[handle]
        return resource

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

    def handle_for(self, wanted: int, *, keep: bool) -> int:
        """A handle for a resource that had one before: the same if nothing has it now.

        Raises:
            Refuse: all slots are taken; BAD_HANDLE if it has to `keep` a handle that is taken.
        """
        if len(self._slots) >= self.limit:
            raise Refuse(self._full)
        if wanted not in self._slots:
            return wanted
        if keep:
            raise Refuse(Rc.BAD_HANDLE)
        return self.new_handle()

    def begin(self) -> None:
        """What is filled from now on can be taken back."""
        self._filled.clear()

    def take_back(self) -> None:
        """Empty the slots that `put` filled since `begin`: of a command that failed."""
        for handle in self._filled:
            self.drop(handle)

    def put(self, resource: T) -> None:
        """Fill a slot under the resource's own handle."""
        self._slots[resource.handle] = resource
        self._filled.append(resource.handle)
        self.changes += 1

    def put_later(self, handle: int, make: Callable[[], T]) -> None:
        """Fill a slot with what `make` gives when somebody first asks for it."""
        self._slots[handle] = None
        self._later[handle] = make
        self.changes += 1

    def drop(self, handle: int) -> bool:
        """Empty a slot; False if it was empty."""
        if handle not in self._slots:
            return False
        del self._slots[handle]
        self._later.pop(handle, None)
        self.changes += 1
        return True

    def clear(self) -> None:
        """Empty all slots."""
        self._slots.clear()
        self._later.clear()
        self.changes += 1
