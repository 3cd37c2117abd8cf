"""`reasoning_gym/NAME`: any dataset of the reasoning-gym package as a family. Imports it where it is used.

Its parameters are the fields of the dataset's own config. `gsm_symbolic` brings worked solutions; the other datasets
bring a question and an answer only. The reward is an exact match with the recorded answer after `####`: datasets with
several right answers are better judged by the package's own scorer, through a `python:` reward.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from superrl.errors import UserError, nearest
from superrl.tasks.family import Item
from superrl.tasks.spec import typed

PREFIX = "reasoning_gym/"
OURS = {"seed", "size"}
"""Fields of every config over there that `seed` and `n` of the loader stand for."""


@dataclass(frozen=True)
class Gym:
    """One dataset; every problem is drawn from a dataset object of its own seed."""

    cls: Any
    config: Any
    options: Mapping[str, Any]

    def make(self, rng: random.Random) -> Item:
        entry = self.cls(self.config(**self.options, seed=rng.randrange(2**31), size=1))[0]
        answer = str(entry["answer"])
        working = str(entry["metadata"].get("answer_cot", ""))
        stated = working.rpartition("####")[2].strip() if "####" in working else None
        return Item(entry["question"], tuple(working.split("\n")) if stated == answer else (), answer)


def family(name: str, values: Mapping[str, str], spec: str) -> Gym:
    """The dataset `name` with the options the spec gives, checked against its config."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise UserError(f"tasks:{spec} needs the package reasoning-gym: pip install 'superrl[tasks]'") from None
    if name not in DATASETS:
        raise UserError(f"reasoning_gym has no dataset {name!r}: {nearest(name, DATASETS)}")
    cls, config = DATASETS[name]
    if taken := OURS & set(values):
        raise UserError(f"tasks:{spec} gives {min(taken)!r}: the loader's seed and n stand for it")
    options = typed(config, values, spec)
    try:
        config(**options).validate()
    except (AssertionError, ValueError) as error:
        raise UserError(f"tasks:{spec} is refused by reasoning_gym: {error}") from None
    return Gym(cls, config, options)
