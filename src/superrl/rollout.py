"""Environment and sampler meet: groups are drawn, scored, retried, and drawn on until enough of them teach something.

Today's environment is one turn: a prompt, a completion, a reward. Leaves out what is done with the groups (methods) and
where problems come from (data).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from superrl.advantages import deviation
from superrl.config import RefillConfig
from superrl.records import Group, Request, Trajectory
from superrl.rewards import Reward
from superrl.sampling.protocol import Prompt, Sampler, SamplingLimits
from superrl.text import Renderer

Listener = Callable[[int], None]

MAX_TURNS = 16
"""Rounds a method may ask for in one step: the bound of a loop that its own rule should have ended."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything a rollout needs besides weights: template, limits, temperature and reward."""

    renderer: Renderer
    limits: SamplingLimits
    temperature: float
    reward: Reward


def keyed(groups: Sequence[Group], visit: tuple[int, ...]) -> list[Group]:
    """The groups with the keys that seed every random choice about them: (*visit, problem, occurrence).

    `problem` is a 63-bit number made from the problem's id, `occurrence` counts the groups of the same problem before
    this one. So a problem's draws depend on the visit and on itself alone: not on its place in the batch, nor on its
    neighbours. Runs that drop different rows stay paired where they share a problem.
    """
    seen: dict[int, int] = {}
    named = []
    for group in groups:
        name = group.problem.id.encode(errors="surrogatepass")
        problem = int.from_bytes(blake2b(name, digest_size=8).digest(), "little") >> 1
        occurrence = seen[problem] = seen.get(problem, -1) + 1
        named.append(replace(group, key=(*visit, problem, occurrence)))
    return named


def roll_out(
    requests: Sequence[Sequence[Request]],
    groups: Sequence[Group],
    environment: Environment,
    sampler: Sampler,
    heard: Listener | None,
    turn: int = 0,
) -> list[Group]:
    """Each group with the completions its requests ask for added to it, unscored. A group's first request in turn 0
    draws with the group's key; every other one with (*key, turn, its index)."""
    asked = [(g, i, request) for g, wanted in enumerate(requests) for i, request in enumerate(wanted) if request.n]
    prompts = [_prompt(request, groups[g], environment, (turn, i) if turn or i else ()) for g, i, request in asked]
    added: list[list[Trajectory]] = [[] for _ in groups]
    for (g, _, request), drawn in zip(asked, sampler.sample(prompts, environment.limits, heard), strict=True):
        added[g] += [_told(trajectory, request, environment) for trajectory in drawn]
    return [replace(group, trajectories=(*group.trajectories, *new)) for group, new in zip(groups, added, strict=True)]


def score(groups: Sequence[Group], environment: Environment) -> list[Group]:
    """The groups with every unscored rollout scored, in one call of the reward."""
    todo = [(g, t) for g, group in enumerate(groups) for t, one in enumerate(group.trajectories) if one.score is None]
    problems = [groups[g].problem for g, _ in todo]
    scores = environment.reward.score_rollouts(problems, [groups[g].trajectories[t] for g, t in todo])
    trajectories = [list(group.trajectories) for group in groups]
    for (g, t), one in zip(todo, scores, strict=True):
        trajectories[g][t] = replace(trajectories[g][t], score=one)
    return [replace(group, trajectories=tuple(ts)) for group, ts in zip(groups, trajectories, strict=True)]


def retry(
    wanted: Callable[[Sequence[Group]], Mapping[int, Sequence[Request]]],
    groups: Sequence[Group],
    environment: Environment,
    sampler: Sampler,
    heard: Listener | None,
) -> list[Group]:
    """A method's further rounds: the groups it wants more of draw again and are scored, until it wants no more."""
    groups = list(groups)
    for turn in range(1, MAX_TURNS + 1):
        again = wanted(groups)
        if not again:
            return groups
        indices = sorted(again)
        drawn = roll_out([again[i] for i in indices], [groups[i] for i in indices], environment, sampler, heard, turn)
        for i, group in zip(indices, score(drawn, environment), strict=True):
            groups[i] = group
    return groups


def _prompt(request: Request, group: Group, environment: Environment, round_key: tuple[int, ...]) -> Prompt:
    context = environment.renderer.context(group.problem, messages=request.messages)
    temperature = environment.temperature if request.temperature is None else request.temperature
    key = (*group.key, *round_key)
    return Prompt(context + request.prefix, request.n, key, temperature, drawn=len(request.prefix))


def _told(trajectory: Trajectory, request: Request, environment: Environment) -> Trajectory:
    """A drawn trajectory with what its request did for it; its text is the whole completion, prefix included."""
    if not request.prefix:
        return replace(trajectory, hinted=True) if request.messages is not None else trajectory
    drawn = [t for t, kept in zip(trajectory.tokens, trajectory.loss_mask, strict=True) if kept]
    text = environment.renderer.decode((*request.prefix, *drawn))
    return replace(trajectory, text=text, prefix=len(request.prefix), hinted=request.messages is not None)


# Dynamic sampling: one function around whatever draws groups.


@dataclass(frozen=True, slots=True)
class Refilled:
    """`groups` to train on, `carried` ones for the next step, and how many were `drawn` to get them."""

    groups: tuple[Group, ...]
    carried: tuple[Group, ...]
    drawn: int


def refill(
    draw: Callable[[int, int], Sequence[Group]],
    want: int,
    config: RefillConfig,
    keep: str = "mixed",
    carried: Sequence[Group] = (),
    *,
    exact: bool = True,
) -> Refilled:
    """Draw until `want` groups pass the keep rule, at most `config.cap` times; `draw(count, attempt)` gives scored
    groups.

    Fewer than `want` come back when the cap is reached. Surplus groups are carried over if the config says so, else
    lost (DAPO, arXiv:2503.14476 section 3.2); unless `exact` none is surplus: draws come in blocks, whose ends would
    always be the ones to lose.
    """
    kept, drawn = list(carried), 0
    for attempt in range(config.cap):
        if len(kept) >= want:
            break
        fresh = draw(round((want - len(kept)) * config.oversample), attempt)
        drawn += len(fresh)
        kept += [group for group in fresh if KEEP[keep](group, config.epsilon)]
    want = want if exact else len(kept)
    return Refilled(tuple(kept[:want]), tuple(kept[want:]) if config.carry_over else (), drawn)


def is_mixed(group: Group, epsilon: float) -> bool:
    """Some rollouts are correct and some are not; by reward where the reward does not say what is correct."""
    verdicts = {score.correct for score in group.scores}
    return deviates(group, epsilon) if None in verdicts else len(verdicts) == 2


def is_learnable(group: Group, epsilon: float) -> bool:
    """Mixed, or failed with a demonstration to fall back on."""
    return is_mixed(group, epsilon) or (bool(group.demonstrations) and not group.solved)


def deviates(group: Group, epsilon: float) -> bool:
    """The population deviation of the rewards exceeds epsilon (SRL, arXiv:2510.25992); those of none do not."""
    return deviation([score.value for score in group.scores]) > epsilon


def valid_deviate(group: Group, epsilon: float) -> bool:
    """The same among the rollouts that the reward's format gate let pass: one refusal alone lifts any deviation."""
    return deviation([score.value for score in group.scores if score.valid]) > epsilon


def is_solved(group: Group, epsilon: float) -> bool:
    """Some rollout is correct, with the expert's help or without."""
    return any(score.correct for score in group.scores)


KEEP: dict[str, Callable[[Group, float], bool]] = {
    "mixed": is_mixed,
    "learnable": is_learnable,
    "deviation": deviates,
    "valid-deviation": valid_deviate,
    "solved": is_solved,
}
