"""`superrl inspect` shows what is trained, within 80 columns, whatever the data hold."""

import json

import pytest

from superrl.errors import UserError
from superrl.inspection import CLOSE, OPEN, clean, clipped, histogram, inspect, quantile


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERRL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write(tmp_path):
    def written(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return written


def test_a_task_from_top_to_bottom():
    text = inspect("tasks:chain?ops=2&n=8&demos=3")
    assert "8 problems, 3 with a demonstration" in text
    for heading in ("tasks:chain", "problem chain-", "lengths in tokens", "dropped", "what the grader says"):
        assert f"\n{heading}" in "\n" + text
    assert "3 of 3 pass (100.0%)" in text and "\nnothing\n" in text
    trained = text.partition(OPEN)[2].partition(CLOSE)[0]
    assert trained.rstrip().endswith("<eos>") and "=" in trained.split("\n")[0]
    assert text.count(OPEN) == 2, "one in the example, one in its legend"
    assert max(map(len, text.split("\n"))) <= 80


def test_failing_demonstrations_are_shown_with_their_gold_answer(write):
    rows = [{"id": f"r{i}", "prompt": "2+2=", "answer": "4", "completion": f"#{i}"} for i in range(6)]
    text = inspect(write(*rows), reward={"name": "exact", "after": "#"})
    assert "1 of 6 pass (16.7%)" in text
    assert "  r0  gold '4'\n  ... #0" in text and "r2  gold" in text and "r3  gold" not in text
    assert "6 problems, 6 with a demonstration" in text and "kept though" not in text


def test_data_cannot_steer_the_terminal_or_break_the_page(write):
    rows = [
        {"id": "[red]x\x1b", "prompt": "1\x1b[31m2 [bold]=" + 90 * "3", "answer": "4\x07", "completion": "#[/]\x9b5"},
        {"id": "[/bold]", "prompt": "0" * 600, "answer": "4", "completion": "#4"},
    ]
    text = inspect(write(*rows), reward={"name": "exact", "after": "#"})
    assert "[red]x" in text and "[/bold]" in text
    assert "\x1b" not in text and "\x9b" not in text and "\x07" not in text
    assert max(map(len, text.split("\n"))) <= 80
    assert "1 with a prompt that fills the context of 512" in text
    assert "unknown to this tokenizer" in text


def test_a_limit_a_missing_reward_and_missing_demonstrations_are_said(write):
    text = inspect(write(*({"prompt": f"{i}+1="} for i in range(5))), limit=2)
    assert "the first 2 of 5 rows; 2 problems, none with a demonstration" in " ".join(text.split())
    assert "only ever gets policy gradient" in text and "no gold answer" in text
    assert "the data bring no reward" in text
    graded = inspect(write({"prompt": "1+1=", "answer": "2"}), reward={"name": "exact", "after": "#"})
    assert "there is no demonstration to grade" in graded


def test_bad_data_is_a_user_error(write):
    with pytest.raises(UserError, match="has no column `prompt`"):
        inspect(write({"text": "x"}))


def test_quantiles_and_bars_by_hand():
    assert [quantile([5, 1, 3], q) for q in (0.0, 0.5, 1.0)] == [1, 3, 5]
    assert quantile(range(101), 0.9) == 90
    assert histogram([0] * 30 + [15]) == "█" + " " * 14 + "▁"
    assert histogram([7]) == " " * 14 + "█ "


def test_long_texts_lose_their_middle():
    text = "a" * 1000 + "b" * 700 + "c" * 500
    assert clipped(text) == "a" * 1000 + "\n... 700 characters ...\n" + "c" * 500
    assert clipped("short\x00") == "short\\x00" and clean("a\tb\n") == "a\tb\n"
