"""Runs a comparison: tuning first, then every arm on fresh seeds, in worker processes, each run once.

A run is finished when its folder has a `summary.json`; one that was cut is continued, one that diverged is not tried
again. What tuning chose is in `chosen.json`. Runs of one phase are independent; `refill` and `yoked` need the
treatment's run of their seed, so they come in the phase after it. Leaves out all judgement of the numbers (`report`),
and what happens in a worker (`work`, `crew`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from superrl.comparison.arms import Arm, Paired, Point, arms_of, check_arms, recipe_of, treatment_of
from superrl.comparison.crew import Crew
from superrl.comparison.plan import JUDGED_BY, RESOLVED, ComparisonConfig, SettingConfig, resolved
from superrl.comparison.work import FREE, Job, share_the_machine, work, write, write_json
from superrl.config import load, read_yaml
from superrl.errors import Diverged, Interrupted, RunError, UserError
from superrl.metrics import mean
from superrl.runfolder import RunFolder
from superrl.signals import listening


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
        measures = {} if tuning else {"kl": {}, **self.measures(setting)}
        return Job(folder, recipe, str(folder.relative_to(self.out)), measures)

    def base(self, setting: str) -> Job:
        """The model that a setting's runs start from, to be looked at as they are."""
        recipe = recipe_of(self.plan, setting, treatment_of(self.arms), self.plan.seeds[0], {})
        return Job(self.out / "base" / setting, recipe, f"base/{setting}", self.measures(setting), trains=False)

    def measures(self, setting: str) -> dict[str, dict[str, Any]]:
        """What the plan wants to know of every model of a setting, and how."""
        wanted, data = self.plan.measures, self.plan.settings[setting].columns[self.plan.primary]
        found: dict[str, dict[str, Any]] = {}
        if wanted.imitation:
            found["imitation"] = {"held_out": data, "problems": wanted.problems}
        if wanted.pass_at:
            found["passes"] = {"data": data, "samples": wanted.pass_at, "problems": wanted.problems}
        return found


def compare(plan: ComparisonConfig, out: Path, note: Callable[[str], None] = lambda text: None) -> Path:
    """Carry a plan out in `out`, from wherever it stands; returns `out`.

    Interrupted by a signal, the runs that are going on are saved, and calling this again continues.
    """
    plan = _with_columns(plan)
    arms = arms_of(plan)
    check_arms(plan, arms)
    comparison = Comparison(plan, tuple(arms), out, note)
    _claim(comparison)
    note(f"comparison folder: {out}")
    for told in _strangers(plan, arms):
        note(told)
    with listening() as signals, Crew(work, plan.jobs, signals.check, partial(share_the_machine, plan.jobs)) as crew:
        try:
            chosen = _tune(comparison, crew)
            write_json(out / "chosen.json", chosen)
            _final(comparison, crew, chosen)
        except Interrupted:
            note("interrupted: runs that are going on are saved first (once more: leave at once)")
            raise
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
    path = comparison.out / RESOLVED
    arms = comparison.arms
    baseline = next((arm.name for arm in arms if arm.name == "grpo"), arms[0].name)
    text = resolved(comparison.plan, [arm.name for arm in arms], baseline, treatment_of(arms).name)
    if (comparison.out / "config.yaml").is_file():
        raise UserError(f"--out {comparison.out} holds a run of its own: choose another folder")
    if path.is_file():
        before, now = read_yaml(path), comparison.plan.model_dump(mode="json")
        for key in ("recipes", "overrides", "tuning", "primary"):
            if before.get(key) != now[key]:
                raise UserError(f"{path} is another plan ({key} differs): choose another --out")
        known = before.get("settings") or {}
        for name in known.keys() & now["settings"].keys():
            if known[name] != now["settings"][name]:
                raise UserError(f"{path} is another plan (settings.{name} differs): choose another --out")
    try:
        write(path, text)
    except OSError as error:
        raise UserError(f"--out {comparison.out} cannot be written ({error.strerror})") from None


def _strangers(plan: ComparisonConfig, arms: Sequence[Arm]) -> list[str]:
    """What further recipes say and is not used: all but their stages."""
    shared = load(plan.recipes[0], plan.overrides).dump()
    told = []
    for arm in arms:
        if arm.source not in (None, plan.recipes[0]):
            own = load(str(arm.source), plan.overrides).dump()
            unused = [key for key in shared if key not in ("stages", *FREE) and own[key] != shared[key]]
            told += [f"{arm.name}: its stages only; {', '.join(unused)} as in {plan.recipes[0]}"] if unused else []
    return told


def _tune(comparison: Comparison, crew: Crew[Job]) -> dict[str, dict[str, Any]]:
    """What every arm runs with in every setting, and the trials it was chosen from."""
    plan, arms = comparison.plan, comparison.arms
    tuned = [name for name in plan.settings if plan.tuned_in(name) == name]
    trials = _Trials(comparison, crew)
    if plan.tuning.lr:
        grid = [{"lr": lr} for lr in plan.tuning.lr]
        plain = [arm for arm in arms if not arm.needs_pair and not arm.splits]
        trials.run((setting, arm, point) for setting in tuned for arm in plain for point in grid)
        trials.run((s, arm, point) for s in tuned for arm in arms if arm.needs_pair for point in grid)
        splitting = [arm for arm in arms if arm.splits]
        middle = _middle(plan)
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


def _final(comparison: Comparison, crew: Crew[Job], chosen: Mapping[str, Mapping[str, Any]]) -> None:
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
        _run(comparison, crew, jobs)
    bases = [comparison.base(setting) for setting in plan.settings]
    _run(comparison, crew, [job for job in bases if not job.done], "base")


@dataclass(slots=True)
class _Trials:
    """Tuning runs, and what they say so far."""

    comparison: Comparison
    crew: Crew[Job]
    done: dict[tuple[str, str], list[Point]] = field(default_factory=dict)

    def run(self, wanted: Iterable[tuple[str, Arm, Point]]) -> None:
        """Try points, each with every tuning seed."""
        main = treatment_of(self.comparison.arms)
        jobs = []
        for setting, arm, point in wanted:
            self.done.setdefault((setting, arm.name), []).append(point)
            for seed in self.comparison.plan.tuning.seeds:
                folder = self.comparison.folder(setting, main, seed, {"lr": point["lr"]})
                paired = _paired(folder) if arm.needs_pair else None
                if not arm.needs_pair or paired is not None:
                    jobs.append(self.comparison.job(setting, arm, seed, point, paired, tuning=True))
        _run(self.comparison, self.crew, jobs)

    def mark(self, setting: str, arm: Arm, point: Point, seed: int) -> tuple[float, float] | None:
        """A trial's validation accuracy at its end, and over its whole length to break ties; None if it failed."""
        run = RunFolder(self.comparison.folder(setting, arm, seed, point))
        if not (run.path / "summary.json").is_file():
            return None
        by_step: dict[int, list[float]] = {}
        for row in run.rows("evaluations.jsonl"):
            if row["split"] == "validation" and row["accuracy"] is None:
                raise UserError(f"tuning reads accuracy, and the reward of {row['data']} does not say what is correct")
            if row["split"] == "validation":
                by_step.setdefault(row["step"], []).append(row["accuracy"])
        curve = [sum(sets) / len(sets) for sets in by_step.values()]
        last, whole = mean(curve[-JUDGED_BY:]), mean(curve)
        return None if last is None or whole is None else (last, whole)

    def best(self, setting: str, arm: Arm) -> Point:
        """The point with the highest validation accuracy; the smallest rate on ties."""
        points = self.done.get((setting, arm.name), [])
        seeds = self.comparison.plan.tuning.seeds

        def merit(point: Point) -> tuple[float, float, float]:
            marks = [self.mark(setting, arm, point, seed) or (-1.0, -1.0) for seed in seeds]
            last, whole = (sum(column) / len(seeds) for column in zip(*marks, strict=True))
            return last, whole, -point["lr"]

        untuned = {"split": _middle(self.comparison.plan)} if arm.splits else {}
        return max(points, key=merit) if points else untuned

    def sft_rate(self, setting: str) -> Point:
        """The tuned rate of SFT alone, for the SFT before RL."""
        arm = next((arm for arm in self.comparison.arms if arm.name == "sft"), None)
        return {"sft_lr": self.best(setting, arm)["lr"]} if arm else {}

    def told(self, setting: str, arm: Arm) -> dict[str, Any]:
        """The chosen point, and every trial it was chosen from."""
        trials = []
        for point in self.done.get((setting, arm.name), []):
            for seed in self.comparison.plan.tuning.seeds:
                mark = self.mark(setting, arm, point, seed)
                folder = self.comparison.folder(setting, arm, seed, point).relative_to(self.comparison.out)
                told = {"point": dict(point), "seed": seed, "validation": mark[0] if mark else None}
                trials.append({**told, "folder": str(folder)})
        return {"point": dict(self.best(setting, arm)), "trials": trials}


def _middle(plan: ComparisonConfig) -> float:
    """The split that the rates are tuned at, and that an untuned arm runs with."""
    return plan.tuning.split[len(plan.tuning.split) // 2]


def _paired(folder: Path) -> Paired | None:
    """What a finished run of the treatment did."""
    if not (folder / "summary.json").is_file():
        return None
    rows = RunFolder(folder).rows("metrics.jsonl")
    tokens = sum(int(row["tokens/generated"] or 0) for row in rows)
    last = [row for row in rows if row["stage"] == rows[-1]["stage"]]
    return Paired(tokens, tuple(int(row["switch/fallbacks"] or 0) for row in last))


def _run(comparison: Comparison, crew: Crew[Job], jobs: Sequence[Job], called: str = "run") -> None:
    """Do the runs that are not done. One that diverges is noted as failed; whatever else goes wrong ends everything."""
    if not jobs:
        return
    for job in jobs:
        job.check()
    todo = [job for job in jobs if not job.done]
    before = f", {len(jobs) - len(todo)} of them done before" if len(todo) < len(jobs) else ""
    comparison.note(f"{len(jobs)} {called}{'' if len(jobs) == 1 else 's'}{before}")
    for finished, (job, outcome) in enumerate(crew.each(todo), start=1):
        if isinstance(outcome, Diverged):
            write_json(job.folder / "failed.json", {"why": str(outcome)})
        elif isinstance(outcome, UserError):
            raise UserError(f"{job.label}: {outcome}")
        elif isinstance(outcome, RunError):
            raise RunError(f"{job.label}: {outcome}")
        elif isinstance(outcome, Exception):
            raise outcome
        told = f"failed: {outcome}" if isinstance(outcome, Diverged) else outcome
        comparison.note(f"{finished}/{len(todo)}  {job.label}  {told}")
