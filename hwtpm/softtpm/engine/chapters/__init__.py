"""The commands' own actions, one file a chapter of Part 3."""

from importlib import import_module
from pkgutil import iter_modules

__all__ = ["load"]


def load() -> None:
    """Import all chapters, which enters their actions."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
