"""methods.md: every number that it tells stands in the plan or in a run, and changes with it."""

import json
import shutil

import pytest
import yaml
from synthetic import write_looks
from test_results_report import write_known

from superrl.comparison.paragraph import counted, listed, methods, numbered
from superrl.comparison.results import read
from superrl.config import parse

MADE_WITH = {"superrl": "0.1.0", "torch": "2.99.1", "transformers": "5.1", "python": "3.11.7", "device": "cpu",
             "threads": 2}  # fmt: skip
STAGE = {"prompts_per_step": 24, "group_size": 6, "temperature": 0.75, "max_new_tokens": 77, "optimizer": {"lr": 3e-4}}
METHODS = {
    "superrl": [{"name": "superrl", "gate": "reward", "policy": {"clip_high": 0.28}, "counts": list(range(9))}],
    "grpo": [{"name": "grpo"}],
    "sft": [{"name": "sft"}, {"name": "grpo", "std": "none"}],
}
TRIALS = {"grpo": 4, "superrl": 3, "sft": 5}


def write_recipe(folder, arm, best=True, **changes):
    stages = [
        {**STAGE, "name": f"stage-{i}", "method": method, "steps": 50 + i, **({"from": "best"} if i and best else {})}
        for i, method in enumerate(METHODS[arm])
    ]
    values = {
        "model": {"name": "some/model"},
        "data": {"train": ["tasks:a", "tasks:b"], "validation": "v", "test": ["test:near", "test:old"]},
        "stages": stages,
        "evaluation": {"every": 10},
        **changes,
    }
    (folder / "config.yaml").write_text(parse(values).text())


@pytest.fixture
def told(tmp_path):
    write_known(tmp_path)
    for folder in (tmp_path / "runs/s").glob("*/seed-*"):
        write_recipe(folder, folder.parent.name)
        (folder / "made-with.json").write_text(json.dumps(MADE_WITH))
        write_looks(folder, likeness={"trained": (0.1, 0.2, 0.3)}, correct=[1, 2, 3])
    chosen = {
        arm: {"point": {"lr": 5e-4}, "trials": [{"point": {}, "seed": 100, "validation": 0.5}] * n}
        for arm, n in TRIALS.items()
    }
    (tmp_path / "chosen.json").write_text(json.dumps({"s": chosen}))
    return tmp_path


def test_the_paragraph_tells_plan_and_runs(told):
    text = methods(read(told))
    for said in (
        "We compare superrl with grpo and sft in 1 setting (s).",
        "the model `some/model` (float32 master weights, compute type auto) learns from `tasks:a` and `tasks:b`",
        "validation is on `v` (100 problems)",
        "test sets are in distribution (`test:near`, 100 problems) and retention (`test:old`, 100 problems).",
        "superrl: 50 steps of superrl with gate reward, policy.clip_high 0.28 and counts (9 values)",
        "sft: 50 steps of sft, then 51 steps of grpo with std none, from the best checkpoint",
        "50 steps of 24 prompts; methods that roll out draw 6 completions a prompt at temperature 0.75",
        "with at most 77 new tokens. The optimizer is AdamW (betas 0.9 and 0.95, epsilon 1e-08, weight decay 0",
        "means over all runs of an arm: grpo 5000 and 100; superrl 10k and 100; sft 0 and 100.",
        "Learning rates 0.0001 and 0.0005 were tried with seed 100, of which no result is reported",
        "trials a setting: grpo 4, superrl 3, sft 5.",
        "Chosen in s: grpo (lr 0.0005), superrl (lr 0.0005), sft (lr 0.0005).",
        "1 a problem, decoded greedily; validation is evaluated every 10 steps",
        "from 16 completions at temperature 1 of each of 3 problems",
        "those of 8 training problems and no held-out ones",
        "Results are of 3 seeds (1, 2 and 3).",
        "two-sided 95 % t interval over seeds and Holm's adjustment over 2 arms",
        "All 9 planned runs finished.",
        "Runs were made with superrl 0.1.0, torch 2.99.1, transformers 5.1 and python 3.11.7 on cpu, 2 threads a run.",
    ):
        assert said in text
    assert "LoRA" not in text and "  " not in text and "None" not in text


def test_the_paragraph_follows_what_changes(told):
    shutil.rmtree(told / "runs/s/grpo/seed-3")
    (told / "runs/s/sft/seed-2/summary.json").unlink()
    (told / "runs/s/sft/seed-2/failed.json").write_text('{"why": "diverged"}')
    plan = yaml.safe_load((told / "comparison.yaml").read_text())
    (told / "comparison.yaml").write_text(yaml.safe_dump(plan | {"tuning": {"lr": []}, "seconds": "cpu"}))
    lora = {"name": "some/model", "lora": {"rank": 4}}
    for folder in (told / "runs/s").glob("*/seed-*"):
        write_recipe(
            folder, folder.parent.name, model=lora, budget={"tokens": 5000}, evaluation={"every": 0}, best=False
        )
        (folder / "made-with.json").write_text(json.dumps({**MADE_WITH, "threads": 1}))
    (told / "runs/s/grpo/seed-1/made-with.json").unlink()
    text = methods(read(told))
    for said in (
        "with LoRA of rank 4 (alpha 32)",
        "or up to 5000 generated tokens",
        "CPU seconds of the run's process in training",
        "grpo 5000 and unknown",
        "every arm ran at the recipe's own learning rate, 0.0003.",
        "validation is not evaluated",
        "Of 9 planned runs 2 are missing (1 of them diverged).",
        "1 thread a run; of some runs the versions were not recorded.",
    ):
        assert said in text


def test_a_comparison_without_recipes_or_runs_tells_nothing(tmp_path):
    write_known(tmp_path)
    assert methods(read(tmp_path)).startswith("No run has finished whose recipe is there")


def test_settings_that_share_their_data_are_told_together_and_others_apart(tmp_path):
    write_known(tmp_path, settings=("s", "t", "u"))
    for folder in tmp_path.glob("runs/*/*/seed-*"):
        model = {"name": "other" if folder.parts[-3] == "u" else "some/model"}
        write_recipe(folder, folder.parent.name, model=model)
    text = methods(read(tmp_path))
    assert "In s and t, the model `some/model`" in text and "In u, the model `other`" in text
    assert "In s, t and u, the budget is" in text and "The arms are, with steps as in s:" in text
    assert "The versions of the software were not recorded." in text


def test_words():
    assert [listed(items) for items in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert counted(1, "pass", "es") == "1 pass" and counted(2, "pass", "es") == "2 passes"
    assert numbered("seed", [7]) == "seed 7"
