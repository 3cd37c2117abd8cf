"""The HTML page: what stands in it, that no text becomes part of it, and, where there is one, in a real browser."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from html_pages import HOSTILE, needs_browser, opened, read
from small_runs import recipe, rows, run, small_model, write_lines
from superrl import cli
from superrl.errors import UserError
from superrl.metrics import row as metrics_row
from superrl.page import page, spread, stage_ends, write
from superrl.svg import TEXT, Frame, Markup, Series, chart, escape, frame, merged, shortened, tag, thinned

STEPS = 6


def seen(step: int, name: str, correct: int | None, decision: str, demos: int) -> dict[str, Any]:
    return {
        "step": step, "stage": "rl", "problem_id": name, "drawn": step, "n": 2, "correct": correct,
        "values": [0.0, 1.0], "advantages": None, "demonstrations": demos, "decision": decision,
        "demonstration": None, "share": 0.5, "why": "",
    }  # fmt: skip


def rollout(step: int, decision: str, text: str, demonstration: str | None = None) -> dict[str, Any]:
    score = {"value": 1.0, "correct": decision == "pg", "parts": {HOSTILE: 0.5}}
    completion = {"text": text, "stop": "length", "score": score, "advantage": 0.5 if decision == "pg" else None}
    return {
        "step": step, "stage": "rl", "problem_id": text, "prompt": text, "completions": [completion, completion],
        "decision": decision, "demonstration": demonstration, "why": text,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run whose every text is hostile: 3 problems, 8 visits, 4 groups."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        f"seed: 7\nmodel: {{name: tiny}}\nstages: [{{method: {{name: superrl}}}}]\n# {HOSTILE!a}\n"
    )
    values = [
        metrics_row({"step": s, "stage": "sft" if s < 3 else HOSTILE, "reward/mean": s / 9, "reward/correct": s / 9,
                     "switch/solved_rate": s / 9, "policy/entropy": 1.5 if s != 4 else None, "loss/pg": -1e-12})
        for s in range(1, STEPS + 1)
    ]  # fmt: skip
    write_lines(run / "metrics.jsonl", values)
    write_lines(run / "evaluations.jsonl", [
        {"step": s, "split": split, "data": HOSTILE, "accuracy": s / 9, "reward": 0.0, "n": 200, "ci95": [0.0, 1.0]}
        for s, split in ((0, "validation"), (0, "test"), (6, "validation"), (6, "test"))
    ])  # fmt: skip
    write_lines(run / "visits.jsonl", [
        *(seen(s, HOSTILE, c, d, 1) for s, c, d in ((1, 0, "sft"), (2, 1, "pg"), (3, 0, "sft"), (4, 2, "none"))),
        *(seen(s, "b", c, "none", 0) for s, c in ((1, 0), (2, 0))),
        *(seen(s, "c", c, "discarded", 1) for s, c in ((1, 0), (2, 2))),
    ])  # fmt: skip
    write_lines(run / "rollouts.jsonl", [
        rollout(1, "sft", HOSTILE, HOSTILE), rollout(2, "pg", "fine"), rollout(3, "pg", HOSTILE), rollout(3, "none", "")
    ])  # fmt: skip
    return run


def test_what_stands_on_a_page(folder: Path) -> None:
    found = read(page(folder))
    assert "method superrl · model tiny · seed 7" in found.text and "not finished: step 6 is the last one" in found.text
    assert "0.0% → 66.7%" in found.text, "accuracy at the start and at the end"
    assert found.count("figure") == 5, "evaluations, reward, switch, loss, entropy: a chart without values is left out"
    kinds = Counter(a["class"] for t, a in found.tags if t == "rect")
    assert kinds == {
        "fallback": 1, "mixed": 1, "relapsed": 1, "solved": 2, "taught": 1, "no-demonstration": 2, "failed": 1
    }  # fmt: skip
    assert "with a demonstration: 2" in found.text and "without one: 1" in found.text
    assert "Of 1 problems that fell back before any success and were seen again, 1 had" in found.text
    assert [a["data-decision"] for t, a in found.tags if t == "details" and "data-decision" in a] == [
        "sft", "pg", "pg", "none"
    ]  # fmt: skip
    assert [a["data-show"] for t, a in found.tags if t == "button"] == ["all", "pg", "sft", "none"]
    assert found.text.count("×2") == 4 and found.text.count("advantage +0.50") == 2, "alike completions stand once"


def test_text_never_becomes_part_of_the_page(folder: Path) -> None:
    html = page(folder)
    html.encode()
    found = read(html)
    assert found.count("script") == 1 and found.count("img") == 0 and found.count("b") == 4 + 4, "only our own"
    assert not any(key.startswith("on") or key in ("src", "href") for _, attributes in found.tags for key in attributes)
    assert "\x00" not in html and "\x1b" not in html and "\u202e" not in html
    shown = HOSTILE.replace("\x00", "\\x00").replace("\x1b", "\\x1b").replace("\ud800", "\\xd800")
    assert shown.replace("\u202e", "\\x202e") in found.text
    assert html.count("<!doctype html>") == html.count("</html>") == html.count("</body>") == 1


def test_nothing_is_loaded_from_anywhere(folder: Path) -> None:
    html = page(folder)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style
    policy = next(a["content"] for t, a in read(html).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; ") and "script-src 'sha256-" in policy


@given(st.text(st.characters(codec=None)))
def test_escaped_text_can_be_read_back_and_written_as_utf8(text: str) -> None:
    markup = escape(text)
    markup.encode()
    assert not set("<>\"'") & set(markup) and "\x00" not in markup
    seen = "".join(c for c in text if c.isprintable())
    assert read(tag("p", seen)).text == seen
    assert escape(markup) is markup and isinstance(markup, Markup), "markup is not escaped twice"


def test_tags_escape_children_and_attributes_alike() -> None:
    assert tag("p", "<b>", tag("i"), None, title='"<', hidden=True, id=None) == (
        '<p title="&quot;&lt;" hidden>&lt;b&gt;<i></i></p>'
    )


def test_a_page_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("stages: [{")
    assert "no step was written yet" in page(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        page(tmp_path / "nowhere")


def test_a_reward_that_judges_nothing_has_a_sentence_and_no_raster(folder: Path) -> None:
    write_lines(folder / "visits.jsonl", [seen(1, "a", None, "pg", 1), seen(2, "a", None, "none", 1)])
    found = read(page(folder))
    assert "does not say which rollouts are correct" in found.text and found.count("rect") == 0


def test_pages_are_written_beside_the_run_or_where_they_are_wanted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write(folder) == folder / "report.html" and (folder / "report.html").read_text() == page(folder)
    assert cli.run(["page", str(folder), "--out", str(tmp_path / "one.html")]) == 0
    assert (tmp_path / "one.html").read_text() == page(folder) and not list(tmp_path.rglob("*.partial"))
    assert cli.run(["page", str(folder), "--out", "/nowhere/one.html"]) == 2
    assert "cannot write /nowhere/one.html" in capsys.readouterr().err
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    with pytest.raises(UserError, match="name another file with --out"):
        write(folder)


def test_a_run_leaves_its_page(tmp_path: Path) -> None:
    out = run(recipe(small_model(tmp_path / "model"), {"steps": 2}), tmp_path / "run")
    found = read((out / "report.html").read_text())
    assert found.count("rect") >= len(rows(out, "visits.jsonl")) == 8
    assert "finished after 2 steps" in found.text


def test_long_texts_and_many_groups_are_cut_and_it_is_said(folder: Path) -> None:
    text = "a" * TEXT + "end"
    assert (
        len(shortened(text)) < TEXT + 50
        and shortened(text).endswith("end")
        and "[... 3 characters ...]" in shortened(text)
    )
    assert shortened("a" * TEXT) == "a" * TEXT
    many = [{"step": s, "i": i} for s in range(1, 101) for i in range(4)]
    few = spread(many, 40)
    assert len(few) == 40 and few[0]["step"] == 1 and few[-1]["step"] == 100
    assert all(n == 4 for n in Counter(row["step"] for row in few).values()), "whole steps"
    assert spread(many[:4], 40) == many[:4] and spread([], 40) == []
    write_lines(folder / "rollouts.jsonl", [rollout(s, "pg", "x") for s in range(1, 301)])
    assert "200 of the 300 groups in rollouts.jsonl" in page(folder)


# The chart.


def test_points_are_means_of_equal_runs() -> None:
    assert thinned([(1, 2.0), (2, 4.0), (3, None), (4, None)], 2) == [(1.5, 3.0), (3.5, None)]
    assert thinned([(1, 2.0)], 5) == [(1, 2.0)] and thinned([], 5) == []


def test_rates_are_drawn_from_0_to_1_and_the_rest_from_0() -> None:
    series = [Series("a", [(1, 0.25), (5, None)]), Series("b", [(3, 0.5)])]
    assert frame(series, True) == Frame((1, 5), (0.0, 1.0))
    assert frame(series, False) == Frame((1, 5), (0.0, 0.5))
    assert frame([Series("a", [(1, -1e-9), (2, 2.0)])], False) == Frame((1, 2), (0.0, 2.0))
    assert frame([Series("a", [(1, -1.0), (2, 2.0)])], False) == Frame((1, 2), (-1.0, 2.0))
    assert frame([Series("a", [(1, None)])], True) is None
    assert (Frame((0, 10), (0.0, 2.0)).y(2.0), Frame((0, 10), (0.0, 2.0)).y(0.0)) == (14, 148), "upwards"


def test_a_line_breaks_where_nothing_was_computed() -> None:
    points = [(float(s), None if s == 50 else 1.0) for s in range(100)]
    path = re.search(r'd="([^"]*)" class="line s0"', chart("t", [Series("a", points)], rate=True))
    assert path is not None and path[1].count("M") == 2 and path[1].count("L") == 97
    assert chart("t", [Series("a", [(1, None)])], rate=True) == ""


def test_equal_curves_are_drawn_once_under_both_names() -> None:
    one, two = Series("a", [(1, 0.5)]), Series("b", [(1, 0.5)])
    assert [s.name for s in merged([one, two, Series("c", [(1, None)])])] == ["a = b"]


def test_stages_are_told_apart() -> None:
    drawn = chart("t", [Series("a", [(1, 0.5), (9, 0.5)])], rate=True, stages=[("sft", 4), ("rl", 9)])
    assert drawn.count('class="stage"') == 1 and ">sft<" in drawn and ">rl<" in drawn
    assert 'class="stage"' not in chart("t", [Series("a", [(1, 0.5)])], rate=True, stages=[("rl", 9)])
    assert stage_ends([{"stage": "a", "step": 1}, {"stage": "a", "step": 2}, {"stage": "b", "step": 3}]) == [
        ("a", 2), ("b", 3)
    ]  # fmt: skip


# In a browser.

PROBE = """
<script>
const facts = {};
for (const kind of ["sft", "pg", "all"]) {
  document.querySelector(`button[data-show=${kind}]`).click();
  facts[kind] = [...document.querySelectorAll("details[data-decision]")].filter((p) => p.offsetHeight > 0).length;
}
for (const panel of document.querySelectorAll("details")) panel.open = true;
facts.pressed = document.querySelectorAll("button[aria-pressed=true]").length;
facts.beyond = document.documentElement.scrollWidth - document.documentElement.clientWidth;
facts.width = document.documentElement.clientWidth;
document.title = JSON.stringify(facts);
</script>
"""


@needs_browser
def test_a_browser_sees_the_page_quietly_and_asks_for_nothing(folder: Path) -> None:
    dom, console, asked = opened(write(folder))
    assert console == [] and asked == set()
    assert dom.count("rect") == 9 and dom.count("details") == 4 + 1 and dom.count("figure") == 5
    assert dom.count("script") == 1 and dom.count("img") == 0


@needs_browser
def test_the_browser_s_ears_are_open(tmp_path: Path) -> None:
    """What the test above relies on: a message is heard, a request is seen, and our policy stops both."""
    body = '<p>hi</p><script>console.error("loud")</script><img src="http://127.0.0.1:9/x.png">'
    (tmp_path / "loud.html").write_text(body)
    _, console, asked = opened(tmp_path / "loud.html")
    assert len(console) == 1 and "loud" in console[0] and asked == {"http://127.0.0.1:9/x.png"}
    from superrl.page import document

    (tmp_path / "quiet.html").write_text(document("t", Markup(body)))
    _, console, asked = opened(tmp_path / "quiet.html")
    assert not any('"loud"' in line for line in console) and asked == set()


@needs_browser
@pytest.mark.parametrize("width", [1200, 390])
def test_the_filter_works_and_nothing_is_wider_than_the_screen(folder: Path, width: int) -> None:
    visits = [seen(s, f"problem-{p}", s % 3, "pg", 1) for s in range(1, 81) for p in range(30)]
    write_lines(folder / "visits.jsonl", visits)
    with_probe = page(folder).replace("<meta http-equiv=", "<meta name=").replace("</body>", f"{PROBE}</body>")
    file = folder / "probe.html"
    file.write_text(with_probe)
    dom, _, _ = opened(file, width=width)
    title = re.search(r'\{"sft".*?\}', dom.text)
    assert title is not None
    assert json.loads(title[0]) == {"sft": 1, "pg": 2, "all": 4, "pressed": 1, "beyond": 0, "width": width}
