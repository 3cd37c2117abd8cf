"""Rows of visits.jsonl: one for every group of a step, learnt from or not, in numbers and without texts.

A visit is one group of rollouts of one problem. Groups that the method decided about come first, in the batch's order;
then those that were drawn and not learnt from in this step: `discarded` by dynamic sampling, or `carried` over (their
second row, in a later step, has the method's decision, and the step they were `drawn` in). Leaves out texts: they are
in rollouts.jsonl, for as many groups as `log.rollouts_per_step` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from superrl.records import Decision, Group, Plan, Update
from superrl.telemetry import advantages

DISCARDED = "discarded"
CARRIED = "carried"
WHY = {
    DISCARDED: "dynamic sampling drew it and did not keep it",
    CARRIED: "dynamic sampling kept it for a later step",
}


def visit_rows(
    groups: Sequence[Group], drawn: Sequence[Group], carried: Sequence[Group], plan: Plan
) -> list[dict[str, Any]]:
    """The rows of one step: `groups` are those of the plan, `drawn` all rolled out now, `carried` wait for a later one.

    Groups are recognised by their keys.
    """
    credits = advantages(plan.updates)
    weights = shares(plan.updates, len(groups))
    rows = []
    for index, (group, decision) in enumerate(zip(groups, plan.decisions, strict=True)):
        own = [credits.get((index, trajectory.tokens)) for trajectory in group.trajectories]
        trained = own if any(credit is not None for credit in own) else None
        rows.append(_row(group, decision.kind, decision, trained, weights[index]))
    known, waiting = {group.key for group in groups}, {group.key for group in carried}
    for group in drawn:
        if group.key not in known:
            name = CARRIED if group.key in waiting else DISCARDED
            rows.append(_row(group, name, Decision("none", WHY[name]), None, None))
    return rows


def shares(updates: Iterable[Update], n_groups: int) -> list[float | None]:
    """What each group adds to its update's denominator D, over D: 1/N where a method takes the mean over prompts.

    Of a group that trains, in the stream that trains it; of another, in the first stream that counts it; None where
    none does. An update whose "groups" are not the step's (`whole`: a buffer's rows) says nothing of them.
    """
    counted: list[float | None] = [None] * n_groups
    trained: list[float | None] = [None] * n_groups
    for update in updates:
        if update.whole:
            continue
        for stream, parts in update.denominators.items():
            total, learning = sum(parts), {sample.group for sample in update.samples if sample.stream == stream}
            for group, part in enumerate(parts):
                if not total or not part:
                    continue
                if counted[group] is None:
                    counted[group] = part / total
                if group in learning and trained[group] is None:
                    trained[group] = part / total
    return [b if a is None else a for a, b in zip(trained, counted, strict=True)]


def _row(
    group: Group, name: str, decision: Decision, credits: Sequence[float | None] | None, weight: float | None
) -> dict[str, Any]:
    scores, own = group.scores, [t.score for t in group.own if t.score is not None]
    judged = bool(scores) and all(score.correct is not None for score in scores)
    return {
        "problem_id": group.problem.id,
        "drawn": group.key[3] + 1,  # keys count a run's steps from 0
        "n": len(own),
        "correct": sum(bool(score.correct) for score in own) if judged else None,
        "assisted": len(scores) - len(own),
        "values": [short(score.value) for score in scores],
        "advantages": None if credits is None else [None if c is None else short(c) for c in credits],
        "demonstrations": len(group.demonstrations),
        "decision": name,
        "demonstration": decision.demonstration,
        "share": None if weight is None else short(weight),
        "why": decision.why,
    }


def short(value: float) -> float:
    """Six digits: enough for a person and a plot, in a third of the bytes.

    >>> short(0.93541434669), short(1 / 3), short(1.0)
    (0.935414, 0.333333, 1.0)
    """
    return float(f"{value:.6g}")
