"""Evaluations of steps: means of the score's parts, whole and by step and tool, and the tables a person reads."""

from dataclasses import replace

import pytest

import superrl
from superrl.cli import run
from superrl.evaluation import SHOWN, evaluate, step_tables
from superrl.records import Group, Problem, Score, Trajectory
from superrl.rewards.base import Reward
from superrl.rollout import Environment
from superrl.sampling.protocol import SamplingLimits


class Counts:
    """Draws the numbers 0, 1, ... of a problem's samples."""

    def sample(self, prompts, limits, on_tokens=None):
        return [[Trajectory((1, j), (False, True), (0.0, 0.0), str(j)) for j in range(prompt.n)] for prompt in prompts]


class Parts(Reward):
    """Refuses the sample 0; the similarity of any other is a tenth of it, plus the step's number."""

    gives_correct = False
    fingerprint = None

    def score(self, problems, completions):
        return [self._one(p, int(text)) for p, text in zip(problems, completions, strict=True)]

    def _one(self, problem, number):
        parts = {"format": float(number > 0), "format/cut": float(number == 0)}
        value = problem.meta.get("step", 0) + number / 10
        return Score(value, None, {**parts, "similarity": value} if number else parts)


class Bare(Parts):
    def _one(self, problem, number):
        return Score(1.0, True)


class Plain:
    def context(self, problem, *, messages=None):
        return (1,)


def figures(*problems, reward=None, k=2):
    environment = Environment(Plain(), SamplingLimits(5), 1.0, reward or Parts())
    return evaluate([Group(one) for one in problems], environment, Counts(), k=k, seed=0)


def step(number, tool="", name="t"):
    meta = {"trajectory": name, "step": number, "steps": 9, "tool": tool}
    return Problem(f"{name}/step-{number}", ({"role": "user", "content": "q"},), "a", meta=meta)


def test_parts_are_means_over_the_rollouts_that_have_them():
    found = figures(step(1, "ls"), step(2), step(1, "cat", "u"))
    assert found["parts"] == pytest.approx({"format": 0.5, "format/cut": 0.5, "similarity": (1.1 + 2.1 + 1.1) / 3})
    assert list(found["by"]) == ["step", "tool"] and list(found["by"]["step"]) == ["1", "2"]
    one, two = found["by"]["step"].values()
    assert one == pytest.approx({"n": 2, "reward": 1.05, "format": 0.5, "similarity": 1.1})
    assert two == pytest.approx({"n": 1, "reward": 2.05, "format": 0.5, "similarity": 2.1})
    assert {tool: row["n"] for tool, row in found["by"]["tool"].items()} == {"cat": 1, "ls": 1}


def test_a_part_that_no_rollout_has_is_no_zero():
    found = figures(step(1), k=1)
    assert found["parts"] == {"format": 0.0, "format/cut": 1.0} and "similarity" not in found["by"]["step"]["1"]


def test_rows_of_ordinary_problems_stay_as_they_were():
    plain = replace(step(1), meta={"step": 1, "tool": "ls"})
    assert "by" not in figures(plain)
    keys = ["accuracy", "pass@1", "pass@k", "ci95", "n", "k", "reward", "length"]
    assert list(figures(plain, reward=Bare())) == keys


def test_steps_are_in_the_order_of_their_numbers():
    many = figures(*(step(number) for number in (10, 9, 2)))
    assert list(many["by"]["step"]) == ["2", "9", "10"] and many["by"]["tool"] == {}


def test_the_tools_that_matter_most_come_first():
    found = figures(*(step(number, tool) for number, tool in enumerate(["zip", "b", "a", "zip", "b", "zip"], start=1)))
    assert [(tool, row["n"]) for tool, row in found["by"]["tool"].items()] == [("zip", 3), ("b", 2), ("a", 1)]
    same = figures(step(1, "b"), step(2, "a"))
    assert list(same["by"]["tool"]) == ["a", "b"]


def test_columns_of_the_same_names_that_are_something_else_are_no_steps():
    ours = step(1, "ls")

    def other(**meta):
        return replace(ours, meta={**ours.meta, **meta})

    strangers = [
        other(trajectory=[{"role": "user", "content": "q"}]), other(step="1"), other(step=[1]), other(step=True),
        other(step=1.0), other(step=None), replace(ours, meta={"trajectory": "t"}),
    ]  # fmt: skip
    assert "by" not in figures(*strangers, reward=Bare())
    found = figures(*strangers, ours, other(step=0), reward=Bare())["by"]
    assert {number: row["n"] for number, row in found["step"].items()} == {"0": 1, "1": 1}
    tools = figures(ours, other(tool={"name": "ls"}), other(tool=["ls"]), other(tool=3), other(tool=None))["by"]["tool"]
    assert {tool: row["n"] for tool, row in tools.items()} == {"ls": 1}


def test_the_tables_fit_into_80_columns():
    row = {"n": 123456, "reward": -0.25, "similarity": 0.5, "exact": 0.0, "format": 1.0, "tool": 1.0, "file": 0.125}
    tools = {f"a_tool_with_a_long_name_{i}": row for i in range(SHOWN + 3)}
    text = step_tables({"step": {"1": {"n": 2, "reward": 1.0}}, "tool": tools})
    lines = text.splitlines()
    assert max(map(len, lines)) == 80
    assert lines[0].split() == ["step", "n", "reward"] and lines[1].split() == ["1", "2", "1.000"]
    assert lines[3].split() == ["tool", "n", "reward", "similarity", "exact", "format", "tool", "file"]
    assert lines[4].split()[1:] == ["123,456", "-0.250", "0.500", "0.000", "1.000", "1.000", "0.125"]
    assert len(lines) == 4 + SHOWN + 1 and lines[-1].startswith("... and 3 more")
    assert "tool" not in step_tables({"step": {"1": row}, "tool": {}}).splitlines()[1]


def test_a_part_that_a_line_lacks_is_a_dash():
    rows = {
        "1": {"n": 1, "reward": -1.0, "format": 0.0},
        "2": {"n": 1, "reward": 0.5, "format": 1.0, "similarity": 0.5},
    }
    assert step_tables({"step": rows}).splitlines()[1].split() == ["1", "1", "-1.000", "-", "0.000"]


def test_eval_prints_the_table(capsys):
    assert run(["eval", "tiny", "steps:tasks:chain?ops=1&n=3", "--limit", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mean reward ") and lines[0].endswith("n 4")
    assert lines[2].split() == ["step", "n", "reward", "similarity", "exact", "format"]
    assert [line.split()[:2] for line in lines[3:]] == [["1", "2"], ["2", "2"]]


def test_the_python_function_gives_the_same():
    found = superrl.evaluate("tiny", "steps:tasks:chain?ops=1&n=2")
    assert set(found["by"]["step"]) == {"1", "2"} and found["parts"]["format"] == 1.0
