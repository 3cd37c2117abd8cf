"""Every method by name, and how a recipe's `method:` mapping becomes one.

A file in this folder that defines a `Method` with a `name` is a method: there is nothing else to enter it in. A method
that lives elsewhere is named by its path, `python:package.module.Class`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from superrl.complaint import explain
from superrl.errors import UserError, nearest
from superrl.importing import PREFIX, resolve
from superrl.methods.discover import named_classes
from superrl.methods.hooks import Limits, Method

METHODS: dict[str, type[Method]] = named_classes(__name__, __path__, Method)


def find(name: object, where: str = "method") -> type[Method]:
    """The class of a method by its name, or by its path."""
    if isinstance(name, str) and name.startswith(PREFIX):
        return _outside(name, where)
    if name not in METHODS:
        raise UserError(f"{where}: no method {name!r}; {nearest(str(name), METHODS)}")
    return METHODS[str(name)]


def build(config: Mapping[str, Any], limits: Limits, where: str = "method") -> Method:
    """The method a recipe names, with its options checked."""
    method = find(config.get("name"), where)
    values = {key: value for key, value in config.items() if key != "name"}
    try:
        options = method.Options.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, method.Options, where)) from None
    return method(options, limits)


def _outside(name: str, where: str) -> type[Method]:
    found = resolve(name, "method", "Class")
    if not (inspect.isclass(found) and issubclass(found, Method)):
        raise UserError(f"{where}: {name!r} is no subclass of superrl.methods.hooks.Method")
    return found
