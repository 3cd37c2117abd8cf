"""The presets on the real files, where SUPERRL_DATA names a folder that has them; none comes with the package."""

import os
from pathlib import Path

import pytest

from superrl import data, rewards
from superrl.data.presets import last_boxed

FOLDER = Path(os.environ.get("SUPERRL_DATA", ""))


def real(name: str) -> str:
    if not os.environ.get("SUPERRL_DATA") or not (FOLDER / name).is_file():
        pytest.skip(f"needs {name} in the folder that SUPERRL_DATA names")
    return str(FOLDER / name)


@pytest.mark.parametrize(
    ("preset", "name", "least"),
    [
        ("gsm8k", "gsm8k/train.jsonl", 1.0),
        ("math", "math/train.jsonl.gz", 0.97),
        ("hotpotqa", "hotpotqa/train.jsonl.gz", 0.99),
    ],
)
def test_the_experts_pass_their_own_grader(preset, name, least):
    loaded = data.load(f"{preset}:{real(name)}?rows=0:300", "train")
    assert len(loaded.problems) == 300 and all(problem.demonstrations for problem in loaded.problems)
    with rewards.build(loaded.defaults["reward"]) as reward:
        scores = reward.score(loaded.problems, [problem.demonstrations[0].text for problem in loaded.problems])
    assert sum(bool(score.correct) for score in scores) >= least * 300


def test_all_of_gsm8k_is_read():
    problems = data.load(f"gsm8k:{real('gsm8k/train.jsonl')}", "train").problems
    assert len(problems) == 7473
    for problem in problems:
        assert float(problem.answer) is not None
        assert "<<" not in problem.demonstrations[0].text
        assert last_boxed(problem.demonstrations[0].text) == problem.answer


def test_hotpotqa_s_supporting_sentences_are_in_the_prompt():
    for problem in data.load(f"hotpotqa:{real('hotpotqa/train.jsonl.gz')}?paragraphs=2", "train").problems:
        titles = [part for part in problem.prompt.split("\n\n")[:-1] if part]
        assert len(titles) == 2
        for step in problem.demonstrations[0].steps[:-1]:
            text = step.text
            starts = [i + 2 for i in range(len(text)) if text.startswith(": ", i)]  # titles may hold a colon, too
            assert any(text[start:] in problem.prompt for start in starts)


def test_a_raw_file_without_its_preset_says_which_one_to_use():
    with pytest.raises(ValueError, match="give it as gsm8k:"):
        data.load(real("gsm8k/train.jsonl"), "train")
