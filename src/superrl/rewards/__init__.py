"""Rewards: problems and completions in, scores out. `build` makes one of what a recipe says.

`REWARDS` is the registry of those that grade answers; besides, `step_similarity` compares an expert's actions with the
policy's, `python:module.function` names a function of the user's, and `model` (or, short, `model:PATH`) a reward model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from superrl.errors import UserError, nearest
from superrl.importing import PREFIX, resolve
from superrl.records import Problem, Score
from superrl.rewards.base import Grader, Reward, Weighted, parse_options
from superrl.rewards.cache import CachedScores
from superrl.rewards.choice import ChoiceReward
from superrl.rewards.exact import ExactReward
from superrl.rewards.function import FunctionOptions, FunctionReward
from superrl.rewards.mathematics import MathReward
from superrl.rewards.model import SHORT, ModelReward, Scene
from superrl.rewards.qa import QaReward
from superrl.rewards.steps import StepSimilarity

__all__ = ["REWARDS", "CachedScores", "Reward", "RewardConfig", "Scene", "build", "score_in_workers"]

REWARDS: dict[str, type[Grader]] = {"math": MathReward, "exact": ExactReward, "choice": ChoiceReward, "qa": QaReward}

RewardConfig = Mapping[str, Any] | str | Callable[..., Any] | Reward | Sequence[Any]
"""`{name: math, ...}`, `"math"`, a function with TRL's signature, a finished reward, or a list of those."""


def build(config: RewardConfig, *, processes: int | None = None, scene: Scene | None = None) -> Reward:
    """The reward a recipe describes; `processes` bounds the worker processes (default: one a core, at most 8), `scene`
    is the run that a reward model is asked in.

    A list, or a weight other than 1, makes a weighted sum. In a list a function's default `correct_at` is dropped when
    another reward says what is correct: a length penalty beside `math` must not have a say in accuracy.
    """
    if isinstance(config, Reward):
        return config
    if isinstance(config, str | Mapping) or callable(config):
        reward = build_one(config, processes, scene)
        return reward if weight_of(reward) == 1.0 else weighted([reward])
    if not isinstance(config, Sequence) or not config:
        raise UserError(f"a reward is a mapping with a name, or a list of such, not {config!r}; write {{name: math}}")
    rewards = [item if isinstance(item, Reward) else build_one(item, processes, scene) for item in config]
    if any(reward.gives_correct and not only_by_default(reward) for reward in rewards):
        rewards = [without_default(reward) if only_by_default(reward) else reward for reward in rewards]
    return weighted(rewards)


def build_one(config: Any, processes: int | None, scene: Scene | None = None) -> Grader:
    """One entry of a list: a name, a mapping, or a function."""
    if callable(config) or isinstance(config, str):
        config = {"name": config}
    if not isinstance(config, Mapping) or "name" not in config:
        raise UserError(f"the reward {config!r} has no name; write {{name: math}}, {nearest('', [*REWARDS, PREFIX])}")
    name, options = config["name"], {key: value for key, value in config.items() if key != "name"}
    if callable(name):
        label = getattr(name, "__name__", type(name).__name__)
        return FunctionReward(name, parse_options(FunctionOptions, options, label))
    if isinstance(name, str) and name.startswith(PREFIX):
        return FunctionReward(resolve(name, "reward", "function"), parse_options(FunctionOptions, options, name), name)
    if name == MathReward.name:
        return MathReward(parse_options(MathReward.Options, options, name), processes)
    if name == StepSimilarity.name:
        return StepSimilarity(parse_options(StepSimilarity.Options, options, name), processes)
    if isinstance(name, str) and name.startswith(SHORT):
        name, options = ModelReward.name, {"path": name.removeprefix(SHORT), **options}
    if name == ModelReward.name:
        return ModelReward(parse_options(ModelReward.Options, options, name), scene or Scene())
    if name not in REWARDS:
        known = [*REWARDS, StepSimilarity.name, ModelReward.name, f"{PREFIX}module.function"]
        raise UserError(f"there is no reward {name!r}; {nearest(str(name), known)}")
    return REWARDS[name](parse_options(REWARDS[name].Options, options, name))


def score_in_workers(
    config: RewardConfig, problems: Sequence[Problem], completions: Sequence[str], *, processes: int | None = None
) -> list[Score]:
    """Scores thousands of texts in order, through the cache on disk, and ends the workers it started."""
    reward = build(config, processes=processes)
    try:
        return CachedScores(reward).score(problems, completions)
    finally:
        if reward is not config:
            reward.close()


def weight_of(reward: Reward) -> float:
    """The weight its options give; 1 for a reward that was not made from a recipe."""
    return reward.options.weight if isinstance(reward, Grader) else 1.0


def weighted(rewards: Sequence[Reward]) -> Weighted:
    """The sum; a name that comes twice is numbered (`exact`, `exact.2`), so that no part hides another."""
    seen: Counter[str] = Counter()
    parts = []
    for reward in rewards:
        name = reward.name if isinstance(reward, Grader) else type(reward).__name__
        seen[name] += 1
        parts.append((name if seen[name] == 1 else f"{name}.{seen[name]}", weight_of(reward), reward))
    return Weighted(parts)


def only_by_default(reward: Reward) -> bool:
    """Whether it is a function whose `correct_at` the recipe did not write."""
    return isinstance(reward, FunctionReward) and "correct_at" not in reward.options.model_fields_set


def without_default(reward: Reward) -> Reward:
    """The same function with `correct_at: null`."""
    assert isinstance(reward, FunctionReward)
    options = FunctionOptions(weight=reward.options.weight, correct_at=None)
    return FunctionReward(reward.function, options, reward.name)
