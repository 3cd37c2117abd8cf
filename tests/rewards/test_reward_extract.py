"""Where the answer of a completion is, and which comparisons need no parser."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.rewards.extract import (
    Answer,
    find_answer,
    gold_text,
    last_boxed,
    normalise,
    plain_number,
    quick_verdict,
    without_unit,
)

BOXED = [
    (r"so \boxed{4}.", "4"),
    (r"\boxed{\frac{1}{2}} and \boxed{ \sqrt{3} }", r"\sqrt{3}"),
    (r"\boxed{\boxed{3}}", "3"),
    (r"\boxed{x + \boxed{3}}", "3"),
    (r"\fbox{7}", "7"),
    (r"\boxed 5$.", "5"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{4} or rather \boxed{5", "4"),
    (r"} } \boxed{6} {", "6"),
    (r"\boxed {8}", "8"),
    (r"\boxed{}", ""),
    (r"\boxed{9", None),
    (r"\\boxed{9}", None),
    ("nothing", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "content"), BOXED)
def test_the_last_complete_box_is_read_with_its_braces_matched(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


FOUND = [
    (r"The answer is 3. \boxed{4}", Answer("4", "bare")),
    (r"#### 5" + "\n" + r"\boxed{4}", Answer("4", "bare")),
    (r"\boxed{30^\circ.}", Answer(r"30^\circ", "bare")),
    (r"\boxed{}", None),
    ("so\n#### 1,234", Answer("1,234", "bare")),
    ("so\n#### 12\nQuestion: how many? 7", Answer("12", "bare")),
    ("#### Step 1\nfoo\n#### Step 2\nthe answer is 9", Answer("9", "bare")),
    ("work\n#### x + 1", Answer("x + 1", "bare")),
    ("The answer is 4. No, the answer is **5**.", Answer("5", "bare")),
    ("Answer: $\\sqrt{2}$\nbecause", Answer("$\\sqrt{2}$", "phrase")),
    ("ANSWER = 7", Answer("7", "bare")),
    ("The answer is\n", None),
    ("she makes 18 dollars", Answer("she makes 18 dollars", "tail")),
    ("no idea", None),
    ("   ", None),
]


@pytest.mark.parametrize(("text", "answer"), FOUND)
def test_the_answer_is_found_by_the_first_rule_that_applies(text: str, answer: Answer | None) -> None:
    assert find_answer(text) == answer


def test_boxed_only_reads_nothing_but_boxes() -> None:
    assert find_answer("#### 5", boxed_only=True) is None
    assert find_answer(r"\boxed{5} #### 6", boxed_only=True) == Answer("5", "bare")


def test_only_the_end_of_a_long_completion_is_searched() -> None:
    answer = find_answer("7 " * 5000)
    assert answer is not None and answer.kind == "tail" and len(answer.text) == 1000


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (" 42 ", "42"),
        ("so 3 + 4 = 7\n#### 7", "7"),
        (r"thus $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\begin{pmatrix}4\-3\end{pmatrix}", r"\begin{pmatrix}4\\-3\end{pmatrix}"),
        (r"\begin{pmatrix}4\\-3\end{pmatrix}", r"\begin{pmatrix}4\\-3\end{pmatrix}"),
        (r"2\-3", r"2\-3"),
    ],
)
def test_a_gold_answer_may_come_as_a_whole_solution(answer: str, gold: str) -> None:
    assert gold_text(answer) == gold


NUMBERS = [
    ("42", Fraction(42)), ("-7", Fraction(-7)), ("+5", Fraction(5)), ("1,234,567", Fraction(1234567)),
    ("0.50", Fraction(1, 2)), (".5", Fraction(1, 2)), ("3.", Fraction(3)), ("$18$", Fraction(18)),
    (r"\$1,000", Fraction(1000)), ("10,\\!080", Fraction(10080)), ("12{,}345", Fraction(12345)),
    (r"\frac{3}{4}", Fraction(3, 4)), (r"-\dfrac{3}{4}", Fraction(-3, 4)), (r"\frac34", Fraction(3, 4)),
    ("3/4", Fraction(3, 4)), ("\u22123", Fraction(-3)), (r"90^\circ", Fraction(90)), (r"\text{12}", Fraction(12)),
    ("{7}", Fraction(7)), ("007", Fraction(7)),
    ("1,23", None), ("1/0", None), ("x", None), ("", None), ("5%", None), ("1e3", None), ("1 2", None),
    ("2\\frac{1}{2}", None), ("\u0663", None), ("9" * 101, None), ("--1", None), ("1.2.3", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_plain_numbers(text: str, value: Fraction | None) -> None:
    number = plain_number(text)
    assert (number.value if number else None) == value


UNITS = [
    ("18 dollars", "18"), ("$18$ square feet", "$18$"), ("5 \\text{ cm}", "5"), ("1,200 sq. ft.", "1,200"),
    ("18 x", "18 x"), ("18x", "18x"), ("2 sin 3", "2 sin 3"), ("dollars", "dollars"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "number"), UNITS)
def test_a_unit_is_words_after_a_number(text: str, number: str) -> None:
    assert without_unit(text) == number


VERDICTS = [
    ("42", "42", True), ("42", "42.0", True), ("42", "43", False), ("1/2", "0.5", True), ("1/3", "0.333333", True),
    ("1/3", "0.33", False), ("1/3", "2/6", True), ("18", "18 dollars", True), ("18", "19 dollars", False),
    ("18 dollars", "18", None), (r"\dfrac{x}{2}", r"\frac{x} {2}", True), (r"\text{east}", "east", True),
    ("{A,B}", r"\text{A, B}", True), ("x", "y", None), ("50", r"50\%", None), ("(1,2)", r"\left( 1, 2 \right)", True),
    ("1 2", "12", None), ("a  b", "ab", None), ("a  b", "a b", True), (r"\left\{1\right\}", r"\{1\}", True),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", True),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "prediction", "verdict"), VERDICTS)
def test_what_is_settled_without_a_parser(gold: str, prediction: str, verdict: bool | None) -> None:
    assert quick_verdict(gold, Answer(prediction, "bare")) is verdict


def test_a_phrase_is_only_settled_by_equal_text() -> None:
    assert quick_verdict("red", Answer("red", "phrase")) is True
    assert quick_verdict("5", Answer("6 or 7", "phrase")) is None
    assert quick_verdict("5", Answer("6", "tail")) is None


PIECES = st.lists(
    st.sampled_from(
        [r"\boxed{", r"\boxed ", "{", "}", "\\", "$", "####", "answer is ", "answer: ", "\n", " ", "12", ",", ".", "/",
         r"\frac", r"\text{", "-", "%", "A", "x", "\x00", "\ud800", "\u0663", "^\\circ"]
    )
).map("".join)  # fmt: skip


@given(text=st.text() | PIECES, gold=st.text() | PIECES)
def test_no_text_makes_extraction_raise(text: str, gold: str) -> None:
    answer = find_answer(text)
    assert answer is None or answer.text in text or answer.kind == "phrase"
    normalise(text)
    gold_text(gold)
    plain_number(text)
    without_unit(text)
    if answer is not None:
        assert quick_verdict(gold_text(gold), answer) in (True, False, None)


@given(value=st.fractions(max_denominator=999, min_value=-(10**9), max_value=10**9))
def test_every_spelling_of_a_number_is_that_number(value: Fraction) -> None:
    spellings = [f"{value.numerator}/{value.denominator}", rf"\frac{{{value.numerator}}}{{{value.denominator}}}"]
    if value >= 0:
        assert all(quick_verdict(str(value), Answer(text, "bare")) for text in spellings)
    if value.denominator == 1:
        assert quick_verdict(str(value), Answer(f"${value.numerator:,}$", "bare")) is True
        assert quick_verdict(str(value), Answer(str(value.numerator + 1), "bare")) is False


@pytest.mark.parametrize(
    "text",
    [r"\boxed{" * 40_000, "{" * 200_000, r"\boxed{1}" * 40_000, "#### \n" * 40_000, "answer is " * 30_000,
     " " * 200_000, "answer" + " " * 200_000, r"\text{" * 40_000, "1," * 100_000, "^" + " " * 100_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_the_cost_is_linear_in_the_text(text: str) -> None:
    start = time.process_time()
    answer = find_answer(text)
    if answer is not None:
        quick_verdict("1", Answer(answer.text[:2000], answer.kind))
    gold_text(text)
    assert time.process_time() - start < 1.5
