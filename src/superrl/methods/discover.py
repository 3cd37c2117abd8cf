"""Finding the classes of a package by the `name` they give themselves: no list to keep beside the files."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def named_classes(package: str, path: Sequence[str], base: type[T]) -> dict[str, type[T]]:
    """Name -> class, of the subclasses of `base` that a module of the package defines with a `name` of their own."""
    modules = [importlib.import_module(f"{package}.{entry.name}") for entry in pkgutil.iter_modules(path)]
    found = {
        vars(one)["name"]: one
        for module in modules
        for _, one in inspect.getmembers(module, inspect.isclass)
        if issubclass(one, base) and one.__module__ == module.__name__ and "name" in vars(one)
    }
    return dict(sorted(found.items()))
