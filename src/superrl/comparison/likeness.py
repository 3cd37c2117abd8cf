"""Imitation or discovery: how like the expert's a model's own successes are, and how well it knows the expert's text.

Two sets of demonstrated problems are looked at: those the arms are trained on, and held-out ones. Nobody can have
copied a held-out demonstration, so the likeness there is what the task and the format alone give; and an arm that has
learnt the demonstrations by heart predicts those of the training set better than held-out ones. The base tells how
unlike the two sets were before. Pure functions on texts and numbers; leaves out the models (`measure`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from superrl.comparison.results import SETS, Likeness, Run
from superrl.comparison.statistics import estimate

NUMBERS = ("nll", "similarity", "correct")


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """The least number of insertions, deletions and replacements that make `b` of `a` (Levenshtein).

    Bit-parallel: one column of the table of distances is two integers of len(a) bits, in which the differences of
    neighbours are +1 and -1 (Myers, J. ACM 46(3), 1999; Hyyrö's form).

    >>> edit_distance("kitten", "sitting")
    3
    """
    if not a:
        return len(b)
    places: dict[Hashable, int] = {}
    for i, item in enumerate(a):
        places[item] = places.get(item, 0) | 1 << i
    all_bits, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, distance = all_bits, 0, len(a)
    for item in b:
        equal = places.get(item, 0)
        level = equal | down
        diagonal = (((equal & up) + up) ^ up) | equal
        right, left = down | (all_bits & ~(diagonal | up)), up & diagonal
        distance += bool(right & last) - bool(left & last)
        right, left = (right << 1 | 1) & all_bits, left << 1 & all_bits
        up, down = left | (all_bits & ~(level | right)), right & level
    return distance


def similarity(text: str, other: str) -> float:
    """1 - edit distance / the longer length, in characters: 1 for equal texts (empty ones too), 0 for wholly unlike.

    >>> similarity("abcd", "abxd")
    0.75
    """
    longest = max(len(text), len(other))
    return 1.0 - edit_distance(text, other) / longest if longest else 1.0


def nearest(text: str, demonstrations: Sequence[str]) -> float:
    """The similarity to the demonstration that is most like the text."""
    return max(similarity(text, demonstration) for demonstration in demonstrations)


def over_seeds(runs: Sequence[Run], base: Mapping[str, Likeness]) -> dict[str, Any] | None:
    """An arm's numbers by set: estimates over the seeds that have one (no success: no similarity). None of no runs that
    were looked at. `gap`: how much better the trained demonstrations are known than held-out ones, more than the base
    knows them; where there is no base, without it."""
    known = [run.likeness for run in runs if run.likeness]
    if not known:
        return None
    found: dict[str, Any] = {name: {key: _estimate(name, key, known) for key in NUMBERS} for name in SETS}
    gaps = [gap for one in known if (gap := memorised(one, base)) is not None]
    return {**found, "gap": asdict(estimate(gaps)) if gaps else None}


def memorised(of: Mapping[str, Likeness], base: Mapping[str, Likeness]) -> float | None:
    """(held-out - trained NLL of a model) - (the same of the base), in nats a token: above 0 where demonstrations it
    was trained on are known better than others like them. Without a base the first term alone."""
    own, before = _gap(of), _gap(base)
    return own if own is None or before is None else own - before


def _gap(of: Mapping[str, Likeness]) -> float | None:
    trained, held_out = (of[name].nll if name in of else None for name in SETS)
    return None if trained is None or held_out is None else held_out - trained


def plain(of: Mapping[str, Likeness]) -> dict[str, Any] | None:
    """One model's numbers, as JSON; None if it was not looked at."""
    return {name: asdict(one) for name, one in of.items()} or None


def _estimate(name: str, key: str, known: Sequence[Mapping[str, Likeness]]) -> dict[str, Any] | None:
    values = [getattr(one[name], key) for one in known if name in one]
    numbers = [value for value in values if value is not None]
    return asdict(estimate(numbers).within(0.0, math.inf if key == "nll" else 1.0)) if numbers else None
