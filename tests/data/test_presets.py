"""The presets on rows of their datasets' shape: prompt, gold answer, a demonstration the preset's reward accepts."""

import json

import pytest

from superrl import data, rewards
from superrl.data.files import Row
from superrl.data.presets import PRESETS
from superrl.errors import UserError

GSM8K = {
    "question": "Ada has 3 boxes of 400 pins and loses 150. How many are left?",
    "answer": "She has 3*400 = <<3*400=1200>>1200 pins.\nThen 1200-150=$<<1200-150=1050>>1050 stay. \n#### 1,050",
}
MATH = {
    "problem": "What is half of $\\frac{3}{2}$?",
    "solution": "We start from \\boxed{x}, so it is $\\boxed{\\frac{3}{4}}$.",
    "level": "Level 1",
    "type": "Prealgebra",
}
PAGES = [["Moss", ["Moss is green.", " It grows in shade."]], ["Fern", ["Ferns are old."]], ["Oak", ["Oaks are tall."]]]
HOTPOT = {
    "id": "h1",
    "question": "Which green plant grows near ferns?",
    "answer": "moss",
    "context": PAGES,
    "supporting_facts": [["Moss", 0], ["Oak", 0]],
    "type": "bridge",
}


def convert(preset, row, **options):
    return PRESETS[preset].convert(Row(row, "f/x.jsonl", 5), options)


def test_gsm8k_by_hand():
    problem = convert("gsm8k", GSM8K)
    assert problem.id == "f/x.jsonl:5"
    assert problem.prompt == GSM8K["question"]
    assert problem.answer == "1050"
    (demonstration,) = problem.demonstrations
    assert demonstration.text == ("She has 3*400 = 1200 pins.\nThen 1200-150=$1050 stay.\nThe answer is \\boxed{1050}.")
    assert [step.text for step in demonstration.steps] == demonstration.text.split("\n")
    assert problem.meta == {}


def test_math_takes_the_last_box_unless_there_is_an_answer():
    problem = convert("math", MATH)
    assert problem.answer == "\\frac{3}{4}"
    assert problem.demonstrations[0].text == MATH["solution"]
    assert problem.meta == {"level": "Level 1", "type": "Prealgebra"}
    assert convert("math", {**MATH, "answer": "3/4"}).answer == "3/4"


def test_math_without_box_or_solution():
    boxless = convert("math", {"problem": "q", "solution": "It is 5.", "answer": 5})
    assert boxless.demonstrations[0].text == "It is 5.\nThe answer is \\boxed{5}."
    bare = convert("math", {"problem": "q", "answer": 27.0})
    assert (bare.answer, bare.demonstrations) == ("27", ())
    with pytest.raises(UserError, match=r"line 5 has neither an `answer` nor a solution with \\boxed"):
        convert("math", {"problem": "q", "solution": "It is 5."})


def test_hotpotqa_in_both_layouts():
    hub = {
        **HOTPOT,
        "context": {"title": [title for title, _ in PAGES], "sentences": [lines for _, lines in PAGES]},
        "supporting_facts": {"title": ["Moss", "Oak"], "sent_id": [0, 0]},
    }
    problem = convert("hotpotqa", HOTPOT)
    assert convert("hotpotqa", hub) == problem
    assert problem.prompt == (
        "Moss: Moss is green. It grows in shade.\n\nFern: Ferns are old.\n\nOak: Oaks are tall.\n\n"
        "Question: Which green plant grows near ferns?"
    )
    assert problem.demonstrations[0].text == "Moss: Moss is green.\nOak: Oaks are tall.\nAnswer: moss"
    assert [step.text for step in problem.demonstrations[0].steps] == [
        "Moss: Moss is green.",
        "Oak: Oaks are tall.",
        "Answer: moss",
    ]
    assert problem.meta == {"type": "bridge"}


@pytest.mark.parametrize(
    ("paragraphs", "titles"), [("1", ["Moss", "Oak"]), ("2", ["Moss", "Oak"]), ("3", ["Moss", "Fern", "Oak"])]
)
def test_hotpotqa_keeps_the_supporting_paragraphs(paragraphs, titles):
    prompt = convert("hotpotqa", HOTPOT, paragraphs=paragraphs).prompt
    assert [part.partition(":")[0] for part in prompt.split("\n\n")] == [*titles, "Question"]


@pytest.mark.parametrize("paragraphs", ["0", "-1", "many"])
def test_hotpotqa_needs_a_number_of_paragraphs(paragraphs):
    with pytest.raises(UserError, match=f"paragraphs={paragraphs} is not a positive whole number"):
        convert("hotpotqa", HOTPOT, paragraphs=paragraphs)


def test_hotpotqa_passes_over_facts_that_do_not_exist():
    wrong = {**HOTPOT, "supporting_facts": [["Moss", 9], ["Yew", 0], ["Oak", -1]]}
    assert convert("hotpotqa", wrong).demonstrations == ()


@pytest.mark.parametrize(
    ("preset", "row", "sentence"),
    [
        ("gsm8k", {"question": "q"}, "has no column `answer`, only question: is the preset the right one"),
        ("gsm8k", {"question": "q", "answer": "4"}, "`answer` does not end with `#### number`"),
        ("gsm8k", {"question": " ", "answer": "#### 4"}, "`question` is blank, not text"),
        ("gsm8k", {"question": 4, "answer": "#### 4"}, "`question` is a number, not text"),
        ("math", {"solution": "s"}, "has no column `question`"),
        ("hotpotqa", {**HOTPOT, "context": "text"}, "`context` is neither"),
        ("hotpotqa", {**HOTPOT, "context": [["Moss", "text"]]}, "a paragraph of `context` is not a list of sentences"),
        ("hotpotqa", {**HOTPOT, "supporting_facts": None}, "`supporting_facts` is neither"),
    ],
)
def test_a_row_of_another_shape_is_one_sentence(preset, row, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        convert(preset, row)
    assert str(caught.value).startswith("f/x.jsonl, line 5")


@pytest.mark.parametrize(
    ("preset", "row", "name"), [("gsm8k", GSM8K, "math"), ("math", MATH, "math"), ("hotpotqa", HOTPOT, "qa")]
)
def test_the_demonstration_passes_the_reward_the_preset_brings(tmp_path, preset, row, name):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    loaded = data.load(f"{preset}:{path}", "train")
    (problem,) = loaded.problems
    assert loaded.defaults["reward"] == {"name": name}
    with rewards.build(loaded.defaults["reward"]) as reward:
        right, wrong = reward.score([problem, problem], [problem.demonstrations[0].text, "The answer is \\boxed{7}."])
    assert right.correct and not wrong.correct
    assert "{prompt}" in loaded.defaults["prompt"]["template"]
