"""The switch raster, by hand: what every kind of visit is, and the way from a fallback to a success of one's own."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superrl.raster import KINDS, Recovery, Visit, is_judged, kind, raster, recovery, settled, told


def row(
    step: int,
    correct: int | None,
    decision: str = "none",
    problem: str = "a",
    *,
    n: int = 4,
    demos: int = 1,
    **keys: Any,
) -> dict[str, Any]:
    return {
        "step": step, "drawn": step, "problem_id": problem, "n": n, "correct": correct, "decision": decision,
        "demonstrations": demos, **keys,
    }  # fmt: skip


def history(*visits: tuple[int | None, str], problem: str = "a", demos: int = 1) -> list[dict[str, Any]]:
    return [row(step, c, d, problem, demos=demos) for step, (c, d) in enumerate(visits, start=1)]


def kinds(rows: list[dict[str, Any]], problem: str = "a") -> list[str]:
    return [visit.kind for visit in raster(rows)[problem]]


def test_every_kind_by_hand() -> None:
    rows = history((0, "sft"), (2, "pg"), (0, "sft"), (4, "none"), (0, "discarded"))
    assert kinds(rows) == ["fallback", "mixed", "relapsed", "solved", "relapsed"]
    assert [visit.taught for visit in raster(rows)["a"]] == [True, False, True, False, False]
    assert kinds(history((0, "none"), (0, "discarded"))) == ["failed", "failed"]
    assert kinds(history((0, "none"), (1, "pg"), demos=0)) == ["no demonstration", "mixed"]
    assert kinds([row(1, None, "sft", n=0)]) == ["imitated"]
    assert kinds(history((None, "pg"), (0, "both"))) == ["unjudged", "fallback"]


def test_an_earlier_success_of_another_problem_is_no_relapse() -> None:
    rows = [row(1, 4, problem="b"), row(2, 0, "sft", problem="a")]
    assert {name: [v.kind for v in visits] for name, visits in raster(rows).items()} == {
        "b": ["solved"],
        "a": ["fallback"],
    }
    assert list(raster(rows)) == ["b", "a"], "in the order of their first visit"


def test_a_carried_group_is_one_visit_with_its_last_decision() -> None:
    rows = [
        row(1, 2, "carried"),
        row(1, 3, "carried", problem="b"),
        row(2, 2, "pg", drawn=1),
        row(2, 0, "carried", problem="a"),
    ]
    assert [(r["problem_id"], r["step"], r["decision"]) for r in settled(rows)] == [
        ("b", 1, "carried"),
        ("a", 2, "pg"),
        ("a", 2, "carried"),
    ]
    assert kinds(rows) == ["mixed", "relapsed"]


def test_a_group_carried_twice_in_one_step_loses_one_row_for_each_later_one() -> None:
    rows = [row(1, 2, "carried"), row(1, 3, "carried"), row(2, 2, "pg", drawn=1)]
    assert [r["correct"] for r in settled(rows)] == [3, 2]


def visit_counts(*problems: list[dict[str, Any]]) -> Recovery:
    rows = [{**r, "problem_id": str(i)} for i, rows in enumerate(problems) for r in rows]
    return recovery(raster(rows))


def test_visits_from_fallback_to_success_by_hand() -> None:
    next_visit = history((0, "sft"), (1, "pg"))
    third = history((0, "none"), (0, "sft"), (0, "sft"), (0, "sft"), (4, "none"))
    never = history((0, "sft"), (0, "sft"))
    last = history((0, "none"), (0, "sft"))
    knew = history((1, "pg"), (0, "sft"), (1, "pg"))
    yoked = history((1, "sft"), (1, "pg"))
    without = history((0, "none"), (1, "pg"))
    assert visit_counts(next_visit, third, last, knew, yoked, without) == Recovery(2, 0, 1, 2, 2.0)
    assert visit_counts(next_visit, third, never) == Recovery(2, 1, 0, 0, 3.0)
    assert visit_counts(next_visit, never, never) == Recovery(1, 2, 0, 0, None)
    assert visit_counts(next_visit, never).median is None, "half of them never did"
    assert visit_counts(without) == Recovery(0, 0, 0, 0, None)


def test_a_supervised_stage_is_no_fallback() -> None:
    taught = [row(1, None, "sft", n=0), row(2, 1, "pg")]
    assert recovery(raster(taught)) == Recovery(0, 0, 0, 0, None)
    assert recovery(raster([*taught[:1], *history((0, "sft"), (1, "pg"))])) == Recovery(1, 0, 0, 0, 1.0)


def test_a_reward_that_judges_nothing_has_no_raster() -> None:
    assert not is_judged(raster(history((None, "pg"), (None, "none"))))
    assert not is_judged(raster([row(1, None, "sft", n=0)])) and not is_judged({})
    assert is_judged(raster(history((None, "pg"), (0, "none"))))


def test_it_is_told_in_words() -> None:
    assert told(Recovery(0, 0, 0, 0, None)) == "No problem fell back on a demonstration."
    text = told(Recovery(2, 1, 4, 5, 3.0))
    assert "Of 3 problems" in text and "2 had" in text and "1 never" in text and "until then: 3)" in text
    assert "; 4 fell back at their last visit;" in text and "5 had a correct rollout before" in text
    assert "not reached by half" in told(Recovery(1, 2, 0, 0, None))


@given(st.lists(st.tuples(st.sampled_from([0, 1, 4]), st.sampled_from(["sft", "pg", "none"])), min_size=1))
def test_every_visit_has_one_known_kind_and_none_is_lost(visits: list[tuple[int, str]]) -> None:
    cells = raster(history(*visits))["a"]
    assert [cell.row["correct"] for cell in cells] == [correct for correct, _ in visits]
    assert {cell.kind for cell in cells} <= set(KINDS)
    seen = False
    for cell in cells:
        assert (cell.kind == "relapsed") == (seen and cell.row["correct"] == 0)
        seen = seen or cell.row["correct"] > 0


@pytest.mark.parametrize("before", [True, False])
def test_a_success_is_a_success_whatever_came_before(before: bool) -> None:
    assert kind(row(1, 4), before) == "solved" and kind(row(1, 1), before) == "mixed"
    assert Visit("solved", False, {}).kind in KINDS
