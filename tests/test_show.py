"""`superrl show` on finished, running, empty and damaged run folders, at 80 columns."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

import step_runs
from superrl.errors import UserError
from superrl.metrics import row as metrics_row
from superrl.report import plain_console
from superrl.show import CUT, bar, buckets, chosen_groups, cut, plain, show, sparkline, spread

STEPS = 40


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rollout(step: int, decision: str, text: str, demonstration: str | None = None) -> dict[str, Any]:
    score = {"value": 1.0, "correct": decision == "pg", "parts": {}}
    completion = {"text": text, "stop": "length", "score": score, "advantage": 0.5 if decision == "pg" else None}
    return {
        "step": step, "stage": "superrl", "problem_id": f"chain-{step}", "prompt": "R : 3 + 4 * 2 = ?",
        "completions": [completion] * 8, "decision": decision, "demonstration": demonstration,
        "why": f"because of {decision}",
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of forty steps whose fallbacks fade."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 0\n")
    rows = [
        metrics_row({"step": s, "stage": "superrl", "reward/mean": s / STEPS, "reward/correct": s / STEPS,
                     "switch/solved_rate": s / STEPS, "switch/fallback_rate": 1 - s / STEPS, "policy/entropy": 1.5})
        for s in range(1, STEPS + 1)
    ]  # fmt: skip
    write(folder / "metrics.jsonl", rows)
    timing = {"time/rollout": 0.6, "time/reward": 0.1, "time/train": 0.2, "time/sync": 0.1, "time/step": 1.0}
    timing |= {"tokens_per_second/generated": 1500.0, "memory/peak_bytes": 2**30}
    write(folder / "timing.jsonl", [timing] * STEPS)
    evaluations = [
        {"step": s, "split": split, "data": f"tasks:chain?split={split}", "k": 1, "accuracy": s / STEPS, "n": 200,
         "ci95": [0.0, 1.0]}
        for s, split in ((0, "validation"), (0, "test"), (20, "validation"), (40, "validation"), (40, "test"))
    ]  # fmt: skip
    write(folder / "evaluations.jsonl", evaluations)
    write(folder / "rollouts.jsonl", [
        rollout(1, "none", "[bold]no[/bold]\x1b[31m"), rollout(2, "sft", "older"),
        rollout(3, "sft", "x" * 500, "the expert"), rollout(40, "pg", "3 + 4 = 7\nanswer 7"),
    ])  # fmt: skip
    (folder / "summary.json").write_text(json.dumps({"steps": STEPS, "wall_seconds": 63.0}))
    return folder


def shown(folder: Path) -> str:
    console = plain_console(width=80, file=io.StringIO(), color_system=None)
    show(folder, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_finished_run_is_told_within_80_columns(run: Path) -> None:
    text = shown(run)
    assert max(map(len, text.splitlines())) <= 80
    for part in ("finished after 40 steps, 1:03 wall time", "1.00 s a step: rollout 60%", "1.00 GiB peak memory"):
        assert part in text
    for title in ("curves", "what groups were learnt from", "evaluations", "sampled groups"):
        assert f"\n{title} ─" in text
    assert "0.0% → 100.0%, best 100.0% [0.0, 100.0] at step 40" in text


def test_the_switch_is_drawn_over_time(run: Path) -> None:
    lines = [line for line in shown(run).splitlines() if line.startswith(("1-4 ", "37-40 "))]
    assert lines[0].count("▒") > 40 and lines[1].count("█") > 40
    assert lines[0].split()[-1] == "93.7%" and lines[1].split()[-1] == "3.8%"


def test_the_last_group_of_each_decision_is_shown_with_its_reason(run: Path) -> None:
    text = shown(run)
    assert "step 3, chain-3\ndemonstration: because of sft" in text
    assert "the expert" in text and "older" not in text
    assert "✓ 1.00  A +0.50" in text and "... and 5 more completions" in text


def test_model_text_is_neither_markup_nor_control_characters(run: Path) -> None:
    text = shown(run)
    assert "[bold]no[/bold]\\x1b[31m" in text
    assert "\x1b" not in text


def test_long_text_is_cut_with_a_mark_and_keeps_its_end() -> None:
    text = "a" * 300 + "answer 7"
    assert cut(text).endswith("answer 7") and f"[... {308 - CUT} characters ...]" in cut(text)
    assert cut("short") == "short"
    assert plain("a\nb\tc") == "a ⏎ b\\x09c"


def test_a_killed_run_is_shown_up_to_its_last_whole_line(run: Path) -> None:
    (run / "summary.json").unlink()
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-30])
    assert "not finished: step 39 is the last one written" in shown(run)


def test_a_run_that_has_just_begun_has_only_its_first_section(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "metrics.jsonl").touch()
    assert [line for line in shown(tmp_path).splitlines() if line][1:] == ["no step was written yet"]


def test_stages_are_named_where_there_are_several(run: Path) -> None:
    rows = [metrics_row({"step": s, "stage": "sft" if s < 5 else "rl", "loss": 1.0}) for s in range(1, 9)]
    write(run / "metrics.jsonl", rows)
    assert "stages: sft 1-4, rl 5-8" in shown(run)


def test_a_folder_that_is_no_run_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        show(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        show(tmp_path / "nowhere")


def test_buckets_are_means_that_skip_what_was_not_computed() -> None:
    assert buckets([1.0, 3.0, None, 5.0, None, None], 3) == [2.0, 5.0, None]
    assert buckets([], 3) == [] and buckets([1.0], 3) == [1.0]


def test_a_sparkline_has_one_block_a_value_and_a_gap_where_there_is_none() -> None:
    assert sparkline([0.0, 0.5, 1.0, None], 0.0, 1.0) == "▁▅█ "
    assert sparkline([2.0, 2.0], 2.0, 2.0) == "▁▁"


@pytest.mark.parametrize(("solved", "fallback"), [(0.0, 0.0), (1.0, 1.0), (0.4, 0.3), (0.5, 0.9)])
def test_a_bar_is_always_as_long_as_the_others(solved: float, fallback: float) -> None:
    assert len(bar(solved, fallback).plain) == 48


def test_completions_are_shown_from_best_to_worst() -> None:
    rows = [{"score": {"value": value}} for value in (0.0, 0.2, 1.0, 0.5, 0.1)]
    assert [row["score"]["value"] for row in spread(rows)] == [1.0, 0.2, 0.0]
    assert len(spread(rows[:2])) == 2 and spread([{"score": None}]) == [{"score": None}]


def test_one_group_a_decision_in_the_order_drawn() -> None:
    rows = [{"decision": kind, "step": step} for step, kind in enumerate(["sft", "pg", "sft", "none"])]
    assert [row["step"] for row in chosen_groups(rows)] == [1, 2, 3]


def on_steps(run: Path) -> None:
    """Makes it a run on an expert's steps, without a switch."""
    rows = [
        metrics_row({"step": s, "stage": "srl", "reward/mean": 0.5, "switch/fallback_rate": 0.0, "score/format": 0.5,
                     "score/similarity": s / STEPS, "score/format/unclosed": 0.5, "score/format/cut": 0.0})
        for s in range(1, STEPS + 1)
    ]  # fmt: skip
    write(run / "metrics.jsonl", rows)
    write(run / "visits.jsonl", [step_runs.visit(s, f"t{s % 3}/step-{1 + s % 4}", [s / STEPS]) for s in range(1, 41)])
    refused = step_runs.completion("on and on", -1.0, "unclosed", -1.5)
    rollouts = [rollout(1, "pg", "ordinary"), step_runs.rollout(40, "t1", [refused], opening="3+")]
    write(run / "rollouts.jsonl", rollouts)


def test_steps_of_an_expert_are_told_within_80_columns(run: Path) -> None:
    on_steps(run)
    text = shown(run)
    assert max(map(len, text.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "reward of visits training steps 1-20 training steps 21-40" in lines
    assert "step 1 10 0.300 0.800 ████████████████" in lines and "all 40 0.263 0.762 ███████████████" in lines
    assert "thought never closed 50.0% → 50.0%" in lines and "cut off by" not in text
    assert any(line.startswith("similarity ▁") and line.endswith("0.025 → 0.988") for line in lines)
    assert "fallback" not in text and "what groups were learnt from" not in text


def test_a_sampled_step_is_shown_beside_the_ordinary_group_of_the_same_decision(run: Path) -> None:
    on_steps(run)
    lines = [" ".join(line.split()) for line in shown(run).splitlines()]
    assert "step 1, chain-1" in lines and "step 40, t1/step-2" in lines
    assert "begun 3+" in lines and "expert x = 2 or x = 3" in lines
    at = lines.index("? -1.00 A -1.50 on and on")
    assert lines[at + 1] == "unclosed"
