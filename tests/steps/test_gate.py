"""The gate lets pass what an expert would write, and gives every other completion exactly one reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.steps.gate import REASONS, Verdict, judge
from superrl.steps.think import CLOSE, OPEN, Think, wrap

MODES: tuple[Think, ...] = ("prefilled", "required", "optional", "none")


def three(action: str) -> bool:
    """Whether step 3 stands in it."""
    return "\n3. " in action


TABLE = {
    "an action": ("none", " x = 2\n", Verdict("x = 2", None, None)),
    "nothing": ("none", " \n", Verdict("", None, "empty_action")),
    "no template, no tags": ("none", "a</think>b", Verdict("a</think>b", None, None)),
    "prefilled": ("prefilled", "a\n</think>\n\nb", Verdict("b", "a", None)),
    "prefilled, no thought at all": ("prefilled", "</think>b", Verdict("b", "", None)),
    "prefilled, never closed": ("prefilled", "a b", Verdict("a b", None, "unclosed")),
    "prefilled, opened again": ("prefilled", "<think>a</think>b", Verdict("b", "<think>a", "think_twice")),
    "prefilled, thinks after it": ("prefilled", "a</think>b<think>", Verdict("b<think>", "a", "think_twice")),
    "prefilled, closed twice": ("prefilled", "a</think>b</think>c", Verdict("b</think>c", "a", "think_twice")),
    "prefilled, nothing after it": ("prefilled", "a</think> \n", Verdict("", "a", "empty_action")),
    "prefilled, nothing": ("prefilled", "", Verdict("", None, "unclosed")),
    "required": ("required", "\n<think>a</think>b", Verdict("b", "a", None)),
    "required, none": ("required", "b", Verdict("b", None, "no_think")),
    "required, later": ("required", "b<think>a</think>", Verdict("b<think>a</think>", None, "no_think")),
    "required, never closed": ("required", "<think>a", Verdict("a", None, "unclosed")),
    "required, within": ("required", "<think>a<think>b</think>c", Verdict("c", "a<think>b", "think_twice")),
    "optional, with": ("optional", "<think>a</think>b", Verdict("b", "a", None)),
    "optional, without": ("optional", "b", Verdict("b", None, None)),
    "optional, only closed": ("optional", "a</think>b", Verdict("a</think>b", None, "think_twice")),
    "optional, never closed": ("optional", "<think>b", Verdict("b", None, "unclosed")),
    "two steps": ("prefilled", "a</think>b\n3. c", Verdict("b\n3. c", "a", "two_steps")),
    "two steps in the thought": ("prefilled", "b\n3. c</think>b", Verdict("b", "b\n3. c", None)),
    "two steps, thought open": ("prefilled", "b\n3. c", Verdict("b\n3. c", None, "unclosed")),
}


@pytest.mark.parametrize("name", TABLE)
def test_table(name: str) -> None:
    think, completion, verdict = TABLE[name]
    assert judge(completion, think=think, following=three) == verdict


def test_what_more_tokens_could_mend_is_called_cut() -> None:
    reasons = {name: judge(TABLE[name][1], think=TABLE[name][0], following=three, cut=True).reason for name in TABLE}
    mended = (None, "unclosed", "empty_action")
    assert reasons == {
        name: "cut" if verdict.reason in mended else verdict.reason for name, (*_, verdict) in TABLE.items()
    }


def test_every_reason_occurs() -> None:
    assert {verdict.reason for *_, verdict in TABLE.values()} | {"cut"} == {*REASONS, None}


TEXTS = st.text(max_size=20) | st.lists(st.sampled_from([OPEN, CLOSE, "a", "\n", " ", "3. ", "\ud800", "\0"])).map(
    "".join
)


@given(TEXTS, TEXTS.filter(lambda text: OPEN not in text and CLOSE not in text), st.sampled_from(MODES))
def test_an_expert_in_the_template_passes(action: str, thought: str, think: Think) -> None:
    verdict = judge(wrap(action.strip(), think, thought), think=think, expert=action)
    if action.strip():
        assert verdict.reason is None
        assert verdict.action == action.strip()
    else:
        assert verdict.reason == "empty_action"


@given(TEXTS, st.sampled_from(MODES), st.booleans(), TEXTS)
def test_any_completion_is_judged(completion: str, think: Think, cut: bool, expert: str) -> None:
    verdict = judge(completion, think=think, cut=cut, following=three, expert=expert)
    assert verdict.reason is None or verdict.reason in REASONS
    assert verdict.action == verdict.action.strip()
    assert verdict.action in completion
    if verdict.reason is None:
        assert verdict.action and not cut and not three(verdict.action)
    if think == "none":
        assert verdict.reason in (None, "empty_action", "two_steps", "cut")


def test_the_tags_of_the_experts_own_action_are_no_thought() -> None:
    expert = 'text.split("<think>")'
    assert judge(f"Cut it.</think>{expert}", think="prefilled", expert=expert).reason is None
    assert judge(f"Cut it.</think>{expert}", think="prefilled").reason == "think_twice"
    assert judge(f"Cut it.</think>{expert}<think>", think="prefilled", expert=expert).reason == "think_twice"
    assert judge("<think>x", think="optional", expert="<think>x ").reason is None
