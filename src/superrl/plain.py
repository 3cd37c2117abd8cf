"""Recipes as plain values: YAML read and written, and `path.to.key=value` put in.

YAML 1.2's floats: 1e-6 is a number, not a string. Leaves out what the values mean (`config`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from superrl.errors import UserError


def read(text: str) -> Any:
    """The values in a YAML text; what is none is a YAMLError or, for a date such as 2024-13-01, a ValueError."""
    return yaml.load(text, Loader=_Loader)


def write(values: Mapping[str, Any]) -> str:
    """YAML that `read` gives back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def put(values: dict[str, Any], override: str) -> None:
    """Change `values` in place as an override says, `path.to.key=value` with a value in YAML; a list's item goes by its
    number or its name."""
    path, sep, text = override.partition("=")
    if not sep or not path:
        raise UserError(f"override {override!r} must read path.to.key=value, e.g. stages.0.steps=100")
    try:
        value = read(text)
    except (yaml.YAMLError, ValueError):
        raise UserError(f"override {override!r}: the value is not valid YAML") from None
    *parents, last = path.split(".")
    node: Any = values
    for part in parents:
        node = _child(node, part, override)
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise UserError(f"override {override!r}: {'.'.join(parents)} holds a value, not keys")


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, override)]
    if isinstance(node, dict):
        if node.get(part) is None:
            node[part] = {}
        return node[part]
    raise UserError(f"override {override!r}: {part!r} is not a key of a mapping")


def _index(items: list[Any], part: str, override: str) -> int:
    """A list's item by number, or by its `name`."""
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    names = [item.get("name") for item in items if isinstance(item, dict)]
    if part in names:
        return names.index(part)
    raise UserError(f"override {override!r}: no item {part!r} among {[n for n in names if n]}")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: 1e-6 is a number, not a string."""


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would read as numbers."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d+([eE][-+]?\d+)?)$"),
        list("-+0123456789."),
    )
