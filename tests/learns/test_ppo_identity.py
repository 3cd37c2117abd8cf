"""PPO solves an identity task: `superrl.train` with problems and a reward given in Python, seconds on one thread.

Four prompts of one letter, answered by one token of 67; the completion must repeat the prompt. Every rollout is cut off
after its one token, and its reward is all there is to come, so the critic must not be asked what follows.
"""

import pytest

import superrl
from small_runs import rows, small_model
from superrl.records import Problem

STEPS = 40


def repeats(prompts, completions, **columns):
    """1.0 for a completion that is its prompt."""
    return [float(completion == prompt) for prompt, completion in zip(prompts, completions, strict=True)]


def solve(folder, critic):
    """The run's folder."""
    stage = {
        "name": "identity",
        "method": {"name": "ppo", "bootstrap": False, "critic": critic},
        "steps": STEPS,
        "prompts_per_step": 4,
        "group_size": 32,
        "max_new_tokens": 1,
        "optimizer": {"lr": 0.02},
    }
    recipe = {
        "model": {"name": str(small_model(folder / "model")), "dtype": "float32"},
        "data": {"train": "given in Python"},
        "stages": [stage],
        "evaluation": {"every": 0},
        "checkpoint": {"every": 0},
    }
    problems = [Problem(letter, ({"role": "user", "content": letter},), letter) for letter in "abcd"]
    return superrl.train(recipe, reward=repeats, problems=problems, out=folder / "run")


@pytest.mark.parametrize("critic", [{"kind": "head", "lr": 0.02}, {"kind": "model", "lr": 0.005, "warmup_steps": 2}])
def test_ppo_solves_an_identity_task(tmp_path, critic):
    steps = rows(solve(tmp_path, critic))
    rewards = [row["reward/mean"] for row in steps]
    assert rewards[0] < 0.1 and min(rewards[-5:]) > 0.9
    assert all(abs(row["method/value"] - row["reward/mean"]) < 0.2 for row in steps[-5:])  # the critic knows it, too
    alone = critic.get("warmup_steps", 0)
    assert [row["grad_norm"] is None for row in steps[: alone + 1]] == [True] * alone + [False]
