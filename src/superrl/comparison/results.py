"""A comparison's folder as frozen records: the plan, what tuning chose, and every finished run.

A run without `summary.json`, or whose rows stop short of it, is unfinished: it is listed as missing, with the reason,
and enters no number. A diverged run that finished counts as it is. Leaves out all arithmetic but sums along a run.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from superrl.errors import UserError
from superrl.metrics import mean
from superrl.runfolder import RunFolder

CLOCKS = {"wall": "time/step", "cpu": "time/cpu"}
"""`seconds:` of a plan, and the key of timing.jsonl that it means."""
WEIGHT = "method/weight/"
"""What the key of a stream's weight begins with, in the rows of a method that learns or schedules it."""
IDLE = "_without_data"
"""What the name of a weight ends with that is only what a learned one would be, had its stream no data at all."""
SETS = ("trained", "held_out")
"""Demonstrations of training problems, and of problems that no arm trains on."""


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluation on validation: the mean over its sets, and the 95 % interval if there is one set only."""

    step: int
    accuracy: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Trial:
    """One tuning run: its point of the grid, its seed, and its validation accuracy (None: not finished)."""

    point: Mapping[str, float]
    seed: int
    validation: float | None


@dataclass(frozen=True, slots=True)
class Tuning:
    """What tuning chose for one arm in one setting, and from which trials."""

    point: Mapping[str, float]
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True)
class Likeness:
    """A model beside the demonstrations of some `problems`: their mean negative log-likelihood a token, the share of
    its own completions that are `correct`, how many problems it `solved` in a few attempts, and the mean similarity of
    its successes to the demonstrations (None without any)."""

    problems: int
    nll: float
    correct: float | None
    solved: int
    similarity: float | None


@dataclass(frozen=True, slots=True)
class Passes:
    """How many of `samples` completions at temperature 1 were correct, by problem."""

    samples: int
    correct: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Base:
    """What was looked at in the model that a setting's runs start from; empty and None where it was not."""

    likeness: Mapping[str, Likeness] = field(default_factory=dict)
    passes: Passes | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run.

    `start` and `final` are accuracies by column. `tokens` (drawn from the model) and `seconds` (of training, without
    evaluations) are sums after each step; `seconds` is None where timing.jsonl lacks the clock that the plan names.
    `weights` are the streams' weights by step, of a method that learns or schedules them (None: not in that step).
    """

    setting: str
    arm: str
    seed: int
    validation: tuple[Point, ...]
    start: Mapping[str, float]
    final: Mapping[str, float]
    tokens: tuple[float, ...]
    seconds: tuple[float, ...] | None
    kl: float | None
    likeness: Mapping[str, Likeness] = field(default_factory=dict)
    passes: Passes | None = None
    weights: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(self.tokens)

    def cost(self, unit: str, step: int | None = None) -> float | None:
        """Steps, tokens or seconds spent up to a step (None: the last); None if that clock is missing."""
        at = self.steps if step is None else step
        if unit == "steps":
            return float(at)
        spent = self.tokens if unit == "tokens" else self.seconds
        return None if spent is None else (spent[at - 1] if at else 0.0)


@dataclass(frozen=True, slots=True)
class Missing:
    """A planned run that has no result, and why; `failed`: it never will, as it broke off for good."""

    setting: str
    arm: str
    seed: int
    why: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What was to be run: `settings` maps a setting to its columns, and these to names of test data; `tuned_in` a
    setting to the one whose tuned values it takes over, where there is one."""

    name: str
    settings: Mapping[str, Mapping[str, str]]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    seconds: str
    primary: str
    baseline: str
    treatment: str
    tuned_in: Mapping[str, str]

    @property
    def columns(self) -> list[str]:
        """All columns, the primary one first, else in the order of the settings."""
        return list(dict.fromkeys([self.primary, *itertools.chain.from_iterable(self.settings.values())]))


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that a comparison's folder holds so far."""

    folder: Path
    plan: Plan
    tuning: Mapping[str, Mapping[str, Tuning]]
    runs: tuple[Run, ...]
    missing: tuple[Missing, ...]
    bases: Mapping[str, Base] = field(default_factory=dict)

    def of(self, setting: str, arm: str) -> list[Run]:
        """The finished runs of an arm in a setting, by seed."""
        return [run for run in self.runs if (run.setting, run.arm) == (setting, arm)]

    def base(self, setting: str) -> Base:
        """What was looked at in the model that a setting starts from."""
        return self.bases.get(setting, Base())


def read(folder: Path) -> Results:
    """Read a comparison's folder; UserError if it holds none, or its plan or choice lacks something."""
    plan = _plan(folder / "comparison.yaml")
    runs: list[Run] = []
    missing: list[Missing] = []
    for setting, arm, seed in itertools.product(plan.settings, plan.arms, plan.seeds):
        found = _run(folder / "runs" / setting / arm / f"seed-{seed}", plan, setting, arm, seed)
        runs += [found] if isinstance(found, Run) else []
        missing += [Missing(setting, arm, seed, *found)] if isinstance(found, tuple) else []
    bases = {setting: _base(folder / "base" / setting) for setting in plan.settings}
    return Results(folder, plan, _tuning(folder / "chosen.json"), tuple(runs), tuple(missing), bases)


def _plan(path: Path) -> Plan:
    if not path.is_file():
        raise UserError(f"{path.parent} holds no comparison (no comparison.yaml): name the --out of `superrl compare`")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        plan = Plan(
            name=str(values["name"]),
            settings={str(key): dict(setting["columns"]) for key, setting in values["settings"].items()},
            arms=tuple(str(arm) for arm in values["arms"]),
            seeds=tuple(int(seed) for seed in values["seeds"]),
            seconds=str(values["seconds"]),
            primary=str(values["primary"]),
            baseline=str(values["baseline"]),
            treatment=str(values["treatment"]),
            tuned_in={str(key): one["tuned_in"] for key, one in values["settings"].items() if one.get("tuned_in")},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is not a plan as `superrl compare` writes it ({error!r}): run it again") from None
    if plan.seconds not in CLOCKS:
        raise UserError(f"{path}: seconds is {plan.seconds!r}, which is no clock: wall or cpu")
    if lacking := [setting for setting, columns in plan.settings.items() if plan.primary not in columns]:
        raise UserError(f"{path}: setting {lacking[0]} has no column {plan.primary!r}, the primary one: add it")
    if lacking := [arm for arm in (plan.baseline, plan.treatment) if arm not in plan.arms]:
        raise UserError(f"{path}: {lacking[0]} is no arm of this comparison: name one of {', '.join(plan.arms)}")
    return plan


def _tuning(path: Path) -> dict[str, dict[str, Tuning]]:
    """chosen.json, or nothing while tuning has not ended."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {
            setting: {arm: Tuning(dict(one["point"]), _trials(one["trials"])) for arm, one in arms.items()}
            for setting, arms in values.items()
        }
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not as `superrl compare` writes it ({error!r}): run it again") from None


def _trials(values: Sequence[Mapping[str, Any]]) -> tuple[Trial, ...]:
    return tuple(Trial(dict(trial["point"]), int(trial["seed"]), trial["validation"]) for trial in values)


def _run(folder: Path, plan: Plan, setting: str, arm: str, seed: int) -> Run | tuple[str, bool]:
    """The run, or why it is missing and whether it failed."""
    if not (folder / "summary.json").is_file():
        if (folder / "failed.json").is_file():
            return f"failed: {json.loads((folder / 'failed.json').read_text(encoding='utf-8'))['why']}", True
        return "unfinished" if folder.is_dir() else "not started", False
    files = RunFolder(folder)
    try:
        steps = int(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["steps"])
        metrics, timing, evaluations = (files.rows(f"{name}.jsonl") for name in ("metrics", "timing", "evaluations"))
        kl = _measured(folder, "kl").get("kl_from_base")
        likeness, passes = _likeness(folder), _passes(folder)
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        return f"a file of it cannot be read ({error!r})", False
    if [row["step"] for row in metrics] != list(range(1, steps + 1)):
        return f"metrics.jsonl does not hold the {steps} steps of summary.json", False
    try:
        start, final = _columns(evaluations, plan.settings[setting])
        validation = _validation(evaluations)
    except LookupError as error:
        return str(error.args[0]), False
    tokens = itertools.accumulate(float(row["tokens/generated"] or 0) for row in metrics)
    seconds = _seconds(timing, CLOCKS[plan.seconds], steps)
    return Run(
        setting, arm, seed, validation, start, final, tuple(tokens), seconds, kl, likeness, passes, _weights(metrics)
    )  # fmt: skip


def _measured(folder: Path, name: str) -> dict[str, Any]:
    """What was measured of a model; nothing, where it was not, as in older comparisons, or failed."""
    path = folder / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _base(folder: Path) -> Base:
    try:
        return Base(_likeness(folder), _passes(folder))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} holds a file that cannot be read ({error!r}): remove it, and compare again"
        ) from None


def _likeness(folder: Path) -> dict[str, Likeness]:
    found = _measured(folder, "imitation")
    names = ("problems", "nll", "correct", "solved", "similarity")
    return {key: Likeness(**{name: one[name] for name in names}) for key, one in found.items() if key in SETS}


def _passes(folder: Path) -> Passes | None:
    found = _measured(folder, "passes")
    return Passes(int(found["asked"]["samples"]), dict(found["correct"])) if "correct" in found else None


def _weights(metrics: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float | None, ...]]:
    """Weights by stream, from `method/weight/STREAM`."""
    keys = sorted({key for row in metrics for key in row if key.startswith(WEIGHT) and row[key] is not None})
    return {key.removeprefix(WEIGHT): tuple(row.get(key) for row in metrics) for key in keys}


def _seconds(timing: Sequence[Mapping[str, Any]], clock: str, steps: int) -> tuple[float, ...] | None:
    by_step = {row["step"]: row.get(clock) for row in timing}  # an older run's rows have no time/cpu
    spent = [by_step.get(step) for step in range(1, steps + 1)]
    if any(seconds is None for seconds in spent):
        return None
    return tuple(itertools.accumulate(float(seconds or 0.0) for seconds in spent))


def _columns(
    evaluations: Sequence[Mapping[str, Any]], columns: Mapping[str, str]
) -> tuple[dict[str, float], dict[str, float]]:
    """First and last test accuracy by column; LookupError if one was not taken."""
    start: dict[str, float] = {}
    final: dict[str, float] = {}
    for column, data in columns.items():
        rows = [row for row in evaluations if (row["split"], row["data"]) == ("test", data)]
        if not rows:
            raise LookupError(f"no test evaluation of {data} ({column})")
        start[column], final[column] = _accuracy(rows[0]), _accuracy(rows[-1])
    return start, final


def _validation(evaluations: Sequence[Mapping[str, Any]]) -> tuple[Point, ...]:
    by_step: dict[int, list[Mapping[str, Any]]] = {}
    for row in evaluations:
        if row["split"] == "validation":
            by_step.setdefault(int(row["step"]), []).append(row)
    points = []
    for step, rows in sorted(by_step.items()):
        accuracy = mean(_accuracy(row) for row in rows)
        assert accuracy is not None
        points.append(Point(step, accuracy, tuple(rows[0]["ci95"]) if len(rows) == 1 else None))
    return tuple(points)


def _accuracy(row: Mapping[str, Any]) -> float:
    if row["accuracy"] is None:
        raise LookupError(f"its reward does not say what is correct, so {row['data']} has no accuracy")
    return float(row["accuracy"])
