"""exact, choice and qa: each a table, and none of them raises on any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.records import Problem
from superrl.rewards import build


def ask(answer: str | None, **meta: object) -> Problem:
    return Problem("p", ({"role": "user", "content": "q"},), answer, (), meta)


EXACT = [
    ({}, "12", "3 + 9\n#### 12", True, 1.0),
    ({}, "12", "#### 11 #### 12 ", True, 1.0),
    ({}, "12", "#### 12\nand more", False, 1.0),
    ({}, "12", "12", False, 0.0),
    ({}, " 12 ", "#### 12", True, 1.0),
    ({}, "Yes", "#### yes", False, 1.0),
    ({"ignore_case": True}, "Yes", "#### yES", True, 1.0),
    ({"after": "="}, "7", "3+4 = 7", True, 1.0),
    ({"after": ""}, "7", " 7\n", True, 1.0),
    ({"after": ""}, "7", "= 7", False, 1.0),
    ({}, "", "####", False, 1.0),
    ({"after": ""}, "", "", False, 1.0),
]


@pytest.mark.parametrize(("options", "gold", "text", "correct", "answered"), EXACT)
def test_exact(options: dict[str, object], gold: str, text: str, correct: bool, answered: float) -> None:
    (score,) = build({"name": "exact", **options}).score([ask(gold)], [text])
    assert (score.value, score.correct, score.parts) == (float(correct), correct, {"answered": answered})


CHOICE = [
    (r"\boxed{C}", "C"), (r"\boxed{(C)}", "C"), (r"\boxed{\text{C}}", "C"), (r"\boxed{\textbf{(C)}\ 5}", "C"),
    (r"\boxed{C. Paris}", "C"), (r"\boxed{c}", "C"), (r"\boxed{12} The answer is C", None), (r"\boxed{CD}", None),
    (r"\boxed{A, B}", None), (r"\boxed{F}", None), (r"The answer is B. \boxed{C}", "C"),
    ("The answer is (C).", "C"), ("the answer is c", "C"), ("Answer: C", "C"), ("Answer: **C**", "C"),
    ("Answer:\n\nC", "C"), ("Final answer: $C$", "C"), ("The correct answer is option C.", "C"), ("Answer = C)", "C"),
    ("The answer is B. Wait, the answer is D", "D"), ("Answer: B, not A", "B"), ("The answer is Carbon", None),
    ("The answer is a good question", None), ("Answer: A", "A"), ("answer is A.", "A"),
    ("I would pick C", "C"), ("It must be (D) then", "D"), ("A man saw B.", "B"), ("A man ran.", None), ("B)", "B"),
    ("A", "A"), ("It's C's", None), ("vitamin C is in A.", "A"), ("ABCDE", None), ("", None), ("nothing", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "letter"), CHOICE)
def test_choice_reads_the_letter_by_its_three_rules(text: str, letter: str | None) -> None:
    reward = build({"name": "choice"})
    scores = {gold: reward.score([ask(gold)], [text])[0] for gold in "ABCDE"}
    assert [gold for gold, score in scores.items() if score.correct] == ([letter] if letter else [])
    assert {score.parts["answered"] for score in scores.values()} == {float(letter is not None)}


def test_choice_letters_are_an_option() -> None:
    wide = build({"name": "choice", "letters": "ABCDEFGHIJ"})
    assert wide.score([ask("J"), ask("I"), ask("I")], ["answer: J", "I think so", "It is I."])[0].correct
    assert [s.correct for s in wide.score([ask("I"), ask("I")], ["I think so", "It is I."])] == [False, True]
    assert wide.unreadable(ask("(j)")) is None


@pytest.mark.parametrize(("gold", "good"), [("C", True), ("(C)", True), ("c", True), ("F", False), ("Paris", False)])
def test_choice_knows_which_gold_answers_are_letters(gold: str, good: bool) -> None:
    assert (build("choice").unreadable(ask(gold)) is None) is good


QA = [
    # completion, gold, exact match, F1
    ("Answer: Paris", "Paris", 1.0, 1.0),
    ("Answer: the Eiffel Tower!", "Eiffel tower", 1.0, 1.0),
    ("Thinking.\nAnswer: Paris\nSince it is the capital.", "Paris", 1.0, 1.0),
    ("Answer:\n\n  Paris ", "Paris", 1.0, 1.0),
    ("Answer: Rome\nAnswer: Paris", "Paris", 1.0, 1.0),
    ("It is\nParis\n\n", "Paris", 1.0, 1.0),
    ("It is Paris", "Paris", 0.0, 0.5),
    ("Answer: red blue", "red green", 0.0, 0.5),
    ("Answer: red red", "red", 0.0, 2 / 3),
    ("Answer: yes", "yes", 1.0, 1.0),
    ("Answer: yes it is", "yes", 0.0, 0.0),
    ("Answer: no", "yes", 0.0, 0.0),
    ("Answer: yes", "yes man", 0.0, 0.0),
    ("Answer: The", "the", 0.0, 0.0),
    ("Answer:", "Paris", 0.0, 0.0),
    ("", "Paris", 0.0, 0.0),
    ("Answer: U.S.A.", "USA", 1.0, 1.0),
    ("Answer: new-york", "newyork", 1.0, 1.0),
]


@pytest.mark.parametrize(("text", "gold", "em", "f1"), QA)
def test_qa_is_the_published_exact_match_and_f1(text: str, gold: str, em: float, f1: float) -> None:
    by_f1 = build({"name": "qa"}).score([ask(gold)], [text])[0]
    by_em = build({"name": "qa", "metric": "em"}).score([ask(gold)], [text])[0]
    assert by_f1.value == pytest.approx(f1, abs=1e-12)
    assert by_em.value == em
    assert by_f1.correct is by_em.correct is (em == 1.0)
    assert (by_f1.parts["em"], by_f1.parts["f1"]) == (em, by_f1.value)


def test_qa_takes_the_best_of_several_gold_answers() -> None:
    reward = build({"name": "qa"})
    many = ask("New York", answers=["NYC", "New York City"])
    scores = reward.score([many, many, ask(None, answers=["NYC"])], ["Answer: nyc", "Answer: new city", "Answer: NYC"])
    assert [score.correct for score in scores] == [True, False, True]
    assert scores[1].value == pytest.approx(4 / 5)
    assert reward.reads(many) == ["New York", "NYC", "New York City"]
    assert reward.unreadable(ask("The")) is not None


def test_qa_with_an_empty_marker_reads_everything() -> None:
    (score,) = build({"name": "qa", "after": "", "metric": "em"}).score([ask("red wine")], ["red\nwine"])
    assert score.correct is True


@given(text=st.text(), gold=st.text(), marker=st.text(max_size=3))
def test_no_text_makes_them_raise(text: str, gold: str, marker: str) -> None:
    for config in ({"name": "exact", "after": marker}, {"name": "qa", "after": marker}, {"name": "choice"}):
        reward = build(config)
        for completion in (text, f"{text}{marker}{gold}", f"\\boxed{{{text}}}", f"Answer: {text}"):
            (score,) = reward.score([ask(gold)], [completion])
            assert 0.0 <= score.value <= 1.0
            assert score.correct in (True, False)
        reward.unreadable(ask(gold))


@given(gold=st.text())
def test_exact_accepts_every_gold_answer_after_the_marker(gold: str) -> None:
    reward = build({"name": "exact"})
    if reward.unreadable(ask(gold)) is None and "####" not in gold:
        assert reward.score([ask(gold)], [f"so\n#### {gold}"])[0].correct is True
