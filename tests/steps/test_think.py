"""What an expert would have written is what the gate lets pass, whatever stands in the expert's own thought."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.steps.gate import judge
from superrl.steps.think import CLOSE, OPEN, Think, wrap

MODES: tuple[Think, ...] = ("prefilled", "required", "optional", "none")
PIECES = st.lists(st.sampled_from([OPEN, CLOSE, "<thi", "nk>", "</", "<", "think>", " ", "\n", "a", "be"]), max_size=8)


@pytest.mark.parametrize(
    ("thought", "completion"),
    [
        ("Halve it.", "Halve it.\n</think>\n\nx"),
        ("<think>\nHalve it.\n</think>", "Halve it.\n</think>\n\nx"),
        ("We write <think> here", "We write here\n</think>\n\nx"),
        ("a</think>b", "a b\n</think>\n\nx"),
        ("<thi<think>nk>", "<thi nk>\n</think>\n\nx"),
        ("</think>", "</think>\n\nx"),
    ],
)
def test_the_tags_are_taken_out_of_a_thought(thought: str, completion: str) -> None:
    assert wrap("x", "prefilled", thought) == completion
    assert wrap("x", "required", thought) == f"<think>\n{completion}"


def test_a_thought_of_nothing_but_tags_is_none() -> None:
    assert wrap("x", "optional", " <think>\n</think> ") == wrap("x", "optional", " ") == "x"


@given(PIECES.map("".join), PIECES.map("".join).filter(str.strip), st.sampled_from(MODES))
def test_whatever_an_expert_thinks_and_does_passes_the_gate(thought: str, action: str, think: Think) -> None:
    verdict = judge(wrap(action, think, thought), think=think, expert=action)
    assert (verdict.reason, verdict.action) == (None, action.strip())
    assert OPEN not in (verdict.thought or "") and CLOSE not in (verdict.thought or "")
    if think in ("prefilled", "required"):
        words = thought.replace(OPEN, " ").replace(CLOSE, " ").split()
        assert verdict.thought is not None and verdict.thought.split() == words
