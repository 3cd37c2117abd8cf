"""From a comparison's runs to its numbers: one JSON-able mapping, from which tables and pictures are made.

Claims: per setting and column, the treatment minus every other arm, paired by seed; Holm's adjustment over all planned
arms of that setting and column, finished or not. The verdict `better` or `worse` exists in the primary column alone,
and only where the adjusted interval leaves out 0; other columns are secondary and say `higher` or `lower`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from superrl.comparison import likeness, passes
from superrl.comparison.results import SETS, Results, Run
from superrl.comparison.stability import collapsed, drawdown, usable_band
from superrl.comparison.statistics import LEVEL, Adjusted, Estimate, adjust, claim, estimate, smallest_detectable
from superrl.comparison.targets import FRACTIONS, UNITS, Reach, SettingTargets, by_setting, ratios
from superrl.metrics import mean

Json = dict[str, Any]


def analyse_results(results: Results) -> Json:
    """Everything that compare.json holds; seconds, tokens and steps are means over seeds, accuracies lie in 0 to 1."""
    plan = results.plan
    targets = by_setting(results)
    return {
        "name": plan.name,
        "treatment": plan.treatment,
        "baseline": plan.baseline,
        "primary": plan.primary,
        "seconds": plan.seconds,
        "seeds": list(plan.seeds),
        "arms": list(plan.arms),
        "missing": [asdict(missing) for missing in results.missing],
        "notes": notes(results),
        "settings": {setting: _setting(results, setting, targets[setting]) for setting in plan.settings},
        "ratios": {
            arm: {
                share(fraction): {unit: asdict(ratios(targets, arm, plan.baseline, fraction, unit)) for unit in UNITS}
                for fraction in FRACTIONS
            }
            for arm in plan.arms
        },
        "runs": [_run_row(run, results, targets[run.setting]) for run in results.runs],
    }


def share(fraction: float) -> str:
    """A target's name: `75%`."""
    return f"{round(100 * fraction)}%"


def notes(results: Results) -> list[str]:
    """What a reader must know before the tables: missing clocks, failed runs, borrowed tuning, unlike starts."""
    found = []
    if timeless := sum(run.seconds is None for run in results.runs):
        found.append(
            f"{timeless} of {len(results.runs)} runs lack the {results.plan.seconds} clock in a row of timing.jsonl: "
            "means that need their seconds are not computed"
        )
    found += [
        f"{setting}: every arm runs with what was tuned in {other}, whose trials are shown"
        for setting, other in results.plan.tuned_in.items()
    ]
    if failed := sum(one.failed for one in results.missing):
        found.append(
            f"runs that failed for good: {failed}; means over the seeds that are left flatter the arms they belong to"
        )
    for setting in results.plan.settings:
        starts = {run.start[results.plan.primary] for run in results.runs if run.setting == setting}
        if len(starts) > 1:
            found.append(
                f"{setting}: the runs do not all start from the same accuracy ({100 * min(starts):.1f} to "
                f"{100 * max(starts):.1f} %), so weights or problems differ between them"
            )
    return found


def _setting(results: Results, setting: str, targets: SettingTargets) -> Json:
    plan = results.plan
    columns = plan.settings[setting]
    runs = {arm: results.of(setting, arm) for arm in plan.arms}
    everyone = [run for of_arm in runs.values() for run in of_arm]
    return {
        "columns": dict(columns),
        "start": {column: mean(run.start[column] for run in everyone) for column in columns},
        "arms": {arm: _arm(results, setting, arm, of_arm) for arm, of_arm in runs.items() if of_arm},
        "differences": {column: differences(results, setting, column) for column in columns},
        "targets": _targets(targets),
        "imitation": _imitation(results, setting, runs),
        "passes": _passes(results, setting, runs),
        "weights": {arm: found for arm, of_arm in runs.items() if (found := stream_weights(of_arm))} or None,
    }


def _imitation(results: Results, setting: str, runs: Mapping[str, Sequence[Run]]) -> Json | None:
    """What base and arms have of the demonstrations; None where no run was looked at."""
    base = results.base(setting).likeness
    arms = {arm: found for arm, of_arm in runs.items() if (found := likeness.over_seeds(of_arm, base))}
    return {"base": likeness.plain(base), "arms": arms} if arms else None


def _passes(results: Results, setting: str, runs: Mapping[str, Sequence[Run]]) -> Json | None:
    """pass@k of base and arms; None where no run was looked at."""
    base = results.base(setting).passes
    arms = {arm: found for arm, of_arm in runs.items() if (found := passes.over_seeds(of_arm, base))}
    return {"base": passes.plain(base), "arms": arms} if arms else None


def stream_weights(runs: Sequence[Run]) -> Json:
    """By stream, the first and the last weight of a run, as means over the runs that had any; {} for fixed ones."""
    found = {}
    for stream in sorted({stream for run in runs for stream in run.weights}):
        known = [[w for w in run.weights.get(stream, ()) if w is not None] for run in runs]
        known = [weights for weights in known if weights]
        found[stream] = {"first": mean(one[0] for one in known), "last": mean(one[-1] for one in known)}
    return found


def _arm(results: Results, setting: str, arm: str, runs: Sequence[Run]) -> Json:
    primary = results.plan.primary
    tuning = results.tuning.get(setting, {}).get(arm)
    accuracy = {column: accuracy_over_seeds([run.final[column] for run in runs]) for column in runs[0].final}
    worst = min(runs, key=lambda run: run.final[primary])
    return {
        "seeds": [run.seed for run in runs],
        "chosen": dict(tuning.point) if tuning else None,
        "accuracy": {column: asdict(found) for column, found in accuracy.items()},
        "cost": {unit: _mean([run.cost(unit) for run in runs]) for unit in UNITS},
        "kl": _mean([run.kl for run in runs]),
        "stability": {
            "sd": accuracy[primary].sd,
            "worst": {"seed": worst.seed, "accuracy": worst.final[primary]},
            "drawdown": max((fall for run in runs if (fall := drawdown(run.validation)) is not None), default=None),
            "failed": [one.seed for one in results.missing if one.failed and (one.setting, one.arm) == (setting, arm)],
            "collapsed": [run.seed for run in runs if collapsed(run.validation)],
            "lr_band": _band(usable_band(tuning.trials) if tuning else None),
        },
    }


def accuracy_over_seeds(values: Sequence[float]) -> Estimate:
    """The mean accuracy with its t interval, cut to 0 and 1."""
    return estimate(values).within(0.0, 1.0)


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None if one of the numbers is missing: the rest would be a mean of other runs."""
    numbers = [value for value in values if value is not None]
    return mean(numbers) if len(numbers) == len(values) else None


def _band(band: tuple[float, float] | None) -> Json | None:
    return None if band is None else {"lowest": band[0], "highest": band[1], "width": band[1] / band[0]}


def differences(results: Results, setting: str, column: str) -> dict[str, Json]:
    """The treatment minus every other arm, over the seeds that both finished; arms without any are left out."""
    plan = results.plan
    own = {run.seed: run.final[column] for run in results.of(setting, plan.treatment)}
    pairs: dict[str, dict[int, float]] = {}
    for arm in plan.arms:
        other = {run.seed: run.final[column] for run in results.of(setting, arm)}
        if arm != plan.treatment and (shared := sorted(set(own) & set(other))):
            pairs[arm] = {seed: own[seed] - other[seed] for seed in shared}
    found = {arm: _paired(list(by_seed.values())) for arm, by_seed in pairs.items()}
    adjusted = adjust(found, family=len(plan.arms) - 1)
    words = ("better", "worse") if column == plan.primary else ("higher", "lower")
    return {arm: _difference(found[arm], adjusted.get(arm), words, pairs[arm]) for arm in pairs}


def _paired(values: Sequence[float]) -> Estimate:
    """The claim, or of a single seed the bare difference, which claims nothing."""
    return claim(values) if len(values) > 1 else estimate(values)


def _difference(
    found: Estimate, adjusted: Adjusted | None, words: tuple[str, str], by_seed: Mapping[int, float]
) -> Json:
    verdict = verdict_of(found, adjusted, words)
    detectable = None if found.sd is None else smallest_detectable(found.sd, found.n)
    return {
        **asdict(found),
        "p_holm": adjusted.p if adjusted else None,
        "lo_holm": adjusted.lo if adjusted else None,
        "hi_holm": adjusted.hi if adjusted else None,
        "detectable": detectable,
        "verdict": verdict,
        "by_seed": {str(seed): value for seed, value in by_seed.items()},
    }


def verdict_of(found: Estimate, adjusted: Adjusted | None, words: tuple[str, str]) -> str:
    """What may be said of a difference: the first word above 0, the second below, else that nothing is shown."""
    if adjusted is None:
        return "the same in every seed" if found.alike else "one seed says nothing"
    if adjusted.p >= 1 - LEVEL:
        return "no difference shown"
    return words[0] if found.mean > 0 else words[1]


def _targets(targets: SettingTargets) -> Json:
    return {
        "best": targets.best,
        "why_none": targets.why_none,
        "at": {
            share(target.fraction): {
                "tau": target.tau,
                "apart": target.apart,
                "arms": {arm: _reach(found) for arm, found in target.arms.items()},
            }
            for target in targets.targets
        },
    }


def _reach(found: Reach) -> Json:
    steps = {str(seed): step for seed, step in found.steps.items()}
    return {"mean": dict(found.mean), "reached": found.reached, "n": found.n, "steps": steps}


def _run_row(run: Run, results: Results, targets: SettingTargets) -> Json:
    """One row of compare.csv: flat, and the same keys for every run."""
    plan = results.plan
    tuning = results.tuning.get(run.setting, {}).get(run.arm)
    point = tuning.point if tuning else {}
    keys = sorted({key for arms in results.tuning.values() for one in arms.values() for key in one.point} | {"lr"})
    validation = [at.accuracy for at in run.validation]
    row: Json = {"setting": run.setting, "arm": run.arm, "seed": run.seed, **{key: point.get(key) for key in keys}}
    row |= {f"{column}/final": run.final.get(column) for column in plan.columns}
    row |= {f"{column}/start": run.start.get(column) for column in plan.columns}
    row |= {
        "validation/start": validation[0] if validation else None,
        "validation/final": validation[-1] if validation else None,
        "validation/best": max(validation, default=None),
        "steps": run.steps,
        "tokens": run.cost("tokens"),
        "seconds": run.cost("seconds"),
        "kl_from_base": run.kl,
        **_looked_at(run),
        "drawdown": drawdown(run.validation),
        "collapsed": collapsed(run.validation),
    }
    by_fraction = {target.fraction: target for target in targets.targets}
    for fraction in FRACTIONS:
        target = by_fraction.get(fraction)
        step = target.arms[run.arm].steps[run.seed] if target else None
        row[f"target/{share(fraction)}/reached"] = None if target is None else step is not None
        for unit in UNITS:
            row[f"target/{share(fraction)}/{unit}"] = None if target is None else run.cost(unit, step)
        if target and step is None:
            row[f"target/{share(fraction)}/steps"] = float(target.budget)
    return row


def _looked_at(run: Run) -> Json:
    """What was measured of a run's final model, for its row of compare.csv; None for what was not."""
    row: Json = {}
    for name in SETS:
        found = run.likeness.get(name)
        row[f"demonstrations/{name}/nll"] = found.nll if found else None
        row[f"demonstrations/{name}/similarity"] = found.similarity if found else None
    curve = passes.curve(run.passes) if run.passes else {}
    return row | {f"pass@{k}": curve.get(k) for k in passes.COLUMNS}
