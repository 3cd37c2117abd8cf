"""Step instances: an expert's trajectory as ordinary problems, one a step (SRL, arXiv:2510.25992 section 3).

The prompt is what was done so far, the answer the expert's next action, the demonstration that action in the template.
A trajectory's instances stand together, in order. Leaves out the wording of contexts (`contexts`), where trajectories
come from (`steps_source`) and how actions are compared (`superrl.rewards.steps`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256

from superrl.data.contexts import Expert, InstanceOptions, as_whole, completion, expert, messages, opening, target
from superrl.records import Demonstration, Problem, Step

Answer = Callable[[Expert, int], str | None]
"""The action that a step's rollouts are compared with; None where a control finds no other one."""

__all__ = ["Expert", "InstanceOptions", "experts", "instances", "target_steps"]


def instances(
    problems: Iterable[Problem], options: InstanceOptions, dropped: Counter[str] | None = None
) -> Iterator[Problem]:
    """Every target step of every demonstration that has steps, as a problem each; what gives none is counted in
    `dropped`. Lazily, but for `expert=other-problem`, which needs all trajectories to choose from."""
    counts: Counter[str] = Counter() if dropped is None else dropped
    every: Iterable[Expert] = experts(problems, options, counts)
    if options.expert == "other-problem":
        every = list(every)
        answer = _of_another_problem(every, options)
    elif options.expert == "other-step":
        answer = _of_another_step(options)
    else:
        answer = _own(options)
    for one in every:
        chosen = target_steps(len(one.steps), options)
        counts["one_step"] += not chosen
        for i in chosen:
            compared = answer(one, i)
            if not target(one, i, options):
                counts["empty_action"] += 1
            elif compared is None:
                counts["no_other_action"] += 1
            else:
                yield _instance(one, i, compared, options)


def experts(problems: Iterable[Problem], options: InstanceOptions, dropped: Counter[str]) -> Iterator[Expert]:
    """The trajectories of the problems: every demonstration with steps, named by its problem, and numbered if that has
    several. A whole solution needs no steps."""
    whole = options.targets == "whole"
    for problem in problems:
        usable = [demo for demo in problem.demonstrations if demo.steps or (whole and demo.text.strip())]
        dropped["no_steps"] += len(problem.demonstrations) - len(usable)
        dropped["no_demonstration"] += not problem.demonstrations
        for number, demo in enumerate(usable, start=1):
            name = problem.id if len(usable) == 1 else f"{problem.id}/{number}"
            stepped = demo if demo.steps else Demonstration(demo.text, (Step(demo.text),))
            one = expert(name, problem, stepped)
            yield as_whole(one) if whole else one


def target_steps(steps: int, options: InstanceOptions) -> range:
    """Which steps are targets, counted from 0."""
    first = 1 if options.targets == "next" else 0
    return range(first, steps - 1 if options.targets == "paper" else steps)


def _instance(one: Expert, i: int, answer: str, options: InstanceOptions) -> Problem:
    step = one.steps[i]
    meta = {
        **one.problem.meta,
        "trajectory": one.name,
        "step": i + 1,
        "steps": len(one.steps),
        "think": options.think,
        "format": one.format,
        "title": step.title,
        "tool": step.tool,
    }
    return Problem(
        id=f"{one.name}/step-{i + 1}",
        messages=messages(one, i, options),
        answer=answer,
        demonstrations=(Demonstration(completion(one, i, options), source=one.source),),
        meta=meta,
        opening=opening(one, i, options),
    )


# Whose action is the answer. The controls are functions of ids, so that a rerun compares with the same texts.


def _own(options: InstanceOptions) -> Answer:
    return lambda one, i: target(one, i, options)


def _of_another_step(options: InstanceOptions) -> Answer:
    """Another step of the same trajectory: all are moved on by one number of places, further where texts are equal."""

    def answer(one: Expert, i: int) -> str | None:
        n = len(one.steps)
        moved = 1 + _number(one.name) % max(n - 1, 1)
        others = (target(one, (i + moved + k) % n, options) for k in range(n))
        return _first_other(others, target(one, i, options))

    return answer


def _of_another_problem(every: Sequence[Expert], options: InstanceOptions) -> Answer:
    """The step of the same number (or the last one) of the next trajectory of another problem, in the order of hashed
    names."""
    ring = sorted(every, key=lambda one: (_number(one.name), one.name))
    place = {one.name: index for index, one in enumerate(ring)}

    def answer(one: Expert, i: int) -> str | None:
        start = place[one.name]
        strangers = (ring[(start + k) % len(ring)] for k in range(1, len(ring)))
        others = (
            target(other, min(i, len(other.steps) - 1), options)
            for other in strangers
            if other.problem.messages != one.problem.messages
        )
        return _first_other(others, target(one, i, options))

    return answer


def _first_other(texts: Iterable[str], own: str) -> str | None:
    return next((text for text in texts if text and text != own), None)


def _number(name: str) -> int:
    return int.from_bytes(sha256(name.encode(errors="surrogatepass")).digest()[:8], "big")
