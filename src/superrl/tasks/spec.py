"""Reading `NAME?key=value&...`: which task, what the loader itself takes, and the typed knobs of the family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from superrl.errors import UserError, nearest

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Common:
    """What every task takes: how many problems, how many of them (the first ones) demonstrated, which share of the
    demonstrations is wrong, seed and split."""

    n: int = 256
    demos: int | None = None
    wrong: float = 0.0
    seed: int = 0
    split: Split = "train"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"n={self.n} leaves nothing to load: give n at least 1")
        if self.demos is not None and self.demos < 0:
            raise UserError(f"demos={self.demos} is negative: give the number of demonstrated problems, 0 for none")
        if not 0.0 <= self.wrong <= 1.0:
            raise UserError(f"wrong={self.wrong} is no share: give a number from 0 to 1, the share of demonstrations")


def parse(spec: str, split: str) -> tuple[str, Common, dict[str, str]]:
    """The task's name, the loader's own parameters and the rest, still text. `split` counts if the spec names none."""
    name, _, query = spec.partition("?")
    values: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise UserError(f"tasks:{spec} has {pair!r} where a key=value is expected")
        if key in values:
            raise UserError(f"tasks:{spec} gives {key!r} twice")
        values[key] = value
    known = {field.name for field in fields(Common)}
    own = {key: values.pop(key) for key in sorted(known & set(values))}
    return name, Common(**typed(Common, {"split": split} | own, spec)), values


def typed(cls: type, values: Mapping[str, str], spec: str) -> dict[str, Any]:
    """`values` as the types of the fields of dataclass `cls`; a key it does not have is refused."""
    kinds = get_type_hints(cls)
    known = {field.name for field in fields(cls)}
    for key in values:
        if key not in known:
            own = () if cls is Common else (field.name for field in fields(Common))
            raise UserError(f"tasks:{spec} has the unknown parameter {key!r}: {nearest(key, {*known, *own})}")
    return {key: convert(key, value, kinds[key], spec) for key, value in values.items()}


def convert(key: str, value: str, kind: Any, spec: str) -> Any:
    """One parameter's text as its type: a choice, a number, a truth value or text."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UserError(f"tasks:{spec} has {key}={value}: {nearest(value, get_args(kind))}")
        return value
    scalars = [option for option in (get_args(kind) or (kind,)) if option in (bool, int, float, str)]
    for scalar in scalars:
        try:
            return {"true": True, "false": False}[value] if scalar is bool else cast(type, scalar)(value)
        except (ValueError, KeyError):
            continue
    wanted = " or ".join(scalar.__name__ for scalar in scalars) or "something a query cannot say"
    raise UserError(f"tasks:{spec} has {key}={value}: {key} takes {wanted}")
