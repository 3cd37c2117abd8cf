"""How a run is opened: its folder, its session, learner, sampler and position, fresh or from a checkpoint.

Of several processes each opens its own; what they share is made one here: rewards, sampler, the folder that only the
first writes to. Leaves out what is done with them (`training`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from superrl import engine, models, parallel, persistence, runfolder
from superrl.config import Recipe
from superrl.errors import UserError
from superrl.learner.learner import Learner
from superrl.parallel import ALONE, World
from superrl.position import Position, restore
from superrl.report import Listener
from superrl.rewards.divided import DividedReward
from superrl.rollout import Environment
from superrl.runfolder import RunFolder, Unwritten
from superrl.sampling.protocol import Sampler
from superrl.sampling.sharded import ShardedSampler
from superrl.setup import Session, Stage
from superrl.signals import Signals
from superrl.trackers import Tracker, tell


@dataclass(frozen=True, slots=True)
class Told:
    """A step's rows of metrics.jsonl and timing.jsonl. `failed`: what went wrong beside it, in the next step's
    rollouts; the step itself is whole."""

    metrics: Mapping[str, Any]
    timing: Mapping[str, Any]
    failed: Exception | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What the loop works with; only learner and sampler change."""

    session: Session
    folder: RunFolder
    learner: Learner
    sampler: Sampler
    progress: Listener
    signals: Signals
    trackers: Sequence[Tracker] = ()
    world: World = ALONE

    def heard(self, tokens: int) -> None:
        """Tokens were drawn: show it, and leave if a signal has arrived (no state is touched while sampling)."""
        self.progress.tokens(tokens)
        self.signals.check()

    def tell(self, told: Told) -> None:
        """Show a finished step to the person and the trackers; what goes wrong here costs no step."""
        tell(self.trackers, told.metrics)
        self.progress.step(told.metrics, told.timing)


def open_folder(recipe: Recipe, out: Path | None, resume: bool, world: World) -> tuple[RunFolder, bool]:
    """The run's folder, and whether the run in it is continued: also where torchrun may have started it again."""

    def prepared() -> tuple[Path, bool]:
        path = out or runfolder.default_path(recipe.stages[-1].name)
        again = resume or (parallel.restarts() and (path / "config.yaml").is_file())
        return (runfolder.reopen(path, recipe) if again else runfolder.create(path)).path, again

    def seen() -> None:
        if not path.is_dir():
            raise UserError(f"--out {path} is not there for every process: take a folder on a disk that all share")

    path, again = world.first(prepared)
    world.together(seen)
    return RunFolder(path) if world.rank == 0 else Unwritten(path), again


def divided(session: Session, world: World) -> Session:
    """The session with rewards that are shared among the ranks; what does not go with split weights is refused."""
    if world.alone:
        return session
    if session.recipe.parallel.strategy == "shard":
        wanted = "model.lora" if session.recipe.model.lora else None
        wanted = next((f"stage {one.name}, which has a critic" for one in session.stages if one.method.critic), wanted)
        if wanted:
            raise UserError(f"parallel.strategy: shard does not serve {wanted}: use replicate")

    def shared(environment: Environment) -> Environment:
        return replace(environment, reward=DividedReward(environment.reward, world.aside))

    return replace(
        session,
        stages=tuple(replace(one, environment=shared(one.environment)) for one in session.stages),
        evaluations=tuple(replace(one, environment=shared(one.environment)) for one in session.evaluations),
    )


def open_run(
    session: Session,
    folder: RunFolder,
    progress: Listener,
    signals: Signals,
    trackers: Sequence[Tracker],
    resume: bool,
    world: World = ALONE,
) -> tuple[Run, Position]:
    """Learner, sampler and position, fresh or from the newest complete checkpoint."""
    saved = world.first(lambda: persistence.newest(folder, progress.note)) if resume else None
    stage = session.stages[saved.state["position"]["stage"] if saved else 0]
    position = restore(saved.state["position"], stage.groups) if saved else Position()
    if saved and saved.state["data"] != stage.digest:
        raise UserError(f"--resume: the data of stage {stage.name} are not those of the run in {folder.path}")
    if saved and session.recipe.model.lora:
        persistence.check_adapters(saved.path)
    inside = position.stage_step > 0
    kept = inside and keeps_reference(stage)
    reference = world.first(lambda: persistence.find_reference(folder, position)) if kept else None
    if resume:
        world.first(lambda: persistence.rewind(folder, saved))
    dtype = models.compute_dtype(session.recipe.model)
    learner = Learner(session.model, dtype, stage.schedule, world=world)
    if not learner.shares:
        progress.note(f"{session.recipe.model.name} cannot be trained over a prefix forest: one sequence a row")
    bounds = [stage.max_context for stage in session.recipe.stages]
    longest = None if None in bounds else max(bound for bound in bounds if bound is not None)
    sampler = _sampler(session, dtype, longest, world)
    if session.recipe.parallel.strategy == "shard" and not world.alone:
        learner.split()
    if saved:
        persistence.load_weights(learner, saved.path)
        if inside:
            learner.begin(stage.schedule, stage.method.critic, reference is not None)
        persistence.load_trainer(learner, saved)
        if reference is not None:
            persistence.load_reference(learner, reference)
        progress.note(f"resuming after step {position.step}")
    sampler.load(learner.weights(), position.step)
    return Run(session, folder, learner, sampler, progress, signals, trackers, world), position


def _sampler(session: Session, dtype: torch.dtype, longest: int | None, world: World) -> Sampler:
    """The recipe's engine; of several processes each has one, but only the first asks a server."""
    config = session.recipe.sampler
    if config.engine == "vllm" and config.url is None and not world.alone:
        raise UserError("sampler: beside several processes vLLM is a server: start one and name its sampler.url")

    def one() -> Sampler:
        return engine.new_sampler(session.model, session.tokenizer, dtype, session.environments, longest, config)

    if world.alone:
        return one()
    asks = world.rank == 0 or config.url is None
    return ShardedSampler(world.together(lambda: one() if asks else None), world.aside)


def keeps_reference(stage: Stage) -> bool:
    """Whether the stage's method reads the reference policy."""
    return "logp_ref" in stage.method.needs
