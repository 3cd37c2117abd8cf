"""What a recipe says becomes a reward; what it says wrongly becomes one sentence that names it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from superrl.errors import UserError
from superrl.records import Problem, Score
from superrl.rewards import REWARDS, Reward, build
from superrl.rewards.base import BaseOptions, Weighted, parse_options


def ask(answer: str | None, **meta: object) -> Problem:
    return Problem("p", ({"role": "user", "content": "q"},), answer, (), meta)


def length(prompts: list[str], completions: list[str], **columns: list[object]) -> list[float]:
    return [float(len(text)) for text in completions]


def half(prompts: list[str], completions: list[str], **columns: list[object]) -> list[float]:
    return [0.5 for _ in completions]


def fair(prompts: list[str], completions: list[str], **columns: list[object]) -> list[float]:
    return [float(text.endswith("b")) for text in completions]


WRONG = {
    "unknown name": ({"name": "maths"}, "no reward 'maths'; did you mean 'math'?"),
    "far from any name": ({"name": "zzz"}, "known: choice, exact, math, model, python:module.function, qa"),
    "no name": ({"weight": 1.0}, "has no name"),
    "unknown option": ({"name": "exact", "afer": "x"}, "reward 'exact' has no option 'afer'; did you mean 'after'?"),
    "ill-typed option": ({"name": "exact", "after": 3}, "reward 'exact', option 'after'"),
    "a number as text": ({"name": "exact", "weight": "2"}, "reward 'exact', option 'weight'"),
    "negative time": ({"name": "math", "timeout": -1.0}, "reward 'math', option 'timeout'"),
    "infinite weight": ({"name": "math", "weight": float("inf")}, "reward 'math', option 'weight'"),
    "unknown metric": ({"name": "qa", "metric": "bleu"}, "reward 'qa', option 'metric'"),
    "letters": ({"name": "choice", "letters": "a,b"}, "write the letters in capitals"),
    "empty list": ([], "a reward is a mapping with a name"),
    "a number": (3, "a reward is a mapping with a name"),
    "a list of numbers": ([3], "has no name"),
}


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_a_wrong_recipe_is_refused_in_one_sentence(case: str) -> None:
    config, words = WRONG[case]
    with pytest.raises(UserError) as caught:
        build(config)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", REWARDS)
def test_every_registered_reward_builds_by_name_and_says_what_is_correct(name: str) -> None:
    with build({"name": name}) as reward:
        assert reward.gives_correct
        assert reward.score([], []) == []
        assert reward.unreadable(ask(None)) is not None
        assert reward.unreadable(ask("  ")) is not None
        assert reward.score([ask(None)], ["anything"])[0].correct is False
        assert type(reward.score([ask("A")], ["#### A"])[0]) is Score


def test_options_are_frozen() -> None:
    options = parse_options(BaseOptions, {"weight": 2.0}, "exact")
    with pytest.raises(ValueError, match="frozen"):
        options.weight = 3.0  # type: ignore[misc]


def test_correct_at_replaces_the_rewards_own_opinion() -> None:
    problem, text = ask("red green"), "Answer: red blue"
    own = build({"name": "qa"}).score([problem], [text])[0]
    bent = build({"name": "qa", "correct_at": 0.5}).score([problem], [text])[0]
    assert (own.value, own.correct) == (0.5, False)
    assert (bent.value, bent.correct) == (0.5, True)


def test_a_list_adds_weighted_values_and_flattens_the_parts() -> None:
    reward = build([{"name": "exact", "weight": 2.0}, {"name": "qa", "after": "####", "weight": -0.5}])
    (score,) = reward.score([ask("the red")], ["#### red"])
    assert score.value == 2.0 * 0.0 - 0.5 * 1.0
    assert score.correct is False  # qa says yes, exact says no: all must agree
    assert score.parts == {
        "exact": 0.0, "exact/answered": 1.0, "qa": 1.0, "qa/answered": 1.0, "qa/em": 1.0, "qa/f1": 1.0,
    }  # fmt: skip
    assert reward.score([ask("red")], ["#### red"])[0].correct is True


def test_one_reward_with_a_weight_is_a_sum_of_one() -> None:
    (score,) = build({"name": "exact", "weight": 3.0}).score([ask("x")], ["#### x"])
    assert (score.value, score.correct) == (3.0, True)


def test_two_rewards_of_one_name_keep_their_parts_apart() -> None:
    reward = build([{"name": "exact"}, {"name": "exact", "ignore_case": True}])
    (score,) = reward.score([ask("x")], ["#### X"])
    assert (score.parts["exact"], score.parts["exact.2"]) == (0.0, 1.0)


def test_a_shaped_function_beside_a_verifier_has_no_say_in_what_is_correct_unless_it_asks_for_it() -> None:
    problem, text = ask("b"), "#### b"
    beside = build([{"name": "exact"}, {"name": half, "weight": 0.01}])
    assert beside.score([problem], [text])[0].correct is True
    strict = build([{"name": "exact"}, {"name": half, "correct_at": 1.0}])
    assert strict.score([problem], [text])[0].correct is False
    alone = build([fair, {"name": length, "correct_at": None}])
    assert alone.gives_correct
    assert [s.correct for s in alone.score([problem, problem], ["b", "a"])] == [True, False]


@pytest.mark.parametrize(
    ("config", "gives"),
    [
        ({"name": "math"}, True),
        (length, True),
        ({"name": length, "correct_at": None}, False),
        ([{"name": length, "correct_at": None}, {"name": "exact"}], True),
        ([{"name": length, "correct_at": None, "weight": 2.0}], False),
    ],
)
def test_gives_correct_is_known_before_anything_is_scored_and_is_kept(config: object, gives: bool) -> None:
    reward = build(config)  # type: ignore[arg-type]
    assert reward.gives_correct is gives
    (score,) = reward.score([ask("b")], ["\\boxed{b}"])
    assert (score.correct is not None) is gives
    reward.close()


def test_a_finished_reward_is_taken_as_it_is_and_may_stand_in_a_list() -> None:
    class Half(Reward):
        gives_correct = False
        fingerprint = None

        def score(self, problems: object, completions: object) -> list[Score]:
            return [Score(0.5) for _ in completions]  # type: ignore[attr-defined]

    half = Half()
    assert build(half) is half
    (score,) = build([half, {"name": "exact", "weight": 2.0}]).score([ask("x")], ["#### x"])
    assert (score.value, score.correct, score.parts["Half"]) == (2.5, True, 0.5)


def test_the_first_complaint_about_a_gold_answer_speaks_for_the_sum() -> None:
    reward = build([{"name": "exact"}, {"name": "choice"}])
    assert isinstance(reward, Weighted)
    why = reward.unreadable_all([ask("Z"), ask("B"), ask("")])
    assert why[0] is not None and "none of the letters ABCDE" in why[0]
    assert why[1] is None
    assert why[2] is not None and "no gold answer" in why[2]


def test_fingerprints_are_json_and_change_with_whatever_changes_the_scores() -> None:
    configs: list[object] = [
        {"name": "math"}, {"name": "math", "timeout": 9.0}, {"name": "math", "boxed_only": True}, {"name": "exact"},
        {"name": "exact", "after": "="}, {"name": "exact", "correct_at": 0.5}, length, fair,
        {"name": length, "correct_at": 7.0}, [{"name": "exact"}, fair], [{"name": "exact", "weight": 2.0}, fair],
    ]  # fmt: skip
    prints = [json.dumps(build(config).fingerprint, sort_keys=True) for config in configs]  # type: ignore[arg-type]
    assert len(set(prints)) == len(configs)
    again = [json.dumps(build(config).fingerprint, sort_keys=True) for config in configs]  # type: ignore[arg-type]
    assert prints == again


def test_a_fingerprint_is_the_same_in_another_process() -> None:
    code = "import json; from superrl.rewards import build; print(json.dumps(build('math').fingerprint))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == json.dumps(build("math").fingerprint)


def test_what_the_source_does_not_settle_has_no_fingerprint() -> None:
    bar = float(len(sys.argv))

    class Stateful:
        def __call__(self, prompts: object, completions: list[str], **columns: object) -> list[float]:
            return [bar for _ in completions]

    assert build(lambda prompts, completions, **columns: [bar for _ in completions]).fingerprint is None
    assert build(Stateful()).fingerprint is None
    assert build([{"name": "exact"}, Stateful()]).fingerprint is None
    namespace: dict[str, object] = {}
    exec("def typed(prompts, completions, **columns): return [0.0] * len(completions)", namespace)
    assert build(namespace["typed"]).fingerprint is None  # type: ignore[arg-type]


def test_two_lambdas_on_one_line_are_two_rewards() -> None:
    one, two = lambda prompts, completions, **columns: [1.0], lambda prompts, completions, **columns: [2.0]
    assert build(one).fingerprint != build(two).fingerprint


def test_importing_rewards_does_not_import_torch() -> None:
    code = "import sys, superrl.rewards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
