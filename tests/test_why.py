"""`superrl why` on a hand-made run folder, at 80 columns."""

import io
from pathlib import Path
from typing import Any

import pytest

import step_runs
from small_runs import write_lines
from superrl import cli
from superrl.errors import UserError
from superrl.report import plain_console
from superrl.why import counted, match, resolve, weight, why


def seen(step: int, problem: str, correct: int | None, decision: str, **keys: Any) -> dict[str, Any]:
    values = [1.0] * (correct or 0) + [0.0] * (4 - (correct or 0))
    trained = [1.5, -0.5, -0.5, -0.5] if decision == "pg" else None
    return {
        "step": step, "stage": "rl", "problem_id": problem, "drawn": step, "n": 4, "correct": correct, "values": values,
        "advantages": trained, "demonstrations": 2, "decision": decision,
        "demonstration": 1 if decision == "sft" else None, "share": 0.5, "why": f"because of {decision}", **keys,
    }  # fmt: skip


def completion(text: str, value: float, advantage: float | None = None) -> dict[str, Any]:
    score = {"value": value, "correct": value == 1.0, "parts": {}}
    return {"text": text, "stop": "eos", "score": score, "advantage": advantage}


BAD = ("bad", 0.0, -0.5)
VISITS = [
    seen(1, "chain-aa", 0, "sft"),
    seen(1, "chain-ab", 1, "pg"),
    seen(3, "chain-ab", 4, "none"),
    seen(3, "logic-b", 2, "discarded", share=None),
    seen(4, "logic-b", 2, "carried", share=None),
    seen(5, "chain-aa", 1, "pg", values=[0.0, 1.0, 0.0, 0.0]),
    seen(5, "logic-b", 2, "pg", drawn=4),
    seen(6, "logic-b", None, "pg", values=[0.25] * 4),
]
TEXTS = [
    {"step": 1, "stage": "rl", "problem_id": "chain-aa", "prompt": "1+1=", "decision": "sft", "why": "because of sft",
     "completions": [completion("three\nor \x1b[31m[bold]so", 0.0)] * 3 + [completion("four", 0.0)],
     "demonstration": "the expert says two"},
    {"step": 5, "stage": "rl", "problem_id": "chain-aa", "prompt": "1+1=", "decision": "pg", "why": "because of pg",
     "completions": [completion(*rollout) for rollout in (BAD, ("good", 1.0, 1.5), BAD, BAD)],
     "demonstration": None},
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    write_lines(tmp_path / "visits.jsonl", VISITS)
    write_lines(tmp_path / "rollouts.jsonl", TEXTS)
    return tmp_path


def told(run: Path, step: int, problem: str) -> str:
    console = plain_console(width=80, file=io.StringIO(), color_system=None)
    why(run, step, problem, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_a_fallback_is_told_with_its_texts(run: Path) -> None:
    text = told(run, 1, "chain-aa")
    for line in (
        "step 1, chain-aa ─",
        "rolled out  4 rollouts, 0 correct; rewards 0 ×4",
        "decision    demonstration: because of sft",
        "learnt      demonstration 1 of 2",
        "weight      1/2 of the step's mean",
        "before      this was the first visit",
        "next        step 5: 1 of 4 correct, policy gradient",
        "the expert says two",
    ):
        assert line in text
    assert text.count("three") == 1 and "\n  ×3    or \\x1b[31m[bold]so" in text, "alike completions once, text as text"
    assert "\x1b" not in text


def test_rollouts_stand_from_best_to_worst_with_their_advantages(run: Path) -> None:
    text = told(run, 5, "chain-aa")
    assert text.index("✓ 1.00  A +1.50") < text.index("good") < text.index("✗ 0.00  A -0.50") < text.index("bad")
    assert "learnt      4 of 4 rollouts, with advantages -0.50 to +1.50" in text
    assert "before      step 1: 0 of 4 correct, demonstration" in text
    assert "next        not visited again up to step 6, the last one written" in text


def test_without_texts_there_are_numbers_and_the_setting_that_keeps_texts(run: Path) -> None:
    text = told(run, 1, "chain-ab")
    assert "reward  1.00  A +1.50\nreward  0.00  A -0.50  ×3\n" in text
    assert "log.rollouts_per_step=2" in text
    assert "next        step 3: 4 of 4 correct, nothing learnt" in text
    assert "weight      1/2 of the step's mean, where it adds no gradient" in told(run, 3, "chain-ab")


def test_what_dynamic_sampling_put_aside_is_told(run: Path) -> None:
    lost, kept, learnt = told(run, 3, "logic"), told(run, 4, "logic"), told(run, 5, "logic")
    assert "decision    discarded: because of discarded" in lost and "weight      none" in lost
    assert "next        step 5: 2 of 4 correct, policy gradient" in kept
    assert "4 rollouts (in step 4), 2 correct" in learnt and "before      step 3: 2 of 4 correct, discarded" in learnt
    assert "the reward does not say what is correct; rewards 0.25 ×4" in told(run, 6, "logic")


@pytest.mark.parametrize(
    ("step", "problem", "sentence"),
    [
        (7, "logic-b", "has no step 7: its steps are 1 to 6"),
        (2, "logic-b", "has no step 2"),
        (4, "chain-aa", "chain-aa was not visited in step 4: nearest, it was in step 1 and step 5"),
        (6, "chain-ab", "chain-ab was not visited in step 6: nearest, it was in step 3"),
        (1, "chain", "'chain' begins 2 problems: chain-aa, chain-ab; write more of the id"),
        (1, "chainn-aa", "no problem of this run is or begins with 'chainn-aa'; did you mean 'chain-aa'?"),
        (1, "\x1b", "'\\\\x1b'; known: chain-aa, chain-ab, logic-b"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(
    run: Path, step: int, problem: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["why", str(run), str(step), problem]) == 2
    out, err = capsys.readouterr()
    assert out == "" and sentence in err and err.count("\n") == 1


def test_a_folder_without_visits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        why(tmp_path, 1, "a")
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match=r"has no visits.jsonl with a step"):
        why(tmp_path, 1, "a")


def test_a_prefix_is_enough_where_the_step_leaves_one_problem() -> None:
    assert resolve("c", ["chain-a", "logic-b"], ["chain-a", "chain-c", "logic-b"]) == "chain-a"
    assert resolve("chain-c", ["chain-a"], ["chain-a", "chain-c"]) == "chain-c", "of the run, where not of the step"
    assert resolve("a", ["ab", "ac"], ["a", "ab", "ac"]) == "a", "a whole id is no prefix"


def test_two_visits_in_one_step_get_the_texts_that_are_theirs() -> None:
    one, two = seen(1, "a", 1, "pg"), seen(1, "a", 0, "sft")
    texts = [{**TEXTS[0], "problem_id": "a"}]
    assert match([one, two], texts) == [None, texts[0]] and match([two, two], texts) == [texts[0], None]
    assert match([{**two, "decision": "carried"}, two], texts) == [None, texts[0]]


def test_a_weight_is_a_fraction_where_it_is_one() -> None:
    assert weight({"share": 0.333333, "decision": "pg"}) == "1/3 of the step's mean"
    assert weight({"share": 0.00390625, "decision": "pg"}) == "1/256 of the step's mean"
    assert weight({"share": 0.0271, "decision": "pg"}) == "2.7% of the step's mean"
    assert counted([0.0, 1.0, 0.0, 0.5]) == "1, 0.5, 0 ×2"


def test_of_a_step_the_answer_s_beginning_and_the_expert_s_action_are_told(run: Path) -> None:
    write_lines(run / "visits.jsonl", [step_runs.visit(1, "t/step-2", [0.5, 0.5])])
    two = [step_runs.completion("x = 5", 0.5)] * 2
    write_lines(run / "rollouts.jsonl", [step_runs.rollout(1, "t", two, opening="So far\nso good")])
    text = told(run, 1, "t/step-2")
    assert "begun   So far\n        so good" in text and "expert  x = 2 or x = 3" in text
