"""superrl from Python: `superrl.train` and `superrl.evaluate`, for those who would rather pass a function than write
YAML.

    import superrl

    def reward(prompts, completions, answer, **columns):
        return [float(text.strip().endswith(gold)) for text, gold in zip(completions, answer)]

    run = superrl.train("default", problems=rows, reward=reward, overrides=["stages.0.steps=20"])

Leaves out nothing the command line can do: overrides are the same `path.to.key=value` strings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from superrl.config import Recipe, load, parse, shipped
from superrl.data.files import Row
from superrl.data.rows import problems_of
from superrl.errors import UserError
from superrl.evaluation import evaluate_model
from superrl.records import Problem
from superrl.report import Listener
from superrl.setup import GIVEN
from superrl.training import train as run

Rows = Sequence[Problem | Mapping[str, Any]]


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe = "default",
    *,
    problems: Rows | None = None,
    reward: Callable[..., Any] | None = None,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    progress: Listener | None = None,
) -> Path:
    """Run a recipe (name, path, mapping or Recipe) and return the run folder.

    `problems` (Problems, or rows of the data format) replace `data.train`, and a shipped recipe's validation and test
    sets too unless an override names some; `reward` has TRL's signature `f(prompts,
    completions, **columns) -> list[float]` and replaces every stage's reward. A run given either can be repeated from
    Python only, and its `config.yaml` says so.
    """
    resolved = _resolved(recipe, overrides, given=problems is not None, reward=reward)
    return run(
        resolved,
        None if out is None else Path(out),
        resume=resume,
        progress=progress,
        reward=reward,
        problems=None if problems is None else as_problems(problems),
    )


def evaluate(model: str | Path, data: str, **options: Any) -> dict[str, Any]:
    """Accuracy and pass@k of a model, a model folder or a run folder on one source of data (`superrl eval`).

    Options: k, temperature, truncation, limit, max_new_tokens, reward, prompt, seed.
    """
    return evaluate_model(str(model), data, **options)


def as_problems(rows: Rows) -> list[Problem]:
    """Rows of the data format as Problems; Problems stay what they are."""
    given = [row if isinstance(row, Problem) else Row(dict(row), "problems", i) for i, row in enumerate(rows)]
    made = iter(problems_of([row for row in given if isinstance(row, Row)], Counter()))
    problems = [next(made) if isinstance(row, Row) else row for row in given]
    if not problems:
        raise UserError("problems is empty: give at least one")
    [(most, times)] = Counter(problem.id for problem in problems).most_common(1)
    if times > 1:
        raise UserError(f"the id {most!r} stands {times} times in problems: give every one an `id` of its own")
    return problems


def _resolved(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str],
    *,
    given: bool,
    reward: Callable[..., Any] | None,
) -> Recipe:
    its_own = (
        isinstance(recipe, str)
        and recipe in shipped()
        and not any(override.startswith("data.") for override in overrides)
    )
    if isinstance(recipe, str | Path):
        recipe = load(recipe, overrides)
    elif overrides:
        raise UserError("overrides go with a recipe's name or path; change the mapping itself")
    values: dict[str, Any] = dict(recipe.dump() if isinstance(recipe, Recipe) else recipe)
    if given:
        others = {} if its_own else values.get("data", {})  # a shipped recipe's own problems are of another kind
        values["data"] = {**others, "train": GIVEN}
    if reward is not None:
        named = {"name": f"python:{GIVEN}.{getattr(reward, '__qualname__', type(reward).__name__)}"}
        values["stages"] = [{**stage, "reward": named} for stage in values.get("stages", [])]
    return parse(values)
