"""Structures: a class with annotated fields in wire order is the codec, the limits and the docs.

@structure("TPM_PCR_INFO_SHORT", ref="Part 2, 8.5")
class PcrInfoShort(Struct):
    pcr_selection: Annotated[PcrSelection, Nested(PcrSelection)]
    locality_at_release: U8
    digest_at_release: Digest
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any, ClassVar, Self, TypeVar, cast, dataclass_transform, get_type_hints

from hwtpm.wire.codec import Codec, Fault, Handle, Nested, WireError

__all__ = ["Layout", "Struct", "structure"]


class Layout:
    """How one structure lies on the wire; made once, when it is first asked for.

    Raises:
        TypeError: the class declares what cannot be laid out.
    """

    __slots__ = ("_codecs", "_make", "_reads", "codecs", "handles", "head", "ref", "spec_name")

    def __init__(self, make: type[Struct], spec_name: str, ref: str, head: bytes) -> None:
        self.spec_name = spec_name
        self.ref = ref
        self.head = head
        self.codecs: dict[str, Codec] = {
            name: self._codec_of(make, name, hint) for name, hint in self._hints(make).items()
        }
        handle_flags = [isinstance(codec, Handle) for codec in self.codecs.values()]
        self.handles = sum(handle_flags)
        if not all(handle_flags[: self.handles]):
            raise TypeError(f"{spec_name}: handles must lead")
        self._make = make
        self._codecs = tuple(self.codecs.items())
        self._reads = tuple(codec.read for codec in self.codecs.values())

    @staticmethod
    def _hints(make: type[Struct]) -> dict[str, Any]:
        hints = get_type_hints(make, include_extras=True)
        # slots=True and ClassVar members also appear among the hints.
        return {field.name: hints[field.name] for field in fields(make)}  # type: ignore[arg-type]

    @staticmethod
    def _codec_of(make: type[Struct], name: str, hint: Any) -> Codec:
        for extra in getattr(hint, "__metadata__", ()):
            if hasattr(extra, "read") and hasattr(extra, "write"):
                return cast("Codec", extra)
        if isinstance(hint, type) and issubclass(hint, Struct):
            return Nested(hint)
        raise TypeError(f"{make.__name__}.{name} has no codec in its annotation")

    def read(self, data: bytes, at: int, end: int) -> tuple[Any, int]:
        """The structure at `at` and the offset behind it."""
        head = self.head
        if head:
            behind = at + len(head)
            if data[at : min(behind, end)] != head:
                fault = Fault.SHORT if behind > end else Fault.HEAD
                raise WireError(self.spec_name, at, fault)
            at = behind
        values = []
        try:
            for read in self._reads:
                value, at = read(data, at, end)
                values.append(value)
        except WireError as error:
            raise error.within(f"{self.spec_name}.{self._codecs[len(values)][0]}") from None
        return self._make(*values), at

    def write(self, value: Struct, out: bytearray) -> None:
        """Append the structure's bytes."""
        out += self.head
        for name, codec in self._codecs:
            try:
                codec.write(getattr(value, name), out)
            except WireError as error:
                raise error.within(f"{self.spec_name}.{name}") from None

    def make_initialiser(self, cls: type[Struct]) -> Callable[..., None]:
        """An `__init__` for the class whose layout this is; sets slots past `__setattr__`."""
        names = list(self.codecs)
        body = [f"    _set_{name}(self, {name})" for name in names] or ["    pass"]
        scope: dict[str, Any] = {f"_set_{name}": cls.__dict__[name].__set__ for name in names}
        source = "\n".join([f"def __init__({', '.join(['self', *names])}):", *body])
        exec(source, scope)  # noqa: S102 - the names are those of declared fields
        return cast("Callable[..., None]", scope["__init__"])

    @property
    def head_size(self) -> int:
        """Bytes that the leading handles take."""
        return 4 * self.handles


class _LaterLayout:
    """Stands in for a class's layout until it is asked for. A program uses few of the structures
    that it imports, and to resolve the annotations of all takes longer than the rest of a start."""

    def __init__(self, of: type[Struct], spec_name: str, ref: str, head: bytes) -> None:
        self._of = of
        self._declared = spec_name, ref, head

    def __get__(self, instance: object, owner: type) -> Layout:
        layout = self._of.layout = Layout(self._of, *self._declared)
        return layout


class _LaterFields:
    """The same for what makes a class a dataclass, on the base of all structures."""

    def __get__(self, instance: object, owner: type[Struct]) -> dict[str, Any]:
        if "layout" not in vars(owner):  # the base, or a class between it and the structures
            raise AttributeError("__dataclass_fields__")
        dataclass(init=False, repr=False, eq=False)(owner)
        return cast("dict[str, Any]", vars(owner)["__dataclass_fields__"])


class Struct:
    """Base of all structures: immutable, compared by value, encodes and decodes itself.

    Structures are dataclasses with slots (`dataclasses.replace` and `fields` work), but what the
    decorator would make for each of the hundreds of classes at import is here once, or is made when
    it is first asked for: fields, layout, initialiser.
    """

    __slots__ = ()
    __dataclass_fields__ = _LaterFields()
    layout: ClassVar[Layout]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        cls = type(self)
        cls.__init__ = cls.layout.make_initialiser(cls)  # type: ignore[method-assign]
        cls.__init__(self, *args, **kwargs)

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.layout.codecs)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in self.layout.codecs)))

    def __repr__(self) -> str:
        shown = (
            f"{name}=<{len(getattr(self, name))} bytes>"
            if getattr(codec, "secret", False)
            else f"{name}={getattr(self, name)!r}"
            for name, codec in self.layout.codecs.items()
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    def encode(self) -> bytes:
        """The structure's bytes; WireError if a value does not fit its declaration."""
        out = bytearray()
        self.layout.write(self, out)
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The structure that `data` is, whole; WireError if it is not exactly one."""
        value, at = cls.layout.read(data, 0, len(data))
        if at != len(data):
            raise WireError(cls.layout.spec_name, at, Fault.TRAILING)
        return cast("Self", value)


S = TypeVar("S", bound=Struct)


@dataclass_transform(frozen_default=True)
def structure(spec_name: str, *, ref: str, head: bytes = b"") -> Callable[[type[S]], type[S]]:
    """Declare a structure.

    Args:
        spec_name: its name in the specification.
        ref: where the specification declares it.
        head: constant bytes that it starts with (a structure tag or version).
    """

    def declare(cls: type[S]) -> type[S]:
        namespace = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
        namespace["__slots__"] = tuple(vars(cls).get("__annotations__", ()))
        made = cast("type[S]", type(cls.__name__, cls.__bases__, namespace))
        made.__qualname__ = cls.__qualname__
        made.layout = cast("Layout", _LaterLayout(made, spec_name, ref, head))
        return made

    return declare
