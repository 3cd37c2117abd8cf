"""How far a run has moved its policy: KL(final || base), in nats a token, on the run's first test set.

Estimated on completions of the final policy at temperature 1 by the mean difference of log-probabilities (k1: unbiased,
may be slightly negative near 0). Leaves out the divergence along the way.
"""

from __future__ import annotations

from superrl import setup
from superrl.comparison.subject import Heard, Subject, open_base

DRIFT = 2
"""The purpose in the seed keys of these completions."""
PROMPTS = 64


def kl_from_base(final: Subject, heard: Heard | None = None) -> float | None:
    """The estimate for a finished run; None if it has no test set. `heard` is told of tokens drawn, and may raise."""
    recipe = final.recipe
    if not recipe.data.test:
        return None
    first = recipe.data.test if isinstance(recipe.data.test, str) else recipe.data.test[0]
    limit = min(PROMPTS, recipe.evaluation.limit or PROMPTS)
    settings = recipe.evaluation.model_copy(update={"limit": limit})
    wanted = setup.evaluation(final.workshop, "test", first, settings, recipe.stages[-1])
    with wanted.environment.reward:
        rolled = final.draw(wanted.groups, wanted.environment, 1, DRIFT, heard)
    trajectories = [one for group in rolled for one in group.trajectories]
    base = open_base(recipe).logprobs(trajectories)
    drawn = [
        sampled - before
        for one, logp in zip(trajectories, base, strict=True)
        for sampled, before, mask in zip(one.logp_sampler, logp, one.loss_mask, strict=True)
        if mask
    ]
    return sum(drawn) / len(drawn) if drawn else None
