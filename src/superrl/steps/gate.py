"""The format gate of one step: is the completion one thought, where asked for, and then exactly one action?

SRL gives -1 to whatever is not (arXiv:2510.25992 section 3). A refused completion has one reason, the first of these
that holds; those that no further token could mend come first:

    no_think       thought is required, and `<think>` does not stand at the beginning
    think_twice    a second `<think>` or `</think>`
    two_steps      the action holds the following step as well
    cut            the length limit ended it
    unclosed       no `</think>`
    empty_action   nothing after the thought

Leaves out what the action is worth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from superrl.steps.think import CLOSE, OPEN, Think

REASONS = ("no_think", "think_twice", "two_steps", "cut", "unclosed", "empty_action")


class Verdict(NamedTuple):
    """The action, stripped; the thought, None where there is none; why it is refused, None if it is not."""

    action: str
    thought: str | None
    reason: str | None


def judge(
    completion: str,
    *,
    think: Think,
    cut: bool = False,
    following: Callable[[str], bool] | None = None,
    expert: str = "",
) -> Verdict:
    """Takes a completion apart and says what is wrong with it.

    `following` says of an action whether it holds the step after it; asked about complete thoughts only. The tags that
    `expert`, the expert's own action, holds are no second thought.

    >>> judge("Halve it.</think>x = 2", think="prefilled")
    Verdict(action='x = 2', thought='Halve it.', reason=None)
    >>> judge("x = 2", think="required").reason
    'no_think'
    """
    text = completion.strip()
    if think == "none" or (think == "optional" and (not text.startswith(OPEN) or text == expert.strip())):
        thought, action, complete = None, text, True
    elif think == "required" and not text.startswith(OPEN):
        return Verdict(text, None, "no_think")
    else:
        before, closed, after = (text if think == "prefilled" else text.removeprefix(OPEN)).partition(CLOSE)
        complete = bool(closed)
        thought, action = (before.strip(), after.strip()) if closed else (None, before.strip())
        if OPEN in before:
            return Verdict(action, thought, "think_twice")
    if think != "none" and any(action.count(tag) > expert.count(tag) for tag in (OPEN, CLOSE)):
        return Verdict(action, thought, "think_twice")
    if complete and following is not None and following(action):
        return Verdict(action, thought, "two_steps")
    if cut:
        return Verdict(action, thought, "cut")
    if not complete:
        return Verdict(action, thought, "unclosed")
    return Verdict(action, thought, None if action else "empty_action")
