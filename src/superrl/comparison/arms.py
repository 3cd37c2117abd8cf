"""The arms of a comparison: which recipe each of them runs, derived from the treatment's.

All arms of a setting share model, data, evaluation, seed and the size of a step; they differ in the method and in what
tuning chose. `refill` and `yoked` also need the treatment's own run of the same seed. Pure functions of recipes; leaves
out running them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superrl.comparison.plan import ComparisonConfig
from superrl.config import Recipe, load, parse
from superrl.errors import UserError, nearest

Plain = dict[str, Any]
Point = Mapping[str, float]
"""What tuning chose: `lr`, for SFT-then-RL also `split` and `sft_lr`; empty: the recipe as it is."""


@dataclass(frozen=True, slots=True)
class Paired:
    """What the treatment's run of the same seed did: tokens generated in all, fallbacks a step."""

    tokens: int
    fallbacks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm: `make(base, point, paired)` gives its stages and what else it changes at the recipe's top level."""

    name: str
    make: Callable[[Plain, Point, Paired | None], Plain]
    needs_pair: bool = False
    source: str | None = None
    splits: bool = False


def _with_stages(base: Plain, *stages: Plain, **top: Any) -> Plain:
    return {**base, **top, "stages": list(stages)}


def _at(stage: Plain, lr: float | None, **changes: Any) -> Plain:
    optimizer = stage["optimizer"] if lr is None else {**stage["optimizer"], "lr": lr}
    return {**stage, **changes, "optimizer": optimizer}


def treatment(base: Plain, point: Point, paired: Paired | None) -> Plain:
    """The recipe itself, every stage at the tuned rate."""
    return _with_stages(base, *(_at(stage, point.get("lr")) for stage in base["stages"]))


def sft(base: Plain, point: Point, paired: Paired | None) -> Plain:
    """Supervised fine-tuning on the demonstrations, as many steps of as many prompts."""
    return _with_stages(base, _at(base["stages"][-1], point.get("lr"), name="sft", method=_sft(base), refill=None))


def grpo(base: Plain, point: Point, paired: Paired | None) -> Plain:
    """The treatment's policy gradient alone."""
    return _with_stages(base, _at(base["stages"][-1], point.get("lr"), name="grpo", method=_grpo(base), refill=None))


def sft_then_rl(base: Plain, point: Point, paired: Paired | None) -> Plain:
    """SFT for a tuned share of the steps, then the policy gradient from its best checkpoint."""
    last = base["stages"][-1]
    first = max(1, round(last["steps"] * point["split"]))
    start = "best" if base["data"]["validation"] and base["evaluation"]["every"] else "previous"
    return _with_stages(
        base,
        _at(last, point.get("sft_lr", point.get("lr")), name="sft", method=_sft(base), refill=None, steps=first),
        _at(
            last, point.get("lr"), name="rl", method=_grpo(base), refill=None,
            steps=max(last["steps"] - first, 1), **{"from": start},
        ),
    )  # fmt: skip


def refill(base: Plain, point: Point, paired: Paired | None) -> Plain:
    """The policy gradient on mixed groups only, failed and solved ones replaced by further prompts, until it has drawn
    as many tokens as the treatment did."""
    assert paired is not None
    stage = _at(base["stages"][-1], point.get("lr"), name="refill", method=_grpo(base), refill={"keep": "mixed"})
    return _with_stages(base, stage, budget={**base["budget"], "tokens": paired.tokens})


def no_policy_gradient(base: Plain, point: Point, paired: Paired | None) -> Plain:
    """The treatment with its policy gradient off: what imitation of failed prompts does alone."""
    last = base["stages"][-1]
    method = {**last["method"], "policy_gradient": False}
    return _with_stages(base, *base["stages"][:-1], _at(last, point.get("lr"), method=method))


def yoked(base: Plain, point: Point, paired: Paired | None) -> Plain:
    """As many fallbacks a step as the treatment had, on prompts chosen at random."""
    assert paired is not None
    last = base["stages"][-1]
    method = {**last["method"], "name": "yoked", "counts": list(paired.fallbacks)}
    return _with_stages(base, *base["stages"][:-1], _at(last, point.get("lr"), name="yoked", method=method))


def _sft(base: Plain) -> Plain:
    method = base["stages"][-1]["method"]
    return {"name": "sft", **{key: method[key] for key in ("demonstration",) if key in method}}


REDUCTIONS = {"mean": "sequence", "sum": "constant", "constant": "constant"}
"""SuperRL's `inner`, and the reduction of the policy gradient that it is compared with."""


def _grpo(base: Plain) -> Plain:
    method = base["stages"][-1]["method"]
    if method["name"] == "grpo":
        return dict(method)
    return {"name": "grpo", "reduction": REDUCTIONS[method.get("inner", "mean")], **method.get("policy", {})}


BASELINES = (
    Arm("sft", sft),
    Arm("grpo", grpo),
    Arm("sft-then-rl", sft_then_rl, splits=True),
    Arm("refill", refill, needs_pair=True),
)
CONTROLS = (Arm("superrl-no-pg", no_policy_gradient), Arm("yoked", yoked, needs_pair=True))
"""Controls of the switch itself, for a treatment that has one."""


def arms_of(plan: ComparisonConfig) -> list[Arm]:
    """Baselines, controls, the treatment, and the further recipes, in the order of the tables."""
    first = load(plan.recipes[0], plan.overrides)
    method = str(first.stages[-1].method["name"])
    main = Arm(method if len(first.stages) == 1 else _stem(plan.recipes[0]), treatment, source=plan.recipes[0])
    others = [Arm(_stem(source), treatment, source=source) for source in plan.recipes[1:]]
    added = [*BASELINES, *(CONTROLS if method == "superrl" else ())]
    if unknown := set(plan.without) - {arm.name for arm in added}:
        wrong = min(unknown)
        raise UserError(f"without: no baseline {wrong!r}; {nearest(wrong, [arm.name for arm in added])}")
    taken = {main.name, *(arm.name for arm in others), *plan.without}
    arms = [*(arm for arm in added if arm.name not in taken), main, *others]
    names = [arm.name for arm in arms]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two recipes are called {min(twice)!r}: rename one of the files")
    return arms


def treatment_of(arms: Sequence[Arm]) -> Arm:
    """The arm that the others are compared with."""
    return next(arm for arm in arms if arm.source is not None)


def recipe_of(
    plan: ComparisonConfig, setting: str, arm: Arm, seed: int, point: Point, paired: Paired | None = None
) -> Recipe:
    """What an arm runs in a setting: all but method and tuned values is the treatment's."""
    overrides = [*plan.overrides, *plan.settings[setting].overrides, f"seed={seed}"]
    shared = load(plan.recipes[0], overrides).dump()
    base = shared
    if arm.source not in (None, plan.recipes[0]):
        base = {**shared, "stages": load(str(arm.source), plan.overrides).dump()["stages"]}
    if columns := plan.settings[setting].columns:
        base = {**base, "data": {**base["data"], "test": list(columns.values())}}
    return parse(arm.make(base, point, paired), f"{setting}, {arm.name}")


def _stem(source: str) -> str:
    return Path(source).stem
