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


def test_a_step_shows_its_opening_its_action_and_the_action_as_the_expert_would_write_it():
    text = inspect("steps:tasks:chain?order=right&ops=2&n=6")
    lines = [" ".join(line.split()) for line in text.split("\n")]
    assert "18 steps of 6 trajectories" in lines and "values from 1 to 1, 18 of 18 exactly 1" in text
    at = next(i for i, line in enumerate(lines) if line.startswith("step 2 of 3 of chain-"))
    opening, action, demonstration = (next(li for li in lines[at:] if li.startswith(name)) for name in
                                      ("opening ", "action ", "demonstration "))  # fmt: skip
    assert "=" in opening and demonstration.split()[1] == action.split()[1] != opening.split()[1]
    assert f"{OPEN}{action.split()[1]}" in text, "what is trained is the action"
    assert max(map(len, text.split("\n"))) <= 80


def test_a_step_with_thought_shows_the_template(write):
    steps = [{"action": "It is 4.", "lead": "1. **Add** ", "title": "Add"}, {"action": "So [4].", "lead": "\n2. "}]
    path = write({"id": "q", "prompt": "2+2?", "demonstrations": [{"steps": [*steps, "Done."]}]})
    text = inspect(f"steps:{path}?targets=all&think=prefilled")
    assert "3 steps of 1 trajectory" in text and "opening        <think>" in text and "</think>" in text
    assert "step           2 of 3 of q" in text and "action         So [4]." in text
    assert "title 'Add'" in inspect(f"steps:{path}?targets=all&think=none", limit=1)
