"""Rows to problems: our columns, other trainers' columns, and one sentence for every row that is neither."""

from collections import Counter

import pytest

from superrl.data.files import Row
from superrl.data.rows import problems_of
from superrl.errors import UserError
from superrl.records import Demonstration, Problem, Step

USER = [{"role": "user", "content": "2+2?"}]
REPLY = [{"role": "assistant", "content": "4"}]


def read(number: int = 1, /, **values) -> Problem:
    (problem,) = problems_of([Row(values, "set/a.jsonl", number)], Counter())
    return problem


def test_our_own_row_by_hand():
    row = {
        "id": "q1",
        "prompt": "2+2?",
        "answer": "4",
        "demonstrations": ["It is 4.", {"steps": ["2+2", "=4"], "text": "2+2 =4", "source": "me"}],
        "level": 3,
    }
    assert read(**row) == Problem(
        id="q1",
        messages=({"role": "user", "content": "2+2?"},),
        answer="4",
        demonstrations=(Demonstration("It is 4."), Demonstration("2+2 =4", (Step("2+2"), Step("=4")), "me")),
        meta={"level": 3},
    )


def test_steps_alone_become_paragraphs():
    assert read(prompt="q", demonstrations=[{"steps": ["a", "b"]}]).demonstrations == (
        Demonstration("a\n\nb", (Step("a"), Step("b"))),
    )


def test_a_step_may_be_an_object_with_what_stood_around_its_action():
    turn = {"action": "ls", "thought": "look first", "observation": "a.py", "tool": "ls"}
    titled = {"lead": "2. **Add** ", "title": "Add", "action": "2+2"}
    (one,) = read(prompt="q", demonstrations=[{"steps": [turn, titled]}]).demonstrations
    assert one.steps == (
        Step("ls", thought="look first", observation="a.py", tool="ls"),
        Step("2+2", "2. **Add** ", "Add"),
    )
    assert one.text == "ls\n\n2. **Add** 2+2"
    assert [step.is_turn for step in one.steps] == [True, False]


def test_an_opening_is_no_meta():
    problem = read(prompt="q", opening="So:", level=2)
    assert (problem.opening, problem.meta) == ("So:", {"level": 2})


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": USER, "completion": REPLY},
        {"prompt": USER, "demonstration": "4"},
        {"prompt": USER, "demonstrations": [REPLY]},
        {"messages": USER + REPLY},
        {"prompt": None, "messages": USER + REPLY},
    ],
)
def test_other_trainers_columns_say_the_same(row):
    problem = read(**row)
    assert problem.messages == tuple(USER)
    assert problem.demonstrations == (Demonstration("4"),)
    assert problem.meta == ({} if isinstance(row.get("prompt"), str) else {"conversational": True})


def test_a_conversation_without_a_last_reply_has_no_demonstration():
    talk = [*USER, *REPLY, {"role": "user", "content": "and 3+3?"}]
    problem = read(messages=talk)
    assert problem.messages == tuple(talk) and problem.demonstrations == ()


def test_a_row_without_id_is_called_after_its_place():
    assert read(17, prompt="q").id == "set/a.jsonl:17"
    assert read(id=3, prompt="q").id == "3"


@pytest.mark.parametrize(("given", "text"), [("4", "4"), (4, "4"), (27.0, "27"), (0.5, "0.5"), (None, None)])
def test_numbers_are_answers_too(given, text):
    assert read(prompt="q", answer=given).answer == text


def test_blank_demonstrations_are_dropped_and_counted():
    dropped = Counter()
    rows = [
        Row({"prompt": "q", "demonstrations": ["", " \n", "yes", None, {"text": " "}]}, "a.jsonl", 1),
        Row({"prompt": "q", "completion": ""}, "a.jsonl", 2),
        Row({"prompt": "q", "completion": None, "demonstrations": None}, "a.jsonl", 3),
    ]
    problems = problems_of(rows, dropped)
    assert [len(problem.demonstrations) for problem in problems] == [1, 0, 0]
    assert dropped == {"empty": 5}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"query": "2+2", "answer": "4"}, "has no column `prompt`, only answer, query: rename the column"),
        ({}, "has no column `prompt`, only none at all"),
        ({"question": "q", "answer": "#### 4"}, r"looks like GSM8K: give it as gsm8k:set/a\.jsonl"),
        ({"question": "q", "answer": "4"}, "rename the column"),
        ({"problem": "q", "solution": "s"}, r"looks like MATH: give it as math:set/a\.jsonl"),
        (
            {"question": "q", "answer": "####", "context": [], "supporting_facts": []},
            "looks like HOTPOTQA: give it as hotpotqa:",
        ),
        ({"prompt": 7}, "`prompt` is a number, not text or a list of messages"),
        ({"prompt": []}, "`prompt` is a list, not text"),
        ({"prompt": [{"role": "user"}]}, "a message of `prompt` lacks text in `role` or `content`"),
        ({"prompt": ["hello"]}, "a message of `prompt` lacks text"),
        ({"prompt": "  "}, "`prompt` is empty"),
        ({"prompt": USER + REPLY}, "ends with an assistant's message: move that reply to `demonstrations`"),
        ({"messages": REPLY}, "`messages` holds only a reply"),
        ({"prompt": "q", "answer": ["4"]}, "`answer` is a list, not text or a number.*`answers`"),
        ({"prompt": "q", "answer": True}, "`answer` is a truth value"),
        ({"prompt": "q", "answer": float("nan")}, "`answer` is a number"),
        ({"prompt": "q", "demonstrations": "text"}, "`demonstrations` is text, not a list"),
        ({"prompt": "q", "demonstrations": [7]}, "a demonstration is a number"),
        ({"prompt": "q", "demonstrations": [{"solution": "x"}]}, "a demonstration is an object, neither text nor"),
        ({"prompt": "q", "demonstrations": [{"steps": "x"}]}, "a demonstration is an object"),
        ({"prompt": "q", "demonstrations": [{"steps": [{"thought": "x"}]}]}, "a demonstration is an object"),
        ({"prompt": "q", "demonstrations": [{"steps": [{"action": "x", "tool": 3}]}]}, "a demonstration is an object"),
        ({"prompt": "q", "opening": 3}, "`opening` is a number, not text"),
        ({"prompt": "q", "demonstrations": [{"text": 4}]}, "a demonstration is an object"),
        ({"prompt": "q", "demonstration": "a", "completion": "b"}, "has both `demonstration` and `completion`"),
        ({"prompt": "q", "completion": REPLY + REPLY}, "has the messages assistant, assistant"),
        ({"prompt": "q", "completion": USER}, "has the messages user"),
        ({"prompt": "\ud800"}, "`prompt` holds half a surrogate pair"),
        ({"prompt": "q", "completion": "\ud800"}, "`demonstrations` holds half a surrogate pair"),
    ],
)
def test_a_bad_row_is_one_sentence_with_its_line(row, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        read(8, **row)
    assert str(caught.value).startswith("set/a.jsonl, line 8") and "\n" not in str(caught.value)
