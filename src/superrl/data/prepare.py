"""From problems to groups ready for the loop: rendered, measured, every demonstration checked by the run's own reward.

A demonstration that no rollout could have written (too long for `max_new_tokens`, an end-of-sequence token inside) or
that the run's reward calls wrong would teach against the policy gradient; it is dropped here, once, and counted.
Nothing is ever cut to fit.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from superrl.data import Loaded
from superrl.errors import UserError
from superrl.records import Demonstration, Group, Problem, Score, Trajectory
from superrl.rewards import CachedScores, Reward
from superrl.text import Renderer, Tokens

EXAMPLES = 3
PROMPT_REASONS = ("unreadable_answer", "prompt_too_long")


@dataclass(frozen=True, slots=True)
class Preparation:
    """What became of the rows. `dropped` counts by reason: whole problems (`PROMPT_REASONS`) or single demonstrations;
    `examples` are the first few problems of each reason; `failing` counts demonstrations the reward calls wrong,
    whether they were dropped or kept."""

    rows: int
    problems: int
    with_demonstration: int
    demonstrations: int
    failing: int
    max_new_tokens: int
    context_length: int | None
    dropped: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Groups without rollouts, one a problem; `group.demonstrations` and `group.problem.demonstrations` are aligned."""

    groups: tuple[Group, ...]
    report: Preparation


class Item(NamedTuple):
    """A demonstration on its way: its problem's place, itself, and as tokens."""

    place: int
    demonstration: Demonstration
    trajectory: Trajectory


class Drops:
    """Counts by reason, and remembers the first few problems."""

    def __init__(self, before: Mapping[str, int]) -> None:
        self.counts: Counter[str] = Counter(before)
        self.examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, problem: Problem) -> None:
        self.counts[reason] += 1
        if len(self.examples[reason]) < EXAMPLES:
            self.examples[reason].append(problem.id)


def prepare(
    loaded: Loaded,
    renderer: Renderer,
    reward: Reward | None,
    *,
    max_new_tokens: int,
    context_length: int | None,
    unverified: Literal["drop", "keep"],
    stop: Sequence[str] = (),
    max_context: int | None = None,
) -> Prepared:
    """Render and check everything once, before the first step. Without a reward that can score by then nothing is
    graded. `context_length` is the model's: a prompt must leave room for a token; `max_context` is the user's: it must
    leave room for `max_new_tokens`."""
    drops = Drops(loaded.dropped)
    cached = None if reward is None else CachedScores(reward)
    problems = loaded.problems if cached is None else _readable(loaded.problems, cached, drops)
    room = None if context_length is None else context_length - 1
    if max_context is not None:
        context_length = max_context if context_length is None else min(context_length, max_context)
        room = context_length - max_new_tokens if room is None else min(room, max_context - max_new_tokens)
    problems, contexts = _fitting(problems, renderer, room, drops)
    items = _rendered(problems, contexts, renderer, max_new_tokens, context_length, stop, drops)
    ready = cached is not None and not cached.reward.awaits  # a model that the run itself trains comes later
    items = _scored(items, problems, cached) if cached is not None and ready else items
    failing = sum(item.trajectory.score is not None and item.trajectory.score.correct is False for item in items)
    items = _verified(items, problems, drops) if unverified == "drop" else items
    groups = _groups(problems, items)
    report = Preparation(
        rows=len(loaded.problems),
        problems=len(groups),
        with_demonstration=sum(bool(group.demonstrations) for group in groups),
        demonstrations=len(items),
        failing=failing,
        max_new_tokens=max_new_tokens,
        context_length=context_length,
        dropped={reason: count for reason, count in drops.counts.items() if count},
        examples={reason: tuple(ids) for reason, ids in drops.examples.items()},
    )
    return Prepared(groups, report)


def summary(report: Preparation) -> str:
    """The report in one line, as it is printed before a run."""
    shown = f"{report.with_demonstration:,}" if report.with_demonstration else "none"
    kept = f"{report.problems:,} problem{'' if report.problems == 1 else 's'}, {shown} with a demonstration"
    words = "; dropped: " + ", ".join(reasons(report).values()) if report.dropped else ""
    wrong = report.failing - report.dropped.get("unverified", 0) - report.dropped.get("no_verdict", 0)
    return kept + words + (f"; {wrong:,} kept though they fail the reward" if wrong else "")


def reasons(report: Preparation) -> dict[str, str]:
    """Each reason for which something was dropped, in words with its count."""
    unlimited = report.context_length is None or report.context_length >= 2**31
    room = "" if unlimited else f", or past {report.context_length:,} with the prompt"
    phrases = {
        "empty": "without text",
        "unreadable_answer": "with an answer the reward cannot read",
        "prompt_too_long": f"with a prompt that fills the context of {report.context_length or 0:,} tokens",
        "too_long": f"too long (> {report.max_new_tokens:,} tokens{room})",
        "eos_inside": "with an end-of-sequence token inside",
        "stop_inside": "with a stop string inside",
        "unverified": "failed the run's own reward",
        "no_verdict": "not graded in time",
        "no_steps": "not cut into steps",
        "one_step": "of one step, which is no target",
        "no_demonstration": "without a demonstration to take steps from",
        "empty_action": "steps without an action",
        "no_other_action": "steps without another action to compare with",
    }
    worded = {reason: phrases.get(reason, reason.replace("_", " ")) for reason in {**phrases, **report.dropped}}
    return {
        reason: f"{report.dropped[reason]:,} {words}" for reason, words in worded.items() if reason in report.dropped
    }


def _readable(problems: Sequence[Problem], cached: CachedScores, drops: Drops) -> list[Problem]:
    """Problems whose gold answer the reward can grade against: no rollout could ever earn anything on the others."""
    complaints = cached.unreadable_all(problems)
    kept = []
    for problem, complaint in zip(problems, complaints, strict=True):
        if complaint is None:
            kept.append(problem)
        else:
            drops.add("unreadable_answer", problem)
    if problems and not kept:
        raise UserError(f"the reward can grade none of the {len(problems)} problems; the first: {complaints[0]}")
    return kept


def _fitting(
    problems: Sequence[Problem], renderer: Renderer, room: int | None, drops: Drops
) -> tuple[list[Problem], list[Tokens]]:
    """Problems whose prompt has at most `room` tokens, with their contexts."""
    kept, contexts = [], []
    every = renderer.contexts(problems)
    for problem, context in zip(problems, every, strict=True):
        if room is not None and len(context) > room:
            drops.add("prompt_too_long", problem)
        else:
            kept.append(problem)
            contexts.append(context)
    if problems and not kept:
        raise UserError(
            f"every prompt is longer than the {room} tokens that are left for it, the shortest has "
            f"{min(map(len, every))}: take a model with a longer context, raise max_context, or shorten the prompts"
        )
    return kept, contexts


def _rendered(
    problems: Sequence[Problem],
    contexts: Sequence[Tokens],
    renderer: Renderer,
    max_new_tokens: int,
    context_length: int | None,
    stop: Sequence[str],
    drops: Drops,
) -> list[Item]:
    """The demonstrations a rollout could have written, as trajectories. One that ends with a stop string is over there,
    without EOS; one with a stop string before its end would have been cut."""
    todo = [(place, demo) for place, problem in enumerate(problems) for demo in problem.demonstrations]
    items = []
    for (place, demo), completion in zip(todo, renderer.encode([demo.text for _, demo in todo]), strict=True):
        stopped = any(demo.text.endswith(text) for text in stop)
        trajectory = renderer.expert(contexts[place], demo.text, completion, stopped=stopped)
        if renderer.eos_id in completion[:-1]:
            drops.add("eos_inside", problems[place])
        elif any(text in demo.text[:-1] for text in stop):
            drops.add("stop_inside", problems[place])
        elif trajectory.length > max_new_tokens or (context_length and len(trajectory.tokens) > context_length):
            drops.add("too_long", problems[place])
        else:
            items.append(Item(place, demo, trajectory))
    return items


def _scored(items: Sequence[Item], problems: Sequence[Problem], cached: CachedScores) -> list[Item]:
    """Every trajectory with the run's own score of its text; graded in bulk, and remembered on disk."""
    texts = [item.trajectory.text for item in items]
    scores = cached.score([problems[item.place] for item in items], texts)
    return [
        item._replace(trajectory=replace(item.trajectory, score=score))
        for item, score in zip(items, scores, strict=True)
    ]


def _verified(items: Sequence[Item], problems: Sequence[Problem], drops: Drops) -> list[Item]:
    """Without the demonstrations that the reward calls wrong, or could not grade in time."""
    kept = []
    for item in items:
        score = item.trajectory.score
        if score is None or score.correct is not False:
            kept.append(item)
        else:
            drops.add("no_verdict" if gave_up(score) else "unverified", problems[item.place])
    return kept


def gave_up(score: Score) -> bool:
    """Whether a reward, or one in a sum, ran out of time over this text instead of judging it."""
    return any(value and name.rpartition("/")[2] in ("timeout", "crash") for name, value in score.parts.items())


def _groups(problems: Sequence[Problem], items: Sequence[Item]) -> tuple[Group, ...]:
    """One group a problem; the problem keeps exactly the demonstrations that are left."""
    by_place: defaultdict[int, list[Item]] = defaultdict(list)
    for item in items:
        by_place[item.place].append(item)
    return tuple(
        Group(
            problem=replace(problem, demonstrations=tuple(item.demonstration for item in by_place[place])),
            demonstrations=tuple(item.trajectory for item in by_place[place]),
        )
        for place, problem in enumerate(problems)
    )
