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
from superrl.methods import build as build_method
from superrl.methods import find as find_method
from superrl.methods.hooks import Limits

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


def _at(stage: Plain, lr: float | None, **changes: Any) -> Plain:
    optimizer = stage["optimizer"] if lr is None else {**stage["optimizer"], "lr": lr}
    return {**stage, **changes, "optimizer": optimizer}


def _alone(base: Plain, lr: float | None, name: str, method: Plain, **changes: Any) -> Plain:
    """One stage in the place of all: the last one's data, size and reward, and the steps of all together."""
    steps = sum(stage["steps"] for stage in base["stages"])
    only = {"name": name, "method": method, "steps": steps, "refill": None, "from": "previous"}
    return _at(base["stages"][-1], lr, **{**only, **changes})


def _last(base: Plain, lr: float | None, **changes: Any) -> list[Plain]:
    """All stages at one rate, the last one changed."""
    *before, last = base["stages"]
    return [*(_at(stage, lr) for stage in before), _at(last, lr, **changes)]


def treatment(base: Plain, point: Point, paired: Paired | None) -> Plain:
    """The recipe itself, every stage at the tuned rate."""
    return {**base, "stages": _last(base, point.get("lr"))}


def sft(base: Plain, point: Point, paired: Paired | None) -> Plain:
    """Supervised fine-tuning on the demonstrations, as many steps of as many prompts."""
    return {**base, "stages": [_alone(base, point.get("lr"), "sft", _sft(base))]}


def grpo(base: Plain, point: Point, paired: Paired | None) -> Plain:
    """The treatment's policy gradient alone."""
    return {**base, "stages": [_alone(base, point.get("lr"), "grpo", _grpo(base))]}


def sft_then_rl(base: Plain, point: Point, paired: Paired | None) -> Plain:
    """SFT for a tuned share of the steps, then the policy gradient from its best checkpoint."""
    steps = sum(stage["steps"] for stage in base["stages"])
    if steps < 2:
        raise UserError(f"sft-then-rl needs 2 steps, and there is {steps}: add steps, or leave it out (without)")
    first = min(max(1, round(steps * point["split"])), steps - 1)
    start = "best" if base["data"]["validation"] and base["evaluation"]["every"] else "previous"
    before = _alone(base, point.get("sft_lr", point.get("lr")), "sft", _sft(base), steps=first)
    after = _alone(base, point.get("lr"), "rl", _grpo(base), steps=steps - first, **{"from": start})
    return {**base, "stages": [before, after]}


def refill(base: Plain, point: Point, paired: Paired | None) -> Plain:
    """The policy gradient on mixed groups only, failed and solved ones replaced by further prompts, until it has drawn
    as many tokens as the treatment did."""
    assert paired is not None
    stage = _alone(base, point.get("lr"), "refill", _grpo(base), refill={"keep": "mixed"})
    return {**base, "stages": [stage], "budget": {**base["budget"], "tokens": paired.tokens}}


def no_policy_gradient(base: Plain, point: Point, paired: Paired | None) -> Plain:
    """The treatment with its policy gradient off: what imitation of failed prompts does alone."""
    method = {**base["stages"][-1]["method"], "policy_gradient": False}
    return {**base, "stages": _last(base, point.get("lr"), method=method)}


def yoked(base: Plain, point: Point, paired: Paired | None) -> Plain:
    """As many fallbacks a step as the treatment had, on prompts chosen at random."""
    assert paired is not None
    method = {**base["stages"][-1]["method"], "name": "yoked", "counts": list(paired.fallbacks)}
    return {**base, "stages": _last(base, point.get("lr"), name="yoked", method=method)}


def exchanged(method: Plain) -> Callable[[Plain, Point, Paired | None], Plain]:
    """The treatment's last stage, alone, under another method."""

    def make(base: Plain, point: Point, paired: Paired | None) -> Plain:
        name = str(method.get("name", "method"))
        return {**base, "stages": [_alone(base, point.get("lr"), name, method, refill=base["stages"][-1]["refill"])]}

    return make


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
)
REFILL = Arm("refill", refill, needs_pair=True)
"""For a treatment that generates tokens, whose number it is given."""
CONTROLS = (Arm("superrl-no-pg", no_policy_gradient), Arm("yoked", yoked, needs_pair=True))
"""Controls of the switch itself, for a treatment that has one."""


def arms_of(plan: ComparisonConfig) -> list[Arm]:
    """Baselines, controls, the treatment, and the further recipes, in the order of the tables.

    A recipe that is called as a baseline stands in its place.
    """
    first = load(plan.recipes[0], plan.overrides)
    methods = [str(stage.method.get("name")) for stage in first.stages]
    main = Arm(methods[0] if len(methods) == 1 else _stem(plan.recipes[0]), treatment, source=plan.recipes[0])
    others = [Arm(_stem(source), treatment, source=source) for source in plan.recipes[1:]]
    others += [Arm(name, exchanged(method)) for name, method in plan.methods.items()]
    known = [arm.name for arm in (*BASELINES, REFILL, *CONTROLS)]
    if unknown := set(plan.without) - set(known):
        wrong = min(unknown)
        raise UserError(f"without: no baseline {wrong!r}; {nearest(wrong, known)}")
    draws = any(find_method(name, f"stages.{i}.method").rolls_out for i, name in enumerate(methods))
    added = [*BASELINES, *([REFILL] if draws else []), *(CONTROLS if methods[-1] == "superrl" else ())]
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
    base = load(plan.recipes[0], overrides).dump()
    if arm.source not in (None, plan.recipes[0]):
        try:
            base = {**base, "stages": load(str(arm.source), overrides).dump()["stages"]}
        except UserError as error:
            raise UserError(f"{arm.source}, which the overrides are for, too: {error}") from None
    if columns := plan.settings[setting].columns:
        base = {**base, "data": {**base["data"], "test": list(columns.values())}}
    return parse(arm.make(base, point, paired), f"{setting}, {arm.name}")


def check_arms(plan: ComparisonConfig, arms: Sequence[Arm]) -> None:
    """Refuse, before anything runs, what some arm could never run: wrong options of a method, an unequal budget, tuning
    without validation."""
    main = treatment_of(arms)
    for setting in plan.settings:
        sizes = {}
        for arm in (main, *(arm for arm in arms if arm is not main)):
            point = {"split": plan.tuning.split[0]} if arm.splits else {}
            recipe = recipe_of(plan, setting, arm, plan.seeds[0], point, Paired(1, ()))
            for index, stage in enumerate(recipe.stages):
                where = f"{setting}, {arm.name}: stages.{index}.method"
                build_method(stage.method, Limits(stage.group_size, stage.max_new_tokens or 1), where)
            sizes[arm.name] = Size.of(recipe)
            limited = recipe.budget.tokens or recipe.budget.seconds
            if not sizes[arm.name].matches(sizes[main.name]) and not limited:
                raise UserError(
                    f"{setting}: {arm.name} has {sizes[arm.name]} and {main.name} {sizes[main.name]}: give them equal "
                    "steps, or all of them a budget (budget.tokens=N)"
                )
            if plan.tuning.lr and not (recipe.data.validation and recipe.evaluation.every):
                raise UserError(
                    f"{setting}: tuning reads validation: name data.validation, with evaluation.every above 0"
                )


@dataclass(frozen=True, slots=True)
class Size:
    """A recipe's budget in steps: how many, of how many prompts, each rolled out how often (nothing: never)."""

    steps: int
    prompts: tuple[int, ...]
    rollouts: tuple[int, ...]

    @classmethod
    def of(cls, recipe: Recipe) -> Size:
        """That of a recipe whose methods are known."""
        prompts = {stage.prompts_per_step for stage in recipe.stages}
        rollouts = {stage.group_size for stage in recipe.stages if find_method(stage.method["name"]).rolls_out}
        return cls(recipe.steps, tuple(sorted(prompts)), tuple(sorted(rollouts)))

    def matches(self, other: Size) -> bool:
        """Whether the two are equal, as far as both roll out."""
        same_rollouts = self.rollouts == other.rollouts or not (self.rollouts and other.rollouts)
        return (self.steps, self.prompts) == (other.steps, other.prompts) and same_rollouts

    def __str__(self) -> str:
        prompts, rollouts = (" or ".join(map(str, numbers)) for numbers in (self.prompts, self.rollouts))
        return f"{self.steps} steps of {prompts} prompts{f' x {rollouts}' if rollouts else ''}"


def _stem(source: str) -> str:
    return Path(source).stem
