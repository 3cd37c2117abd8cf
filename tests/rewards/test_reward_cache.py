"""Verdicts on disk: found again, never wrong, and never the reason a run fails."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from superrl.home import cache_folder
from superrl.records import Problem, Score
from superrl.rewards import CachedScores, Reward, build, score_in_workers
from superrl.rewards.base import Fingerprint


def ask(answer: str, number: int = 0) -> Problem:
    return Problem(f"p{number}", ({"role": "user", "content": "q"},), answer)


class Counting(Reward):
    """1.0 iff the completion is the answer; counts what it was asked. Some texts time out."""

    gives_correct = True

    def __init__(self, fingerprint: Fingerprint | None = None) -> None:
        self.asked: list[str] = []
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> Fingerprint | None:
        return self._fingerprint

    def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
        self.asked += completions
        return [
            Score(float(p.answer == c), p.answer == c, {"math/timeout": float(c == "slow"), "x": 0.25})
            for p, c in zip(problems, completions, strict=True)
        ]

    def unreadable_all(self, problems: Sequence[Problem]) -> list[str | None]:
        self.asked += [f"gold {problem.answer}" for problem in problems]
        return ["no parser" if problem.answer == "?" else None for problem in problems]


def test_a_second_start_asks_nothing_again(tmp_path: Path) -> None:
    problems, texts = [ask("a"), ask("b"), ask("a")], ["a", "a", "b"]
    first, second = Counting({"v": 1}), Counting({"v": 1})
    scores = CachedScores(first, tmp_path).score(problems, texts)
    assert CachedScores(second, tmp_path).score(problems, texts) == scores == Counting().score(problems, texts)
    assert (first.asked, second.asked) == (texts, [])


def test_another_reward_answer_or_text_is_another_verdict(tmp_path: Path) -> None:
    CachedScores(Counting({"v": 1}), tmp_path).score([ask("a")], ["a"])
    for fingerprint, problem, text in [({"v": 2}, ask("a"), "a"), ({"v": 1}, ask("b"), "a"), ({"v": 1}, ask("a"), "b")]:
        reward = Counting(fingerprint)
        (score,) = CachedScores(reward, tmp_path).score([problem], [text])
        assert reward.asked == [text]
        assert score.correct is (problem.answer == text)


def test_gold_answers_are_checked_once_unless_something_is_wrong_with_them(tmp_path: Path) -> None:
    problems = [ask("1", 1), ask("?", 2)]
    for asked in (["gold 1", "gold ?"], ["gold ?"]):
        reward = Counting({"v": 1})
        assert CachedScores(reward, tmp_path).unreadable_all(problems) == [None, "no parser"]
        assert reward.asked == asked


def test_time_outs_are_asked_again(tmp_path: Path) -> None:
    for _ in range(2):
        reward = Counting({"v": 1})
        CachedScores(reward, tmp_path).score([ask("a"), ask("a")], ["slow", "a"])
    assert reward.asked == ["slow"]


def test_without_a_fingerprint_nothing_is_kept(tmp_path: Path) -> None:
    cached = CachedScores(reward := Counting(None), tmp_path)
    cached.score([ask("a")], ["a"])
    cached.score([ask("a")], ["a"])
    assert (reward.asked, list(tmp_path.iterdir())) == (["a", "a"], [])


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_truncated_last_line_is_skipped_and_written_over(tmp_path: Path, cut: int) -> None:
    problems, texts = [ask("a"), ask("b")], ["a", "b"]
    CachedScores(Counting({"v": 1}), tmp_path).score(problems, texts)
    (file,) = tmp_path.rglob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-cut])
    for asked in ([] if cut == 1 else ["b"], []):
        reward = Counting({"v": 1})
        assert [s.correct for s in CachedScores(reward, tmp_path).score(problems, texts)] == [True, True]
        assert reward.asked == asked
    lines = file.read_text().splitlines()
    assert json.loads(lines[-1])["value"] == 1.0


@pytest.mark.parametrize(
    "line",
    ["[]", "3", "null", '"why"', "{}", '{"key": "k"}', "\x00\xff", '{"key": "k", "value": NaN, "correct": true}'],
)
def test_lines_that_are_not_ours_are_skipped(tmp_path: Path, line: str) -> None:
    CachedScores(Counting({"v": 1}), tmp_path).score([ask("a")], ["a"])
    (file,) = tmp_path.rglob("*.jsonl")
    file.write_bytes(line.encode("latin-1") + b"\n" + file.read_bytes())
    reward = Counting({"v": 1})
    assert CachedScores(reward, tmp_path).score([ask("a")], ["a"])[0].correct is True
    assert reward.asked == []


def test_a_folder_that_cannot_be_written_means_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    reward = Counting({"v": 1})
    cached = CachedScores(reward, tmp_path / "file")
    assert cached.score([ask("a")], ["a"])[0].correct is True
    (tmp_path / "scores").write_text("in the way too")
    assert CachedScores(reward, tmp_path).score([ask("a")], ["a"])[0].correct is True
    assert reward.asked == ["a", "a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_means_no_cache(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert CachedScores(Counting({"v": 1}), tmp_path).score([ask("a")], ["a"])[0].correct is True


def test_what_was_graded_before_an_interruption_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superrl.rewards.cache.CHUNK", 2)

    class Interrupting(Counting):
        def score(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Score]:
            if "c" in completions:
                raise KeyboardInterrupt
            return super().score(problems, completions)

    texts = ["a", "b", "c", "d"]
    with pytest.raises(KeyboardInterrupt):
        CachedScores(Interrupting({"v": 1}), tmp_path).score([ask("a")] * 4, texts)
    reward = Counting({"v": 1})
    CachedScores(reward, tmp_path).score([ask("a")] * 4, texts)
    assert reward.asked == ["c", "d"]


def test_the_folder_is_the_users_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERRL_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("SUPERRL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "superrl"


def test_score_in_workers_is_the_same_as_score_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERRL_CACHE", str(tmp_path))
    problems = [ask(f"{n}x") for n in range(12)]
    texts = [rf"\boxed{{{n - n % 3} x}}" for n in range(12)]
    config = {"name": "math", "timeout": 30.0}
    with build(config) as reward:
        expected = reward.score(problems, texts)
    assert score_in_workers(config, problems, texts, processes=2) == expected
    assert score_in_workers(config, problems, texts, processes=1) == expected  # now from the file
    assert [score.correct for score in expected] == [n % 3 == 0 for n in range(12)]


def test_score_in_workers_leaves_a_reward_it_was_given_open() -> None:
    closed: list[bool] = []

    class Closing(Counting):
        def close(self) -> None:
            closed.append(True)

    assert score_in_workers(Closing(), [ask("a")], ["a"])[0].correct is True
    assert closed == []
