"""From a recipe to everything a run needs, checked before anything runs: models, problems, rewards, methods.

What the recipe leaves open is filled from what a task or preset brings. Leaves out the run itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superrl import data, models, rewards
from superrl.config import EvaluationConfig, ModelConfig, PromptConfig, Recipe, StageConfig
from superrl.data.order import take, take_whole
from superrl.data.prepare import Prepared, prepare, summary
from superrl.errors import UserError
from superrl.learner.learner import Schedule
from superrl.methods import build as build_method
from superrl.methods.hooks import NEEDS, Limits, Method
from superrl.records import Group, Problem
from superrl.rollout import Environment
from superrl.sampling.protocol import SamplingLimits
from superrl.steps.meta import is_step
from superrl.text import Renderer, eos_ids
from superrl.truncation import Truncation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GIVEN = "given"
"""The name of data and rewards handed over in Python: such a run can be repeated from Python only."""

DEFAULT_MAX_NEW_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage ready to run; `groups` are its problems with their demonstrations, without rollouts. A resumed run must
    find the same `digest` of them."""

    index: int
    config: StageConfig
    method: Method
    groups: tuple[Group, ...]
    environment: Environment
    schedule: Schedule
    digest: str

    @property
    def name(self) -> str:
        """Its name in the recipe."""
        return self.config.name

    def take(self, pool: Sequence[int], start: int, count: int, seed: int) -> list[int]:
        """The indices of the groups at places start, ... of the stage's order over a `pool` of them: `count` of them,
        or in the order of trajectories as many whole ones as fit (at least one)."""
        if self.config.order == "shuffled":
            return [pool[i] for i in take(len(pool), start, count, seed=seed, stage=self.index)]
        blocks = [str(self.groups[i].problem.meta["trajectory"]) for i in pool]
        return [pool[i] for i in take_whole(blocks, start, count, seed=seed, stage=self.index)]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One set to evaluate on; `stages` are those that it judges (a validation set: those that name it, or no other)."""

    split: str
    name: str
    groups: tuple[Group, ...]
    environment: Environment
    stages: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Session:
    """All a run needs besides its folder and its state."""

    recipe: Recipe
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stages: tuple[Stage, ...]
    evaluations: tuple[Evaluation, ...]

    @property
    def tests(self) -> list[Evaluation]:
        """The test sets."""
        return [one for one in self.evaluations if one.split == "test"]

    def validation(self, stage: int) -> list[Evaluation]:
        """The sets that judge a stage."""
        return [one for one in self.evaluations if stage in one.stages]

    @property
    def environments(self) -> list[Environment]:
        """Those of all stages and evaluations."""
        return [*(stage.environment for stage in self.stages), *(one.environment for one in self.evaluations)]

    def close(self) -> None:
        """End the rewards' worker processes."""
        for environment in self.environments:
            environment.reward.close()


@dataclass(frozen=True, slots=True)
class Given:
    """What a caller in Python hands over instead of names in the recipe."""

    reward: Callable[..., Any] | None = None
    problems: Sequence[Problem] | None = None


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every stage and evaluation is built with."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    given: Given
    note: Callable[[str], None]
    folder: Path | None = None

    def environment(
        self,
        loaded: data.Loaded,
        *,
        prompt: PromptConfig | None,
        reward: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
        max_new_tokens: int | None,
        stop: Sequence[str],
        temperature: float,
        truncation: Truncation | None = None,
        where: str,
    ) -> Environment:
        """Template, limits and reward: what is asked for, else what the data bring."""
        brought = loaded.defaults
        if prompt is None:
            self._agree(loaded, "prompt", where)
            prompt = PromptConfig.model_validate(brought.get("prompt") or {})
        graded = self.given.reward or reward or brought.get("reward")
        if self.given.reward is None and was_given(graded):
            raise UserError(f"{where}: this run was given its reward in Python; call superrl.train(reward=...)")
        if graded is None:
            self._agree(loaded, "reward", where)
            raise UserError(f"{where}: no reward is named and the data bring none; add e.g. reward: {{name: math}}")
        endings = eos_ids(self.tokenizer, models.declared_ends(self.model), prompt)
        longest = max_new_tokens or brought.get("max_new_tokens") or DEFAULT_MAX_NEW_TOKENS
        return Environment(
            Renderer(self.tokenizer, prompt, endings.final),
            SamplingLimits(int(longest), tuple(stop) or tuple(brought.get("stop") or ()), truncation),
            temperature,
            rewards.build(graded, scene=rewards.Scene(prompt, str(self.model.device), self.folder)),
        )

    def prepared(
        self, loaded: data.Loaded, environment: Environment, unverified: str, name: str, max_context: int | None = None
    ) -> Prepared:
        """The groups of some data, and a line about them."""
        done = prepare(
            loaded,
            environment.renderer,
            environment.reward,
            max_new_tokens=environment.limits.max_new_tokens,
            context_length=models.context_length(self.model),
            max_context=max_context,
            unverified="keep" if unverified == "keep" else "drop",
            stop=environment.limits.stop,
        )
        self.note(f"{name}: {summary(done.report)}")
        return done

    def load(self, sources: str | Sequence[str], split: data.Split) -> data.Loaded:
        """Problems by name, or those handed over."""
        if sources == GIVEN:
            if self.given.problems is None:
                raise UserError(
                    "data.train: this run was given its problems in Python; call superrl.train(problems=...)"
                )
            return data.Loaded(tuple(self.given.problems))
        return data.load(sources, split)

    @staticmethod
    def _agree(loaded: data.Loaded, key: str, where: str) -> None:
        if key in loaded.disagree:
            raise UserError(f"{where}: the data sources bring different {key}s; name one `{key}` for the stage")


def was_given(reward: object) -> bool:
    return isinstance(reward, Mapping) and str(reward.get("name")).startswith(f"python:{GIVEN}.")


def build(
    recipe: Recipe,
    given: Given | None = None,
    note: Callable[[str], None] = lambda text: None,
    folder: Path | None = None,
) -> Session:
    """Load and check everything; the first thing wrong is a UserError. `folder` is the run's."""
    for index, stage in enumerate(recipe.stages):  # the cheapest checks first
        build_method(stage.method, Limits(stage.group_size, stage.max_new_tokens or 1), f"stages.{index}.method")
    workshop = open_workshop(recipe.model, given or Given(), note, folder)
    stages = tuple(_stage(recipe, index, workshop) for index in range(len(recipe.stages)))
    named = [recipe.data.test] if isinstance(recipe.data.test, str) else recipe.data.test
    tests = [evaluation(workshop, "test", name, recipe.evaluation, recipe.stages[-1]) for name in named]
    evaluations = (*_validations(recipe, workshop), *tests)
    _check_awaited(stages, evaluations)
    return Session(recipe, workshop.model, workshop.tokenizer, stages, evaluations)


def _validations(recipe: Recipe, workshop: Workshop) -> list[Evaluation]:
    """Every set that judges some stage, once for all stages that it judges alike: a stage's own set is evaluated under
    that stage's prompt, reward and lengths, the run's set under the last stage's."""
    judges: dict[str, tuple[str, StageConfig, set[int]]] = {}
    for index, stage in enumerate(recipe.stages):
        settings = stage if stage.validation else recipe.stages[-1]
        how = settings.model_dump_json(include={"prompt", "reward", "max_new_tokens", "stop", "max_context"})
        for name in recipe.validation_of(index):
            judges.setdefault(f"{name} {how}", (name, settings, set()))[2].add(index)
    return [
        replace(evaluation(workshop, "validation", name, recipe.evaluation, settings), stages=frozenset(stages))
        for name, settings, stages in judges.values()
    ]


def open_workshop(
    model: ModelConfig, given: Given, note: Callable[[str], None], folder: Path | None = None
) -> Workshop:
    """Tokenizer and model by their recipe; `folder` is that of the run they are for."""
    tokenizer = models.load_tokenizer(model.name)
    return Workshop(models.load_model(model), tokenizer, given, note, folder)


def _check_awaited(stages: Sequence[Stage], evaluations: Sequence[Evaluation]) -> None:
    """What a reward waits for must have been written when it is asked."""
    written: set[str] = set()
    for stage in stages:
        if missing := sorted(stage.environment.reward.awaits - written):
            raise UserError(
                f"stages.{stage.index}.reward: no stage before it writes run:{missing[0]}; put one with method: "
                f"{{name: {missing[0]}}} there, or give a path"
            )
        written |= {stage.method.keeps} if stage.method.keeps else set()
    if awaited := sorted({name for one in evaluations for name in one.environment.reward.awaits}):
        raise UserError(
            f"evaluation.reward: run:{awaited[0]} is not there yet when the run is first evaluated; name the task's "
            "own reward there"
        )


def _stage(recipe: Recipe, index: int, workshop: Workshop) -> Stage:
    config = recipe.stages[index]
    where = f"stages.{index}"
    loaded = workshop.load(config.train or recipe.data.train, "train")
    environment = workshop.environment(
        loaded,
        prompt=config.prompt,
        reward=config.reward,
        max_new_tokens=config.max_new_tokens,
        stop=config.stop,
        temperature=config.temperature,
        truncation=config.truncation,
        where=where,
    )
    method = build_method(
        config.method, Limits(config.group_size, environment.limits.max_new_tokens), f"{where}.method"
    )
    assert method.needs <= NEEDS, f"{config.method['name']} needs {method.needs - NEEDS}, which nobody computes"
    if config.refill is not None and method.rolls_out and not method.takes_refill:
        raise UserError(
            f"{where}.refill: {config.method['name']} judges whole batches, which dynamic sampling would sift: "
            "leave refill out"
        )
    if config.staleness and not method.takes_staleness:
        raise UserError(
            f"{where}.staleness: {config.method['name']} decides before the rollouts what is learnt from them, which "
            "rolling out ahead would part: leave staleness out"
        )
    if method.needs_correct and not environment.reward.gives_correct:
        raise UserError(
            f"{where}.reward never says what is correct, which the gate of {config.method['name']} reads: set "
            "`correct_at`, the value from which a completion counts as correct"
        )
    if method.keeps:
        models.classifier_of(workshop.model)
    done = workshop.prepared(loaded, environment, recipe.data.unverified, f"stage {config.name}", config.max_context)
    groups = done.groups
    if not method.rolls_out:
        groups = tuple(group for group in groups if group.demonstrations)
        if not groups:
            raise UserError(
                f"{where}: method {config.method['name']} learns from demonstrations, and the data leave none: "
                f"{summary(done.report)}"
            )
    if config.order == "trajectory":
        _check_blocks(groups, where)
    return Stage(index, config, method, groups, environment, _schedule(recipe, config), digest_of(groups))


def _check_blocks(groups: Sequence[Group], where: str) -> None:
    """The order of trajectories needs steps of trajectories, those of one together."""
    names = [group.problem.meta.get("trajectory") for group in groups]
    if not all(is_step(group.problem.meta) for group in groups):
        raise UserError(
            f"{where}.order: trajectory needs steps of trajectories: give `steps:` data, or leave order out"
        )
    if len(list(groupby(names))) > len(set(names)):
        raise UserError(
            f"{where}.order: trajectory: the steps of a trajectory do not stand together in the data: sort the rows by "
            "`trajectory` and `step`, or leave order out"
        )


def digest_of(groups: Sequence[Group]) -> str:
    """A fingerprint of problems and demonstrations, in order."""
    problems = ((g.problem, [d.text for d in g.demonstrations]) for g in groups)
    told = ((p.id, p.messages, p.answer, texts, *filter(None, [p.opening])) for p, texts in problems)
    return sha256("\n".join(map(repr, told)).encode(errors="replace")).hexdigest()


def _schedule(recipe: Recipe, config: StageConfig) -> Schedule:
    return Schedule(
        optimizer=config.optimizer,
        steps=config.steps,
        epochs=config.epochs,
        mini_batches=config.mini_batches,
        max_tokens_per_pack=config.max_tokens_per_pack,
        seed=recipe.seed,
        streams_every=recipe.log.streams_every,
        importance_cap=recipe.sampler.importance_cap,
    )


def evaluation(
    workshop: Workshop, split: str, name: str, settings: EvaluationConfig, last: StageConfig | None = None
) -> Evaluation:
    """A validation or test set under the evaluation's own prompt, reward and length, else the last stage's, else its
    own.
    """
    loaded = workshop.load(name, "validation" if split == "validation" else "test")
    environment = workshop.environment(
        loaded,
        prompt=settings.prompt or (last.prompt if last else None),
        reward=settings.reward or (last.reward if last else None),
        max_new_tokens=settings.max_new_tokens or (last.max_new_tokens if last else None),
        stop=last.stop if last else (),
        temperature=settings.temperature,
        truncation=settings.truncation,
        where="evaluation",
    )
    few = loaded.problems[: settings.limit]
    bare = replace(loaded, problems=tuple(replace(problem, demonstrations=()) for problem in few), dropped={})
    longest = last.max_context if last else None
    groups = workshop.prepared(bare, environment, "keep", f"{split} {name}", longest).groups
    return Evaluation(split, name, groups, environment)
