"""The loop: take problems, roll out, score, decide, learn, hand the new weights to the sampler, record.

`train` runs a recipe from its first step or from where its folder stands. All that changes is the learner, the
sampler and a `Position`; interrupted and resumed is the same run, byte for byte on one machine. Of several processes
(`parallel`) every one is in this loop with the same records; only the first writes and speaks. Leaves out everything a
method, reward or task decides.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from superrl import checkpoint, models, parallel, persistence, setup, telemetry
from superrl.beside import beside
from superrl.config import Recipe
from superrl.drawing import collect
from superrl.errors import Interrupted
from superrl.evaluation import evaluate
from superrl.learner.offset import GAP, check_gap
from superrl.learner.optimizer import scheduled_lr
from superrl.metrics import Means, row
from superrl.opening import Run, Told, divided, keeps_reference, open_folder, open_run
from superrl.page import page
from superrl.parallel import World
from superrl.position import Batch, Position
from superrl.process import settled
from superrl.records import Group, Plan, Problem, StepRecord
from superrl.report import Listener, Silent
from superrl.runfolder import RunFolder
from superrl.saving import keep_classifier, keep_reference, rescue, save
from superrl.setup import Evaluation, Given, Session, Stage
from superrl.signals import Signals, listening
from superrl.summary import mark, summarize
from superrl.timing import Clock
from superrl.trackers import Tracker, open_trackers
from superrl.visits import visit_rows


def train(
    recipe: Recipe,
    out: Path | None = None,
    *,
    resume: bool = False,
    progress: Listener | None = None,
    reward: Callable[..., Any] | None = None,
    problems: Sequence[Problem] | None = None,
) -> Path:
    """Run a recipe in the folder `out` and return it. With `resume`, continue the run that is there."""
    with parallel.opened(recipe.model.device, recipe.parallel.timeout) as world, listening() as signals:
        progress = progress if progress is not None and world.rank == 0 else Silent()
        folder, resume = open_folder(recipe, out, resume, world)
        progress.note(f"run folder: {folder.path}")
        session = world.together(lambda: setup.build(recipe, Given(reward, problems), progress.note, folder.path))
        try:
            with settled(session.model.device.type):
                _train(recipe, divided(session, world), folder, progress, signals, resume, world)
        finally:
            session.close()
    return folder.path


def _train(
    recipe: Recipe, session: Session, folder: RunFolder, progress: Listener, signals: Signals,
    resume: bool, world: World,
) -> None:  # fmt: skip
    """What a run holds is gone with it when it returns: learner, sampler, groups."""
    trackers: list[Tracker] = []
    try:
        names = recipe.log.trackers if world.rank == 0 else []
        trackers = world.together(lambda: open_trackers(names, folder.path, recipe.dump()))
        run, position = open_run(session, folder, progress, signals, trackers, resume, world)
        try:
            world.together(lambda: folder.write_recipe(recipe))
            _run_stages(run, position)
        finally:
            run.sampler.close()
    finally:
        for tracker in trackers:
            tracker.close()


def dry_run(recipe: Recipe) -> str:
    """Validate everything, render one problem, write nothing: what a person reads before a run."""
    lines: list[str] = []
    session = setup.build(recipe, note=lines.append)
    session.close()
    for stage in session.stages:
        group = next((g for g in stage.groups if g.demonstrations), stage.groups[0])
        context = stage.environment.renderer.context(group.problem)
        lines += [
            f"stage {stage.name}, problem {group.problem.id}:",
            f"  prompt: {session.tokenizer.decode(context)!r}",
        ]
        lines += [f"  demonstration: {one.text!r}" for one in group.demonstrations[:1]]
    return "\n".join([recipe.text(), *lines])


def _run_stages(run: Run, position: Position) -> None:
    started = time.monotonic() - position.seconds
    try:
        for stage in run.session.stages[position.stage :]:
            if _spent(run, position) and stage.config.steps and stage.index > position.stage:
                continue  # a stage of no steps costs nothing: `from: best` keeps the best model
            position = _enter(run, stage, position)
            _agree_on_weights(run, stage)
            if stage.config.staleness and stage.config.steps:
                run.world.together(stage.environment.reward.open)  # rewards are asked beside the training
            while not _finished(run, stage, position := _look(run, stage, position)):
                position, told = train_step(run, stage, position)
                position = replace(position, seconds=run.world.first(lambda: time.monotonic() - started))
                run.tell(told)
                if told.failed is not None:
                    raise told.failed
            save(run, position)
            if stage.method.keeps:
                keep_classifier(run, stage.method.keeps)
        _write_evaluations(run, _evaluate(run, position, run.session.tests))
    except Exception as error:
        rescue(run, position, error)
        raise
    run.world.first(lambda: _close(run, replace(position, seconds=time.monotonic() - started)))


def _close(run: Run, position: Position) -> None:
    """Write what is written once, at the end."""
    summary = summarize(run.folder.rows("evaluations.jsonl"), run.folder.rows("metrics.jsonl"), position)
    run.folder.write_summary(summary)
    run.folder.write_report(page(run.folder.path))
    run.progress.finish(summary, run.folder.path)


def train_step(run: Run, stage: Stage, position: Position) -> tuple[Position, Told]:
    """One step of the loop: where the run stands after it, and what there is to tell."""
    clock = Clock()
    run.progress.phase("rolling out", stage.config.prompts_per_step * stage.config.group_size)
    batch = position.ahead or collect(run, stage, position, run.heard)
    clock.add(batch.seconds)
    stage.method.check_drawn(batch.drawn, position.method_state)
    run.progress.phase("training", len(batch.groups))
    rolls_ahead = _rolls_ahead(run, stage, position.after(batch))
    if rolls_ahead is None:
        run.sampler.sleep()
    with beside(rolls_ahead) as ahead:
        with clock("train"):
            groups, plan, means = learn(run, stage, position, batch.groups)
        following, failed = ahead()
    position = replace(position.after(batch), ahead=following)
    with clock("sync"):
        run.sampler.load(run.learner.weights(), position.step)
    metrics = row(describe(run, stage, position, groups, batch, plan, means))
    run.world.same(json.dumps(metrics), f"the metrics of step {position.step}")
    timing = clock.row(position.step, stage.name, metrics)
    shown = telemetry.rollout_rows(groups, plan, run.session.recipe.log.rollouts_per_step)
    seen = visit_rows(groups, batch.drawn, position.carried, plan)
    run.folder.append("rollouts.jsonl", *({"step": position.step, "stage": stage.name, **line} for line in shown))
    run.folder.append("visits.jsonl", *({"step": position.step, "stage": stage.name, **line} for line in seen))
    run.folder.append("metrics.jsonl", metrics)
    run.folder.append("timing.jsonl", timing)
    record = StepRecord(position.step, telemetry.numbers(metrics), plan.decisions)
    state = stage.method.after_step(record, groups, position.method_state)
    position = replace(position.counting(metrics), method_state=state, lengths=run.folder.lengths())
    return position, Told(metrics, timing, failed)


def _rolls_ahead(run: Run, stage: Stage, following: Position) -> Callable[[], Batch] | None:
    """What may go on beside a step's training: collecting the batch of the step that is `following`, with the weights
    of before. Who wants to stop the run waits until it is complete, for no resumed run has these weights again."""

    def heard(tokens: int) -> None:
        with suppress(Interrupted):
            run.progress.tokens(tokens)

    goes_on = following.stage_step < stage.config.steps and stage.method.rolls_out
    if not (stage.config.staleness and goes_on):
        return None
    return partial(collect, run, stage, following, heard)


def learn(run: Run, stage: Stage, position: Position, groups: Sequence[Group]) -> tuple[list[Group], Plan, Means]:
    """Decide about the groups and take the updates that follow; the annotated groups, the decisions, what happened."""
    annotated = run.learner.annotate(groups, stage.method.needs, _teachers(run, stage, position, groups))
    plan = stage.method.plan(annotated, position.method_state)
    if not run.world.alone:
        run.world.same(telemetry.fingerprint(plan), f"what to learn in step {position.step + 1}")
    unseen = telemetry.untrained(annotated, plan.updates)
    drift = run.learner.drift([trajectory for trajectory, _ in unseen])
    means = run.learner.step(plan.updates, stage.method, version=position.step)
    for (kl, gap), (trajectory, stands_for) in zip(drift, unseen, strict=True):  # what is not trained counts too
        means.add("policy/kl", kl * stands_for, float(trajectory.length * stands_for))
        means.add("policy/clip_fraction", 0.0, float(trajectory.length * stands_for))
        if trajectory.version == position.step:
            means.add(GAP, gap * stands_for, float(trajectory.length * stands_for))
    check_gap(means, run.session.recipe.sampler.max_gap, position.step + 1)
    return annotated, plan, means


def _teachers(run: Run, stage: Stage, position: Position, groups: Sequence[Group]) -> list[tuple[int, ...] | None]:
    """What the policy reads where it is its own teacher, as tokens; None for the groups that it does not teach, and
    where that and a completion would not fit its context."""
    asked = [stage.method.teacher(group, position.method_state) for group in groups]
    render, longest = stage.environment.renderer.context, stage.environment.limits.max_new_tokens
    contexts = [m if m is None else render(g.problem, messages=m) for g, m in zip(groups, asked, strict=True)]
    room = models.context_length(run.session.model) - longest
    return [None if context is None or len(context) > room else context for context in contexts]


def describe(
    run: Run,
    stage: Stage,
    position: Position,
    groups: Sequence[Group],
    batch: Batch,
    plan: Plan,
    means: Means,
) -> dict[str, Any]:
    """The step's metrics: of the policy by all groups drawn for it, of the decisions by the groups trained on."""
    rolled = telemetry.of_groups(batch.drawn) | telemetry.of_decisions(groups, plan.decisions)
    parts = stage.environment.reward.part_names if stage.method.rolls_out else ()
    return {
        **{f"method/{name}": value for name, value in {**batch.asked, **plan.metrics}.items()},
        **{f"score/{name}": None for name in parts},
        **telemetry.of_learner(means, ("pg", "sft") if stage.method.rolls_out else ("sft",)),
        **(rolled if stage.method.rolls_out else {"groups/trained": float(len(groups))}),
        **telemetry.of_samples(plan.updates),
        "policy/staleness": telemetry.staleness(groups, position.step - 1),
        "step": position.step,
        "stage": stage.name,
        "stage_step": position.stage_step,
        "groups/drawn": len(batch.drawn),
        "epoch": position.cursor / len(stage.groups),
        "lr": scheduled_lr(stage.config.optimizer, position.stage_step - 1, stage.config.steps),
        "updates": position.updates + run.learner.progress.updates,
        "updates/refused": position.refused + run.learner.progress.refused,
    }


def _enter(run: Run, stage: Stage, position: Position) -> Position:
    """The position at the start of a stage: a fresh optimizer, critic, cursor and method state, and the weights it
    starts from, which are kept if they are its reference policy.
    """
    if position.stage == stage.index and position.stage_step > 0:
        return position  # resumed inside it
    source = stage.config.from_ if stage.index else "previous"
    if source == "initial" or (source == "best" and position.best_step == 0):
        initial = models.load_model(run.session.recipe.model)
        persistence.set_weights(run.learner, initial.state_dict(), run.session.recipe.model.name)
    elif source == "best" and position.best_step is not None:
        persistence.load_weights(run.learner, checkpoint.at(run.folder.checkpoints, position.best_step).path)
    done = run.learner.progress
    run.learner.begin(stage.schedule, stage.method.critic, keeps_reference(stage))
    judges, before = (run.session.validation(one) for one in (stage.index, position.stage))
    position = position.at_stage(stage.index, stage.method.initial_state(), done.updates, done.refused)
    if list(map(id, judges)) != list(map(id, before)):
        position = replace(position, best=None, best_step=None, evaluated=-1)
    if run.learner.reference is not None:
        keep_reference(run, position)
    run.sampler.load(run.learner.weights(), position.step)
    return position


def _agree_on_weights(run: Run, stage: Stage) -> None:
    """Ranks that began with other weights would learn something else together than any of them shows."""
    if not run.world.alone and not run.learner.is_split:
        sums = [float(parameter.detach().double().sum()) for _, parameter in run.learner.trainable()]
        run.world.same(repr(sums), f"the weights that stage {stage.name} goes on from")


def _look(run: Run, stage: Stage, position: Position) -> Position:
    """Between steps: evaluate and save where the recipe says so, and leave if a signal has arrived."""
    run.world.together(run.signals.check)
    recipe, best_before = run.session.recipe, position.best_step
    every, saves = recipe.evaluation.every, recipe.checkpoint.every
    last = position.stage_step == stage.config.steps or _spent(run, position)
    validates = bool(every) and (position.step % every == 0 or last or position.evaluated < 0)
    if position.evaluated < position.step and (validates or position.step == 0):
        rows = _evaluate(run, position, run.session.tests) if position.step == 0 else []
        validation = _evaluate(run, position, run.session.validation(stage.index)) if validates else []
        _write_evaluations(run, rows + validation)
        position = replace(_judged(position, validation), lengths=run.folder.lengths())
    if position.stage_step and (position.best_step != best_before or (saves and position.step % saves == 0)):
        save(run, position)
    return position


def _finished(run: Run, stage: Stage, position: Position) -> bool:
    patience = run.session.recipe.evaluation.patience
    waited = patience is not None and position.waited >= patience
    return position.stage_step >= stage.config.steps or waited or _spent(run, position)


def _spent(run: Run, position: Position) -> bool:
    """Whether the run's budget is used up: no step follows, in no stage."""
    return run.session.recipe.budget.spent(position.generated, position.seconds)


def _judged(position: Position, rows: Sequence[Mapping[str, Any]]) -> Position:
    """A better mean validation accuracy (mean reward where nothing is judged) is the new best; the earliest on ties."""
    position = replace(position, evaluated=position.step)
    starts_later = position.step > 0 and position.stage_step == 0  # a stage's first weights have no checkpoint here
    if not rows or starts_later:
        return position
    found = sum(map(mark, rows)) / len(rows)
    if position.best is None or found > position.best:
        position = replace(position, best=found, best_step=position.step)
    if position.stage_best is None or found > position.stage_best:
        return replace(position, stage_best=found, waited=0)
    return replace(position, waited=position.waited + 1)


def _evaluate(run: Run, position: Position, sets: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """A row for every set; nothing is written yet, so that an interruption leaves no half of one."""
    rows = []
    k, seed = run.session.recipe.evaluation.k, run.session.recipe.seed
    for wanted in sets:
        run.progress.phase("evaluating", len(wanted.groups) * k)
        found = evaluate(wanted.groups, wanted.environment, run.sampler, k=k, seed=seed, heard=run.heard)
        rows.append({"step": position.step, "split": wanted.split, "data": wanted.name, **found})
    return rows


def _write_evaluations(run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    run.folder.append("evaluations.jsonl", *rows)
    for line in rows:
        run.progress.evaluation(line)
