"""Real gold answers against their own worked solutions. Needs $SUPERRL_DATA with math/ and gsm8k/; skipped without."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from superrl.records import Problem
from superrl.rewards import build

DATA = Path(os.environ.get("SUPERRL_DATA", "/nowhere"))


def rows(name: str, limit: int | None) -> list[dict[str, str]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name} in $SUPERRL_DATA")
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return [json.loads(line) for line in file][:limit]


def ask(answer: str, number: int) -> Problem:
    return Problem(f"row-{number}", ({"role": "user", "content": "q"},), answer)


# Of the 7,500 answers 5 in a thousand are mangled in the file itself (a lost `\\`, an empty string).
@pytest.mark.parametrize("limit", [300, pytest.param(None, marks=pytest.mark.slow)])
def test_the_solutions_of_math_verify(limit: int | None) -> None:
    data = rows("math/train.jsonl.gz", limit)
    problems = [ask(row["answer"], number) for number, row in enumerate(data)]
    with build({"name": "math"}) as reward:
        scores = reward.score(problems, [row["solution"] for row in data])
        unreadable = [why for why in reward.unreadable_all(problems) if why]
    assert sum(bool(score.correct) for score in scores) >= 0.995 * len(data)
    assert len(unreadable) <= 0.004 * len(data)
    assert sum(score.parts["timeout"] for score in scores) == 0


def test_the_solutions_of_gsm8k_verify_by_two_rewards() -> None:
    data = rows("gsm8k/train.jsonl", None)
    problems = [ask(row["answer"].rpartition("####")[2].strip(), number) for number, row in enumerate(data)]
    solutions = [row["answer"] for row in data]
    with build([{"name": "math"}, {"name": "exact"}]) as reward:
        assert all(score.correct for score in reward.score(problems, solutions))
        assert all(why is None for why in reward.unreadable_all(problems))
        neighbours = reward.score(problems, solutions[1:] + solutions[:1])
    assert sum(bool(score.correct) for score in neighbours) < 0.05 * len(data)
