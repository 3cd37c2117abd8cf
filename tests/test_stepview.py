"""What a run's rows say about an expert's steps, by hand."""

from typing import Any

import pytest

from step_runs import completion, rollout, visit
from superrl.stepview import (
    Cell,
    Part,
    Proposal,
    Rolled,
    between,
    by_range,
    by_step,
    ends,
    headline,
    is_step,
    learnt,
    parts,
    place,
    pooled,
    proposal,
    reason,
    refusals,
    rolled,
)

VISITS = [
    Rolled(("a", 1), 1, (0.0, 0.5)),
    Rolled(("a", 2), 2, (-1.0,)),
    Rolled(("a", 1), 3, (1.0,)),
    Rolled(("a", 1), 4, (0.5, 0.5, 0.0)),
    Rolled(("b", 1), 4, (0.25,)),
]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a/step-1", ("a", 1)),
        ("a/2/step-13", ("a/2", 13)),
        ("a\n/step-1", ("a\n", 1)),
        ("a", None),
        ("/step-1", None),
        ("a/step-", None),
        ("a/step-1/b", None),
        (7, None),
    ],
)
def test_ids_name_a_step_or_none(name: object, found: object) -> None:
    assert place(name) == found


def test_only_the_policy_s_own_rollouts_count_and_a_carried_group_once() -> None:
    rows = [
        visit(1, "a/step-1", [0.5, 1.0, 0.9], n=2, assisted=1),
        visit(1, "a/step-2", [0.1], decision="carried"),
        visit(2, "a/step-2", [0.1], drawn=1),
        visit(2, "a/step-3", [0.2], decision="discarded"),
        visit(2, "ordinary", [1.0]),
        visit(2, "a/step-4", [], n=0, decision="sft"),
    ]
    assert rolled(rows) == [
        Rolled(("a", 1), 1, (0.5, 1.0)),
        Rolled(("a", 2), 2, (0.1,)),
        Rolled(("a", 3), 2, (0.2,)),
    ]


def test_the_run_is_halved_by_its_training_steps() -> None:
    first, last = parts(VISITS)
    assert (first.name, last.name) == ("steps 1-2", "steps 3-4")
    assert first.cells == {("a", 1): Cell(1, 2, 0.5), ("a", 2): Cell(1, 1, -1.0)}
    assert last.cells == {("a", 1): Cell(2, 4, 2.0), ("b", 1): Cell(1, 1, 0.25)}
    assert [part.name for part in parts(VISITS[:3])] == ["step 1", "steps 2-3"], "the odd one is late"
    assert [part.name for part in parts(VISITS[:1])] == ["step 1"] and parts([]) == []
    assert between("step", [7]) == "step 7" and between("step", [7, 9]) == "steps 7-9"


def test_means_are_over_rollouts() -> None:
    assert pooled([Cell(1, 1, 1.0), Cell(1, 3, 0.0)]) == Cell(2, 4, 1.0) and pooled([]) is None
    cell = by_step(parts(VISITS)[1], 1, 1)
    assert cell is not None and cell.mean == pytest.approx(2.25 / 5)
    assert by_step(parts(VISITS)[1], 2, 9) is None


def test_ranges_of_steps_and_all_of_them() -> None:
    found = parts(VISITS)
    assert by_range(found, 10) == [
        ("step 1", 4, [0.25, 0.45]),
        ("step 2", 1, [-1.0, None]),
        ("all", 5, [pytest.approx(-0.5 / 3), 0.45]),
    ]
    assert by_range(found, 1) == [("steps 1-2", 5, [pytest.approx(-0.5 / 3), 0.45])]
    wide = [Part("p", {("a", k): Cell(1, 1, 0.0) for k in (1, 7)})]
    assert [name for name, _, _ in by_range(wide, 3)] == ["steps 1-3", "steps 4-6", "step 7", "all"]


def test_only_what_was_visited_twice_is_compared() -> None:
    assert learnt(parts(VISITS)) == (
        "Of the 1 steps visited in both halves the mean reward went from 0.250 to 0.500: higher for 1, lower for 0."
    )
    apart = [Part("p", {("a", 1): Cell(1, 1, 0.0)}), Part("q", {("a", 2): Cell(1, 1, 1.0)})]
    assert learnt(apart).startswith("No step was visited in both halves")
    assert "no change to see" in learnt(apart[:1])
    every_step_once = [Part("p", {("a", 1): Cell(1, 1, 0.0), ("a", 2): Cell(9, 90, 90.0)}), *apart[:1]]
    every_step_once[1] = Part("q", {("a", 1): Cell(1, 1, 1.0), ("a", 2): Cell(1, 1, 0.0)})
    assert "from 0.500 to 0.500: higher for 1, lower for 1" in learnt(every_step_once)


def test_refusals_are_shares_at_both_ends_most_frequent_first() -> None:
    metrics: list[dict[str, Any]] = [
        {"score/format/cut": 0.1, "score/format/unclosed": s / 4, "score/format/odd_one": 0.0, "score/format": 0.5}
        for s in range(4)
    ]
    metrics.append({"score/format/cut": None, "score/format/unclosed": None})
    assert refusals(metrics, window=1) == [
        ("thought never closed", 0.0, 0.75),
        ("cut off by the length limit", 0.1, 0.1),
    ]
    assert refusals([{"score/format/odd_one": 0.5}]) == [("odd one", 0.5, 0.5)] and refusals([]) == []
    assert ends(metrics, "score/format/unclosed", 2) == (0.125, 0.625) and ends(metrics, "nothing") is None


@pytest.mark.parametrize(
    ("text", "think", "thought", "action"),
    [
        ("Halve it.\n</think>\n\n x = 2 ", "prefilled", "Halve it.", "x = 2"),
        ("no end", "prefilled", "no end", ""),
        ("<think>again</think>x", "prefilled", "<think>again", "x"),
        (" <think>t</think>x", "required", "t", "x"),
        ("x = 2", "required", None, "x = 2"),
        ("x = 2", "optional", None, "x = 2"),
        ("<think>t</think>x", "none", None, "<think>t</think>x"),
    ],
)
def test_a_completion_is_thought_and_action(text: str, think: str, thought: str | None, action: str) -> None:
    assert proposal(completion(text, 0.5), think) == Proposal(thought, action, None)


def test_the_gate_s_reason_is_read_from_the_parts_of_the_score() -> None:
    assert reason(completion("x", -1.0, "unclosed")) == "unclosed" and reason(completion("x", 0.5)) is None
    assert reason({"score": None}) is None and reason({}) is None
    assert proposal(completion("x", -1.0, "unclosed"), "prefilled").reason == "unclosed"


def test_a_row_says_which_step_it_is() -> None:
    row = rollout(1, "a", [])
    assert is_step(row) and headline(row) == "step 2 of 5: Factor"
    assert headline({**row, "meta": {"trajectory": "a", "step": 2, "steps": 5, "tool": "ls"}}) == "step 2 of 5: ls"
    assert headline({**row, "meta": {"trajectory": "a", "step": 2}}) == "step 2"
    assert not is_step({"meta": {}}) and not is_step({}) and not is_step({"meta": {"trajectory": "a"}})
    assert not is_step({"meta": {"trajectory": ["a"], "step": 2}}) and not is_step({"meta": None})
