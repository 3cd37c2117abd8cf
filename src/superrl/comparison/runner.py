"""Runs a comparison: tuning first, then every arm on fresh seeds, in worker processes, each run once.

A run is finished when its folder has a `summary.json`; one that was cut is continued, one that diverged is not tried
again. What tuning chose is in `chosen.json`. Runs of one phase are independent; `refill` and `yoked` need the
treatment's run of their seed, so they come in the phase after it. Leaves out all judgement of the numbers (`report`).
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superrl.comparison.arms import Arm, Paired, Point, arms_of, recipe_of, treatment_of
from superrl.comparison.plan import ComparisonConfig, SettingConfig, resolved
from superrl.config import Recipe, load, read_yaml
from superrl.errors import RunError, UserError
from superrl.metrics import mean
from superrl.runfolder import RunFolder

WINDOW = 3
"""Tuning judges a trial by the mean of its last so many validations: one alone is noise."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run to do, in its folder."""

    folder: Path
    recipe: Recipe
    label: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A plan being carried out in the folder `out`."""

    plan: ComparisonConfig
    arms: tuple[Arm, ...]
    out: Path
    note: Callable[[str], None]

    def folder(self, setting: str, arm: Arm, seed: int, point: Point | None = None) -> Path:
        """Where a run lies; one of the tuning if a `point` is given."""
        if point is None:
            return self.out / "runs" / setting / arm.name / f"seed-{seed}"
        named = "_".join(f"{key}-{value:g}" for key, value in sorted(point.items())) or "as-is"
        return self.out / "tuning" / setting / arm.name / named / f"seed-{seed}"

    def job(self, setting: str, arm: Arm, seed: int, point: Point, paired: Paired | None, tuning: bool) -> Job:
        """A run of an arm."""
        folder = self.folder(setting, arm, seed, point if tuning else None)
        recipe = recipe_of(self.plan, setting, arm, seed, point, paired)
        return Job(folder, recipe, str(folder.relative_to(self.out)))


def compare(plan: ComparisonConfig, out: Path, note: Callable[[str], None] = lambda text: None) -> Path:
    """Carry a plan out in `out`, from wherever it stands; returns `out`."""
    plan = _with_columns(plan)
    arms = arms_of(plan)
    comparison = Comparison(plan, tuple(arms), out, note)
    for setting in plan.settings:  # every recipe is checked before the first run
        for arm in arms:
            recipe_of(plan, setting, arm, plan.seeds[0], _middle(plan, arm), Paired(1, ()))
    _claim(comparison)
    threads = max(1, (os.cpu_count() or 1) // plan.jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(plan.jobs, mp_context=context, initializer=_settle, initargs=(threads,)) as pool:
        chosen = _tune(comparison, pool)
        _write(out / "chosen.json", json.dumps(chosen, indent=2) + "\n")
        _final(comparison, pool, chosen)
    return out


def _with_columns(plan: ComparisonConfig) -> ComparisonConfig:
    """The plan with every setting's columns: where none are named, the recipe's test sets."""
    settings: dict[str, SettingConfig] = {}
    for name, setting in plan.settings.items():
        test = load(plan.recipes[0], [*plan.overrides, *setting.overrides]).data.test
        sets = [test] if isinstance(test, str) else test
        found = setting.columns or {plan.primary if i == 0 else data: data for i, data in enumerate(sets)}
        if plan.primary not in found:
            raise UserError(f"settings.{name}: no column {plan.primary!r}, the primary one: name its test set")
        settings[name] = setting.model_copy(update={"columns": found})
    return plan.model_copy(update={"settings": settings})


def _claim(comparison: Comparison) -> None:
    """Write comparison.yaml; a folder of another plan is refused, more seeds or settings are not."""
    path = comparison.out / "comparison.yaml"
    arms = comparison.arms
    baseline = next((arm.name for arm in arms if arm.name == "grpo"), arms[0].name)
    text = resolved(comparison.plan, [arm.name for arm in arms], baseline, treatment_of(arms).name)
    if path.is_file():
        before, now = read_yaml(path), comparison.plan.model_dump(mode="json")
        for key in ("recipes", "overrides", "tuning", "primary"):
            if before.get(key) != now[key]:
                raise UserError(f"{path} is another plan ({key} differs): choose another --out")
        for name in before["settings"].keys() & now["settings"].keys():
            if before["settings"][name] != now["settings"][name]:
                raise UserError(f"{path} is another plan (settings.{name} differs): choose another --out")
    try:
        comparison.out.mkdir(parents=True, exist_ok=True)
        _write(path, text)
    except OSError as error:
        raise UserError(f"--out {comparison.out} cannot be written ({error.strerror})") from None


def _tune(comparison: Comparison, pool: ProcessPoolExecutor) -> dict[str, dict[str, Any]]:
    """What every arm runs with in every setting, and the trials it was chosen from."""
    plan, arms = comparison.plan, comparison.arms
    tuned = [name for name in plan.settings if plan.tuned_in(name) == name]
    trials = _Trials(comparison, pool)
    if plan.tuning.lr:
        grid = [{"lr": lr} for lr in plan.tuning.lr]
        plain = [arm for arm in arms if not arm.needs_pair and not arm.splits]
        trials.run((setting, arm, point) for setting in tuned for arm in plain for point in grid)
        trials.run((s, arm, point) for s in tuned for arm in arms if arm.needs_pair for point in grid)
        splitting = [arm for arm in arms if arm.splits]
        middle = plan.tuning.split[len(plan.tuning.split) // 2]
        trials.run(
            (s, arm, {**point, **trials.sft_rate(s), "split": middle})
            for s in tuned for arm in splitting for point in grid
        )  # fmt: skip
        trials.run(
            (s, arm, {**trials.best(s, arm), "split": split})
            for s in tuned for arm in splitting for split in plan.tuning.split if split != middle
        )  # fmt: skip
    chosen = {s: {arm.name: trials.told(s, arm) for arm in arms} for s in tuned}
    return {name: chosen[plan.tuned_in(name)] for name in plan.settings}


def _final(comparison: Comparison, pool: ProcessPoolExecutor, chosen: Mapping[str, Mapping[str, Any]]) -> None:
    """Every arm on every seed: first those that need nobody, then those that are paired with the treatment's run."""
    plan, arms = comparison.plan, comparison.arms
    main = treatment_of(arms)
    for needs_pair in (False, True):
        jobs = []
        for seed in plan.seeds:
            for setting in plan.settings:
                for arm in (arm for arm in arms if arm.needs_pair == needs_pair):
                    paired = _paired(comparison.folder(setting, main, seed)) if needs_pair else None
                    if needs_pair and paired is None:
                        continue  # its partner did not finish: it stays missing, and the report says so
                    point = chosen[setting][arm.name]["point"]
                    jobs.append(comparison.job(setting, arm, seed, point, paired, tuning=False))
        _run(comparison, pool, jobs)


@dataclass(slots=True)
class _Trials:
    """Tuning runs, and what they say so far."""

    comparison: Comparison
    pool: ProcessPoolExecutor
    done: dict[tuple[str, str], list[Point]] | None = None

    def run(self, wanted: Iterable[tuple[str, Arm, Point]]) -> None:
        """Try points, each with every tuning seed."""
        main = treatment_of(self.comparison.arms)
        self.done = self.done or {}
        jobs = []
        for setting, arm, point in wanted:
            self.done.setdefault((setting, arm.name), []).append(point)
            for seed in self.comparison.plan.tuning.seeds:
                folder = self.comparison.folder(setting, main, seed, {"lr": point["lr"]})
                paired = _paired(folder) if arm.needs_pair else None
                if not arm.needs_pair or paired is not None:
                    jobs.append(self.comparison.job(setting, arm, seed, point, paired, tuning=True))
        _run(self.comparison, self.pool, jobs)

    def mark(self, setting: str, arm: Arm, point: Point, seed: int) -> tuple[float, float] | None:
        """A trial's validation accuracy at its end, and over its whole length to break ties; None if it failed."""
        run = RunFolder(self.comparison.folder(setting, arm, seed, point))
        if not (run.path / "summary.json").is_file():
            return None
        curve = [row["accuracy"] for row in run.rows("evaluations.jsonl") if row["split"] == "validation"]
        last, whole = mean(curve[-WINDOW:]), mean(curve)
        if last is None or whole is None:
            raise UserError("tuning reads validation accuracy: name data.validation, with evaluation.every above 0")
        return last, whole

    def best(self, setting: str, arm: Arm) -> Point:
        """The point with the highest validation accuracy; the smallest rate on ties."""
        points = (self.done or {}).get((setting, arm.name), [])
        seeds = self.comparison.plan.tuning.seeds

        def merit(point: Point) -> tuple[float, float, float]:
            marks = [self.mark(setting, arm, point, seed) or (-1.0, -1.0) for seed in seeds]
            last, whole = (sum(column) / len(seeds) for column in zip(*marks, strict=True))
            return last, whole, -point["lr"]

        return max(points, key=merit) if points else _middle(self.comparison.plan, arm)

    def sft_rate(self, setting: str) -> Point:
        """The tuned rate of SFT alone, for the SFT before RL."""
        arm = next((arm for arm in self.comparison.arms if arm.name == "sft"), None)
        return {"sft_lr": self.best(setting, arm)["lr"]} if arm else {}

    def told(self, setting: str, arm: Arm) -> dict[str, Any]:
        """The chosen point, and every trial it was chosen from."""
        trials = []
        for point in (self.done or {}).get((setting, arm.name), []):
            for seed in self.comparison.plan.tuning.seeds:
                mark = self.mark(setting, arm, point, seed)
                folder = self.comparison.folder(setting, arm, seed, point).relative_to(self.comparison.out)
                told = {"point": dict(point), "seed": seed, "validation": mark[0] if mark else None}
                trials.append({**told, "folder": str(folder)})
        return {"point": dict(self.best(setting, arm)), "trials": trials}


def _middle(plan: ComparisonConfig, arm: Arm) -> Point:
    """What an untuned arm runs with."""
    return {"split": plan.tuning.split[len(plan.tuning.split) // 2]} if arm.splits else {}


def _paired(folder: Path) -> Paired | None:
    """What a finished run of the treatment did."""
    if not (folder / "summary.json").is_file():
        return None
    rows = RunFolder(folder).rows("metrics.jsonl")
    tokens = sum(int(row["tokens/generated"] or 0) for row in rows)
    last = [row for row in rows if row["stage"] == rows[-1]["stage"]]
    return Paired(tokens, tuple(int(row["switch/fallbacks"] or 0) for row in last))


def _run(comparison: Comparison, pool: ProcessPoolExecutor, jobs: Sequence[Job]) -> None:
    """Do the runs that are not done; a user's mistake in one of them ends everything, a diverged run nothing."""
    todo = [job for job in jobs if not any((job.folder / name).is_file() for name in ("summary.json", "failed.json"))]
    if jobs:
        comparison.note(f"{len(jobs)} runs, {len(jobs) - len(todo)} of them done before")
    running = {pool.submit(_work, job.recipe.text(), job.folder): job for job in todo}
    finished = 0
    while running:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            job, error = running.pop(future), future.exception()
            finished += 1
            if isinstance(error, RunError):
                _write(job.folder / "failed.json", json.dumps({"why": str(error)}) + "\n")
            elif error is not None:
                for other in running:
                    other.cancel()
                raise error
            outcome = f"failed: {error}" if error else future.result()
            comparison.note(f"{finished}/{len(todo)}  {job.label}  {outcome}")


def _settle(threads: int) -> None:
    """In a new worker: as many threads as its share of the cores."""
    import torch

    torch.set_num_threads(threads)


def _work(recipe: str, folder: Path) -> str:
    """In a worker: one run, begun or continued, with its distance from the base; what to tell about it."""
    import yaml

    from superrl.comparison.drift import kl_from_base
    from superrl.config import parse
    from superrl.training import train

    settings = parse(yaml.safe_load(recipe))
    train(settings, folder, resume=(folder / "config.yaml").is_file())
    run = RunFolder(folder)
    _write(folder / "kl.json", json.dumps({"kl_from_base": kl_from_base(settings, run)}) + "\n")
    summary = json.loads((folder / "summary.json").read_text())
    accuracy = next(iter(summary["test"].values()), {"final": None})["final"]
    return f"{summary['steps']} steps, {summary['wall_seconds']:.0f} s, test {accuracy}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
