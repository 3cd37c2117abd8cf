"""The reward of SRL: the gate, the similarity of a kind, the parts; the same numbers in whichever process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superrl.errors import UserError
from superrl.records import Demonstration, Problem, Score, Trajectory
from superrl.rewards import CachedScores, Reward, build
from superrl.rewards import steps as step_rewards
from superrl.rewards.steps import LIMIT, WORKER, StepSimilarity
from superrl.rewards.workers import Pool
from superrl.similarity import KINDS, bounded_ratcliff, indel, maths, tool_call
from superrl.steps.gate import REASONS
from superrl.steps.parse import Solution, parse
from superrl.steps.think import OPENINGS, Think, wrap

MODES: tuple[Think, ...] = ("prefilled", "required", "optional", "none")
LOCAL = (*KINDS, "format")


def step(expert: str | None, think: str = "none", number: int = 1, format: str = "", **meta: Any) -> Problem:
    return Problem(
        f"t/step-{number}",
        ({"role": "user", "content": "Go on."},),
        expert,
        meta={"trajectory": "t", "step": number, "think": think, "format": format, **meta},
    )


def reward(kind: str = "ratcliff", **options: Any) -> StepSimilarity:
    built = build({"name": "step_similarity", "kind": kind, **options})
    assert isinstance(built, StepSimilarity)
    return built


def one(problem: Problem, text: str, **options: Any) -> Score:
    return reward(**options).score([problem], [text])[0]


def refusals(parts: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in parts.items() if name.startswith("format/")}


def test_a_near_miss_by_hand() -> None:
    score = one(step("x = 2", "prefilled"), "Halve it.\n</think>\n\nx = 3\n")
    assert (score.value, score.correct) == (0.8, None)
    none = {f"format/{name}": 0.0 for name in REASONS}
    assert dict(score.parts) == {"format": 1.0, "exact": 0.0, "similarity": 0.8, "bounded": 0.0, **none}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 2", "unclosed"),
        ("a</think>b<think>c", "think_twice"),
        ("a</think> ", "empty_action"),
        ("a</think>x = 2\n3. **Say** 2", "two_steps"),
    ],
)
def test_a_wrong_format_is_minus_one_and_says_why(text: str, reason: str) -> None:
    score = one(step("x = 2", "prefilled", 2, "titled"), text)
    assert score.value == -1.0
    assert {name for name, value in score.parts.items() if value} == {f"format/{reason}"}
    assert {"format", "exact", *(f"format/{name}" for name in REASONS)} == set(score.parts)


def test_the_kinds_compare_in_their_own_ways() -> None:
    expert, action = "cd /x && grep -n 12 a.py", "cd /x && grep -n 13 a.py"
    values = {kind: one(step(expert), action, kind=kind).value for kind in LOCAL}
    assert values == {
        "ratcliff": bounded_ratcliff(action, expert).value,
        "indel": indel(action, expert),
        "maths": maths(action, expert),
        "tool_call": tool_call(action, expert),
        "exact": 0.0,
        "format": 1.0,
    }
    assert len(set(values.values())) >= 5


def test_format_measures_no_similarity_but_keeps_the_other_parts() -> None:
    score = one(step("x = 2"), "y", kind="format")
    assert "similarity" not in score.parts
    assert (score.parts["exact"], score.parts["format"]) == (0.0, 1.0)


def test_paper_compat_turns_autojunk_on() -> None:
    expert = ("the quick brown fox jumps over the lazy dog and keeps running " * 5).strip()
    action = expert.replace("keeps running", "keeps on running", 1)
    assert round(one(step(expert), action).value, 6) == 0.995169
    assert round(one(step(expert), action, paper_compat=True).value, 6) == 0.173913


def test_tools_and_files_are_parts_where_the_step_is_an_agents() -> None:
    expert = "sed -n '1,9p' src/a.py"
    agent = one(step(expert, tool="sed"), "sed -n 1p src/b.py")
    assert (agent.parts["tool"], agent.parts["file"]) == (1.0, 0.0)
    assert one(step(expert), "cat src/a.py", kind="tool_call").parts["file"] == 1.0
    assert "file" not in one(step("ls", tool="ls"), "cat a.py").parts
    assert not {"tool", "file"} & set(one(step(expert), "cat src/a.py").parts)


def test_correct_at_judges_by_the_similarity() -> None:
    scores = reward(correct_at=0.8).score([step("x = 2")] * 3, ["x = 3", "y = 7", " "])
    assert [score.correct for score in scores] == [True, False, False]
    assert reward(correct_at=0.8).gives_correct
    assert not reward().gives_correct


def rollout(text: str, stop: str) -> Trajectory:
    return Trajectory((1, 2), (False, True), (0.0, -1.0), text, stop=stop)  # type: ignore[arg-type]


def test_a_rollout_that_the_length_limit_ended_is_refused_also_in_a_sum() -> None:
    problems, rollouts = [step("x = 2")] * 3, [rollout("x = 2", stop) for stop in ("eos", "stop", "length")]
    alone = reward().score_rollouts(problems, rollouts)
    assert [score.value for score in alone] == [1.0, 1.0, -1.0]
    assert alone[2].parts["format/cut"] == 1.0
    both: Reward = build([{"name": "step_similarity", "weight": 0.5}, {"name": "step_similarity", "kind": "format"}])
    assert [score.value for score in both.score_rollouts(problems, rollouts)] == [1.5, 1.5, -1.5]
    judged = reward(correct_at=0.5).score_rollouts(problems, rollouts)
    assert [score.correct for score in judged] == [True, True, False]


def test_other_rewards_score_a_rollout_by_its_text() -> None:
    (score,) = build({"name": "exact", "after": ""}).score_rollouts([step("x")], [rollout("x", "length")])
    assert score.value == 1.0


NESTED = """Plan.
1. **List** the parts:
   1. one
   2. two
2. **Add** them: 2. is no header

```
3. **Say** inside a fence
```
3. **Say** $1.5 + 1 = 2.5$
"""
WRITTEN = [
    NESTED,
    "## Step 1: Look\nat it\n1. a\n2. b\n## Step 2: Say\n7",
    "Step 1. Look\nStep 2. Say 7",
    "1. Look\n  1. a\n  2. b\n2. Say 7",
    "Look at it. Then add 3.5 to it. Say 7.",
]


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("think", MODES)
@pytest.mark.parametrize("text", WRITTEN, ids=["titled", "hash-step", "step", "numbered", "sentences"])
def test_every_expert_target_passes_and_scores_one(text: str, think: Think, kind: str) -> None:
    solution = parse(text)
    assert isinstance(solution, Solution)
    targets = [(number, target.strip()) for number, s in enumerate(solution.steps, 1) for target in (s.action, s.text)]
    problems = [step(target, think, number, solution.format) for number, target in targets]
    scores = reward(kind).score(problems, [wrap(target, think, "So.") for _, target in targets])
    assert [score.value for score in scores] == [1.0] * len(targets)
    assert len(targets) >= 4


def test_a_whole_solution_as_one_action_holds_the_following_steps() -> None:
    whole = NESTED.removeprefix("Plan.\n")
    assert one(step(whole, number=1, format="titled"), whole).value == 1.0
    assert one(step("1. **List** a", number=1, format="titled"), whole).parts["format/two_steps"] == 1.0


@settings(max_examples=300, deadline=None)
@given(
    st.text(min_size=1, max_size=40).filter(str.strip),
    st.sampled_from(MODES),
    st.sampled_from(LOCAL),
    st.integers(1, 3),
)
def test_any_expert_action_scores_one(action: str, think: Think, kind: str, number: int) -> None:
    problem = step(action, think, number, "numbered", tool="x")
    assert one(problem, wrap(action.strip(), think), kind=kind).value == 1.0


PIECES = [
    "<think>",
    "</think>",
    "\n2. ",
    "**",
    "```\n",
    "$",
    "\\[",
    "{",
    "<tool_call>",
    "x = 1",
    "\0",
    "\ud800",
    "\udc00",
    "0" * 99,
    "\n",
]
HOSTILE = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=20).map("".join)


@settings(max_examples=300, deadline=None)
@given(
    HOSTILE,
    HOSTILE,
    st.sampled_from(MODES),
    st.sampled_from(LOCAL),
    st.sampled_from(["titled", "numbered", "sentences", ""]),
)
def test_no_text_of_a_model_raises(text: str, expert: str, think: Think, kind: str, format: str) -> None:
    score = one(step(expert, think, 1, format, tool="x"), text, kind=kind)
    refused = score.parts["format"] == 0.0
    assert score.value == -1.0 if refused else 0.0 <= score.value <= 1.0
    assert sum(refusals(score.parts).values()) == float(refused)


LONG = [
    "0" * 10_000,
    "0 " * 5_000,
    "ab" * 5_000,
    "\ud83d" * 5_000,
    "[" * 10_000,
    "1. " * 3_000,
    "<think>" * 1_500,
    "\n" * 9_999 + "a",
]


def test_long_degenerate_text_is_bounded_and_counted() -> None:
    experts = LONG[:3]
    problems = [step(expert, "none", 1, "numbered") for expert in experts for _ in LONG]
    for kind in LOCAL:
        with reward(kind) as built:
            scores = built.score(problems, LONG * len(experts))
        assert all(-1.0 <= score.value <= 1.0 for score in scores)
        if kind == "ratcliff":
            assert 0 < sum(score.parts.get("bounded", 0.0) for score in scores) < len(scores)


PAIRS = [
    ("x = 2", "x = 3"),
    ("\ud83d\ude00", "😀"),
    ("\ud800 é", "\udc00é"),
    ("0" * 900, "0 " * 450),
    ("ls -l a.py", "ls a.py"),
]


@pytest.mark.parametrize("kind", LOCAL)
def test_workers_give_the_same_numbers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problems, texts = [step(expert, tool="x") for _, expert in PAIRS] * 3, [text for text, _ in PAIRS] * 3
    here = reward(kind).score(problems, texts)
    monkeypatch.setattr(step_rewards, "HERE", -1.0)
    monkeypatch.setattr(step_rewards, "CHUNK", 1e-9)
    with build({"name": "step_similarity", "kind": kind}, processes=2) as there:
        assert isinstance(there, StepSimilarity)
        assert there.score(problems, texts) == here
        assert there._pool.idle, "no worker was asked"
        assert there.score([], []) == []


def test_a_lost_worker_costs_time_and_changes_no_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    mortal = tmp_path / "mortal.py"
    mortal.write_text("import sys\nprint('\"ready\"', flush=True)\nsys.stdin.readline()\n")
    monkeypatch.setattr(step_rewards, "HERE", -1.0)
    monkeypatch.setattr(step_rewards, "WORKER", mortal)
    with build({"name": "step_similarity"}, processes=1) as built:
        assert built.score([step("x = 2")], ["x = 3"])[0].value == 0.8


def test_equal_pairs_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = reward()
    asked: list[int] = []
    real = built._here
    monkeypatch.setattr(built, "_here", lambda kind, pairs: asked.append(len(pairs)) or real(kind, pairs))
    scores = built.score([step("x = 2")] * 8, ["x = 3"] * 7 + ["x = 4"])
    assert asked == [2]
    assert [score.value for score in scores] == [0.8] * 8


def test_a_worker_starts_without_torch() -> None:
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__'); "
        "sys.exit(bool({'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    request = json.dumps({"kind": "ratcliff", "autojunk": False, "pairs": [["tide", "diet", False]], "limit": LIMIT})
    done = subprocess.run(
        [sys.executable, "-c", code, str(WORKER)], input=request + "\n", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ['"ready"', "[[0.25, false, null, null]]"]


def test_the_pool_speaks_the_workers_language() -> None:
    pool = Pool(WORKER, 1)
    try:
        (reply,) = pool.ask([{"kind": "tool_call", "autojunk": False, "pairs": [["ls", "ls a.py", True]]}], LIMIT)
    finally:
        pool.close()
    assert reply.status == "ok"
    assert reply.value[0][2:] == [1.0, 0.0]


def test_a_step_without_an_expert_action_is_told_apart() -> None:
    assert reward().unreadable(step("x")) is None
    assert "no gold answer" in str(reward().unreadable(step(" ")))
    assert one(step(None), "x").value == 0.0


def test_a_template_that_does_not_exist_is_the_users_error() -> None:
    with pytest.raises(UserError, match="problem 't/step-1' has think: 'requird' in its row; did you mean 'required'"):
        one(step("x", "requird"), "x")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "ratclif"}, "option 'kind'"),
        ({"kind": "indel", "paper_compat": True}, "paper_compat is about kind: ratcliff, not indel"),
        ({"remote": {"model": "x"}}, "remote is for the kinds embedding and judge, not ratcliff"),
        ({"kid": "indel"}, "has no option 'kid'; did you mean 'kind'?"),
        ({"kind": "judge", "remote": {"model": "x"}}, "a judge needs an `endpoint`"),
    ],
)
def test_wrong_options_are_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        build({"name": "step_similarity", **options})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_similarity_by_another_model_sees_task_and_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    built = reward("judge", remote={"model": "m", "endpoint": "http://127.0.0.1:9/v1"})
    asked: list[tuple[str, str, str]] = []

    def half(triples: list[tuple[str, str, str]]) -> list[float]:
        asked.extend(triples)
        return [0.5] * len(triples)

    monkeypatch.setattr(built, "_scorer", half)
    opened = replace(step("x = 2", "prefilled", tool="x"), opening=f"So far.\n{OPENINGS['prefilled']}")
    scores = built.score([opened, opened], ["a</think>x = 3", "x"])
    assert asked == [("Go on.\nSo far.\n", "x = 3", "x = 2")]
    assert [score.value for score in scores] == [0.5, -1.0]
    assert (scores[0].parts["similarity"], scores[0].parts["tool"]) == (0.5, 1.0)
    assert built.fingerprint is None


def test_kept_scores_know_kind_template_and_number(tmp_path: Any) -> None:
    problem, text = step("x = 2", "prefilled", 2, "numbered"), "a</think>x = 2\n3. y"
    cached = CachedScores(reward(), tmp_path)
    assert cached.score([problem], [text])[0].value == -1.0
    for other in (step("x = 2", "prefilled", 3, "numbered"), step("x = 2", "none", 2), step("x = 2", "prefilled", 2)):
        assert CachedScores(reward(), tmp_path).score([other], [text]) == reward().score([other], [text])
    assert reward().fingerprint != reward("indel").fingerprint != reward(paper_compat=True).fingerprint
    demonstration = Demonstration("x = 2")
    assert reward().reads(problem) == reward().reads(replace(problem, demonstrations=(demonstration,)))
