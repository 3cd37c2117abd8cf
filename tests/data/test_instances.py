"""Step instances: contexts, targets and demonstrations by hand, and what holds for every trajectory."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_tokenizers import CHATML, byte_tokenizer
from superrl.config import PromptConfig
from superrl.data.contexts import clip, places
from superrl.data.instances import InstanceOptions, instances
from superrl.errors import UserError
from superrl.records import Demonstration, Problem, Step
from superrl.steps.gate import judge
from superrl.steps.parse import find_header, parse
from superrl.steps.think import OPENINGS
from superrl.text import Renderer, eos_ids

TOKENIZER = byte_tokenizer(chat=CHATML)
RENDERER = Renderer(TOKENIZER, PromptConfig(), eos_ids(TOKENIZER, (), PromptConfig()).final)
TITLED = "We solve it.\n\n1. **Halve** Half of 8 is 4.\n\n2. **Add** 4 + 3 = 7.\n\n3. **Say** It is 7."
GAPS = st.text(" \n", max_size=3)
WORDS = st.text("ab1.", min_size=1, max_size=4)


def titled(name="p", text=TITLED, prompt="Half of 8, plus 3?") -> Problem:
    solution = parse(text, "titled")
    demonstration = Demonstration(text, solution.steps, "book")
    meta = {"format": "titled", "level": 2}
    return Problem(name, ({"role": "user", "content": prompt},), "7", (demonstration,), meta)


def turns(name="t", n=4) -> Problem:
    steps = tuple(
        Step(f"ls {i}", thought=f"Look at {i}.", observation=f"file {i}\n", tool="ls" if i % 2 else "")
        for i in range(n)
    )
    messages = ({"role": "system", "content": "You work in a shell."}, {"role": "user", "content": "Mend the bug."})
    return Problem(name, messages, None, (Demonstration("done", steps, "agent"),))


def lines(name, *actions) -> Problem:
    steps = tuple(map(Step, actions))
    return Problem(name, ({"role": "user", "content": f"q {name}"},), "7", (Demonstration("\n".join(actions), steps),))


def made(*problems, **options) -> list[Problem]:
    return list(instances(problems, InstanceOptions(**options)))


def test_the_paper_s_instances_by_hand():
    first, second = made(titled())
    assert (first.id, second.id) == ("p/step-1", "p/step-2")
    assert second.prompt == (
        "The problem below is being solved step by step. Your part is the next step, and nothing after it. "
        "Think first, between <think> and </think>, for as long as it helps; then write the step itself.\n\n"
        "Problem:\nHalf of 8, plus 3?\n\n"
        "Solution so far:\nWe solve it.\n\n1. **Halve** Half of 8 is 4.\n\n"
        "Write step 2, which has this title: Add"
    )
    assert second.opening == "<think>\n" and second.answer == "4 + 3 = 7."
    assert second.demonstrations == (Demonstration("</think>\n\n4 + 3 = 7.", source="book"),)
    assert second.meta == {
        "format": "titled", "level": 2, "trajectory": "p", "step": 2, "steps": 3, "think": "prefilled",
        "title": "Add", "tool": "",
    }  # fmt: skip


@pytest.mark.parametrize(("targets", "numbers"), [("paper", [1, 2]), ("next", [2, 3]), ("all", [1, 2, 3])])
def test_which_steps_are_targets(targets, numbers):
    assert [one.meta["step"] for one in made(titled(), targets=targets)] == numbers


def test_without_a_title_in_the_context_it_belongs_to_the_target():
    one = made(titled(), title="none")[1]
    assert one.answer == "2. **Add** 4 + 3 = 7." and one.prompt.endswith("Write step 2, with its number and title.")
    assert find_header(one.answer, one.meta["step"] + 1, one.meta["format"]) is None
    plain = made(lines("p", "a", "b", "c"), title="none")[1]
    assert plain.answer == "b" and plain.prompt.endswith("Write step 2.")


@pytest.mark.parametrize("layout", ["instructed", "continued"])
@pytest.mark.parametrize("think", ["prefilled", "required", "optional", "none"])
@pytest.mark.parametrize("title", ["context", "none"])
def test_the_demonstration_s_action_is_the_answer(layout, think, title):
    for problem in (titled(), turns()):
        for one in made(problem, targets="all", layout=layout, think=think, title=title):
            found = judge(one.demonstrations[0].text, think=think, expert=one.answer)
            assert (found.action, found.reason) == (one.answer, None)
            assert one.opening.endswith(OPENINGS[think])
            thought = problem.demonstrations[0].steps[one.meta["step"] - 1].thought
            assert (thought in one.demonstrations[0].text) == (think != "none" or not thought)


def test_the_whole_solution_as_one_action():
    (one,) = made(titled(), targets="whole", layout="continued", think="none")
    assert one.answer == one.demonstrations[0].text == TITLED and one.opening == ""
    assert (one.meta["step"], one.meta["steps"], one.meta["format"]) == (1, 1, "")
    (asked,) = made(titled(), targets="whole")
    assert asked.prompt.endswith("Problem:\nHalf of 8, plus 3?\n\nWrite the solution.")
    bare = replace(titled(), demonstrations=(Demonstration("It is 7."),))
    assert made(bare, targets="whole")[0].answer == "It is 7." and made(bare) == []
    assert made(turns(), targets="whole")[0].answer == "ls 0\n\nls 1\n\nls 2\n\nls 3"


# The layout `continued`: a step is the next part of the solution, token for token.


LINE = st.lists(st.text("ab12=", min_size=1), min_size=1, max_size=3).map(" ".join)


@given(actions=st.lists(LINE, min_size=2, max_size=5))
def test_contexts_are_prefixes_of_the_whole_sequence_token_for_token(actions):
    problem = lines("p", *actions)
    whole = RENDERER.demonstration(problem, problem.demonstrations[0]).tokens
    many = made(problem, targets="all", layout="continued", think="none", ends="\n")
    assert len(many) == len(actions)
    for one in many:
        text, last = one.demonstrations[0].text, one is many[-1]
        sequence = RENDERER.expert(RENDERER.context(one), text, RENDERER.encode([text])[0], stopped=not last).tokens
        assert text.endswith("\n") != last
        assert sequence == whole[: len(sequence)] and (len(sequence) == len(whole)) == last


@pytest.mark.parametrize("title", ["context", "none"])
def test_opening_and_completion_make_up_the_solution(title):
    many = made(titled(), targets="all", layout="continued", think="none", title=title, ends="\n\n")
    for one, after in itertools.pairwise(many):
        text = one.opening + one.demonstrations[0].text
        assert TITLED.startswith(text) and after.opening.startswith(text)
        assert not one.opening.endswith(" "), "a tokenizer sees a space as part of the next word"
    assert many[-1].opening + many[-1].demonstrations[0].text == TITLED
    assert [one.prompt for one in many] == ["Half of 8, plus 3?"] * 3


def test_a_problem_that_is_opened_already_stays_so():
    one = made(replace(titled(), opening="Well. "), layout="continued", think="prefilled", title="none")[1]
    assert one.opening == "Well. We solve it.\n\n1. **Halve** Half of 8 is 4.\n\n<think>\n"


# The layout `instructed`: what steps share comes first.


def test_prompts_of_a_trajectory_share_all_that_was_done():
    prompts = [one.prompt for one in made(titled(), targets="all")]
    for i, j in itertools.combinations(range(3), 2):
        shared = len(_common(prompts[i], prompts[j]))
        request = prompts[i].rindex("\n\nWrite step")
        assert shared >= request


def _common(a: str, b: str) -> str:
    return "".join(x for x, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def test_an_agent_s_context_holds_the_task_and_its_last_pairs():
    one = made(turns(), targets="all")[3]
    assert one.messages[0] == {"role": "system", "content": "You work in a shell."} and len(one.messages) == 2
    assert one.prompt.split("\n\n")[1:] == [
        "Task:\nMend the bug.",
        "Actions 1 to 1 are not shown.",
        "Action 2:\nls 1",
        "What came of action 2:\nfile 1",
        "Action 3:\nls 2",
        "What came of action 3:\nfile 2",
        "Write action 4.",
    ]
    assert one.demonstrations[0].text == "Look at 3.\n</think>\n\nls 3" and one.meta["tool"] == "ls"
    first = made(turns(), pairs=0)[2].prompt
    assert first.endswith("Actions 1 to 2 are not shown.\n\nWrite action 3.")


def test_an_agent_s_turns_as_a_conversation():
    one = made(turns(), layout="continued", pairs=9, targets="all")[2]
    assert one.messages[2:] == (
        {"role": "assistant", "content": "ls 0"}, {"role": "user", "content": "file 0"},
        {"role": "assistant", "content": "ls 1"}, {"role": "user", "content": "file 1"},
    )  # fmt: skip
    assert one.opening == "<think>\n"


@given(st.text(max_size=60), st.integers(0, 30))
def test_clipping_keeps_head_and_tail_and_counts_the_rest(text, most):
    shown = clip(text, most)
    if len(text) <= most:
        assert shown == text
    else:
        head, tail = shown.split(f"\n[... {len(text) - most} characters left out ...]\n", 1)
        assert len(head) + len(tail) == most and text.startswith(head) and text.endswith(tail)
        assert 0 <= len(head) - len(tail) <= 1


# Where steps stand in the text.


@given(steps=st.lists(st.tuples(WORDS, GAPS), min_size=1, max_size=5), preamble=st.text("ab1. \n", max_size=6))
def test_steps_are_found_in_the_text_they_make_up(steps, preamble):
    text = preamble + "".join(word + gap for word, gap in steps)
    found = places(text, [Step(word) for word, _ in steps])
    assert found is not None
    ends = [place + len(word) for place, (word, _) in zip(found, steps, strict=True)]
    for place, (word, _) in zip(found, steps, strict=True):
        assert text.startswith(word, place)
    assert all(not text[end:start].strip() for end, start in zip(ends, [*found[1:], len(text)], strict=True))


def test_steps_that_do_not_make_up_the_text_are_joined_anew():
    assert places("a and b", [Step("a"), Step("b")]) is None
    assert places("a b c", [Step("a"), Step("b")]) is None
    problem = replace(lines("p", "a", "b"), demonstrations=(Demonstration("a and b", (Step("a"), Step("b"))),))
    (one,) = made(problem, targets="next", layout="continued", think="none")
    assert one.opening == "a\n\n" and one.answer == "b"


# Controls.


def test_another_step_is_never_the_own_and_the_demonstration_stays():
    problems = [lines(f"p{i}", *"abcde"[: 2 + i % 4]) for i in range(8)]
    own, other = made(*problems, targets="all"), made(*problems, targets="all", expert="other-step")
    assert [one.id for one in own] == [one.id for one in other]
    for a, b in zip(own, other, strict=True):
        assert a.answer != b.answer and a == replace(b, answer=a.answer)
    for _, group in itertools.groupby(other, key=lambda one: one.meta["trajectory"]):
        answers = [one.answer for one in group]
        assert len(set(answers)) == len(answers), "every step once"
    shifts = {ord(one.answer) - ord("a") for one in other if one.meta["step"] == 1}
    assert len(shifts) > 1, "not the same shift for all"


def test_equal_actions_are_passed_over_and_none_is_counted():
    assert [one.answer for one in made(lines("p", "a", "a", "b"), targets="all", expert="other-step")][:2] == ["b", "b"]
    dropped: Counter[str] = Counter()
    assert list(instances([lines("p", "a", "a")], InstanceOptions(expert="other-step"), dropped)) == []
    assert dropped["no_other_action"] == 1


def test_another_problem_s_step_is_a_function_of_ids():
    problems = [lines(f"p{i}", *(f"{i}{letter}" for letter in "abc"[: 2 + i % 2])) for i in range(6)]
    answers = {one.id: one.answer for one in made(*problems, targets="all", expert="other-problem")}
    assert answers == {one.id: one.answer for one in made(*problems[::-1], targets="all", expert="other-problem")}
    firsts = {name: answer for name, answer in answers.items() if name.endswith("step-1")}
    assert all(name[1] != answer[0] for name, answer in answers.items())
    assert sorted(answer[0] for answer in firsts.values()) == list("012345"), "every trajectory lends to one"
    alone = lines("p", "a", "b")
    twice = replace(alone, demonstrations=(*alone.demonstrations, Demonstration("c\nd", (Step("c"), Step("d")))))
    assert made(twice, expert="other-problem") == [], "another solution of the same problem is none of another"


# What is left out, and how.


def test_every_demonstration_is_a_trajectory_and_drops_are_counted():
    two = replace(
        titled(), demonstrations=(*titled().demonstrations, *titled(text=TITLED + "\n4. **End** x").demonstrations)
    )
    assert [one.id for one in made(two)] == ["p/1/step-1", "p/1/step-2", "p/2/step-1", "p/2/step-2", "p/2/step-3"]
    dropped: Counter[str] = Counter()
    bare = replace(titled("b"), demonstrations=())
    uncut = replace(titled("u"), demonstrations=(Demonstration("It is 7."),))
    blank = lines("e", "a", " ", "c")
    rest = list(instances([bare, uncut, lines("s", "a"), blank], InstanceOptions(), dropped))
    assert [one.id for one in rest] == ["e/step-1"]
    assert +dropped == {"no_demonstration": 1, "no_steps": 1, "one_step": 1, "empty_action": 1}


def test_instances_are_made_one_after_the_other():
    endless = (lines(f"p{i}", "a", "b") for i in itertools.count())
    assert [one.id for one in itertools.islice(instances(endless, InstanceOptions()), 2)] == ["p0/step-1", "p1/step-1"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pairs": -1}, "pairs=-1 is negative"),
        ({"clip": -5}, "clip=-5 is negative"),
        ({"targets": "whole", "expert": "other-step"}, "leaves no other step"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        InstanceOptions(**options)
