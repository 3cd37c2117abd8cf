"""Environment and sampler meet: groups are drawn, scored, retried, and drawn on until enough of them teach something.

Today's environment is one turn: a prompt, a completion, a reward. Leaves out what is done with the groups (methods) and
where problems come from (data).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from superrl.config import RefillConfig
from superrl.records import Group, Request
from superrl.rewards import Reward
from superrl.sampling.protocol import Prompt, Sampler, SamplingLimits
from superrl.text import Renderer

Listener = Callable[[int], None]


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
    requests: Sequence[Request],
    groups: Sequence[Group],
    environment: Environment,
    sampler: Sampler,
    heard: Listener | None,
) -> list[Group]:
    """Each group with the completions its request asks for added to it, unscored."""
    prompts = [_prompt(request, group, environment) for request, group in zip(requests, groups, strict=True)]
    drawn = sampler.sample(prompts, environment.limits, heard)
    return [
        replace(group, trajectories=(*group.trajectories, *(replace(t, text=request.prefix + t.text) for t in new)))
        for request, group, new in zip(requests, groups, drawn, strict=True)
    ]


def score(groups: Sequence[Group], environment: Environment) -> list[Group]:
    """The groups with every unscored rollout scored, in one call of the reward."""
    todo = [(g, t) for g, group in enumerate(groups) for t, one in enumerate(group.trajectories) if one.score is None]
    problems = [groups[g].problem for g, _ in todo]
    scores = environment.reward.score(problems, [groups[g].trajectories[t].text for g, t in todo])
    trajectories = [list(group.trajectories) for group in groups]
    for (g, t), one in zip(todo, scores, strict=True):
        trajectories[g][t] = replace(trajectories[g][t], score=one)
    return [replace(group, trajectories=tuple(ts)) for group, ts in zip(groups, trajectories, strict=True)]


def retry(
    wanted: Mapping[int, Request],
    groups: Sequence[Group],
    environment: Environment,
    sampler: Sampler,
    heard: Listener | None,
) -> list[Group]:
    """A method's second round: the groups it names draw again, under a key of their own, and are scored."""
    if not wanted:
        return list(groups)
    indices = sorted(wanted)
    again = [replace(groups[i], key=(*groups[i].key, 1)) for i in indices]
    drawn = roll_out([wanted[i] for i in indices], again, environment, sampler, heard)
    joined = list(groups)
    for i, group in zip(indices, score(drawn, environment), strict=True):
        joined[i] = replace(group, key=groups[i].key)
    return joined


def _prompt(request: Request, group: Group, environment: Environment) -> Prompt:
    tokens = environment.renderer.context(request.problem, messages=request.messages, prefix=request.prefix)
    temperature = environment.temperature if request.temperature is None else request.temperature
    return Prompt(tokens, request.n, group.key, temperature)


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
) -> Refilled:
    """Draw until `want` groups pass the keep rule, at most `config.cap` times; `draw(count, attempt)` gives scored
    groups.

    Fewer than `want` come back when the cap is reached. Surplus groups are carried over if the config says so, else
    lost (DAPO, arXiv:2503.14476 section 3.2).
    """
    kept, drawn = list(carried), 0
    for attempt in range(config.cap):
        if len(kept) >= want:
            break
        fresh = draw(round((want - len(kept)) * config.oversample), attempt)
        drawn += len(fresh)
        kept += [group for group in fresh if KEEP[keep](group, config.epsilon)]
    return Refilled(tuple(kept[:want]), tuple(kept[want:]) if config.carry_over else (), drawn)


def is_mixed(group: Group, epsilon: float) -> bool:
    """Some rollouts are correct and some are not; by reward where the reward does not say what is correct."""
    verdicts = {score.correct for score in group.scores}
    return deviates(group, epsilon) if None in verdicts else len(verdicts) == 2


def is_learnable(group: Group, epsilon: float) -> bool:
    """Mixed, or failed with a demonstration to fall back on."""
    return is_mixed(group, epsilon) or (bool(group.demonstrations) and not group.solved)


def deviates(group: Group, epsilon: float) -> bool:
    """The population deviation of the rewards exceeds epsilon (SRL, arXiv:2510.25992)."""
    values = [score.value for score in group.scores]
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / len(values)
    return math.sqrt(variance) > epsilon


def is_solved(group: Group, epsilon: float) -> bool:
    """Some rollout is correct."""
    return group.solved


KEEP: dict[str, Callable[[Group, float], bool]] = {
    "mixed": is_mixed,
    "learnable": is_learnable,
    "deviation": deviates,
    "solved": is_solved,
}
