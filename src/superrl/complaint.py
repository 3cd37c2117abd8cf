"""What pydantic says of wrong settings, as one sentence in the words of whoever wrote them. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from superrl.errors import nearest


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """The first error of a pydantic validation as one sentence with the path of the key and, for a typo, its
    neighbour.
    """
    first = error.errors()[0]
    if any(map(_is_branch, first["loc"])):  # where text or a list may stand: the branch that got furthest
        first = max(error.errors(), key=lambda one: len(one["loc"]))
    loc = [part for part in first["loc"] if not _is_branch(part)]
    path = ".".join(map(str, loc))
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key {path!r}; {nearest(str(loc[-1]), _known_keys(model, loc[:-1]))}"
    if first["type"] == "missing":
        return f"{where}: {path!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{where}: {path}: {message}" if path else f"{where}: {message}"
    for technical, plain in PLAIN_WORDS.items():
        message = re.sub(technical, plain, message)
    return f"{where}: {path or 'the recipe'}: {message[0].lower()}{message[1:]}, got {first['input']!r}"


PLAIN_WORDS = {
    r"a valid dictionary( or instance of \w+)?": "a mapping {key: value}",
    "a valid (tuple|list)": "a list",
    "a valid string": "text",
    "a valid (number|integer|boolean)": r"a \1",
    "a integer": "an integer",
}
"""How pydantic calls a type, and how a recipe's author does."""


def _is_branch(part: str | int) -> bool:
    """Whether part of an error's path names a type that was tried (`list[str]`), and no key."""
    return isinstance(part, str) and (part == "str" or "[" in part)


def _known_keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys allowed at a path inside a model, following nested models through lists and optionals."""
    current: type[BaseModel] | None = model
    for part in path:
        if current is None or isinstance(part, int):
            continue
        info = next((f for n, f in current.model_fields.items() if part in (n, f.alias)), None)
        current = None if info is None else _nested(info.annotation)
    return [] if current is None else [field.alias or name for name, field in current.model_fields.items()]


def _nested(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_nested(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in found if model is not None), None)
