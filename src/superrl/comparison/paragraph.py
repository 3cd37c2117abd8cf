"""methods.md: a comparison as the methods section of a paper would tell it, in plain text that can be quoted.

Every number is read from the comparison's folder: its plan, what tuning chose, the runs' own recipes and evaluations,
and the versions they were made with. Leaves out results, and any word about what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from superrl.comparison.plan import JUDGED_BY
from superrl.comparison.results import SETS, Results, Run
from superrl.comparison.statistics import LEVEL
from superrl.comparison.tables import count
from superrl.comparison.work import MADE_WITH
from superrl.config import OptimizerConfig, Recipe, StageConfig, load
from superrl.metrics import mean
from superrl.runfolder import RunFolder

LONG = 6
"""Lists of a method's options with more values are counted and not told."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What stands in the folder besides the results: the plan's file; by (setting, arm) the recipe of one finished run;
    by setting how many problems and completions each of its test sets was evaluated with; all sets of versions."""

    plan: Mapping[str, Any]
    recipes: Mapping[tuple[str, str], Recipe]
    sizes: Mapping[tuple[str, str], tuple[int, int]]
    versions: tuple[Mapping[str, Any], ...]


def methods(results: Results) -> str:
    """The whole of methods.md."""
    facts = gather(results)
    if not facts.recipes:
        return "No run has finished whose recipe is there, so there is nothing to tell yet.\n"
    parts = [_question(results), _models(results, facts), _arms(results, facts), _budget(results, facts)]
    parts += [_tuning(results, facts), _evaluation(results, facts), _statistics(results), _software(results, facts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def gather(results: Results) -> Facts:
    """Read what the text needs from the comparison's folder."""
    recipes: dict[tuple[str, str], Recipe] = {}
    sizes: dict[tuple[str, str], tuple[int, int]] = {}
    versions: list[Mapping[str, Any]] = []
    for run in results.runs:
        folder = results.folder / "runs" / run.setting / run.arm / f"seed-{run.seed}"
        made = folder / MADE_WITH
        found = json.loads(made.read_text(encoding="utf-8")) if made.is_file() else {}
        versions += [found] if found not in versions else []
        if (run.setting, run.arm) not in recipes and (folder / "config.yaml").is_file():
            recipes[run.setting, run.arm] = load(folder / "config.yaml")
            sizes |= {(run.setting, data): size for data, size in _sizes(folder).items()}
    plan = yaml.safe_load((results.folder / "comparison.yaml").read_text(encoding="utf-8"))
    return Facts(plan, recipes, sizes, tuple(versions))


def _sizes(folder: Path) -> dict[str, tuple[int, int]]:
    rows = RunFolder(folder).rows("evaluations.jsonl")
    return {row["data"]: (int(row["n"]), int(row.get("k") or 1)) for row in rows}


def _question(results: Results) -> str:
    plan = results.plan
    others = [arm for arm in plan.arms if arm != plan.treatment]
    return (
        f"We compare {plan.treatment} with {listed(others) or 'nothing else'} "
        f"in {counted(len(plan.settings), 'setting')} ({listed(plan.settings)})."
    )


def _models(results: Results, facts: Facts) -> str:
    """Base model and data of every setting; settings that share them are told together."""
    told: dict[str, list[str]] = {}
    for setting, columns in results.plan.settings.items():
        recipe = _recipe(facts, setting, results.plan.treatment)
        if recipe is None:
            continue
        tests = [f"{column} (`{data}`, {_problems(facts, setting, data)})" for column, data in columns.items()]
        validation = [f"`{name}` ({size})" if (size := _problems(facts, setting, name)) else f"`{name}`"
                      for name in _names(recipe.data.validation)]  # fmt: skip
        text = (
            f"{_model(recipe)} learns from {listed(f'`{name}`' for name in _names(recipe.data.train))}; "
            f"{f'validation is on {listed(validation)}' if validation else 'there is no validation set'}, "
            f"{'the test set is' if len(tests) == 1 else 'test sets are'} {listed(tests)}."
        )
        told.setdefault(text, []).append(setting)
    return " ".join(f"In {listed(settings)}, {text}" for text, settings in told.items())


def _model(recipe: Recipe) -> str:
    model = recipe.model
    adapters = f", with LoRA of rank {model.lora.rank} (alpha {model.lora.alpha:g})" if model.lora else ""
    return f"the model `{model.name}` (float32 master weights, compute type {model.dtype}{adapters})"


def _problems(facts: Facts, setting: str, data: str) -> str:
    size = facts.sizes.get((setting, data))
    return counted(size[0], "problem") if size else ""


def _arms(results: Results, facts: Facts) -> str:
    """Every arm's stages, as its first setting ran them."""
    lines = []
    for arm in results.plan.arms:
        setting = next((one for one in results.plan.settings if (one, arm) in facts.recipes), None)
        if setting is not None:
            stages = facts.recipes[setting, arm].stages
            lines.append(f"{arm}: {', then '.join(_stage(stage) for stage in stages)}")
    first = next(iter(results.plan.settings))
    where = f", with steps as in {first}" if len(results.plan.settings) > 1 else ""
    return f"The arms are{where}: {'; '.join(lines)}."


def _stage(stage: StageConfig) -> str:
    options = {key: value for key, value in stage.method.items() if key != "name"}
    told = listed(f"{key} {value}" for key, value in _flat(options))
    start = f", from the {stage.from_} checkpoint" if stage.from_ in ("best", "initial") else ""
    refill = f", prompts drawn on until {stage.refill.keep or 'its own'} groups fill the batch" if stage.refill else ""
    return f"{counted(stage.steps, 'step')} of {stage.method['name']}{f' with {told}' if told else ''}{start}{refill}"


def _flat(options: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, str]]:
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        elif isinstance(value, list) and len(value) > LONG:
            yield f"{path}{key}", f"({len(value)} values)"
        else:
            yield f"{path}{key}", f"{value:g}" if isinstance(value, float) else str(value)


def _budget(results: Results, facts: Facts) -> str:
    """Steps, batch, sampling and optimizer of the treatment, setting by setting where they differ; what arms spent."""
    told: dict[str, list[str]] = {}
    for setting in results.plan.settings:
        if (recipe := _recipe(facts, setting, results.plan.treatment)) is not None:
            told.setdefault(_size(recipe), []).append(setting)
    sizes = " ".join(f"In {listed(settings)}, {text}" for text, settings in told.items())
    spent = []
    for arm in results.plan.arms:
        runs = [run for run in results.runs if run.arm == arm]
        if runs:
            spent.append(f"{arm} {_spent(runs)}")
    clock = "CPU seconds of the run's process" if results.plan.seconds == "cpu" else "seconds of wall-clock"
    return f"{sizes} Generated tokens and {clock} in training, means over all runs of an arm: {'; '.join(spent)}."


def _size(recipe: Recipe) -> str:
    last = recipe.stages[-1]
    longest = f"at most {last.max_new_tokens} new tokens" if last.max_new_tokens else "the data's own limit on length"
    ends = [f"{recipe.budget.tokens} generated tokens" if recipe.budget.tokens else ""]
    ends += [f"{recipe.budget.seconds:g} seconds" if recipe.budget.seconds else ""]
    limit = f", or up to {' or '.join(filter(None, ends))}" if any(ends) else ""
    return (
        f"the budget is {counted(recipe.steps, 'step')} of {counted(last.prompts_per_step, 'prompt')}{limit}; methods "
        f"that roll out draw {counted(last.group_size, 'completion')} a prompt at temperature {last.temperature:g}, "
        f"with {longest}. The optimizer is AdamW ({_optimizer(last.optimizer)}), with "
        f"{counted(last.epochs, 'pass', 'es')} over {counted(last.mini_batches, 'mini-batch', 'es')} a step."
    )


def _optimizer(config: OptimizerConfig) -> str:
    betas = " and ".join(f"{beta:g}" for beta in config.betas)
    return (
        f"betas {betas}, epsilon {config.eps:g}, weight decay {config.weight_decay:g}, gradient norm clipped to "
        f"{config.max_grad_norm:g}, {config.schedule} schedule with {counted(config.warmup_steps, 'warm-up step')}"
    )


def _spent(runs: Sequence[Run]) -> str:
    tokens = mean(run.tokens[-1] for run in runs if run.tokens)
    seconds = [run.seconds[-1] for run in runs if run.seconds]
    return f"{count(tokens)} and {count(mean(seconds)) if len(seconds) == len(runs) else 'unknown'}"


def _tuning(results: Results, facts: Facts) -> str:
    """The grid, how many trials every arm got, and what was chosen."""
    tuning = facts.plan.get("tuning") or {}
    rates, seeds = tuning.get("lr") or [], tuning.get("seeds") or []
    if not rates:
        return f"Nothing was tuned: every arm ran at the recipe's own learning rate, {_own_rates(results, facts)}."
    trials = {
        arm: max((len(arms[arm].trials) for arms in results.tuning.values() if arm in arms), default=0)
        for arm in results.plan.arms
    }
    chosen = []
    for setting, arms in results.tuning.items():
        if setting not in results.plan.tuned_in:
            points = [f"{arm} {_point(arms[arm].point)}" for arm in results.plan.arms if arm in arms]
            chosen.append(f"in {setting}: {', '.join(points)}")
    borrowed = [f"{setting} takes what was chosen in {other}" for setting, other in results.plan.tuned_in.items()]
    splits = tuning.get("split") or []
    shares = f" and, for SFT before RL, shares {listed(f'{one:g}' for one in splits)}" if len(splits) > 1 else ""
    return (
        f"Learning rates {listed(f'{rate:g}' for rate in rates)}{shares} were tried with {numbered('seed', seeds)}, of "
        f"which no result is reported; trials a setting: {', '.join(f'{arm} {n}' for arm, n in trials.items())}. A "
        f"trial is judged by the mean of its last {JUDGED_BY} validations. Chosen {'; '.join([*chosen, *borrowed])}."
    )


def _own_rates(results: Results, facts: Facts) -> str:
    rates = {f"{stage.optimizer.lr:g}" for recipe in facts.recipes.values() for stage in recipe.stages}
    return listed(sorted(rates))


def _point(point: Mapping[str, float]) -> str:
    return "(" + ", ".join(f"{key} {value:g}" for key, value in point.items()) + ")"


def _evaluation(results: Results, facts: Facts) -> str:
    recipe = next(iter(facts.recipes.values()))
    settings = recipe.evaluation
    drawn = {k for _, k in facts.sizes.values()}
    how = "greedily" if settings.temperature == 0 else f"at temperature {settings.temperature:g}"
    steps = "every step" if settings.every == 1 else f"every {settings.every} steps"
    every = f"validation is evaluated {steps}" if settings.every else "validation is not evaluated"
    parts = [
        f"Accuracy is the share of correct completions, {listed(sorted(map(str, drawn)))} a problem, decoded {how}; "
        f"{every}, the test sets before and after training. The primary column is {results.plan.primary}."
    ]
    if passes := [run.passes for run in results.runs if run.passes]:
        samples, problems = {one.samples for one in passes}, {len(one.correct) for one in passes}
        parts.append(
            f"pass@k is the unbiased estimate from {numbers(samples)} completions at temperature 1 of each of "
            f"{numbers(problems)} problems of the primary test set."
        )
    if looked := [run.likeness for run in results.runs if run.likeness]:
        trained, held_out = ({one[name].problems for one in looked if name in one} for name in SETS)
        parts.append(
            "Negative log-likelihood of demonstrations and similarity of correct completions to them are those of "
            f"{numbers(trained)} training problems and {numbers(held_out)} held-out ones."
        )
    return " ".join(parts)


def _statistics(results: Results) -> str:
    plan = results.plan
    family, level = len(plan.arms) - 1, f"{100 * LEVEL:.0f} %"
    parts = [
        f"Results are of {numbered('seed', plan.seeds)}. A seed changes the order of problems and every random draw; "
        "arms with one seed start from the same weights and see the same problems in the same order.",
        f"A difference is {plan.treatment} minus an arm, paired by seed, with a two-sided {level} t interval over "
        f"seeds and Holm's adjustment over {counted(family, 'arm')} in each setting and column; settings are not "
        "pooled, and no interval comes from resampling problems.",
    ]
    total = len(results.runs) + len(results.missing)
    if results.missing:
        failed = sum(one.failed for one in results.missing)
        parts.append(f"Of {total} planned runs {len(results.missing)} are missing ({failed} of them diverged).")
    else:
        parts.append(f"All {total} planned runs finished.")
    return " ".join(parts)


def _software(results: Results, facts: Facts) -> str:
    told = []
    for one in facts.versions:
        names = [f"{name} {one[name]}" for name in ("superrl", "torch", "transformers", "python") if one.get(name)]
        told.append(f"{listed(names)} on {one['device']}, {counted(one['threads'], 'thread')} a run" if names else "")
    known = [text for text in told if text]
    if not known:
        return "The versions of the software were not recorded."
    rest = "; of some runs the versions were not recorded" if len(known) < len(told) else ""
    return f"Runs were made with {'; or '.join(known)}{rest}."


def _recipe(facts: Facts, setting: str, arm: str) -> Recipe | None:
    """An arm's recipe in a setting, else any arm's there: they share model, data and size."""
    others = (recipe for (one, _), recipe in facts.recipes.items() if one == setting)
    return facts.recipes.get((setting, arm)) or next(others, None)


def _names(sources: str | Sequence[str] | None) -> list[str]:
    return [sources] if isinstance(sources, str) else list(sources or [])


def counted(n: int, word: str, plural: str = "s") -> str:
    """`1 seed`, `5 seeds`, `2 passes`."""
    return f"{n} {word}{'' if n == 1 else plural}"


def numbers(found: Iterable[int]) -> str:
    """`64`, `32 or 64`, and of nothing `no`."""
    return " or ".join(map(str, sorted(found))) or "no"


def numbered(word: str, numbers: Sequence[int]) -> str:
    """`seed 3`, `5 seeds (11, 12, 13, 14 and 15)`."""
    return f"{word} {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} {word}s ({listed(map(str, numbers))})"


def listed(items: Iterable[str]) -> str:
    """`a, b and c`."""
    *before, last = [*items] or [""]
    return f"{', '.join(before)} and {last}" if before else last
