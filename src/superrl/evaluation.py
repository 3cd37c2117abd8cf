"""Accuracy and pass@k of a model on problems it does not learn from.

Leaves out choosing by the numbers: validation accuracy picks the best checkpoint in `training.py`, test accuracy
nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from superrl.checkpoint import model_of
from superrl.complaint import explain
from superrl.config import EvaluationConfig, ModelConfig, PromptConfig, StageConfig, load
from superrl.errors import UserError
from superrl.learner.copies import named_weights
from superrl.metrics import mean
from superrl.records import Group, Request
from superrl.rollout import Environment, Listener, keyed, roll_out, score
from superrl.sampling.protocol import Sampler
from superrl.steps.meta import is_step

EVALUATION = 1
"""The purpose in an evaluation's seed keys (rollouts have 0): (seed, EVALUATION, problem, occurrence)."""
BY_PARTS = ("similarity", "exact", "format", "tool", "file")
"""The parts of a step's score that are told apart by step and by tool."""
SHOWN = 20
"""So many lines of such a table are shown at most."""


def evaluate(
    groups: Sequence[Group],
    environment: Environment,
    sampler: Sampler,
    *,
    k: int,
    seed: int,
    heard: Listener | None = None,
) -> dict[str, Any]:
    """Draw k completions a problem and score them.

    accuracy: mean correctness over all samples (None if the reward does not judge); pass@k: unbiased; ci95: Wilson
    interval of the accuracy with n = problems, conservative for k > 1; reward: mean value; parts: the means of what the
    reward tells apart, if it does; by: for steps of trajectories the same by number of the step, and by tool.
    """
    visits = keyed([replace(group, trajectories=()) for group in groups], (seed, EVALUATION))
    requests = [(Request(k),) for _ in visits]
    scored = score(roll_out(requests, visits, environment, sampler, heard), environment)
    judged = all(s.correct is not None for group in scored for s in group.scores)
    correct = [sum(bool(s.correct) for s in group.scores) for group in scored] if judged else []
    accuracy = mean(c / k for c in correct)
    return {
        "accuracy": accuracy,
        "pass@1": accuracy,
        "pass@k": mean(pass_at_k(k, c, k) for c in correct),
        "ci95": None if accuracy is None else wilson(accuracy, len(correct)),
        "n": len(scored),
        "k": k,
        "reward": mean(s.value for group in scored for s in group.scores),
        "length": mean(float(t.length) for group in scored for t in group.trajectories),
        **({"parts": parts} if (parts := _parts(scored)) else {}),
        **_by_step_and_tool(scored),
    }


def _parts(groups: Sequence[Group]) -> dict[str, float]:
    """The mean of every part of the scores over the rollouts that have it."""
    told: defaultdict[str, list[float]] = defaultdict(list)
    for group in groups:
        for one in group.scores:
            for name, value in one.parts.items():
                told[name].append(value)
    return {name: sum(values) / len(values) for name, values in told.items()}


def _by_step_and_tool(groups: Sequence[Group]) -> dict[str, Any]:
    """For problems that are steps of trajectories: n, reward and means of `BY_PARTS`, by number of the step, and by
    tool, the most frequent first."""
    steps: defaultdict[int, list[Group]] = defaultdict(list)
    tools: defaultdict[str, list[Group]] = defaultdict(list)
    for group in groups:
        if not is_step(group.problem.meta):
            continue
        steps[group.problem.meta["step"]].append(group)
        tool = group.problem.meta.get("tool")
        if isinstance(tool, str) and tool:
            tools[tool].append(group)
    if not steps:
        return {}
    ranked = sorted(tools, key=lambda tool: (-len(tools[tool]), tool))
    return {
        "by": {
            "step": {str(number): _figures(steps[number]) for number in sorted(steps)},
            "tool": {tool: _figures(tools[tool]) for tool in ranked},
        }
    }


def _figures(groups: Sequence[Group]) -> dict[str, Any]:
    """One line of such a table; n counts problems."""
    parts = {name: value for name, value in _parts(groups).items() if name.rpartition("/")[2] in BY_PARTS}
    return {"n": len(groups), "reward": mean(one.value for group in groups for one in group.scores), **parts}


def step_tables(by: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The table by step and, where some step calls one, by tool: at most 80 columns wide."""
    return "\n\n".join(_table(column, rows) for column, rows in by.items() if rows)


def _table(column: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    known = {name for row in rows.values() for name in row}
    names = ["reward", *(name for part in BY_PARTS for name in sorted(known) if name.rpartition("/")[2] == part)]
    widths = {name: max(9, len(name.rpartition("/")[2]) + 1) for name in names}
    lines = [f"{column:16}{'n':>8}" + "".join(f"{n.rpartition('/')[2]:>{width}}" for n, width in widths.items())]
    for kind, row in list(rows.items())[:SHOWN]:
        cells = (f"{row[n]:{w}.3f}" if row.get(n) is not None else f"{'-':>{w}}" for n, w in widths.items())
        lines.append(f"{kind:15.15} {row['n']:8,}" + "".join(cells))
    more = len(rows) - SHOWN
    return "\n".join([*lines, *([f"... and {more:,} more: --out writes them all"] if more > 0 else [])])


def pass_at_k(n: int, correct: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the unbiased estimate from n samples (arXiv:2107.03374 eq. 1).

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def wilson(p: float, n: int, z: float = 1.959964) -> list[float]:
    """The Wilson score interval of a proportion p of n.

    >>> [round(x, 3) for x in wilson(0.5, 100)]
    [0.404, 0.596]
    """
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return [max(0.0, center - half), min(1.0, center + half)]


def evaluate_model(
    model: str,
    data: str,
    *,
    k: int = 1,
    temperature: float = 0.0,
    truncation: Any = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    reward: Any = None,
    prompt: PromptConfig | None = None,
    seed: int = 0,
    heard: Listener | None = None,
) -> dict[str, Any]:
    """`superrl eval`: a model on one source of data, by the reward, prompt and length given, else the data's own.

    A run folder stands for its newest checkpoint and is evaluated as the run evaluates: its last stage's settings come
    before the data's. `reward` is a recipe's mapping or a Python function, `truncation` a recipe's mapping.
    """
    from superrl import engine, models, setup

    config, last = ModelConfig(name=model_of(model)), _last_stage(model)
    function = reward if callable(reward) else None
    try:
        settings = EvaluationConfig(
            k=k,
            limit=limit,
            temperature=temperature,
            truncation=truncation,
            max_new_tokens=max_new_tokens,
            prompt=prompt,
            reward=None if function else reward,
        )
    except ValidationError as error:
        raise UserError(explain(error, EvaluationConfig, "evaluate")) from None
    folder = Path(model) if last else None
    workshop = setup.open_workshop(config, setup.Given(reward=function), lambda text: None, folder)
    wanted = setup.evaluation(workshop, "test", data, settings, last)
    with wanted.environment.reward:
        sampler = engine.new_sampler(
            workshop.model, workshop.tokenizer, models.compute_dtype(config), [wanted.environment]
        )
        sampler.load(dict(named_weights(workshop.model)), version=0)
        row = evaluate(wanted.groups, wanted.environment, sampler, k=k, seed=seed, heard=heard)
    cut = None if settings.truncation is None else settings.truncation.model_dump(exclude_none=True)
    return {"model": model, "data": data, "temperature": temperature, "truncation": cut, "seed": seed, **row}


def _last_stage(model: str) -> StageConfig | None:
    """The last stage of a run folder's recipe as the run evaluates it, without a reward that only existed in Python."""
    from superrl.setup import was_given

    recipe = Path(model) / "config.yaml"
    if not recipe.is_file():
        return None
    whole = load(recipe)
    own = {key: getattr(whole.evaluation, key) for key in ("prompt", "reward", "max_new_tokens")}
    stage = whole.stages[-1].model_copy(update={key: value for key, value in own.items() if value is not None})
    return stage.model_copy(update={"reward": None}) if was_given(stage.reward) else stage
