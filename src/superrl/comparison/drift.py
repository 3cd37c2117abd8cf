"""How far a run has moved its policy: KL(final || base), in nats a token, on the run's first test set.

Estimated on completions of the final policy at temperature 1 by the mean difference of log-probabilities (k1: unbiased,
may be slightly negative near 0). Leaves out the divergence along the way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from superrl import checkpoint, models, setup
from superrl.config import OptimizerConfig, Recipe
from superrl.errors import RunError
from superrl.learner.learner import Learner, Schedule, named_weights
from superrl.records import Request
from superrl.rollout import keyed, roll_out
from superrl.runfolder import RunFolder

DRIFT = 2
"""The purpose in the seed keys of these completions (rollouts have 0, evaluations 1)."""
PROMPTS = 64


def kl_from_base(recipe: Recipe, run: RunFolder, heard: Callable[[int], None] | None = None) -> float | None:
    """The estimate for a finished run; None if it has no test set. `heard` is told of tokens drawn, and may raise."""
    if not recipe.data.test:
        return None
    newest = checkpoint.newest(run.checkpoints, lambda text: None)
    if newest is None:
        raise RunError(f"{run.path} holds no complete checkpoint")
    first = recipe.data.test if isinstance(recipe.data.test, str) else recipe.data.test[0]
    workshop = setup.open_workshop(recipe.model, setup.Given(), lambda text: None)
    limit = min(PROMPTS, recipe.evaluation.limit or PROMPTS)
    settings = recipe.evaluation.model_copy(update={"limit": limit})
    wanted = setup.evaluation(workshop, "test", first, settings, recipe.stages[-1])
    with wanted.environment.reward:
        environment = replace(wanted.environment, temperature=1.0)
        dtype = models.compute_dtype(recipe.model)
        sampler = setup.new_sampler(workshop.model, workshop.tokenizer, dtype, [environment])
        final = models.load_model(recipe.model.model_copy(update={"name": str(newest.path), "lora": None}))
        sampler.load(dict(named_weights(final)), version=0)
        groups = keyed(wanted.groups, (recipe.seed, DRIFT))
        rolled = roll_out([Request(group.problem, 1) for group in groups], groups, environment, sampler, heard)
    trajectories = [one for group in rolled for one in group.trajectories]
    schedule = Schedule(
        OptimizerConfig(), steps=1, epochs=1, mini_batches=1,
        max_tokens_per_pack=recipe.stages[-1].max_tokens_per_pack, seed=0,
    )  # fmt: skip
    base = Learner(workshop.model, dtype, schedule).logprobs(trajectories)
    drawn = [
        sampled - before
        for one, logp in zip(trajectories, base, strict=True)
        for sampled, before, mask in zip(one.logp_sampler, logp, one.loss_mask, strict=True)
        if mask
    ]
    return sum(drawn) / len(drawn) if drawn else None
