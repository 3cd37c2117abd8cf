"""superrl from Python: a reward function and rows as dictionaries, no YAML."""

import json
from pathlib import Path
from typing import Any

import pytest

import superrl
from small_runs import letters, recipe, rows, small_model
from superrl import cli
from superrl.errors import UserError
from superrl.face import as_problems


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


ROWS: list[superrl.Problem | dict[str, Any]] = [
    {"prompt": f"{i}+1", "answer": str(i + 1), "demonstrations": [f"{i + 1}"], "weight": i} for i in range(6)
]


def test_a_reward_function_and_rows_are_all_it_takes(model: Path, tmp_path: Path) -> None:
    """The example of the public contract."""
    seen: dict[str, Any] = {}

    def reward(prompts: list[str], completions: list[str], answer: list[str], **columns: Any) -> list[float]:
        seen.update(columns, prompt=prompts[0], answer=answer[0])
        return [float(text.strip() == gold) for text, gold in zip(completions, answer, strict=True)]

    settings = recipe(model).dump()
    settings["data"] = {"validation": None, "test": []}
    run = superrl.train(settings, problems=ROWS, reward=reward, out=tmp_path / "run")
    assert run == tmp_path / "run" and [row["step"] for row in rows(run)] == [1, 2]
    assert "+1" in seen["prompt"] and seen["answer"].isdecimal() and isinstance(seen["weight"][0], int)
    assert {row["decision"] for row in rows(run, "rollouts.jsonl")} == {"sft"}, "it knows nothing yet"

    figures = superrl.evaluate(run, "tasks:chain?ops=1&n=3", max_new_tokens=4)
    assert figures["n"] == 3 and figures["accuracy"] == 0.0 and figures["reward"] == 0.0
    shaped = superrl.evaluate(run, "tasks:chain?ops=1&n=3", max_new_tokens=4, reward=letters, temperature=1.0, k=2)
    assert shaped["k"] == 2 and shaped["reward"] > 0.0


def test_a_lambda_will_do_and_overrides_are_the_command_line_s(model: Path, tmp_path: Path) -> None:
    out = superrl.train(
        "default",
        problems=[superrl.Problem("a", ({"role": "user", "content": "1+1"},), "2")],
        reward=lambda completions, **columns: [0.0 for text in completions],
        overrides=[f"model.name={model}", "stages.0.steps=1", "stages.0.prompts_per_step=1", "stages.0.group_size=2",
                   "stages.0.max_new_tokens=3", "data.validation=null", "data.test=[]"],
        out=tmp_path / "run",
    )  # fmt: skip
    assert [row["switch/no_demo"] for row in rows(out)] == [1.0]
    text = (out / "config.yaml").read_text()
    assert "train: given" in text and "python:given." in text, "the recipe says that it came from Python"


def test_a_run_from_python_resumes_with_what_it_was_given(model: Path, tmp_path: Path) -> None:
    settings = recipe(model, evaluation={"every": 0})
    one = superrl.train(settings, reward=letters, problems=ROWS, out=tmp_path / "one")
    assert superrl.train(settings, reward=letters, problems=ROWS, out=one, resume=True) == one
    for given, missing in (({"reward": letters}, "problems"), ({"problems": ROWS}, "reward")):
        with pytest.raises(UserError, match=f"given its {missing} in Python"):
            superrl.train(one / "config.yaml", out=tmp_path / "two", **given)


def test_rows_become_problems_and_problems_stay() -> None:
    problem = superrl.Problem("own", ({"role": "user", "content": "?"},))
    first, second = as_problems([{"prompt": "x", "answer": 3, "demonstrations": ["y"]}, problem])
    assert second is problem and first.answer == "3"
    assert first.demonstrations == (superrl.Demonstration("y"),)


@pytest.mark.parametrize(
    ("problems", "sentence"),
    [
        ([], "problems is empty"),
        ([{"question": "x"}], "problems, line 0 has no column `prompt`"),
        ([{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}], "the id 'a' stands 2 times in problems"),
    ],
)
def test_wrong_problems(problems: list[Any], sentence: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        superrl.train(recipe(model, {"steps": 0}), problems=problems, reward=letters, out=tmp_path)


def test_a_lambda_on_the_default_recipe_needs_no_yaml(tmp_path: Path) -> None:
    small = ["stages.0.steps=1", "stages.0.prompts_per_step=2", "stages.0.group_size=2", "stages.0.max_new_tokens=4"]
    rows = [{"prompt": f"{i}+1=", "solution": str(i + 1)} for i in range(3)]
    out = superrl.train(
        "default",
        problems=rows,
        reward=lambda completions, solution, **_: [float(c == s) for c, s in zip(completions, solution, strict=True)],
        overrides=small,
        out=tmp_path / "run",
    )
    assert json.loads((out / "summary.json").read_text())["test"] == {}


def test_a_mapping_takes_no_overrides() -> None:
    with pytest.raises(UserError, match="change the mapping itself"):
        superrl.train({}, overrides=["seed=1"])


def test_an_evaluation_may_be_truncated_from_both_faces(model: Path, tmp_path: Path) -> None:
    """Of the likeliest token alone every draw is the greedy one."""
    task, settings = "tasks:chain?ops=1&n=12", {"max_new_tokens": 6, "reward": letters}
    greedy, free, cut = (
        superrl.evaluate(model, task, **settings, **options)
        for options in ({}, {"temperature": 1.0}, {"temperature": 1.0, "truncation": {"top_k": 1}})
    )
    assert [found["truncation"] for found in (greedy, free, cut)] == [None, None, {"top_k": 1}]
    told = {"temperature", "truncation"}
    assert {key: cut[key] for key in cut.keys() - told} == {key: greedy[key] for key in greedy.keys() - told}

    def rewarded(*options: str) -> float:
        line = ["eval", str(model), task, "--max-new-tokens", "6", "--reward", "python:small_runs.letters", *options]
        assert cli.run([*line, "--temperature", "1", "--out", str(tmp_path / "figures.json")]) == 0
        return float(json.loads((tmp_path / "figures.json").read_text())["reward"])

    assert rewarded() == free["reward"] != greedy["reward"]
    assert rewarded("--truncation", "{top_k: 1}") == greedy["reward"]


@pytest.mark.parametrize(
    "options", [{"k": 2}, {"limit": 0}, {"temperature": -1.0}, {"truncation": {"top_p": 0.9}}, {"truncation": 0.9}]
)
def test_evaluate_refuses_what_a_recipe_would(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^evaluate: "):
        superrl.evaluate("tiny", "tasks:chain", **options)


def test_a_score_is_finite_and_says_what_it_knows() -> None:
    assert superrl.Score(0.5).correct is None
    for wrong in ({"value": float("nan")}, {"value": 1.0, "parts": {"length": float("inf")}}):
        with pytest.raises(ValueError, match="finite numbers"):
            superrl.Score(**wrong)
