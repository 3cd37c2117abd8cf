"""Preparation keeps exactly the demonstrations a rollout could have written and the run's reward calls right."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_tokenizers import CHATML, byte_tokenizer
from superrl import rewards
from superrl.config import PromptConfig
from superrl.data import Loaded
from superrl.data.prepare import Prepared, prepare, reasons, summary
from superrl.errors import UserError
from superrl.records import Demonstration, Problem, Score
from superrl.rewards.base import Reward
from superrl.text import Renderer, eos_ids

TOKENIZER = byte_tokenizer(chat=CHATML)
RENDERER = Renderer(TOKENIZER, PromptConfig(), eos_ids(TOKENIZER, (), PromptConfig()).final)
EXACT = rewards.build({"name": "exact", "after": "#"})


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SUPERRL_CACHE", str(tmp_path_factory.mktemp("cache")))


class Fixed(Reward):
    """Says one thing of every text, and cannot be cached."""

    gives_correct = True
    fingerprint = None

    def __init__(self, score: Score, unreadable: bool = False) -> None:
        self.answer = score
        self.unreadable_is = "no" if unreadable else None

    def score(self, problems, completions):
        return [self.answer] * len(problems)

    def unreadable_all(self, problems):
        return [self.unreadable_is] * len(problems)


def problem(name: str, *demonstrations: str, prompt: str = "q", answer: str | None = "4") -> Problem:
    shown = tuple(Demonstration(text) for text in demonstrations)
    return Problem(name, ({"role": "user", "content": prompt},), answer, shown)


def run(
    *problems: Problem, reward=EXACT, length=20, context=200, unverified="drop", renderer=RENDERER, stop=(), **kw
) -> Prepared:
    loaded = Loaded(tuple(problems), **kw)
    return prepare(
        loaded, renderer, reward, max_new_tokens=length, context_length=context, unverified=unverified, stop=stop
    )


def kept(prepared: Prepared) -> dict[str, list[str]]:
    return {group.problem.id: [t.text for t in group.demonstrations] for group in prepared.groups}


def test_every_reason_by_hand():
    prepared = run(
        problem("good", "2+2 #4", "#4"),
        problem("wrong", "2+2 #5", "#4"),
        problem("long", "2+2 is what it is #4"),
        problem("eos inside", "<|im_end|> #4"),
        problem("no answer", "#4", answer=None),
        problem("wide", "#4", prompt="q" * 200),
        problem("alone"),
        dropped={"empty": 2},
    )
    assert kept(prepared) == {
        "good": ["2+2 #4", "#4"], "wrong": ["#4"], "long": [], "eos inside": [], "alone": []
    }  # fmt: skip
    report = prepared.report
    assert report.dropped == {
        "empty": 2, "unreadable_answer": 1, "prompt_too_long": 1, "eos_inside": 1, "too_long": 1, "unverified": 1
    }  # fmt: skip
    assert report.examples == {
        "unreadable_answer": ("no answer",),
        "prompt_too_long": ("wide",),
        "eos_inside": ("eos inside",),
        "too_long": ("long",),
        "unverified": ("wrong",),
    }
    assert (report.rows, report.problems, report.with_demonstration, report.demonstrations) == (7, 5, 2, 3)
    assert (report.failing, report.max_new_tokens, report.context_length) == (1, 20, 200)
    assert summary(report) == (
        "5 problems, 2 with a demonstration; dropped: 2 without text, 1 with an answer the reward cannot read, "
        "1 with a prompt that fills the context of 200 tokens, 1 too long (> 20 tokens, or past 200 with the prompt), "
        "1 with an end-of-sequence token inside, 1 failed the run's own reward"
    )


def test_groups_are_rendered_scored_and_aligned():
    (group,) = run(problem("p", "wrong", "#4", "= #4")).groups
    assert [demo.text for demo in group.problem.demonstrations] == ["#4", "= #4"]
    assert group.trajectories == () and group.key == ()
    for demonstration, trajectory in zip(group.problem.demonstrations, group.demonstrations, strict=True):
        assert replace(trajectory, score=None) == RENDERER.demonstration(group.problem, demonstration)
        assert trajectory.score == EXACT.score([group.problem], [demonstration.text])[0]


def test_unverified_keep_keeps_and_still_counts():
    prepared = run(problem("p", "#5", "#4"), unverified="keep")
    assert kept(prepared) == {"p": ["#5", "#4"]}
    assert [t.score.correct for t in prepared.groups[0].demonstrations] == [False, True]
    assert prepared.report.dropped == {} and prepared.report.failing == 1
    assert summary(prepared.report) == "1 problem, 1 with a demonstration; 1 kept though they fail the reward"


@given(st.integers(1, 12), st.integers(1, 12))
def test_the_limits_count_eos_and_are_inclusive(size, limit):
    text = "x" * size
    assert bool(run(problem("p", text), reward=None, length=limit).groups[0].demonstrations) == (size + 1 <= limit)
    prompt = len(RENDERER.context(problem("p")))
    prepared = run(problem("p", text), reward=None, context=prompt + limit)
    assert bool(prepared.groups[0].demonstrations) == (size + 1 <= limit)


def test_a_stop_string_at_the_end_ends_a_demonstration_and_one_inside_drops_it():
    shown = problem("p", "#4\n", "#4", "1\n#4", "1\n\n", "#4;", "a;;b")
    prepared = run(shown, reward=None, stop=["\n", ";;"])
    assert kept(prepared) == {"p": ["#4\n", "#4", "#4;"]} and prepared.report.dropped == {"stop_inside": 3}
    ends = [(t.stop, t.tokens[-1] == RENDERER.eos_id, t.length) for t in prepared.groups[0].demonstrations]
    assert ends == [("stop", False, 3), ("eos", True, 3), ("eos", True, 4)]
    assert "3 with a stop string inside" in summary(prepared.report)
    assert kept(run(problem("p", "#4\n"), reward=None, stop=["\n"], length=3)) == {"p": ["#4\n"]}, "no room for EOS"


def test_reasons_that_only_a_source_knows_are_told_in_its_words():
    report = run(problem("p"), dropped={"one_step": 2, "odd_shape": 1}).report
    assert reasons(report) == {"one_step": "2 of one step, which is no target", "odd_shape": "1 odd shape"}


def test_a_prompt_needs_room_for_one_token():
    prompt = len(RENDERER.context(problem("p")))
    assert len(run(problem("p"), context=prompt + 1).groups) == 1
    with pytest.raises(
        UserError, match=f"than the {prompt - 1} tokens that are left for it, the shortest has {prompt}: take a model"
    ):
        run(problem("p"), problem("r", prompt="qqq"), context=prompt)
    assert len(run(problem("p"), context=None).groups) == 1


def test_when_no_answer_can_be_graded_the_first_is_named():
    with pytest.raises(UserError, match=r"can grade none of the 2 problems; the first: .*'a'"):
        run(problem("a", answer=" "), problem("b", answer=None))


def test_what_the_reward_leaves_open_stays():
    undecided = Fixed(Score(0.1, None))
    assert kept(run(problem("p", "x"), reward=undecided)) == {"p": ["x"]}
    late = run(problem("p", "x"), reward=Fixed(Score(0.0, False, {"math/timeout": 1.0})))
    assert kept(late) == {"p": []} and late.report.dropped == {"no_verdict": 1}
    assert summary(late.report).endswith("none with a demonstration; dropped: 1 not graded in time")
    with pytest.raises(UserError, match="the first: no"):
        run(problem("p", "x"), reward=Fixed(Score(1.0, True), unreadable=True))


def test_without_a_reward_nothing_is_graded():
    (group,) = run(problem("p", "x", answer=None), reward=None).groups
    assert group.demonstrations[0].score is None


def test_verdicts_are_kept_on_disk():
    class Counting(Fixed):
        fingerprint = {"reward": "counting"}  # noqa: RUF012
        asked = 0

        def score(self, problems, completions):
            self.asked += len(problems)
            return super().score(problems, completions)

    reward = Counting(Score(1.0, True))
    first, second = (run(problem("p", "x", "y"), reward=reward) for _ in range(2))
    assert first == second and reward.asked == 2


def test_examples_are_few_and_reasons_have_words():
    report = run(*(problem(str(i), "#5") for i in range(9))).report
    assert report.dropped == {"unverified": 9} and report.examples == {"unverified": ("0", "1", "2")}
    assert reasons(report) == {"unverified": "9 failed the run's own reward"}
    unlimited = replace(report, dropped={"too_long": 1}, context_length=2**31)
    assert reasons(unlimited) == {"too_long": "1 too long (> 20 tokens)"}
