"""Procedural reasoning tasks: `load("chain?order=right&ops=3&n=256&demos=48")` gives problems with expert solutions.

A family is one short file: a frozen dataclass of knobs whose `make(rng)` returns question, steps and answer. Which
split a question belongs to is a function of its text alone, so the splits are disjoint for all seeds and knobs.
Everything is a pure function of the spec, on every machine.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from superrl.errors import UserError, nearest
from superrl.records import Demonstration, Problem, Step
from superrl.tasks import gym
from superrl.tasks.chain import Chain
from superrl.tasks.family import Family, Item
from superrl.tasks.logic import Logic
from superrl.tasks.route import Route
from superrl.tasks.spec import SPLITS, Common, Split, parse, typed

FAMILIES: dict[str, type[Family]] = {"chain": Chain, "logic": Logic, "route": Route}
ANSWER_MARK = "#"
SHARES: dict[Split, int] = {"train": 8, "validation": 1, "test": 1}
PATIENCE = 5_000
"""How many draws in a row may bring nothing new before a family counts as exhausted."""


@dataclass(frozen=True)
class Loaded:
    """The problems of one spec, and what the task brings for the stage: `prompt`, `reward`, `max_new_tokens`."""

    problems: tuple[Problem, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)


def load(spec: str, split: str = "train") -> Loaded:
    """The problems of `spec`, the text after `tasks:`. A `split=` in the spec outranks the argument."""
    name, common, values = parse(spec, split)
    if name.startswith(gym.PREFIX):
        family: Family = gym.family(name.removeprefix(gym.PREFIX), values, spec)
        mark, prompt = "####", {"template": "{prompt}\n\nThink step by step. End with a line: #### and the answer."}
    elif name in FAMILIES:
        family = FAMILIES[name](**typed(FAMILIES[name], values, spec))
        mark, prompt = ANSWER_MARK, {"template": "{prompt}"}
    else:
        raise UserError(f"there is no task {name!r}: {nearest(name, [*FAMILIES, gym.PREFIX + 'NAME'])}")
    items = take(distinct(family, common, spec), common, spec)
    demonstrated = common.n if common.demos is None else common.demos
    solutions = spoil([item.steps if i < demonstrated else () for i, item in enumerate(items)], items, common, spec)
    problems = tuple(problem(name, item, steps) for item, steps in zip(items, solutions, strict=True))
    longest = max(len("\n".join(item.steps)) for item in items)
    tokens = 512 if name.startswith(gym.PREFIX) else 8 * (longest // 8 + 1)
    return Loaded(problems, {"prompt": prompt, "reward": {"name": "exact", "after": mark}, "max_new_tokens": tokens})


def take(candidates: Iterator[Item], common: Common, spec: str) -> list[Item]:
    """The first `n` candidates; fewer is the user's error, since an epoch would silently be shorter."""
    items = [item for _, item in zip(range(common.n), candidates, strict=False)]
    if len(items) < common.n:
        raise UserError(f"tasks:{spec} has only {len(items)} distinct problems in its {common.split} split: lower n")
    return items


def distinct(family: Family, common: Common, spec: str) -> Iterator[Item]:
    """Distinct items of the split, until `PATIENCE` draws in a row bring nothing new. A larger n only adds problems."""
    rng = random.Random(f"{spec.partition('?')[0]}/{common.split}/{common.seed}")
    seen: set[str] = set()
    idle = 0
    while idle < PATIENCE:
        item = family.make(rng)
        if item.question in seen or split_of(item.question) != common.split:
            idle += 1
            continue
        seen.add(item.question)
        idle = 0
        yield item


def spoil(
    solutions: Sequence[tuple[str, ...]], items: Sequence[Item], common: Common, spec: str
) -> list[tuple[str, ...]]:
    """The solutions with the share `wrong` of them replaced by that of the next problem with another answer.

    Which ones, is read from the questions' fingerprints, so that a larger share only adds to a smaller one.
    """
    places = [i for i, steps in enumerate(solutions) if steps]
    places.sort(key=lambda i: digest(f"wrong/{items[i].question}"))
    spoilt = list(solutions)
    for i in places[: round(common.wrong * len(places))]:
        others = (item.steps for item in (*items[i + 1 :], *items[:i]) if item.steps and item.answer != items[i].answer)
        borrowed = next(others, None)
        if borrowed is None:
            raise UserError(f"tasks:{spec} has no problem with another answer to take a wrong solution from: raise n")
        spoilt[i] = borrowed
    return spoilt


def digest(question: str) -> str:
    """A fingerprint of the question that does not change between processes, as the built-in hash does."""
    return hashlib.sha256(question.encode()).hexdigest()


def split_of(question: str) -> Split:
    """The split a question belongs to, whatever the seed and the knobs that led to it."""
    bucket = int(digest(question), 16) % sum(SHARES.values())
    for split in SPLITS:
        bucket -= SHARES[split]
        if bucket < 0:
            return split
    raise AssertionError("shares cover every bucket")


def problem(name: str, item: Item, steps: tuple[str, ...]) -> Problem:
    """An item as the record every other layer speaks, with these steps for a demonstration (none: without one)."""
    source = "expert" if steps == item.steps else "wrong"
    demonstration = Demonstration("\n".join(steps), steps=tuple(map(Step, steps)), source=source)
    return Problem(
        id=f"{name}-{digest(item.question)[:12]}",
        messages=({"role": "user", "content": item.question},),
        answer=item.answer,
        demonstrations=(demonstration,) if steps else (),
        meta={"task": name},
    )


def verify(problem: Problem, completion: str) -> bool:
    """Whether the text after the last answer mark is the answer: what the tasks' default reward decides."""
    mark = "####" if problem.meta["task"].startswith(gym.PREFIX) else ANSWER_MARK
    _, found, stated = completion.rpartition(mark)
    return bool(found) and stated.strip() == problem.answer
