"""Rewards that are the user's own functions: TRL's signature, and a sentence for everything that can be wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from superrl.errors import UserError
from superrl.records import Problem, Score
from superrl.rewards import build


def ask(answer: str | None, number: int = 0, **meta: Any) -> Problem:
    messages = ({"role": "system", "content": "s"}, {"role": "user", "content": f"q{number}"})
    return Problem(f"row-{number}", messages, answer, (), meta)


class Recorder:
    """Keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float]:
        self.calls.append({"prompts": prompts, "completions": completions, **columns})
        return [1.0] * len(completions)


def test_columns_are_the_answer_and_the_rows_other_entries() -> None:
    recorder = Recorder()
    build(recorder).score([ask("a", 0, level=3), ask("b", 1, kind="k")], ["x", "y"])
    assert recorder.calls == [
        {
            "prompts": ["q0", "q1"],
            "completions": ["x", "y"],
            "answer": ["a", "b"],
            "level": [3, None],
            "kind": [None, "k"],
        }
    ]


def test_a_problem_that_came_as_messages_is_handed_over_as_messages() -> None:
    recorder = Recorder()
    build(recorder).score([ask("a", 0, conversational=True), ask("b", 1, conversational=False)], ["x", "y"])
    (call,) = recorder.calls
    assert call["prompts"] == [[{"role": "system", "content": "s"}, {"role": "user", "content": "q0"}], "q1"]
    assert call["completions"] == [[{"role": "assistant", "content": "x"}], "y"]
    assert "conversational" not in call


def test_names_that_trl_gives_itself_are_no_columns() -> None:
    recorder = Recorder()
    build(recorder).score([ask("a", completions="!", prompts="!", prompt="!", completion_ids="!")], ["x"])
    assert recorder.calls == [{"prompts": ["q0"], "completions": ["x"], "answer": ["a"]}]


def test_no_completions_call_nothing() -> None:
    assert build(lambda **columns: 1 / 0).score([], []) == []


@pytest.mark.parametrize(
    "returned",
    [[1, 0.5], (1.0, 0.5), np.array([1.0, 0.5], dtype=np.float32), torch.tensor([1.0, 0.5]), [True, np.float64(0.5)],
     [torch.tensor(1.0), np.float16(0.5)], [Score(1.0), 0.5]],
    ids=repr,
)  # fmt: skip
def test_any_sequence_of_numbers_will_do(returned: Any) -> None:
    scores = build(lambda prompts, completions, **columns: returned).score([ask("a"), ask("b")], ["x", "y"])
    assert [(score.value, score.correct) for score in scores] == [(1.0, True), (0.5, False)]
    assert all(type(score.value) is float for score in scores)


def test_score_objects_keep_their_own_opinion() -> None:
    scores = [Score(0.2, True, {"style": 1.0}), Score(1.0, False), Score(1.0)]
    found = build(lambda prompts, completions, **columns: scores).score([ask("a")] * 3, ["x"] * 3)
    assert [(score.correct, dict(score.parts)) for score in found] == [(True, {"style": 1.0}), (False, {}), (True, {})]


@pytest.mark.parametrize(("at", "correct"), [(1.0, [True, False]), (0.5, [True, True]), (None, [None, None])])
def test_correct_at(at: float | None, correct: list[bool | None]) -> None:
    reward = build({"name": lambda prompts, completions, **columns: [1.0, 0.5], "correct_at": at})
    assert [score.correct for score in reward.score([ask("a")] * 2, ["x"] * 2)] == correct
    assert reward.gives_correct is (at is not None)


def broken(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
    return [1.0 / len(text) for text in completions]


def only_together(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
    assert len(completions) == 1, "one at a time"
    return [0.0]


class Refusing:
    def __float__(self) -> float:
        raise RuntimeError


async def later(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
    return [0.0, 0.0]


def giving(returned: Any) -> Callable[..., Any]:
    def function(prompts: list[str], completions: list[str], **columns: list[Any]) -> Any:
        return returned

    return function


BAD = {
    "raises": (broken, ["broken", "ZeroDivisionError", "index 1", "'row-1'", "0.0"]),
    "raises on a batch": (only_together, ["only_together", "AssertionError", "on 2 completions together"]),
    "is async": (later, ["later", "async", "plain function"]),
    "returns None": (giving(None), ["NoneType instead of a list"]),
    "returns a number": (giving(1.0), ["float instead of a list"]),
    "returns text": (giving("12"), ["str instead of a list"]),
    "returns a dict": (giving({0: 1.0, 1: 1.0}), ["dict instead of a list"]),
    "returns a generator": (giving(x for x in (1.0, 0.0)), ["generator instead of a list"]),
    "too few": (giving([1.0]), ["1 values for 2 completions", "index 1"]),
    "too many": (giving([1.0, 0.0, 0.0]), ["3 values for 2 completions", "index 2"]),
    "none": (giving([1.0, None]), ["None at index 1", "'row-1'", "return 0.0 where it does not apply"]),
    "nan": (giving([float("nan"), 1.0]), ["nan at index 0", "'row-0'", "finite"]),
    "inf": (giving([0.0, np.inf]), ["inf at index 1", "finite"]),
    "text": (giving([0.0, "1.0"]), ["'1.0' at index 1", "not a number"]),
    "a list": (giving([[1.0], 0.0]), ["[1.0] at index 0", "not a number"]),
    "complex": (giving([1j, 0.0]), ["1j at index 0", "not a number"]),
    "a vector": (giving([torch.ones(2), 0.0]), ["index 0", "not a number"]),
    "refuses to be a number": (giving([Refusing(), 0.0]), ["index 0", "not a number"]),
    "huge": (giving([10**400, 0.0]), ["index 0", "not a number"]),
    "no columns": (lambda prompts, completions: [0.0, 0.0], ["unexpected keyword argument 'answer'", "**columns"]),
    "asks for more": (
        lambda prompts, completions, solution, **columns: [0.0] * 2,
        ["'solution'", "columns of the data"],
    ),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_everything_a_function_can_do_wrong_is_one_sentence_that_names_it(case: str) -> None:
    function, words = BAD[case]
    with pytest.raises(UserError) as caught:
        build(function).score([ask("a", 0), ask("b", 1)], ["x", ""])
    said = str(caught.value)
    assert [word for word in words if word not in said] == []
    assert function.__qualname__ in said
    assert "\n" not in said and len(said) < 400
    assert isinstance(caught.value.__cause__, ZeroDivisionError) == (case == "raises")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory of its own, with the import system left as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


GOOD = """
def graded(prompts, completions, answer, **columns):
    return [float(text == gold) for text, gold in zip(completions, answer)]
"""


def test_a_dotted_path_is_found_in_the_working_directory(folder: Path) -> None:
    (folder / "my_rewards_a").mkdir()
    (folder / "my_rewards_a" / "words.py").write_text(GOOD)
    reward = build({"name": "python:my_rewards_a.words.graded", "weight": 2.0})
    scores = reward.score([ask("x"), ask("y")], ["x", "x"])
    assert [(score.value, score.correct) for score in scores] == [(2.0, True), (0.0, False)]
    assert scores[0].parts == {"python:my_rewards_a.words.graded": 1.0}


def test_the_example_of_the_documentation_works(folder: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "rewards.md"
    (folder / "my_rewards.py").write_text(page.read_text().split("```python\n")[1].split("```")[0])
    reward = build({"name": "python:my_rewards.close", "correct_at": 1.0})
    scores = reward.score([ask("4")] * 4, ["it is 4", "it is 5", "it is", ""])
    assert [score.value for score in scores] == [1.0, 0.5, 0.0, 0.0]
    assert [score.correct for score in scores] == [True, False, False, False]


def test_its_fingerprint_follows_the_source(folder: Path) -> None:
    (folder / "my_rewards_b.py").write_text(GOOD)
    first = build({"name": "python:my_rewards_b.graded"}).fingerprint
    assert build({"name": "python:my_rewards_b.graded"}).fingerprint == first is not None
    (folder / "my_rewards_b.py").write_text(GOOD.replace("==", "!="))
    del sys.modules["my_rewards_b"]
    assert build({"name": "python:my_rewards_b.graded"}).fingerprint != first


PATHS = {
    "no module": ("python:nowhere_at_all.f", ["there is no module 'nowhere_at_all'", "install it"]),
    "no submodule": ("python:json.nowhere.f", ["there is no module 'json.nowhere'"]),
    "no attribute": (
        "python:my_rewards_c.grade",
        ["has no function 'grade'; did you mean 'graded'?", "my_rewards_c.py"],
    ),
    "not callable": ("python:my_rewards_c.number", ["'number'", "is int and no function"]),
    "no dot": ("python:my_rewards_c", ["is not a dotted path", "python:module.function"]),
    "nothing": ("python:", ["is not a dotted path"]),
    "a file": ("python:my_rewards_c.py:graded", ["is not a dotted path"]),
    "broken import": (
        "python:my_rewards_d.f",
        ["importing 'my_rewards_d' raised ModuleNotFoundError", "not_there_either"],
    ),
    "syntax": ("python:my_rewards_e.f", ["importing 'my_rewards_e' raised SyntaxError"]),
    "empty": ("python:my_rewards_f.f", ["has no function 'f'; it defines no function"]),
}


@pytest.mark.parametrize("case", PATHS, ids=str)
def test_a_path_that_leads_nowhere_says_where_it_ends(folder: Path, case: str) -> None:
    (folder / "my_rewards_c.py").write_text(GOOD + "number = 3\n")
    (folder / "my_rewards_d.py").write_text("import not_there_either\n")
    (folder / "my_rewards_e.py").write_text("def f(:\n")
    (folder / "my_rewards_f.py").write_text("")
    name, words = PATHS[case]
    with pytest.raises(UserError) as caught:
        build({"name": name})
    said = str(caught.value)
    assert [word for word in words if word not in said] == []
    assert name in said and "\n" not in said
