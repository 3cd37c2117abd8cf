"""The reward `exact`: 1.0 iff the text after the last marker is the gold answer, character for character.

Leaves out every kind of reading between the lines: for numbers and LaTeX there is `math`.
"""

from __future__ import annotations

from collections.abc import Sequence

from superrl.records import Problem, Score
from superrl.rewards.base import BaseOptions, Grader


class ExactOptions(BaseOptions):
    """`after`: the marker, or "" to compare the whole completion; `ignore_case`: compare without case."""

    after: str = "####"
    ignore_case: bool = False


class ExactReward(Grader):
    """A completion without the marker has no answer, and is wrong. Both sides are stripped of outer white space."""

    name = "exact"
    Options = ExactOptions
    options: ExactOptions

    def grade(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
        return [
            exact_score(text, problem.answer or "", self.options)
            for problem, text in zip(problems, completions, strict=True)
        ]


def exact_score(text: str, gold: str, options: ExactOptions) -> Score:
    """The score of one completion; without a gold answer nothing is right."""
    answered = options.after in text
    found = text.rpartition(options.after)[2] if options.after else text
    found, gold = found.strip(), gold.strip()
    if options.ignore_case:
        found, gold = found.casefold(), gold.casefold()
    correct = answered and bool(gold) and found == gold
    return Score(float(correct), correct, {"answered": float(answered)})
