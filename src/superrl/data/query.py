"""The query of a source's name: `place?key=value&...` taken apart, and the keys that every file takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from superrl.errors import UserError, nearest

T = TypeVar("T")


def parse_query(name: str) -> tuple[str, dict[str, str]]:
    """`place?key=value&...` taken apart."""
    place, _, query = name.partition("?")
    options: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if not equals or not value or key in options:
            raise UserError(f"{name} has {pair!r} where one key=value is expected")
        options[key] = value
    return place, options


def chosen_rows(rows: Sequence[T], name: str, options: dict[str, str]) -> Sequence[T]:
    """`rows=START:STOP`, counted from 0, as in Python; it is taken out of `options`."""
    if "rows" not in options:
        return rows
    start, colon, stop = options.pop("rows").partition(":")
    if not colon or not all(part.removeprefix("-").isdecimal() or not part for part in (start, stop)):
        raise UserError(f"{name}: rows must read START:STOP, e.g. rows=0:500 or rows=-500:")
    chosen = rows[int(start) if start else None : int(stop) if stop else None]
    if not chosen:
        raise UserError(f"{name} chooses none of its {len(rows)} rows: change `rows`")
    return chosen


def refuse_unknown(name: str, options: Mapping[str, str], own: Sequence[str]) -> None:
    """A parameter that nobody reads, other than `own` ones, is the user's error."""
    for key in options:
        if key not in own:
            raise UserError(f"{name} has the unknown parameter {key!r}: {nearest(key, ('rows', *own))}")
