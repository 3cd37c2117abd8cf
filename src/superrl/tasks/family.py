"""What a family of procedural problems is: a frozen dataclass of knobs with one method, `make`."""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol

from superrl.errors import UserError


class Item(NamedTuple):
    """One generated problem: its question, the expert's steps (the last one states the answer), the exact answer."""

    question: str
    steps: tuple[str, ...]
    answer: str


class Family(Protocol):
    """Knobs are fields; `make` is a pure function of the knobs and of `rng`."""

    def make(self, rng: random.Random) -> Item: ...


def item(question: str, working: list[str], results: list[str]) -> Item:
    """The answer lists every intermediate result, so that a guess at the last one is worth nothing."""
    answer = " ".join(results)
    return Item(question, (*working, f"#{answer}"), answer)


def check_range(name: str, value: int, low: int, high: int) -> None:
    """Refuse a knob outside [low, high], in the user's words."""
    if not low <= value <= high:
        raise UserError(f"{name}={value} is out of range: give {name} between {low} and {high}")
