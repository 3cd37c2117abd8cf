"""What a step's metrics row says about its groups, its decisions and its rollouts: pure functions of records.

Rates are over all groups of the step, dropped rollouts included. Leaves out what needs the learner's log-probabilities
(the learner's means) and clocks (`timing.jsonl`).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

from superrl.metrics import Means, mean
from superrl.records import Decision, Group, Plan, Problem, Sample, Trajectory, Update
from superrl.steps.meta import is_step

TOKEN_COUNTS = ("tokens/trained", "tokens/logical", "tokens/computed")
STEP_META = ("trajectory", "step", "steps", "title", "tool", "think")
"""What rollouts.jsonl keeps of the meta of a problem that is one step of an expert's trajectory."""


def of_groups(groups: Sequence[Group]) -> dict[str, float | None]:
    """Rewards, lengths, entropy and solved rates of scored groups; nothing for groups without rollouts.

    What is said of correctness is over rollouts that had no help from the expert.
    """
    rollouts = [t for group in groups for t in group.trajectories]
    rolled = [group for group in groups if group.trajectories]
    values = [t.score.value for t in rollouts if t.score is not None]
    verdicts = [t.score.correct for t in rollouts if t.score is not None and not t.assisted]
    judged = bool(verdicts) and None not in verdicts
    alone = [group for group in rolled if group.own]
    entropies = [(t.entropy * t.length, t.length) for t in rollouts if t.entropy is not None]
    tokens = sum(length for _, length in entropies)
    average = mean(values)
    return {
        "reward/mean": average,
        "reward/std": None if average is None else (mean((v - average) ** 2 for v in values) or 0.0) ** 0.5,
        "reward/correct": mean(float(bool(v)) for v in verdicts) if judged else None,
        "switch/solved_rate": mean(float(group.solved) for group in alone) if judged else None,
        "switch/all_correct_rate": mean(float(all_correct(g)) for g in alone) if judged else None,
        "switch/expected_rate": expected_failure(alone) if judged else None,
        "policy/entropy": sum(total for total, _ in entropies) / tokens if tokens else None,
        "length/completion": mean(float(t.length) for t in rollouts),
        "length/truncated_rate": mean(float(t.stop == "length") for t in rollouts),
        "tokens/generated": float(sum(t.length for t in rollouts)),
        **{f"score/{name}": value for name, value in mean_parts(rollouts).items()},
    }


def staleness(groups: Sequence[Group], version: int) -> float | None:
    """How many steps older than the weights it trains, which are of `version`, a rollout is in the mean."""
    return mean(float(version - t.version) for group in groups for t in group.trajectories)


def mean_parts(rollouts: Sequence[Trajectory]) -> dict[str, float | None]:
    """Each part of the scores, averaged over the rollouts that have it."""
    scores = [t.score for t in rollouts if t.score is not None]
    names = sorted({name for score in scores for name in score.parts})
    return {name: mean(s.parts[name] for s in scores if name in s.parts) for name in names}


def of_decisions(groups: Sequence[Group], decisions: Sequence[Decision]) -> dict[str, float | None]:
    """How often the switch fell back, also among the groups that have a demonstration, and where it could not."""
    fell = [decision.kind in ("sft", "both") for decision in decisions]
    demonstrated = [f for f, group in zip(fell, groups, strict=True) if group.demonstrations]
    helpless = [g for g, d in zip(groups, decisions, strict=True) if d.kind == "none" and not g.demonstrations]
    judged = all(score.correct is not None for group in groups for score in group.scores)
    return {
        "switch/fallbacks": float(sum(fell)),
        "switch/fallback_rate": mean(map(float, fell)),
        "switch/fallback_rate_demonstrated": mean(map(float, demonstrated)),
        "switch/no_demo": float(sum(not group.solved for group in helpless)) if judged else None,
        "groups/trained": float(sum(decision.kind != "none" for decision in decisions)),
    }


def of_learner(means: Means, streams: Sequence[str]) -> dict[str, float | None]:
    """The learner's means, its token counts as sums. A loss over nothing is 0; what nothing was added to is absent."""
    zeros = dict.fromkeys(["loss", *(f"loss/{stream}" for stream in streams), *TOKEN_COUNTS], 0.0)
    kept = {name: one for name, one in means.means.items() if not name.startswith("weighted/")}
    return {**zeros, **{name: one.total if name in TOKEN_COUNTS else one.value for name, one in kept.items()}}


def numbers(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """A row without its words."""
    return {key: value for key, value in metrics.items() if not isinstance(value, str)}


def of_samples(updates: Sequence[Update]) -> dict[str, float | None]:
    """Mean length of the demonstrations trained on, in tokens."""
    samples = [sample for update in updates for sample in update.samples]
    experts = [sample for sample in samples if sample.origin == "expert" and sample.stream != "value"]
    return {"length/demonstration": mean(float(sum(sample.loss_mask)) for sample in experts)}


def fingerprint(plan: Plan) -> str:
    """A digest of the tokens, advantages and weights that a plan trains: equal wherever the same is learnt."""
    told = blake2b(digest_size=16)
    for update in plan.updates:
        told.update(repr((update.denominators, update.stream_weights, update.optimizer, update.lr_scale)).encode())
        for one in update.samples:
            told.update(f"{one.stream} {one.group} {one.weight!r}".encode())
            told.update(array("q", one.tokens).tobytes())
            told.update(array("d", one.advantage).tobytes())
    return told.hexdigest()


def expected_failure(groups: Sequence[Group]) -> float | None:
    """(1 - p)^K with p the batch's accuracy: how often all K rollouts would fail if problems were alike."""
    verdicts = [bool(t.score and t.score.correct) for group in groups for t in group.own]
    if not verdicts:
        return None
    p = sum(verdicts) / len(verdicts)
    return mean((1.0 - p) ** len(group.own) for group in groups)


def all_correct(group: Group) -> bool:
    """Whether every rollout of the policy's own is correct."""
    return all(t.score is not None and t.score.correct for t in group.own)


def untrained(groups: Sequence[Group], updates: Sequence[Update]) -> list[tuple[Trajectory, int]]:
    """The first rollout of every group none of whose rollouts is trained, with how many rollouts it stands for: so that
    telemetry from the learner counts dropped groups too, at a fraction of their cost."""
    trained = {sample.group for sample in _rollouts(updates) if sample.stream == "pg"}
    return [
        (g.trajectories[0], len(g.trajectories)) for i, g in enumerate(groups) if i not in trained and g.trajectories
    ]


def rollout_rows(groups: Sequence[Group], plan: Plan, limit: int) -> list[dict[str, Any]]:
    """Rows of rollouts.jsonl for `limit` groups: one of each kind of decision first, then in order."""
    decisions = plan.decisions
    order = sorted(range(len(groups)), key=lambda i: ([d.kind for d in decisions[:i]].count(decisions[i].kind), i))
    credits = advantages(plan.updates)
    return [_rollout_row(groups[i], decisions[i], i, credits) for i in sorted(order[:limit])]


def advantages(updates: Sequence[Update]) -> dict[tuple[int, tuple[int, ...]], float]:
    """(group, tokens) -> the advantage of that rollout's last token, of the rollouts that are trained."""
    rollouts = [sample for sample in _rollouts(updates) if sample.stream != "value"]
    return {(sample.group, sample.tokens): sample.advantage[-1] for sample in rollouts}


def _rollout_row(
    group: Group, decision: Decision, index: int, credits: dict[tuple[int, tuple[int, ...]], float]
) -> dict[str, Any]:
    used = None if decision.demonstration is None else group.demonstrations[decision.demonstration].text
    return {
        "problem_id": group.problem.id,
        "prompt": group.problem.prompt,
        "completions": [
            {
                "text": t.text,
                "stop": t.stop,
                "version": t.version,
                "score": None if t.score is None else asdict(t.score),
                "advantage": credits.get((index, t.tokens)),
            }
            for t in group.trajectories
        ],
        "decision": decision.kind,
        "demonstration": used,
        "why": decision.why,
        **step_facts(group.problem),
    }  # fmt: skip


def step_facts(problem: Problem) -> dict[str, Any]:
    """What tells one step of an expert's trajectory: the messages before the last, what its answer begins with, the
    expert's action, and which step of which trajectory it is; nothing for an ordinary problem, whose rows stay as they
    are."""
    if not is_step(problem.meta):
        return {}
    known = {key: problem.meta.get(key) for key in STEP_META}
    meta = {key: value for key, value in known.items() if isinstance(value, str | int)}  # others are the data set's own
    earlier = [dict(message) for message in problem.messages[:-1]]
    return {"earlier": earlier, "opening": problem.opening, "answer": problem.answer, "meta": meta}


def _rollouts(updates: Sequence[Update]) -> list[Sample]:
    return [sample for update in updates for sample in update.samples if sample.origin == "policy"]
