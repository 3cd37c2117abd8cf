"""What a page shows of an expert's steps: the heat map, the marked actions, and hostile texts in all of them."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from html_pages import HOSTILE, Reader, needs_browser, opened, read
from small_runs import write_lines
from step_runs import completion, rollout, visit
from superrl import steppage
from superrl.metrics import row as metrics_row
from superrl.page import page, write
from superrl.steppage import (
    COLUMNS,
    MATCHED,
    MORE,
    PROPOSALS,
    ROWS,
    TEXT,
    heat_map,
    highlighted,
    marked,
    proposed,
    short,
)
from superrl.stepview import Rolled
from superrl.svg import join

GOOD = "It factors.\n</think>\n\nx = 2 or x = 4"


def metrics(step: int) -> dict[str, Any]:
    """A row of metrics.jsonl."""
    scores = {"score/similarity": step / 10, "score/format": 0.5, "score/exact": 0.0, "score/format/cut": 0.5}
    return metrics_row({"step": step, "stage": "srl", "reward/mean": step / 9, **scores, "score/format/no_think": 0.0})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of four training steps on two trajectories, of which one has a hostile name."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 7\n")
    write_lines(run / "metrics.jsonl", [metrics(s) for s in range(1, 5)])
    write_lines(run / "visits.jsonl", [
        visit(1, f"{HOSTILE}/step-1", [0.0, 0.5]), visit(2, "b/step-3", [-1.0, -1.0]),
        visit(3, f"{HOSTILE}/step-1", [1.0, 0.5]), visit(4, "b/step-1", [0.25]),
    ])  # fmt: skip
    write_lines(run / "rollouts.jsonl", [
        rollout(1, HOSTILE, [completion(GOOD, 0.8, None, 0.5)] * 3 + [completion(HOSTILE, -1.0, "unclosed", -1.5)],
                opening=f"{HOSTILE}<think>\n", answer=HOSTILE, earlier=[{"role": HOSTILE, "content": HOSTILE}]),
        rollout(4, "b", [completion(f"thought {i}</think>{i}", i / 10) for i in range(8)]),
    ])  # fmt: skip
    return run


def squares(found: Reader) -> list[str]:
    """The cells of a heat map."""
    return [
        str(a["class"]).removesuffix(" full") for t, a in found.tags
        if t == "i" and ("title" in a or a.get("class") == "none")
    ]  # fmt: skip


def test_what_stands_on_the_page_of_a_run_on_steps(folder: Path) -> None:
    found = read(page(folder))
    assert "Reward by trajectory and step" in found.text and "The switch" not in found.text, "nothing was judged"
    assert "proposed steps and the expert's" in found.text and "cut off by the length limit 50.0% → 50.0%" in found.text
    assert "similarity, where the format passed 0.1 → 0.4" in found.text, "no percentage"
    assert "0.25 → 0.25" in found.text and "no thought at the beginning" not in found.text
    assert "Of the 1 steps visited in both halves the mean reward went from 0.250 to 0.750" in found.text
    assert "b, step 2 of 5: Factor" in found.text and "they deviate" in found.text
    assert "✗ refused: thought never closed" in found.text and "reward -1" in found.text
    assert "✓ format" in found.text and "advantage +0.50 · ×3" in found.text
    begins = re.findall("the answer already begins(.{7})", found.text)
    assert begins == ["<script"], "a bare <think> is not worth a heading"
    assert "4 more" in found.text and all(found.text.count(f"thought {i}") == 1 for i in range(8))


def test_every_cell_is_in_its_place(folder: Path) -> None:
    found = read(page(folder))
    # The key; all, steps 1 to 3 in both halves; the better trajectory, step 1 in both; b, steps 1 and 3 in both.
    expected = ["none", "up", "none", "below", "up", "none", "none", "up", "up", "none", "below", "up", "none"]
    assert squares(found) == expected
    titles = [str(a["title"]) for t, a in found.tags if t == "i" and "title" in a]
    assert "b, step 3, training steps 1-2: mean reward -1.000 of 2 rollouts, 1 visits" in titles
    assert "all trajectories, step 1, training steps 3-4: mean reward 0.583 of 3 rollouts, 2 visits" in titles


def test_no_text_becomes_part_of_the_page(folder: Path) -> None:
    html = page(folder)
    html.encode()
    found = read(html)
    assert found.count("script") == 1 and found.count("img") == 0
    assert not any(key.startswith("on") or key in ("src", "href") for _, attributes in found.tags for key in attributes)
    assert "\x00" not in html and "\x1b" not in html and "\u202e" not in html
    assert found.text.count("<script>hacked()") >= 5, "the name, its messages, the opening, thought and expert"


def test_a_run_of_ordinary_problems_has_none_of_it(folder: Path) -> None:
    write_lines(folder / "visits.jsonl", [visit(1, "a", [1.0], correct=1), visit(2, "a", [1.0], correct=1)])
    write_lines(folder / "metrics.jsonl", [metrics_row({"step": 1, "stage": "rl", "reward/mean": 1.0})])
    write_lines(folder / "rollouts.jsonl", [
        {key: value for key, value in rollout(1, "a", [completion("x", 1.0)]).items() if key not in ("meta", "answer")}
    ])  # fmt: skip
    found = read(page(folder))
    assert "Reward by trajectory" not in found.text and "The switch, problem by problem" in found.text
    assert found.count("figure") == 1 and found.count("mark") == 0 and "expert's action" not in found.text


def test_judged_steps_stand_in_the_raster_too(folder: Path) -> None:
    write_lines(folder / "visits.jsonl", [visit(1, "a/step-1", [1.0, 0.2], correct=1), visit(2, "b/step-1", [0.2])])
    found = read(page(folder))
    assert "The switch, problem by problem" in found.text and "Reward by trajectory" in found.text
    assert found.count("rect") == 1, "the one that was judged"


def by(step: int, split: str, figures: dict[str, Any]) -> dict[str, Any]:
    """A row of evaluations.jsonl on steps."""
    return {"step": step, "split": split, "data": "steps:x", "accuracy": None, "reward": 0.5, "n": 9, "ci95": None,
            "by": figures}  # fmt: skip


def test_steps_held_out_are_told_by_number_and_by_tool(folder: Path) -> None:
    first = {"step": {"1": {"n": 2, "reward": 0.25, "similarity": 0.25}}, "tool": {}}
    last = {
        "step": {"1": {"n": 2, "reward": 0.5, "similarity": 0.75}, "2": {"n": 1, "reward": -1.0}},
        "tool": {"ls": {"n": 1, "reward": 0.1}, HOSTILE: {"n": 9, "reward": 0.2, "step_similarity/file": 0.3}},
    }
    write_lines(folder / "evaluations.jsonl", [
        by(0, "validation", first), by(4, "validation", last),
        {"step": 4, "split": "test", "data": "y", "accuracy": 0.5, "reward": 0.5, "n": 9, "ci95": [0.1, 0.9]},
    ])  # fmt: skip
    found = read(page(folder))
    assert "Steps held out" in found.text and "validation steps:x, step 0 → 4" in found.text
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", join(steppage.held_out([by(0, "v", first), by(4, "v", last)]))))
    assert "step n reward similarity 1 2 0.250 → 0.500 0.250 → 0.750 2 1 -1 - " in shown
    assert shown.endswith("9 0.2 0.3 ls 1 0.1 - "), "the most frequent tool first, no start without one"
    assert "reward of the evaluations" in found.text and "accuracy of the evaluations" in found.text
    assert steppage.held_out([{"split": "test", "step": 1}]) == []
    many = {"step": {}, "tool": {f"t{i}": {"n": i, "reward": 0.0} for i in range(steppage.KINDS + 3)}}
    assert "3 more are in evaluations.jsonl" in join(steppage.held_out([by(1, "v", many)]))


def test_the_step_reward_may_be_one_of_several(folder: Path) -> None:
    plain = page(folder)
    inner = {"score/similarity", "score/format", "score/exact", "score/format/cut", "score/format/no_think"}
    write_lines(folder / "metrics.jsonl", [
        {f"score/step_similarity/{key[6:]}" if key in inner else key: value for key, value in metrics(s).items()}
        for s in range(1, 5)
    ])  # fmt: skip
    rows = (folder / "rollouts.jsonl").read_text()
    for name in ("format", "similarity", "exact"):
        rows = rows.replace(f'"{name}', f'"step_similarity/{name}')
    (folder / "rollouts.jsonl").write_text(rows)
    assert "step_similarity/format/unclosed" in rows and page(folder) == plain


def test_large_runs_are_bounded_and_it_is_said() -> None:
    many = [Rolled((f"t{i}", 1), at, (0.5,)) for i in range(ROWS + 5) for at in ((1, 2) if i >= 5 else (1,))]
    found = read(join(heat_map(many)))
    assert found.count("tr") == 2 + ROWS and "5 trajectories with the fewest visits" in found.text
    assert f"{ROWS + 5} rollouts" in str(found.tags), "the first row counts them all"
    assert not {f"t{i}" for i in range(5)} & set(re.findall(r"t\d+", found.text)), "the least visited are left out"
    long = read(join(heat_map([Rolled(("t", k), 1, (0.5,)) for k in range(1, COLUMNS + 2)])))
    assert len(squares(long)) == 1 + 2 * COLUMNS and f"steps after the {COLUMNS}th" in long.text
    assert "Not shown" not in read(join(heat_map(many[:10]))).text


@given(st.text(), st.text())
def test_what_is_marked_is_the_same_on_both_sides_and_nothing_is_lost(action: str, expert: str) -> None:
    ours, theirs = (read(side) for side in marked(visible(action), visible(expert)))
    assert (ours.text, theirs.text) == (visible(action), visible(expert))
    inside = [re.findall(r"<mark>(.*?)</mark>", str(side), re.DOTALL) for side in marked(action, expert)]
    assert inside[0] == inside[1]


def visible(text: str) -> str:
    """What `escape` does not spell out, and a reader of HTML does not change."""
    return "".join(c for c in text if c.isprintable())


def test_marks_by_hand() -> None:
    ours, theirs = marked("x = 2 or 4", "x = 2 and 4")
    assert ours == "<mark>x = 2 </mark>or<mark> 4</mark>" and theirs == "<mark>x = 2 </mark>and<mark> 4</mark>"
    assert join(highlighted("abc", [(0, 0), (1, 1)])) == "a<mark>b</mark>c"
    long, other = marked("a" * (TEXT + 1000), "b" + "a" * MATCHED)
    assert "[... 1,000 more characters]" in long and "more characters" not in other
    assert f"<mark>{'a' * (MATCHED - 1)}</mark>" in long and f"compared as far as {MATCHED} characters" in other


def test_so_many_different_proposals_are_shown_and_it_is_said() -> None:
    many = rollout(1, "a", [completion(f"{i}</think>x", i / 40) for i in range(40)])
    found = read(join(steppage.proposals(many)))
    assert (
        f"36 more, {MORE} of them here" in found.text
        and found.count("div", **{"class": "proposal"}) == PROPOSALS + MORE
    )


def test_an_action_that_is_not_there_is_said_and_without_thought_there_are_two_columns() -> None:
    refused = read(proposed([completion("on and on", -1.0, "cut")], "x", "prefilled"))
    assert "on and on" in refused.text and "none" in refused.text and "cut off by the length limit" in refused.text
    assert [a["class"] for t, a in refused.tags if t == "div" and "sides" in str(a.get("class"))] == ["sides n3"]
    plain = read(proposed([completion("x", 1.0)], "x", "none"))
    assert [a["class"] for t, a in plain.tags if t == "div" and "sides" in str(a.get("class"))] == ["sides n2"]


def test_a_problem_without_rollouts_shows_what_the_expert_did() -> None:
    assert "x = 2 or x = 3" in join(steppage.proposals(rollout(1, "a", [], decision="sft")))


def test_what_all_names_begin_with_stands_in_none() -> None:
    found = read(join(heat_map([Rolled((f"a/file.jsonl:{i}", 1), 1, (0.5,)) for i in range(12)])))
    assert found.count("th", title="a/file.jsonl:11") == 1 and "…11" in found.text and "file.jsonl" not in found.text


def test_numbers_of_two_digits() -> None:
    assert [short(v) for v in (0.426, -0.5, 1.0, -0.001, 0.0, -1.0, 0.999)] == [
        ".43", "−.50", "1.0", ".00", ".00", "−1.0", "1.0"
    ]  # fmt: skip


@needs_browser
@pytest.mark.parametrize("width", [1280, 420])
def test_nothing_is_wider_than_the_screen(folder: Path, width: int) -> None:
    rows = [visit(s, f"a-rather-long-name-{t}/step-{k}", [0.5]) for s in (1, 2) for t in range(3) for k in range(1, 90)]
    write_lines(folder / "visits.jsonl", rows)
    dom, console, asked = opened(write(folder), width=width)
    assert console == [] and asked == set() and dom.count("table") == 1
    probe = (
        "<script>for (const d of document.querySelectorAll('details')) d.open = true;"
        "const e = document.documentElement; document.title = `beyond ${e.scrollWidth - e.clientWidth}`</script>"
    )
    html = page(folder).replace("<meta http-equiv=", "<meta name=").replace("</body>", f"{probe}</body>")
    (folder / "probe.html").write_text(html)
    assert "beyond 0" in opened(folder / "probe.html", width=width)[0].text
