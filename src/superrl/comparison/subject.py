"""A finished run's model, or the base it started from, opened to be looked at: completions from it, log-probabilities
under it. Leaves out what is looked for (`drift`, `measure`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from superrl import checkpoint, engine, models, setup
from superrl.config import OptimizerConfig, Recipe
from superrl.errors import RunError
from superrl.learner.learner import Learner, Schedule
from superrl.records import Group, Trajectory
from superrl.rollout import Environment, keyed
from superrl.runfolder import RunFolder
from superrl.sampling.protocol import Prompt

Heard = Callable[[int], None]
"""Is told of tokens that were drawn, and may raise to stop."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One model under a run's recipe; the workshop holds it."""

    recipe: Recipe
    workshop: setup.Workshop

    def draw(
        self, groups: Sequence[Group], environment: Environment, n: int, purpose: int, heard: Heard | None
    ) -> list[Group]:
        """`n` completions a problem at temperature 1, unscored. `purpose` keeps the draws apart from all others of a
        seed: rollouts have 0, evaluations 1."""
        model, tokenizer = self.workshop.model, self.workshop.tokenizer
        dtype = models.compute_dtype(self.recipe.model)
        sampler = engine.new_sampler(model, tokenizer, dtype, [environment])
        sampler.load(self._learner().weights(), version=0)
        visits = keyed(groups, (self.recipe.seed, purpose))
        prompts = [Prompt(environment.renderer.context(group.problem), n, group.key, 1.0) for group in visits]
        drawn = sampler.sample(prompts, environment.limits, heard)
        return [replace(group, trajectories=tuple(those)) for group, those in zip(visits, drawn, strict=True)]

    def logprobs(self, trajectories: Sequence[Trajectory]) -> list[tuple[float, ...]]:
        """Each token's log-probability at temperature 1; 0.0 where `loss_mask` is False."""
        return self._learner().logprobs(trajectories)

    def _learner(self) -> Learner:
        """One that never takes a step."""
        schedule = Schedule(
            OptimizerConfig(), steps=1, epochs=1, mini_batches=1,
            max_tokens_per_pack=self.recipe.stages[-1].max_tokens_per_pack, seed=0,
        )  # fmt: skip
        return Learner(self.workshop.model, models.compute_dtype(self.recipe.model), schedule)


def open_base(recipe: Recipe) -> Subject:
    """The model that a recipe starts from."""
    return Subject(recipe, setup.open_workshop(recipe.model, setup.Given(), lambda text: None))


def open_final(recipe: Recipe, run: RunFolder) -> Subject:
    """The model that a finished run ended with; RunError if its checkpoints are gone."""
    newest = checkpoint.newest(run.checkpoints, lambda text: None)
    if newest is None:
        raise RunError(f"{run.path} holds no complete checkpoint")
    final = models.load_model(recipe.model.model_copy(update={"name": str(newest.path), "lora": None}))
    tokenizer = models.load_tokenizer(recipe.model.name)
    return Subject(recipe, setup.Workshop(final, tokenizer, setup.Given(), lambda text: None))
