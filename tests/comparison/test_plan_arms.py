"""What each arm's recipe shares with the treatment's and what it does not, and the plans that are refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from superrl.comparison.arms import Paired, arms_of, check_arms, recipe_of
from superrl.comparison.plan import DERIVED, ComparisonConfig, is_plan, make, planned, read_plan, resolved
from superrl.comparison.runner import compare
from superrl.config import load
from superrl.errors import UserError

METHOD = {"name": "superrl", "demonstration": "first", "inner": "sum", "policy": {"std": "none", "clip_high": 0.28}}
STAGE = {
    "name": "main", "method": METHOD, "steps": 10, "prompts_per_step": 6, "group_size": 4, "max_new_tokens": 9,
    "reward": {"name": "exact"}, "refill": {"keep": "learnable"}, "mini_batches": 2,
    "optimizer": {"lr": 1e-4, "warmup_steps": 3},
}  # fmt: skip
RECIPE = {
    "model": {"name": "somewhere"},
    "data": {"train": "train.jsonl", "validation": "validation.jsonl", "test": ["near.jsonl", "far.jsonl"]},
    "stages": [STAGE],
    "evaluation": {"every": 5},
}
FIRST = {"name": "warm-up", "method": {"name": "sft"}, "steps": 4, "prompts_per_step": 6, "optimizer": {"lr": 1e-3}}
TWO_STAGES = {**RECIPE, "stages": [FIRST, {**STAGE, "from": "best"}]}
PAIRED = Paired(777, (3, 1))
SFT = {"name": "sft", "demonstration": "first"}
GRPO = {"name": "grpo", "reduction": "constant", "std": "none", "clip_high": 0.28}
ALL = ["sft", "grpo", "sft-then-rl", "refill", "superrl-no-pg", "yoked", "superrl"]


def write(folder: Path, values: Mapping[str, Any], name: str = "mine") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(dict(values)))
    return str(path)


def arm_s(plan: ComparisonConfig, name: str, point: Mapping[str, float], setting: str = "default") -> dict[str, Any]:
    """The recipe of one arm, seed 5."""
    (arm,) = (arm for arm in arms_of(plan) if arm.name == name)
    return recipe_of(plan, setting, arm, 5, point, PAIRED).dump()


def changes(before: Any, now: Any, path: str = "") -> dict[str, Any]:
    """Every value that differs, by its path; methods and lists of unequal length whole."""
    if isinstance(before, dict) and isinstance(now, dict) and not path.endswith("method"):
        assert before.keys() == now.keys()
        parts = [changes(before[key], now[key], f"{path}.{key}".lstrip(".")) for key in before]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        parts = [changes(one, other, f"{path}.{i}") for i, (one, other) in enumerate(zip(before, now, strict=True))]
    else:
        return {} if before == now else {path: now}
    return {key: value for part in parts for key, value in part.items()}


REFILL = {"keep": "mixed", "epsilon": 1e-6, "cap": 4, "oversample": 1.0, "carry_over": False}
ALONE = {"stages.0.refill": None}
ONE_STAGE = {
    "superrl": {},
    "sft": {"stages.0.name": "sft", "stages.0.method": SFT, **ALONE},
    "grpo": {"stages.0.name": "grpo", "stages.0.method": GRPO, **ALONE},
    "refill": {
        "stages.0.name": "refill",
        "stages.0.method": GRPO,
        "stages.0.refill.keep": "mixed",
        "budget.tokens": 777,
    },
    "superrl-no-pg": {"stages.0.method": {**METHOD, "policy_gradient": False}},
    "yoked": {"stages.0.name": "yoked", "stages.0.method": {**METHOD, "name": "yoked", "counts": [3, 1]}},
}


@pytest.mark.parametrize("name", ONE_STAGE)
def test_an_arm_differs_from_the_treatment_in_its_method_and_in_nothing_else(name: str, tmp_path: Path) -> None:
    plan = planned([write(tmp_path, RECIPE)], [])
    assert [arm.name for arm in arms_of(plan)] == ALL
    plain = {**load(plan.recipes[0]).dump(), "seed": 5}
    assert changes(plain, arm_s(plan, name, {})) == ONE_STAGE[name]
    tuned = {**ONE_STAGE[name], "stages.0.optimizer.lr": 0.5}
    assert changes(plain, arm_s(plan, name, {"lr": 0.5})) == tuned, (
        "tuning changes the rate, and no more of the optimizer"
    )


def test_sft_then_rl_splits_the_steps_and_keeps_the_rest(tmp_path: Path) -> None:
    plan = planned([write(tmp_path, RECIPE)], [])
    plain = {**load(plan.recipes[0]).dump(), "seed": 5}
    stage, tuned = plain["stages"][0], {"lr": 0.5, "sft_lr": 0.25, "split": 0.3}
    sft = {**stage, "name": "sft", "method": SFT, "refill": None, "steps": 3}
    rl = {**stage, "name": "rl", "method": GRPO, "refill": None, "steps": 7, "from": "best"}
    want = [{**one, "optimizer": {**stage["optimizer"], "lr": lr}} for one, lr in ((sft, 0.25), (rl, 0.5))]
    assert changes(plain, arm_s(plan, "sft-then-rl", tuned)) == {"stages": want}
    assert changes(plain, arm_s(plan, "sft-then-rl", {"split": 0.3})) == {"stages": [sft, rl]}
    for split, steps in ((0.01, [1, 9]), (0.99, [9, 1])):
        stages = arm_s(plan, "sft-then-rl", {"split": split})["stages"]
        assert [one["steps"] for one in stages] == steps, "neither more steps than the others, nor none of a kind"
    blind = planned(plan.recipes, ["data.validation=null"])
    assert arm_s(blind, "sft-then-rl", {"split": 0.3})["stages"][1]["from"] == "previous", "nothing says what is best"


def test_arms_of_a_treatment_with_two_stages_have_its_steps_altogether(tmp_path: Path) -> None:
    plan = planned([write(tmp_path, TWO_STAGES)], [])
    assert [arm.name for arm in arms_of(plan)] == [*ALL[:-1], "mine"]
    plain = {**load(plan.recipes[0]).dump(), "seed": 5}
    rates = {"stages.0.optimizer.lr": 0.5, "stages.1.optimizer.lr": 0.5}
    assert changes(plain, arm_s(plan, "mine", {"lr": 0.5})) == rates
    for name in ("superrl-no-pg", "yoked"):  # the first stage is theirs, too
        want = {key.replace("stages.0", "stages.1"): value for key, value in ONE_STAGE[name].items()}
        assert changes(plain, arm_s(plan, name, {"lr": 0.5})) == {**want, **rates}
    for name, method in (("sft", SFT), ("grpo", GRPO), ("refill", GRPO)):
        (stage,) = arm_s(plan, name, {})["stages"]
        refill = REFILL if name == "refill" else None
        last = {**plain["stages"][1], "name": name, "method": method, "refill": refill, "steps": 14, "from": "previous"}
        assert stage == last
    assert [stage["steps"] for stage in arm_s(plan, "sft-then-rl", {"split": 0.5})["stages"]] == [7, 7]


def test_a_setting_s_columns_are_every_arm_s_test_sets(tmp_path: Path) -> None:
    setting = {"overrides": ["stages.0.steps=3"], "columns": {"in distribution": "a.jsonl", "retention": "b.jsonl"}}
    plan = make({"recipes": [write(tmp_path, RECIPE)], "overrides": ["model.name=other"], "settings": {"s": setting}})
    for name in ALL:
        found = arm_s(plan, name, {"split": 0.4}, "s")
        assert found["data"]["test"] == ["a.jsonl", "b.jsonl"] and found["model"]["name"] == "other"
        assert sum(stage["steps"] for stage in found["stages"]) == 3


def test_further_recipes_bring_their_stages_and_no_more(tmp_path: Path) -> None:
    theirs = {"name": "theirs", "method": {"name": "grpo"}, "steps": 10, "prompts_per_step": 6, "group_size": 4}
    other = {"data": {"train": "own.jsonl"}, "model": {"name": "own"}, "stages": [theirs]}
    recipes, overrides = [write(tmp_path, RECIPE), write(tmp_path, other, "theirs")], ["stages.0.steps=12"]
    plan = make({"recipes": recipes, "settings": {"default": {"overrides": overrides}}})
    assert [arm.name for arm in arms_of(plan)] == [*ALL, "theirs"]
    plain = {**load(plan.recipes[0], overrides).dump(), "seed": 5}
    stages = load(plan.recipes[1], overrides).dump()["stages"]
    assert arm_s(plan, "theirs", {}) == {**plain, "stages": stages} and stages[0]["steps"] == 12


def test_further_methods_are_the_treatment_s_last_stage_under_another_method(tmp_path: Path) -> None:
    luffy = {"name": "luffy"}
    for recipe in (RECIPE, TWO_STAGES):
        plan = make({"recipes": [write(tmp_path, recipe)], "methods": {"own": luffy}, "without": ["refill"]})
        assert [arm.name for arm in arms_of(plan)][-1] == "own"
        (stage,) = arm_s(plan, "own", {"lr": 0.5})["stages"]
        main = load(plan.recipes[0]).dump()["stages"]
        steps = sum(one["steps"] for one in main)
        changed = {**main[-1], "name": "luffy", "method": luffy, "steps": steps, "from": "previous"}
        assert stage == {**changed, "optimizer": {**main[-1]["optimizer"], "lr": 0.5}}


def test_a_recipe_called_as_a_baseline_stands_in_its_place(tmp_path: Path) -> None:
    own = {**RECIPE, "stages": [{**STAGE, "method": {"name": "sft", "reduction": "prompt"}}]}
    plan = planned([write(tmp_path, RECIPE), write(tmp_path, own, "sft")], [], without=["yoked", "refill"])
    assert [arm.name for arm in arms_of(plan)] == ["grpo", "sft-then-rl", "superrl-no-pg", "superrl", "sft"]
    assert arm_s(plan, "sft", {})["stages"][0]["method"] == {"name": "sft", "reduction": "prompt"}


def test_a_treatment_without_a_switch_or_without_rollouts_has_fewer_arms(tmp_path: Path) -> None:
    grpo = planned([write(tmp_path, {**RECIPE, "stages": [{**STAGE, "method": {"name": "grpo", "std": "none"}}]})], [])
    assert [arm.name for arm in arms_of(grpo)] == ["sft", "sft-then-rl", "refill", "grpo"]
    assert arm_s(grpo, "refill", {})["stages"][0]["method"] == {"name": "grpo", "std": "none"}
    sft = planned([write(tmp_path, {**RECIPE, "stages": [{**STAGE, "method": {"name": "sft"}}]})], [])
    assert [arm.name for arm in arms_of(sft)] == ["grpo", "sft-then-rl", "sft"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"recipes": []}, "recipes: list should have at least 1 item"),
        ({"recipe": ["a"]}, "unknown key 'recipe'; did you mean 'recipes'?"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"seeds": []}, "seeds: list should have"),
        ({"seeds": [3, 1000], "tuning": {"lr": [1e-4]}}, "seed 1000 is used for tuning, so no result may come from it"),
        ({"seeds": [3], "tuning": {"lr": [1e-4], "seeds": [2, 3]}}, "seed 3 is used for tuning"),
        ({"tuning": {"lr": [1e-4, 0.0001]}}, "tuning: lr must differ"),
        ({"tuning": {"split": [0.4, 0.4]}}, "tuning: split must differ"),
        ({"tuning": {"seeds": [9, 9]}}, "tuning: seeds must differ"),
        ({"tuning": {"split": [1.0]}}, "tuning.split.0"),
        ({"tuning": {"lr": [0.0]}}, "tuning.lr.0"),
        ({"settings": {}}, "settings: dictionary should have at least 1 item"),
        ({"settings": {"A": {}}}, "'A' names a folder"),
        ({"settings": {"..": {}}}, "'..' names a folder"),
        ({"methods": {"A": {"name": "sft"}}}, "methods: 'A' names a folder"),
        ({"settings": {"a": {"tuned_in": "b"}}}, "settings.a.tuned_in: 'b' is no setting that is tuned itself"),
        ({"settings": {"a": {}, "b": {"tuned_in": "c"}, "c": {"tuned_in": "a"}}}, "settings.b.tuned_in: 'c'"),
        ({"seconds": "cpus"}, "seconds: input should be 'wall' or 'cpu'"),
        ({"jobs": 0}, "jobs: "),
    ],
)
def test_a_plan_that_cannot_be_is_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        make({"recipes": ["default"], **values})
    assert sentence.lower() in str(refused.value).lower() and "\n" not in str(refused.value)


def test_an_untuned_comparison_may_use_any_seed() -> None:
    assert make({"recipes": ["default"], "seeds": [1000]}).seeds == [1000]


@pytest.mark.parametrize(
    ("overrides", "more", "sentence"),
    [
        (["stages.0.method.inner=none"], {}, "superrl: stages.0.method: inner"),
        (["stages.0.method.name=superr"], {}, "stages.0.method: no method 'superr'; did you mean 'superrl'?"),
        (["stages.0.method.failed_rollouts=keep"], {}, "superrl-no-pg: stages.0.method: failed_rollouts: keep"),
        (["stages.0.steps=1"], {}, "sft-then-rl needs 2 steps, and there is 1"),
        (["stages.0.group_size=1"], {}, "group_size must be at least 2"),
        (["data.validation=null"], {"tuning": {"lr": [1e-4]}}, "default: tuning reads validation"),
        (["evaluation.every=0"], {"tuning": {"lr": [1e-4]}}, "default: tuning reads validation"),
        (["data.test=[]"], {}, "no column 'in distribution', the primary one"),
        ([], {"without": ["sftt"]}, "no baseline 'sftt'; did you mean 'sft'?"),
        ([], {"settings": {"a": {"columns": {"far": "far.jsonl"}}}}, "settings.a: no column 'in distribution'"),
    ],
)
def test_what_some_arm_could_never_run_is_refused_before_any_does(
    overrides: list[str], more: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    plan = make({"recipes": [write(tmp_path, RECIPE)], "overrides": overrides, **more})
    with pytest.raises(UserError) as refused:
        compare(plan, tmp_path / "out")
    assert sentence in str(refused.value) and not (tmp_path / "out").exists()


def test_arms_have_equal_steps_of_equal_size_or_a_common_budget(tmp_path: Path) -> None:
    def check(stage: Mapping[str, Any], *overrides: str) -> None:
        other = {**RECIPE, "stages": [{**STAGE, **stage}]}
        plan = planned([write(tmp_path, RECIPE), write(tmp_path, other, "other")], overrides)
        check_arms(plan, arms_of(plan))

    check({})
    check({"method": {"name": "sft"}, "group_size": 99})  # rolls nothing out
    for stage, told in (
        ({"steps": 11}, "11 steps of 6 prompts x 4"),
        ({"prompts_per_step": 12}, "10 steps of 12 prompts x 4"),
        ({"group_size": 8}, "10 steps of 6 prompts x 8"),
    ):
        with pytest.raises(UserError, match=f"other has {told} and superrl 10 steps of 6 prompts x 4: give them equal"):
            check(stage)
        check(stage, "budget.tokens=1000")


def test_a_plan_file_is_told_from_a_recipe_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("recipes: [default]\nseeds: [5]\ntuning: {lr: [1e-4]}\n")
    assert is_plan(path) and not is_plan(Path(write(tmp_path, RECIPE))) and not is_plan(Path("default"))
    plan = read_plan(path, jobs=3)
    assert (plan.seeds, plan.tuning.lr, plan.jobs) == ([5], [1e-4], 3)
    own = tmp_path / "comparison.yaml"
    own.write_text(resolved(plan, ["grpo", "superrl"], "grpo", "superrl"))
    assert set(DERIVED) <= set(yaml.safe_load(own.read_text())) and read_plan(own) == plan
    path.write_text(own.read_text())
    with pytest.raises(UserError, match="unknown key 'arms'"):
        read_plan(path)


def test_a_command_line_is_a_plan() -> None:
    plan = planned(["default"], ["stages.0.steps=3"], 2, [1e-4, 3e-4], ["sft"], 4)
    assert (plan.recipes, plan.overrides, plan.seeds, plan.jobs) == (["default"], ["stages.0.steps=3"], [0, 1], 4)
    assert (plan.tuning.lr, plan.tuning.seeds, len(plan.tuning.split), plan.without) == (
        [1e-4, 3e-4],
        [1000],
        3,
        ["sft"],
    )
    assert planned(["default"], []).seeds == [0, 1, 2] and not planned(["default"], []).tuning.lr
